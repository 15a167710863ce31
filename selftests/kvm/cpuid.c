// SPDX-License-Identifier: GPL-2.0
/*
 * CPUID and what hangs on it: leaves beyond the last one, topology beyond the last level, sizes
 * of XSAVE areas; and feature by feature, that what is shown works and what is hidden is refused.
 *
 * Read next: msrs.c.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "vm.h"

enum { EAX, EBX, ECX, EDX };

#define CR4_DE (1ull << 3)
#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)
#define CR4_FSGSBASE (1ull << 16)
#define CR4_PCIDE (1ull << 17)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CR4_UMIP (1ull << 11)
#define CR4_PKE (1ull << 22)
#define EFER_FFXSR (1ull << 14)

#define D_1_XSAVEC (1u << 1)
#define MSR_MISC_ENABLE 0x1a0
#define MISC_ENABLE_FAST_STRING (1ull << 0)
#define MISC_ENABLE_EMON (1ull << 7)
#define MISC_ENABLE_BTS_UNAVAIL (1ull << 11)
#define MISC_ENABLE_PEBS_UNAVAIL (1ull << 12)
#define MISC_ENABLE_READ_ONLY \
	(MISC_ENABLE_EMON | MISC_ENABLE_BTS_UNAVAIL | MISC_ENABLE_PEBS_UNAVAIL)
#define MISC_ENABLE_MWAIT (1ull << 18)
#define MISC_ENABLE_LIMIT_CPUID (1ull << 22)
#define MISC_ENABLE_XD_DISABLE (1ull << 34)

static struct kvm_cpuid_entry2 *find(struct cpuid_list *list, u32 leaf, u32 index)
{
	for (u32 i = 0; i < list->nent; i++)
		if (list->entries[i].function == leaf && list->entries[i].index == index)
			return &list->entries[i];
	return NULL;
}

static struct kvm_cpuid_entry2 *add(struct cpuid_list *list, u32 leaf, u32 index, u32 flags)
{
	struct kvm_cpuid_entry2 *e = find(list, leaf, index);

	if (!e)
		e = &list->entries[list->nent++];
	*e = (struct kvm_cpuid_entry2){ .function = leaf, .index = index, .flags = flags };
	return e;
}

static void drop(struct cpuid_list *list, u32 leaf)
{
	for (u32 i = 0; i < list->nent;) {
		if (list->entries[i].function == leaf)
			list->entries[i] = list->entries[--list->nent];
		else
			i++;
	}
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

static void set_vendor(struct cpuid_list *list, const char *vendor)
{
	struct kvm_cpuid_entry2 *e = find(list, 0, 0);

	memcpy(&e->ebx, vendor, 4);
	memcpy(&e->edx, vendor + 4, 4);
	memcpy(&e->ecx, vendor + 8, 4);
}

/* --- What the guest is told --- */

#define QUESTIONS 16

static volatile struct {
	u32 leaf, index, answer[4];
} questions[QUESTIONS];
static volatile u32 nr_questions;

static void asking_guest(u64 arg)
{
	u32 regs[4];

	(void)arg;
	for (u32 i = 0; i < nr_questions; i++) {
		cpuid(questions[i].leaf, questions[i].index, regs);
		for (int j = 0; j < 4; j++)
			questions[i].answer[j] = regs[j];
	}
}

static u32 question(u32 leaf, u32 index)
{
	ASSERT_LT(nr_questions, QUESTIONS);
	questions[nr_questions].leaf = leaf;
	questions[nr_questions].index = index;
	return nr_questions++;
}

static void ask_with(struct cpuid_list *list)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, list));
	vcpu_set_guest(vcpu, asking_guest, 0);
	vcpu_run_to_done(vcpu);
}

static void expect_answer(u32 nr, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
	ktap_about("CPUID %#x, %#x", questions[nr].leaf, questions[nr].index);
	EXPECT_EQ(eax, questions[nr].answer[EAX]);
	EXPECT_EQ(ebx, questions[nr].answer[EBX]);
	EXPECT_EQ(ecx, questions[nr].answer[ECX]);
	EXPECT_EQ(edx, questions[nr].answer[EDX]);
}

