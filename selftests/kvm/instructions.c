// SPDX-License-Identifier: GPL-2.0
/*
 * What compilers and firmware use on memory-mapped devices: each instruction
 * does on a device, where it is emulated, what it does on memory, where the CPU
 * runs it: registers, flags and the bytes of the operand are compared.
 *
 * State: the registers and bytes of the case that runs. Read next:
 * unit/test_emulate.c, which has all instructions and forms.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <string.h>

#include "vm.h"

#define BYTES 512
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define ARITH 0x8d5ull		/* CF PF AF ZF SF OF */
#define ZF 0x40ull
#define CF 1ull
#define ALL_BUT_AF (ARITH & ~0x10ull)

/* One after the other as they are pushed and popped below. */
struct registers {
	u64 rax, rcx, rdx, rbx, r8, r9, flags;
	u8 vector[64] __attribute__((aligned(64)));
};

struct insn_case {
	const char *name;
	const u8 *code;
	u64 flags;		/* that are defined */
};

/*
 * The operand is at (%rdi), and the function returns. BLOCK(name, "instruction; ...") defines
 * code_name.
 */
#define BLOCK(name, insns)					\
	asm(".pushsection .text\n"				\
	    "code_" #name ": " insns "; ret\n"			\
	    ".popsection");					\
	extern const u8 code_##name[]

BLOCK(cmovz, "cmovz (%rdi), %rax");
BLOCK(cmovb, "cmovb (%rdi), %eax");
BLOCK(setnz, "setnz (%rdi)");
BLOCK(imul, "imul (%rdi), %eax");
BLOCK(imul3, "imul $-7, (%rdi), %rax");
BLOCK(mul, "mulq (%rdi)");
BLOCK(imul1, "imull (%rdi)");
BLOCK(div, "xor %edx, %edx; divl (%rdi)");
BLOCK(idiv, "cqto; idivq (%rdi)");
BLOCK(bsf, "bsf (%rdi), %rax");
BLOCK(bsr, "bsr (%rdi), %eax");
BLOCK(xlat, "mov %rdi, %rbx; mov $5, %eax; xlatb; xor %ebx, %ebx");
BLOCK(cmpxchg8b, "lock cmpxchg8b (%rdi)");
BLOCK(pop, "push %rax; popq (%rdi)");
BLOCK(push, "pushq 8(%rdi); pop %rax");
BLOCK(movnti, "movnti %rax, (%rdi)");
BLOCK(xchg, "xchg %ax, (%rdi)");
BLOCK(sbb, "sbb %rax, (%rdi)");
BLOCK(rcl, "rclw $3, (%rdi)");
BLOCK(bts, "lock btsl $9, (%rdi)");
BLOCK(stack, "mov %rsp, %rbx; lea 64(%rdi), %rsp; pushq $-2; push %rax; pushfq; popq %rcx; pop %r8; mov %rbx, %rsp;"
      "xor %ebx, %ebx; xor %ecx, %ecx");
BLOCK(call, "mov %rsp, %rbx; lea 64(%rdi), %rsp; call 1f; jmp 2f; 1: lea 8(%rax), %rax; ret $8; 2: mov %rsp, %r8;"
      "sub %rdi, %r8; mov %rbx, %rsp; xor %ebx, %ebx; movq $0, 56(%rdi)");
BLOCK(jmp, "lea 1f(%rip), %rbx; mov %rbx, (%rdi); jmp *(%rdi); ud2; 1: xor %ebx, %ebx; movq $0, (%rdi)");
BLOCK(sgdt, "sgdt (%rdi)");
BLOCK(segment, "mov %ds, (%rdi); mov (%rdi), %es; mov %es, %eax");

