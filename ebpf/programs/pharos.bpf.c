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
#include "pharos_maps.h"
#include "pharos_policy.h"
#include "pharos_state.h"
#include "pharos_trips.h"

#define NEXT (-1)

/* Queries, reports and leavings of multicast listeners (RFC 2710, RFC 3810). */
static __always_inline int is_listener(const struct packet *packet)
{
	return (packet->icmp_type >= 130 && packet->icmp_type <= 132) || packet->icmp_type == 143;
}

/* Of this link and to a group: from a link-local address or before there is one, never routed (RFC 3810 5). One receiver would get anything. */
static __always_inline int is_of_listeners(const struct packet *packet)
{
	return packet->hop_limit == 1 && is_multicast_v6(packet->destination) &&
	       (is_zero(packet->source) || is_link_local(packet->source));
}

/* Neighbour discovery (RFC 4861) and multicast listeners (RFC 3810) from a pod: only about itself. */
static __noinline int own_neighbour(struct __sk_buff *skb, const struct packet *packet, const struct pharos_port *port)
{
	__u32 target[4];

	if (!(port->has & PHAROS_HAS_V6))
		return PHAROS_SPOOFED;
	if (!is_zero(packet->source) && !is_link_local(packet->source) && !same_address(packet->source, port->v6))
		return PHAROS_SPOOFED;
	if (is_listener(packet))
		return is_of_listeners(packet) ? 0 : PHAROS_NEIGHBOUR;
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
	if (!(port->has & (packet->is & IS_V6 ? PHAROS_HAS_V6 : PHAROS_HAS_V4)) ||
	    !same_address(packet->source, packet->is & IS_V6 ? port->v6 : port->v4))
		return PHAROS_SPOOFED;
	return 0;
}

/* Whether a pod's packet may leave: as an answer, as part of a connection, or as the first of one. Returns 0 or a reason. */
static __noinline int leaves(__u32 epoch, const struct packet *packet, const struct pharos_identity *from)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct pharos_connection_key key;
	__u32 end = connection_key(packet, &key) & 1;
	struct pharos_connection *connection = bpf_map_lookup_elem(&pharos_conns, &key);
	struct pharos_half *mine = NULL, *theirs, half = {};
	struct pharos_identity to;
	struct question question;
	int reason;

	if (connection && stale(connection, packet->protocol, now))
		connection = NULL;
	if (connection) {
		mine = end ? &connection->half[1] : &connection->half[0];
		theirs = end ? &connection->half[0] : &connection->half[1];
		if (theirs->ingress_epoch == epoch || mine->egress_epoch == epoch) {
			touch(connection, packet, end, now);
			return 0;
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
	if (!connection || !mine)
		return open_connection(&key, end, &half);
	if (mine->egress_epoch)
		stat(PHAROS_REEVALUATED);
	*mine = half;
	touch(connection, packet, end, now);
	return 0;
}

SEC("classifier")
int pod_egress(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	struct pharos_port *port = bpf_map_lookup_elem(&pharos_ports, &ifindex);
	struct pharos_identity from;
	struct packet packet = {};
	__u32 class;
	int reason;

	if (!port || !epoch)
		return drop(PHAROS_NOT_READY);
	reason = pharos_parse(skb, &packet);
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
	reason = packet.is & IS_ICMP_ERROR ? related(skb, &packet, epoch, 0) : leaves(epoch, &packet, &from);
	if (reason)
		return drop(reason);
	if (packet.is & IS_FIRST_FRAGMENT)
		remember_fragment(&packet);
	/* Masquerading hides the sender from the uplink, forwarding overwrites the priority: the class travels in tc_index. */
	class = from.shapes ? pharos_classify(epoch, &from, &packet) & PHAROS_CLASS_MASK : 0;
	skb->tc_index = PHAROS_STAMP | class;
	if (class)
		begin_trip(skb, &packet, epoch, class);
	stat(PHAROS_PASS);
	return NEXT;
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
		return open_connection(&key, end, &half);
	if (theirs->ingress_epoch)
		stat(PHAROS_REEVALUATED);
	theirs->counter = question.counter;
	theirs->ingress_epoch = epoch;
	touch(connection, packet, end, now);
	return 0;
}

SEC("classifier")
int pod_ingress(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	__u32 epoch = current_epoch();
	struct pharos_port *port = bpf_map_lookup_elem(&pharos_ports, &ifindex);
	struct packet packet = {};
	int reason;

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
		if (is_listener(&packet) ? !is_of_listeners(&packet) : packet.hop_limit != 255)
			return drop(PHAROS_NEIGHBOUR);
		stat(PHAROS_PASS);
		return NEXT;
	}
	if (!same_address(packet.destination, packet.is & IS_V6 ? port->v6 : port->v4))
		return drop(is_scoped(packet.destination) ? PHAROS_SCOPE : PHAROS_DESTINATION);
	if (packet.is & IS_LATER_FRAGMENT) {
		reason = fragment_ports(&packet);
		if (reason)
			return drop(reason);
	}
	reason = packet.is & IS_ICMP_ERROR ? related(skb, &packet, epoch, 1) : enters(skb, epoch, &packet, port);
	if (reason)
		return drop(reason);
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
