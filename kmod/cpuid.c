// SPDX-License-Identifier: GPL-2.0
/*
 * cpuid.c - what CPUID can show (KVM_GET_SUPPORTED_CPUID), what userspace chose
 * (KVM_SET_CPUID2), and what of it the rest of the module obeys.
 *
 * State: vcpu->cpuid and everything that mkvm_cpuid_update derives from it.
 * Nothing is shown that the guest could not use: no SVM or VMX, no paravirtual
 * clock, nothing that needs MSRs which msr.c lacks.
 *
 * Read next: msr.c, regs.c.
 */
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/processor.h>

#include "hw_ops.h"

#define F(x)	BIT_ULL(X86_FEATURE_##x & 31)

#define LEAF1_EDX (F(FPU) | F(VME) | F(DE) | F(PSE) | F(TSC) | F(MSR) | F(PAE) | F(MCE) | F(CX8) | F(APIC) | \
		   F(SEP) | F(MTRR) | F(PGE) | F(MCA) | F(CMOV) | F(PAT) | F(PSE36) | F(CLFLUSH) | F(MMX) | \
		   F(FXSR) | F(XMM) | F(XMM2))
#define LEAF1_ECX (F(XMM3) | F(PCLMULQDQ) | F(SSSE3) | F(FMA) | F(CX16) | F(PCID) | F(XMM4_1) | F(XMM4_2) | \
		   F(MOVBE) | F(POPCNT) | F(AES) | F(XSAVE) | F(AVX) | F(F16C) | F(RDRAND))
#define LEAF7_EBX (F(FSGSBASE) | F(BMI1) | F(AVX2) | F(SMEP) | F(BMI2) | F(ERMS) | F(INVPCID) | F(RDSEED) | \
		   F(ADX) | F(SMAP) | F(CLFLUSHOPT) | F(CLWB) | F(SHA_NI) | F(AVX512F) | F(AVX512DQ) | \
		   F(AVX512CD) | F(AVX512BW) | F(AVX512VL) | F(AVX512IFMA))
#define LEAF7_ECX (F(AVX512VBMI) | F(UMIP) | F(PKU) | F(AVX512_VBMI2) | F(GFNI) | F(VAES) | F(VPCLMULQDQ) | \
		   F(AVX512_VNNI) | F(AVX512_BITALG) | F(AVX512_VPOPCNTDQ) | F(RDPID))
#define LEAF81_ECX (F(LAHF_LM) | F(CMP_LEGACY) | F(CR8_LEGACY) | F(ABM) | F(SSE4A) | F(MISALIGNSSE) | \
		    F(3DNOWPREFETCH) | F(XOP) | F(FMA4) | F(TBM) | F(TOPOEXT))
#define LEAF81_EDX ((LEAF1_EDX & 0x0183f3ff) | F(SYSCALL) | F(NX) | F(MMXEXT) | F(FXSR_OPT) | F(GBPAGES) | \
		    F(RDTSCP) | F(LM) | F(3DNOWEXT) | F(3DNOW))

#define CR4_ALWAYS	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | \
			 X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT)

/* What a leaf keeps of the host's registers, and what is added because it is emulated. */
static const struct cpuid_rule {
	u32 leaf, eax, ebx, ecx, edx;
	u32 add_ecx, add_ebx;
} rules[] = {
	{ 0x1, .eax = ~0u, .ebx = 0xff00, .ecx = LEAF1_ECX, .edx = LEAF1_EDX,
	  .add_ecx = F(X2APIC) | F(HYPERVISOR) },
	{ 0x7, .eax = 0, .ebx = LEAF7_EBX, .ecx = LEAF7_ECX, .edx = F(FSRM), .add_ebx = F(TSC_ADJUST) },
	{ 0x80000001, .eax = ~0u, .ecx = LEAF81_ECX, .edx = LEAF81_EDX },
	{ 0x80000007, .edx = F(CONSTANT_TSC) /* bit 8: invariant TSC */ },
	{ 0x80000008, .eax = 0xff, .ebx = F(CLZERO) | F(XSAVEERPTR) },
};

/* Leaves that are passed on as the host has them. */
static bool leaf_is_plain(u32 leaf)
{
	return (leaf >= 0x80000002 && leaf <= 0x80000006) || leaf == 0x80000019 || leaf == 2;
}

static const struct cpuid_rule *find_rule(u32 leaf)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(rules); i++)
		if (rules[i].leaf == leaf)
			return &rules[i];
	return NULL;
}

