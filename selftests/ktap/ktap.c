// SPDX-License-Identifier: GPL-2.0
/*
 * The KTAP harness: main(), one child per test, time limits, reporting.
 *
 * State: the list of tests in the order of the file, and a page shared with
 * the child that holds its skip reason. A child's exit status is its result.
 * Read next: ktap.h.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ktap.h"

enum { RESULT_PASS, RESULT_FAIL, RESULT_SKIP };

/*
 * Limits are there to end what hangs, not to measure: an emulated machine on a
 * busy host may take so many times as long as usual.
 */
#define SLOW 3

/* How long WAIT_FOR() looks at its condition, and the lead of the state dump. */
#define WAIT_LIMIT_NS (40ull * 1000000000)
#define DUMP_LEAD_SECONDS 5

/* How many failures of a test are shown. */
#define SHOWN 10

/* Senders that race with a guest pause after so many events. */
#define PACE_EVERY 32

void (*ktap_on_start)(void);
void (*ktap_on_fail)(void);
unsigned int ktap_failures;

/* LeakSanitizer's, in programs that are linked with it. */
int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

static struct ktap_test *tests, **tests_end = &tests;
static char *skip_reason;
static char about[128];

void ktap_register(struct ktap_test *test)
{
	*tests_end = test;
	tests_end = &test->next;
}

static void note(const char *fmt, va_list args)
{
	char text[1024];
	int n;

	n = vsnprintf(text, sizeof(text) - 1, fmt, args);
	if (n < 0)
		return;
	dprintf(STDOUT_FILENO, "# %s\n", text);
}

void ktap_note(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	note(fmt, args);
	va_end(args);
}

static void fail_now(void)
{
	if (ktap_on_fail)
		ktap_on_fail();
	_exit(RESULT_FAIL);
}

void ktap_about(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(about, sizeof(about), fmt, args);
	va_end(args);
}

/* Counts a failure; whether it is to be shown. */
static bool failed(void)
{
	return __atomic_fetch_add(&ktap_failures, 1, __ATOMIC_RELAXED) < SHOWN;
}

static bool failed_at(const struct ktap_site *site, bool shown)
{
	if (shown && about[0])
		ktap_note("    about: %s", about);
	if (site->fatal)
		fail_now();
	return false;
}

bool ktap_fail_cmp(const struct ktap_site *site, long long want, long long seen)
{
	bool shown = failed() || site->fatal;

	if (shown)
		ktap_note("%s:%d: %s: 0x%llx, 0x%llx", site->file, site->line,
			  site->text, want, seen);
	return failed_at(site, shown);
}

static const char *errno_name(int err)
{
	const char *name = strerrorname_np(err);

	return err && name ? name : "no error";
}

void ktap_fail_errno(const struct ktap_site *site, int want, long ret, int err)
{
	bool shown = failed() || site->fatal;

	if (shown)
		ktap_note("%s:%d: %s: want %s, returned %ld, %s", site->file,
			  site->line, site->text, errno_name(want), ret,
			  errno_name(ret == -1 ? err : 0));
	failed_at(site, shown);
}

bool ktap_fail_note(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	if (!failed())
		return false;
	ktap_note("%s:%d: failed:", file, line);
	va_start(args, fmt);
	note(fmt, args);
	va_end(args);
	return false;
}

void ktap_fail(const char *file, int line, const char *fmt, ...)
{
	va_list args;

	ktap_note("%s:%d: failed:", file, line);
	va_start(args, fmt);
	note(fmt, args);
	va_end(args);
	fail_now();
	_exit(RESULT_FAIL);
}

void ktap_skip(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(skip_reason, 4096, fmt, args);
	va_end(args);
	_exit(ktap_failures ? RESULT_FAIL : RESULT_SKIP);
}

