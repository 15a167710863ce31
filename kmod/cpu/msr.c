// SPDX-License-Identifier: GPL-2.0
/*
 * msr.c - the guest's model-specific registers, for RDMSR, WRMSR and KVM_GET/SET_MSRS.
 *
 * State: the registers in struct mkvm_vcpu. The vendor has those that the CPU itself switches
 * (hw_ops get_msr, set_msr), the LAPIC has x2APIC's, and quiet_msrs.h lists those without a
 * function. A register that is not known here does not exist: the guest gets #GP, userspace a
 * short count.
 *
 * Read next: tsc.c, svm/svm.c.
 */
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/apicdef.h>
#include <asm/kvm_para.h>
#include <asm/msr-index.h>
#include <asm/mtrr.h>

#include "internal.h"

#define NR_MTRR_VAR	8
#define MTRR_CAP	(NR_MTRR_VAR | 1 << 8 | 1 << 10)	/* fixed ranges, write-combining */
/* Read-only bits: no counters record to memory. */
#define MISC_ENABLE_FIXED (MSR_IA32_MISC_ENABLE_BTS_UNAVAIL | MSR_IA32_MISC_ENABLE_PEBS_UNAVAIL)

#define MTRR_PHYS_LAST	(0x200 + 2 * NR_MTRR_VAR - 1)		/* IA32_MTRR_PHYSMASK7 */

/*
 * MSRs that userspace saves and restores, in an order that is safe to restore: the deadline after
 * the base.
 */
static const u32 msr_list[] = {
	MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, MSR_TSC_AUX,
	MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP, MSR_IA32_SYSENTER_EIP,
	MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SYSCALL_MASK, MSR_KERNEL_GS_BASE,
	MSR_IA32_CR_PAT, MSR_IA32_MISC_ENABLE, MSR_IA32_DEBUGCTLMSR, MSR_IA32_POWER_CTL,
	MSR_IA32_UCODE_REV, MSR_SMI_COUNT, MSR_PLATFORM_INFO, MSR_MISC_FEATURES_ENABLES,
	MSR_MTRRdefType,
	MSR_MTRRfix64K_00000, MSR_MTRRfix16K_80000, MSR_MTRRfix16K_A0000,
	MSR_MTRRfix4K_C0000, MSR_MTRRfix4K_C8000, MSR_MTRRfix4K_D0000, MSR_MTRRfix4K_D8000,
	MSR_MTRRfix4K_E0000, MSR_MTRRfix4K_E8000, MSR_MTRRfix4K_F0000, MSR_MTRRfix4K_F8000,
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207,
	0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
	MSR_IA32_MCG_STATUS, MSR_IA32_MCG_CTL, MSR_K7_HWCR,
	MSR_IA32_TSC_DEADLINE, MSR_IA32_SMBASE,
};

/*
 * MSRs that KVM_GET_MSRS reads on the device: properties of the host that limit what a guest can
 * have.
 */
static const u32 feature_list[] = {
	MSR_IA32_ARCH_CAPABILITIES, MSR_IA32_PERF_CAPABILITIES, MSR_IA32_UCODE_REV,
	MSR_AMD64_DE_CFG,
};

/*
 * mkvm_msr_index_list - KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST
 *
 * Context: may sleep. Return: 0; -EFAULT; -E2BIG, with the needed count stored, if the caller has
 * too little room.
 */
int mkvm_msr_index_list(struct kvm_msr_list __user *list, bool features)
{
	const u32 *from = features ? feature_list : msr_list;
	u32 n = features ? ARRAY_SIZE(feature_list) : ARRAY_SIZE(msr_list);
	struct kvm_msr_list head;
	u32 room;

	if (copy_from_user(&head, list, sizeof(head)))
		return -EFAULT;
	room = head.nmsrs;
	head.nmsrs = n;
	if (copy_to_user(list, &head, sizeof(head)))
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	return copy_to_user(list->indices, from, n * sizeof(*from)) ? -EFAULT : 0;
}

/*
 * Reads a register of feature_list; guests get nothing of the first two. Returns 1 for any other
 * MSR.
 */
static int feature_get(u32 index, u64 *val)
{
	int i;

	*val = 0;
	if (index == MSR_AMD64_DE_CFG && boot_cpu_has(X86_FEATURE_LFENCE_RDTSC))
		*val = MSR_AMD64_DE_CFG_LFENCE_SERIALIZE;
	if (index == MSR_IA32_UCODE_REV)
		*val = mkvm_hw->ucode_rev;
	for (i = 0; i < ARRAY_SIZE(feature_list); i++)
		if (feature_list[i] == index)
			return 0;
	return 1;
}

