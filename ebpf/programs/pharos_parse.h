/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From bytes to what a decision needs: addresses, protocol, ports, code point; fragments and ICMP errors told apart.
 *
 * Reads by bpf_skb_load_bytes, so paged packets need no copy. Every length is checked against the packet and against the length that the
 * packet itself claims (RFC 791, RFC 8200); what follows the claimed end is padding and never read as a header. All loops are bounded.
 */
#ifndef PHAROS_PARSE_H
#define PHAROS_PARSE_H

#define ETHERNET_BYTES 14
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_QINQ 0x88a8
/* IEEE 802.1ad: a service tag and a customer tag. */
#define VLAN_TAGS 2
/* Each kind once, destination options twice (RFC 8200 4.1), and one to spare. */
#define EXTENSION_HEADERS 7

#define PROTO_HOPOPTS 0
#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_DSTOPTS 60
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define PROTO_DCCP 33

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* packet.is */
#define IS_ARP 1
#define IS_LATER_FRAGMENT 2
#define IS_FIRST_FRAGMENT 4
#define IS_ICMP_ERROR 8
#define IS_NEIGHBOUR 16
#define IS_V6 32
#define IS_ECHO_REQUEST 64

struct packet {
	__u32 source[4];
	__u32 destination[4];
	__u32 fragment_id;
	__u16 source_port; /* host order; 0 without ports; of an ICMP echo both are its identifier */
	__u16 destination_port;
	__u16 l3;
	__u16 l4;
	__u8 protocol; /* ICMPv6 is 1 here, so that one rule stands for both */
	__u8 dscp;
	__u8 is;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 hop_limit;
	__u8 mac[6];
};

struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__u16 length;
	__u16 id;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 source;
	__u32 destination;
};

struct ipv6 {
	__u32 version_class_flow;
	__u16 payload;
	__u8 next;
	__u8 hop_limit;
	__u32 source[4];
	__u32 destination[4];
};

struct arp {
	__u16 hardware;
	__u16 protocol;
	__u8 hardware_bytes;
	__u8 protocol_bytes;
	__u16 operation;
	__u8 sender_mac[6];
	__u8 sender[4];
	__u8 target_mac[6];
	__u8 target[4];
};

static __always_inline void map_v4(__u32 *address, __u32 v4)
{
	address[0] = 0;
	address[1] = 0;
	address[2] = bpf_htonl(0xffff);
	address[3] = v4;
}

static __always_inline int same_address(const __u32 *a, const __u32 *b)
{
	return a[3] == b[3] && a[2] == b[2] && a[1] == b[1] && a[0] == b[0];
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP || protocol == PROTO_UDPLITE ||
	       protocol == PROTO_DCCP;
}

