/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps, all pinned by the loader, and how they are read. Tables of generations are maps of maps: slot `epoch & 1`.
 */
#ifndef PHAROS_MAPS_H
#define PHAROS_MAPS_H

#define DROP 2 /* TC_ACT_SHOT */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pharos_config);
} pharos_config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_HASH);
			__uint(max_entries, 1);
			__uint(key_size, sizeof(struct pharos_key));
			__uint(value_size, sizeof(union pharos_value));
		});
} pharos_tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_LPM_TRIE);
			__uint(max_entries, 1);
			__uint(map_flags, BPF_F_NO_PREALLOC);
			__uint(key_size, sizeof(struct pharos_prefix));
			__uint(value_size, sizeof(struct pharos_identity));
		});
} pharos_prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_ARRAY);
			__uint(max_entries, 1);
			__uint(map_flags, BPF_F_INNER_MAP);
			__uint(key_size, sizeof(__u32));
			__uint(value_size, sizeof(struct pharos_range));
		});
} pharos_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct pharos_port);
} pharos_ports SEC(".maps");

/* The bridge that a pod's interface is a port of; both by ifindex. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} pharos_bridges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct pharos_uplink);
} pharos_uplinks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct pharos_host);
} pharos_hosts SEC(".maps");

/* By the node's end of a pod's interface that somebody else made. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct pharos_host);
} pharos_guests SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct pharos_connection_key);
	__type(value, struct pharos_connection);
} pharos_conns SEC(".maps");

/* How many connections each pod's interface opened, by ifindex; and the last PHAROS_BUDGET of them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32);
} pharos_opened SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pharos_slot);
	__type(value, struct pharos_connection_key);
} pharos_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct pharos_fragment_key);
	__type(value, struct pharos_fragment);
} pharos_frags SEC(".maps");

/* Counter 0 is nobody's: what passes without a rule of its own. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct pharos_counter);
} pharos_counts SEC(".maps");

/* For the loader alone: which place of pharos_counts belongs to which name, by the name's FNV-1a. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, __u32);
} pharos_names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PHAROS_STATS);
	__type(key, __u32);
	__type(value, __u64);
} pharos_stats SEC(".maps");

static __always_inline void stat(__u32 index)
{
	__u64 *value = bpf_map_lookup_elem(&pharos_stats, &index);

	if (value)
		*value += 1;
}

static __always_inline int drop(__u32 reason)
{
	stat(reason);
	return DROP;
}

static __always_inline void count(__u32 index, __u64 bytes)
{
	struct pharos_counter *counter = bpf_map_lookup_elem(&pharos_counts, &index);

	if (!counter) {
		stat(PHAROS_UNCOUNTED);
		return;
	}
	counter->packets += 1;
	counter->bytes += bytes;
}

static __always_inline __u32 current_epoch(void)
{
	__u32 zero = 0;
	struct pharos_config *config = bpf_map_lookup_elem(&pharos_config, &zero);

	return config ? *(volatile __u32 *)&config->epoch : 0;
}

static __always_inline union pharos_value *find(__u32 epoch, const struct pharos_key *key)
{
	__u32 slot = epoch & 1;
	void *table = bpf_map_lookup_elem(&pharos_tables, &slot);

	return table ? bpf_map_lookup_elem(table, key) : NULL;
}

#endif