/* Basic leaves end with 0x16, whose answer depends on the sub-leaf; one hypervisor has leaves. */
static void ranges(struct cpuid_list *list, const char *vendor)
{
	struct kvm_cpuid_entry2 *e;

	default_cpuid(list, 0);
	set_vendor(list, vendor);
	find(list, 0, 0)->eax = 0x16;
	find(list, 0x80000000, 0)->eax = 0x80000008;
	for (u32 i = 0; i < 2; i++) {
		e = add(list, 0x16, i, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
		e->eax = 0x1110 + i;
		e->ebx = 0x2220 + i;
		e->ecx = 0x3330 + i;
		e->edx = 0x4440 + i;
	}
	for (u32 leaf = 0x80000009; leaf < 0x80000040; leaf++)
		drop(list, leaf);
	drop(list, 0x40000000);
	drop(list, 0x40000001);
	e = add(list, 0x40000100, 0, 0);
	e->eax = 0x40000102;
	e->ebx = 0x1234;
}

static const u32 beyond[] = {
	0x17, 0x3fffffff, 0x40000000, 0x40000103, 0x400001ff, 0x40000200, 0x50000000, 0x7fffffff,
	0x80000009, 0x80000fff, 0xc0000000, 0xffffffff,
};
#define NR_BEYOND (sizeof(beyond) / sizeof(beyond[0]))

static void ask_beyond(const char *vendor, bool zeroes)
{
	static struct cpuid_list list;
	u32 inside[3];

	nr_questions = 0;
	for (u32 i = 0; i < NR_BEYOND; i++)
		question(beyond[i], i & 1);
	inside[0] = question(0x16, 1);
	inside[1] = question(0x15, 0);		/* within the range, but nobody has set it */
	inside[2] = question(0x40000102, 0);
	ranges(&list, vendor);
	ask_with(&list);
	for (u32 i = 0; i < NR_BEYOND; i++) {
		u32 sub = i & 1;

		if (zeroes)
			expect_answer(i, 0, 0, 0, 0);
		else
			expect_answer(i, 0x1110 + sub, 0x2220 + sub, 0x3330 + sub, 0x4440 + sub);
	}
	expect_answer(inside[0], 0x1111, 0x2221, 0x3331, 0x4441);
	expect_answer(inside[1], 0, 0, 0, 0);
	expect_answer(inside[2], 0, 0, 0, 0);
}

/* Intel SDM vol. 2, "CPUID": "the data for the highest basic information leaf is returned". */
TEST(beyond_the_last_leaf_an_intel_cpu_answers_with_its_last_basic_one)
{
	ask_beyond("GenuineIntel", false);
	ask_beyond("CentaurHauls", false);
}

/* AMD APM vol. 3, "CPUID": undefined function numbers return zeroes. */
TEST(beyond_the_last_leaf_an_amd_cpu_answers_with_zeroes)
{
	ask_beyond("AuthenticAMD", true);
	ask_beyond("HygonGenuine", true);
}

static void set_level(struct cpuid_list *list, u32 leaf, u32 index, u32 shift, u32 threads, u32 ecx)
{
	struct kvm_cpuid_entry2 *e = add(list, leaf, index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);

	e->eax = shift;
	e->ebx = threads;
	e->ecx = ecx;
	e->edx = 0x123;
}

static void topology(const char *vendor)
{
	static struct cpuid_list list;
	u32 level[2], past[4];

	default_cpuid(&list, 0);
	set_vendor(&list, vendor);
	drop(&list, 0xb);
	drop(&list, 0x1f);
	find(&list, 0, 0)->eax = 0x1f;
	set_level(&list, 0xb, 0, 1, 2, 0x100);
	set_level(&list, 0xb, 1, 3, 8, 0x201);
	set_level(&list, 0x1f, 0, 1, 2, 0x100);
	set_level(&list, 0x1f, 1, 4, 16, 0x501);
	nr_questions = 0;
	level[0] = question(0xb, 1);
	level[1] = question(0x1f, 1);
	past[0] = question(0xb, 2);
	past[1] = question(0xb, 0x12345);
	past[2] = question(0x1f, 2);
	past[3] = question(0x1f, 0xffffffff);
	ask_with(&list);
	expect_answer(level[0], 3, 8, 0x201, 0x123);
	expect_answer(level[1], 4, 16, 0x501, 0x123);
	expect_answer(past[0], 0, 0, 2, 0x123);
	expect_answer(past[1], 0, 0, 0x45, 0x123);
	expect_answer(past[2], 0, 0, 2, 0x123);
	expect_answer(past[3], 0, 0, 0xff, 0x123);
}

/* Intel SDM vol. 2, "CPUID", leaves 0BH and 1FH; AMD APM vol. 3, Fn0000_000B. */
TEST(beyond_the_last_level_of_the_topology_are_the_level_and_the_x2apic_id)
{
	topology("AuthenticAMD");
	topology("GenuineIntel");
}

TEST(a_topology_that_is_not_there_is_all_zeroes)
{
	static struct cpuid_list list;
	u32 none;

	default_cpuid(&list, 0);
	drop(&list, 0xb);
	drop(&list, 0x1f);
	find(&list, 0, 0)->eax = 0x1f;
	none = question(0xb, 1);
	ask_with(&list);
	expect_answer(none, 0, 0, 0, 0);
}

/* --- XSAVE's sizes --- */

#define XSAVE_LEGACY 576u	/* the legacy region and the header */

struct sizes {
	u64 xcr0;
	u32 ebx, ecx, compacted;
};

static volatile struct sizes seen_sizes[8];
static volatile u32 nr_sizes;
static u64 xcr0_offered;
static u8 xsave_area[8192] __attribute__((aligned(64)));

static void set_cr4_bits(u64 bits)
{
	u64 cr4;

	asm volatile("movq %%cr4, %0" : "=r"(cr4));
	asm volatile("movq %0, %%cr4" :: "r"(cr4 | bits));
}

static void xsetbv(u64 val)
{
	asm volatile("xsetbv" :: "a"((u32)val), "d"((u32)(val >> 32)), "c"(0));
}

/* Sums of components that CPUs know: x87, SSE, AVX, AVX-512, protection keys. */
static void xsave_sizes_guest(u64 arg)
{
	static const u64 sets[] = { 0x1, 0x3, 0x7, 0xe7, 0x203, 0x2e7 };
	u32 regs[4];

	(void)arg;
	set_cr4_bits(CR4_OSXSAVE);
	for (u32 i = 0; i < sizeof(sets) / sizeof(sets[0]); i++) {
		volatile struct sizes *s = &seen_sizes[nr_sizes];

		if (sets[i] & ~xcr0_offered)
			continue;
		xsetbv(sets[i]);
		s->xcr0 = sets[i];
		cpuid(0xd, 0, regs);
		s->ebx = regs[EBX];
		s->ecx = regs[ECX];
		cpuid(0xd, 1, regs);
		s->compacted = regs[EBX];
		/* No byte behind the size that was told is written. */
		for (u32 j = 0; j < sizeof(xsave_area); j++)
			xsave_area[j] = j < XSAVE_LEGACY ? 0 : 0xa5;
		asm volatile("xsave64 %0" : "+m"(xsave_area) : "a"(-1), "d"(-1));
		for (u32 j = s->ebx; j < sizeof(xsave_area); j++)
			GUEST_EQ(0xa5, xsave_area[j]);
		nr_sizes++;
	}
}

/* From the sub-leaves: where the last component ends, in either format. */
static u32 area_size(struct cpuid_list *list, u64 xcr0, bool compacted)
{
	u32 size = XSAVE_LEGACY;

	for (u32 i = 2; i < 63; i++) {
		struct kvm_cpuid_entry2 *e = xcr0 >> i & 1 ? find(list, 0xd, i) : NULL;

		if (!e)
			continue;
		if (!compacted) {
			size = e->eax + e->ebx > size ? e->eax + e->ebx : size;
			continue;
		}
		if (e->ecx & 2)
			size = (size + 63) & ~63u;
		size += e->eax;
	}
	return size;
}

static struct cpuid_list *xsave_cpuid(bool xsavec)
{
	static struct cpuid_list list;
	struct kvm_cpuid_entry2 *e;

	default_cpuid(&list, 0);
	e = find(&list, 0xd, 0);
	if (!e || !e->eax)
		SKIP("the CPU has no XSAVE");
	xcr0_offered = e->eax | (u64)e->edx << 32;
	e = find(&list, 0xd, 1);
	if (!e)
		SKIP("the CPU has no sub-leaf 1 of CPUID 0xd");
	e->eax = xsavec ? e->eax | D_1_XSAVEC : e->eax & ~(D_1_XSAVEC | 1u << 3);
	return &list;
}

static void expect_sizes(bool xsavec)
{
	struct cpuid_list *list = xsave_cpuid(xsavec);
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, list));
	vcpu_set_guest(vcpu, xsave_sizes_guest, 0);
	vcpu_run_to_done(vcpu);
	ASSERT_LT(1, nr_sizes);
	for (u32 i = 0; i < nr_sizes; i++) {
		volatile struct sizes *s = &seen_sizes[i];

		ktap_about("XCR0 %#llx", (unsigned long long)s->xcr0);
		EXPECT_EQ(area_size(list, s->xcr0, false), s->ebx);
		EXPECT_EQ(area_size(list, xcr0_offered, false), s->ecx);
		EXPECT_EQ(xsavec ? area_size(list, s->xcr0, true) : 0, s->compacted);
	}
}

