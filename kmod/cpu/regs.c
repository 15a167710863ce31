// SPDX-License-Identifier: GPL-2.0
/*
 * regs.c - a vCPU's registers for userspace, and the checks of control registers for userspace
 * and guest alike.
 *
 * State: the registers in struct mkvm_vcpu and in the vendor's control block. A set is checked
 * as a whole before the first register changes.
 *
 * Read next: msr.c, cpuid.c.
 */
#include <linux/uaccess.h>
#include <asm/debugreg.h>
#include <asm/fpu/xcr.h>

#include "internal.h"

u64 mkvm_host_xcr0;
static u32 mxcsr_valid;		/* bits that the CPU supports */

/* Intel SDM vol. 1, "Guidelines for Writing to the MXCSR Register". Only the mask is used. */
static u32 find_mxcsr_mask(void)
{
	struct fxregs_state image __aligned(16) = {};

	asm volatile("fxsave %0" : "+m"(image));
	return image.mxcsr_mask ?: 0xffbf;
}

/* Called once when the module is loaded. */
void mkvm_regs_setup(void)
{
	mxcsr_valid = find_mxcsr_mask();
	mkvm_host_xcr0 = boot_cpu_has(X86_FEATURE_OSXSAVE) ? xgetbv(XCR_XFEATURE_ENABLED_MASK) :
							     XFEATURE_MASK_FP;
}

void mkvm_regs_get(struct mkvm_vcpu *vcpu, struct kvm_regs *r)
{
	const u64 *g = vcpu->regs;

	*r = (struct kvm_regs) {
		.rax = g[0], .rcx = g[1], .rdx = g[2], .rbx = g[3],
		.rsp = g[4], .rbp = g[5], .rsi = g[6], .rdi = g[7],
		.r8 = g[8], .r9 = g[9], .r10 = g[10], .r11 = g[11],
		.r12 = g[12], .r13 = g[13], .r14 = g[14], .r15 = g[15],
		.rip = vcpu->rip, .rflags = vcpu->rflags,
	};
}

/* KVM_SET_REGS. New registers cancel an exception that was queued for the old ones. */
void mkvm_regs_set(struct mkvm_vcpu *vcpu, const struct kvm_regs *r)
{
	const u64 g[16] = {
		r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15,
	};

	memcpy(vcpu->regs, g, sizeof(g));
	vcpu->rip = r->rip;
	vcpu->rflags = r->rflags | X86_EFLAGS_FIXED;
	vcpu->ev.raised.type = MKVM_EV_NONE;
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
}

/*
 * Decides, after a change of CR4 or XCR0, whether PKRU must hold the guest's value while it runs.
 */
void mkvm_update_pkru(struct mkvm_vcpu *vcpu)
{
	vcpu->fpu.has_pkru =
		boot_cpu_has(X86_FEATURE_OSPKE) &&
		((vcpu->fpu.xcr0 & XFEATURE_MASK_PKRU) || (mkvm_hw->get_cr(vcpu, 4) & X86_CR4_PKE));
}

/* ---- control registers ---- */

u64 mkvm_get_cr8(struct mkvm_vcpu *vcpu)
{
	return vcpu->lapic ? mkvm_lapic_get_tpr(vcpu->lapic) >> 4 : vcpu->user_irqchip.cr8;
}

/* Sets CR8. Own thread. Return: 1 for reserved bits. */
int mkvm_set_cr8(struct mkvm_vcpu *vcpu, u64 val)
{
	if (val & ~0xfULL)
		return 1;
	if (vcpu->lapic)
		mkvm_lapic_set_tpr(vcpu->lapic, val << 4);
	else
		vcpu->user_irqchip.cr8 = val;
	return 0;
}

u64 mkvm_get_apic_base(struct mkvm_vcpu *vcpu)
{
	return vcpu->lapic ? mkvm_lapic_get_base(vcpu->lapic) : vcpu->user_irqchip.apic_base;
}

/*
 * Sets APIC_BASE, for userspace or the guest. Own thread. Return: 1 if it is refused (#GP,
 * -EINVAL).
 */
int mkvm_set_apic_base(struct mkvm_vcpu *vcpu, u64 base, bool host)
{
	if (vcpu->lapic)
		return mkvm_lapic_set_base(vcpu->lapic, base, host);
	vcpu->user_irqchip.apic_base = base;
	return 0;
}

bool mkvm_cr4_valid(struct mkvm_vcpu *vcpu, u64 cr4)
{
	return !(cr4 & vcpu->guest_cpuid.cr4_reserved);
}