BLOCK(movbe, "movbe (%rdi), %eax; movbe %rax, 8(%rdi)");
BLOCK(popcnt, "popcnt (%rdi), %rax");
BLOCK(tzcnt, "tzcnt (%rdi), %rax");
BLOCK(lzcnt, "lzcnt (%rdi), %eax");
BLOCK(adcx, "adcx (%rdi), %rax");
BLOCK(adox, "adox (%rdi), %rcx");
BLOCK(andn, "andn (%rdi), %rax, %rcx");
BLOCK(bextr, "mov $0x1204, %eax; bextr %eax, (%rdi), %ecx");
BLOCK(blsr, "blsr (%rdi), %rcx");
BLOCK(bzhi, "mov $13, %eax; bzhi %rax, (%rdi), %rcx");
BLOCK(pdep, "pdep (%rdi), %rax, %rcx");
BLOCK(pext, "pext (%rdi), %rax, %rcx");
BLOCK(mulx, "mulx (%rdi), %rax, %rcx");
BLOCK(rorx, "rorx $9, (%rdi), %rax");
BLOCK(shlx, "shlx %rcx, (%rdi), %rax");
BLOCK(crc32, "crc32l (%rdi), %eax");
BLOCK(cmpxchg16b, "lock cmpxchg16b (%rdi)");
BLOCK(enter, "mov %rsp, %r8; mov %rbp, %r9; lea 96(%rdi), %rsp; xor %ebp, %ebp; enter $16, $0; leave;"
      "mov %rsp, %rax; sub %rdi, %rax; mov %r8, %rsp; mov %r9, %rbp; xor %r8d, %r8d; xor %r9d, %r9d");
BLOCK(lsl, "mov %ds, %ecx; mov %ecx, (%rdi); lsl (%rdi), %eax");

BLOCK(fld, "fninit; fldl (%rdi); fmull (%rdi); fstpt 16(%rdi)");
BLOCK(fild, "fninit; fildll (%rdi); fistpl 32(%rdi); fnstcw 40(%rdi); fnstsw 44(%rdi); fldcw 40(%rdi)");
/*
 * Pointers to instructions and data depend on where the operand is, and selectors on the CPU: both
 * are cleared in memory.
 */
#define CLEAR32 "movl $0, 12(%rdi); movw $0, 16(%rdi); movq $0, 20(%rdi);"
#define CLEAR16 "movq $0, 6(%rdi);"
BLOCK(fnstenv, "fninit; fldpi; fnstenv (%rdi);" CLEAR32 "fldenv (%rdi); fstpl 32(%rdi); fnstcw 40(%rdi)");
BLOCK(fnstenv16, "fninit; fldpi; fld1; data16 fnstenv (%rdi);" CLEAR16 "data16 fldenv (%rdi); fnstsw 62(%rdi);"
      "fstpl 32(%rdi); fninit");
BLOCK(fnsave, "fninit; fldpi; fildl 120(%rdi); fnsave (%rdi);" CLEAR32 "fnstsw 112(%rdi); fnstcw 114(%rdi);"
      "frstor (%rdi); fstpl 120(%rdi); fstpl 128(%rdi)");
BLOCK(fnsave16, "fninit; fldpi; fildl 120(%rdi); data16 fnsave (%rdi);" CLEAR16 "fnstsw 112(%rdi);"
      "data16 frstor (%rdi); fstpl 120(%rdi); fstpl 128(%rdi)");
BLOCK(mmx, "movq (%rdi), %mm3; movd %mm3, 32(%rdi); movq %mm3, 40(%rdi); emms");
BLOCK(half, "movlps (%rdi), %xmm1; movhpd 8(%rdi), %xmm1; movlpd %xmm1, 48(%rdi); movups %xmm1, 16(%rsi)");
BLOCK(mxcsr, "stmxcsr (%rdi); ldmxcsr (%rdi)");
BLOCK(lddqu, "lddqu 3(%rdi), %xmm1; movups %xmm1, (%rsi)");
BLOCK(avx128, "vmovdqu (%rdi), %xmm1; vmovdqu %ymm1, (%rsi); vmovups %xmm1, 32(%rdi)");
BLOCK(avx256, "vmovdqa (%rdi), %ymm9; vmovups %ymm9, 33(%rdi); vmovdqu %ymm9, (%rsi)");
BLOCK(avx_scalar, "vmovss (%rdi), %xmm1; vmovhps 8(%rdi), %xmm1, %xmm2; vmovq %xmm2, 64(%rdi);"
      "vmovdqu %ymm2, (%rsi)");

