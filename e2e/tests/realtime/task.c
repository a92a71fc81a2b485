/* A periodic task for tests: `task NAME PERIOD_US [later|busy|exec]`.
 *
 * A thread called NAME sleeps until each period begins; `later` starts it at SIGUSR1 only; `busy` has its first job compute until it is SCHED_FIFO, and
 * two periods more. SIGUSR2 has its next job compute for three periods; with `exec` it executes this program anew, as `later`. SIGTERM ends it with 0. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t begin, overrun, end;
static int busy, executes;
static const char *name;
static long period_ns;

static void on_signal(int number)
{
	if (number == SIGUSR1)
		begin = 1;
	else if (number == SIGUSR2)
		overrun = 1;
	else
		end = 1;
}

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* What a thread does before its loop, until its settings come and beyond. */
static void start_up(void)
{
	long long began = now(), until;
	int policy;

	do
		policy = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;
	while (policy != SCHED_FIFO && now() < began + 10000000000LL);
	printf("settings came after %lld us\n", (now() - began) / 1000);
	fflush(stdout);
	if (policy != SCHED_FIFO)
		_exit(3);
	until = now() + 2 * period_ns;
	while (now() < until)
		;
}

static void *run(void *unused)
{
	long long next;
	(void)unused;
	prctl(PR_SET_NAME, name);
	if (busy)
		start_up();
	next = now();
	for (;;) {
		struct timespec t;
		next += period_ns;
		if (next < now())
			next = now() + period_ns;
		t.tv_sec = next / 1000000000LL;
		t.tv_nsec = next % 1000000000LL;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		if (overrun && executes)
			execl("/task", "/task", "next", "20000", "later", NULL);
		if (overrun) {
			long long until = now() + 3 * period_ns;
			overrun = 0;
			while (now() < until)
				;
		}
	}
	return NULL;
}

int main(int count, char **arguments)
{
	struct sigaction action;
	int started = 0;
	memset(&action, 0, sizeof action);
	action.sa_handler = on_signal;
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (count < 3)
		return 2;
	name = arguments[1];
	period_ns = atol(arguments[2]) * 1000;
	busy = count > 3 && !strcmp(arguments[3], "busy");
	executes = count > 3 && !strcmp(arguments[3], "exec");
	begin = count < 4 || busy || executes;
	while (!end) {
		struct timespec pause = { 0, 2000000 };
		if (begin && !started) {
			pthread_t thread;
			started = 1;
			pthread_create(&thread, NULL, run, NULL);
		}
		nanosleep(&pause, NULL);
	}
	return 0;
}