/*
 * mkvm_msrs_ioctl - KVM_GET_MSRS, KVM_SET_MSRS
 * @vcpu: NULL for KVM_GET_MSRS on the device, which reads feature_list
 *
 * Context: may sleep; vcpu->mutex held and the vCPU loaded. Return: how many entries were handled
 * before one was refused; -E2BIG (256 or more), -EINVAL (reserved), -EFAULT, -ENOMEM.
 */
int mkvm_msrs_ioctl(struct mkvm_vcpu *vcpu, struct kvm_msrs __user *arg, bool set)
{
	struct kvm_msr_entry *e;
	struct kvm_msrs head;
	int i, r, refused;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.nmsrs >= 256)
		return -E2BIG;
	e = memdup_user(arg->entries, head.nmsrs * sizeof(*e));
	if (IS_ERR(e))
		return PTR_ERR(e);
	for (i = 0; i < head.nmsrs; i++) {
		if (e[i].reserved) {
			r = -EINVAL;
			goto out;
		}
	}
	for (i = 0; i < head.nmsrs; i++) {
		if (!vcpu)
			refused = feature_get(e[i].index, &e[i].data);
		else if (set)
			refused = mkvm_msr_set(vcpu, e[i].index, e[i].data, true);
		else
			refused = mkvm_msr_get(vcpu, e[i].index, &e[i].data, true);
		if (refused)
			break;
	}
	r = i;
	if (!set && copy_to_user(arg->entries, e, head.nmsrs * sizeof(*e)))
		r = -EFAULT;
out:
	kfree(e);
	return r;
}

void mkvm_msr_reset(struct mkvm_vcpu *vcpu)
{
	vcpu->msr.pat = 0x0007040600070406ULL;	/* AMD APM vol. 2, "PAT Register": power-up value */
	vcpu->msr.misc_enable = MSR_IA32_MISC_ENABLE_FAST_STRING | MSR_IA32_MISC_ENABLE_MWAIT |
			    MISC_ENABLE_FIXED;
	vcpu->msr.tsc_aux = 0;
	vcpu->msr.ucode_rev = mkvm_hw->ucode_rev;
	vcpu->msr.smi_count = 0;
	vcpu->msr.power_ctl = 0;
	vcpu->msr.platform_info = MSR_PLATFORM_INFO_CPUID_FAULT;
	vcpu->msr.misc_features = 0;
	memset(&vcpu->msr.mtrr, 0, sizeof(vcpu->msr.mtrr));
	mkvm_mce_reset(vcpu);
}

/* ---- memory types ---- */

static bool memory_type_ok(u8 type)
{
	return type < 8 && (0x73 >> type & 1);	/* UC, WC, WT, WP, WB */
}

static u64 *fixed_mtrr(struct mkvm_mtrr *mtrr, u32 nr)
{
	return &mtrr->fixed[array_index_nospec(nr, ARRAY_SIZE(mtrr->fixed))];
}

/* Returns the register of an MTRR's number, or NULL. */
static u64 *mtrr_reg(struct mkvm_mtrr *mtrr, u32 index)
{
	switch (index) {
	case MSR_MTRRdefType:
		return &mtrr->deftype;
	case MSR_MTRRfix64K_00000:
		return fixed_mtrr(mtrr, 0);
	case MSR_MTRRfix16K_80000 ... MSR_MTRRfix16K_A0000:
		return fixed_mtrr(mtrr, 1 + index - MSR_MTRRfix16K_80000);
	case MSR_MTRRfix4K_C0000 ... MSR_MTRRfix4K_F8000:
		return fixed_mtrr(mtrr, 3 + index - MSR_MTRRfix4K_C0000);
	case 0x200 ... MTRR_PHYS_LAST:
		return &mtrr->var[array_index_nospec((index - 0x200) / 2, NR_MTRR_VAR)][index & 1];
	default:
		return NULL;
	}
}

/* Whether a write of this value does not fault. AMD APM vol. 2, "Memory-Type Range Registers". */
static bool mtrr_valid(struct mkvm_vcpu *vcpu, u32 index, u64 val)
{
	int i;

	if (index == MSR_MTRRdefType)
		return !(val & ~0xcffULL) && memory_type_ok(val & 0xff);
	if (index >= 0x200 && index <= MTRR_PHYS_LAST) {
		if (val & (vcpu->guest_cpuid.gpa_reserved | ~((1ULL << MKVM_MAX_GPA_BITS) - 1)))
			return false;
		return (index & 1) ? !(val & 0x7ff) : !(val & 0xf00) && memory_type_ok(val & 0xff);
	}
	for (i = 0; i < 8; i++, val >>= 8)
		if (!memory_type_ok(val & 0xff))
			return false;
	return true;
}

