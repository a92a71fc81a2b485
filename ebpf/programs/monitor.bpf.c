// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The deadline monitor: response time, execution time and misses of watched threads, from the scheduler's own events.
 *
 * Model. A job begins when a sleeping thread is woken (its release) and ends when the thread blocks again, or when it is woken while it is about to
 * block (the kernel wakes only who has declared to wait, so the old job had ended). Execution is time on a CPU within the job, response is end −
 * release. A wake-up sooner than min_interarrival_ns after a release continues the job: a lock or I/O waited for inside it. The job under way when a
 * watch begins isn't counted.
 *
 * Execution is the kernel's own count (se.sum_exec_runtime), which is exact at every switch. Where a release wasn't seen (the kernel skips a program that
 * would nest in itself, and some hide what happens while a protected process is on the CPU), the job is found at the thread's next switch, and its
 * release is where its execution and its waiting for a CPU (sched_info.run_delay) began: a thread that neither runs nor waits is asleep.
 *
 * Who writes. Wake-ups and switches of one thread are ordered by the kernel (sched_wakeup comes after the switch that put the thread to sleep, unlike
 * sched_waking). Only the timer is concurrent: it may mark the job word, by compare-and-swap against the very job it read, and add to two counters.
 * So each job is reported at most once, and none that ended in time.
 *
 * Cost. Most switches are of threads that nobody watches: two loads and two bits of an 8 KiB filter decide those.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include "monitor_maps.h"

/* bpf_timer_* are for GPL-compatible programs only; the project's Apache-2.0 isn't one of the licences that the kernel counts as such. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CLOCK_MONOTONIC 1
/* Linux 6.4; older kernels refuse it, and get a relative time. */
#define PP_TIMER_ABS 1ull

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&COUNTS, &what);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline int filtered(__u32 pid)
{
	__u32 index = (pid & 0xffff) >> 6;
	__u64 *word = bpf_map_lookup_elem(&FILTER, &index);

	return word && (*word >> (pid & 63) & 1);
}