TEST(sizes_of_the_xsave_area_follow_xcr0)
{
	expect_sizes(false);
}

/* Neither QEMU's TCG nor Bochs has XSAVEC: the guest only reads what it would be told. */
TEST(the_compacted_size_follows_xcr0_where_there_is_xsavec)
{
	expect_sizes(true);
}

TEST(offered_sizes_are_those_of_what_is_offered)
{
	static struct cpuid_list list;
	struct kvm_cpuid_entry2 *e;
	u64 xcr0;

	default_cpuid(&list, 0);
	e = find(&list, 0xd, 0);
	if (!e || !e->eax)
		SKIP("the CPU has no XSAVE");
	xcr0 = e->eax | (u64)e->edx << 32;
	EXPECT_EQ(area_size(&list, xcr0, false), e->ebx);
	EXPECT_EQ(area_size(&list, xcr0, false), e->ecx);
	for (u32 i = 2; i < 63; i++)
		EXPECT_EQ(xcr0 >> i & 1, !!find(&list, 0xd, i));
	e = find(&list, 0xd, 1);
	if (e)
		EXPECT_EQ(e->eax & D_1_XSAVEC ? area_size(&list, xcr0, true) : 0, e->ebx);
}

/* --- Features: what is shown works, what is hidden is refused --- */

static u8 operand[4096] __attribute__((aligned(64)));

/* One instruction, %0 points to memory that it may use. */
#define PROBE(name, insn)						\
	static u64 name(void)						\
	{								\
		return GUEST_TRY(insn, : "r"(operand) :			\
				 "rax", "rbx", "rcx", "rdx", "cc", "memory"); \
	}

PROBE(fpu, "fninit")
PROBE(rdtsc_, "rdtsc")
PROBE(cx8, "cmpxchg8b (%0)")
PROBE(cmov, "cmovz %%ebx, %%eax")
PROBE(clflush, "clflush (%0)")
PROBE(mmx, "pxor %%mm0, %%mm0; emms")
PROBE(fxsr, "fxsave (%0)")
PROBE(sse, "xorps %%xmm0, %%xmm0")
PROBE(sse2, "pxor %%xmm0, %%xmm0")
PROBE(sse3, "haddps %%xmm0, %%xmm0")
PROBE(pclmul, "pclmulqdq $0, %%xmm0, %%xmm0")
PROBE(ssse3, "pabsb %%xmm0, %%xmm0")
PROBE(vfma, "vfmadd132ps %%xmm0, %%xmm0, %%xmm0")
PROBE(cx16, "cmpxchg16b (%0)")
PROBE(sse41, "pmovsxbw %%xmm0, %%xmm0")
PROBE(sse42, "crc32b (%0), %%eax")
PROBE(movbe, "movbe (%0), %%eax")
PROBE(popcnt, "popcnt %%eax, %%eax")
PROBE(aes, "aesenc %%xmm0, %%xmm0")
PROBE(xgetbv, "xorl %%ecx, %%ecx; xgetbv")
PROBE(avx, "vxorps %%ymm0, %%ymm0, %%ymm0")
PROBE(f16c, "vcvtph2ps %%xmm0, %%xmm0")
PROBE(rdrand, "rdrand %%eax")
PROBE(bmi1, "andn %%eax, %%eax, %%eax")
PROBE(avx2, "vpaddb %%ymm0, %%ymm0, %%ymm0")
PROBE(bmi2, "rorx $1, %%eax, %%eax")
PROBE(invpcid, "movl $2, %%eax; invpcid (%0), %%rax")
PROBE(avx512f, "vpxord %%zmm0, %%zmm0, %%zmm0")
PROBE(avx512dq, "vpmullq %%zmm0, %%zmm0, %%zmm0")
PROBE(rdseed, "rdseed %%eax")
PROBE(adx, "adcx %%eax, %%eax")
PROBE(ifma, "vpmadd52luq %%zmm0, %%zmm0, %%zmm0")
PROBE(clflushopt, "clflushopt (%0)")
PROBE(clwb, "clwb (%0)")
PROBE(avx512cd, "vplzcntd %%zmm0, %%zmm0")
PROBE(sha, "sha1msg1 %%xmm0, %%xmm0")
PROBE(avx512bw, "vpaddb %%zmm0, %%zmm0, %%zmm0")
PROBE(avx512vl, "vpxord %%xmm0, %%xmm0, %%xmm0")
PROBE(vbmi, "vpermb %%zmm0, %%zmm0, %%zmm0")
PROBE(vbmi2, "vpshldd $1, %%zmm0, %%zmm0, %%zmm0")
PROBE(gfni, "gf2p8mulb %%xmm0, %%xmm0")
PROBE(vaes, "vaesenc %%ymm0, %%ymm0, %%ymm0")
PROBE(vpclmul, "vpclmulqdq $0, %%ymm0, %%ymm0, %%ymm0")
PROBE(vnni, "vpdpbusd %%zmm0, %%zmm0, %%zmm0")
PROBE(bitalg, "vpopcntb %%zmm0, %%zmm0")
PROBE(vpopcnt, "vpopcntd %%zmm0, %%zmm0")
PROBE(rdpid, "rdpid %%rax")
PROBE(xsaveopt, "xorl %%eax, %%eax; xorl %%edx, %%edx; xsaveopt (%0)")
PROBE(xsavec, "xorl %%eax, %%eax; xorl %%edx, %%edx; xsavec (%0)")
PROBE(xgetbv1, "movl $1, %%ecx; xgetbv")
PROBE(lahf, "lahf")
PROBE(lzcnt, "lzcnt %%eax, %%eax")
PROBE(sse4a, "movntss %%xmm0, (%0)")
PROBE(prefetch, "prefetch (%0)")
PROBE(xop, "vphaddbw %%xmm0, %%xmm0")
PROBE(fma4, "vfmaddps %%xmm0, %%xmm0, %%xmm0, %%xmm0")
PROBE(tbm, "blcfill %%eax, %%eax")
PROBE(mmxext, "pavgb %%mm0, %%mm0; emms")
PROBE(rdtscp, "rdtscp")
PROBE(now3dext, "pswapd %%mm0, %%mm0; emms")
PROBE(now3d, "pfadd %%mm0, %%mm0; femms")
PROBE(clzero, "movq %0, %%rax; clzero")