static void apply_rule(struct kvm_cpuid_entry2 *e, const struct cpuid_rule *r)
{
	e->eax &= r->eax;
	e->ebx = (e->ebx & r->ebx) | r->add_ebx;
	e->ecx = (e->ecx & r->ecx) | r->add_ecx;
	e->edx &= r->edx;
	if (e->function == 1 && !boot_cpu_has(X86_FEATURE_OSXSAVE))
		e->ecx &= ~(F(XSAVE) | F(AVX) | F(FMA) | F(F16C));
	if (e->function == 7 && !boot_cpu_has(X86_FEATURE_OSPKE))
		e->ecx &= ~F(PKU);
	if (e->function == 0x80000007 && boot_cpu_has(X86_FEATURE_CONSTANT_TSC) &&
	    boot_cpu_has(X86_FEATURE_NONSTOP_TSC))
		e->edx |= BIT(8);
	if (e->function == 0x80000008)	/* four-level second-level tables reach 48 bits */
		e->eax = min_t(u32, e->eax, 48) | 48 << 8;
}

/* XSAVE's sub-leaf: only the components that guests may enable, and nothing supervisor. */
static bool xsave_subleaf(struct kvm_cpuid_entry2 *e)
{
	u64 features = MKVM_GUEST_XCR0;

	if (e->index == 0) {
		e->eax = features;
		e->edx = 0;
	} else if (e->index == 1) {
		e->eax &= F(XSAVEOPT) | F(XSAVEC) | F(XGETBV1);
		e->ebx = e->ecx = e->edx = 0;
	} else {
		return e->index < 63 && (features >> e->index & 1);
	}
	return true;
}

/* Fills in a supported entry; false: this leaf or sub-leaf is not shown. */
static bool supported_entry(struct kvm_cpuid_entry2 *e, u32 leaf, u32 index)
{
	const struct cpuid_rule *rule = find_rule(leaf);

	memset(e, 0, sizeof(*e));
	e->function = leaf;
	e->index = index;
	cpuid_count(leaf, index, &e->eax, &e->ebx, &e->ecx, &e->edx);
	if (leaf == 0x7 || leaf == 0xd)
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	if (leaf == 0x0) {
		e->eax = min(e->eax, 0xdu);
		return true;
	}
	if (leaf == 0x80000000) {
		e->eax = min(e->eax, 0x80000019u);
		return true;
	}
	if (leaf == 0xd)
		return xsave_subleaf(e);
	if (rule)
		apply_rule(e, rule);
	return rule || leaf_is_plain(leaf);
}

static u32 add_leaf(struct kvm_cpuid_entry2 *e, u32 n, u32 leaf)
{
	u32 index = 0;

	if (supported_entry(&e[n], leaf, 0))
		n++;
	for (index = 1; leaf == 0xd && index < 63; index++)
		if (supported_entry(&e[n], leaf, index))
			n++;
	return n;
}

/* All that can be shown, into room for MKVM_MAX_CPUID entries; returns how many. */
static u32 supported_entries(struct kvm_cpuid_entry2 *e)
{
	u32 leaf, n = 0;

	for (leaf = 0; leaf <= min(cpuid_eax(0), 0xdu); leaf++)
		n = add_leaf(e, n, leaf);
	/*
	 * The signature makes guests use x2APIC without interrupt remapping and skip I/O
	 * delays (bit 1); no other paravirtual feature is shown.
	 */
	e[n++] = (struct kvm_cpuid_entry2) {
		.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d,
	};
	e[n++] = (struct kvm_cpuid_entry2) { .function = 0x40000001, .eax = BIT(1) };
	for (leaf = 0x80000000; leaf <= min(cpuid_eax(0x80000000), 0x80000019u); leaf++)
		n = add_leaf(e, n, leaf);
	return n;
}

static int copy_entries(struct kvm_cpuid2 __user *arg, const struct kvm_cpuid_entry2 *e, u32 n)
{
	u32 room;

	if (get_user(room, &arg->nent))
		return -EFAULT;
	if (room < n)
		return -E2BIG;
	if (copy_to_user(arg->entries, e, n * sizeof(*e)) || put_user(n, &arg->nent))
		return -EFAULT;
	return 0;
}

/* KVM_GET_SUPPORTED_CPUID. Return: -E2BIG when there is too little room. */
int mkvm_cpuid_supported(struct kvm_cpuid2 __user *arg)
{
	struct kvm_cpuid_entry2 *e = kvcalloc(MKVM_MAX_CPUID, sizeof(*e), GFP_KERNEL);
	int r;

	if (!e)
		return -ENOMEM;
	r = copy_entries(arg, e, supported_entries(e));
	kvfree(e);
	return r;
}