/* Whether EFER has only bits that CPUID allows. */
bool mkvm_efer_valid(struct mkvm_vcpu *vcpu, u64 efer)
{
	return !(efer & vcpu->guest_cpuid.efer_reserved);
}

#define CR0_BITS                                                                       \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | \
	 X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

/* Whether MOV to CR0 accepts the value. AMD APM vol. 2, "CR0 Register". */
static bool cr0_valid(u64 cr0)
{
	if (cr0 & ~CR0_BITS)
		return false;
	if ((cr0 & X86_CR0_NW) && !(cr0 & X86_CR0_CD))
		return false;
	return !(cr0 & X86_CR0_PG) || (cr0 & X86_CR0_PE);
}

/* AMD APM vol. 2, "CR0 Register" and "Activating Long Mode". */
static int cr0_write(struct mkvm_vcpu *vcpu, u64 val)
{
	struct mkvm_mode mode;
	bool lma;

	mkvm_hw->get_mode(vcpu, &mode);
	lma = (mode.efer & EFER_LME) && (val & X86_CR0_PG);
	if (val >> 32 || !cr0_valid(val & CR0_BITS))
		return 1;
	if (!(val & X86_CR0_PG) &&
	    (((mode.efer & EFER_LMA) && mode.cs_l) || (mode.cr4 & X86_CR4_PCIDE)))
		return 1;
	if (lma && !(mode.efer & EFER_LMA) && (!(mode.cr4 & X86_CR4_PAE) || mode.cs_l))
		return 1;
	mkvm_hw->set_cr(vcpu, 0, val & CR0_BITS);
	mkvm_hw->set_efer(vcpu, lma ? mode.efer | EFER_LMA : mode.efer & ~(u64)EFER_LMA);
	mkvm_hw->flush_tlb(vcpu);
	return 0;
}

/* AMD APM vol. 2, "CR3 Register"; bit 63 asks to keep translations, which is not needed. */
static int cr3_write(struct mkvm_vcpu *vcpu, u64 val)
{
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	if (mode.cr4 & X86_CR4_PCIDE)
		val &= ~BIT_ULL(63);
	if ((mode.efer & EFER_LMA) &&
	    (val & (vcpu->guest_cpuid.gpa_reserved | GENMASK_ULL(63, 52))))
		return 1;
	mkvm_hw->set_cr(vcpu, 3, val);
	mkvm_hw->flush_tlb(vcpu);
	return 0;
}

static int cr4_write(struct mkvm_vcpu *vcpu, u64 val)
{
	struct mkvm_mode mode;

	if (!mkvm_cr4_valid(vcpu, val))
		return 1;
	mkvm_hw->get_mode(vcpu, &mode);
	if ((mode.efer & EFER_LMA) && !(val & X86_CR4_PAE))
		return 1;
	if ((val & X86_CR4_PCIDE) && !(mode.cr4 & X86_CR4_PCIDE) &&
	    (!(mode.efer & EFER_LMA) || (mode.cr3 & 0xfff)))
		return 1;
	mkvm_hw->set_cr(vcpu, 4, val);
	mkvm_update_pkru(vcpu);
	if (val ^ mode.cr4)
		mkvm_hw->flush_tlb(vcpu);
	return 0;
}

/*
 * mkvm_cr_write - the guest writes an intercepted control register (0, 3, 4 or 8)
 *
 * Context: own thread. Return: 1 for #GP.
 */
int mkvm_cr_write(struct mkvm_vcpu *vcpu, int cr, u64 val)
{
	switch (cr) {
	case 0:
		return cr0_write(vcpu, val);
	case 3:
		return cr3_write(vcpu, val);
	case 4:
		return cr4_write(vcpu, val);
	case 8:
		/* A userspace interrupt controller may now have something to inject. */
		vcpu->user_irqchip.tpr_lowered = !vcpu->lapic && val < vcpu->user_irqchip.cr8;
		return mkvm_set_cr8(vcpu, val);
	default:
		return 1;
	}
}

/* ---- segments and the rest of KVM_GET_SREGS ---- */

#define GET_SEGMENT(name, field) mkvm_hw->get_segment(vcpu, MKVM_##name, &s->field);
#define SET_SEGMENT(name, field) mkvm_hw->set_segment(vcpu, MKVM_##name, &s->field);

