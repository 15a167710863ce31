// SPDX-License-Identifier: GPL-2.0
/*
 * fpu_kernel.c - keeps the guest's FPU registers by the kernel's functions for KVM; Linux up to
 * 6.18.
 *
 * State: vcpu->fpu.guest, the kernel's own structure. Read next: fpu.h.
 */
#include "fpu.h"

bool mkvm_fpu_create(struct mkvm_vcpu *vcpu)
{
	if (!fpu_alloc_guest_fpstate(&vcpu->fpu.guest))
		return false;
	vcpu->fpu.image = &vcpu->fpu.guest.fpstate->regs;
	return true;
}

void mkvm_fpu_destroy(struct mkvm_vcpu *vcpu)
{
	if (vcpu->fpu.image)
		fpu_free_guest_fpstate(&vcpu->fpu.guest);
}

void mkvm_fpu_get_xsave(struct mkvm_vcpu *vcpu, struct kvm_xsave *xsave)
{
	fpu_copy_guest_fpstate_to_uabi(&vcpu->fpu.guest, xsave, sizeof(*xsave),
				       vcpu->fpu.xcr0_mask, vcpu->fpu.pkru);
}

int mkvm_fpu_set_xsave(struct mkvm_vcpu *vcpu, const struct kvm_xsave *xsave)
{
	return fpu_copy_uabi_to_guest_fpstate(&vcpu->fpu.guest, xsave->region, vcpu->fpu.xcr0_mask,
					      &vcpu->fpu.pkru);
}

void mkvm_fpu_begin_run(struct mkvm_vcpu *vcpu)
{
	fpu_swap_kvm_fpstate(&vcpu->fpu.guest, true);
}

void mkvm_fpu_end_run(struct mkvm_vcpu *vcpu)
{
	fpu_swap_kvm_fpstate(&vcpu->fpu.guest, false);
}

void mkvm_fpu_lock(struct mkvm_vcpu *vcpu)
{
	fpregs_lock();
	mkvm_fpu_load(vcpu);
}

void mkvm_fpu_unlock(struct mkvm_vcpu *vcpu)
{
	fpregs_unlock();
}
