/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * PHAROS: who may talk to whom, and which class of the uplink a packet belongs to.
 *
 *   pod_egress     tcx ingress of a pod's interface on the node: what the pod sends
 *   pod_ingress    tcx egress of it: what the pod is about to get
 *   uplink_ingress tcx ingress of the node's uplink: whether such a source can come from there
 *   uplink_egress  tcx egress of it, before its queues
 *   host_egress    cgroup/skb egress: workloads in the node's own network
 *   guest_egress   tcx ingress of a pod's interface that somebody else made (a CNI plugin): its class, and nothing is ever dropped
 *
 * A packet reads `config.epoch` once in each program; its lowest bit names the slot of every table, so it sees one generation whole.
 * The loader fills the other slot, then writes the epoch. Connections remember under which epoch they were allowed: the first packet of each
 * under a new epoch is judged again, so a connection that the new policy denies stops and any other goes on.
 *
 * Both ends' nodes know the rules between two pods, so what is denied already stops where it is sent and costs nothing further.
 *
 * What passes is specified by `pullpiri_net::evaluate` (reconcilers/net), and compared with it packet by packet. Beyond it: answers of connections
 * and ICMP errors about them pass; neighbour discovery must be about the pod itself, and routers' messages aren't taken from or by pods. And a
 * source must have come the way that it can: a pod's of this node from its interface, another node's pod's over the link from that node.
 *
 * Passing means TCX_NEXT: another tool's programs still see the packet. But for what a pod sends to a published port of its node, which goes to the
 * bridge's own end.
 */
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "pharos.h"
#include "pharos_parse.h"
#include "pharos_maps.h"
#include "pharos_policy.h"
#include "pharos_state.h"
#include "pharos_trips.h"

#define NEXT (-1)

/* Neighbour discovery (RFC 4861) from a pod: only about itself. */
static __noinline int own_neighbour(struct __sk_buff *skb, const struct packet *packet, const struct pharos_port *port)
{
	__u32 target[4];

	if (!(port->has & PHAROS_HAS_V6))
		return PHAROS_SPOOFED;
	if (!is_zero(packet->source) && !is_link_local(packet->source) && !same_address(packet->source, port->v6))
		return PHAROS_SPOOFED;
	if (packet->hop_limit != 255)
		return PHAROS_NEIGHBOUR;
	if (packet->icmp_type != 136)
		return 0;
	if (bpf_skb_load_bytes(skb, packet->l4 + 8, target, sizeof(target)) < 0)
		return PHAROS_TRUNCATED;
	return same_address(target, port->v6) || is_link_local(target) ? 0 : PHAROS_NEIGHBOUR;
}

/* What a pod's packet says of its sender. Returns 0, a reason, or ENOUGH: nothing else is asked of ARP and neighbour discovery. */
#define ENOUGH (-1)

static __noinline int own_source(struct __sk_buff *skb, const struct packet *packet, const struct pharos_port *port, __u32 epoch)
{
	struct pharos_identity from, to;
	int reason;

	if (port->has & PHAROS_HAS_MAC)
		for (int i = 0; i < 6; i++)
			if (packet->mac[i] != port->mac[i])
				return PHAROS_SPOOFED;
	if (packet->is & IS_ARP) {
		/* 0.0.0.0: a probe for its own address (RFC 5227). */
		if (!(port->has & PHAROS_HAS_V4) || (packet->source[3] != 0 && packet->source[3] != port->v4[3]))
			return PHAROS_NEIGHBOUR;
		return ENOUGH;
	}
	if (packet->is & IS_NEIGHBOUR) {
		reason = own_neighbour(skb, packet, port);
		if (reason)
			return reason;
		/* Of its own link. */
		pharos_identify(epoch, (const struct address *)port->v6, &from);
		pharos_identify(epoch, (const struct address *)packet->destination, &to);
		return to.flags & PHAROS_SCOPED || (to.network == from.network && to.network) ? ENOUGH : PHAROS_NEIGHBOUR;
	}
	/* Every stack tells its groups to routers (RFC 3810), and claims nothing by it. Nobody here routes to groups, and one receiver would get anything. */
	if (packet->is & IS_V6 && is_multicast_v6(packet->destination) && (is_zero(packet->source) || is_link_local(packet->source)))
		return PHAROS_SCOPE;
	if (!(port->has & (packet->is & IS_V6 ? PHAROS_HAS_V6 : PHAROS_HAS_V4)) ||
	    !same_address(packet->source, packet->is & IS_V6 ? port->v6 : port->v4))
		return PHAROS_SPOOFED;
	return 0;
}

/* Of what may leave: it goes to a published port of the node. */
#define TO_NODE (-2)

