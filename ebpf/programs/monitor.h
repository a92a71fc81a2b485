/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the deadline monitor shares with its loader (ebpf/loader/src/monitor/layout.rs asserts every size and offset).
 *
 * Times are nanoseconds of CLOCK_MONOTONIC; durations are nanoseconds. Pids are thread ids of the initial PID namespace.
 */
#ifndef PULLPIRI_MONITOR_H
#define PULLPIRI_MONITOR_H

#include <linux/types.h>

/* Threads that can be watched at once. The loader may set fewer. */
#define PP_SLOTS 1024
/* Processes and cgroups that can be followed at once. */
#define PP_FOLLOWED 4096
/* The bit filter in front of the hash of watched pids: one bit per value of a pid's low 16 bits, 8 KiB. */
#define PP_FILTER_WORDS 1024
/* Room for 2,700 events of threads between two reads, and for as many misses and overruns. */
#define PP_RING_BYTES (256 * 1024)
/*
 * Response times, log-linear: 256 ns wide below 2 us, then 8 buckets per power of two (each at most 12.5 % wide), up to 73 minutes.
 */
#define PP_BUCKETS 256
#define PP_BUCKET_UNIT_SHIFT 8
#define PP_COMM 16

/* Indices of COUNTS: events of threads that found their ring full, processes that found FOLLOWED full, timers that are ready, jobs that found theirs full. */
#define PP_COUNT_EVENTS_LOST 0
#define PP_COUNT_FOLLOWS_LOST 1
#define PP_COUNT_TIMERS 2
#define PP_COUNT_JOBS_LOST 3
#define PP_COUNTS 4

/* The job word: sequence number << PP_JOB_SHIFT | flags. It only changes by atomic operations. */
#define PP_JOB_ACTIVE 1ull
#define PP_JOB_MISSED 2ull
#define PP_JOB_OVERRAN 4ull
#define PP_JOB_FLAGS 7ull
#define PP_JOB_SHIFT 3

/* What is promised for a thread; written by the loader, only read by the programs. Zero means "not promised". */
struct pp_watch {
	__u64 cookie;
	__u64 deadline_ns;
	__u64 wcet_ns;
	__u64 period_ns;
	/* A wake-up sooner than this after a release continues its job. */
	__u64 min_interarrival_ns;
	__u32 pid;
	__u32 reserved;
};

/* What was seen; written by the programs, zeroed by the loader before a slot is given to a thread. */
struct pp_task {
	__u64 job;
	__u64 release_ns;
	/* The instant of the deadline; 0 without one. */
	__u64 due_ns;
	/* Since when the thread has been on a CPU within its job; 0 while it isn't. */
	__u64 on_cpu_ns;
	__u64 exec_ns;
	/* Jobs that ended, late or in time. */
	__u64 jobs;
	__u64 misses;
	__u64 overruns;
	/* Releases that came before the thread had slept. */
	__u64 back_to_back;
	/* Whole periods that passed within one response. */
	__u64 skipped;
	/* Wake-ups that continued a job. */
	__u64 continued;
	__u64 max_response_ns;
	__u64 max_exec_ns;
	__u64 last_response_ns;
	__u64 last_exec_ns;
	__u64 total_exec_ns;
	/* The thread's own totals when its job began: execution, and waiting for a CPU. */
	__u64 base_exec_ns;
	__u64 base_delay_ns;
	/* Jobs whose release wasn't seen, and was worked out from those totals. */
	__u64 unseen;
	__u32 last_bucket;
	__u32 last_skipped;
	/* The job under way began before it was seen. */
	__u32 unseen_release;
	/* The bases are those of a job's begin, or of the block before it. */
	__u32 based;
	__u64 histogram[PP_BUCKETS];
};

enum pp_event_kind {
	PP_EVENT_MISS = 1,
	PP_EVENT_OVERRUN = 2,
	PP_EVENT_FORK = 3,
	PP_EVENT_EXEC = 4,
	PP_EVENT_RENAME = 5,
	PP_EVENT_EXIT = 6,
};

/* The job went on when it was reported. */
#define PP_FLAG_RUNNING 1u
/* The last thread of its process. */
#define PP_FLAG_GROUP_DEAD 2u

struct pp_event {
	__u32 kind;
	__u32 flags;
	__u32 pid;
	__u32 tgid;
	/* FORK: the process that forked. */
	__u32 parent_tgid;
	__u32 reserved;
	__u64 cookie;
	/* MISS, OVERRUN: the job's number (from 1), its release, its deadline (0: none), its execution so far. */
	__u64 job;
	__u64 release_ns;
	__u64 due_ns;
	__u64 exec_ns;
	/* When the program saw it. */
	__u64 reported_ns;
	char comm[PP_COMM];
};

#endif