static int set_mtrr(struct mkvm_vcpu *vcpu, u32 index, u64 val)
{
	if (!mtrr_valid(vcpu, index, val))
		return 1;
	*mtrr_reg(&vcpu->msr.mtrr, index) = val;
	return 0;
}

static bool pat_valid(u64 val)
{
	int i;

	for (i = 0; i < 8; i++, val >>= 8)
		if ((val & 0xff) > 7 || !(0xf3 >> (val & 7) & 1))	/* 2 and 3 are reserved */
			return false;
	return true;
}

/* ---- EFER and other switches ---- */

static int set_efer(struct mkvm_vcpu *vcpu, u64 val, bool host)
{
	struct mkvm_mode mode;

	mkvm_hw->get_mode(vcpu, &mode);
	if (!mkvm_efer_valid(vcpu, val))
		return 1;
	if (!host && (mode.cr0 & X86_CR0_PG) && ((val ^ mode.efer) & EFER_LME))
		return 1;
	/* Userspace may restore the two registers in any order. */
	if (!host && (val & EFER_NX) && (vcpu->msr.misc_enable & MSR_IA32_MISC_ENABLE_XD_DISABLE))
		return 1;
	/* LMA follows LME and paging: KVM_SET_SREGS sets all three together. */
	val = (val & ~EFER_LMA) | (mode.efer & EFER_LMA);
	mkvm_hw->set_efer(vcpu, val);
	if ((val ^ mode.efer) & EFER_NX)
		mkvm_hw->flush_tlb(vcpu);
	return 0;
}

/* Intel SDM vol. 4, "IA32_MISC_ENABLE". cpuid.c hides the features that it disables. */
static int set_misc_enable(struct mkvm_vcpu *vcpu, u64 val, bool host)
{
	u64 changed = val ^ vcpu->msr.misc_enable;
	struct mkvm_mode mode;

	if (!host) {
		if (changed & MISC_ENABLE_FIXED)
			return 1;
		val ^= changed & MSR_IA32_MISC_ENABLE_EMON;	/* read-only */
	}
	mkvm_hw->get_mode(vcpu, &mode);
	if (!host && (val & MSR_IA32_MISC_ENABLE_XD_DISABLE) && (mode.efer & EFER_NX))
		return 1;
	vcpu->msr.misc_enable = val;
	return 0;
}

/*
 * Neither branch traps nor last-branch records are offered, but no CPUID bit reports that. So these
 * bits are dropped, as are those of AMD's pins.
 */
static int set_debugctl(u64 val)
{
	const u64 dropped = DEBUGCTLMSR_LBR | DEBUGCTLMSR_BTF | GENMASK_ULL(5, 2);

	return val & ~dropped ? 1 : 0;
}

/* ---- registers that exist where CPUID says so, and those that do nothing ---- */

/*
 * Returns the feature, MKVM_SHOWN_*, without which the register does not exist; 0: it always
 * exists.
 */
static u32 needed(u32 index)
{
	switch (index) {
	case MSR_IA32_SYSENTER_CS ... MSR_IA32_SYSENTER_EIP:
		return MKVM_SHOWN_SEP;
	case MSR_IA32_CR_PAT:
		return MKVM_SHOWN_PAT;
	case MSR_MTRRcap:
	case 0x200 ... MTRR_PHYS_LAST:
	case MSR_MTRRfix64K_00000:
	case MSR_MTRRfix16K_80000 ... MSR_MTRRfix16K_A0000:
	case MSR_MTRRfix4K_C0000 ... MSR_MTRRfix4K_F8000:
	case MSR_MTRRdefType:
		return MKVM_SHOWN_MTRR;
	case MSR_IA32_MCG_CAP ... MSR_IA32_MCG_CTL:
	case MSR_IA32_MCx_CTL(0) ... MSR_IA32_MCx_CTL(MKVM_MCE_BANKS) - 1:
		return MKVM_SHOWN_MCA;
	case MSR_IA32_TSC_ADJUST:
		return MKVM_SHOWN_TSC_ADJUST;
	case MSR_IA32_TSC_DEADLINE:
		return MKVM_SHOWN_TSC_DEADLINE;
	case MSR_TSC_AUX:
		return MKVM_SHOWN_TSC_AUX;
	case MSR_STAR:
		return MKVM_SHOWN_SYSCALL;
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_SYSCALL_MASK:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return MKVM_SHOWN_LM;
	case MSR_AMD64_OSVW_ID_LENGTH:
	case MSR_AMD64_OSVW_STATUS:
		return MKVM_SHOWN_OSVW;
	default:
		return 0;
	}
}