/* KVM_GET_EMULATED_CPUID: nothing that the CPU lacks is emulated, which all these leaves say. */
int mkvm_cpuid_emulated(struct kvm_cpuid2 __user *arg)
{
	static const struct kvm_cpuid_entry2 e[] = {
		{ .function = 0, .eax = 7 }, { .function = 1 },
		{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
	};

	return copy_entries(arg, e, ARRAY_SIZE(e));
}

/* ---- what the guest sees ---- */

static struct kvm_cpuid_entry2 *find_entry(struct mkvm_vcpu *vcpu, u32 leaf, u32 index)
{
	u32 group = leaf >= 0x80000000, low = leaf & 0x7fffffff, i = 0;

	if (low < 32) {		/* the table knows the leaf's first entry, most have no other */
		low = array_index_nospec(low, 32);
		if (!vcpu->cpuid_first[group][low])
			return NULL;
		i = array_index_nospec(vcpu->cpuid_first[group][low] - 1, vcpu->nr_cpuid);
	}
	for (; i < vcpu->nr_cpuid; i++) {
		struct kvm_cpuid_entry2 *e = &vcpu->cpuid[i];

		if (e->function == leaf &&
		    (e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

/* Bytes that XSAVE needs for the components in XCR0: leaf 0xd, sub-leaf 0, EBX. */
static u32 xsave_size(struct mkvm_vcpu *vcpu)
{
	u32 i, size = 512 + 64;

	for (i = 2; i < 63; i++) {
		struct kvm_cpuid_entry2 *e = vcpu->xcr0 >> i & 1 ? find_entry(vcpu, 0xd, i) : NULL;

		if (e)
			size = max(size, e->eax + e->ebx);
	}
	return size;
}

/* Bits of an entry that mirror other state, as they are now. */
static void mirror_state(struct mkvm_vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	if (e->function == 1) {
		e->ecx &= ~F(OSXSAVE);
		if (mkvm_hw->get_cr(vcpu, 4) & X86_CR4_OSXSAVE)
			e->ecx |= F(OSXSAVE);
		if (!(mkvm_get_apic_base(vcpu) & MSR_IA32_APICBASE_ENABLE))
			e->edx &= ~F(APIC);
	} else if (e->function == 7 && e->index == 0) {
		e->ecx &= ~F(OSPKE);
		if (mkvm_hw->get_cr(vcpu, 4) & X86_CR4_PKE)
			e->ecx |= F(OSPKE);
	} else if (e->function == 0xd && e->index == 0) {
		e->ebx = xsave_size(vcpu);
	}
}

/*
 * mkvm_cpuid - what CPUID gives the guest; in place until the next call
 *
 * A leaf that userspace did not set reads as zeroes. Context: own thread, or vcpu->mutex held.
 */
const struct kvm_cpuid_entry2 *mkvm_cpuid(struct mkvm_vcpu *vcpu, u32 leaf, u32 index)
{
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *e = find_entry(vcpu, leaf, index) ?: &none;

	if (e->function != 1 && e->function != 7 && e->function != 0xd)
		return e;
	vcpu->cpuid_now = *e;
	mirror_state(vcpu, &vcpu->cpuid_now);
	return &vcpu->cpuid_now;
}

static u32 leaf_reg(struct mkvm_vcpu *vcpu, u32 leaf, int reg)
{
	struct kvm_cpuid_entry2 *e = find_entry(vcpu, leaf, 0);

	return e ? (&e->eax)[reg] : 0;
}

/* CR4 bits that need a feature which these registers of CPUID must show. */
static u64 cr4_optional(u32 l1c, u32 l7b, u32 l7c)
{
	u64 bits = 0;

	if (l1c & F(XSAVE))
		bits |= X86_CR4_OSXSAVE;
	if (l1c & F(PCID))
		bits |= X86_CR4_PCIDE;
	if (l7b & F(FSGSBASE))
		bits |= X86_CR4_FSGSBASE;
	if (l7b & F(SMEP))
		bits |= X86_CR4_SMEP;
	if (l7b & F(SMAP))
		bits |= X86_CR4_SMAP;
	if (l7c & F(UMIP))
		bits |= X86_CR4_UMIP;
	if ((l7c & F(PKU)) && boot_cpu_has(X86_FEATURE_OSPKE))
		bits |= X86_CR4_PKE;
	return bits;
}

/* Of these bits, what the CPU has: userspace may claim more, which would fail the entry. */
static u64 cr4_of_the_cpu(void)
{
	u32 l1c = cpuid_ecx(1), l7b = 0, l7c = 0;

	if (!boot_cpu_has(X86_FEATURE_OSXSAVE))
		l1c &= ~F(XSAVE);
	if (boot_cpu_data.cpuid_level >= 7) {
		l7b = cpuid_ebx(7);
		l7c = cpuid_ecx(7);
	}
	return cr4_optional(l1c, l7b, l7c);
}

/*
 * Derives what others ask of CPUID. Before KVM_SET_CPUID2 the guest sees zeroes, but
 * userspace may still set up any mode that the module supports.
 */
void mkvm_cpuid_update(struct mkvm_vcpu *vcpu)
{
	bool none = !vcpu->nr_cpuid;
	u32 l1c, l7b, l7c, l81d, width, i;

	memset(vcpu->cpuid_first, 0, sizeof(vcpu->cpuid_first));
	for (i = vcpu->nr_cpuid; i--;) {
		u32 leaf = vcpu->cpuid[i].function;

		if ((leaf & 0x7fffffff) < 32)
			vcpu->cpuid_first[leaf >= 0x80000000][leaf & 31] = i + 1;
	}
	l1c = none ? boot_cpu_data.x86_capability[CPUID_1_ECX] : leaf_reg(vcpu, 1, 2);
	l7b = none ? boot_cpu_data.x86_capability[CPUID_7_0_EBX] : leaf_reg(vcpu, 7, 1);
	l7c = none ? boot_cpu_data.x86_capability[CPUID_7_ECX] : leaf_reg(vcpu, 7, 2);
	l81d = none ? ~0u : leaf_reg(vcpu, 0x80000001, 3);
	vcpu->cpuid_x2apic = none || (l1c & F(X2APIC));
	vcpu->cpuid_tsc_deadline = none || (l1c & F(TSC_DEADLINE_TIMER));
	vcpu->cr4_reserved = ~(CR4_ALWAYS | (cr4_optional(l1c, l7b, l7c) & cr4_of_the_cpu()));
	vcpu->efer_reserved = ((l81d & F(NX)) ? 0 : EFER_NX) | ((l81d & F(LM)) ? 0 : EFER_LME) |
			      ((l81d & F(SYSCALL)) ? 0 : EFER_SCE) | ((l81d & F(FXSR_OPT)) ? 0 : EFER_FFXSR);
	vcpu->guest_xcr0_mask = MKVM_GUEST_XCR0;
	if (!none)
		vcpu->guest_xcr0_mask &= leaf_reg(vcpu, 0xd, 0) | XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
	width = leaf_reg(vcpu, 0x80000008, 0) & 0xff;
	width = clamp_t(u32, width ?: 36, 32, 48);
	if (none)
		width = 48;
	vcpu->gpa_reserved = GENMASK_ULL(51, width);
}

/* Is this what the guest sees already? Bits that mirror other state do not count. */
static bool same_entries(struct mkvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *e, u32 n)
{
	struct kvm_cpuid_entry2 is, set;
	u32 i;

	if (n != vcpu->nr_cpuid)
		return false;
	for (i = 0; i < n; i++) {
		is = vcpu->cpuid[i];
		set = e[i];
		mirror_state(vcpu, &is);
		mirror_state(vcpu, &set);
		if (is.function == 1)
			set.edx = (set.edx & ~F(APIC)) | (is.edx & F(APIC));
		if (memcmp(&is, &set, offsetof(struct kvm_cpuid_entry2, padding)))
			return false;
	}
	return true;
}

/*
 * mkvm_cpuid_set - KVM_SET_CPUID2
 *
 * Context: vcpu->mutex held, vCPU loaded, may sleep. Return: -E2BIG (MKVM_MAX_CPUID entries or more),
 * -EINVAL (the guest has run with others), -EFAULT, -ENOMEM; nothing has changed then.
 */
int mkvm_cpuid_set(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg)
{
	struct kvm_cpuid_entry2 *e = NULL;
	u32 n;

	if (get_user(n, &arg->nent))
		return -EFAULT;
	if (n > MKVM_MAX_CPUID - 1)
		return -E2BIG;
	if (n) {
		e = vmemdup_user(arg->entries, array_size(n, sizeof(*e)));
		if (IS_ERR(e))
			return PTR_ERR(e);
	}
	if (vcpu->stats[MKVM_STAT_EXITS]) {	/* the guest may have seen it: it stays as it is */
		bool same = same_entries(vcpu, e, n);

		kvfree(e);
		return same ? 0 : -EINVAL;
	}
	kvfree(vcpu->cpuid);
	vcpu->cpuid = e;
	vcpu->nr_cpuid = n;
	mkvm_cpuid_update(vcpu);
	return 0;
}

/* KVM_GET_CPUID2: what was set, with the bits that mirror other state as they are now. */
int mkvm_cpuid_get(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg)
{
	struct kvm_cpuid_entry2 *e;
	u32 i;
	int r;

	e = kvcalloc(vcpu->nr_cpuid + 1, sizeof(*e), GFP_KERNEL);
	if (!e)
		return -ENOMEM;
	if (vcpu->nr_cpuid)
		memcpy(e, vcpu->cpuid, vcpu->nr_cpuid * sizeof(*e));
	for (i = 0; i < vcpu->nr_cpuid; i++)
		mirror_state(vcpu, &e[i]);
	r = copy_entries(arg, e, vcpu->nr_cpuid);
	kvfree(e);
	return r;
}