/* What shows that a feature works, and that without it there is none. */
enum kind {
	INSN,		/* the instruction; nothing can keep it from a guest of this CPU */
	INSN_UD,	/* the instruction, which is #UD where the feature is hidden */
	INSN_UD_VMX,	/* likewise on Intel; on AMD no guest can be kept from it */
	CR4,		/* bits of CR4, else reserved */
	EFER,		/* a bit of EFER, else reserved */
	MSR,		/* a register, else #GP */
	LEAF,		/* another leaf, which must be there and not be empty */
	WORD,		/* a promise that no instruction tells */
};

#define SAME WORD	/* AMD's copy of leaf 1 */

static const struct feature {
	const char *name;
	u32 leaf, index;
	int reg, bit;
	enum kind kind;
	u64 arg;
	u64 (*probe)(void);
} features[] = {
	{ "fpu", 1, 0, EDX, 0, INSN, 0, fpu },
	{ "vme", 1, 0, EDX, 1, CR4, 3, NULL },
	{ "de", 1, 0, EDX, 2, CR4, CR4_DE, NULL },
	{ "pse", 1, 0, EDX, 3, CR4, CR4_PSE, NULL },
	{ "tsc", 1, 0, EDX, 4, CR4, 1 << 2, rdtsc_ },
	{ "msr", 1, 0, EDX, 5, WORD, 0, NULL },
	{ "pae", 1, 0, EDX, 6, CR4, CR4_PAE, NULL },
	{ "mce", 1, 0, EDX, 7, CR4, CR4_MCE, NULL },
	{ "cx8", 1, 0, EDX, 8, INSN, 0, cx8 },
	{ "apic", 1, 0, EDX, 9, WORD, 0, NULL },
	{ "sep", 1, 0, EDX, 11, MSR, 0x174, NULL },
	{ "mtrr", 1, 0, EDX, 12, MSR, 0x2ff, NULL },
	{ "pge", 1, 0, EDX, 13, CR4, CR4_PGE, NULL },
	{ "mca", 1, 0, EDX, 14, MSR, 0x179, NULL },
	{ "cmov", 1, 0, EDX, 15, INSN, 0, cmov },
	{ "pat", 1, 0, EDX, 16, MSR, MSR_PAT, NULL },
	{ "pse36", 1, 0, EDX, 17, WORD, 0, NULL },
	{ "clflush", 1, 0, EDX, 19, INSN, 0, clflush },
	{ "mmx", 1, 0, EDX, 23, INSN, 0, mmx },
	{ "fxsr", 1, 0, EDX, 24, CR4, CR4_OSFXSR, fxsr },
	{ "sse", 1, 0, EDX, 25, CR4, CR4_OSXMMEXCPT, sse },
	{ "sse2", 1, 0, EDX, 26, INSN, 0, sse2 },
	{ "sse3", 1, 0, ECX, 0, INSN, 0, sse3 },
	{ "pclmulqdq", 1, 0, ECX, 1, INSN, 0, pclmul },
	{ "ssse3", 1, 0, ECX, 9, INSN, 0, ssse3 },
	{ "fma", 1, 0, ECX, 12, INSN, 0, vfma },
	{ "cx16", 1, 0, ECX, 13, INSN, 0, cx16 },
	{ "pcid", 1, 0, ECX, 17, CR4, CR4_PCIDE, NULL },
	{ "sse4.1", 1, 0, ECX, 19, INSN, 0, sse41 },
	{ "sse4.2", 1, 0, ECX, 20, INSN, 0, sse42 },
	{ "x2apic", 1, 0, ECX, 21, WORD, 0, NULL },	/* lapic.c */
	{ "movbe", 1, 0, ECX, 22, INSN, 0, movbe },
	{ "popcnt", 1, 0, ECX, 23, INSN, 0, popcnt },
	{ "tsc-deadline", 1, 0, ECX, 24, MSR, MSR_TSC_DEADLINE, NULL },
	{ "aes", 1, 0, ECX, 25, INSN, 0, aes },
	{ "xsave", 1, 0, ECX, 26, CR4, CR4_OSXSAVE, xgetbv },
	{ "avx", 1, 0, ECX, 28, INSN, 0, avx },
	{ "f16c", 1, 0, ECX, 29, INSN, 0, f16c },
	{ "rdrand", 1, 0, ECX, 30, INSN_UD_VMX, 0, rdrand },
	{ "hypervisor", 1, 0, ECX, 31, LEAF, 0x40000000, NULL },
	{ "fsgsbase", 7, 0, EBX, 0, CR4, CR4_FSGSBASE, NULL },
	{ "tsc_adjust", 7, 0, EBX, 1, MSR, 0x3b, NULL },
	{ "bmi1", 7, 0, EBX, 3, INSN, 0, bmi1 },
	{ "avx2", 7, 0, EBX, 5, INSN, 0, avx2 },
	{ "smep", 7, 0, EBX, 7, CR4, CR4_SMEP, NULL },
	{ "bmi2", 7, 0, EBX, 8, INSN, 0, bmi2 },
	{ "erms", 7, 0, EBX, 9, WORD, 0, NULL },
	{ "invpcid", 7, 0, EBX, 10, INSN_UD, 0, invpcid },
	{ "avx512f", 7, 0, EBX, 16, INSN, 0, avx512f },
	{ "avx512dq", 7, 0, EBX, 17, INSN, 0, avx512dq },
	{ "rdseed", 7, 0, EBX, 18, INSN_UD_VMX, 0, rdseed },
	{ "adx", 7, 0, EBX, 19, INSN, 0, adx },
	{ "smap", 7, 0, EBX, 20, CR4, CR4_SMAP, NULL },
	{ "avx512ifma", 7, 0, EBX, 21, INSN, 0, ifma },
	{ "clflushopt", 7, 0, EBX, 23, INSN, 0, clflushopt },
	{ "clwb", 7, 0, EBX, 24, INSN, 0, clwb },
	{ "avx512cd", 7, 0, EBX, 28, INSN, 0, avx512cd },
	{ "sha", 7, 0, EBX, 29, INSN, 0, sha },
	{ "avx512bw", 7, 0, EBX, 30, INSN, 0, avx512bw },
	{ "avx512vl", 7, 0, EBX, 31, INSN, 0, avx512vl },
	{ "avx512vbmi", 7, 0, ECX, 1, INSN, 0, vbmi },
	{ "umip", 7, 0, ECX, 2, CR4, CR4_UMIP, NULL },
	{ "pku", 7, 0, ECX, 3, CR4, CR4_PKE, NULL },
	{ "avx512vbmi2", 7, 0, ECX, 6, INSN, 0, vbmi2 },
	{ "gfni", 7, 0, ECX, 8, INSN, 0, gfni },
	{ "vaes", 7, 0, ECX, 9, INSN, 0, vaes },
	{ "vpclmulqdq", 7, 0, ECX, 10, INSN, 0, vpclmul },
	{ "avx512vnni", 7, 0, ECX, 11, INSN, 0, vnni },
	{ "avx512bitalg", 7, 0, ECX, 12, INSN, 0, bitalg },
	{ "avx512vpopcntdq", 7, 0, ECX, 14, INSN, 0, vpopcnt },
	{ "rdpid", 7, 0, ECX, 22, INSN, 0, rdpid },
	{ "fsrm", 7, 0, EDX, 4, WORD, 0, NULL },
	{ "xsaveopt", 0xd, 1, EAX, 0, INSN, 0, xsaveopt },
	{ "xsavec", 0xd, 1, EAX, 1, INSN, 0, xsavec },
	{ "xgetbv1", 0xd, 1, EAX, 2, INSN, 0, xgetbv1 },
	{ "lahf", 0x80000001, 0, ECX, 0, INSN, 0, lahf },
	{ "cmp_legacy", 0x80000001, 0, ECX, 1, WORD, 0, NULL },
	{ "cr8_legacy", 0x80000001, 0, ECX, 4, WORD, 0, NULL },
	{ "abm", 0x80000001, 0, ECX, 5, INSN, 0, lzcnt },
	{ "sse4a", 0x80000001, 0, ECX, 6, INSN, 0, sse4a },
	{ "misalignsse", 0x80000001, 0, ECX, 7, WORD, 0, NULL },
	{ "3dnowprefetch", 0x80000001, 0, ECX, 8, INSN, 0, prefetch },
	{ "xop", 0x80000001, 0, ECX, 11, INSN, 0, xop },
	{ "fma4", 0x80000001, 0, ECX, 16, INSN, 0, fma4 },
	{ "tbm", 0x80000001, 0, ECX, 21, INSN, 0, tbm },
	{ "topoext", 0x80000001, 0, ECX, 22, LEAF, 0x8000001d, NULL },
	{ "fpu", 0x80000001, 0, EDX, 0, SAME, 0, NULL },
	{ "vme", 0x80000001, 0, EDX, 1, SAME, 0, NULL },
	{ "de", 0x80000001, 0, EDX, 2, SAME, 0, NULL },
	{ "pse", 0x80000001, 0, EDX, 3, SAME, 0, NULL },
	{ "tsc", 0x80000001, 0, EDX, 4, SAME, 0, NULL },
	{ "msr", 0x80000001, 0, EDX, 5, SAME, 0, NULL },
	{ "pae", 0x80000001, 0, EDX, 6, SAME, 0, NULL },
	{ "mce", 0x80000001, 0, EDX, 7, SAME, 0, NULL },
	{ "cx8", 0x80000001, 0, EDX, 8, SAME, 0, NULL },
	{ "apic", 0x80000001, 0, EDX, 9, SAME, 0, NULL },
	{ "syscall", 0x80000001, 0, EDX, 11, EFER, EFER_SCE, NULL },
	{ "mtrr", 0x80000001, 0, EDX, 12, SAME, 0, NULL },
	{ "pge", 0x80000001, 0, EDX, 13, SAME, 0, NULL },
	{ "mca", 0x80000001, 0, EDX, 14, SAME, 0, NULL },
	{ "cmov", 0x80000001, 0, EDX, 15, SAME, 0, NULL },
	{ "pat", 0x80000001, 0, EDX, 16, SAME, 0, NULL },
	{ "pse36", 0x80000001, 0, EDX, 17, SAME, 0, NULL },
	{ "nx", 0x80000001, 0, EDX, 20, EFER, EFER_NXE, NULL },
	{ "mmxext", 0x80000001, 0, EDX, 22, INSN, 0, mmxext },
	{ "mmx", 0x80000001, 0, EDX, 23, SAME, 0, NULL },
	{ "fxsr", 0x80000001, 0, EDX, 24, SAME, 0, NULL },
	{ "fxsr_opt", 0x80000001, 0, EDX, 25, EFER, EFER_FFXSR, NULL },
	{ "pdpe1gb", 0x80000001, 0, EDX, 26, WORD, 0, NULL },
	{ "rdtscp", 0x80000001, 0, EDX, 27, INSN_UD, 0, rdtscp },
	{ "lm", 0x80000001, 0, EDX, 29, EFER, EFER_LME, NULL },
	{ "3dnowext", 0x80000001, 0, EDX, 30, INSN, 0, now3dext },
	{ "3dnow", 0x80000001, 0, EDX, 31, INSN, 0, now3d },
	{ "invtsc", 0x80000007, 0, EDX, 8, WORD, 0, NULL },
	{ "clzero", 0x80000008, 0, EBX, 0, INSN, 0, clzero },
	{ "xsaveerptr", 0x80000008, 0, EBX, 2, WORD, 0, NULL },
};
#define NR_FEATURES (sizeof(features) / sizeof(features[0]))