/*
 * mkvm_msr_hidden - whether the guest's CPUID lacks the feature to which this register belongs
 *
 * Context: own thread or vcpu->mutex held.
 */
bool mkvm_msr_hidden(struct mkvm_vcpu *vcpu, u32 index)
{
	return needed(index) & ~vcpu->guest_cpuid.shown;
}

enum quiet { IGNORED, FIXED, WRITES, ABSENT };

/* Returns the row of quiet_msrs.h for this register, or NULL. */
static const struct quiet_msr {
	u32 first, last;
	u64 reads;
	enum quiet access;
} *find_quiet(u32 index)
{
	static const struct quiet_msr rows[] = {
#define ROW(first, last, reads, access) { first, last, reads, access },
#include "quiet_msrs.h"
#undef ROW
		{ MSR_AMD64_OSVW_ID_LENGTH, MSR_AMD64_OSVW_STATUS, 0, FIXED },
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		if (index >= rows[i].first && index <= rows[i].last && rows[i].access != ABSENT)
			return &rows[i];
	return NULL;
}

/*
 * As mkvm_msr_get and mkvm_msr_set, for registers of quiet_msrs.h. Return: 1 for any other MSR or a
 * refused access.
 */
static int quiet_get(u32 index, u64 *val)
{
	const struct quiet_msr *row = find_quiet(index);

	if (!row || row->access == WRITES)
		return 1;
	*val = row->reads;
	return 0;
}

static int quiet_set(u32 index, u64 val, bool host)
{
	const struct quiet_msr *row = find_quiet(index);

	return !row || (row->access == FIXED && val != row->reads && !host);
}

/* Returns a register that reads as it was written, or NULL. */
static u64 *plain_reg(struct mkvm_vcpu *vcpu, u32 index)
{
	switch (index) {
	case MSR_IA32_TSC_ADJUST:
		return &vcpu->tsc.adjust;
	case MSR_TSC_AUX:
		return &vcpu->msr.tsc_aux;
	case MSR_IA32_CR_PAT:
		return &vcpu->msr.pat;
	case MSR_IA32_MISC_ENABLE:
		return &vcpu->msr.misc_enable;
	case MSR_IA32_POWER_CTL:
		return &vcpu->msr.power_ctl;
	case MSR_IA32_UCODE_REV:
		return &vcpu->msr.ucode_rev;
	case MSR_SMI_COUNT:
		return &vcpu->msr.smi_count;
	case MSR_MISC_FEATURES_ENABLES:
		return &vcpu->msr.misc_features;
	default:
		return mtrr_reg(&vcpu->msr.mtrr, index);
	}
}

/*
 * mkvm_msr_get - read a register
 * @host: for userspace
 *
 * Context: own thread or vcpu->mutex held. Return: 0, or 1 for a register that does not exist.
 */
int mkvm_msr_get(struct mkvm_vcpu *vcpu, u32 index, u64 *val, bool host)
{
	struct mkvm_mode mode;
	u64 *plain;

	if (!host && mkvm_msr_hidden(vcpu, index))
		return 1;
	switch (index) {
	case MSR_IA32_TSC:
		*val = mkvm_tsc_get(vcpu);
		return 0;
	case MSR_IA32_TSC_DEADLINE:
		*val = vcpu->lapic ? mkvm_lapic_get_deadline(vcpu->lapic) : 0;
		return !vcpu->lapic && !host;
	case MSR_IA32_APICBASE:
		*val = mkvm_get_apic_base(vcpu);
		return 0;
	case MSR_EFER:
		mkvm_hw->get_mode(vcpu, &mode);
		*val = mode.efer;
		return 0;
	case MSR_IA32_SMBASE:
		*val = vcpu->smm.base;
		return !host;		/* the guest has it in its state-save area */
	case MSR_IA32_DEBUGCTLMSR:
		*val = 0;
		return 0;
	case MSR_IA32_ARCH_CAPABILITIES:
	case MSR_IA32_PERF_CAPABILITIES:
		*val = 0;
		return !host;		/* no guest's CPUID shows them */
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		*val = 0;
		return !host; /* no guest has them; QEMU 7.2 saves and restores them unasked */
	case MSR_PLATFORM_INFO:
		*val = vcpu->msr.platform_info;
		return !host && READ_ONCE(vcpu->vm->hides_platform_info);
	case MSR_AMD64_DE_CFG:
		*val = MSR_AMD64_DE_CFG_LFENCE_SERIALIZE;
		return 0;
	case MSR_MTRRcap:
		*val = MTRR_CAP;
		return 0;
	case APIC_BASE_MSR ... APIC_BASE_MSR + 0xff:
		return vcpu->lapic ? mkvm_lapic_msr_read(vcpu->lapic, index, val) : 1;
	}
	plain = plain_reg(vcpu, index);
	if (plain) {
		*val = *plain;
		return 0;
	}
	if (!mkvm_mce_msr_get(vcpu, index, val, host) || !mkvm_hw->get_msr(vcpu, index, val))
		return 0;
	return quiet_get(index, val);
}

/*
 * mkvm_msr_set - write a register
 * @host: for userspace, which may restore what the guest may not write
 *
 * Context: own thread or vcpu->mutex held. Return: 0, or 1 for a register that does not exist or
 * refuses the value.
 *
 * Longer than 60 lines: it has a case for each register.
 */
int mkvm_msr_set(struct mkvm_vcpu *vcpu, u32 index, u64 val, bool host)
{
	if (!host && mkvm_msr_hidden(vcpu, index))
		return 1;
	switch (index) {
	case MSR_IA32_TSC:
		mkvm_tsc_set(vcpu, val, host);
		return 0;
	case MSR_IA32_TSC_ADJUST:
		mkvm_tsc_set_adjust(vcpu, val, host);
		return 0;
	case MSR_IA32_TSC_DEADLINE:
		if (!vcpu->lapic)
			return val || !host;	/* none */
		mkvm_lapic_set_deadline(vcpu->lapic, val);
		return 0;
	case MSR_IA32_APICBASE:
		return mkvm_set_apic_base(vcpu, val, host);
	case MSR_EFER:
		return set_efer(vcpu, val, host);
	case MSR_TSC_AUX:
		if ((val >> 32) && !vcpu->guest_cpuid.amd_rules)
			return 1;
		return mkvm_hw->set_msr(vcpu, index, (u32)val);	/* AMD's CPUs drop the upper half */
	case MSR_IA32_CR_PAT:
		if (!pat_valid(val))
			return 1;
		vcpu->msr.pat = val;
		return mkvm_hw->set_msr(vcpu, index, val);
	case MSR_IA32_MISC_ENABLE:
		return set_misc_enable(vcpu, val, host);
	case MSR_IA32_UCODE_REV:	/* a guest clears it before it asks CPUID to fill it in */
		if (host)
			vcpu->msr.ucode_rev = val;
		return 0;
	case MSR_SMI_COUNT:
		if (!host)
			return 1;
		vcpu->msr.smi_count = val;
		return 0;
	case MSR_IA32_ARCH_CAPABILITIES:
	case MSR_IA32_PERF_CAPABILITIES:
		return val || !host;
	case MSR_IA32_POWER_CTL: /* how to save energy: kept for the guest, and left to the host */
		vcpu->msr.power_ctl = val;
		return 0;
	case MSR_IA32_DEBUGCTLMSR:
		return set_debugctl(val);
	case MSR_PLATFORM_INFO:
		if (!host || (vcpu->msr.misc_features && !(val & MSR_PLATFORM_INFO_CPUID_FAULT)))
			return 1;
		vcpu->msr.platform_info = val;
		return 0;
	/* Of Intel's; as in Linux KVM every guest may have its CPUID fault. */
	case MSR_MISC_FEATURES_ENABLES:
		if (val & ~(u64)MSR_MISC_FEATURES_ENABLES_CPUID_FAULT ||
		    (val && !(vcpu->msr.platform_info & MSR_PLATFORM_INFO_CPUID_FAULT)))
			return 1;
		vcpu->msr.misc_features = val;
		return 0;
	case MSR_IA32_SMBASE:
		if (!host || val >> 32)
			return 1;
		vcpu->smm.base = val;
		return 0;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return val || !host;	/* off */
	case MSR_AMD64_DE_CFG:
		return val & ~(u64)MSR_AMD64_DE_CFG_LFENCE_SERIALIZE ? 1 : 0;
	case APIC_BASE_MSR ... APIC_BASE_MSR + 0xff:
		return vcpu->lapic ? mkvm_lapic_msr_write(vcpu->lapic, index, val) : 1;
	}
	if (mtrr_reg(&vcpu->msr.mtrr, index))
		return set_mtrr(vcpu, index, val);
	if (!mkvm_mce_msr_set(vcpu, index, val, host) || !mkvm_hw->set_msr(vcpu, index, val))
		return 0;
	return quiet_set(index, val, host);
}
