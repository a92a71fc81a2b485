/* Wake-up latency, as cyclictest measures it: `wake DELAY_MS PERIOD_US COUNT` sleeps until each period begins and prints, once, how late it woke:
 * `p999_ns=… max_ns=…`. `wake hog` computes for ever. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void until(long long at)
{
	struct timespec t = { at / 1000000000LL, at % 1000000000LL };
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int ascending(const void *a, const void *b)
{
	long long x = *(const long long *)a, y = *(const long long *)b;
	return (x > y) - (x < y);
}

int main(int count, char **arguments)
{
	signal(SIGTERM, _exit);
	if (count == 2 && !strcmp(arguments[1], "hog"))
		for (volatile unsigned long n = 0;; n++)
			;
	if (count != 4)
		return 2;
	long long period = atoll(arguments[2]) * 1000, wakes = atoll(arguments[3]);
	long long *late = calloc(wakes, sizeof *late);
	memset(late, 1, wakes * sizeof *late);
	mlockall(MCL_CURRENT);
	until(now() + atoll(arguments[1]) * 1000000);
	long long next = now();
	for (long long i = 0; i < wakes; i++) {
		next += period;
		until(next);
		late[i] = now() - next;
		if (late[i] > period)
			next = now();
	}
	qsort(late, wakes, sizeof *late, ascending);
	printf("p999_ns=%lld max_ns=%lld\n", late[wakes * 999 / 1000], late[wakes - 1]);
	fflush(stdout);
	pause();
	return 0;
}