static bool shown(struct cpuid_list *list, const struct feature *f)
{
	struct kvm_cpuid_entry2 *e = find(list, f->leaf, f->index);

	return e && *entry_reg(e, f->reg) >> f->bit & 1;
}

/* Registers of CPUID that consist of feature bits. */
static const struct {
	u32 leaf, index;
	int reg;
} words[] = {
	{ 1, 0, EDX }, { 1, 0, ECX }, { 7, 0, EBX }, { 7, 0, ECX }, { 7, 0, EDX }, { 0xd, 1, EAX },
	{ 0x80000001, 0, EDX }, { 0x80000001, 0, ECX }, { 0x80000007, 0, EDX },
	{ 0x80000008, 0, EBX },
};

TEST(each_feature_that_is_offered_is_one_that_is_tried_here)
{
	static struct cpuid_list list;

	if (is_linux_kvm())
		SKIP("Linux KVM offers more features");
	default_cpuid(&list, 0);
	for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
		struct kvm_cpuid_entry2 *e = find(&list, words[w].leaf, words[w].index);
		u32 left = e ? *entry_reg(e, words[w].reg) : 0;

		for (size_t i = 0; i < NR_FEATURES; i++)
			if (features[i].leaf == words[w].leaf &&
			    features[i].index == words[w].index && features[i].reg == words[w].reg)
				left &= ~(1u << features[i].bit);
		ktap_about("CPUID %#x, %u, register %d", words[w].leaf, words[w].index,
			   words[w].reg);
		EXPECT_EQ(0, left);
	}
	/* Leaves that some bit must announce, and none does. */
	EXPECT_EQ(0, find(&list, 0x8000000a, 0) != NULL);
}

