// SPDX-License-Identifier: GPL-2.0
/*
 * cpuid.c - CPUID: what can be shown (KVM_GET_SUPPORTED_CPUID), what userspace chose
 * (KVM_SET_CPUID2), and what follows from it for the rest of the module.
 *
 * State: vcpu->guest_cpuid.entries, and everything that mkvm_cpuid_update derives from it. A
 * guest is not shown what it cannot use: no SVM or VMX, no paravirtual clock, nothing that needs
 * MSRs which msr.c does not have. words[] has all feature bits.
 *
 * Read next: msr.c, regs.c.
 */
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/processor.h>
#include <asm/tsc.h>

#include "internal.h"

#define F(x)	BIT_ULL(X86_FEATURE_##x & 31)

/* The feature bits that guests may be shown, for each register of CPUID that has feature bits. */
#define LEAF1_EDX                                                                                  \
	(F(FPU) | F(VME) | F(DE) | F(PSE) | F(TSC) | F(MSR) | F(PAE) | F(MCE) | F(CX8) | F(APIC) | \
	 F(SEP) | F(MTRR) | F(PGE) | F(MCA) | F(CMOV) | F(PAT) | F(PSE36) | F(CLFLUSH) | F(MMX) |  \
	 F(FXSR) | F(XMM) | F(XMM2))
#define LEAF1_ECX                                                                                 \
	(F(XMM3) | F(PCLMULQDQ) | F(SSSE3) | F(FMA) | F(CX16) | F(PCID) | F(XMM4_1) | F(XMM4_2) | \
	 F(MOVBE) | F(POPCNT) | F(AES) | F(XSAVE) | F(AVX) | F(F16C) | F(RDRAND))
#define LEAF7_EBX                                                                                 \
	(F(FSGSBASE) | F(BMI1) | F(AVX2) | F(SMEP) | F(BMI2) | F(ERMS) | F(INVPCID) | F(RDSEED) | \
	 F(ADX) | F(SMAP) | F(CLFLUSHOPT) | F(CLWB) | F(SHA_NI) | LEAF7_EBX_AVX512)
#define LEAF7_ECX (F(UMIP) | F(PKU) | F(GFNI) | F(VAES) | F(VPCLMULQDQ) | F(RDPID) | \
		   LEAF7_ECX_AVX512)
#define LEAF81_ECX                                                                         \
	(F(LAHF_LM) | F(CMP_LEGACY) | F(CR8_LEGACY) | F(ABM) | F(SSE4A) | F(MISALIGNSSE) | \
	 F(3DNOWPREFETCH) | F(XOP) | F(FMA4) | F(TBM) | F(TOPOEXT))
#define LEAF81_EDX                                                                              \
	((LEAF1_EDX & 0x0183f3ff) | F(SYSCALL) | F(NX) | F(MMXEXT) | F(FXSR_OPT) | F(GBPAGES) | \
	 F(RDTSCP) | F(LM) | F(3DNOWEXT) | F(3DNOW))

/* Features that need the registers of AVX and of AVX-512. */
#define LEAF1_ECX_AVX (F(FMA) | F(AVX) | F(F16C))
#define LEAF7_EBX_AVX512 (F(AVX512F) | F(AVX512DQ) | F(AVX512CD) | F(AVX512BW) | F(AVX512VL) | \
			  F(AVX512IFMA))
#define LEAF7_ECX_AVX512 (F(AVX512VBMI) | F(AVX512_VBMI2) | F(AVX512_VNNI) | F(AVX512_BITALG) | \
			  F(AVX512_VPOPCNTDQ))

/* Features that the module implements itself, whether or not the host's kernel uses them. */
#define LEAF1_EDX_OURS (F(MCE) | F(APIC) | F(MTRR) | F(MCA) | F(PAT))

/*
 * Bits of features that the module does not support: a guest is not shown them even if userspace
 * sets them. All other bits stand for instructions that the CPU runs without support.
 */
#define LEAF1_EDX_VAIN (F(PN) | F(DS) | F(ACPI) | F(ACC) | F(PBE))
#define LEAF1_ECX_VAIN                                                                            \
	(F(DTES64) | F(DSCPL) | F(VMX) | F(SMX) | F(EST) | F(TM2) | F(SDBG) | F(XTPR) | F(PDCM) | \
	 F(DCA))
