/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PHAROS: who may talk to whom, and which class of the uplink a packet belongs to.
 *
 *   pod_egress     tcx ingress of a pod's interface on the node: what the pod sends
 *   pod_ingress    tcx egress of it: what the pod is about to get
 *   uplink_egress  tcx egress of the node's uplink, before its queues
 *   host_egress    cgroup/skb egress: workloads in the node's own network
 *
 * A packet reads `config.epoch` once in each program; its lowest bit names the slot of every table, so it sees one generation whole.
 * The loader fills the other slot, then writes the epoch. Connections remember under which epoch they were allowed: the first packet of each
 * under a new epoch is judged again, so a connection that the new policy denies stops and any other goes on.
 *
 * Both ends' nodes know the rules between two pods, so what is denied already stops where it is sent and costs nothing further.
 *
 * What passes is specified by `pullpiri_net::evaluate` (reconcilers/net), and compared with it packet by packet. Beyond it: answers of connections
 * and ICMP errors about them pass; neighbour discovery must be about the pod itself, and routers' messages aren't taken from or by pods.
 *
 * Passing means TCX_NEXT: another tool's programs still see the packet.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "pharos.h"
#include "pharos_parse.h"

#define NEXT (-1)
#define DROP 2 /* TC_ACT_SHOT */

#define SECOND_NS 1000000000ull
/* How long a silent connection may still be answered: a little more than TCP's keepalive (tcp(7)), nf_conntrack's defaults for the rest. */
#define TCP_NS (8000 * SECOND_NS)
#define CLOSED_NS (10 * SECOND_NS)
#define UDP_NS (180 * SECOND_NS)
#define OTHER_NS (600 * SECOND_NS)
#define ICMP_NS (30 * SECOND_NS)
/* RFC 791: fragments are kept for 15 to 30 s. */
#define FRAGMENT_NS (30 * SECOND_NS)

#define CLOSED_RST 4

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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct pharos_connection_key);
	__type(value, struct pharos_connection);
} pharos_conns SEC(".maps");

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

/* Never called: puts the types of the inner maps into BTF, where the loader's test finds them. */
int pharos_types(const struct pharos_key *key, const union pharos_value *value, const struct pharos_prefix *prefix,
		 const struct pharos_range *range)
{
	return 0;
}

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

	if (counter) {
		counter->packets += 1;
		counter->bytes += bytes;
	}
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