void mkvm_sregs_get(struct mkvm_vcpu *vcpu, struct kvm_sregs *s)
{
	struct mkvm_mode mode;

	mkvm_payload_settle(vcpu);
	memset(s, 0, sizeof(*s));
	MKVM_SEGMENTS(GET_SEGMENT)
	mkvm_hw->get_dt(vcpu, true, &s->idt);
	mkvm_hw->get_dt(vcpu, false, &s->gdt);
	mkvm_hw->get_mode(vcpu, &mode);
	s->cr0 = mode.cr0;
	s->cr2 = mkvm_hw->get_cr(vcpu, 2);
	s->cr3 = mode.cr3;
	s->cr4 = mode.cr4;
	s->efer = mode.efer;
	s->cr8 = mkvm_get_cr8(vcpu);
	s->apic_base = mkvm_get_apic_base(vcpu);
	if (mkvm_interrupt_get(vcpu) >= 0)
		__set_bit(mkvm_interrupt_get(vcpu), (unsigned long *)s->interrupt_bitmap);
}

/*
 * Makes the checks that AMD APM vol. 2, "Canonicalization and Consistency Checks", and Intel SDM
 * vol. 3, "Checks on Guest Control Registers, Debug Registers, and MSRs", have in common. CR3 keeps
 * its upper half outside of long mode.
 */
static bool sregs_valid(struct mkvm_vcpu *vcpu, const struct kvm_sregs *s)
{
	bool long_mode = (s->efer & EFER_LME) && (s->cr0 & X86_CR0_PG);

	if (!cr0_valid(s->cr0) || !mkvm_cr4_valid(vcpu, s->cr4) ||
	    !mkvm_efer_valid(vcpu, s->efer) || (s->cr8 & ~0xfULL))
		return false;
	if (bitmap_weight((const unsigned long *)s->interrupt_bitmap, KVM_NR_INTERRUPTS) > 1)
		return false;		/* only one interrupt can be in delivery */
	if (s->cr3 & (vcpu->guest_cpuid.gpa_reserved | GENMASK_ULL(63, 52)))
		return false;
	if (long_mode)
		return (s->cr4 & X86_CR4_PAE) && (s->efer & EFER_LMA) && !(s->cs.l && s->cs.db);
	return !(s->efer & EFER_LMA) && !s->cs.l && !(s->cr4 & X86_CR4_PCIDE);
}

/*
 * KVM_SET_SREGS. Own thread. Return: -EINVAL for states that no CPU can be in; nothing has changed
 * then.
 */
int mkvm_sregs_set(struct mkvm_vcpu *vcpu, const struct kvm_sregs *s)
{
	unsigned int vector;

	if (!sregs_valid(vcpu, s) || mkvm_set_apic_base(vcpu, s->apic_base, true))
		return -EINVAL;
	mkvm_hw->set_dt(vcpu, true, &s->idt);
	mkvm_hw->set_dt(vcpu, false, &s->gdt);
	mkvm_hw->set_efer(vcpu, s->efer);
	mkvm_hw->set_cr(vcpu, 0, s->cr0);
	mkvm_hw->set_cr(vcpu, 2, s->cr2);
	mkvm_hw->set_cr(vcpu, 3, s->cr3);
	mkvm_hw->set_cr(vcpu, 4, s->cr4);
	mkvm_update_pkru(vcpu);
	if (s->cr8 != mkvm_get_cr8(vcpu))	/* TPR has four more bits, which stay */
		mkvm_set_cr8(vcpu, s->cr8);
	MKVM_SEGMENTS(SET_SEGMENT)
	vector = find_first_bit((const unsigned long *)s->interrupt_bitmap, KVM_NR_INTERRUPTS);
	if (vector < KVM_NR_INTERRUPTS) {
		if (mkvm_interrupt_get(vcpu) != (int)vector)
			mkvm_trace(restore_event, vcpu, vector, "set_sregs");
		mkvm_interrupt_set(vcpu, vector);
	}
	mkvm_hw->flush_tlb(vcpu);
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	return 0;
}

/* ---- FPU ---- */

/* Returns whether the CPU has all these bits of MXCSR; loading others would fault. */
bool mkvm_mxcsr_valid(u32 mxcsr)
{
	return !(mxcsr & ~mxcsr_valid);
}

void mkvm_fpu_get(struct mkvm_vcpu *vcpu, struct kvm_fpu *fpu)
{
	const struct fxregs_state *fx = &vcpu->fpu.image->fxsave;

	memset(fpu, 0, sizeof(*fpu));
	memcpy(fpu->fpr, fx->st_space, sizeof(fpu->fpr));
	fpu->fcw = fx->cwd;
	fpu->fsw = fx->swd;
	fpu->ftwx = fx->twd;
	fpu->last_opcode = fx->fop;
	fpu->last_ip = fx->rip;
	fpu->last_dp = fx->rdp;
	fpu->mxcsr = fx->mxcsr;
	memcpy(fpu->xmm, fx->xmm_space, sizeof(fx->xmm_space));
}