#define LEAF7_EBX_VAIN (F(SGX) | F(CQM) | F(MPX) | F(RDT_A) | F(INTEL_PT))
#define LEAF7_ECX_VAIN (F(WAITPKG) | BIT(7) /* SHSTK */ | F(TME) | F(LA57) | BIT(23) /* KL */ | \
			F(BUS_LOCK_DETECT) | F(ENQCMD) | F(SGX_LC) | BIT(31) /* PKS */)
#define LEAF7_EDX_VAIN (BIT(5) /* UINTR */ | F(PCONFIG) | F(ARCH_LBR) | F(IBT) | F(AMX_BF16) | \
			F(AMX_TILE) | F(AMX_INT8) | F(SPEC_CTRL) | F(INTEL_STIBP) | F(FLUSH_L1D) | \
			F(ARCH_CAPABILITIES) | F(CORE_CAPABILITIES) | F(SPEC_CTRL_SSBD))
#define LEAFD_EAX_VAIN (F(XSAVES) | F(XFD))
#define LEAF81_ECX_VAIN                                                                        \
	(F(SVM) | F(EXTAPIC) | F(IBS) | F(SKINIT) | F(WDT) | F(LWP) | F(TCE) | F(NODEID_MSR) | \
	 F(PERFCTR_CORE) | F(PERFCTR_NB) | F(BPEXT) | F(PTSC) | F(PERFCTR_LLC))
#define LEAF88_EBX_VAIN                                                                  \
	(F(IRPERF) | F(RDPRU) | F(AMD_IBPB) | F(AMD_IBRS) | F(AMD_STIBP) | F(AMD_SSBD) | \
	 F(VIRT_SSBD))

enum { EAX, EBX, ECX, EDX };

static const struct cpuid_word {
	u32 leaf, index;
	u8 reg;			/* EAX to EDX */
	u8 kernel;		/* index of the kernel's word of these features */
	u32 keep;		/* bits offered if the CPU has them and the kernel uses them */
	u32 ours;		/* bits of these that do not depend on the kernel */
	u32 added;		/* bits offered on any CPU */
	u32 vain;		/* bits never shown */
} words[] = {
	{ 1, 0, EDX, CPUID_1_EDX, LEAF1_EDX, LEAF1_EDX_OURS, 0, LEAF1_EDX_VAIN },
	{ 1, 0, ECX, CPUID_1_ECX, LEAF1_ECX, 0, F(X2APIC) | F(HYPERVISOR), LEAF1_ECX_VAIN },
	{ 7, 0, EBX, CPUID_7_0_EBX, LEAF7_EBX, 0, F(TSC_ADJUST), LEAF7_EBX_VAIN },
	{ 7, 0, ECX, CPUID_7_ECX, LEAF7_ECX, 0, 0, LEAF7_ECX_VAIN },
	{ 7, 0, EDX, CPUID_7_EDX, F(FSRM), 0, 0, LEAF7_EDX_VAIN },
	{ 0xd, 1, EAX, CPUID_D_1_EAX, F(XSAVEOPT) | F(XSAVEC) | F(XGETBV1), 0, 0, LEAFD_EAX_VAIN },
	{ 0x80000001, 0, ECX, CPUID_8000_0001_ECX, LEAF81_ECX, 0, 0, LEAF81_ECX_VAIN },
	{ 0x80000001, 0, EDX, CPUID_8000_0001_EDX, LEAF81_EDX, LEAF81_EDX & LEAF1_EDX, 0, 0 },
	{ 0x80000008, 0, EBX, CPUID_8000_0008_EBX, F(CLZERO) | F(XSAVEERPTR), 0, 0,
	  LEAF88_EBX_VAIN },
};

#define LAST_LEAF	0xdu
#define LAST_EXTENDED	0x8000001eu

/* The components of the CPU's XSAVE area, set once when the module is loaded. */
static struct {
	u32 size, offset;
	bool aligned;		/* to 64 bytes in the compacted format */
} components[63];