/* Whether a pod's packet may leave: as an answer, as part of a connection, or as the first of one. Returns 0, TO_NODE or a reason. */
static __noinline int leaves(__u32 epoch, const struct packet *packet, const struct pharos_identity *from, __u32 opener)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct pharos_connection_key key;
	__u32 end = connection_key(packet, &key) & 1;
	struct pharos_connection *connection = bpf_map_lookup_elem(&pharos_conns, &key);
	struct pharos_half *mine = NULL, *theirs, half = {};
	struct pharos_identity to;
	struct question question;
	__u32 to_node = 0;
	int reason;

	if (connection && stale(connection, packet->protocol, now))
		connection = NULL;
	if (connection) {
		mine = end ? &connection->half[1] : &connection->half[0];
		theirs = end ? &connection->half[0] : &connection->half[1];
		if (theirs->ingress_epoch == epoch || mine->egress_epoch == epoch) {
			touch(connection, packet, end, now);
			return connection->to_node ? TO_NODE : 0;
		}
		/* An answer, and the policy is new: is what it answers still allowed? */
		if (theirs->ingress_epoch) {
			pharos_identify(epoch, (const struct address *)packet->destination, &to);
			question = answers(epoch, packet);
			if (!may_enter(&question, &to, from, packet->source)) {
				stat(PHAROS_REEVALUATED);
				theirs->counter = question.counter;
				theirs->ingress_epoch = epoch;
				touch(connection, packet, end, now);
				return 0;
			}
			/* It doesn't become a connection of the pod's own by itself. */
			if (!mine->egress_epoch && packet->protocol == PROTO_TCP && packet->tcp_flags & TCP_ACK)
				return PHAROS_DENIED;
		}
	}
	pharos_identify(epoch, (const struct address *)packet->destination, &to);
	question = asks(epoch, packet);
	reason = may_leave(&question, from, &to);
	if (reason)
		return reason;
	half.egress_epoch = epoch;
	/* Judged for both ends at once. */
	half.ingress_epoch = to.flags & PHAROS_LOCAL ? epoch : 0;
	half.counter = question.counter;
	if (!(to.flags & PHAROS_ENDPOINT) && !by_port(&question, NULL))
		to_node = END_TO_NODE;
	if (!connection || !mine) {
		open_connection(&key, end | to_node, &half, opener);
	} else {
		if (mine->egress_epoch)
			stat(PHAROS_REEVALUATED);
		*mine = half;
		connection->to_node = !!to_node;
		touch(connection, packet, end, now);
	}
	return to_node ? TO_NODE : 0;
}

/*
 * To the node's own end of the bridge at once. Where bridges are filtered (br_netfilter), a bridge translates a published port's address itself, and
 * sends the packet straight on to the port of the pod that it leads to: from which this one is isolated, so that it would be lost.
 */
static __always_inline int past_bridge(__u32 ifindex)
{
	__u32 *bridge = bpf_map_lookup_elem(&pharos_bridges, &ifindex);

	return bridge ? bpf_redirect(*bridge, BPF_F_INGRESS) : NEXT;
}

/* What both of a pod's programs begin with: whose interface it is, and what the packet says. Returns 0 or a reason. */
static __always_inline int begin(struct __sk_buff *skb, struct packet *packet, struct pharos_port **port, __u32 *epoch)
{
	__u32 ifindex = skb->ifindex;

	*epoch = current_epoch();
	*port = bpf_map_lookup_elem(&pharos_ports, &ifindex);
	if (!*port || !*epoch)
		return PHAROS_NOT_READY;
	return pharos_parse(skb, packet);
}

/* What both end with, once a packet is allowed. */
static __always_inline int pass(const struct packet *packet)
{
	if (packet->is & IS_FIRST_FRAGMENT)
		remember_fragment(packet);
	stat(PHAROS_PASS);
	return NEXT;
}

SEC("classifier")
int pod_egress(struct __sk_buff *skb)
{
	struct pharos_identity from;
	struct pharos_port *port;
	struct packet packet = {};
	__u32 class, epoch;
	int reason = begin(skb, &packet, &port, &epoch);

	if (reason)
		return drop(reason);
	reason = own_source(skb, &packet, port, epoch);
	if (reason == ENOUGH) {
		stat(PHAROS_PASS);
		return NEXT;
	}
	if (!reason && packet.is & IS_LATER_FRAGMENT)
		reason = fragment_ports(&packet);
	if (reason)
		return drop(reason);
	pharos_identify(epoch, (const struct address *)packet.source, &from);
	if (!(from.flags & PHAROS_ENDPOINT))
		return drop(PHAROS_NOT_READY);
	reason = packet.is & IS_ICMP_ERROR ? related(skb, &packet, epoch, 0) : leaves(epoch, &packet, &from, skb->ifindex);
	if (reason && reason != TO_NODE)
		return drop(reason);
	/* Masquerading hides the sender from the uplink, forwarding overwrites the priority: the class travels in tc_index. */
	class = from.shapes ? pharos_classify(epoch, &from, &packet) & PHAROS_CLASS_MASK : 0;
	skb->tc_index = PHAROS_STAMP | class;
	if (class)
		begin_trip(skb, &packet, epoch, class);
	pass(&packet);
	return reason == TO_NODE ? past_bridge(skb->ifindex) : NEXT;
}

