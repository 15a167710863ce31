// SPDX-License-Identifier: GPL-2.0
/*
 * fpu_own.c - keeps the guest's FPU registers in an XSAVE area of our own, for kernels whose
 * functions for this are exported to their own KVM only: Linux 6.19 and newer.
 *
 * The area holds the components that a guest can have, in the standard format, which is also the
 * format of KVM_GET_XSAVE. It is always complete: XSAVE stores components in their initial
 * configuration as well, and KVM_SET_XSAVE initialises those that its header leaves out. PKRU
 * is not in it: run.c switches it, because the host's own accesses to userspace depend on it.
 *
 * AMX is not offered (MKVM_GUEST_XCR0): its 8 KiB do not fit struct kvm_xsave, and the guest would
 * need its own IA32_XFD. The host's XFD and AMX registers are thus neither used nor changed; what
 * is left in the registers of another program the guest cannot reach, as its XCR0 lacks the bits.
 *
 * State: vcpu->fpu.image, a page. Intel SDM vol. 1, "Managing State Using the XSAVE Feature Set".
 * Read next: fpu.h.
 */
#include <linux/mm.h>

#include "internal.h"
#include "fpu.h"

#define MXCSR_INITIAL	0x1f80

static u64 components(void)
{
	return MKVM_GUEST_XCR0 & ~(u64)XFEATURE_MASK_PKRU;
}

/* Gives x87 registers their values after FNINIT. */
static void init_x87(union fpregs_state *image)
{
	memset(&image->fxsave, 0, offsetof(struct fxregs_state, mxcsr));
	memset(image->fxsave.st_space, 0, sizeof(image->fxsave.st_space));
	image->fxsave.cwd = 0x37f;
}

/* Initialises the components that are not in features. */
static void init_components(union fpregs_state *image, u64 features)
{
	u8 *area = (u8 *)image;
	u32 offset, size;
	unsigned int i;

	if (!(features & XFEATURE_MASK_FP))
		init_x87(image);
	if (!(features & XFEATURE_MASK_SSE))
		memset(image->fxsave.xmm_space, 0, sizeof(image->fxsave.xmm_space));
	if (!(features & (XFEATURE_MASK_FPSSE | XFEATURE_MASK_YMM)))
		image->fxsave.mxcsr = MXCSR_INITIAL;
	for (i = 2; i < 63; i++) {
		size = mkvm_xsave_component(i, &offset);
		if (!(features >> i & 1) && (MKVM_GUEST_XCR0 >> i & 1))
			memset(area + offset, 0, size);
	}
}

bool mkvm_fpu_create(struct mkvm_vcpu *vcpu)
{
	BUILD_BUG_ON(sizeof(struct kvm_xsave) != PAGE_SIZE);
	BUILD_BUG_ON(sizeof(union fpregs_state) > PAGE_SIZE);
	vcpu->fpu.image = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!vcpu->fpu.image)
		return false;
	init_components(vcpu->fpu.image, 0);
	return true;
}

void mkvm_fpu_destroy(struct mkvm_vcpu *vcpu)
{
	free_page((unsigned long)vcpu->fpu.image);
}

void mkvm_fpu_get_xsave(struct mkvm_vcpu *vcpu, struct kvm_xsave *xsave)
{
	union fpregs_state *out = (void *)xsave;
	u64 features;
	u32 offset;

	memcpy(xsave, vcpu->fpu.image, sizeof(*xsave));
	if (!boot_cpu_has(X86_FEATURE_XSAVE)) {
		out->xsave.header.xfeatures = XFEATURE_MASK_FPSSE;
		return;
	}
	features = out->xsave.header.xfeatures & vcpu->fpu.xcr0_mask;
	init_components(out, features);
	if (vcpu->fpu.xcr0_mask & XFEATURE_MASK_PKRU) {
		features |= XFEATURE_MASK_PKRU;
		mkvm_xsave_component(XFEATURE_PKRU, &offset);
		memcpy((u8 *)xsave + offset, &vcpu->fpu.pkru, sizeof(vcpu->fpu.pkru));
	}
	out->xsave.header.xfeatures = features;
}

