/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who has an address, and what the policy of one generation says: may it leave, may it enter, which class is it in. No state.
 */
#ifndef PHAROS_POLICY_H
#define PHAROS_POLICY_H

static __always_inline int is_link_local(const __u32 *address)
{
	return (address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline int is_multicast_v6(const __u32 *address)
{
	return (address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
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
	return is_multicast_v6(address) || is_link_local(address);
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

#endif
