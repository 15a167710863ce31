// SPDX-License-Identifier: GPL-2.0
/*
 * asid.c - allocates ASIDs, per CPU. When they are used up, allocation starts again in a new
 * generation, whose first VMRUN flushes the TLB.
 *
 * State: struct svm_asids in svm_cpus, struct svm_asid in struct svm_vcpu.
 *
 * AMD APM vol. 2, "TLB Control". Read next: svm.c.
 */
#include "asid.h"

/*
 * svm_asids_start - start a new generation when SVM is enabled on a CPU
 *
 * The TLB's contents are unknown, so the first VMRUN flushes it. Context: that CPU, interrupts off.
 */
void svm_asids_start(struct svm_asids *c, u32 max)
{
	c->gen++;
	c->max = max;
	c->next = max + 1;
}

/* The slow path of svm_asid_enter: the vCPU has no valid ASID on this CPU, or needs a flush. */
enum svm_tlb_ctl svm_asid_choose(struct svm_asid *a, struct svm_asids *c, int cpu,
				 bool flush_by_asid)
{
	enum svm_tlb_ctl ctl = SVM_TLB_KEEP;

	if (a->gen == c->gen && a->cpu == cpu && flush_by_asid) {
		a->flush = false;
		return SVM_TLB_FLUSH_ASID;
	}
	if (c->next > c->max) {
		c->gen++;
		c->next = 1;
		ctl = SVM_TLB_FLUSH_ALL;
	}
	*a = (struct svm_asid) { .gen = c->gen, .cpu = cpu, .asid = c->next++ };
	return ctl;
}

/*
 * svm_asid_refused - VMRUN did not enter the guest
 *
 * It is unknown whether the CPU has honoured TLB_CONTROL. So the vCPU needs a new ASID, and the CPU
 * a new generation, because this may have been the generation's first VMRUN. Context: as
 * svm_asid_enter.
 */
void svm_asid_refused(struct svm_asid *a, struct svm_asids *c)
{
	a->gen = 0;
	c->next = c->max + 1;
}
