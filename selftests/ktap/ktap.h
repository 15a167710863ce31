/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A small test harness that speaks KTAP.
 *
 * TEST(name) { ... } defines a test; ktap.c has main(), which runs each
 * test in a child process of its own with a time limit, so that a test may
 * crash, hang or leave file descriptors open without harm to the next one.
 * EXPECT_* notes a failure, goes on and is false then; ASSERT_* ends the test;
 * SKIP() ends it with the reason why it cannot run here. What is wanted comes
 * first, what was seen second.
 *
 * kselftests and unit tests use it; ktap.py and ktap.sh are the same for Python
 * and the shell.
 *
 * State: the list of tests of this binary, and this test's failures.
 * Read next: ktap.c, then ../kvm/include/vm.h.
 */
#ifndef KTAP_H
#define KTAP_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

struct ktap_test {
	const char *name;
	void (*body)(void);
	unsigned int limit;		/* seconds */
	struct ktap_test *next;
};

/* Where and how a value was checked; values follow as arguments. */
struct ktap_site {
	const char *file;
	int line;
	bool fatal;
	const char *text;
};

#ifndef KTAP_DEFAULT_LIMIT
#define KTAP_DEFAULT_LIMIT 60
#endif

#define TEST(name) TEST_LIMIT(name, KTAP_DEFAULT_LIMIT)

/*
 * A test that may take up to seconds, where the default is too short. Slow
 * machines get three times as much.
 */
#define TEST_LIMIT(name, seconds)					\
	static void name(void);						\
	static struct ktap_test ktap_test_##name = {			\
		#name, name, seconds, 0					\
	};								\
	__attribute__((constructor)) static void ktap_add_##name(void)	\
	{								\
		ktap_register(&ktap_test_##name);			\
	}								\
	static void name(void)

void ktap_register(struct ktap_test *test);

/* Prints one diagnostic line. */
void ktap_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* In a loop: which round this is, to be shown with a failure. */
void ktap_about(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* How many failures this test has noted. */
extern unsigned int ktap_failures;

/*
 * The ways to fail; each returns only when the site is not fatal, and then
 * false. Of a test's failures the first ten are shown.
 */
bool ktap_fail_cmp(const struct ktap_site *site, long long want, long long seen);
void ktap_fail_errno(const struct ktap_site *site, int want, long ret, int err);
bool ktap_fail_note(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
void ktap_fail(const char *file, int line, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 3, 4)));

void ktap_skip(const char *fmt, ...)
	__attribute__((noreturn, format(printf, 1, 2)));

/*
 * Set by the library that sits on top: called in the child before the test,
 * after a fatal failure, and (from a signal handler) shortly before the time
 * limit, to say what state things are in.
 */
extern void (*ktap_on_start)(void);
extern void (*ktap_on_fail)(void);

#define SKIP(...) ktap_skip(__VA_ARGS__)
#define FAIL(...) ktap_fail(__FILE__, __LINE__, __VA_ARGS__)

/* Where no comparison says it: notes a failure, with these words, and goes on. */
#define NOTE_FAILURE(...) ktap_fail_note(__FILE__, __LINE__, __VA_ARGS__)

#define KTAP_CMP(stop, want, op, seen, text) ({				\
	static const struct ktap_site site_ = {				\
		__FILE__, __LINE__, stop, text				\
	};								\
	long long want_ = (long long)(want);				\
	long long seen_ = (long long)(seen);				\
	want_ op seen_ || ktap_fail_cmp(&site_, want_, seen_);		\
})

#define KTAP_ERRNO(stop, want, call, text) do {				\
	static const struct ktap_site site_ = {				\
		__FILE__, __LINE__, stop, text				\
	};								\
	int want_ = (want);						\
	errno = 0;							\
	long ret_ = (long)(call);					\
	if (want_ ? (ret_ != -1 || errno != want_) : ret_ < 0)		\
		ktap_fail_errno(&site_, want_, ret_, errno);		\
} while (0)

#define EXPECT_EQ(want, seen) KTAP_CMP(false, want, ==, seen, #want " == " #seen)
#define EXPECT_NE(want, seen) KTAP_CMP(false, want, !=, seen, #want " != " #seen)
#define EXPECT_LE(want, seen) KTAP_CMP(false, want, <=, seen, #want " <= " #seen)
#define EXPECT_LT(want, seen) KTAP_CMP(false, want, <, seen, #want " < " #seen)
#define EXPECT_GE(want, seen) KTAP_CMP(false, want, >=, seen, #want " >= " #seen)
#define EXPECT_GT(want, seen) KTAP_CMP(false, want, >, seen, #want " > " #seen)
#define ASSERT_EQ(want, seen) KTAP_CMP(true, want, ==, seen, #want " == " #seen)
#define ASSERT_NE(want, seen) KTAP_CMP(true, want, !=, seen, #want " != " #seen)
#define ASSERT_LE(want, seen) KTAP_CMP(true, want, <=, seen, #want " <= " #seen)
#define ASSERT_LT(want, seen) KTAP_CMP(true, want, <, seen, #want " < " #seen)
#define ASSERT_GE(want, seen) KTAP_CMP(true, want, >=, seen, #want " >= " #seen)
#define ASSERT_GT(want, seen) KTAP_CMP(true, want, >, seen, #want " > " #seen)
#define EXPECT_TRUE(cond) KTAP_CMP(false, true, ==, !!(cond), #cond)
#define EXPECT_FALSE(cond) KTAP_CMP(false, false, ==, !!(cond), "!(" #cond ")")
#define ASSERT_TRUE(cond) KTAP_CMP(true, true, ==, !!(cond), #cond)
#define ASSERT_FALSE(cond) KTAP_CMP(true, false, ==, !!(cond), "!(" #cond ")")

/* The call gives no error; or it gives -1 and just this errno. */
#define EXPECT_OK(call) KTAP_ERRNO(false, 0, call, #call)
#define ASSERT_OK(call) KTAP_ERRNO(true, 0, call, #call)
#define EXPECT_ERRNO(err, call) KTAP_ERRNO(false, err, call, #call)
#define ASSERT_ERRNO(err, call) KTAP_ERRNO(true, err, call, #call)

/*
 * Waits until the condition holds, looking at it again and again; a test
 * whose condition never comes fails here, with its text. The pause keeps the
 * other threads of a small machine going and decides nothing.
 */
#define WAIT_FOR(cond) do {						\
	struct ktap_wait wait_ = { 0 };					\
	while (!(cond))							\
		if (!ktap_wait(&wait_))					\
			ktap_fail(__FILE__, __LINE__,			\
				  "never came true: %s", #cond);	\
} while (0)

struct ktap_wait {
	uint64_t until_ns;
};

bool ktap_wait(struct ktap_wait *wait);

/*
 * For a thread that sends events as fast as it can: called with its round, it
 * pauses now and then. Without that a guest may be interrupted again at each
 * end of its handler, for ever, on real processors too.
 */
void ktap_pace(uint32_t round);

uint64_t ktap_now_ns(void);

/* A random number; the numbers are the same in each run of a test. */
unsigned long long ktap_random(void);

#endif
