/* SPDX-License-Identifier: GPL-2.0 */
/*
 * fpu.h - the guest's FPU and vector registers: who holds them, and when.
 *
 * fpu_kernel.c uses the kernel's functions for KVM: while a thread is in KVM_RUN, the guest's
 * registers are the thread's own, and the kernel saves and loads them as it does a program's.
 *
 * From Linux 6.19 on these functions are exported to modules named kvm, kvm-amd and kvm-intel
 * only. fpu_own.c then borrows the registers from the thread for each entry, as kernel code that
 * uses vector instructions does: from mkvm_fpu_claim to mkvm_fpu_release this CPU's registers
 * belong to the caller, the thread keeps the CPU, and neither a softirq nor an interrupt uses
 * them. The guest's registers are in memory at all other times, so that a preemption, a signal
 * or a sleep never finds them in the CPU.
 *
 * Kbuild builds one of the two files. State: vcpu->fpu. Read next: fpu_own.c, run.c.
 */
#ifndef MKVM_FPU_H
#define MKVM_FPU_H

#include <linux/sched.h>
#include <asm/fpu/api.h>

#include "mkvm.h"

/* Allocate and free the guest's registers; they have their values after power-up. May sleep. */
bool mkvm_fpu_create(struct mkvm_vcpu *vcpu);
void mkvm_fpu_destroy(struct mkvm_vcpu *vcpu);

/*
 * KVM_GET_XSAVE and KVM_SET_XSAVE: convert the registers to and from the standard format, in a
 * buffer of the size of struct kvm_xsave. Own thread, outside KVM_RUN. mkvm_fpu_set_xsave
 * returns -EINVAL, and changes nothing, for components that the guest's CPUID does not show, for
 * reserved bits of MXCSR, and for a header that XRSTOR would refuse.
 */
void mkvm_fpu_get_xsave(struct mkvm_vcpu *vcpu, struct kvm_xsave *xsave);
int mkvm_fpu_set_xsave(struct mkvm_vcpu *vcpu, const struct kvm_xsave *xsave);

/* Called at the start and at the end of KVM_RUN. */
void mkvm_fpu_begin_run(struct mkvm_vcpu *vcpu);
void mkvm_fpu_end_run(struct mkvm_vcpu *vcpu);

/* For the emulator, in KVM_RUN: between the two, the CPU has the guest's registers. */
void mkvm_fpu_lock(struct mkvm_vcpu *vcpu);
void mkvm_fpu_unlock(struct mkvm_vcpu *vcpu);

/* fpu_own.c: move the registers between memory and the CPU, between claim and release. */
void mkvm_fpu_xrstor(struct mkvm_vcpu *vcpu);
void mkvm_fpu_xsave(struct mkvm_vcpu *vcpu);

/* Take the CPU's registers from the thread for an entry, and end that. Context: interrupts on. */
static inline void mkvm_fpu_claim(void)
{
	if (IS_ENABLED(MKVM_STANDALONE))
		kernel_fpu_begin_mask(0);
}

static inline void mkvm_fpu_release(void)
{
	if (IS_ENABLED(MKVM_STANDALONE))
		kernel_fpu_end();
}

/* Load the guest's registers, and save them after its exit. Context: claimed, interrupts off. */
static inline void mkvm_fpu_load(struct mkvm_vcpu *vcpu)
{
	if (IS_ENABLED(MKVM_STANDALONE))
		mkvm_fpu_xrstor(vcpu);
	else if (test_thread_flag(TIF_NEED_FPU_LOAD))
		switch_fpu_return();
}

static inline void mkvm_fpu_save(struct mkvm_vcpu *vcpu)
{
	if (IS_ENABLED(MKVM_STANDALONE))
		mkvm_fpu_xsave(vcpu);
}

#endif