/* xorshift64 */
unsigned long long ktap_random(void)
{
	static uint64_t state = 88172645463325252ull;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

uint64_t ktap_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

void ktap_pace(uint32_t round)
{
	struct timespec pause = { 0, 300000 };

	if (round % PACE_EVERY == 0)
		nanosleep(&pause, NULL);
}

bool ktap_wait(struct ktap_wait *wait)
{
	struct timespec pause = { 0, 100000 };

	if (!wait->until_ns)
		wait->until_ns = ktap_now_ns() + WAIT_LIMIT_NS * SLOW;
	nanosleep(&pause, NULL);
	return ktap_now_ns() < wait->until_ns;
}

/* Seconds for a test; $MKVM_TEST_SECONDS may lower it, where tests are expected to hang. */
static unsigned int limit_of(const struct ktap_test *test)
{
	const char *lower = getenv("MKVM_TEST_SECONDS");
	unsigned long seconds = lower ? strtoul(lower, NULL, 10) : 0;

	return seconds && seconds < test->limit ? seconds : test->limit * SLOW;
}

static void on_alarm(int sig)
{
	(void)sig;
	ktap_note("the time limit is near");
	fail_now();
}

static void run_child(const struct ktap_test *test)
{
	unsigned int limit = limit_of(test);
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setpgid(0, 0);
	signal(SIGALRM, on_alarm);
	alarm(limit > DUMP_LEAD_SECONDS ? limit - DUMP_LEAD_SECONDS : limit);
	if (ktap_on_start)
		ktap_on_start();
	test->body();
	if (__lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check())
		ktap_failures++;
	_exit(ktap_failures ? RESULT_FAIL : RESULT_PASS);
}

/* Waits for the child; false when the time limit came first. SIGCHLD is blocked. */
static bool wait_child(pid_t pid, unsigned int limit, int *status)
{
	uint64_t until = ktap_now_ns() + limit * 1000000000ull;
	sigset_t chld;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	for (;;) {
		uint64_t now = ktap_now_ns();
		struct timespec left;

		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		if (now >= until)
			return false;
		left.tv_sec = (until - now) / 1000000000;
		left.tv_nsec = (until - now) % 1000000000;
		sigtimedwait(&chld, NULL, &left);
	}
}

static int run_test(const struct ktap_test *test)
{
	unsigned int limit = limit_of(test);
	int status = 0;
	bool in_time;
	pid_t pid;

	skip_reason[0] = 0;
	pid = fork();
	if (pid < 0) {
		ktap_note("fork: %s", strerror(errno));
		return RESULT_FAIL;
	}
	if (!pid)
		run_child(test);
	in_time = wait_child(pid, limit, &status);
	kill(-pid, SIGKILL);
	if (!in_time) {
		ktap_note("the time limit of %u s has passed", limit);
		waitpid(pid, &status, 0);
		return RESULT_FAIL;
	}
	if (WIFSIGNALED(status)) {
		ktap_note("ended by signal %d", WTERMSIG(status));
		return RESULT_FAIL;
	}
	return WEXITSTATUS(status);
}

static void report(int number, const struct ktap_test *test, int result)
{
	if (result == RESULT_SKIP)
		dprintf(STDOUT_FILENO, "ok %d %s # SKIP %s\n", number,
			test->name, skip_reason);
	else
		dprintf(STDOUT_FILENO, "%s %d %s\n",
			result == RESULT_PASS ? "ok" : "not ok", number,
			test->name);
}

/* A test runs when no word was given, or one of the words is in its name. */
static bool chosen(const struct ktap_test *test, char **words)
{
	if (!*words)
		return true;
	for (; *words; words++)
		if (strstr(test->name, *words))
			return true;
	return false;
}

static int list_tests(void)
{
	for (struct ktap_test *test = tests; test; test = test->next)
		printf("%s\n", test->name);
	return 0;
}

int main(int argc, char **argv)
{
	int count[3] = { 0 }, total = 0, number = 0;
	sigset_t chld;

	if (argc == 2 && !strcmp(argv[1], "--list"))
		return list_tests();
	for (struct ktap_test *test = tests; test; test = test->next)
		total += chosen(test, argv + 1);
	if (!total) {
		fprintf(stderr, "%s: no test has such a name: see --list\n",
			argv[0]);
		return 2;
	}
	skip_reason = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (skip_reason == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);

	setvbuf(stdout, NULL, _IOLBF, 0);	/* a test's own printf(), which may end anyhow */
	dprintf(STDOUT_FILENO, "KTAP version 1\n1..%d\n", total);
	for (struct ktap_test *test = tests; test; test = test->next) {
		int result;

		if (!chosen(test, argv + 1))
			continue;
		result = run_test(test);
		if (result != RESULT_PASS && result != RESULT_SKIP)
			result = RESULT_FAIL;
		count[result]++;
		report(++number, test, result);
	}
	dprintf(STDOUT_FILENO, "# Totals: pass:%d fail:%d skip:%d\n",
		count[RESULT_PASS], count[RESULT_FAIL], count[RESULT_SKIP]);
	return count[RESULT_FAIL] ? 1 : 0;
}