BLOCK(sse3, "movddup (%rdi), %xmm1; movups %xmm1, (%rsi); movshdup 16(%rdi), %xmm1; movups %xmm1, 16(%rsi);"
      "movsldup 16(%rdi), %xmm1; movups %xmm1, 32(%rsi)");
BLOCK(pinsr, "pxor %xmm1, %xmm1; pinsrb $3, (%rdi), %xmm1; pinsrw $4, 2(%rdi), %xmm1; pinsrd $3, 4(%rdi), %xmm1;"
      "insertps $0x10, 8(%rdi), %xmm1; pextrb $3, %xmm1, 32(%rdi); pextrw $4, %xmm1, 40(%rdi);"
      "pextrq $1, %xmm1, 48(%rdi); extractps $1, %xmm1, 56(%rdi); movups %xmm1, (%rsi)");
BLOCK(maskmovdqu, "movdqu (%rdi), %xmm1; psllw $4, %xmm1; movdqu (%rdi), %xmm2; maskmovdqu %xmm1, %xmm2");
/* The reserved bytes of the image are 0 before and stay so. */
BLOCK(fx, "mov %rdi, %r8; mov $64, %ecx; xor %eax, %eax; rep stosq; mov %r8, %rdi; xor %r8d, %r8d;"
      "fninit; fxsave (%rdi); fxrstor (%rdi); fnstcw (%rsi)");
BLOCK(broadcast, "vbroadcastss 4(%rdi), %ymm1; vbroadcastsd 8(%rdi), %ymm2; vbroadcastf128 16(%rdi), %ymm3;"
      "vxorps %ymm1, %ymm2, %ymm1; vxorps %ymm3, %ymm1, %ymm1; vmovups %ymm1, (%rsi)");
BLOCK(pbroadcast, "vpbroadcastb 3(%rdi), %ymm1; vpbroadcastw 6(%rdi), %xmm2; vbroadcasti128 16(%rdi), %ymm3;"
      "vxorps %ymm1, %ymm2, %ymm1; vxorps %ymm3, %ymm1, %ymm1; vmovups %ymm1, (%rsi)");
BLOCK(lanes, "vmovups (%rdi), %ymm1; vinsertf128 $1, 64(%rdi), %ymm1, %ymm2; vextracti128 $1, %ymm1, 96(%rdi);"
      "vmovups %ymm2, (%rsi)");
BLOCK(vmaskmov, "vmovups (%rdi), %ymm1; vpslld $3, %ymm1, %ymm1; vmaskmovps %ymm1, %ymm1, 32(%rdi);"
      "vpmaskmovq 64(%rdi), %ymm1, %ymm2; vmovups %ymm2, (%rsi)");

/* Masks from the operand's own bytes. */
BLOCK(kmov, "kmovq (%rdi), %k1; kmovw 8(%rdi), %k2; kmovb %k1, 16(%rdi); kmovd %k1, 24(%rdi); kmovw %k2, (%rsi)");
BLOCK(masked_loads, "kmovq 4(%rdi), %k1; vpternlogd $255, %zmm1, %zmm1, %zmm1; vmovdqu8 64(%rdi), %zmm1{%k1};"
      "vmovdqu16 (%rdi), %ymm2{%k1}{z}; vmovups 32(%rdi), %zmm3{%k1}{z}; vmovdqu64 7(%rdi), %zmm4{%k1}{z};"
      "vpxorq %zmm1, %zmm2, %zmm1; vpxorq %zmm3, %zmm1, %zmm1; vpxorq %zmm4, %zmm1, %zmm1; vmovdqu64 %zmm1, (%rsi)");