/* The header after IP. `rest`: bytes from it to the end that the packet claims. */
static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *packet, __u32 rest)
{
	__u32 at = packet->l4;

	if (packet->protocol == PROTO_TCP) {
		__u8 tcp[14];

		if (rest < 20)
			return packet->is & IS_FIRST_FRAGMENT ? PHAROS_MALFORMED : PHAROS_TRUNCATED;
		if (bpf_skb_load_bytes(skb, at, tcp, sizeof(tcp)) < 0)
			return PHAROS_TRUNCATED;
		packet->source_port = (tcp[0] << 8) | tcp[1];
		packet->destination_port = (tcp[2] << 8) | tcp[3];
		packet->tcp_flags = tcp[13];
		__u32 bytes = (tcp[12] >> 4) * 4;

		if (bytes < 20 || (packet->tcp_flags & (TCP_SYN | TCP_FIN)) == (TCP_SYN | TCP_FIN) ||
		    (packet->tcp_flags & (TCP_SYN | TCP_RST)) == (TCP_SYN | TCP_RST))
			return PHAROS_MALFORMED;
		if (bytes > rest && !(packet->is & IS_FIRST_FRAGMENT))
			return PHAROS_TRUNCATED;
		return 0;
	}
	if (packet->protocol == PROTO_UDP || packet->protocol == PROTO_UDPLITE) {
		__u16 udp[3];

		if (rest < 8)
			return packet->is & IS_FIRST_FRAGMENT ? PHAROS_MALFORMED : PHAROS_TRUNCATED;
		if (bpf_skb_load_bytes(skb, at, udp, sizeof(udp)) < 0)
			return PHAROS_TRUNCATED;
		packet->source_port = bpf_ntohs(udp[0]);
		packet->destination_port = bpf_ntohs(udp[1]);
		/* A segment of many, or coverage (UDP-Lite), says something else here; 0 is a jumbogram. */
		if (packet->protocol == PROTO_UDP && !(packet->is & IS_FIRST_FRAGMENT) && !skb->gso_size) {
			__u32 bytes = bpf_ntohs(udp[2]);

			if (bytes != 0 && bytes < 8)
				return PHAROS_MALFORMED;
			if (bytes > rest)
				return PHAROS_TRUNCATED;
		}
		return 0;
	}
	if (packet->protocol == PROTO_ICMP) {
		__u8 icmp[6];

		if (rest < 8)
			return packet->is & IS_FIRST_FRAGMENT ? PHAROS_MALFORMED : PHAROS_TRUNCATED;
		if (bpf_skb_load_bytes(skb, at, icmp, sizeof(icmp)) < 0)
			return PHAROS_TRUNCATED;
		packet->icmp_type = icmp[0];
		if (packet->is & IS_V6 ? icmp[0] == 128 || icmp[0] == 129 : icmp[0] == 8 || icmp[0] == 0)
			packet->source_port = packet->destination_port = (icmp[4] << 8) | icmp[5];
		if (icmp[0] == (packet->is & IS_V6 ? 128 : 8))
			packet->is |= IS_ECHO_REQUEST;
		if (packet->is & IS_V6) {
			if (icmp[0] >= 1 && icmp[0] <= 4)
				packet->is |= IS_ICMP_ERROR;
			else if (icmp[0] == 134 || icmp[0] == 137)
				return PHAROS_NEIGHBOUR; /* routers' business: no pod is one */
			else if (icmp[0] >= 133 && icmp[0] <= 136)
				packet->is |= IS_NEIGHBOUR;
		} else if (icmp[0] == 3 || icmp[0] == 11 || icmp[0] == 12) {
			packet->is |= IS_ICMP_ERROR;
		} else if (icmp[0] == 5) {
			return PHAROS_NEIGHBOUR;
		}
		return 0;
	}
	if (has_ports(packet->protocol)) {
		__u16 ports[2];

		if (rest < 12)
			return packet->is & IS_FIRST_FRAGMENT ? PHAROS_MALFORMED : PHAROS_TRUNCATED;
		if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)) < 0)
			return PHAROS_TRUNCATED;
		packet->source_port = bpf_ntohs(ports[0]);
		packet->destination_port = bpf_ntohs(ports[1]);
	}
	return 0;
}

static __always_inline int parse_v4(struct __sk_buff *skb, struct packet *packet, __u32 at)
{
	struct ipv4 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0)
		return PHAROS_TRUNCATED;
	__u32 header = (ip.version_ihl & 15) * 4;
	__u32 length = bpf_ntohs(ip.length);
	__u32 present = skb->len - at;

	if (ip.version_ihl >> 4 != 4 || header < sizeof(ip))
		return PHAROS_MALFORMED;
	/* BIG TCP on IPv4: segments of more than 64 KiB on their way to be split. */
	if (length == 0 && skb->gso_size)
		length = present;
	if (length < header)
		return PHAROS_MALFORMED;
	if (length > present)
		return PHAROS_TRUNCATED;
	map_v4(packet->source, ip.source);
	map_v4(packet->destination, ip.destination);
	packet->protocol = ip.protocol == PROTO_ICMPV6 ? 255 : ip.protocol;
	packet->dscp = ip.tos >> 2;
	packet->hop_limit = ip.ttl;
	packet->l4 = at + header;
	__u32 fragment = bpf_ntohs(ip.fragment);
	__u32 offset = (fragment & 0x1fff) * 8;

	if (fragment & 0x3fff) {
		packet->fragment_id = ip.id;
		if (offset == 0) {
			packet->is |= IS_FIRST_FRAGMENT;
		} else {
			/* RFC 1858: a fragment that would overwrite TCP's flags. And one that ends past the largest packet. */
			if ((ip.protocol == PROTO_TCP && offset == 8) || offset + length - header > 65535)
				return PHAROS_MALFORMED;
			packet->is |= IS_LATER_FRAGMENT;
			return 0;
		}
	}
	return parse_l4(skb, packet, length - header);
}

