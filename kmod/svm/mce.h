/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mce.h - machine checks that arrive while the guest runs. Read next: mce.c.
 */
#ifndef MKVM_SVM_MCE_H
#define MKVM_SVM_MCE_H

#include <linux/types.h>

#define SVM_MCE_OVERFLOW	(1ULL << 62)	/* an earlier error was not read */
#define SVM_MCE_TLB_MULTIMATCH	0xb600000000010015ULL	/* uncorrected, in the data TLB */

/* Is this the MC0_STATUS of a machine check that a guest can cause by changing its page tables? */
static inline bool svm_mce_is_erratum_383(u64 mc0_status)
{
	return (mc0_status & ~SVM_MCE_OVERFLOW) == SVM_MCE_TLB_MULTIMATCH;
}

struct svm_vcpu;
void svm_mce_cpu_enable(void);
void svm_machine_check(struct svm_vcpu *svm);

#endif
