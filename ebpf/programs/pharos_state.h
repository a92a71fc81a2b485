/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What is remembered of packets that were allowed: connections, and the ports of first fragments.
 */
#ifndef PHAROS_STATE_H
#define PHAROS_STATE_H

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

/*
 * A place in the budget of the interface that opens a connection: its oldest one is forgotten for it, whatever that does to who uses it, so one
 * pod can't displace others' connections from the table.
 */
static __noinline int charge(__u32 opener, const struct pharos_connection_key *key)
{
	struct pharos_slot place = { .opener = opener };
	struct pharos_connection_key *oldest;
	struct pharos_connection *known;
	struct pharos_port *port;
	__u32 one = 1, share = 0, *opened;

	if (!key)
		return 0;
	port = bpf_map_lookup_elem(&pharos_ports, &opener);
	if (port)
		share = port->share < PHAROS_MAX_SHARE ? port->share : PHAROS_MAX_SHARE;
	opened = bpf_map_lookup_elem(&pharos_opened, &opener);
	if (opened)
		place.slot = __sync_fetch_and_add(opened, 1) & ((PHAROS_BUDGET >> share) - 1);
	else
		bpf_map_update_elem(&pharos_opened, &opener, &one, BPF_NOEXIST);
	oldest = bpf_map_lookup_elem(&pharos_slots, &place);
	if (oldest) {
		struct pharos_connection_key gone = *oldest;

		known = bpf_map_lookup_elem(&pharos_conns, &gone);
		/* Not if it was opened again since, and has another slot. */
		if (known && known->opener == opener && known->slot == place.slot && !bpf_map_delete_elem(&pharos_conns, &gone))
			stat(PHAROS_DISPLACED);
	}
	bpf_map_update_elem(&pharos_slots, &place, key, BPF_ANY);
	return place.slot;
}

/* With `end`: the connection is to a published port of the node. */
#define END_TO_NODE 2

/* A connection that isn't there yet, or was forgotten. `opener`: of which pod's interface it is. */
static __noinline int open_connection(const struct pharos_connection_key *key, __u32 end, const struct pharos_half *half, __u32 opener)
{
	struct pharos_connection fresh = {};
	struct pharos_connection *known;

	if (!key || !half)
		return 0;
	known = bpf_map_lookup_elem(&pharos_conns, key);
	fresh.seen_ns = bpf_ktime_get_coarse_ns();
	fresh.opener = opener;
	fresh.slot = known && known->opener == opener ? known->slot : charge(opener, key);
	fresh.to_node = !!(end & END_TO_NODE);
	if (end & 1)
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
	packet->protocol = first->protocol;
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
	first.protocol = packet->protocol;
	bpf_map_update_elem(&pharos_frags, &key, &first, BPF_ANY);
	return 0;
}

/* Whether one of its ends was allowed something under this epoch. */
static __always_inline int is_allowed(const struct pharos_connection *connection, __u32 epoch)
{
	return connection->half[0].egress_epoch == epoch || connection->half[0].ingress_epoch == epoch ||
	       connection->half[1].egress_epoch == epoch || connection->half[1].ingress_epoch == epoch;
}

/* ICMP errors belong to a connection that one of the ends is allowed: by the policy in force, so not before a packet of it was judged by that. */
static __noinline int related(struct __sk_buff *skb, const struct packet *packet, __u32 epoch, int entering)
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
	if (!connection || stale(connection, inner.protocol, bpf_ktime_get_coarse_ns()) || !is_allowed(connection, epoch))
		return PHAROS_UNRELATED;
	return 0;
}

#endif
