/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Round trips of classes: from where a packet leaves its pod, before the uplink's queues, until what answers it enters the pod.
 *
 * One packet of a connection is timed at once, so the cost is one look-up for each packet of a class. TCP: a segment with data, answered by the first
 * acknowledgement of its last byte. Everything else: a packet of the end that opened the connection, answered by the next one from the other end; for
 * protocols that don't answer each packet that is a lower bound. What isn't answered within TRIP_MS is given up, and isn't counted.
 */
#ifndef PHAROS_TRIPS_H
#define PHAROS_TRIPS_H

#define TRIP_MS 2000

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct pharos_connection_key);
	__type(value, struct pharos_trip);
} pharos_trips SEC(".maps");

/* A class' place in pharos_counts and a bucket. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pharos_bucket_key);
	__type(value, __u64);
} pharos_rtt SEC(".maps");

static __always_inline __u32 milliseconds(__u64 ns)
{
	return (__u32)(ns >> 20);
}

/* Two buckets for each doubling from 2^13 ns on: bucket 1 + 2n ends at 1.5 * 2^(13 + n), bucket 2 + 2n at 2^(14 + n). */
static __always_inline __u32 trip_bucket(__u64 ns)
{
	__u32 octave = 0;
	__u32 bucket;

	if (ns >> 13 == 0)
		return 0;
	for (int step = 16; step; step /= 2)
		if (ns >> (13 + octave + step))
			octave += step;
	bucket = 1 + 2 * octave + ((ns >> (12 + octave)) & 1);
	return bucket < PHAROS_BUCKETS ? bucket : PHAROS_BUCKETS - 1;
}

/* A packet of a class leaves a pod. */
static __noinline int begin_trip(struct __sk_buff *skb, const struct packet *packet, __u32 epoch, __u32 id)
{
	struct pharos_key class = { .kind = PHAROS_CLASS };
	struct pharos_connection *connection;
	struct pharos_connection_key key;
	struct pharos_trip trip = {};
	union pharos_value *value;
	__u64 now;
	__u32 end;

	if (packet->is & (IS_LATER_FRAGMENT | IS_ICMP_ERROR))
		return 0;
	end = connection_key(packet, &key) & 1;
	connection = bpf_map_lookup_elem(&pharos_conns, &key);
	if (!connection)
		return 0;
	if (connection->timed && milliseconds(bpf_ktime_get_coarse_ns()) - connection->timed_ms < TRIP_MS)
		return 0;
	/* What answers a question isn't answered itself: the next question isn't about it. */
	if (packet->protocol != PROTO_TCP && !(end ? connection->half[1].egress_epoch : connection->half[0].egress_epoch))
		return 0;
	class.number[0] = id;
	value = find(epoch, &class);
	if (!value)
		return 0;
	if (packet->protocol == PROTO_TCP) {
		__u32 header, sequence;
		__u8 offset;

		if (bpf_skb_load_bytes(skb, packet->l4 + 4, &sequence, 4) < 0 || bpf_skb_load_bytes(skb, packet->l4 + 12, &offset, 1) < 0)
			return 0;
		header = packet->l4 + (offset >> 4) * 4;
		/* Without data nothing is acknowledged. */
		if (skb->len <= header)
			return 0;
		trip.expects = bpf_ntohl(sequence) + (skb->len - header);
	}
	now = bpf_ktime_get_ns();
	trip.sent_ns = now;
	trip.counter = value->class.counter;
	if (bpf_map_update_elem(&pharos_trips, &key, &trip, BPF_ANY))
		return 0;
	connection->timed_ms = milliseconds(now);
	connection->timed = 1 + end;
	return 0;
}

/* A packet enters a pod from `end` of a connection of which a packet is timed. */
static __noinline int end_trip(struct __sk_buff *skb, const struct packet *packet, struct pharos_connection *connection, __u32 end)
{
	struct pharos_bucket_key bucket = {};
	struct pharos_connection_key key;
	struct pharos_trip *trip;
	__u64 one = 1, *count;
	__u64 now;

	if (!connection || connection->timed != 2 - (end & 1) || packet->is & IS_LATER_FRAGMENT)
		return 0;
	connection_key(packet, &key);
	trip = bpf_map_lookup_elem(&pharos_trips, &key);
	if (!trip) {
		connection->timed = 0;
		return 0;
	}
	if (packet->protocol == PROTO_TCP) {
		__u32 acknowledged;

		if (!(packet->tcp_flags & TCP_ACK) || bpf_skb_load_bytes(skb, packet->l4 + 8, &acknowledged, 4) < 0)
			return 0;
		/* Serial number arithmetic (RFC 1982). */
		if ((__s32)(bpf_ntohl(acknowledged) - trip->expects) < 0)
			return 0;
	}
	now = bpf_ktime_get_ns();
	bucket.counter = trip->counter;
	bucket.bucket = trip_bucket(now > trip->sent_ns ? now - trip->sent_ns : 0);
	connection->timed = 0;
	count = bpf_map_lookup_elem(&pharos_rtt, &bucket);
	if (!count && !bpf_map_update_elem(&pharos_rtt, &bucket, &one, BPF_NOEXIST))
		return 0;
	/* Another CPU may have made it meanwhile. */
	if (!count)
		count = bpf_map_lookup_elem(&pharos_rtt, &bucket);
	if (count)
		*count += 1;
	else
		stat(PHAROS_UNCOUNTED);
	return 0;
}

#endif