static volatile u64 seen_vector[NR_FEATURES];
static volatile bool try_feature[NR_FEATURES];

static u64 write_cr4(u64 val)
{
	return GUEST_TRY("movq %0, %%cr4", : "r"(val) : "memory");
}

static u64 try_one(const struct feature *f)
{
	u64 cr4, val, vector = VEC_NONE;
	u32 regs[4];

	switch (f->kind) {
	case CR4:
		asm volatile("movq %%cr4, %0" : "=r"(cr4));
		vector = write_cr4(cr4 | f->arg);
		/* PCIDs and memory protection are not for the rest of this guest. */
		if (f->arg & (CR4_PCIDE | CR4_SMAP | CR4_SMEP | CR4_PKE))
			write_cr4(cr4);
		break;
	case EFER:
		vector = wrmsr_try(MSR_EFER, rdmsr(MSR_EFER) | f->arg);
		break;
	case MSR:
		vector = rdmsr_try(f->arg, &val);
		if (vector == VEC_NONE)
			vector = f->arg == 0x179 ? VEC_NONE : wrmsr_try(f->arg, val);
		break;
	case LEAF:
		cpuid(f->arg, 0, regs);
		GUEST_TRUE(regs[EAX]);
		break;
	default:
		break;
	}
	return vector == VEC_NONE && f->probe ? f->probe() : vector;
}

static void features_guest(u64 xcr0)
{
	/* The library's pages are for user mode as well: SMEP and SMAP would stop this code. */
	guest_pml4[0] &= ~4ull;
	asm volatile("movq %0, %%cr3" :: "r"(guest_pml4) : "memory");
	if (xcr0) {
		set_cr4_bits(CR4_OSXSAVE);
		xsetbv(xcr0);
	}
	for (u32 i = 0; i < NR_FEATURES; i++)
		if (try_feature[i])
			seen_vector[i] = try_one(&features[i]);
}

TEST(each_feature_that_is_shown_works)
{
	static struct cpuid_list list;
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);
	struct kvm_cpuid_entry2 *e;

	default_cpuid(&list, 0);
	e = find(&list, 0xd, 0);
	for (u32 i = 0; i < NR_FEATURES; i++)
		try_feature[i] = shown(&list, &features[i]);
	vcpu_set_guest(vcpu, features_guest, e ? e->eax : 0);
	vcpu_run_to_done(vcpu);
	for (u32 i = 0; i < NR_FEATURES; i++) {
		ktap_about("%s", features[i].name);
		if (try_feature[i])
			EXPECT_EQ(VEC_NONE, seen_vector[i]);
	}
}

static void hide(struct cpuid_list *list, const struct feature *f)
{
	struct kvm_cpuid_entry2 *e = find(list, f->leaf, f->index);

	if (e)
		*entry_reg(e, f->reg) &= ~(1u << f->bit);
	/* AMD has these twice. */
	e = find(list, 0x80000001, 0);
	if (f->leaf == 1 && f->reg == EDX && e)
		e->edx &= ~(1u << f->bit);
	/* RDPID, too, reads TSC_AUX, and shares its control with RDTSCP on Intel. */
	e = find(list, 7, 0);
	if (!strcmp(f->name, "rdtscp") && e)
		e->ecx &= ~(1u << 22);
}