/*
 * KVM_SET_FPU. Return: -EINVAL for reserved bits in MXCSR, which would fault when the kernel loads
 * them. The mask comes from the CPU, because KVM_SET_XSAVE may have changed fx->mxcsr_mask.
 */
int mkvm_fpu_set(struct mkvm_vcpu *vcpu, const struct kvm_fpu *fpu)
{
	struct fxregs_state *fx = &vcpu->fpu.image->fxsave;

	if (!mkvm_mxcsr_valid(fpu->mxcsr))
		return -EINVAL;
	memcpy(fx->st_space, fpu->fpr, sizeof(fpu->fpr));
	fx->cwd = fpu->fcw;
	fx->swd = fpu->fsw;
	fx->twd = fpu->ftwx;
	fx->fop = fpu->last_opcode;
	fx->rip = fpu->last_ip;
	fx->rdp = fpu->last_dp;
	fx->mxcsr = fpu->mxcsr;
	memcpy(fx->xmm_space, fpu->xmm, sizeof(fx->xmm_space));
	if (boot_cpu_has(X86_FEATURE_XSAVE))
		vcpu->fpu.image->xsave.header.xfeatures |= XFEATURE_MASK_FPSSE;
	return 0;
}

void mkvm_xcrs_get(struct mkvm_vcpu *vcpu, struct kvm_xcrs *xcrs)
{
	memset(xcrs, 0, sizeof(*xcrs));
	if (!boot_cpu_has(X86_FEATURE_XSAVE))
		return;
	xcrs->nr_xcrs = 1;
	xcrs->xcrs[0].xcr = XCR_XFEATURE_ENABLED_MASK;
	xcrs->xcrs[0].value = vcpu->fpu.xcr0;
}

/* XSETBV. Own thread. Return: 1 for #GP. AMD APM vol. 4, "XSETBV". */
int mkvm_xcr_write(struct mkvm_vcpu *vcpu, u32 index, u64 val)
{
	if (index != XCR_XFEATURE_ENABLED_MASK || !(val & XFEATURE_MASK_FP) ||
	    (val & ~vcpu->fpu.xcr0_mask))
		return 1;
	if ((val & XFEATURE_MASK_YMM) && !(val & XFEATURE_MASK_SSE))
		return 1;
	if ((val & XFEATURE_MASK_AVX512) &&
	    (!(val & XFEATURE_MASK_YMM) || (val & XFEATURE_MASK_AVX512) != XFEATURE_MASK_AVX512))
		return 1;
	vcpu->fpu.xcr0 = val;
	mkvm_update_pkru(vcpu);
	return 0;
}

/* KVM_SET_XCRS. Only XCR0 exists, and it may occur once. Return: -EINVAL for anything else. */
int mkvm_xcrs_set(struct mkvm_vcpu *vcpu, const struct kvm_xcrs *xcrs)
{
	if (!boot_cpu_has(X86_FEATURE_XSAVE) || xcrs->flags || xcrs->nr_xcrs > 1)
		return -EINVAL;
	if (xcrs->nr_xcrs && mkvm_xcr_write(vcpu, xcrs->xcrs[0].xcr, xcrs->xcrs[0].value))
		return -EINVAL;
	return 0;
}

/* ---- debug registers ---- */

void mkvm_debugregs_get(struct mkvm_vcpu *vcpu, struct kvm_debugregs *regs)
{
	mkvm_payload_settle(vcpu);
	memset(regs, 0, sizeof(*regs));
	memcpy(regs->db, vcpu->dr, sizeof(vcpu->dr));
	regs->dr6 = mkvm_hw->get_dr(vcpu, 6);
	regs->dr7 = mkvm_hw->get_dr(vcpu, 7);
}

int mkvm_debugregs_set(struct mkvm_vcpu *vcpu, const struct kvm_debugregs *regs)
{
	if (regs->flags || (regs->dr6 >> 32) || (regs->dr7 >> 32))
		return -EINVAL;
	memcpy(vcpu->dr, regs->db, sizeof(vcpu->dr));
	mkvm_hw->set_dr(vcpu, 6, (regs->dr6 & MKVM_DR6_CAUSES) | DR6_RESERVED);
	mkvm_hw->set_dr(vcpu, 7, regs->dr7 | MKVM_DR7_FIXED);
	return 0;
}
