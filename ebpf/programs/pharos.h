/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs of pharos.bpf.c and the loader (ebpf/loader/src/net/layout.rs) share: keys, values, limits and numbers.
 *
 * Rust asserts its sizes and offsets when it compiles; ebpf/loader/tests/net_layout.rs has a C compiler compare both.
 * A change of anything here needs another PHAROS_LAYOUT: a node runtime with another layout doesn't adopt these maps.
 *
 * Addresses are 16 bytes in network order; IPv4 is mapped (::ffff:a.b.c.d, RFC 4291 2.5.5.2). Ports in keys are in host order.
 */
#ifndef PHAROS_H
#define PHAROS_H

#define PHAROS_LAYOUT 3

/* Identities from here on stand for prefixes of `cidr` rules: the loader numbers them. */
#define PHAROS_CIDR_IDENTITY 0x80000000u

/* pharos_identity.flags */
#define PHAROS_ENDPOINT 1 /* an instance */
#define PHAROS_LOCAL 2	  /* … of this node */
#define PHAROS_INTERNAL 4 /* its network allows what stays inside */
#define PHAROS_EGRESS 8	  /* its network may talk to what is outside of all networks */
#define PHAROS_GATEWAY 16 /* this node's own address in a network */
#define PHAROS_SUBNET 32  /* an address of a network that no instance has */
#define PHAROS_SCOPED 64  /* multicast, broadcast, link-local, loopback, unspecified: no end of a connection (set by the programs) */

/* pharos_port.has */
#define PHAROS_HAS_V4 1
#define PHAROS_HAS_V6 2
#define PHAROS_HAS_MAC 4

/* skb->tc_index from a pod to the uplink: a mark and 12 bits of class (0: none). Nothing else in the kernel uses it since 6.3.
 * From the uplink to a pod it is PHAROS_LINK: that source may come from there. A packet with neither came another way. */
#define PHAROS_STAMP 0xa000u
#define PHAROS_LINK 0xb000u
/* The same as PHAROS_STAMP from a pod whose interface is somebody else's: a class, and no word for its source address. */
#define PHAROS_GUEST 0xc000u
#define PHAROS_STAMP_MASK 0xf000u
#define PHAROS_CLASS_MASK 0x0fffu
/* skb->priority from a cgroup to the uplink, which knows the major number of its HTB: "PH" and the class. */
#define PHAROS_PRIORITY 0x50480000u

/* "Any" in a selector's dscp. */
#define PHAROS_ANY_DSCP 0xffu

/* Buckets of round trips: up to 2^33 ns. */
#define PHAROS_BUCKETS 42

/* Connections that one pod's interface may have opened and that are still remembered; a power of two, and halved as often as pharos_port.share says. */
#define PHAROS_BUDGET 8192
/* How often at most: 4,096 interfaces share the 65,536 connections that are remembered. */
#define PHAROS_MAX_SHARE 9

/* Steps of a search among the ranges of a pair: 2^18 ranges. */
#define PHAROS_SEARCH_STEPS 19

enum pharos_kind {
	PHAROS_ADDRESS = 1,
	PHAROS_PAIR = 2,
	PHAROS_SELECTOR = 3,
	PHAROS_CLASS = 4,
	/* A published port where it arrives: kind | protocol << 8 | target port << 16, and the pod's address. */
	PHAROS_ARRIVES = 5,
	/* … and as a pod sees it at its gateway: kind | protocol << 8 | host port << 16, and 4 or 6. */
	PHAROS_PUBLISHED = 6,
};

/* Index into `stats`. 1 to 31 are reasons of drops. */
enum pharos_stat {
	PHAROS_PASS = 0,
	PHAROS_TRUNCATED = 1,	  /* ends within a header, or before its own length */
	PHAROS_MALFORMED = 2,	  /* headers contradict themselves */
	PHAROS_SPOOFED = 3,	  /* a source that isn't the pod's, or that can't come this way */
	PHAROS_FRAGMENT = 4,	  /* a later fragment whose first wasn't seen or wasn't allowed */
	PHAROS_DENIED = 5,	  /* no rule allows it */
	PHAROS_OUTSIDE = 6,	  /* the network has no egress */
	PHAROS_VACANT = 7,	  /* from or to an address of a network that no instance has */
	PHAROS_DESTINATION = 8,	  /* to an address that isn't the pod's */
	PHAROS_UNRELATED = 9,	  /* an ICMP error about no connection */
	PHAROS_NOT_READY = 10,	  /* no generation, or the pod isn't in it */
	PHAROS_PROTOCOL = 11,	  /* neither IP nor ARP */
	PHAROS_NEIGHBOUR = 12,	  /* ARP or neighbour discovery that claims others' addresses */
	PHAROS_SCOPE = 13,	  /* from or to multicast, broadcast, link-local, loopback or unspecified addresses */
	PHAROS_REASONS = 32,
	PHAROS_OPENED = 32,	  /* connections seen first */
	PHAROS_REEVALUATED = 33,  /* connections looked at again under a new generation */
	PHAROS_DISPLACED = 34,	  /* connections forgotten because their pod opened more than its budget */
	PHAROS_UNCOUNTED = 35,	  /* packets and round trips that no counter had room for */
	PHAROS_STATS = 64,
};