/* The ring's memory is reused: every field is written. */
static __always_inline struct pp_event *reserve(void *ring, __u32 lost, __u32 kind, __u32 flags, __u32 pid, __u64 cookie, __u64 now)
{
	struct pp_event *event = bpf_ringbuf_reserve(ring, sizeof(*event), 0);

	if (!event) {
		count(lost);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = kind;
	event->flags = flags;
	event->pid = pid;
	event->cookie = cookie;
	event->reported_ns = now;
	return event;
}

static __noinline int report_job(__u32 slot, __u32 kind, __u32 flags, __u64 now)
{
	struct pp_watch *watch = bpf_map_lookup_elem(&WATCHES, &slot);
	struct pp_task *task = bpf_map_lookup_elem(&TASKS, &slot);
	struct pp_event *event;

	if (!watch || !task)
		return 0;
	event = reserve(&JOBS, PP_COUNT_JOBS_LOST, kind, flags, watch->pid, watch->cookie, now);
	if (!event)
		return 0;
	event->job = task->job >> PP_JOB_SHIFT;
	event->release_ns = task->release_ns;
	event->due_ns = task->due_ns;
	event->exec_ns = task->exec_ns;
	if (task->on_cpu_ns && now > task->on_cpu_ns)
		event->exec_ns += now - task->on_cpu_ns;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* The histogram's bucket of a response time. */
static __always_inline __u32 bucket_of(__u64 response_ns)
{
	__u64 units = response_ns >> PP_BUCKET_UNIT_SHIFT, rest = units;
	__u32 log2 = 0, bucket;

	if (units < 8)
		return units;
	if (rest >> 32) { log2 += 32; rest >>= 32; }
	if (rest >> 16) { log2 += 16; rest >>= 16; }
	if (rest >> 8) { log2 += 8; rest >>= 8; }
	if (rest >> 4) { log2 += 4; rest >>= 4; }
	if (rest >> 2) { log2 += 2; rest >>= 2; }
	if (rest >> 1) log2 += 1;
	bucket = ((log2 - 2) << 3) + (units >> (log2 - 3) & 7);
	return bucket < PP_BUCKETS ? bucket : PP_BUCKETS - 1;
}

/* How long the thread has waited for a CPU in its life; 0 where the kernel doesn't count that. */
static __always_inline __u64 delay_of(struct task_struct *thread)
{
	return bpf_core_field_exists(thread->sched_info.run_delay) ? thread->sched_info.run_delay : 0;
}

static __always_inline void set_base(struct pp_task *task, struct task_struct *thread)
{
	task->base_exec_ns = thread->se.sum_exec_runtime;
	task->base_delay_ns = delay_of(thread);
	task->based = 1;
}

/* Sets the job's execution, and reports what is beyond the declared worst case, once per job. */
static __always_inline void account(struct pp_task *task, struct pp_watch *watch, __u32 slot, __u64 now, __u64 exec_ns)
{
	__sync_lock_test_and_set(&task->on_cpu_ns, 0);
	task->exec_ns = exec_ns;
	if (task->exec_ns > task->max_exec_ns)
		task->max_exec_ns = task->exec_ns;
	if (watch->wcet_ns && task->exec_ns > watch->wcet_ns &&
	    !(__sync_fetch_and_or(&task->job, PP_JOB_OVERRAN) & PP_JOB_OVERRAN)) {
		__sync_fetch_and_add(&task->overruns, 1);
		report_job(slot, PP_EVENT_OVERRUN, PP_FLAG_RUNNING, now);
	}
}

static __always_inline void end_job(struct pp_task *task, struct pp_watch *watch, __u32 slot, __u64 now)
{
	__u64 old = __sync_fetch_and_and(&task->job, ~PP_JOB_ACTIVE), response;
	__u32 bucket;

	/* The timer came between the caller's clock and this end: the end is after the deadline. */
	if (old & PP_JOB_MISSED && now <= task->due_ns)
		now = bpf_ktime_get_ns();
	response = now > task->release_ns ? now - task->release_ns : 0;
	if (task->due_ns && now > task->due_ns && !(old & PP_JOB_MISSED)) {
		__sync_fetch_and_or(&task->job, PP_JOB_MISSED);
		__sync_fetch_and_add(&task->misses, 1);
		report_job(slot, PP_EVENT_MISS, 0, now);
	}
	task->jobs += 1;
	task->last_response_ns = response;
	task->last_exec_ns = task->exec_ns;
	task->total_exec_ns += task->exec_ns;
	if (response > task->max_response_ns)
		task->max_response_ns = response;
	task->last_skipped = 0;
	if (watch->period_ns && response >= watch->period_ns) {
		task->last_skipped = response / watch->period_ns;
		task->skipped += task->last_skipped;
	}
	bucket = bucket_of(response);
	task->last_bucket = bucket;
	if (bucket < PP_BUCKETS)
		task->histogram[bucket] += 1;
}

static __always_inline void arm(__u32 slot, __u64 due, __u64 now)
{
	struct pp_timer *timer = bpf_map_lookup_elem(&TIMERS, &slot);

	if (timer && bpf_timer_start(&timer->timer, due, PP_TIMER_ABS))
		bpf_timer_start(&timer->timer, due > now ? due - now : 0, 0);
}

/*
 * The thread goes on with the job that seemed to have ended: what was counted for it is taken back. The base moves back to the job's begin, so that its
 * execution is that of all its parts.
 */
static __always_inline void continue_job(struct pp_task *task, __u32 slot, __u64 now, __u64 on_cpu)
{
	__u32 bucket = task->last_bucket;
	__u64 old;

	task->jobs -= 1;
	task->total_exec_ns -= task->last_exec_ns;
	task->skipped -= task->last_skipped;
	task->continued += 1;
	if (bucket < PP_BUCKETS)
		task->histogram[bucket] -= 1;
	task->base_exec_ns -= task->exec_ns;
	task->on_cpu_ns = on_cpu;
	old = __sync_fetch_and_or(&task->job, PP_JOB_ACTIVE);
	if (!task->due_ns || old & PP_JOB_MISSED)
		return;
	/* Past its deadline the timer fires at once. */
	arm(slot, task->due_ns, now);
}

/* The job before has ended, so the timer keeps off until the job word says otherwise. */
static __always_inline void begin_job(struct pp_task *task, struct pp_watch *watch, __u32 slot, __u64 release, __u64 now, __u64 on_cpu)
{
	__u64 job = task->job;

	task->release_ns = release;
	task->due_ns = watch->deadline_ns ? release + watch->deadline_ns : 0;
	task->exec_ns = 0;
	task->on_cpu_ns = on_cpu;
	__sync_lock_test_and_set(&task->job, ((job >> PP_JOB_SHIFT) + 1) << PP_JOB_SHIFT | PP_JOB_ACTIVE);
	/* Past its deadline already (its release went unseen), the timer fires at once. */
	if (task->due_ns)
		arm(slot, task->due_ns, now);
}

static __always_inline int continues(struct pp_task *task, struct pp_watch *watch, __u64 release)
{
	return task->job && release < task->release_ns + watch->min_interarrival_ns;
}

static __noinline int released(struct task_struct *thread, __u32 pid)
{
	__u32 *slot = bpf_map_lookup_elem(&SLOTS, &pid), index;
	struct pp_watch *watch;
	struct pp_task *task;
	__u64 now, since = 0;

	if (!slot)
		return 0;
	index = *slot;
	watch = bpf_map_lookup_elem(&WATCHES, &index);
	task = bpf_map_lookup_elem(&TASKS, &index);
	if (!watch || !task)
		return 0;
	now = bpf_ktime_get_ns();
	if (bpf_core_field_exists(thread->on_cpu) && thread->on_cpu)
		since = now;
	if (continues(task, watch, now)) {
		if (!(task->job & PP_JOB_ACTIVE))
			continue_job(task, index, now, since);
		return 0;
	}
	if (task->job & PP_JOB_ACTIVE) {
		__u64 exec = task->exec_ns;

		/* The kernel's count isn't up to date while the thread is on a CPU. */
		if (task->on_cpu_ns && now > task->on_cpu_ns)
			exec += now - task->on_cpu_ns;
		account(task, watch, index, now, exec);
		end_job(task, watch, index, now);
		task->back_to_back += 1;
		task->base_exec_ns += exec;
		task->base_delay_ns = delay_of(thread);
	} else if (since) {
		/* It runs a job whose begin wasn't seen, so that its execution is unknown: counting begins when it next sleeps. */
		task->based = 0;
		return 0;
	} else {
		set_base(task, thread);
	}
	task->unseen_release = 0;
	begin_job(task, watch, index, now, now, since);
	return 0;
}

/* At a switch away from the thread. */
static __noinline int switched_out(struct task_struct *thread, __u32 pid, __u32 blocked)
{
	__u32 *slot = bpf_map_lookup_elem(&SLOTS, &pid), index;
	struct pp_watch *watch;
	struct pp_task *task;
	__u64 now, exec, spent, release;

	if (!slot)
		return 0;
	index = *slot;
	watch = bpf_map_lookup_elem(&WATCHES, &index);
	task = bpf_map_lookup_elem(&TASKS, &index);
	if (!watch || !task)
		return 0;
	if (!task->based) {
		/* The job that was under way when the watch began isn't counted; what follows its end is. */
		if (blocked)
			set_base(task, thread);
		return 0;
	}
	now = bpf_ktime_get_ns();
	/* What was counted by the clock of a job that went on into this one may be more than the scheduler's count, which leaves out interrupts and what
	 * the hypervisor took. */
	exec = thread->se.sum_exec_runtime;
	exec = exec > task->base_exec_ns ? exec - task->base_exec_ns : 0;
	spent = exec + delay_of(thread) - task->base_delay_ns;
	release = spent < now ? now - spent : 0;
	if (!(task->job & PP_JOB_ACTIVE)) {
		/* Neither its release nor the switch to it was seen. */
		if (continues(task, watch, release)) {
			exec += task->exec_ns;
			continue_job(task, index, now, 0);
		} else {
			task->unseen += 1;
			task->unseen_release = 1;
			begin_job(task, watch, index, release, now, 0);
		}
	} else if (task->unseen_release && release < task->release_ns) {
		if (task->due_ns)
			task->due_ns -= task->release_ns - release;
		task->release_ns = release;
		if (task->due_ns && !blocked)
			arm(index, task->due_ns, now);
	}
	account(task, watch, index, now, exec);
	if (blocked) {
		end_job(task, watch, index, now);
		set_base(task, thread);
	}
	return 0;
}

static __noinline int switched_in(__u32 pid)
{
	__u32 *slot = bpf_map_lookup_elem(&SLOTS, &pid), index;
	struct pp_watch *watch;
	struct pp_task *task;
	__u64 now;

	if (!slot)
		return 0;
	index = *slot;
	watch = bpf_map_lookup_elem(&WATCHES, &index);
	task = bpf_map_lookup_elem(&TASKS, &index);
	if (!watch || !task || !task->based)
		return 0;
	now = bpf_ktime_get_ns();
	if (task->job & PP_JOB_ACTIVE) {
		task->on_cpu_ns = now;
	} else if (continues(task, watch, now)) {
		continue_job(task, index, now, now);
	} else {
		/* Its release wasn't seen: it was at this moment at the latest; the next switch tells better. */
		task->unseen += 1;
		task->unseen_release = 1;
		begin_job(task, watch, index, now, now, now);
	}
	return 0;
}

/* A deadline has come. Whatever the timer was armed for, what counts is the job that is there now. */
static int on_deadline(void *map, __u32 *key, struct pp_timer *timer)
{
	__u32 slot = *key;
	struct pp_watch *watch = bpf_map_lookup_elem(&WATCHES, &slot);
	struct pp_task *task = bpf_map_lookup_elem(&TASKS, &slot);
	__u64 job, due, now, since, exec;

	if (!watch || !task)
		return 0;
	/* Atomic operations that return a value are full barriers: what is read between two equal job words belongs to that job. */
	job = __sync_fetch_and_add(&task->job, 0);
	if (!(job & PP_JOB_ACTIVE) || job & PP_JOB_MISSED)
		return 0;
	due = *(volatile __u64 *)&task->due_ns;
	now = bpf_ktime_get_ns();
	if (!due)
		return 0;
	if (now < due) {
		/* A later job's: its own start was overtaken by this call. */
		bpf_timer_start(&timer->timer, due - now, 0);
		return 0;
	}
	since = __sync_fetch_and_add(&task->on_cpu_ns, 0);
	exec = *(volatile __u64 *)&task->exec_ns;
	if (since && since == __sync_fetch_and_add(&task->on_cpu_ns, 0) && now > since)
		exec += now - since;
	if (watch->wcet_ns && exec > watch->wcet_ns && !(job & PP_JOB_OVERRAN)) {
		if (__sync_val_compare_and_swap(&task->job, job, job | PP_JOB_OVERRAN) == job) {
			job |= PP_JOB_OVERRAN;
			__sync_fetch_and_add(&task->overruns, 1);
			report_job(slot, PP_EVENT_OVERRUN, PP_FLAG_RUNNING, now);
		} else {
			/* The switch was quicker: it has marked the overrun, or the job has ended. */
			job = __sync_fetch_and_add(&task->job, 0);
			if (!(job & PP_JOB_ACTIVE) || job & PP_JOB_MISSED || *(volatile __u64 *)&task->due_ns != due)
				return 0;
		}
	}
	if (__sync_val_compare_and_swap(&task->job, job, job | PP_JOB_MISSED) != job) {
		/* Marked as overrun meanwhile, or ended; an ended job reports its own miss. */
		__u64 again = job | PP_JOB_OVERRAN;

		if (job == again || __sync_val_compare_and_swap(&task->job, again, again | PP_JOB_MISSED) != again)
			return 0;
	}
	__sync_fetch_and_add(&task->misses, 1);
	report_job(slot, PP_EVENT_MISS, PP_FLAG_RUNNING, now);
	return 0;
}

#define PP_EBUSY 16

/* In order: what is ready is the first so many. 1 ends the walk. */
static long init_timer(void *map, __u32 *key, struct pp_timer *timer, void *unused)
{
	long failed = bpf_timer_init(&timer->timer, &TIMERS, CLOCK_MONOTONIC);

	if (failed == -PP_EBUSY)
		return 0;
	if (failed || bpf_timer_set_callback(&timer->timer, on_deadline))
		return 1;
	count(PP_COUNT_TIMERS);
	return 0;
}

/* Read by the loader: a timer allocates memory, which must not happen under a run queue's lock. How many it makes is up to what memory can be had
 * without waiting; read again, it goes on. */
SEC("iter/task")
int init_timers(struct bpf_iter__task *ctx)
{
	if (ctx->meta->seq_num == 0)
		bpf_for_each_map_elem(&TIMERS, init_timer, 0, 0);
	return 0;
}

static __always_inline int woken(struct task_struct *thread)
{
	__u32 pid = thread->pid;

	if (filtered(pid))
		released(thread, pid);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int on_wakeup(__u64 *ctx)
{
	return woken((struct task_struct *)ctx[0]);
}

SEC("tp_btf/sched_wakeup_new")
int on_wakeup_new(__u64 *ctx)
{
	return woken((struct task_struct *)ctx[0]);
}

SEC("tp_btf/sched_switch")
int on_switch(__u64 *ctx)
{
	struct task_struct *prev = (struct task_struct *)ctx[1], *next = (struct task_struct *)ctx[2];
	__u32 out = prev->pid, in = next->pid;

	if (filtered(out)) {
		/* Preempted on its way to sleep, a thread is still runnable. A concurrent wake-up can't set the state to running before the switch is done. */
		__u32 blocked = !(ctx[0] & 1);

		if (bpf_core_field_exists(prev->__state))
			blocked = blocked && prev->__state;
		else
			blocked = blocked && ((struct task_struct___old *)prev)->state;
		switched_out(prev, out, blocked);
	}
	if (filtered(in))
		switched_in(in);
	return 0;
}

/* The cookie under which the current process is followed, by itself or by its cgroup. */
static __always_inline int followed(__u32 tgid, __u64 *cookie)
{
	__u64 *found = bpf_map_lookup_elem(&FOLLOWED, &tgid), cgroup;

	if (!found) {
		cgroup = bpf_get_current_cgroup_id();
		found = bpf_map_lookup_elem(&CGROUPS, &cgroup);
	}
	if (!found)
		return 0;
	*cookie = *found;
	return 1;
}

static __always_inline void tell(struct task_struct *task, __u32 pid, __u32 kind, __u32 flags, __u32 parent, __u64 cookie)
{
	struct pp_event *event = reserve(&EVENTS, PP_COUNT_EVENTS_LOST, kind, flags, pid, cookie, bpf_ktime_get_ns());

	if (!event)
		return;
	event->tgid = task->tgid;
	event->parent_tgid = parent;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), task->comm);
	bpf_ringbuf_submit(event, 0);
}

/* The id of a thread is nobody's any more. If it was watched, the job under way ends here; counters stay until the loader gives the slot to another. */
static __always_inline int give_up(struct task_struct *task, __u32 pid, __u64 *cookie)
{
	__u32 *slot, index;
	struct pp_watch *watch;

	if (!filtered(pid))
		return 0;
	slot = bpf_map_lookup_elem(&SLOTS, &pid);
	if (!slot)
		return 0;
	index = *slot;
	watch = bpf_map_lookup_elem(&WATCHES, &index);
	switched_out(task, pid, 1);
	if (watch)
		*cookie = watch->cookie;
	bpf_map_delete_elem(&SLOTS, &pid);
	return 1;
}

SEC("tp_btf/sched_process_fork")
int on_fork(__u64 *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx[0], *child = (struct task_struct *)ctx[1];
	__u32 parent_tgid = parent->tgid, tgid = child->tgid;
	__u64 cookie;

	if (!followed(parent_tgid, &cookie))
		return 0;
	if (tgid != parent_tgid && bpf_map_update_elem(&FOLLOWED, &tgid, &cookie, BPF_ANY))
		count(PP_COUNT_FOLLOWS_LOST);
	tell(child, child->pid, PP_EVENT_FORK, 0, parent_tgid, cookie);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int on_exec(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	/* A thread that isn't its process' first takes that one's id. Its own is free then, and nothing else tells of it (de_thread in fs/exec.c). */
	__u32 pid = task->pid, before = (__u32)ctx[1];
	__u64 cookie = 0, gone = 0;
	int given_up = before != pid && give_up(task, before, &gone);
	int told = followed(task->tgid, &cookie);

	if (given_up)
		tell(task, before, PP_EVENT_EXIT, 0, 0, gone);
	else if (told && before != pid)
		tell(task, before, PP_EVENT_EXIT, 0, 0, cookie);
	if (told)
		tell(task, pid, PP_EVENT_EXEC, 0, 0, cookie);
	return 0;
}

SEC("tp_btf/task_rename")
int on_rename(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	struct pp_event *event;
	__u64 cookie;

	if (!followed(task->tgid, &cookie))
		return 0;
	event = reserve(&EVENTS, PP_COUNT_EVENTS_LOST, PP_EVENT_RENAME, 0, task->pid, cookie, bpf_ktime_get_ns());
	if (!event)
		return 0;
	event->tgid = task->tgid;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), (const void *)ctx[1]);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int on_exit(__u64 *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx[0];
	__u32 pid = task->pid, tgid = task->tgid, dead = task->signal->live.counter == 0;
	__u64 cookie = 0;
	int told = followed(tgid, &cookie);

	if (give_up(task, pid, &cookie) || told)
		tell(task, pid, PP_EVENT_EXIT, dead ? PP_FLAG_GROUP_DEAD : 0, 0, cookie);
	if (dead)
		bpf_map_delete_elem(&FOLLOWED, &tgid);
	return 0;
}