/* Whether a packet may enter the pod that has `own`: as part of a connection, as an answer, or as the first of one. Returns 0 or a reason. */
static __noinline int enters(struct __sk_buff *skb, __u32 epoch, const struct packet *packet, const struct pharos_port *port)
{
	__u32 bytes = skb->len;
	const __u32 *own = packet->is & IS_V6 ? port->v6 : port->v4;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct pharos_connection_key key;
	__u32 end = connection_key(packet, &key) & 1;
	struct pharos_connection *connection = bpf_map_lookup_elem(&pharos_conns, &key);
	struct pharos_half *theirs = NULL, *mine = NULL, half = {};
	struct pharos_identity from, to;
	struct question question;
	int reason;

	if (connection && stale(connection, packet->protocol, now))
		connection = NULL;
	if (connection) {
		theirs = end ? &connection->half[1] : &connection->half[0];
		mine = end ? &connection->half[0] : &connection->half[1];
		if (theirs->ingress_epoch == epoch || mine->egress_epoch == epoch) {
			touch(connection, packet, end, now);
			if (connection->timed)
				end_trip(skb, packet, connection, end);
			if (theirs->ingress_epoch == epoch)
				count(theirs->counter, bytes);
			return 0;
		}
	}
	pharos_identify(epoch, (const struct address *)own, &to);
	pharos_identify(epoch, (const struct address *)packet->source, &from);
	if (!(to.flags & PHAROS_ENDPOINT))
		return PHAROS_NOT_READY;
	/* An answer, and the policy is new: may the pod still talk to whoever answers? */
	if (connection && mine && mine->egress_epoch) {
		question = answers(epoch, packet);
		if (!may_leave(&question, &to, &from)) {
			stat(PHAROS_REEVALUATED);
			mine->egress_epoch = epoch;
			touch(connection, packet, end, now);
			return 0;
		}
	}
	question = asks(epoch, packet);
	reason = may_enter(&question, &from, &to, own);
	if (reason)
		return reason;
	count(question.counter, bytes);
	half.ingress_epoch = epoch;
	half.counter = question.counter;
	if (!connection || !theirs)
		return open_connection(&key, end, &half, skb->ifindex);
	if (theirs->ingress_epoch)
		stat(PHAROS_REEVALUATED);
	theirs->counter = question.counter;
	theirs->ingress_epoch = epoch;
	touch(connection, packet, end, now);
	return 0;
}

/*
 * Whether a packet came a way that its source can't come. What a pod of this node sends has its stamp, and what the link brings has that of
 * uplink_ingress. Everything else is the node's own, or came by another interface: no model and no gateway is there.
 */
static __noinline int strays(struct __sk_buff *skb, const struct packet *packet, __u32 epoch)
{
	__u32 stamp = skb->tc_index & PHAROS_STAMP_MASK;
	struct pharos_identity from;

	if (!skb->ingress_ifindex || stamp == PHAROS_STAMP || stamp == PHAROS_LINK)
		return 0;
	pharos_identify(epoch, (const struct address *)packet->source, &from);
	return !!(from.flags & (PHAROS_ENDPOINT | PHAROS_GATEWAY));
}

SEC("classifier")
int pod_ingress(struct __sk_buff *skb)
{
	struct pharos_port *port;
	struct packet packet = {};
	__u32 epoch;
	int reason = begin(skb, &packet, &port, &epoch);

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
		if (packet.hop_limit != 255)
			return drop(PHAROS_NEIGHBOUR);
		stat(PHAROS_PASS);
		return NEXT;
	}
	if (!same_address(packet.destination, packet.is & IS_V6 ? port->v6 : port->v4))
		return drop(is_scoped(packet.destination) ? PHAROS_SCOPE : PHAROS_DESTINATION);
	if (strays(skb, &packet, epoch))
		return drop(PHAROS_SPOOFED);
	if (packet.is & IS_LATER_FRAGMENT) {
		reason = fragment_ports(&packet);
		if (reason)
			return drop(reason);
	}
	reason = packet.is & IS_ICMP_ERROR ? related(skb, &packet, epoch, 1) : enters(skb, epoch, &packet, port);
	return reason ? drop(reason) : pass(&packet);
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