BLOCK(masked_stores, "kmovq 4(%rdi), %k1; kmovq 12(%rdi), %k2; vmovdqu64 (%rdi), %zmm1; vmovdqu8 %zmm1, 64(%rdi){%k1};"
      "vmovdqu16 %zmm1, 1(%rdi){%k2}; vmovdqu32 %ymm1, 3(%rdi){%k1}; vmovupd %zmm1, 9(%rdi){%k2};"
      "vextracti64x2 $1, %ymm1, 17(%rdi){%k1}");
BLOCK(evex_blocks, "kmovq 4(%rdi), %k1; vbroadcastf32x4 (%rdi), %zmm1; vpbroadcastw 2(%rdi), %zmm1{%k1};"
      "vinsertf64x4 $1, 32(%rdi), %zmm1, %zmm2; vmovddup (%rdi), %zmm3{%k1}{z}; vpxorq %zmm2, %zmm3, %zmm2;"
      "vmovdqu64 %zmm2, (%rsi)");

#define CASE(name, flags) { #name, code_##name, flags }
static const struct insn_case integer_cases[] = {
	CASE(cmovz, ARITH),	CASE(cmovb, ARITH), CASE(setnz, ARITH), CASE(imul, 0x801),
	CASE(imul3, 0x801),	CASE(mul, 0x801),   CASE(imul1, 0x801), CASE(div, 0),
	CASE(idiv, 0),		CASE(bsf, ZF),	    CASE(bsr, ZF),	CASE(xlat, 0),
	CASE(cmpxchg8b, ARITH), CASE(pop, ARITH),   CASE(push, ARITH),	CASE(movnti, ARITH),
	CASE(xchg, ARITH),	CASE(sbb, ARITH),   CASE(rcl, CF),	CASE(bts, CF),
	CASE(stack, 0),		CASE(call, ARITH),  CASE(jmp, 0),	CASE(sgdt, ARITH),
	CASE(segment, ARITH),
};

/* Linux KVM lacks one or another of these. */
static const struct insn_case more_cases[] = {
	CASE(movbe, ARITH),	 CASE(popcnt, ARITH), CASE(tzcnt, CF | ZF), CASE(lzcnt, CF | ZF),
	CASE(adcx, ARITH),	 CASE(adox, ARITH),   CASE(andn, 0x8c1),    CASE(bextr, 0x841),
	CASE(blsr, 0x8c1),	 CASE(bzhi, 0x8c1),   CASE(pdep, ARITH),    CASE(pext, ARITH),
	CASE(mulx, ARITH),	 CASE(rorx, ARITH),   CASE(shlx, ARITH),    CASE(crc32, ARITH),
	CASE(cmpxchg16b, ARITH), CASE(enter, 0),      CASE(lsl, ZF),
};

static const struct insn_case vector_cases[] = {
	CASE(fld, ARITH),	 CASE(fild, ARITH),  CASE(mmx, ARITH),	CASE(half, ARITH),
	CASE(fnstenv, ARITH),	 CASE(fnstenv16, ARITH), CASE(fnsave, ARITH), CASE(fnsave16, ARITH),
	CASE(mxcsr, ARITH),	 CASE(lddqu, ARITH), CASE(sse3, ARITH), CASE(pinsr, ARITH),
	CASE(maskmovdqu, ARITH), CASE(fx, ARITH),
};

static const struct insn_case avx_cases[] = { CASE(avx128, ARITH), CASE(avx256, ARITH),
					      CASE(avx_scalar, ARITH) };

static const struct insn_case avx2_cases[] = {
	CASE(broadcast, ARITH), CASE(pbroadcast, ARITH), CASE(lanes, ARITH), CASE(vmaskmov, ARITH),
};

static const struct insn_case avx512_cases[] = {
	CASE(kmov, ARITH),
	CASE(masked_loads, ARITH),
	CASE(masked_stores, ARITH),
	CASE(evex_blocks, ARITH),
};

static u8 memory[BYTES] __attribute__((aligned(64))), device[BYTES];
static struct registers before, on_memory, on_device;
static const struct insn_case *running;
static u64 with_avx;	/* bits for XCR0 */