/* The guest itself starts with these. */
#define START_CR4 (CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT)

static void expect_sregs_refused(struct vcpu *vcpu, const struct feature *f)
{
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	if (f->kind == CR4)
		sregs.cr4 |= f->arg;
	else
		sregs.efer |= f->arg;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &sregs));
}

/* A CPU without one of these refuses what belongs to it. */
static void expect_refused(u32 i, u64 vector)
{
	static struct cpuid_list list;
	const struct feature *f = &features[i];
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);

	default_cpuid(&list, 0);
	hide(&list, f);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	if (f->kind == CR4 || f->kind == EFER)
		expect_sregs_refused(vcpu, f);
	if ((f->kind == CR4 && (f->arg & START_CR4)) || (f->kind == EFER && f->arg == EFER_LME))
		return;		/* and no guest of this library could run */
	memset((void *)try_feature, 0, sizeof(try_feature));
	try_feature[i] = true;
	vcpu_set_guest(vcpu, features_guest, 0);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(vector, seen_vector[i]);
}

TEST_LIMIT(bits_and_registers_of_a_feature_that_is_hidden_are_refused, 120)
{
	if (is_linux_kvm())
		SKIP("Linux KVM looks at some of CR4's features alone, and lets KVM_SET_SREGS set any EFER");
	for (u32 i = 0; i < NR_FEATURES; i++) {
		enum kind kind = features[i].kind;

		ktap_about("%s", features[i].name);
		if (kind == CR4 || kind == EFER || kind == MSR)
			expect_refused(i, VEC_GP);
	}
}

TEST(instructions_of_a_feature_that_is_hidden_are_ud_where_the_cpu_can_keep_them)
{
	if (cpu_is_tcg())
		SKIP("QEMU's TCG intercepts neither RDTSCP nor INVPCID");
	for (u32 i = 0; i < NR_FEATURES; i++) {
		ktap_about("%s", features[i].name);
		if (features[i].kind == INSN_UD)
			expect_refused(i, VEC_UD);
	}
}

TEST(random_numbers_that_are_hidden_are_ud_where_the_cpu_can_keep_them)
{
	static struct cpuid_list list;
	u32 tried = 0;

	if (!cpu_is_intel())
		SKIP("SVM has no intercept for RDRAND and RDSEED");
	default_cpuid(&list, 0);
	for (u32 i = 0; i < NR_FEATURES; i++) {
		ktap_about("%s", features[i].name);
		if (features[i].kind != INSN_UD_VMX || !shown(&list, &features[i]))
			continue;
		expect_refused(i, VEC_UD);
		tried++;
	}
	if (!tried)
		SKIP("the CPU has neither RDRAND nor RDSEED");
}

/* A feature that the CPU below lacks makes no guest fail, whatever userspace sets. */
TEST(features_that_are_set_though_the_cpu_lacks_them_end_no_guest)
{
	static struct cpuid_list host, list;
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);
	struct kvm_cpuid_entry2 *e;

	if (is_linux_kvm())
		SKIP("Linux KVM does not look at CR4.VME, which QEMU's TCG lacks");
	default_cpuid(&host, 0);
	default_cpuid(&list, 0);
	for (size_t w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
		e = find(&list, words[w].leaf, words[w].index);
		if (e && words[w].leaf != 0xd)
			*entry_reg(e, words[w].reg) = ~0u;
	}
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	for (u32 i = 0; i < NR_FEATURES; i++) {
		enum kind kind = features[i].kind;

		try_feature[i] = (kind == CR4 || kind == EFER) && !shown(&host, &features[i]);
	}
	e = find(&host, 0xd, 0);
	vcpu_set_guest(vcpu, features_guest, e ? e->eax : 0);
	vcpu_run_to_done(vcpu);
	for (u32 i = 0; i < NR_FEATURES; i++) {
		ktap_about("%s", features[i].name);
		if (try_feature[i])
			EXPECT_NE(VEC_NONE, seen_vector[i]);
	}
}

/* Bits that need a hypervisor's help which is not there. Userspace reads what it set. */
TEST(what_cannot_be_done_is_not_shown_to_the_guest_though_it_was_set)
{
	static const struct {
		u32 leaf, index;
		int reg, bit;
	} vain[] = {
		{ 1, 0, ECX, 5 /* VMX */ }, { 1, 0, ECX, 15 /* PDCM */ },
		{ 1, 0, EDX, 21 /* DS */ }, { 7, 0, EBX, 2 /* SGX */ },
		{ 7, 0, ECX, 16 /* LA57 */ }, { 7, 0, ECX, 7 /* SHSTK */ },
		{ 7, 0, EDX, 26 /* SPEC_CTRL */ }, { 7, 0, EDX, 29 /* ARCH_CAPABILITIES */ },
		{ 0xd, 1, EAX, 3 /* XSAVES */ }, { 0x80000001, 0, ECX, 2 /* SVM */ },
		{ 0x80000001, 0, ECX, 23 /* PERFCTR_CORE */ },
		{ 0x80000008, 0, EBX, 12 /* IBPB */ },
	};
	static struct cpuid_list list, got;
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct kvm_cpuid_entry2 *e;

	if (is_linux_kvm())
		SKIP("Linux KVM shows the guest what was set");
	default_cpuid(&list, 0);
	for (size_t i = 0; i < sizeof(vain) / sizeof(vain[0]); i++) {
		e = find(&list, vain[i].leaf, vain[i].index);
		if (!e)
			e = add(&list, vain[i].leaf, vain[i].index, 0);
		EXPECT_EQ(0, *entry_reg(e, vain[i].reg) >> vain[i].bit & 1);
		*entry_reg(e, vain[i].reg) |= 1u << vain[i].bit;
		question(vain[i].leaf, vain[i].index);
	}
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	vcpu_set_guest(vcpu, asking_guest, 0);
	vcpu_run_to_done(vcpu);
	got.nent = 128;
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_CPUID2, &got));
	for (size_t i = 0; i < sizeof(vain) / sizeof(vain[0]); i++) {
		ktap_about("CPUID %#x register %d bit %d", vain[i].leaf, vain[i].reg, vain[i].bit);
		EXPECT_EQ(0, questions[i].answer[vain[i].reg] >> vain[i].bit & 1);
		e = find(&got, vain[i].leaf, vain[i].index);
		EXPECT_EQ(1, *entry_reg(e, vain[i].reg) >> vain[i].bit & 1);
	}
}

