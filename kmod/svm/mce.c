// SPDX-License-Identifier: GPL-2.0
/*
 * mce.c - handles machine checks that arrive while the guest runs. Most are passed to the host. One
 * is caused by the guest itself, and shuts the guest down.
 *
 * State: only the CPU's machine-check registers.
 *
 * AMD Revision Guide for Family 10h, erratum 383, "CPU Core May Machine Check When System
 * Software Changes Page Tables Dynamically"; APM vol. 2, "Machine Check Architecture". Read
 * next: svm.c.
 */
#include <asm/cpufeature.h>
#include <asm/mce.h>
#include <asm/msr.h>

#include "compat.h"
#include "mce.h"
#include "svm.h"

#define DC_CFG_CHECKS_TLB	BIT_ULL(47)	/* multiple matches always raise #MC */
#define NR_BANKS		6		/* of these CPUs */

/* svm_mce_cpu_enable - make erratum 383 raise a machine check. Context: preemption off. */
void svm_mce_cpu_enable(void)
{
	u64 cfg;

	if (boot_cpu_has_bug(X86_BUG_AMD_TLB_MMATCH) && !rdmsrl_safe(MSR_AMD64_DC_CFG, &cfg))
		wrmsrl_safe(MSR_AMD64_DC_CFG, cfg | DC_CFG_CHECKS_TLB);
}

/*
 * If the guest has caused erratum 383, clears the machine-check registers and flushes the TLB.
 * Returns false for any other machine check.
 */
static bool forget_erratum_383(void)
{
	unsigned long cr4 = __read_cr4();
	u64 status;
	int i;

	if (!boot_cpu_has_bug(X86_BUG_AMD_TLB_MMATCH) ||
	    rdmsrl_safe(MSR_IA32_MCx_STATUS(0), &status) || !svm_mce_is_erratum_383(status))
		return false;
	for (i = 0; i < NR_BANKS; i++)
		wrmsrl_safe(MSR_IA32_MCx_STATUS(i), 0);
	if (!rdmsrl_safe(MSR_IA32_MCG_STATUS, &status))
		wrmsrl_safe(MSR_IA32_MCG_STATUS, status & ~MCG_STATUS_MCIP);
	mkvm_write_cr4(cr4 ^ X86_CR4_PGE);	/* flushes global entries as well */
	mkvm_write_cr4(cr4);
	return true;
}

/*
 * svm_machine_check - handle a machine check that the intercept has held back
 *
 * Context: right after the exit, interrupts off.
 */
void svm_machine_check(struct svm_vcpu *svm)
{
	if (!forget_erratum_383()) {
		mkvm_machine_check();
		return;
	}
	pr_err_ratelimited("mkvm: a guest's page tables have raised a machine check (erratum 383); the guest is shut down\n");
	svm->vcpu.ev.triple_fault = true;
}