/* The one entry of `config`: `epoch` alone decides what a packet sees; its lowest bit is the slot of the tables. */
struct pharos_config {
	__u64 generation;
	__u32 epoch;
	__u32 layout;
};

/* The key of `tables`: one hash per generation for everything that is looked up exactly. Unused bytes are 0. */
struct pharos_selector_key {
	__u32 identity;
	__u16 network;
	__u16 port;
	__u8 protocol;
	__u8 dscp;
	__u8 unused[6];
};

struct pharos_pair_key {
	__u32 from;
	__u32 to;
	__u32 unused[2];
};

struct pharos_key {
	__u32 kind;
	union {
		__u32 address[4];
		struct pharos_pair_key pair;
		struct pharos_selector_key selector;
		__u32 number[4];
	};
};

struct pharos_identity {
	__u32 identity;
	__u16 network;
	__u16 flags;
	/* Which shapes of selectors its network has: bit = exact identity | protocol << 1 | port << 2 | dscp << 3. */
	__u32 shapes;
	/* Counter of what its network allows inside. */
	__u32 counter;
};

/* The rules between two identities: `count` ranges from `first` on. */
struct pharos_pair {
	__u32 first;
	__u32 count;
	__u32 unused[2];
};

struct pharos_class {
	__u32 id;
	__u32 dscp;
	__u32 counter;
	__u32 unused;
};

struct pharos_published {
	__u32 counter;
	__u32 unused[3];
};

union pharos_value {
	struct pharos_identity identity;
	struct pharos_pair pair;
	struct pharos_class class;
	struct pharos_published published;
};

/* Disjoint, ascending within a pair; both ends included: protocol << 16 | destination port. */
struct pharos_range {
	__u32 first;
	__u32 last;
	__u32 counter;
	__u32 unused;
};

/* LPM: `bits` counts family (8 bits) and address. IPv4 isn't mapped here, so that ::/0 says nothing about it. */
struct pharos_prefix {
	__u32 bits;
	__u8 family;
	__u8 address[16];
	__u8 unused[3];
};

/* A pod's interface, by ifindex. */
struct pharos_port {
	__u32 v4[4];
	__u32 v6[4];
	__u8 mac[6];
	__u8 has;
	/* How often the budget is halved, because of how many interfaces there are. */
	__u8 share;
};

/* An uplink, by ifindex. */
struct pharos_uplink {
	__u32 major;
};

/* A workload whose network isn't ours, by cgroup id or by ifindex: the address that stands for it in `tables`. */
struct pharos_host {
	__u32 address[4];
};

/* A connection, whichever way a packet goes: ends in ascending order. */
struct pharos_connection_key {
	__u32 address[2][4];
	__u16 port[2];
	__u8 protocol;
	__u8 unused[3];
};

/* What was allowed for packets from one end: under which epoch it was allowed to leave and to enter; 0: never. */
struct pharos_half {
	__u32 egress_epoch;
	__u32 ingress_epoch;
	__u32 counter;
};

struct pharos_connection {
	__u64 seen_ns;
	struct pharos_half half[2];
	/* TCP: FIN of end 0, of end 1, RST. */
	__u8 closed;
	/* Of which end a packet is timed, from 1; 0: none. Since when, in 2^20 ns. */
	__u8 timed;
	/* It is to a published port of the node: see past_bridge in pharos.bpf.c. */
	__u8 to_node;
	__u8 unused;
	__u32 timed_ms;
	/* Whose budget it is of (an ifindex), and which of its slots it has. */
	__u32 opener;
	__u32 slot;
};

/* One of the connections that a pod's interface opened, by the number of the slot. */
struct pharos_slot {
	__u32 opener;
	__u32 slot;
};

/* A packet whose answer is waited for. */
struct pharos_trip {
	__u64 sent_ns;
	__u32 counter;
	/* TCP: what acknowledges it. */
	__u32 expects;
};

struct pharos_bucket_key {
	__u32 counter;
	__u32 bucket;
};

struct pharos_fragment_key {
	__u32 source[4];
	__u32 destination[4];
	__u32 id;
	__u32 protocol;
};

struct pharos_fragment {
	__u64 seen_ns;
	__u16 source_port;
	__u16 destination_port;
	__u32 protocol;
};

struct pharos_counter {
	__u64 packets;
	__u64 bytes;
};

#endif
