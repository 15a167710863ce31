// SPDX-License-Identifier: GPL-2.0
/*
 * testpoint.c - holds threads at test points. It is not part of an installed module.
 *
 * State: the module parameters. Read next: testpoint.h.
 */
#include <linux/ktime.h>
#include <linux/moduleparam.h>

#include "testpoint.h"

static int test_hold[MKVM_NR_POINTS], test_held[MKVM_NR_POINTS];

module_param_array(test_hold, int, NULL, 0600);
module_param_array(test_held, int, NULL, 0400);

static int test_refuse, test_flushes[4];

module_param(test_refuse, int, 0600);
module_param_array(test_flushes, int, NULL, 0400);

static ulong test_longest[2];		/* ns, entries; a test writes 0 */
static u64 hold_since;
static ulong hold_steps;

module_param_array(test_longest, ulong, NULL, 0600);

/* Spins while the point is held, because callers may be in a state in which they must not sleep. */
void mkvm_test_point(enum mkvm_test_point point)
{
	u64 end = ktime_get_ns() + 10 * NSEC_PER_SEC;

	if (!READ_ONCE(test_hold[point]))
		return;
	WRITE_ONCE(test_held[point], test_held[point] + 1);
	while (READ_ONCE(test_hold[point]) && ktime_get_ns() < end)
		cpu_relax();
}

/* See testpoint.h. Tests run one vCPU at a time while they look at the counters. */
bool mkvm_test_refuse(unsigned int flush)
{
	WRITE_ONCE(test_flushes[flush], test_flushes[flush] + 1);
	return READ_ONCE(test_refuse);
}

/* See testpoint.h. Tests have one VM while they look at this, so mmu_lock protects it. */
void mkvm_test_hold_begin(void)
{
	hold_steps = 0;
	hold_since = ktime_get_ns();
}

void mkvm_test_hold_step(void)
{
	hold_steps++;
}

void mkvm_test_hold_end(void)
{
	test_longest[0] = max_t(ulong, test_longest[0], ktime_get_ns() - hold_since);
	test_longest[1] = max(test_longest[1], hold_steps);
}