/* Runs the code with before's registers, and leaves what they are afterwards in regs. */
static void run_code(const u8 *code, u64 operand, struct registers *regs)
{
	register u64 r8 asm("r8") = before.r8;
	register u64 r9 asm("r9") = before.r9;
	u64 rax = before.rax, rcx = before.rcx, rdx = before.rdx, rbx = before.rbx,
	    flags = before.flags;

	asm volatile(
		"sub $128, %%rsp; push %[flags]; popfq; call *%[code]; pushfq; pop %[flags]; cld; add $128, %%rsp"
		: "+a"(rax), "+c"(rcx), "+d"(rdx), "+b"(rbx), "+r"(r8),
		  "+r"(r9), [flags] "+r"(flags)
		: [code] "r"(code), "D"(operand), "S"(regs->vector)
		: "memory", "cc", "r10", "r11");
	regs->rax = rax;
	regs->rcx = rcx;
	regs->rdx = rdx;
	regs->rbx = rbx;
	regs->r8 = r8;
	regs->r9 = r9;
	regs->flags = flags;
}

static void on_both(u64 avx)
{
	u32 low, high;

	if (avx) {
		u64 cr4;

		asm volatile("mov %%cr4, %0" : "=r"(cr4));
		asm volatile("mov %0, %%cr4" :: "r"(cr4 | 1 << 18));
		asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
		asm volatile("xsetbv" :: "a"(low | avx), "d"(high), "c"(0));
	}
	run_code(running->code, (u64)memory, &on_memory);
	run_code(running->code, MMIO_GPA, &on_device);
}

/* The device is BYTES of memory that remember. */
static bool serve(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	u64 at;

	while (vcpu_run(vcpu) == KVM_EXIT_MMIO) {
		at = run->mmio.phys_addr - MMIO_GPA;
		if (at + run->mmio.len > BYTES || run->mmio.len > 8)
			return false;
		if (run->mmio.is_write)
			memcpy(device + at, run->mmio.data, run->mmio.len);
		else
			memcpy(run->mmio.data, device + at, run->mmio.len);
	}
	return run->exit_reason == KVM_EXIT_IO;
}

static void check_case(const struct insn_case *c)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, on_both, with_avx);
	u64 i;

	for (i = 0; i < BYTES; i++)
		memory[i] = device[i] = i * 29 + 3;
	memory[7] = device[7] = 0x40; /* a double of moderate size, and no negative quotient */
	before = (struct registers){ .rax = 0x1122334455667788,
				     .rcx = 0x0102030405060708,
				     .rdx = 0x77,
				     .rbx = 0x5566,
				     .r8 = 8,
				     .r9 = 9,
				     .flags = 2 | CF };
	memset(&on_memory, 0, sizeof(on_memory));
	memset(&on_device, 0, sizeof(on_device));
	running = c;
	if (!serve(vcpu)) {
		FAIL("%s: exit %u", c->name, vcpu->run->exit_reason);
		return;
	}
	on_memory.flags &= c->flags;
	on_device.flags &= c->flags;
	if (memcmp(&on_memory, &on_device, sizeof(on_memory)))
		FAIL("%s: registers differ: rax %#llx and %#llx, flags %#llx and %#llx", c->name,
		     (unsigned long long)on_memory.rax, (unsigned long long)on_device.rax,
		     (unsigned long long)on_memory.flags, (unsigned long long)on_device.flags);
	if (memcmp(memory, device, BYTES))
		FAIL("%s: the operand differs", c->name);
}

static void check_cases(const struct insn_case *c, unsigned int n)
{
	while (n--)
		check_case(c++);
}

TEST(integer_instructions_do_on_a_device_what_they_do_on_memory)
{
	check_cases(integer_cases, ARRAY_SIZE(integer_cases));
}

/* CPUID's leaf 7: BMI1, BMI2, ADX, which come with all the others. */
static bool has_bmi(void)
{
	u32 eax, ebx = 0, ecx, edx;

	__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
	return (ebx & (1 << 3)) && (ebx & (1 << 8)) && (ebx & (1 << 19));
}