/* --- MONITOR and MWAIT, which userspace may add --- */

static volatile u64 monitor_vector, mwait_vector, masked_vector;
static volatile u64 bad_monitor_vector, bad_mwait_vector;

static void monitor_guest(u64 arg)
{
	(void)arg;
	monitor_vector = GUEST_TRY("monitor", : "a"(operand), "c"(0), "d"(0) : "memory");
	mwait_vector = GUEST_TRY("mwait", : "a"(0), "c"(0) : "memory");
	masked_vector = GUEST_TRY("mwait", : "a"(0), "c"(1) : "memory");
	bad_monitor_vector = GUEST_TRY("monitor", : "a"(operand), "c"(2), "d"(0) : "memory");
	bad_mwait_vector = GUEST_TRY("mwait", : "a"(0), "c"(4) : "memory");
}

static void run_monitor_guest(bool on)
{
	static struct cpuid_list list;
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct kvm_cpuid_entry2 *e;

	default_cpuid(&list, 0);
	find(&list, 1, 0)->ecx &= ~(1u << 3);
	if (on) {
		find(&list, 1, 0)->ecx |= 1u << 3;
		e = add(&list, 5, 0, 0);
		e->eax = e->ebx = 64;
		e->ecx = 3;
	}
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	vcpu_set_guest(vcpu, monitor_guest, 0);
	vcpu_run_to_done(vcpu);
}

TEST(monitor_and_mwait_run_where_cpuid_shows_them)
{
	run_monitor_guest(true);
	EXPECT_EQ(VEC_NONE, monitor_vector);
	EXPECT_EQ(VEC_NONE, mwait_vector);
}

TEST(extensions_of_monitor_and_mwait_are_those_that_there_are)
{
	if (cpu_is_tcg())
		SKIP("QEMU's TCG knows no extension, and looks at ECX before it looks at the intercept");
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at ECX");
	run_monitor_guest(true);
	EXPECT_EQ(VEC_NONE, masked_vector);
	EXPECT_EQ(VEC_GP, bad_monitor_vector);
	EXPECT_EQ(VEC_GP, bad_mwait_vector);
}

TEST(monitor_and_mwait_are_ud_where_cpuid_hides_them)
{
	if (is_linux_kvm())
		SKIP("Linux KVM runs both as NOPs for all guests (KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)");
	run_monitor_guest(false);
	EXPECT_EQ(VEC_UD, monitor_vector);
	EXPECT_EQ(VEC_UD, mwait_vector);
}

/* --- IA32_MISC_ENABLE: what it switches --- */

static volatile u64 misc_read, misc_vector, nxe_vector;
static volatile u32 misc_leaf0, misc_leaf1c, misc_leaf81d;

static void misc_enable_guest(u64 val)
{
	const u64 reset = rdmsr(MSR_MISC_ENABLE);
	u32 regs[4];
	u64 back;

	/* What tells of performance counters is read-only. */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MISC_ENABLE, reset ^ MISC_ENABLE_BTS_UNAVAIL));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MISC_ENABLE, reset ^ MISC_ENABLE_PEBS_UNAVAIL));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_MISC_ENABLE, reset ^ MISC_ENABLE_EMON));
	GUEST_EQ(reset, rdmsr(MSR_MISC_ENABLE));
	for (int bit = 0; bit < 64; bit++) {
		if ((1ull << bit) & MISC_ENABLE_READ_ONLY)
			continue;
		if (wrmsr_try(MSR_MISC_ENABLE, reset ^ 1ull << bit) == VEC_NONE) {
			rdmsr_try(MSR_MISC_ENABLE, &back);
			GUEST_EQ(reset ^ 1ull << bit, back);
		}
		wrmsr(MSR_MISC_ENABLE, reset);
	}
	misc_vector = wrmsr_try(MSR_MISC_ENABLE, reset ^ val);
	misc_read = rdmsr(MSR_MISC_ENABLE) ^ reset;
	cpuid(0, 0, regs);
	misc_leaf0 = regs[EAX];
	cpuid(1, 0, regs);
	misc_leaf1c = regs[ECX];
	cpuid(0x80000001, 0, regs);
	misc_leaf81d = regs[EDX];
	nxe_vector = wrmsr_try(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

static void run_misc_enable(u64 val)
{
	static struct cpuid_list list;
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);

	default_cpuid(&list, 0);
	find(&list, 1, 0)->ecx |= 1u << 3;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	vcpu_set_guest(vcpu, misc_enable_guest, val);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(VEC_NONE, misc_vector);
	EXPECT_EQ(val, misc_read);
}

TEST(what_misc_enable_takes_reads_back_and_counts)
{
	if (is_linux_kvm())
		SKIP("Linux KVM keeps the bits and does nothing by them");
	run_misc_enable(0);
	EXPECT_LT(2, misc_leaf0);
	EXPECT_EQ(1, misc_leaf1c >> 3 & 1);
	EXPECT_EQ(1, misc_leaf81d >> 20 & 1);
	EXPECT_EQ(VEC_NONE, nxe_vector);
	run_misc_enable(MISC_ENABLE_LIMIT_CPUID);
	EXPECT_EQ(2, misc_leaf0);
	run_misc_enable(MISC_ENABLE_MWAIT);
	EXPECT_EQ(0, misc_leaf1c >> 3 & 1);
	run_misc_enable(MISC_ENABLE_XD_DISABLE);
	EXPECT_EQ(0, misc_leaf81d >> 20 & 1);
	EXPECT_EQ(VEC_GP, nxe_vector);
}
