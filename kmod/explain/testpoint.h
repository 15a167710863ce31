/* SPDX-License-Identifier: GPL-2.0 */
/*
 * testpoint.h - places where a test can hold a thread, to make a race certain.
 *
 * They are compiled in only with MKVM_TEST_POINTS=y (kmod/Kbuild). The module parameter
 * test_hold holds each thread that reaches point n while its n-th number is not 0, for ten
 * seconds at most; test_held counts those threads. While test_refuse is not 0, the CPU refuses each
 * entry of a guest; test_flushes counts entries by what they flush. test_longest has the longest
 * time in ns for which mmu_lock was held to remove mappings, and the most entries visited then.
 *
 * Read next: testpoint.c, selftests/kvm/testpoints.c.
 */
#ifndef MKVM_TESTPOINT_H
#define MKVM_TESTPOINT_H

#include <linux/types.h>

enum mkvm_test_point {
	MKVM_POINT_HLT, /* HLT is decoded, mp_state not yet HALTED */
	MKVM_POINT_BLOCK, /* the vCPU is not runnable, and its thread not yet asleep */
	MKVM_POINT_EMULATE, /* an instruction is to be emulated, its bytes not yet fetched */
	MKVM_POINT_REPLACE, /* an operand in RAM was read, what replaces it not yet written */
	/* an entry of the guest's page tables was read, its A or D bit not yet set */
	MKVM_POINT_WALK,
	MKVM_POINT_SKIP, /* an intercepted instruction was done, its length not yet looked up */
	MKVM_POINT_LOADED_MSR, /* a register's value is noted as the guest's, not yet in the CPU */
	/* a slot's part of a range that the host takes away is zapped, not yet flushed */
	MKVM_POINT_ZAP,
	MKVM_POINT_FREE, /* tables were cut off and flushed, and are not yet freed */
	MKVM_NR_POINTS,
};

#ifdef MKVM_TEST_POINTS
void mkvm_test_point(enum mkvm_test_point point);	/* spins: where a delay is harmless */
bool mkvm_test_refuse(unsigned int flush);
void mkvm_test_hold_begin(void);
void mkvm_test_hold_step(void);
void mkvm_test_hold_end(void);
#else
static inline void mkvm_test_point(enum mkvm_test_point point)
{
}

/*
 * Called before each entry. flush, below 4: SVM: the value of TLB_CONTROL; VMX: 1 after an INVEPT,
 * else 0. Return: true if the caller must make the CPU refuse the entry. Context: interrupts off.
 */
static inline bool mkvm_test_refuse(unsigned int flush)
{
	return false;
}

/*
 * Around a hold of mmu_lock that removes mappings or collects accessed bits, and for each entry of
 * the second-level tables that is visited in it.
 */
static inline void mkvm_test_hold_begin(void)
{
}

static inline void mkvm_test_hold_step(void)
{
}

static inline void mkvm_test_hold_end(void)
{
}
#endif

#endif
