/* SPDX-License-Identifier: GPL-2.0 */
/*
 * svm.h - definitions shared by the files of svm/: a vCPU with its VMCB, and the state of a CPU.
 *
 * Manual: AMD APM vol. 2, "Secure Virtual Machine". Read next: svm.c.
 */
#ifndef MKVM_SVM_H
#define MKVM_SVM_H

#include <linux/bitops.h>
#include <linux/mm.h>
#include <asm/svm.h>	/* is not self-contained in newer kernels */

#include "hw_ops.h"
#include "asid.h"

struct svm_vcpu {
	struct mkvm_vcpu vcpu;
	struct vmcb *vmcb;
	u64 vmcb_pa;
	struct svm_asid asid;
	u64 cr4;		/* the guest's: see set_cr4 */

	/* NMIs are masked from the injection to the IRET, whose completion causes no exit. */
	bool nmi_masked;
	bool in_iret;		/* the IRET intercepted at iret_rip executes now */
	u64 iret_rip;
	/* Only a single step reveals the end of an interrupt shadow or of an IRET. */
	bool step_wanted;	/* by svm_open_window: step at each entry */
	bool step_once;		/* by svm_use_root: step at the next entry */
	bool stepping;
	bool step_had_tf;	/* the guest's own TF */
	bool step_trap;		/* this exit's #DB is the step's, not the guest's */
	/* The guest's own registers while the VMCB has userspace's breakpoints, or it steps. */
	bool debugged;
	u64 guest_dr6;
	u64 guest_dr7;		/* unused while userspace only steps */
};

struct svm_cpu {
	struct svm_asids asids;
	u64 host_save_pa;	/* physical address of host_save */
	void *hsave;
	struct vmcb *host_save;	/* a VMCB for VMSAVE and VMLOAD of the host's state */
	u64 tsc_aux;		/* the host's */
	struct svm_vcpu *last;	/* the vCPU that ran last: its branch predictions may remain */
};

DECLARE_PER_CPU(struct svm_cpu, svm_cpus);

static inline struct svm_vcpu *to_svm(struct mkvm_vcpu *vcpu)
{
	return container_of(vcpu, struct svm_vcpu, vcpu);
}

static inline void svm_intercept(struct svm_vcpu *svm, unsigned int bit, bool on)
{
	u32 *word = &svm->vmcb->control.intercepts[bit / 32];

	if (on)
		*word |= BIT(bit % 32);
	else
		*word &= ~BIT(bit % 32);
}

/*
 * Exceptions that are always intercepted. Endless deliveries of #AC or #DB would block the CPU, a
 * machine check is the host's, and #UD may be a VMCALL.
 */
#define SVM_EXCEPTIONS	(BIT(X86_TRAP_DB) | BIT(X86_TRAP_AC) | BIT(X86_TRAP_MC) | BIT(X86_TRAP_UD))

int svm_vmrun(u64 vmcb_pa, u64 *regs, u64 host_save_pa);

/* event.c; functions with an entry of the same name in hw_ops.h are explained there */
void svm_inject(struct mkvm_vcpu *vcpu, const struct mkvm_event *ev);
void svm_open_window(struct mkvm_vcpu *vcpu, bool irq, bool nmi);
void svm_close_irq_window(struct svm_vcpu *svm);
void svm_event_after_exit(struct svm_vcpu *svm, bool moved);
void svm_guest_debug_changed(struct mkvm_vcpu *vcpu);
u32 svm_exceptions(const struct svm_vcpu *svm);
bool svm_on_tcg(void);
extern bool svm_bochs;
void svm_begin_step(struct svm_vcpu *svm);
void svm_end_step(struct svm_vcpu *svm, u32 exit_code);
u8 svm_get_shadow(struct mkvm_vcpu *vcpu);
void svm_set_shadow(struct mkvm_vcpu *vcpu, u8 shadow);
bool svm_nmi_masked(struct mkvm_vcpu *vcpu);
void svm_set_nmi_masked(struct mkvm_vcpu *vcpu, bool masked);
void svm_iret_intercepted(struct svm_vcpu *svm);

/* exit.c */
int svm_handle_exit(struct mkvm_vcpu *vcpu);

/* svm.c */
void svm_dr_intercepts(struct svm_vcpu *svm, bool on);
void svm_dr_live(struct svm_vcpu *svm);

#endif
