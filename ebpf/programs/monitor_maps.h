/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The kernel's fields that the deadline monitor reads, and its maps. For monitor.bpf.c alone. */
#ifndef PULLPIRI_MONITOR_MAPS_H
#define PULLPIRI_MONITOR_MAPS_H

#include "monitor.h"

/* The few kernel fields that are read; the loader moves the offsets to those of the running kernel (CO-RE). */
struct pp_atomic {
	int counter;
} __attribute__((preserve_access_index));

struct signal_struct {
	struct pp_atomic live;
} __attribute__((preserve_access_index));

struct sched_entity {
	__u64 sum_exec_runtime;
} __attribute__((preserve_access_index));

struct sched_info {
	unsigned long long run_delay;
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
	int on_cpu;
	unsigned int __state;
	struct sched_entity se;
	struct sched_info sched_info;
	struct signal_struct *signal;
	char comm[PP_COMM];
} __attribute__((preserve_access_index));

/* Before Linux 5.14. */
struct task_struct___old {
	long state;
} __attribute__((preserve_access_index));

struct bpf_iter_meta {
	__u64 seq_num;
} __attribute__((preserve_access_index));

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
} __attribute__((preserve_access_index));

struct pp_timer {
	struct bpf_timer timer;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PP_FILTER_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} FILTER SEC(".maps");

/* Thread → slot of WATCHES, TASKS and TIMERS. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PP_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} SLOTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PP_SLOTS);
	__type(key, __u32);
	__type(value, struct pp_watch);
} WATCHES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PP_SLOTS);
	__type(key, __u32);
	__type(value, struct pp_task);
} TASKS SEC(".maps");

/* Apart from TASKS: the loader writes there, and a write from outside frees a timer. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PP_SLOTS);
	__type(key, __u32);
	__type(value, struct pp_timer);
} TIMERS SEC(".maps");

/* Process → cookie: its new threads and children are told. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PP_FOLLOWED);
	__type(key, __u32);
	__type(value, __u64);
} FOLLOWED SEC(".maps");

/* Id of a cgroup (v2) → cookie. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PP_FOLLOWED);
	__type(key, __u64);
	__type(value, __u64);
} CGROUPS SEC(".maps");

/* Misses and overruns. Apart from EVENTS: a process that makes threads all the time fills that one. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PP_RING_BYTES);
} JOBS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PP_RING_BYTES);
} EVENTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PP_COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} COUNTS SEC(".maps");

#endif
