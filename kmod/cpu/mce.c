// SPDX-License-Identifier: GPL-2.0
/*
 * mce.c - a vCPU's machine-check registers, and the machine checks that userspace injects.
 *
 * State: vcpu->mce, under vcpu->mutex. Machine checks of the host never reach this file
 * (svm/mce.c, vmx/exit.c).
 *
 * Manual: AMD APM vol. 2, "Machine Check Architecture". Read next: msr.c.
 */
#include <linux/nospec.h>
#include <linux/uaccess.h>
#include <asm/mce.h>

#include "internal.h"

enum { MCE_CTL, MCE_STATUS, MCE_ADDR, MCE_MISC };

/*
 * AMD's hardware configuration register: TscFreqSel, and bits that old kernels set because of
 * errata.
 */
#define MCE_STATUS_WRITE	BIT_ULL(18)
#define HWCR_KEPT		(MCE_STATUS_WRITE | BIT_ULL(24))
#define HWCR_IGNORED		(BIT_ULL(3) | BIT_ULL(6) | BIT_ULL(8))

void mkvm_mce_reset(struct mkvm_vcpu *vcpu)
{
	memset(&vcpu->mce, 0, sizeof(vcpu->mce));
	vcpu->mce.cap = MKVM_MCE_BANKS;
}

/*
 * mkvm_mce_setup - KVM_X86_SETUP_MCE: choose the number of banks and whether MCG_CTL exists
 *
 * Context: vcpu->mutex held. Return: -EINVAL for no banks, too many, or bits that MKVM_MCE_CAP
 * lacks.
 */
int mkvm_mce_setup(struct mkvm_vcpu *vcpu, u64 cap)
{
	unsigned int i, nr = cap & 0xff;

	/* Bits 16 to 23 count extended registers, which clients pass on from a real CPU. */
	if (!nr || nr > MKVM_MCE_BANKS || (cap & ~(MKVM_MCE_CAP | 0xff | 0xff0000)))
		return -EINVAL;
	vcpu->mce.cap = cap;
	if (cap & MCG_CTL_P)
		vcpu->mce.ctl = ~0ULL;
	for (i = 0; i < nr; i++)
		vcpu->mce.bank[i][MCE_CTL] = ~0ULL;
	return 0;
}

/* Returns the registers of a bank, or NULL if it does not exist. */
static u64 *mce_bank(struct mkvm_mce *mce, u32 nr)
{
	u32 banks = mce->cap & 0xff;

	return nr < banks ? mce->bank[array_index_nospec(nr, banks)] : NULL;
}

/*
 * Returns the register of an MSR's number, or NULL. Userspace may always save and restore MCG_CTL.
 */
static u64 *mce_reg(struct mkvm_mce *mce, u32 index, bool host)
{
	u64 *bank;

	switch (index) {
	case MSR_IA32_MCG_STATUS:
		return &mce->status;
	case MSR_K7_HWCR:
		return &mce->hwcr;
	case MSR_IA32_MCG_CTL:
		return host || (mce->cap & MCG_CTL_P) ? &mce->ctl : NULL;
	case MSR_IA32_MCx_CTL(0) ... MSR_IA32_MCx_CTL(MKVM_MCE_BANKS) - 1:
		index -= MSR_IA32_MCx_CTL(0);
		bank = mce_bank(mce, index / 4);
		return bank ? &bank[index % 4] : NULL;
	default:
		return NULL;
	}
}

/* As mkvm_msr_get. Return: 1 for an MSR that is not a machine-check register. */
int mkvm_mce_msr_get(struct mkvm_vcpu *vcpu, u32 index, u64 *val, bool host)
{
	u64 *reg = index == MSR_IA32_MCG_CAP ? &vcpu->mce.cap : mce_reg(&vcpu->mce, index, host);

	if (!reg)
		return 1;
	*val = *reg;
	return 0;
}

/*
 * As mkvm_msr_set. The guest may only clear a bank's status, unless HWCR lets it write other
 * values, and may enable or disable a bank only as a whole (but for bits 0 and 10, which old
 * kernels mask because of errata).
 */
int mkvm_mce_msr_set(struct mkvm_vcpu *vcpu, u32 index, u64 val, bool host)
{
	u64 *reg = mce_reg(&vcpu->mce, index, host);

	if (!reg)
		return 1;
	if (index == MSR_IA32_MCG_CTL && val && val != ~0ULL)
		return 1;
	if (index == MSR_K7_HWCR) {
		if (val & ~(HWCR_KEPT | HWCR_IGNORED))
			return 1;
		val &= HWCR_KEPT;
	} else if (index >= MSR_IA32_MCx_CTL(0)) {
		if (index % 4 == MCE_CTL && val && (val | BIT(0) | BIT(10)) != ~0ULL)
			return 1;
		if (index % 4 == MCE_STATUS && val && !host && !(vcpu->mce.hwcr & MCE_STATUS_WRITE))
			return 1;
	}
	*reg = val;
	return 0;
}

/*
 * mkvm_mce_inject - KVM_X86_SET_MCE: give the guest a machine check
 *
 * An uncorrected error raises #MC. It shuts down a guest that is already handling one or has
 * CR4.MCE clear. Errors that the guest has disabled have no effect. Context: vcpu->mutex held.
 * Return: -EINVAL for a bank that does not exist or a status that is not valid.
 */
int mkvm_mce_inject(struct mkvm_vcpu *vcpu, const struct kvm_x86_mce *m)
{
	struct mkvm_mce *mce = &vcpu->mce;
	bool uncorrected = m->status & MCI_STATUS_UC;
	u64 *bank = mce_bank(mce, m->bank);

	if (!bank || !(m->status & MCI_STATUS_VAL))
		return -EINVAL;
	if (uncorrected &&
	    (((mce->cap & MCG_CTL_P) && mce->ctl != ~0ULL) || bank[MCE_CTL] != ~0ULL))
		return 0;
	if (uncorrected &&
	    ((mce->status & MCG_STATUS_MCIP) || !(mkvm_hw->get_cr(vcpu, 4) & X86_CR4_MCE))) {
		vcpu->ev.triple_fault = true;
		return 0;
	}
	/* A corrected error does not overwrite an uncorrected one that was not yet read. */
	if (!uncorrected && (bank[MCE_STATUS] & MCI_STATUS_VAL) &&
	    (bank[MCE_STATUS] & MCI_STATUS_UC)) {
		bank[MCE_STATUS] |= MCI_STATUS_OVER;
		return 0;
	}
	bank[MCE_STATUS] = m->status | (bank[MCE_STATUS] & MCI_STATUS_VAL ? MCI_STATUS_OVER : 0);
	bank[MCE_ADDR] = m->addr;
	bank[MCE_MISC] = m->misc;
	if (uncorrected) {
		mce->status = m->mcg_status;
		mkvm_queue_machine_check(vcpu);
	}
	return 0;
}