/*
 * Whether another node's pod is behind the machine that sent this packet: the node's own way to that address leads over this link to that
 * hardware address. Passes what the kernel doesn't know: the neighbour isn't resolved, or (IPv6, where only single interfaces forward) it
 * doesn't answer such questions.
 */
static __noinline int is_behind(struct __sk_buff *skb, const __u32 *source, const __u32 *destination, const __u8 *mac, __u32 family)
{
	struct bpf_fib_lookup way = { .ifindex = skb->ifindex };
	int found;

	if (!source || !destination || !mac)
		return 0;
	if (family == 4) {
		way.family = 2; /* AF_INET */
		way.ipv4_src = destination[3];
		way.ipv4_dst = source[3];
	} else {
		way.family = 10; /* AF_INET6 */
		__builtin_memcpy(way.ipv6_src, destination, 16);
		__builtin_memcpy(way.ipv6_dst, source, 16);
	}
	found = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH || found == BPF_FIB_LKUP_RET_FWD_DISABLED || found < 0)
		return 1;
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	if (way.ifindex != skb->ifindex)
		return 0;
	for (int i = 0; i < 6; i++)
		if (way.dmac[i] != mac[i])
			return 0;
	return 1;
}

SEC("classifier")
int uplink_ingress(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	__u32 source[4], destination[4];
	struct pharos_identity from;
	__u8 ethernet[ETHERNET_BYTES];
	__u32 type, at;

	if (!bpf_map_lookup_elem(&pharos_uplinks, &ifindex))
		return NEXT;
	/* Whatever another namespace of this machine left here. What no generation has judged gets no stamp: it may be under way when the first comes. */
	skb->tc_index = 0;
	if (!epoch || parse_link(skb, ethernet, &type, &at))
		return NEXT;
	if (type == ETHERTYPE_IPV4) {
		__u32 ends[2];

		if (bpf_skb_load_bytes(skb, at + 12, ends, sizeof(ends)) < 0)
			return NEXT;
		map_v4(source, ends[0]);
		map_v4(destination, ends[1]);
	} else if (type == ETHERTYPE_IPV6) {
		if (bpf_skb_load_bytes(skb, at + 8, source, sizeof(source)) < 0 ||
		    bpf_skb_load_bytes(skb, at + 24, destination, sizeof(destination)) < 0)
			return NEXT;
	} else {
		return NEXT;
	}
	pharos_identify(epoch, (const struct address *)source, &from);
	if (from.flags & PHAROS_GATEWAY || (from.flags & PHAROS_ENDPOINT && from.flags & PHAROS_LOCAL))
		return drop(PHAROS_SPOOFED);
	if (from.flags & PHAROS_ENDPOINT && !is_behind(skb, source, destination, ethernet + 6, type == ETHERTYPE_IPV4 ? 4 : 6))
		return drop(PHAROS_SPOOFED);
	skb->tc_index = PHAROS_LINK;
	return NEXT;
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
	} else if ((skb->tc_index & PHAROS_STAMP_MASK) == PHAROS_STAMP || (skb->tc_index & PHAROS_STAMP_MASK) == PHAROS_GUEST) {
		id = skb->tc_index & PHAROS_CLASS_MASK;
		/* Where the link ends in a namespace of this machine, that would find it. */
		skb->tc_index = 0;
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

SEC("classifier")
int guest_egress(struct __sk_buff *skb)
{
	struct pharos_key key = { .kind = PHAROS_ADDRESS };
	struct pharos_host *guest;
	struct packet packet = {};
	union pharos_value *value;
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	__u32 class = 0;

	guest = bpf_map_lookup_elem(&pharos_guests, &ifindex);
	if (!guest || !epoch)
		return NEXT;
	__builtin_memcpy(key.address, guest->address, 16);
	value = find(epoch, &key);
	if (value && value->identity.shapes && !pharos_parse(skb, &packet) && !(packet.is & IS_ARP)) {
		/* Who it is its interface says. What it remembers of fragments is its own, whatever source it claims. */
		__builtin_memcpy(packet.source, guest->address, 16);
		if (packet.is & IS_FIRST_FRAGMENT)
			remember_fragment(&packet);
		if (!(packet.is & IS_LATER_FRAGMENT) || !fragment_ports(&packet))
			class = pharos_classify(epoch, &value->identity, &packet) & PHAROS_CLASS_MASK;
	}
	/* Without a class as well: no address that it claims gets it another's at the uplink. */
	skb->tc_index = PHAROS_GUEST | class;
	return NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