TEST(bit_counts_and_fields_do_on_a_device_what_they_do_on_memory)
{
	if (is_linux_kvm())
		SKIP("Linux KVM emulates neither POPCNT nor BMI");
	if (!has_bmi())
		SKIP("the CPU has neither BMI nor ADX");
	check_cases(more_cases, ARRAY_SIZE(more_cases));
}

TEST(x87_and_mmx_and_halves_do_on_a_device_what_they_do_on_memory)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not emulate x87's loads and stores");
	check_cases(vector_cases, ARRAY_SIZE(vector_cases));
}

TEST(avx_moves_do_on_a_device_what_they_do_on_memory)
{
	u32 eax, ebx, ecx = 0, edx;

	__get_cpuid(1, &eax, &ebx, &ecx, &edx);
	if (is_linux_kvm())
		SKIP("Linux KVM does not emulate AVX");
	if (!(ecx & (1 << 28)))
		SKIP("the CPU has no AVX");
	with_avx = 7;
	check_cases(avx_cases, ARRAY_SIZE(avx_cases));
	with_avx = 0;
}

/* CPUID's leaf 7, EBX. */
static bool has_leaf7(u32 bits)
{
	u32 eax, ebx = 0, ecx, edx;

	__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx);
	return (ebx & bits) == bits;
}

TEST(avx2_moves_of_parts_do_on_a_device_what_they_do_on_memory)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not emulate AVX");
	if (!has_leaf7(1 << 5))
		SKIP("the CPU has no AVX2");
	with_avx = 7;
	check_cases(avx2_cases, ARRAY_SIZE(avx2_cases));
	with_avx = 0;
}

TEST(avx512_moves_under_masks_do_on_a_device_what_they_do_on_memory)
{
	if (is_linux_kvm())
		SKIP("Linux KVM does not emulate AVX-512");
	if (!has_leaf7(1u << 16 | 1u << 17 | 1u << 30 | 1u << 31))
		SKIP("the CPU has no AVX-512 with byte masks and short vectors");
	with_avx = 0xe7;
	check_cases(avx512_cases, ARRAY_SIZE(avx512_cases));
	with_avx = 0;
}

static u64 ltr_seen[2];

/* A GDT that is a copy of the guest's own with one more TSS, in memory that is read-only. */
static void load_tss_from_rom(u64 selector)
{
	struct {
		u16 limit;
		u64 base;
	} __attribute__((packed)) gdtr = { .limit = 0x7f, .base = TEST_GPA };
	u16 tr;

	asm volatile("lgdt %0; ltr %w1; str %2" :: "m"(gdtr), "r"(selector), "m"(tr) : "memory");
	ltr_seen[0] = tr;
	asm volatile("lldt %w0; sldt %1" :: "r"(selector + 0x10), "m"(tr) : "memory");
	ltr_seen[1] = tr;
}

TEST(ltr_and_lldt_read_descriptors_from_rom)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, load_tss_from_rom, 0x50);
	u64 *rom = vm_add_memory(vm, SLOT_TEST, KVM_MEM_READONLY, TEST_GPA, PAGE_SIZE);

	memcpy(rom, guest_gdt, sizeof(guest_gdt));
	rom[10] = 0x0000890000000067 | (u64)(TEST_GPA >> 24) << 56;	/* a TSS, not yet busy */
	rom[11] = 0;
	rom[12] = 0x000082000000000f;
	rom[13] = 0;
	/* userspace sees writes to ROM, if the CPU's own are made known at all, and drops them */
	while (vcpu_run(vcpu) == KVM_EXIT_MMIO)
		EXPECT_TRUE(vcpu->run->mmio.is_write && is_linux_kvm());
	EXPECT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	EXPECT_EQ(0x50, ltr_seen[0]);
	EXPECT_EQ(0x60, ltr_seen[1]);
	EXPECT_EQ(0x89, rom[10] >> 40 & 0xff);
}