static __always_inline int parse_v6(struct __sk_buff *skb, struct packet *packet, __u32 at)
{
	struct ipv6 ip;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0)
		return PHAROS_TRUNCATED;
	__u32 first = bpf_ntohl(ip.version_class_flow);
	__u32 present = skb->len - at - sizeof(ip);
	__u32 rest = bpf_ntohs(ip.payload);

	if (first >> 28 != 6)
		return PHAROS_MALFORMED;
	if (rest == 0 && skb->gso_size)
		rest = present;
	if (rest > present)
		return PHAROS_TRUNCATED;
	__builtin_memcpy(packet->source, ip.source, 16);
	__builtin_memcpy(packet->destination, ip.destination, 16);
	/* A mapped address on the wire would be taken for IPv4's (RFC 4291 2.5.5.2 knows them only inside of hosts). */
	if ((ip.source[0] == 0 && ip.source[1] == 0 && ip.source[2] == bpf_htonl(0xffff)) ||
	    (ip.destination[0] == 0 && ip.destination[1] == 0 && ip.destination[2] == bpf_htonl(0xffff)))
		return PHAROS_MALFORMED;
	packet->is |= IS_V6;
	packet->dscp = (first >> 22) & 63;
	packet->hop_limit = ip.hop_limit;
	__u32 next = ip.next;
	__u32 l4 = at + sizeof(ip);

	for (int i = 0; i < EXTENSION_HEADERS; i++) {
		__u8 header[8];
		__u32 bytes;

		if (next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_FRAGMENT && next != PROTO_DSTOPTS && next != PROTO_AH)
			break;
		if (rest < 8)
			return packet->is & IS_FIRST_FRAGMENT ? PHAROS_MALFORMED : PHAROS_TRUNCATED;
		if (bpf_skb_load_bytes(skb, l4, header, sizeof(header)) < 0)
			return PHAROS_TRUNCATED;
		/* Only the first may be hop-by-hop; type 0 of routing headers is forbidden (RFC 5095). */
		if ((next == PROTO_HOPOPTS && i != 0) || (next == PROTO_ROUTING && header[2] == 0))
			return PHAROS_MALFORMED;
		if (next == PROTO_FRAGMENT) {
			__u32 field = (header[2] << 8) | header[3];
			__u32 offset = field & 0xfff8;

			bytes = 8;
			__builtin_memcpy(&packet->fragment_id, header + 4, 4);
			if (packet->is & (IS_FIRST_FRAGMENT | IS_LATER_FRAGMENT))
				return PHAROS_MALFORMED;
			if (offset != 0) {
				if (offset + rest - 8 > 65535)
					return PHAROS_MALFORMED;
				packet->is |= IS_LATER_FRAGMENT;
			} else if (field & 1) {
				packet->is |= IS_FIRST_FRAGMENT;
			}
		} else if (next == PROTO_AH) {
			bytes = (header[1] + 2) * 4;
		} else {
			bytes = (header[1] + 1) * 8;
		}
		if (bytes > rest)
			return PHAROS_TRUNCATED;
		next = header[0];
		l4 += bytes;
		rest -= bytes;
		if (packet->is & IS_LATER_FRAGMENT)
			break;
	}
	/* RFC 7112: the whole chain is in the first fragment; a chain longer than any standard one is an attack on parsers. */
	if (!(packet->is & IS_LATER_FRAGMENT) &&
	    (next == PROTO_HOPOPTS || next == PROTO_ROUTING || next == PROTO_FRAGMENT || next == PROTO_DSTOPTS || next == PROTO_AH))
		return PHAROS_MALFORMED;
	packet->protocol = next == PROTO_ICMPV6 ? PROTO_ICMP : next == PROTO_ICMP ? 255 : next;
	packet->l4 = l4;
	if (packet->is & IS_LATER_FRAGMENT)
		return 0;
	return parse_l4(skb, packet, rest);
}