/* Returns whether XRSTOR would load this area. */
static bool xsave_valid(struct mkvm_vcpu *vcpu, const union fpregs_state *in)
{
	const struct xstate_header *header = &in->xsave.header;
	u64 features = header->xfeatures;

	if (!boot_cpu_has(X86_FEATURE_XSAVE))
		return !(features & ~(u64)XFEATURE_MASK_FPSSE) && mkvm_mxcsr_valid(in->fxsave.mxcsr);
	if ((features & ~vcpu->fpu.xcr0_mask) || header->xcomp_bv ||
	    memchr_inv(header->reserved, 0, sizeof(header->reserved)))
		return false;
	return !(features & (XFEATURE_MASK_FPSSE | XFEATURE_MASK_YMM)) ||
	       mkvm_mxcsr_valid(in->fxsave.mxcsr);
}

/* KVM_SET_XSAVE. As in Linux KVM, PKRU keeps its value if the header leaves it out. */
int mkvm_fpu_set_xsave(struct mkvm_vcpu *vcpu, const struct kvm_xsave *xsave)
{
	union fpregs_state *image = vcpu->fpu.image;
	u64 features;
	u32 offset;

	if (!xsave_valid(vcpu, (const void *)xsave))
		return -EINVAL;
	memcpy(image, xsave, sizeof(*xsave));
	if (!boot_cpu_has(X86_FEATURE_XSAVE))
		return 0;
	features = image->xsave.header.xfeatures;
	if (features & XFEATURE_MASK_PKRU) {
		mkvm_xsave_component(XFEATURE_PKRU, &offset);
		memcpy(&vcpu->fpu.pkru, (const u8 *)xsave + offset, sizeof(vcpu->fpu.pkru));
	}
	/* XRSTOR loads MXCSR whatever the header says. A value that was not checked is not taken. */
	init_components(image, features);
	image->xsave.header.xfeatures = features & components();
	return 0;
}

void mkvm_fpu_begin_run(struct mkvm_vcpu *vcpu)
{
}

void mkvm_fpu_end_run(struct mkvm_vcpu *vcpu)
{
}

void mkvm_fpu_xrstor(struct mkvm_vcpu *vcpu)
{
	static const u32 zero;
	u64 mask = components();

	/*
	 * These CPUs load and save the last x87 instruction's address only with a pending
	 * exception: the guest would find another program's. AMD APM vol. 2, "FXSAVE and FXRSTOR
	 * Instructions".
	 */
	if (boot_cpu_has_bug(X86_BUG_FXSAVE_LEAK))
		asm volatile("fnclex\n\temms\n\tfildl %0" : : "m" (zero));
	if (boot_cpu_has(X86_FEATURE_XSAVE))
		asm volatile("xrstor64 %0" : : "m" (*vcpu->fpu.image), "a" ((u32)mask),
			     "d" ((u32)(mask >> 32)) : "memory");
	else
		asm volatile("fxrstor64 %0" : : "m" (vcpu->fpu.image->fxsave));
}

void mkvm_fpu_xsave(struct mkvm_vcpu *vcpu)
{
	u64 mask = components();

	if (boot_cpu_has(X86_FEATURE_XSAVE))
		asm volatile("xsave64 %0" : "+m" (*vcpu->fpu.image) : "a" ((u32)mask),
			     "d" ((u32)(mask >> 32)) : "memory");
	else
		asm volatile("fxsave64 %0" : "+m" (vcpu->fpu.image->fxsave));
}

void mkvm_fpu_lock(struct mkvm_vcpu *vcpu)
{
	mkvm_fpu_claim();
	mkvm_fpu_load(vcpu);
}

void mkvm_fpu_unlock(struct mkvm_vcpu *vcpu)
{
	mkvm_fpu_save(vcpu);
	mkvm_fpu_release();
}