/* Called once when the module is loaded. */
void mkvm_cpuid_setup(void)
{
	u32 i, ecx, edx;

	if (!boot_cpu_has(X86_FEATURE_XSAVE))
		return;
	for (i = 2; i < ARRAY_SIZE(components); i++) {
		cpuid_count(0xd, i, &components[i].size, &components[i].offset, &ecx, &edx);
		components[i].aligned = ecx & BIT(1);
	}
}

/*
 * Returns the size in bytes of a component of the XSAVE area, or 0, and stores its offset in the
 * standard format. i is 2 to 62.
 */
u32 mkvm_xsave_component(unsigned int i, u32 *offset)
{
	*offset = components[i].offset;
	return components[i].size;
}

/* Returns the bytes of an XSAVE area with these components. Intel SDM vol. 1, "XSAVE Area". */
static u32 xsave_size(u64 features, bool compacted)
{
	u32 i, size = 512 + 64;

	for (i = 2; i < ARRAY_SIZE(components); i++) {
		if (!(features >> i & 1))
			continue;
		if (!compacted)
			size = max(size, components[i].offset + components[i].size);
		else if (components[i].aligned)
			size = ALIGN(size, 64) + components[i].size;
		else
			size += components[i].size;
	}
	return size;
}

static u32 *entry_reg(struct kvm_cpuid_entry2 *e, int reg)
{
	switch (reg) {
	case EAX:
		return &e->eax;
	case EBX:
		return &e->ebx;
	case ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

/* Leaves that are passed on as the host has them. */
static bool leaf_is_plain(u32 leaf)
{
	return (leaf >= 0x80000002 && leaf <= 0x80000006) || leaf == 0x80000019 ||
	       leaf == 0x8000001d || leaf == 2;
}

/* Drops features that need registers which XCR0 does not let a guest have. */
static void drop_without_state(struct kvm_cpuid_entry2 *e)
{
	if (!(MKVM_GUEST_XCR0 & XFEATURE_MASK_YMM)) {
		if (e->function == 1)
			e->ecx &= ~LEAF1_ECX_AVX;
		if (e->function == 7) {
			e->ebx &= ~F(AVX2);
			e->ecx &= ~(F(VAES) | F(VPCLMULQDQ));
		}
		if (e->function == 0x80000001)
			e->ecx &= ~(F(XOP) | F(FMA4));
	}
	if (e->function == 7 && (MKVM_GUEST_XCR0 & XFEATURE_MASK_AVX512) != XFEATURE_MASK_AVX512) {
		e->ebx &= ~LEAF7_EBX_AVX512;
		e->ecx &= ~LEAF7_ECX_AVX512;
	}
	if (e->function == 1 && !boot_cpu_has(X86_FEATURE_OSXSAVE))
		e->ecx &= ~F(XSAVE);
	if (e->function == 7 && !boot_cpu_has(X86_FEATURE_OSPKE))
		e->ecx &= ~F(PKU);
}

/* Fills an entry with the features that are offered and clears its other registers. */
static void offer_features(struct kvm_cpuid_entry2 *e)
{
	struct kvm_cpuid_entry2 host = *e;
	int i;

	e->eax = e->ebx = e->ecx = e->edx = 0;
	for (i = 0; i < ARRAY_SIZE(words); i++) {
		const struct cpuid_word *w = &words[i];
		u32 used = boot_cpu_data.x86_capability[w->kernel] | w->ours;

		if (w->leaf == e->function && w->index == e->index)
			*entry_reg(e, w->reg) = (*entry_reg(&host, w->reg) & w->keep & used) |
						w->added;
	}
	drop_without_state(e);
	if (e->function == 1) {
		e->eax = host.eax;
		e->ebx = host.ebx & 0xff00;		/* CLFLUSH line size */
	} else if (e->function == 0x80000001) {
		e->eax = host.eax;
	} else if (e->function == 0x80000008) {	/* four-level second-level tables reach 48 bits */
		e->eax = min_t(u32, host.eax & 0xff, 48) | 48 << 8;
	}
}

/* Returns bit 8 if the TSC has one rate in all states and the kernel has not found it unstable. */
static u32 invariant_tsc(void)
{
	return boot_cpu_has(X86_FEATURE_CONSTANT_TSC) && boot_cpu_has(X86_FEATURE_NONSTOP_TSC) &&
	       !check_tsc_unstable() ? BIT(8) : 0;
}

/* Fills a sub-leaf of XSAVE: only components that guests may enable, and no supervisor state. */
static bool offer_xsave(struct kvm_cpuid_entry2 *e)
{
	u64 features = MKVM_GUEST_XCR0;

	if (e->index == 0) {
		e->eax = features;
		e->ebx = e->ecx = xsave_size(features, false);
		e->edx = features >> 32;
	} else if (e->index == 1) {
		offer_features(e);
		e->ebx = e->eax & F(XSAVEC) ? xsave_size(features, true) : 0;
	} else {
		e->ecx &= BIT(1);
		e->edx = 0;
		return features >> e->index & 1;
	}
	return boot_cpu_has(X86_FEATURE_OSXSAVE);
}

/* Fills in a supported entry; false: this leaf or sub-leaf is not shown. */
static bool supported_entry(struct kvm_cpuid_entry2 *e, u32 leaf, u32 index)
{
	memset(e, 0, sizeof(*e));
	e->function = leaf;
	e->index = index;
	cpuid_count(leaf, index, &e->eax, &e->ebx, &e->ecx, &e->edx);
	if (leaf == 0x7 || leaf == 0xd || leaf == 0x8000001d)
		e->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	switch (leaf) {
	case 0:
		e->eax = min(e->eax, LAST_LEAF);
		return true;
	case 0x80000000:
		e->eax = min(e->eax, LAST_EXTENDED);
		return true;
	case 0xd:
		return offer_xsave(e);
	case 1:
	case 7:
	case 0x80000001:
	case 0x80000008:
		offer_features(e);
		return true;
	case 0x80000007:
		e->eax = e->ebx = e->ecx = 0;
		e->edx = invariant_tsc();
		return true;
	case 0x8000001a:
		e->eax &= GENMASK(2, 0);
		e->ebx = e->ecx = e->edx = 0;
		return true;
	case 0x8000001e:	/* the CPU's place in the topology, which userspace sets */
		e->eax = e->ebx = e->ecx = e->edx = 0;
		return true;
	default:
		return leaf_is_plain(leaf);
	}
}

/* Whether a sub-leaf may follow this one. The caches of 0x8000001d end with an empty one. */
static bool more_subleaves(const struct kvm_cpuid_entry2 *e, u32 leaf, u32 index)
{
	return (leaf == 0xd && index < 62) || (leaf == 0x8000001d && (e->eax & 0x1f) && index < 15);
}

static u32 add_leaf(struct kvm_cpuid_entry2 *e, u32 n, u32 leaf)
{
	u32 index = 0;
	bool more;

	do {
		if (supported_entry(&e[n], leaf, index))
			n++;
		more = more_subleaves(n ? &e[n - 1] : e, leaf, index++);
	} while (more);
	return n;
}

/* Fills in all entries that can be shown; e has room for MKVM_MAX_CPUID. Returns their number. */
static u32 supported_entries(struct kvm_cpuid_entry2 *e)
{
	u32 leaf, n = 0;

	for (leaf = 0; leaf <= min(cpuid_eax(0), LAST_LEAF); leaf++)
		n = add_leaf(e, n, leaf);
	/*
	 * The signature makes guests use x2APIC without interrupt remapping and skip I/O
	 * delays (bit 1); no other paravirtual feature is shown.
	 */
	e[n++] = (struct kvm_cpuid_entry2){
		.function = 0x40000000,
		.eax = 0x40000001,
		.ebx = 0x4b4d564b,
		.ecx = 0x564b4d56,
		.edx = 0x4d,
	};
	e[n++] = (struct kvm_cpuid_entry2) { .function = 0x40000001, .eax = BIT(1) };
	for (leaf = 0x80000000; leaf <= min(cpuid_eax(0x80000000), LAST_EXTENDED); leaf++)
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

/*
 * KVM_GET_SUPPORTED_CPUID. May sleep. Return: -E2BIG if there is too little room, -EFAULT, -ENOMEM.
 */
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

/*
 * KVM_GET_EMULATED_CPUID. No feature that the CPU lacks is emulated, so all these leaves are empty.
 */
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

	if (low < 32) {	/* the table has the leaf's first entry, which mostly is the only one */
		low = array_index_nospec(low, 32);
		if (!vcpu->guest_cpuid.first[group][low])
			return NULL;
		i = array_index_nospec(vcpu->guest_cpuid.first[group][low] - 1,
				       vcpu->guest_cpuid.nr);
	}
	for (; i < vcpu->guest_cpuid.nr; i++) {
		struct kvm_cpuid_entry2 *e = &vcpu->guest_cpuid.entries[i];

		if (e->function == leaf &&
		    (e->index == index || !(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return e;
	}
	return NULL;
}

/* Updates the bits of an entry that mirror other state. */
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
		e->ebx = xsave_size(vcpu->fpu.xcr0, false);
	} else if (e->function == 0xd && e->index == 1) {
		e->ebx = e->eax & F(XSAVEC) ? xsave_size(vcpu->fpu.xcr0, true) : 0;
	}
}

/*
 * Hides from the guest what userspace has set but does not exist: features that the module does not
 * support, and those that IA32_MISC_ENABLE disables. Intel SDM vol. 4, "IA32_MISC_ENABLE".
 */
static void hide_features(struct mkvm_vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	u64 enable = vcpu->msr.misc_enable;
	int i;

	for (i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].leaf == e->function && words[i].index == e->index)
			*entry_reg(e, words[i].reg) &= ~words[i].vain;
	if (e->function == 0 && (enable & MSR_IA32_MISC_ENABLE_LIMIT_CPUID))
		e->eax = min(e->eax, 2u);
	else if (e->function == 1 && !mkvm_has_mwait(vcpu))
		e->ecx &= ~F(MWAIT);
	else if (e->function == 7 && e->index == 0 && !(enable & MSR_IA32_MISC_ENABLE_FAST_STRING))
		e->ebx &= ~F(ERMS);
	else if (e->function == 0xd && e->index == 0)
		e->eax &= MKVM_GUEST_XCR0;	/* all of whose bits are in EAX */
	else if (e->function == 0x80000001 && (enable & MSR_IA32_MISC_ENABLE_XD_DISABLE))
		e->edx &= ~F(NX);
}

/* Whether the vendor is AMD or Hygon, whose CPUs answer differently for undefined leaves. */
static bool amd_rules(const struct kvm_cpuid_entry2 *basic)
{
	return (basic->ebx == 0x68747541 && basic->edx == 0x69746e65 && basic->ecx == 0x444d4163) ||
	       (basic->ebx == 0x6f677948 && basic->edx == 0x6e65476e && basic->ecx == 0x656e6975);
}

/*
 * Returns the leaf whose data a CPU gives for a leaf without an entry. AMD's CPUs give zeroes (APM
 * vol. 3, "CPUID"), so it is the same leaf. Other CPUs give the data of the highest basic leaf if
 * the leaf is beyond the end of its range or its range does not exist (Intel SDM vol. 2, "CPUID").
 * Each hypervisor's range has 256 leaves.
 */
static u32 instead_of(struct mkvm_vcpu *vcpu, u32 leaf)
{
	const struct kvm_cpuid_entry2 *basic = find_entry(vcpu, 0, 0), *range;

	if (!basic || amd_rules(basic))
		return leaf;
	if (leaf >> 28 == 4)
		range = find_entry(vcpu, leaf & 0xffffff00, 0);
	else if (leaf >= 0xc0000000)
		range = find_entry(vcpu, 0xc0000000, 0);
	else
		range = find_entry(vcpu, leaf & 0x80000000, 0);
	return range && leaf <= range->eax ? leaf : basic->eax;
}

/*
 * Fills an entry beyond the last level of a topology: the requested level and the x2APIC id. Intel
 * SDM vol. 2, "CPUID", leaves 0BH and 1FH; AMD APM vol. 3, "Fn0000_000B". Return: false if there is
 * no topology.
 */
static bool beyond_topology(struct mkvm_vcpu *vcpu, u32 leaf, u32 index, struct kvm_cpuid_entry2 *e)
{
	const struct kvm_cpuid_entry2 *level = NULL;

	if (leaf == 0xb || leaf == 0x1f)
		level = find_entry(vcpu, leaf, 1) ?: find_entry(vcpu, leaf, 0);
	if (!level || !(level->ebx | level->edx))
		return false;
	*e = (struct kvm_cpuid_entry2) { .ecx = index & 0xff, .edx = level->edx };
	return true;
}

/*
 * mkvm_cpuid - returns what CPUID gives the guest
 *
 * The entry is valid until the next call. A leaf that userspace did not set reads as on a CPU of
 * the vendor that leaf 0 names. Context: own thread, or vcpu->mutex held.
 */
const struct kvm_cpuid_entry2 *mkvm_cpuid(struct mkvm_vcpu *vcpu, u32 leaf, u32 index)
{
	static const struct kvm_cpuid_entry2 none;
	const struct kvm_cpuid_entry2 *e = find_entry(vcpu, leaf, index);

	if (!e) {
		leaf = instead_of(vcpu, leaf);
		e = find_entry(vcpu, leaf, index);
	}
	if (!e && beyond_topology(vcpu, leaf, index, &vcpu->guest_cpuid.now))
		return &vcpu->guest_cpuid.now;
	if (!e)
		return &none;
	vcpu->guest_cpuid.now = *e;
	mirror_state(vcpu, &vcpu->guest_cpuid.now);
	hide_features(vcpu, &vcpu->guest_cpuid.now);
	return &vcpu->guest_cpuid.now;
}

/*
 * mkvm_cpuid_has - whether CPUID shows this feature
 * @feature: the kernel's X86_FEATURE number, in a register that words[] has
 *
 * Before KVM_SET_CPUID2 all features are shown. Context: vcpu->mutex held.
 */
bool mkvm_cpuid_has(struct mkvm_vcpu *vcpu, unsigned int feature)
{
	struct kvm_cpuid_entry2 *e;
	int i;

	if (!vcpu->guest_cpuid.nr)
		return true;
	for (i = 0; i < ARRAY_SIZE(words); i++) {
		if (words[i].kernel != feature / 32)
			continue;
		e = find_entry(vcpu, words[i].leaf, words[i].index);
		return e && (*entry_reg(e, words[i].reg) & ~words[i].vain & BIT(feature % 32));
	}
	return false;
}

/* Bits of CR4 and the features that they need, in the guest's CPUID and in the host's kernel. */
static const struct {
	u64 bits;
	u16 guest, host;
} cr4_features[] = {
	{ X86_CR4_VME | X86_CR4_PVI, X86_FEATURE_VME, X86_FEATURE_VME },
	{ X86_CR4_TSD, X86_FEATURE_TSC, X86_FEATURE_TSC },
	{ X86_CR4_DE, X86_FEATURE_DE, X86_FEATURE_DE },
	{ X86_CR4_PSE, X86_FEATURE_PSE, X86_FEATURE_PSE },
	{ X86_CR4_PAE, X86_FEATURE_PAE, X86_FEATURE_PAE },
	{ X86_CR4_MCE, X86_FEATURE_MCE, X86_FEATURE_FPU /* ours */ },
	{ X86_CR4_PGE, X86_FEATURE_PGE, X86_FEATURE_PGE },
	{ X86_CR4_OSFXSR, X86_FEATURE_FXSR, X86_FEATURE_FXSR },
	{ X86_CR4_OSXMMEXCPT, X86_FEATURE_XMM, X86_FEATURE_XMM },
	{ X86_CR4_OSXSAVE, X86_FEATURE_XSAVE, X86_FEATURE_OSXSAVE },
	{ X86_CR4_PCIDE, X86_FEATURE_PCID, X86_FEATURE_PCID },
	{ X86_CR4_FSGSBASE, X86_FEATURE_FSGSBASE, X86_FEATURE_FSGSBASE },
	{ X86_CR4_SMEP, X86_FEATURE_SMEP, X86_FEATURE_SMEP },
	{ X86_CR4_SMAP, X86_FEATURE_SMAP, X86_FEATURE_SMAP },
	{ X86_CR4_UMIP, X86_FEATURE_UMIP, X86_FEATURE_UMIP },
	{ X86_CR4_PKE, X86_FEATURE_PKU, X86_FEATURE_OSPKE },
};

static u64 cr4_allowed(struct mkvm_vcpu *vcpu)
{
	u64 bits = X86_CR4_PCE;
	int i;

	for (i = 0; i < ARRAY_SIZE(cr4_features); i++)
		if (mkvm_cpuid_has(vcpu, cr4_features[i].guest) &&
		    boot_cpu_has(cr4_features[i].host))
			bits |= cr4_features[i].bits;
	return bits;
}

static u64 efer_allowed(struct mkvm_vcpu *vcpu)
{
	bool ffxsr = mkvm_cpuid_has(vcpu, X86_FEATURE_FXSR_OPT) &&
		     boot_cpu_has(X86_FEATURE_FXSR_OPT);

	return (mkvm_cpuid_has(vcpu, X86_FEATURE_SYSCALL) ? EFER_SCE : 0) |
	       (mkvm_cpuid_has(vcpu, X86_FEATURE_LM) ? EFER_LME | EFER_LMA : 0) |
	       (mkvm_cpuid_has(vcpu, X86_FEATURE_NX) ? EFER_NX : 0) |
	       (ffxsr ? EFER_FFXSR : 0);
}

/* Returns the features on which registers and instructions depend: enum mkvm_shown. */
static u32 features_shown(struct mkvm_vcpu *vcpu)
{
	static const struct {
		u32 shown;
		u16 feature;
	} map[] = {
		{ MKVM_SHOWN_SEP, X86_FEATURE_SEP },
		{ MKVM_SHOWN_MTRR, X86_FEATURE_MTRR },
		{ MKVM_SHOWN_MCA, X86_FEATURE_MCA },
		{ MKVM_SHOWN_PAT, X86_FEATURE_PAT },
		{ MKVM_SHOWN_TSC_ADJUST, X86_FEATURE_TSC_ADJUST },
		{ MKVM_SHOWN_TSC_DEADLINE, X86_FEATURE_TSC_DEADLINE_TIMER },
		{ MKVM_SHOWN_X2APIC, X86_FEATURE_X2APIC },
		{ MKVM_SHOWN_SYSCALL, X86_FEATURE_SYSCALL },
		{ MKVM_SHOWN_LM, X86_FEATURE_LM },
		{ MKVM_SHOWN_RDTSCP, X86_FEATURE_RDTSCP },
		{ MKVM_SHOWN_TSC_AUX, X86_FEATURE_RDTSCP },
		{ MKVM_SHOWN_TSC_AUX, X86_FEATURE_RDPID },
		{ MKVM_SHOWN_INVPCID, X86_FEATURE_INVPCID },
		{ MKVM_SHOWN_MWAIT, X86_FEATURE_MWAIT },
		{ MKVM_SHOWN_OSVW, X86_FEATURE_OSVW },
		{ MKVM_SHOWN_RDRAND, X86_FEATURE_RDRAND },
		{ MKVM_SHOWN_RDSEED, X86_FEATURE_RDSEED },
	};
	u32 i, shown = 0;

	for (i = 0; i < ARRAY_SIZE(map); i++)
		if (mkvm_cpuid_has(vcpu, map[i].feature))
			shown |= map[i].shown;
	return shown;
}

/*
 * mkvm_cpuid_update - derive the fields that depend on CPUID
 *
 * Before KVM_SET_CPUID2 the guest sees zeroes, but userspace may still set up any mode that the
 * module supports. Context: vcpu->mutex held, or the vCPU is not yet published.
 */
void mkvm_cpuid_update(struct mkvm_vcpu *vcpu)
{
	const struct kvm_cpuid_entry2 *e;
	bool none = !vcpu->guest_cpuid.nr;
	u32 width, i;

	memset(vcpu->guest_cpuid.first, 0, sizeof(vcpu->guest_cpuid.first));
	for (i = vcpu->guest_cpuid.nr; i--;) {
		u32 leaf = vcpu->guest_cpuid.entries[i].function;

		if ((leaf & 0x7fffffff) < 32)
			vcpu->guest_cpuid.first[leaf >= 0x80000000][leaf & 31] = i + 1;
	}
	vcpu->guest_cpuid.shown = features_shown(vcpu);
	vcpu->guest_cpuid.x2apic = vcpu->guest_cpuid.shown & MKVM_SHOWN_X2APIC;
	vcpu->guest_cpuid.tsc_deadline = vcpu->guest_cpuid.shown & MKVM_SHOWN_TSC_DEADLINE;
	vcpu->guest_cpuid.cr4_reserved = ~cr4_allowed(vcpu);
	vcpu->guest_cpuid.efer_reserved = ~efer_allowed(vcpu);
	e = find_entry(vcpu, 0, 0);
	vcpu->guest_cpuid.amd_rules = e && amd_rules(e);
	vcpu->fpu.xcr0_mask = MKVM_GUEST_XCR0;
	e = find_entry(vcpu, 0xd, 0);
	if (!none)
		vcpu->fpu.xcr0_mask &= (e ? e->eax : 0) | XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
	e = find_entry(vcpu, 0x80000008, 0);
	width = clamp_t(u32, (e ? e->eax & 0xff : 0) ?: 36, 32, 48);
	if (none)
		width = 48;
	vcpu->guest_cpuid.gpa_reserved = GENMASK_ULL(51, width);
}

/* ---- MONITOR and MWAIT ---- */

/*
 * Whether the guest has MONITOR and MWAIT: its CPUID must show them, the host's CPU must have them,
 * and IA32_MISC_ENABLE must not disable them.
 */
bool mkvm_has_mwait(struct mkvm_vcpu *vcpu)
{
	return (vcpu->guest_cpuid.shown & MKVM_SHOWN_MWAIT) && boot_cpu_has(X86_FEATURE_MWAIT) &&
	       (vcpu->msr.misc_enable & MSR_IA32_MISC_ENABLE_MWAIT);
}

/* ---- KVM_SET_CPUID2, KVM_GET_CPUID2 ---- */

/* Whether the guest already has these entries. Bits that mirror other state are ignored. */
static bool same_entries(struct mkvm_vcpu *vcpu, const struct kvm_cpuid_entry2 *e, u32 n)
{
	struct kvm_cpuid_entry2 is, set;
	u32 i;

	if (n != vcpu->guest_cpuid.nr)
		return false;
	for (i = 0; i < n; i++) {
		is = vcpu->guest_cpuid.entries[i];
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
 * Context: vcpu->mutex held, vCPU loaded, may sleep. Return: -E2BIG (MKVM_MAX_CPUID entries or
 * more),
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
	if (vcpu->stats[MKVM_STAT_EXITS]) {	/* the guest may know it: it must not change */
		bool same = same_entries(vcpu, e, n);

		kvfree(e);
		return same ? 0 : -EINVAL;
	}
	kvfree(vcpu->guest_cpuid.entries);
	vcpu->guest_cpuid.entries = e;
	vcpu->guest_cpuid.nr = n;
	mkvm_cpuid_update(vcpu);
	mkvm_hw->cpuid_changed(vcpu);
	mkvm_pending_set(vcpu, MKVM_PEND_MSRS);	/* some registers may exit now */
	return 0;
}

/*
 * KVM_GET_CPUID2: the entries that were set, with bits that mirror other state updated. May sleep.
 */
int mkvm_cpuid_get(struct mkvm_vcpu *vcpu, struct kvm_cpuid2 __user *arg)
{
	struct kvm_cpuid_entry2 *e;
	u32 i;
	int r;

	e = kvcalloc(vcpu->guest_cpuid.nr + 1, sizeof(*e), GFP_KERNEL);
	if (!e)
		return -ENOMEM;
	if (vcpu->guest_cpuid.nr)
		memcpy(e, vcpu->guest_cpuid.entries, vcpu->guest_cpuid.nr * sizeof(*e));
	for (i = 0; i < vcpu->guest_cpuid.nr; i++)
		mirror_state(vcpu, &e[i]);
	r = copy_entries(arg, e, vcpu->guest_cpuid.nr);
	kvfree(e);
	return r;
}