/* ARP for IPv4 over Ethernet (RFC 826); the sender is left in `source`, its hardware address in `mac` is checked here. */
static __always_inline int parse_arp(struct __sk_buff *skb, struct packet *packet, __u32 at)
{
	struct arp arp;
	__u32 sender;

	if (bpf_skb_load_bytes(skb, at, &arp, sizeof(arp)) < 0)
		return PHAROS_TRUNCATED;
	if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETHERTYPE_IPV4) || arp.hardware_bytes != 6 ||
	    arp.protocol_bytes != 4 || (arp.operation != bpf_htons(1) && arp.operation != bpf_htons(2)))
		return PHAROS_MALFORMED;
	__builtin_memcpy(&sender, arp.sender, 4);
	map_v4(packet->source, sender);
	for (int i = 0; i < 6; i++)
		if (arp.sender_mac[i] != packet->mac[i])
			return PHAROS_NEIGHBOUR;
	packet->is |= IS_ARP;
	return 0;
}

/* The EtherType behind VLAN tags; `at` is where its payload begins. Returns 0 or a reason. */
static __always_inline int parse_link(struct __sk_buff *skb, __u8 *ethernet, __u32 *type, __u32 *at)
{
	if (bpf_skb_load_bytes(skb, 0, ethernet, ETHERNET_BYTES) < 0)
		return PHAROS_TRUNCATED;
	*at = ETHERNET_BYTES;
	*type = (ethernet[12] << 8) | ethernet[13];
	for (int i = 0; i < VLAN_TAGS; i++) {
		__u16 tag[2];

		if (*type != ETHERTYPE_VLAN && *type != ETHERTYPE_QINQ)
			break;
		if (bpf_skb_load_bytes(skb, *at, tag, sizeof(tag)) < 0)
			return PHAROS_TRUNCATED;
		*type = bpf_ntohs(tag[1]);
		*at += 4;
	}
	return 0;
}

/* Returns 0 or a reason to drop. */
__noinline int pharos_parse(struct __sk_buff *skb, struct packet *packet)
{
	__u8 ethernet[ETHERNET_BYTES];
	__u32 type, at;
	int reason;

	if (!packet)
		return PHAROS_MALFORMED;
	reason = parse_link(skb, ethernet, &type, &at);
	if (reason)
		return reason;
	__builtin_memcpy(packet->mac, ethernet + 6, 6);
	packet->l3 = at;
	if (type == ETHERTYPE_IPV4)
		return parse_v4(skb, packet, at);
	if (type == ETHERTYPE_IPV6)
		return parse_v6(skb, packet, at);
	if (type == ETHERTYPE_ARP)
		return parse_arp(skb, packet, at);
	return PHAROS_PROTOCOL;
}

/* The packet that an ICMP error is about: as much of it as RFC 792 and RFC 4443 promise. Returns 0 or a reason. */
static __noinline int parse_inner(struct __sk_buff *skb, const struct packet *outer, struct packet *inner)
{
	__u32 at = outer->l4 + 8;
	__u16 ports[2];

	if (outer->is & IS_V6) {
		struct ipv6 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0)
			return PHAROS_TRUNCATED;
		__builtin_memcpy(inner->source, ip.source, 16);
		__builtin_memcpy(inner->destination, ip.destination, 16);
		inner->protocol = ip.next == PROTO_ICMPV6 ? PROTO_ICMP : ip.next;
		at += sizeof(ip);
	} else {
		struct ipv4 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) < 0)
			return PHAROS_TRUNCATED;
		if (ip.version_ihl >> 4 != 4 || (ip.version_ihl & 15) < 5)
			return PHAROS_MALFORMED;
		map_v4(inner->source, ip.source);
		map_v4(inner->destination, ip.destination);
		inner->protocol = ip.protocol;
		at += (ip.version_ihl & 15) * 4;
	}
	if (inner->protocol == PROTO_ICMP) {
		/* An error is only ever about an echo (RFC 1122 3.2.2: none about errors). */
		if (bpf_skb_load_bytes(skb, at + 4, ports, 2) < 0)
			return PHAROS_TRUNCATED;
		inner->source_port = inner->destination_port = bpf_ntohs(ports[0]);
	}
	if (has_ports(inner->protocol)) {
		if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)) < 0)
			return PHAROS_TRUNCATED;
		inner->source_port = bpf_ntohs(ports[0]);
		inner->destination_port = bpf_ntohs(ports[1]);
	}
	return 0;
}

#endif
