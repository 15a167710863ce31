/* SPDX-License-Identifier: GPL-2.0 */
/*
 * asid.h - the address-space identifier of a vCPU on each CPU, and what VMRUN must flush.
 *
 * Manual: AMD APM vol. 2, "TLB Control". Read next: asid.c.
 */
#ifndef MKVM_SVM_ASID_H
#define MKVM_SVM_ASID_H

#include <linux/compiler.h>
#include <linux/types.h>

/* The ASIDs of a CPU. Accessed on that CPU with interrupts off. */
struct svm_asids {
	u64 gen;		/* generation: advances when ASIDs run out and on enabling */
	u32 next, max;
};

/* The ASID of a vCPU: valid on CPU cpu while that CPU's generation is gen. */
struct svm_asid {
	u64 gen;		/* 0: none */
	int cpu;
	u32 asid;
	bool flush;		/* the TLB may hold stale entries for it */
};

/* Values of TLB_CONTROL. */
enum svm_tlb_ctl { SVM_TLB_KEEP = 0, SVM_TLB_FLUSH_ALL = 1, SVM_TLB_FLUSH_ASID = 3 };

void svm_asids_start(struct svm_asids *c, u32 max);
enum svm_tlb_ctl svm_asid_choose(struct svm_asid *a, struct svm_asids *c, int cpu,
				 bool flush_by_asid);
void svm_asid_refused(struct svm_asid *a, struct svm_asids *c);

/*
 * svm_asid_enter - set a->asid for the next VMRUN
 * @flush_by_asid: the CPU can flush the translations of one ASID
 *
 * Return: the value for TLB_CONTROL. Context: interrupts off until the VMRUN.
 */
static inline enum svm_tlb_ctl svm_asid_enter(struct svm_asid *a, struct svm_asids *c, int cpu,
					      bool flush_by_asid)
{
	if (likely(a->gen == c->gen && a->cpu == cpu && !a->flush))
		return SVM_TLB_KEEP;
	return svm_asid_choose(a, c, cpu, flush_by_asid);
}

#endif
