/* SPDX-License-Identifier: GPL-2.0 */
/*
 * ktap.h - the unit tests' frame: tests in an array, results in KTAP.
 *
 *   TEST(line_stays_high_while_one_source_holds_it)
 *   {
 *           EXPECT_EQ(mkvm_pic_output(pic), true);
 *   }
 *   TEST_MAIN()
 *
 * EXPECT_* note a failure and go on, ASSERT_* end the test. TEST registers
 * itself through a constructor, in the order of the file. An argument of the
 * test program picks the tests whose name contains it.
 */
#ifndef KTAP_H
#define KTAP_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct ktap_test {
	const char *name;
	void (*fn)(void);
	struct ktap_test *next;
};

static struct ktap_test *ktap_first, **ktap_last = &ktap_first;
static int ktap_failures;		/* of the test that runs */
static const char *ktap_skipped;	/* its reason, when it skips */
static unsigned long long ktap_seed __attribute__((__unused__)) = 88172645463325252ULL;

#define TEST(id)								\
	static void test_##id(void);						\
	static struct ktap_test ktap_##id = { #id, test_##id, NULL };		\
	static void __attribute__((__constructor__)) ktap_add_##id(void)	\
	{ *ktap_last = &ktap_##id; ktap_last = &ktap_##id.next; }		\
	static void test_##id(void)

#define KTAP_FAIL(fmt, ...) \
	(++ktap_failures <= 10 ? (void)printf("# %s:%d: " fmt "\n", __FILE__, __LINE__, ##__VA_ARGS__) : (void)0)
#define EXPECT_TRUE(cond)	((cond) ? true : (KTAP_FAIL("expected: %s", #cond), false))
#define EXPECT_FALSE(cond)	EXPECT_TRUE(!(cond))
#define KTAP_CMP(a, op, b) ({							\
	long long ktap_a = (long long)(a), ktap_b = (long long)(b);		\
	bool ktap_ok = ktap_a op ktap_b;					\
	if (!ktap_ok)								\
		KTAP_FAIL("expected %s %s %s: %#llx, %#llx", #a, #op, #b, ktap_a, ktap_b); \
	ktap_ok; })
#define EXPECT_EQ(a, b)		KTAP_CMP(a, ==, b)
#define EXPECT_NE(a, b)		KTAP_CMP(a, !=, b)
#define EXPECT_LE(a, b)		KTAP_CMP(a, <=, b)
#define EXPECT_GE(a, b)		KTAP_CMP(a, >=, b)
#define EXPECT_LT(a, b)		KTAP_CMP(a, <, b)
#define EXPECT_GT(a, b)		KTAP_CMP(a, >, b)
#define ASSERT_TRUE(cond)	do { if (!EXPECT_TRUE(cond)) return; } while (0)
#define ASSERT_EQ(a, b)		do { if (!EXPECT_EQ(a, b)) return; } while (0)
#define ASSERT_NE(a, b)		do { if (!EXPECT_NE(a, b)) return; } while (0)
#define ASSERT_LE(a, b)		do { if (!EXPECT_LE(a, b)) return; } while (0)
#define ASSERT_GE(a, b)		do { if (!EXPECT_GE(a, b)) return; } while (0)
#define SKIP(reason)		do { ktap_skipped = (reason); return; } while (0)

/* A repeatable random number (xorshift64). */
static inline unsigned long long ktap_random(void)
{
	ktap_seed ^= ktap_seed << 13;
	ktap_seed ^= ktap_seed >> 7;
	ktap_seed ^= ktap_seed << 17;
	return ktap_seed;
}

static inline int ktap_main(const char *filter)
{
	int nr = 0, pass = 0, fail = 0, skip = 0;
	struct ktap_test *t;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (t = ktap_first; t; t = t->next)
		nr += !filter || strstr(t->name, filter);
	printf("KTAP version 1\n1..%d\n", nr);
	nr = 0;
	for (t = ktap_first; t; t = t->next) {
		if (filter && !strstr(t->name, filter))
			continue;
		ktap_failures = 0;
		ktap_skipped = NULL;
		t->fn();
		printf("%s %d %s%s%s\n", ktap_failures ? "not ok" : "ok", ++nr, t->name,
		       ktap_skipped ? " # SKIP " : "", ktap_skipped ? ktap_skipped : "");
		if (ktap_failures)
			fail++;
		else if (ktap_skipped)
			skip++;
		else
			pass++;
	}
	printf("# Totals: pass:%d fail:%d xfail:0 xpass:0 skip:%d error:0\n", pass, fail, skip);
	return fail || !nr;
}

#define TEST_MAIN() \
	int main(int argc, char **argv) { return ktap_main(argc > 1 ? argv[1] : NULL); }

#endif