static __always_inline int is_link_local(const __u32 *address)
{
	return (address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int is_zero(const __u32 *address)
{
	return (address[0] | address[1] | address[2] | address[3]) == 0;
}

/* Multicast, broadcast, link-local, loopback, unspecified (RFC 6890). */
static __always_inline int is_scoped(const __u32 *address)
{
	if (address[0] == 0 && address[1] == 0) {
		__u32 v4 = bpf_ntohl(address[3]);

		if (address[2] == 0)
			return v4 <= 1;
		if (address[2] == bpf_htonl(0xffff))
			return v4 >> 28 == 0xe || v4 == 0xffffffff || v4 == 0 || v4 >> 16 == 0xa9fe || v4 >> 24 == 127;
	}
	return (address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000) || is_link_local(address);
}

struct address {
	__u32 words[4];
};

/* Who has an address. All zero: outside of all networks, and no rule names it. */
__noinline int pharos_identify(__u32 epoch, const struct address *of, struct pharos_identity *found)
{
	struct pharos_key key = { .kind = PHAROS_ADDRESS };
	struct pharos_prefix prefix = {};
	struct pharos_identity *match;
	union pharos_value *value;
	__u32 slot = epoch & 1;
	const __u32 *address;
	void *prefixes;

	if (!of || !found)
		return 0;
	address = of->words;
	__builtin_memcpy(key.address, address, 16);
	value = find(epoch, &key);
	if (value) {
		*found = value->identity;
		return 0;
	}
	__builtin_memset(found, 0, sizeof(*found));
	prefixes = bpf_map_lookup_elem(&pharos_prefixes, &slot);
	if (!prefixes)
		return 0;
	if (address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff)) {
		prefix.bits = 8 + 32;
		prefix.family = 4;
		__builtin_memcpy(prefix.address, address + 3, 4);
	} else {
		prefix.bits = 8 + 128;
		prefix.family = 6;
		__builtin_memcpy(prefix.address, address, 16);
	}
	match = bpf_map_lookup_elem(prefixes, &prefix);
	if (match)
		*found = *match;
	if (!(found->flags & PHAROS_SUBNET) && is_scoped(address))
		found->flags = PHAROS_SCOPED;
	return 0;
}

/* A new connection, or one that is looked at again. */
struct question {
	__u32 epoch;
	/* protocol << 16 | destination port of TCP and UDP */
	__u32 wanted;
	/* Answer: what counts it. */
	__u32 counter;
	__u8 echo; /* an ICMP echo request, or an answer to one */
	__u8 v6;
	__u16 unused;
};

static __always_inline __u32 wanted(__u8 protocol, __u16 port)
{
	return ((__u32)protocol << 16) | (protocol == PROTO_TCP || protocol == PROTO_UDP ? port : 0);
}

/* What a packet asks for. */
static __always_inline struct question asks(__u32 epoch, const struct packet *packet)
{
	struct question question = {
		.epoch = epoch,
		.wanted = wanted(packet->protocol, packet->destination_port),
		.echo = !!(packet->is & IS_ECHO_REQUEST),
		.v6 = !!(packet->is & IS_V6),
	};

	return question;
}

/* What the packet asked for that this one answers. */
static __always_inline struct question answers(__u32 epoch, const struct packet *packet)
{
	struct question question = {
		.epoch = epoch,
		.wanted = wanted(packet->protocol, packet->source_port),
		.echo = packet->protocol == PROTO_ICMP,
		.v6 = !!(packet->is & IS_V6),
	};

	return question;
}

/* By a rule between two identities. Returns 0 or a reason. */
__noinline int pharos_by_rule(struct question *question, const struct pharos_identity *from, const struct pharos_identity *to)
{
	struct pharos_key key = { .kind = PHAROS_PAIR };
	union pharos_value *value;
	__u32 slot, wanted, first, n;
	void *ranges;

	if (!question || !from || !to)
		return PHAROS_DENIED;
	slot = question->epoch & 1;
	wanted = question->wanted;
	if ((from->flags & PHAROS_ENDPOINT) && from->network == to->network && (to->flags & PHAROS_INTERNAL)) {
		question->counter = to->counter;
		return 0;
	}
	key.pair.from = from->identity;
	key.pair.to = to->identity;
	value = find(question->epoch, &key);
	ranges = bpf_map_lookup_elem(&pharos_ranges, &slot);
	if (!value || !ranges)
		return PHAROS_DENIED;
	first = value->pair.first;
	n = value->pair.count;
	for (int i = 0; i < PHAROS_SEARCH_STEPS; i++) {
		__u32 middle = first + n / 2;
		struct pharos_range *range;

		if (n == 0)
			break;
		range = bpf_map_lookup_elem(ranges, &middle);
		if (!range)
			break;
		if (wanted < range->first) {
			n /= 2;
		} else if (wanted > range->last) {
			first = middle + 1;
			n -= n / 2 + 1;
		} else {
			question->counter = range->counter;
			return 0;
		}
	}
	return PHAROS_DENIED;
}

/* By a published port: where it arrives (`address` of the pod) or, without an address, where pods see it. */
static __noinline int by_port(struct question *question, const __u32 *address)
{
	struct pharos_key key = {};
	union pharos_value *value;

	key.kind = (address ? PHAROS_ARRIVES : PHAROS_PUBLISHED) | (question->wanted >> 16) << 8 | (question->wanted & 0xffff) << 16;
	if (address)
		__builtin_memcpy(key.address, address, 16);
	else
		key.number[0] = question->v6 ? 6 : 4;
	value = find(question->epoch, &key);
	if (!value)
		return PHAROS_DENIED;
	question->counter = value->published.counter;
	return 0;
}

/* Whether it may reach the pod `to`, which has `address`. Returns 0 or a reason. */
static __noinline int may_enter(struct question *question, const struct pharos_identity *from, const struct pharos_identity *to,
				const __u32 *address)
{
	if (from->flags & PHAROS_SUBNET)
		return PHAROS_VACANT;
	if (from->flags & PHAROS_SCOPED)
		return PHAROS_SCOPE;
	if (from->flags & PHAROS_GATEWAY)
		return question->echo ? 0 : by_port(question, address);
	if (!pharos_by_rule(question, from, to))
		return 0;
	return from->flags & PHAROS_ENDPOINT ? PHAROS_DENIED : by_port(question, address);
}

/* Whether the pod `from` may send it. Returns 0 or a reason. */
static __noinline int may_leave(struct question *question, const struct pharos_identity *from, const struct pharos_identity *to)
{
	if (to->flags & PHAROS_ENDPOINT)
		return pharos_by_rule(question, from, to);
	if (to->flags & PHAROS_SUBNET)
		return PHAROS_VACANT;
	if (to->flags & PHAROS_SCOPED)
		return PHAROS_SCOPE;
	if (to->flags & PHAROS_GATEWAY) {
		if (to->network != from->network)
			return PHAROS_DENIED;
		return question->echo ? 0 : by_port(question, NULL);
	}
	return from->flags & PHAROS_EGRESS ? 0 : PHAROS_OUTSIDE;
}

/* Fills the key; returns the end (0 or 1) that the packet comes from. */
static __always_inline __u32 connection_key(const struct packet *packet, struct pharos_connection_key *key)
{
	__u32 end = 0;

	for (int i = 0; i < 4; i++) {
		if (packet->source[i] != packet->destination[i]) {
			end = bpf_ntohl(packet->source[i]) > bpf_ntohl(packet->destination[i]);
			goto decided;
		}
	}
	end = packet->source_port > packet->destination_port;
decided:
	__builtin_memset(key, 0, sizeof(*key));
	if (end) {
		__builtin_memcpy(key->address[0], packet->destination, 16);
		__builtin_memcpy(key->address[1], packet->source, 16);
		key->port[0] = packet->destination_port;
		key->port[1] = packet->source_port;
	} else {
		__builtin_memcpy(key->address[0], packet->source, 16);
		__builtin_memcpy(key->address[1], packet->destination, 16);
		key->port[0] = packet->source_port;
		key->port[1] = packet->destination_port;
	}
	key->protocol = packet->protocol;
	return end;
}

static __always_inline int stale(const struct pharos_connection *connection, __u8 protocol, __u64 now)
{
	__u64 limit = OTHER_NS;

	if (protocol == PROTO_TCP)
		limit = connection->closed & CLOSED_RST || (connection->closed & 3) == 3 ? CLOSED_NS : TCP_NS;
	else if (protocol == PROTO_UDP)
		limit = UDP_NS;
	else if (protocol == PROTO_ICMP)
		limit = ICMP_NS;
	return now > connection->seen_ns && now - connection->seen_ns > limit;
}

static __always_inline void touch(struct pharos_connection *connection, const struct packet *packet, __u32 end, __u64 now)
{
	__u8 closed = connection->closed;

	if (packet->protocol == PROTO_TCP) {
		if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			closed = 0;
		if (packet->tcp_flags & TCP_FIN)
			closed |= 1 << end;
		if (packet->tcp_flags & TCP_RST)
			closed |= CLOSED_RST;
		if (closed != connection->closed)
			connection->closed = closed;
	}
	/* Once a second, or the line would wander between CPUs. A connection that is being closed keeps its last moment. */
	if (now - connection->seen_ns > SECOND_NS && !(closed & CLOSED_RST) && (closed & 3) != 3)
		connection->seen_ns = now;
}

/* A connection that isn't there yet, or was forgotten. */
static __noinline int open_connection(const struct pharos_connection_key *key, __u32 end, const struct pharos_half *half)
{
	struct pharos_connection fresh = {};

	fresh.seen_ns = bpf_ktime_get_coarse_ns();
	if (end)
		fresh.half[1] = *half;
	else
		fresh.half[0] = *half;
	stat(PHAROS_OPENED);
	bpf_map_update_elem(&pharos_conns, key, &fresh, BPF_ANY);
	return 0;
}

/* Ports of a later fragment come from its first; a first one leaves them, once it is allowed. Returns 0 or a reason. */
static __noinline int fragment_ports(struct packet *packet)
{
	struct pharos_fragment_key key = {};
	struct pharos_fragment *first;

	__builtin_memcpy(key.source, packet->source, 16);
	__builtin_memcpy(key.destination, packet->destination, 16);
	key.id = packet->fragment_id;
	key.protocol = packet->is & IS_V6 ? 256 : packet->protocol;
	first = bpf_map_lookup_elem(&pharos_frags, &key);
	if (!first || bpf_ktime_get_coarse_ns() - first->seen_ns > FRAGMENT_NS)
		return PHAROS_FRAGMENT;
	packet->source_port = first->source_port;
	packet->destination_port = first->destination_port;
	/* IPv6 hides the protocol behind headers that only the first must have. */
	packet->protocol = first->unused;
	return 0;
}

static __noinline int remember_fragment(const struct packet *packet)
{
	struct pharos_fragment_key key = {};
	struct pharos_fragment first = {};

	__builtin_memcpy(key.source, packet->source, 16);
	__builtin_memcpy(key.destination, packet->destination, 16);
	key.id = packet->fragment_id;
	key.protocol = packet->is & IS_V6 ? 256 : packet->protocol;
	first.seen_ns = bpf_ktime_get_coarse_ns();
	first.source_port = packet->source_port;
	first.destination_port = packet->destination_port;
	first.unused = packet->protocol;
	bpf_map_update_elem(&pharos_frags, &key, &first, BPF_ANY);
	return 0;
}

/* ICMP errors belong to a connection that one of the ends was allowed. `own`: the pod's address in the packet they are about. */
static __noinline int related(struct __sk_buff *skb, const struct packet *packet, int entering)
{
	struct pharos_connection_key key;
	struct pharos_connection *connection;
	struct packet inner = {};
	int reason = parse_inner(skb, packet, &inner);

	if (reason)
		return reason;
	/* About something that the receiver of the error sent. */
	if (!same_address(inner.source, packet->destination) && entering)
		return PHAROS_UNRELATED;
	if (!same_address(inner.destination, packet->source) && !entering)
		return PHAROS_UNRELATED;
	connection_key(&inner, &key);
	connection = bpf_map_lookup_elem(&pharos_conns, &key);
	if (!connection || stale(connection, inner.protocol, bpf_ktime_get_coarse_ns()))
		return PHAROS_UNRELATED;
	return 0;
}

/* Neighbour discovery (RFC 4861) and multicast listeners (RFC 3810) from a pod: only about itself. */
static __noinline int own_neighbour(struct __sk_buff *skb, const struct packet *packet, const struct pharos_port *port)
{
	__u32 target[4];

	if (!(port->has & PHAROS_HAS_V6))
		return PHAROS_SPOOFED;
	if (!is_zero(packet->source) && !is_link_local(packet->source) && !same_address(packet->source, port->v6))
		return PHAROS_SPOOFED;
	if (packet->icmp_type < 133 || packet->icmp_type > 136)
		return 0;
	if (packet->hop_limit != 255)
		return PHAROS_NEIGHBOUR;
	if (packet->icmp_type != 136)
		return 0;
	if (bpf_skb_load_bytes(skb, packet->l4 + 8, target, sizeof(target)) < 0)
		return PHAROS_TRUNCATED;
	return same_address(target, port->v6) || is_link_local(target) ? 0 : PHAROS_NEIGHBOUR;
}

/* The first class whose selector matches, 0 if none does. One look-up for each shape that the network's selectors have. */
__noinline int pharos_classify(__u32 epoch, const struct pharos_identity *from, const struct packet *packet)
{
	__u32 best = PHAROS_CLASS_MASK + 1;

	if (!from || !packet)
		return 0;
	for (__u32 shape = 0; shape < 16; shape++) {
		struct pharos_key key = { .kind = PHAROS_SELECTOR };
		union pharos_value *value;

		if (!(from->shapes & (1u << shape)))
			continue;
		key.selector.network = from->network;
		key.selector.dscp = PHAROS_ANY_DSCP;
		if (shape & 1)
			key.selector.identity = from->identity;
		if (shape & 2)
			key.selector.protocol = packet->protocol;
		if (shape & 8)
			key.selector.dscp = packet->dscp;
		if (shape & 4) {
			if (packet->protocol != PROTO_TCP && packet->protocol != PROTO_UDP)
				continue;
			key.selector.port = packet->source_port;
			value = find(epoch, &key);
			if (value && value->class.id < best)
				best = value->class.id;
			key.selector.port = packet->destination_port;
		}
		value = find(epoch, &key);
		if (value && value->class.id < best)
			best = value->class.id;
	}
	return best > PHAROS_CLASS_MASK ? 0 : best;
}

SEC("classifier")
int pod_egress(struct __sk_buff *skb)
{
	struct pharos_connection_key key;
	struct pharos_connection *connection;
	struct pharos_identity from, to;
	struct pharos_half half = {};
	struct packet packet = {};
	struct pharos_port *port;
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	struct question question;
	__u32 end;
	__u64 now;
	int reason;

	port = bpf_map_lookup_elem(&pharos_ports, &ifindex);
	if (!port || !epoch)
		return drop(PHAROS_NOT_READY);
	reason = pharos_parse(skb, &packet);
	if (reason)
		return drop(reason);
	if (port->has & PHAROS_HAS_MAC)
		for (int i = 0; i < 6; i++)
			if (packet.mac[i] != port->mac[i])
				return drop(PHAROS_SPOOFED);
	if (packet.is & IS_ARP) {
		/* 0.0.0.0: a probe for its own address (RFC 5227). */
		if (!(port->has & PHAROS_HAS_V4) || (packet.source[3] != 0 && packet.source[3] != port->v4[3]))
			return drop(PHAROS_NEIGHBOUR);
		stat(PHAROS_PASS);
		return NEXT;
	}
	if (packet.is & IS_NEIGHBOUR) {
		reason = own_neighbour(skb, &packet, port);
		if (reason)
			return drop(reason);
		/* Of its own link. */
		pharos_identify(epoch, (const struct address *)port->v6, &from);
		pharos_identify(epoch, (const struct address *)packet.destination, &to);
		if (!(to.flags & PHAROS_SCOPED) && (to.network != from.network || !to.network))
			return drop(PHAROS_NEIGHBOUR);
		stat(PHAROS_PASS);
		return NEXT;
	}
	if (!(port->has & (packet.is & IS_V6 ? PHAROS_HAS_V6 : PHAROS_HAS_V4)) ||
	    !same_address(packet.source, packet.is & IS_V6 ? port->v6 : port->v4))
		return drop(PHAROS_SPOOFED);
	if (packet.is & IS_LATER_FRAGMENT) {
		reason = fragment_ports(&packet);
		if (reason)
			return drop(reason);
	}
	pharos_identify(epoch, (const struct address *)packet.source, &from);
	if (!(from.flags & PHAROS_ENDPOINT))
		return drop(PHAROS_NOT_READY);
	if (packet.is & IS_ICMP_ERROR) {
		reason = related(skb, &packet, 0);
		if (reason)
			return drop(reason);
		goto pass;
	}
	now = bpf_ktime_get_coarse_ns();
	end = connection_key(&packet, &key) & 1;
	connection = bpf_map_lookup_elem(&pharos_conns, &key);
	if (connection && stale(connection, packet.protocol, now))
		connection = NULL;
	if (connection) {
		struct pharos_half *mine = end ? &connection->half[1] : &connection->half[0];
		struct pharos_half *theirs = end ? &connection->half[0] : &connection->half[1];

		if (theirs->ingress_epoch == epoch || mine->egress_epoch == epoch) {
			touch(connection, &packet, end, now);
			goto pass;
		}
		pharos_identify(epoch, (const struct address *)packet.destination, &to);
		/* An answer, and the policy is new: is what it answers still allowed? */
		question = answers(epoch, &packet);
		if (theirs->ingress_epoch && !may_enter(&question, &to, &from, packet.source)) {
			stat(PHAROS_REEVALUATED);
			theirs->counter = question.counter;
			theirs->ingress_epoch = epoch;
			touch(connection, &packet, end, now);
			goto pass;
		}
		/* It answered, and that is over: it doesn't become a connection of the pod's own by itself. */
		if (theirs->ingress_epoch && !mine->egress_epoch && packet.protocol == PROTO_TCP && packet.tcp_flags & TCP_ACK)
			return drop(PHAROS_DENIED);
	} else {
		pharos_identify(epoch, (const struct address *)packet.destination, &to);
	}
	question = asks(epoch, &packet);
	reason = may_leave(&question, &from, &to);
	if (reason)
		return drop(reason);
	half.egress_epoch = epoch;
	/* Judged for both ends at once. */
	half.ingress_epoch = to.flags & PHAROS_LOCAL ? epoch : 0;
	half.counter = question.counter;
	if (connection) {
		struct pharos_half *mine = end ? &connection->half[1] : &connection->half[0];

		if (mine->egress_epoch)
			stat(PHAROS_REEVALUATED);
		*mine = half;
		touch(connection, &packet, end, now);
	} else {
		open_connection(&key, end, &half);
	}
pass:
	if (packet.is & IS_FIRST_FRAGMENT)
		remember_fragment(&packet);
	/* Masquerading hides the sender from the uplink, forwarding overwrites the priority: the class travels in tc_index. */
	skb->tc_index = PHAROS_STAMP | (from.shapes ? pharos_classify(epoch, &from, &packet) & PHAROS_CLASS_MASK : 0);
	stat(PHAROS_PASS);
	return NEXT;
}

SEC("classifier")
int pod_ingress(struct __sk_buff *skb)
{
	struct pharos_connection_key key;
	struct pharos_connection *connection;
	struct pharos_identity from, to;
	struct pharos_half half = {};
	struct packet packet = {};
	struct pharos_port *port;
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	struct question question;
	__u32 end;
	const __u32 *own;
	__u64 now;
	int reason;

	port = bpf_map_lookup_elem(&pharos_ports, &ifindex);
	if (!port || !epoch)
		return drop(PHAROS_NOT_READY);
	reason = pharos_parse(skb, &packet);
	if (reason)
		return drop(reason);
	if (packet.is & IS_ARP) {
		stat(PHAROS_PASS);
		return NEXT;
	}
	if (!(port->has & (packet.is & IS_V6 ? PHAROS_HAS_V6 : PHAROS_HAS_V4)))
		return drop(PHAROS_DESTINATION);
	if (packet.is & IS_NEIGHBOUR) {
		/* Of this link only: 255 can't be reached over a router (RFC 4861 3.1). */
		if (packet.icmp_type >= 133 && packet.icmp_type <= 136 && packet.hop_limit != 255)
			return drop(PHAROS_NEIGHBOUR);
		stat(PHAROS_PASS);
		return NEXT;
	}
	own = packet.is & IS_V6 ? port->v6 : port->v4;
	if (!same_address(packet.destination, own))
		return drop(is_scoped(packet.destination) ? PHAROS_SCOPE : PHAROS_DESTINATION);
	if (packet.is & IS_LATER_FRAGMENT) {
		reason = fragment_ports(&packet);
		if (reason)
			return drop(reason);
	}
	if (packet.is & IS_ICMP_ERROR) {
		reason = related(skb, &packet, 1);
		if (reason)
			return drop(reason);
		goto pass;
	}
	now = bpf_ktime_get_coarse_ns();
	end = connection_key(&packet, &key) & 1;
	connection = bpf_map_lookup_elem(&pharos_conns, &key);
	if (connection && stale(connection, packet.protocol, now))
		connection = NULL;
	if (connection) {
		struct pharos_half *theirs = end ? &connection->half[1] : &connection->half[0];
		struct pharos_half *mine = end ? &connection->half[0] : &connection->half[1];

		if (theirs->ingress_epoch == epoch) {
			touch(connection, &packet, end, now);
			count(theirs->counter, skb->len);
			goto pass;
		}
		if (mine->egress_epoch == epoch) {
			touch(connection, &packet, end, now);
			goto pass;
		}
		/* An answer, and the policy is new: may the pod still talk to whoever answers? */
		if (mine->egress_epoch) {
			pharos_identify(epoch, (const struct address *)own, &to);
			pharos_identify(epoch, (const struct address *)packet.source, &from);
			question = answers(epoch, &packet);
			if (to.flags & PHAROS_ENDPOINT && !may_leave(&question, &to, &from)) {
				stat(PHAROS_REEVALUATED);
				mine->egress_epoch = epoch;
				touch(connection, &packet, end, now);
				goto pass;
			}
		}
	}
	pharos_identify(epoch, (const struct address *)own, &to);
	if (!(to.flags & PHAROS_ENDPOINT))
		return drop(PHAROS_NOT_READY);
	pharos_identify(epoch, (const struct address *)packet.source, &from);
	question = asks(epoch, &packet);
	reason = may_enter(&question, &from, &to, own);
	if (reason)
		return drop(reason);
	if (connection) {
		struct pharos_half *theirs = end ? &connection->half[1] : &connection->half[0];

		if (theirs->ingress_epoch)
			stat(PHAROS_REEVALUATED);
		theirs->counter = question.counter;
		theirs->ingress_epoch = epoch;
		touch(connection, &packet, end, now);
	} else {
		half.ingress_epoch = epoch;
		half.counter = question.counter;
		open_connection(&key, end, &half);
	}
	count(question.counter, skb->len);
pass:
	if (packet.is & IS_FIRST_FRAGMENT)
		remember_fragment(&packet);
	stat(PHAROS_PASS);
	return NEXT;
}

/* Sets the code point, leaves ECN (RFC 3168) alone. */
static __noinline int mark_dscp(struct __sk_buff *skb, const struct packet *packet, __u32 dscp)
{
	if (packet->is & IS_V6) {
		__u16 old, new;

		if (bpf_skb_load_bytes(skb, packet->l3, &old, 2) < 0)
			return 0;
		/* Version, class, flow: 4, 8, 20 bits; the code point is bits 4 to 9. */
		new = bpf_htons((bpf_ntohs(old) & 0xf03f) | (dscp << 6));
		if (new != old)
			bpf_skb_store_bytes(skb, packet->l3, &new, 2, 0);
	} else {
		__u16 old, new;

		if (bpf_skb_load_bytes(skb, packet->l3, &old, 2) < 0)
			return 0;
		new = bpf_htons((bpf_ntohs(old) & 0xff03) | (dscp << 2));
		if (new == old)
			return 0;
		bpf_l3_csum_replace(skb, packet->l3 + 10, old, new, 2);
		bpf_skb_store_bytes(skb, packet->l3, &new, 2, 0);
	}
	return 0;
}

SEC("classifier")
int uplink_egress(struct __sk_buff *skb)
{
	struct pharos_key key = { .kind = PHAROS_CLASS };
	struct pharos_identity from;
	struct pharos_uplink *uplink;
	struct packet packet = {};
	union pharos_value *class;
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	__u32 id = 0;
	int parsed = -1;

	uplink = bpf_map_lookup_elem(&pharos_uplinks, &ifindex);
	if (!uplink || !epoch)
		return NEXT;
	if ((skb->priority & ~PHAROS_CLASS_MASK) == PHAROS_PRIORITY) {
		id = skb->priority & PHAROS_CLASS_MASK;
	} else if ((skb->tc_index & PHAROS_STAMP_MASK) == PHAROS_STAMP) {
		id = skb->tc_index & PHAROS_CLASS_MASK;
	} else {
		parsed = pharos_parse(skb, &packet);
		if (!parsed && !(packet.is & IS_ARP)) {
			if (packet.is & IS_LATER_FRAGMENT)
				fragment_ports(&packet);
			pharos_identify(epoch, (const struct address *)packet.source, &from);
			if (from.flags & PHAROS_ENDPOINT && from.shapes)
				id = pharos_classify(epoch, &from, &packet);
		}
	}
	if (id) {
		key.number[0] = id;
		class = find(epoch, &key);
		if (class) {
			skb->priority = (uplink->major << 16) | id;
			count(class->class.counter, skb->wire_len);
			if (class->class.dscp != PHAROS_ANY_DSCP) {
				__u32 dscp = class->class.dscp & 63;

				if (parsed < 0)
					parsed = pharos_parse(skb, &packet);
				if (!parsed && !(packet.is & IS_ARP))
					mark_dscp(skb, &packet, dscp);
			}
			return NEXT;
		}
	}
	/* The default class of the HTB: nobody else's, whatever forwarding or a cgroup left here. */
	if ((skb->priority & ~PHAROS_CLASS_MASK) == PHAROS_PRIORITY || skb->priority >> 16 == uplink->major)
		skb->priority = 0;
	count(0, skb->wire_len);
	return NEXT;
}

SEC("cgroup_skb/egress")
int host_egress(struct __sk_buff *skb)
{
	struct pharos_key key = { .kind = PHAROS_ADDRESS };
	struct pharos_host *host = NULL;
	struct packet packet = {};
	union pharos_value *value;
	__u32 epoch = current_epoch();
	__u32 id;
	int reason;

	if (!epoch)
		return 1;
	/* The cgroup itself or one below it. */
	for (int level = 0; level < 8 && !host; level++) {
		__u64 cgroup = level ? bpf_skb_ancestor_cgroup_id(skb, level) : bpf_skb_cgroup_id(skb);

		if (!cgroup)
			break;
		host = bpf_map_lookup_elem(&pharos_hosts, &cgroup);
	}
	if (!host)
		return 1;
	__builtin_memcpy(key.address, host->address, 16);
	value = find(epoch, &key);
	if (!value || !value->identity.shapes)
		return 1;
	/* Begins with the IP header here. */
	reason = skb->protocol == bpf_htons(ETHERTYPE_IPV6) ? parse_v6(skb, &packet, 0) : parse_v4(skb, &packet, 0);
	if (reason)
		return 1;
	if (packet.is & IS_LATER_FRAGMENT && fragment_ports(&packet))
		return 1;
	if (packet.is & IS_FIRST_FRAGMENT)
		remember_fragment(&packet);
	id = pharos_classify(epoch, &value->identity, &packet) & PHAROS_CLASS_MASK;
	if (id)
		skb->priority = PHAROS_PRIORITY | id;
	return 1;
}

char LICENSE[] SEC("license") = "Apache-2.0";
