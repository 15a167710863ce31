// SPDX-License-Identifier: GPL-2.0
/*
 * vCPU state that clients get and set: general, system and FPU registers,
 * MSRs, CPUID, debug registers, and what the guest sees of them.
 *
 * Read next: run.c.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "vm.h"

static void nop_guest(u64 arg)
{
	(void)arg;
	stage(1);
	stage(2);
}

/* --- General registers --- */

TEST(regs_round_trip)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_regs set, got;
	u64 *words = (u64 *)&set;

	for (size_t i = 0; i < sizeof(set) / 8; i++)
		words[i] = 0x1111111100000000 + i;
	set.rflags = RFLAGS_FIXED | RFLAGS_DF | 0xd5;
	vcpu_set_regs(vcpu, &set);
	vcpu_get_regs(vcpu, &got);
	EXPECT_EQ(0, memcmp(&set, &got, sizeof(set)));
}

TEST(bit_1_of_rflags_is_always_set)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_regs regs = { .rflags = 0 };

	vcpu_set_regs(vcpu, &regs);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(RFLAGS_FIXED, regs.rflags);
}

static volatile u64 seen_regs[16];

static void show_regs(void)
{
	asm volatile("movq %rax, seen_regs\n\t"
		     "movq %rbx, seen_regs + 8\n\t"
		     "movq %rcx, seen_regs + 16\n\t"
		     "movq %rdx, seen_regs + 24\n\t"
		     "movq %rsi, seen_regs + 32\n\t"
		     "movq %rdi, seen_regs + 40\n\t"
		     "movq %rbp, seen_regs + 56\n\t"
		     "movq %r8, seen_regs + 64\n\t"
		     "movq %r9, seen_regs + 72\n\t"
		     "movq %r10, seen_regs + 80\n\t"
		     "movq %r11, seen_regs + 88\n\t"
		     "movq %r12, seen_regs + 96\n\t"
		     "movq %r13, seen_regs + 104\n\t"
		     "movq %r14, seen_regs + 112\n\t"
		     "movq %r15, seen_regs + 120\n\t"
		     "notq %r15; notq %rbx; notq %r8\n\t"
		     "jmp guest_return");
}

TEST(the_guest_runs_with_the_registers_that_were_set)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);
	struct kvm_regs regs;
	u64 *words = (u64 *)&regs, rsp;

	vcpu_get_regs(vcpu, &regs);
	rsp = regs.rsp;
	for (int i = 0; i < 16; i++)
		words[i] = 0x1234567800000000 + i;
	regs.rsp = rsp;
	regs.rip = (u64)show_regs;
	vcpu_set_regs(vcpu, &regs);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(regs.rax, seen_regs[0]);
	EXPECT_EQ(regs.rbx, seen_regs[1]);
	EXPECT_EQ(regs.rcx, seen_regs[2]);
	EXPECT_EQ(regs.rdx, seen_regs[3]);
	EXPECT_EQ(regs.rsi, seen_regs[4]);
	EXPECT_EQ(regs.rdi, seen_regs[5]);
	EXPECT_EQ(regs.rbp, seen_regs[7]);
	EXPECT_EQ(regs.r8, seen_regs[8]);
	EXPECT_EQ(regs.r9, seen_regs[9]);
	EXPECT_EQ(regs.r10, seen_regs[10]);
	EXPECT_EQ(regs.r11, seen_regs[11]);
	EXPECT_EQ(regs.r12, seen_regs[12]);
	EXPECT_EQ(regs.r13, seen_regs[13]);
	EXPECT_EQ(regs.r14, seen_regs[14]);
	EXPECT_EQ(regs.r15, seen_regs[15]);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(~seen_regs[15], regs.r15);
	EXPECT_EQ(~seen_regs[1], regs.rbx);
	EXPECT_EQ(~seen_regs[8], regs.r8);
}

TEST(a_new_vcpu_is_in_its_reset_state)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_get_regs(vcpu, &regs);
	vcpu_get_sregs(vcpu, &sregs);
	EXPECT_EQ(0xfff0, regs.rip);
	EXPECT_EQ(RFLAGS_FIXED, regs.rflags);
	EXPECT_EQ(0xf000, sregs.cs.selector);
	EXPECT_EQ(0xffff0000, sregs.cs.base);
	EXPECT_EQ(0xffff, sregs.cs.limit);
	EXPECT_EQ(0, sregs.ds.selector);
	EXPECT_EQ(0xffff, sregs.ds.limit);
	EXPECT_EQ(CR0_ET | CR0_CD | CR0_NW, sregs.cr0);
	EXPECT_EQ(0, sregs.cr2 | sregs.cr3 | sregs.cr4 | sregs.cr8);
	EXPECT_EQ(0, sregs.efer);
	EXPECT_EQ(0xffff, sregs.gdt.limit);
	EXPECT_EQ(0xffff, sregs.idt.limit);
	EXPECT_EQ(APIC_BASE | APICBASE_ENABLE | APICBASE_BSP, sregs.apic_base);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(vcpu));
	EXPECT_EQ(KVM_MP_STATE_UNINITIALIZED, vcpu_mp_state(vcpu_create(vm, 1)));
}

/* --- System registers --- */

static void expect_sregs_round_trip(struct vcpu *vcpu,
				    const struct kvm_sregs *set)
{
	struct kvm_sregs got;

	vcpu_set_sregs(vcpu, set);
	vcpu_get_sregs(vcpu, &got);
	expect_same_segment("cs", &set->cs, &got.cs);
	expect_same_segment("ds", &set->ds, &got.ds);
	expect_same_segment("es", &set->es, &got.es);
	expect_same_segment("fs", &set->fs, &got.fs);
	expect_same_segment("gs", &set->gs, &got.gs);
	expect_same_segment("ss", &set->ss, &got.ss);
	expect_same_segment("tr", &set->tr, &got.tr);
	EXPECT_EQ(set->gdt.base, got.gdt.base);
	EXPECT_EQ(set->gdt.limit, got.gdt.limit);
	EXPECT_EQ(set->idt.base, got.idt.base);
	EXPECT_EQ(set->idt.limit, got.idt.limit);
	EXPECT_EQ(set->cr0, got.cr0);
	EXPECT_EQ(set->cr2, got.cr2);
	EXPECT_EQ(set->cr3, got.cr3);
	EXPECT_EQ(set->cr4, got.cr4);
	EXPECT_EQ(set->cr8, got.cr8);
	EXPECT_EQ(set->efer, got.efer);
	EXPECT_EQ(set->apic_base, got.apic_base);
}

TEST(sregs_round_trip_in_long_mode)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr2 = 0x123456789000;
	sregs.cr8 = 5;
	sregs.fs.base = 0x7fff12345678;
	sregs.gs.base = 0xffff888000001000;
	sregs.efer |= EFER_SCE;
	expect_sregs_round_trip(vcpu, &sregs);
}

TEST(sregs_round_trip_in_protected_and_real_mode)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_sregs sregs;

	vcpu_set_flat32(vcpu, 0);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.ds.base = 0x12340;
	sregs.ds.limit = 0x5ffff;
	sregs.ds.g = 0;
	expect_sregs_round_trip(vcpu, &sregs);
	vcpu = vcpu_create(vm, 1);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.es.selector = 0x1234;
	sregs.es.base = 0x12340;
	expect_sregs_round_trip(vcpu, &sregs);
}

TEST(sregs_that_no_cpu_can_have_are_refused_and_change_nothing)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);
	struct kvm_sregs good, bad, now;

	vcpu_get_sregs(vcpu, &good);
	/* Long mode without PAE, or without LMA. */
	bad = good;
	bad.cr4 &= ~CR4_PAE;
	bad.cr2 = 0x999;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	bad = good;
	bad.efer &= ~EFER_LMA;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	/* LMA without paging. */
	bad = good;
	bad.cr0 &= ~CR0_PG;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	/* Reserved bits. */
	bad = good;
	bad.cr4 |= 1ull << 31;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	bad = good;
	bad.cr3 |= 1ull << 63;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	vcpu_get_sregs(vcpu, &now);
	EXPECT_EQ(good.cr2, now.cr2);
	EXPECT_EQ(good.cr4, now.cr4);
	EXPECT_EQ(good.efer, now.efer);
	vcpu_run_to_stage(vcpu, 1);
}

TEST(sregs_with_impossible_cr0_are_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);
	struct kvm_sregs good, bad;

	if (is_linux_kvm())
		SKIP("Linux KVM takes these before 6.5");
	vcpu_get_sregs(vcpu, &good);
	bad = good;
	bad.cr0 &= ~CR0_PE;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	bad = good;
	bad.cr0 = (bad.cr0 | CR0_NW) & ~CR0_CD;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	bad = good;
	bad.cr0 |= 1ull << 32;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	vcpu_run_to_stage(vcpu, 1);
}

TEST(an_apic_base_that_no_cpu_can_have_is_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);
	struct kvm_sregs good, bad;

	vcpu_get_sregs(vcpu, &good);
	bad = good;
	bad.apic_base = APIC_BASE | APICBASE_X2APIC;	/* x2APIC, not enabled */
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	bad.apic_base = good.apic_base | 1ull << 62;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &bad));
	vcpu_run_to_stage(vcpu, 1);
}

TEST(two_interrupts_in_the_sregs_bitmap_are_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);
	struct kvm_sregs sregs;

	if (is_linux_kvm())
		SKIP("Linux KVM takes the lowest and drops the others");
	vcpu_get_sregs(vcpu, &sregs);
	sregs.interrupt_bitmap[0] = 3ull << 33;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_SREGS, &sregs));
}

/* --- CR4 --- */

#define CR4_MCE (1ull << 6)
#define CR4_PGE (1ull << 7)

static u64 read_cr0(void)
{
	u64 val;

	asm volatile("mov %%cr0, %0" : "=r"(val));
	return val;
}

static u64 read_cr4(void)
{
	u64 cr4;

	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	return cr4;
}

static void write_cr4(u64 cr4)
{
	asm volatile("mov %0, %%cr4" :: "r"(cr4) : "memory");
}

/* mov %cr4, %reg; hlt; the form that a CPU takes whatever ModRM.mod is, too. */
static void write_cr4_read(struct vm *vm, u32 reg, bool register_form)
{
	u8 *code = vm->low + CODE_GPA;

	if (reg >= 8)
		*code++ = 0x41;
	*code++ = 0x0f;
	*code++ = 0x20;
	*code++ = (register_form ? 0xc0 : 0) | 4 << 3 | (reg & 7);
	*code = 0xf4;
}

/* By the number that an instruction gives them. */
static u64 *register_of(struct kvm_regs *r, u32 reg)
{
	u64 *by_number[] = {
		(u64 *)&r->rax, (u64 *)&r->rcx, (u64 *)&r->rdx, (u64 *)&r->rbx,
		(u64 *)&r->rsp, (u64 *)&r->rbp, (u64 *)&r->rsi, (u64 *)&r->rdi,
		(u64 *)&r->r8,	(u64 *)&r->r9,	(u64 *)&r->r10, (u64 *)&r->r11,
		(u64 *)&r->r12, (u64 *)&r->r13, (u64 *)&r->r14, (u64 *)&r->r15,
	};

	return by_number[reg];
}

/*
 * The guest has just these bits beside those that its mode wants, and reads them into each
 * register.
 */
static void expect_cr4_in_each_register(struct vcpu *vcpu, u64 bits, bool long_mode)
{
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr4 = (sregs.cr4 & ~(CR4_MCE | CR4_PGE)) | bits;
	vcpu_set_sregs(vcpu, &sregs);
	for (u32 i = 0; i < (long_mode ? 32 : 16); i++) {
		u32 reg = i / 2;
		struct kvm_sregs now;
		struct kvm_regs regs;

		ktap_about("CR4 %llx, register %u, ModRM.mod %u", (unsigned long long)sregs.cr4, reg, i % 2 ? 3 : 0);
		write_cr4_read(vcpu->vm, reg, i % 2);
		vcpu_get_regs(vcpu, &regs);
		regs.rip = CODE_GPA;
		*register_of(&regs, reg) = 0x5a5a5a5a5a5a5a5a;
		vcpu_set_regs(vcpu, &regs);
		vcpu_run_to_exit(vcpu, KVM_EXIT_HLT);
		vcpu_get_regs(vcpu, &regs);
		if (long_mode)
			EXPECT_EQ(sregs.cr4, *register_of(&regs, reg));
		else
			EXPECT_EQ((u32)sregs.cr4, (u32)*register_of(&regs, reg));
		vcpu_get_sregs(vcpu, &now);
		EXPECT_EQ(sregs.cr4, now.cr4);
	}
}

/*
 * The host wants machine checks while the guest runs as well; of its CR4.MCE the guest sees
 * nothing.
 */
TEST(the_guest_reads_cr4_as_it_has_set_it_in_every_mode)
{
	static const u64 bits[] = { 0, CR4_PGE, CR4_MCE, CR4_MCE | CR4_PGE };
	struct vm *vm = vm_create(0);
	struct vcpu *real = vcpu_create(vm, 0), *flat = vcpu_create(vm, 1),
		    *wide = vcpu_add(vm, nop_guest, 0);

	if (is_linux_kvm() && cpu_is_tcg())
		SKIP("QEMU's TCG does not intercept reads of CR4, by which kvm_amd hides the host's CR4.MCE");
	vcpu_set_real(real, CODE_GPA);
	vcpu_set_flat32(flat, CODE_GPA);
	for (u32 i = 0; i < sizeof(bits) / sizeof(*bits); i++) {
		expect_cr4_in_each_register(real, bits[i], false);
		expect_cr4_in_each_register(flat, bits[i], false);
		expect_cr4_in_each_register(wide, bits[i], true);
	}
}

static void run_smsw(u64 arg)
{
	u64 wide = 0;
	u32 narrow = 0;
	u16 word = 0;

	(void)arg;
	asm volatile("smsw %0" : "=r"(wide));
	asm volatile("smsw %k0" : "=r"(narrow));
	asm volatile("smsw %0" : "=m"(word));
	GUEST_EQ(read_cr0(), wide);
	GUEST_EQ((u32)read_cr0(), narrow);
	GUEST_EQ((u16)read_cr0(), word);
	stage(1);
}

TEST(smsw_runs_while_machine_checks_are_off)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), run_smsw, 0);
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr4 &= ~CR4_MCE;
	vcpu_set_sregs(vcpu, &sregs);
	vcpu_run_to_stage(vcpu, 1);
}

static void switch_mce(u64 arg)
{
	u64 cr4 = read_cr4();

	(void)arg;
	for (u32 i = 0; i < 4; i++) {
		cr4 ^= CR4_MCE;
		write_cr4(cr4);
		GUEST_EQ(cr4, read_cr4());
		stage(i + 1);
		GUEST_EQ(cr4, read_cr4());
	}
}

TEST(a_guest_that_switches_machine_checks_on_and_off_reads_what_it_wrote)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), switch_mce, 0);
	struct kvm_sregs sregs;
	u64 before;

	if (is_linux_kvm() && cpu_is_tcg())
		SKIP("QEMU's TCG does not intercept reads of CR4, by which kvm_amd hides the host's CR4.MCE");
	vcpu_get_sregs(vcpu, &sregs);
	before = sregs.cr4;
	for (u32 i = 1; i <= 4; i++) {
		vcpu_run_to_stage(vcpu, i);
		vcpu_get_sregs(vcpu, &sregs);
		EXPECT_EQ(i % 2 ? before ^ CR4_MCE : before, sregs.cr4);
	}
	vcpu_run_to_done(vcpu);
}

/* --- FPU, XSAVE, XCR0 --- */

static volatile u64 xmm_seen[2];

static void xmm_guest(u64 arg)
{
	u64 a, b;

	/* From here on the SSE state is in use, whatever the host sets next. */
	asm volatile("pcmpeqd %%xmm0, %%xmm0" ::: "memory");
	stage(1);
	asm volatile("movq %%xmm3, %0; movq %%xmm15, %1" : "=r"(a), "=r"(b));
	xmm_seen[0] = a;
	xmm_seen[1] = b;
	asm volatile("movq %0, %%xmm4" :: "r"(arg));
	stage(2);
}

TEST(fpu_round_trip_and_seen_by_the_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, xmm_guest, 0xfeedface);
	struct kvm_fpu set = { .fcw = 0x37f, .mxcsr = 0x1f80 }, got;

	for (int i = 0; i < 16; i++)
		memset(set.xmm[i], 0x10 + i, 16);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_FPU, &set));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_FPU, &got));
	EXPECT_EQ(set.fcw, got.fcw);
	if (!is_linux_kvm())	/* which leaves this field out */
		EXPECT_EQ(set.mxcsr, got.mxcsr);
	EXPECT_EQ(0, memcmp(set.xmm, got.xmm, sizeof(set.xmm)));
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(0x1313131313131313, xmm_seen[0]);
	EXPECT_EQ(0x1f1f1f1f1f1f1f1f, xmm_seen[1]);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_FPU, &got));
	EXPECT_EQ(0xfeedface, *(u32 *)got.xmm[4]);
}

#define XSAVE_MXCSR 6			/* word in the legacy area */
#define XSAVE_XMM 40			/* first word of XMM0 */
#define XSAVE_BV 128			/* first word of the header */

TEST(xsave_round_trip_and_seen_by_the_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, xmm_guest, 0x12345678);
	static struct kvm_xsave area, got;

	NEED_CAP(KVM_CAP_XSAVE);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &area));
	area.region[XSAVE_BV] |= 3;
	area.region[0] = 0x37f;
	area.region[XSAVE_MXCSR] = 0x1f80;
	for (int i = 0; i < 64; i++)
		area.region[XSAVE_XMM + i] = 0x1000 + i;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_XSAVE, &area));
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(0x0000100d0000100c, xmm_seen[0]);
	EXPECT_EQ(0x0000103d0000103c, xmm_seen[1]);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &got));
	EXPECT_EQ(0x12345678, got.region[XSAVE_XMM + 16]);
	EXPECT_EQ(0x100c, got.region[XSAVE_XMM + 12]);
}

TEST(xsave_with_reserved_bits_is_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	static struct kvm_xsave good, bad;

	NEED_CAP(KVM_CAP_XSAVE);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &good));
	bad = good;
	bad.region[XSAVE_MXCSR] = 0xffff0000;
	bad.region[XSAVE_BV] |= 3;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XSAVE, &bad));
	bad = good;
	bad.region[XSAVE_BV + 1] |= 1u << 30;	/* component 62 */
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XSAVE, &bad));
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_XSAVE, &good));
}

static bool guest_has_xsave(void)
{
	struct cpuid_list list;

	default_cpuid(&list, 0);
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 1)
			return list.entries[i].ecx >> 26 & 1;
	return false;
}

TEST(xcr0_round_trip_and_refusals)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 3 };

	NEED_CAP(KVM_CAP_XCRS);
	if (!guest_has_xsave())
		SKIP("the CPU has no XSAVE");
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
	memset(&xcrs, 0xff, sizeof(xcrs));
	EXPECT_OK(ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs));
	EXPECT_EQ(1, xcrs.nr_xcrs);
	EXPECT_EQ(0, xcrs.flags);
	EXPECT_EQ(0, xcrs.xcrs[0].xcr);
	EXPECT_EQ(3, xcrs.xcrs[0].value);
	/* x87 off; AVX without SSE; a component nobody has. */
	xcrs.xcrs[0].value = 2;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
	xcrs.xcrs[0].value = 5;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
	xcrs.xcrs[0].value = 3 | 1ull << 60;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
	xcrs.xcrs[0].value = 3;
	xcrs.flags = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
	xcrs.flags = 0;
	xcrs.nr_xcrs = KVM_MAX_XCRS + 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
}

static volatile u64 xcr_results[6];

static u64 xsetbv_try(u32 index, u64 value)
{
	return GUEST_TRY("xsetbv", "+c"(index) : "a"((u32)value),
			 "d"((u32)(value >> 32)));
}

static void xsetbv_guest(u64 arg)
{
	u32 low, high, regs[4];
	u64 cr4;

	(void)arg;
	xcr_results[0] = xsetbv_try(0, 3);
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" :: "r"(cr4 | CR4_OSXSAVE));
	cpuid(1, 0, regs);
	xcr_results[1] = regs[2] >> 27 & 1;
	xcr_results[2] = xsetbv_try(0, 3);
	xcr_results[3] = xsetbv_try(0, 2);
	xcr_results[4] = xsetbv_try(1, 3);
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	xcr_results[5] = low;
	asm volatile("mov %0, %%cr4" :: "r"(cr4));
	cpuid(1, 0, regs);
	GUEST_EQ(0, regs[2] >> 27 & 1);
}

TEST(xsetbv_in_the_guest_obeys_the_rules_and_cpuid_shows_osxsave)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, xsetbv_guest, 0);

	if (!guest_has_xsave())
		SKIP("the CPU has no XSAVE");
	vcpu_run_to_done(vcpu);
	/* TCG traps XSETBV before it looks at CR4, and KVM trusts the CPU. */
	if (!is_linux_kvm())
		EXPECT_EQ(VEC_UD, xcr_results[0]);
	EXPECT_EQ(1, xcr_results[1]);
	EXPECT_EQ(VEC_NONE, xcr_results[2]);
	EXPECT_EQ(VEC_GP, xcr_results[3]);
	EXPECT_EQ(VEC_GP, xcr_results[4]);
	EXPECT_EQ(3, xcr_results[5]);
}

/* --- Protection keys --- */

#define CR4_PKE (1ull << 22)
#define PF_PRESENT 1
#define PF_WRITE 2
#define PF_KEY 32
#define PKRU_XFEATURE 9
#define KEYS_AT_FIRST 0x2c		/* key 1: no access; key 2: no writes */

static u32 rdpkru(void)
{
	u32 pkru, edx;

	asm volatile("rdpkru" : "=a"(pkru), "=d"(edx) : "c"(0));
	return pkru;
}

static void wrpkru(u32 pkru)
{
	asm volatile("wrpkru" :: "a"(pkru), "c"(0), "d"(0));
}

static void page_key(u64 key)
{
	guest_pd[0][0] = (guest_pd[0][0] & ~(15ull << 59)) | key << 59;
	asm volatile("invlpg (%0)" :: "r"(CODE_GPA) : "memory");
}

static void keys_guest(u64 arg)
{
	u64 cr4, *page = (u64 *)CODE_GPA, apic = 0xfee00030, to;
	u32 regs[4];

	(void)arg;
	cpuid(7, 0, regs);
	GUEST_EQ(0, regs[2] >> 4 & 1);		/* OSPKE */
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	asm volatile("mov %0, %%cr4" :: "r"(cr4 | CR4_OSXSAVE | CR4_PKE));
	GUEST_EQ(VEC_NONE, xsetbv_try(0, 1 | 1 << PKRU_XFEATURE));
	cpuid(7, 0, regs);
	GUEST_EQ(1, regs[2] >> 4 & 1);
	GUEST_EQ(0, rdpkru());
	wrpkru(KEYS_AT_FIRST);
	stage(1);
	GUEST_EQ(KEYS_AT_FIRST | 1u << 30, rdpkru());
	page_key(1);
	GUEST_EQ(VEC_PF, GUEST_TRY("mov (%1), %0", "=r"(to) : "r"(page)));
	GUEST_EQ(PF_PRESENT | PF_KEY, guest_caught.error);
	page_key(2);
	GUEST_EQ(VEC_NONE, GUEST_TRY("mov (%1), %0", "=r"(to) : "r"(page)));
	GUEST_EQ(VEC_PF, GUEST_TRY("mov %0, (%1)", : "r"(to), "r"(page)));
	GUEST_EQ(PF_PRESENT | PF_WRITE | PF_KEY, guest_caught.error);
	/* from a device: the emulator looks at the key */
	to = (u64)page;
	GUEST_EQ(VEC_PF, GUEST_TRY("movsl", "+S"(apic), "+D"(to) : : "memory"));
	GUEST_EQ(PF_PRESENT | PF_WRITE | PF_KEY, guest_caught.error);
	GUEST_EQ((u64)page, guest_caught.cr2);
	page_key(3);
	GUEST_EQ(VEC_NONE, GUEST_TRY("movsl", "+S"(apic), "+D"(to) : : "memory"));
	page_key(0);
}

TEST(protection_keys_are_the_guests_own)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, keys_guest, 0);
	struct kvm_xsave xsave;
	u32 regs[4], *saved;

	cpuid(7, 0, regs);
	if (!(regs[2] >> 4 & 1))
		SKIP("the CPU or its kernel has no protection keys");
	cpuid(0xd, PKRU_XFEATURE, regs);
	saved = &xsave.region[regs[1] / 4];
	wrpkru(0x10);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(0x10, rdpkru());
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &xsave));
	EXPECT_EQ(1, xsave.region[128] >> PKRU_XFEATURE & 1);
	EXPECT_EQ(KEYS_AT_FIRST, *saved);
	*saved |= 1 << 30;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_XSAVE, &xsave));
	EXPECT_EQ(0x10, rdpkru());
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x10, rdpkru());
}

/* --- MSRs --- */

TEST(unknown_msr_ends_the_list_with_the_count_before_it)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct msr_list list = {
		.nmsrs = 3,
		.entries = {
			{ .index = MSR_STAR, .data = 0x1234 },
			{ .index = 0xdead0000, .data = 1 },
			{ .index = MSR_PAT, .data = 0 },
		},
	};
	u64 pat = vcpu_get_msr(vcpu, MSR_PAT);

	EXPECT_EQ(1, ioctl(vcpu->fd, KVM_SET_MSRS, &list));
	EXPECT_EQ(0x1234, vcpu_get_msr(vcpu, MSR_STAR));
	EXPECT_EQ(pat, vcpu_get_msr(vcpu, MSR_PAT));
	EXPECT_EQ(1, ioctl(vcpu->fd, KVM_GET_MSRS, &list));
	list.nmsrs = 0;
	EXPECT_EQ(0, ioctl(vcpu->fd, KVM_GET_MSRS, &list));
	EXPECT_EQ(0, ioctl(vcpu->fd, KVM_SET_MSRS, &list));
}

TEST(too_many_msrs_at_once_are_e2big)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct msr_list list = { .nmsrs = 1000000 };

	EXPECT_ERRNO(E2BIG, ioctl(vcpu->fd, KVM_GET_MSRS, &list));
	EXPECT_ERRNO(E2BIG, ioctl(vcpu->fd, KVM_SET_MSRS, &list));
}

TEST(every_listed_msr_can_be_read_and_written_back)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_msr_list probe = { 0 }, *list;

	ASSERT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &probe));
	list = calloc(1, sizeof(*list) + probe.nmsrs * 4);
	list->nmsrs = probe.nmsrs;
	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, list));
	for (u32 i = 0; i < list->nmsrs; i++) {
		struct msr_list one = {
			.nmsrs = 1,
			.entries[0].index = list->indices[i],
		};

		ktap_about("MSR 0x%x", list->indices[i]);
		EXPECT_EQ(1, ioctl(vcpu->fd, KVM_GET_MSRS, &one));
		EXPECT_EQ(1, ioctl(vcpu->fd, KVM_SET_MSRS, &one));
	}
}

TEST(msrs_clients_always_write_keep_their_value)
{
	static const struct {
		u32 index;
		u64 value;
	} msrs[] = {
		/* SYSENTER_ESP and EIP have 32 bits on AMD. */
		{ 0x174, 0x10 },
		{ 0x175, 0x12345000 },
		{ 0x176, 0x81000000 },
		{ MSR_PAT, 0x0007010600070106 },
		{ MSR_STAR, 0x23001000000000 },
		{ 0xc0000082, 0xffffffff81000040 },
		{ 0xc0000083, 0xffffffff81000080 },
		{ 0xc0000084, 0x47700 },
		{ MSR_KERNEL_GS_BASE, 0xffff888000000000 },
		{ 0xc0000100, 0x7f0000001000 },
		{ 0xc0000101, 0x7f0000002000 },
	};
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	for (size_t i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++) {
		ktap_about("MSR 0x%x", msrs[i].index);
		EXPECT_EQ(1, vcpu_set_msr(vcpu, msrs[i].index, msrs[i].value));
		EXPECT_EQ(msrs[i].value, vcpu_get_msr(vcpu, msrs[i].index));
	}
}

static const u32 canonical_msrs[] = {
	0x175, 0x176, 0xc0000082, 0xc0000083, 0xc0000100, 0xc0000101,
	MSR_KERNEL_GS_BASE,
};
#define NR_CANONICAL (sizeof(canonical_msrs) / sizeof(canonical_msrs[0]))

/* SYSENTER_ESP and EIP: AMD keeps 32 bits or all, and checks neither. */
static bool must_be_canonical(u32 msr)
{
	return msr >= 0xc0000000;
}

TEST(set_msrs_refuses_values_that_are_not_canonical)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, nop_guest, 0);

	for (size_t i = 0; i < NR_CANONICAL; i++) {
		if (!must_be_canonical(canonical_msrs[i]))
			continue;
		ktap_about("MSR 0x%x", canonical_msrs[i]);
		EXPECT_EQ(0, vcpu_set_msr(vcpu, canonical_msrs[i],
					  0x1234000000000000));
		EXPECT_EQ(1, vcpu_set_msr(vcpu, canonical_msrs[i],
					  0xffff800000000000));
	}
	/* The bases of a set that makes sense must still run. */
	EXPECT_EQ(1, vcpu_set_msr(vcpu, 0xc0000101, 0));
	vcpu_run_to_stage(vcpu, 1);
}

static volatile u64 msr_vectors[NR_CANONICAL];

static void wrmsr_not_canonical(u64 arg)
{
	(void)arg;
	for (u32 i = 0; i < NR_CANONICAL; i++)
		msr_vectors[i] = wrmsr_try(canonical_msrs[i], 0x1234000000000000);
}

TEST(wrmsr_of_values_that_are_not_canonical_is_gp)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, wrmsr_not_canonical, 0);

	/* Hypervisors let the CPU itself run most of these. */
	if (cpu_is_tcg())
		SKIP("QEMU's TCG takes such values for MSRs that nobody intercepts");
	vcpu_run_to_done(vcpu);
	for (u32 i = 0; i < NR_CANONICAL; i++) {
		if (!must_be_canonical(canonical_msrs[i]))
			continue;
		ktap_about("MSR 0x%x", canonical_msrs[i]);
		EXPECT_EQ(VEC_GP, msr_vectors[i]);
	}
}

static volatile u64 unknown_msr_vectors[2];

static void unknown_msr_guest(u64 arg)
{
	u64 value;

	(void)arg;
	unknown_msr_vectors[0] = rdmsr_try(0xdead0000, &value);
	unknown_msr_vectors[1] = wrmsr_try(0xdead0000, 1);
	GUEST_EQ(0, guest_caught.error);
}

TEST(rdmsr_and_wrmsr_of_an_unknown_msr_are_gp)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, unknown_msr_guest, 0);

	vcpu_run_to_done(vcpu);
	EXPECT_EQ(VEC_GP, unknown_msr_vectors[0]);
	EXPECT_EQ(VEC_GP, unknown_msr_vectors[1]);
}

static volatile u64 guest_msrs[4];

static void msr_guest(u64 arg)
{
	(void)arg;
	guest_msrs[0] = rdmsr(MSR_STAR);
	guest_msrs[1] = rdmsr(MSR_KERNEL_GS_BASE);
	guest_msrs[2] = rdmsr(MSR_PAT);
	wrmsr(MSR_STAR, 0x777);
	wrmsr(MSR_KERNEL_GS_BASE, 0x888);
	wrmsr(MSR_PAT, 0x0606060606060606);
}

TEST(host_and_guest_see_each_others_msrs)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, msr_guest, 0);

	vcpu_set_msr(vcpu, MSR_STAR, 0x111);
	vcpu_set_msr(vcpu, MSR_KERNEL_GS_BASE, 0x222);
	vcpu_set_msr(vcpu, MSR_PAT, 0x0706050407060504);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x111, guest_msrs[0]);
	EXPECT_EQ(0x222, guest_msrs[1]);
	EXPECT_EQ(0x0706050407060504, guest_msrs[2]);
	EXPECT_EQ(0x777, vcpu_get_msr(vcpu, MSR_STAR));
	EXPECT_EQ(0x888, vcpu_get_msr(vcpu, MSR_KERNEL_GS_BASE));
	EXPECT_EQ(0x0606060606060606, vcpu_get_msr(vcpu, MSR_PAT));
}

TEST(a_pat_with_a_reserved_type_is_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	EXPECT_EQ(0, vcpu_set_msr(vcpu, MSR_PAT, 0x0007040600070402));
	EXPECT_EQ(0, vcpu_set_msr(vcpu, MSR_PAT, 0x0800000000000000));
}

static volatile u64 tsc_seen;

static void tsc_guest(u64 arg)
{
	u64 last = rdtsc();

	(void)arg;
	tsc_seen = last;
	for (int i = 0; i < 200; i++) {
		u64 now = rdtsc();

		GUEST_TRUE(now >= last);
		last = now;
	}
	GUEST_TRUE(rdmsr(MSR_TSC) >= last);
}

TEST(the_tsc_goes_on_from_the_value_that_was_set)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, tsc_guest, 0);
	const u64 start = 1ull << 60;

	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_TSC, start));
	vcpu_run_to_done(vcpu);
	EXPECT_LE(start, tsc_seen);
	EXPECT_LE(tsc_seen, start + (1ull << 50));
	EXPECT_LE(tsc_seen, vcpu_get_msr(vcpu, MSR_TSC));
}

TEST(the_first_tsc_that_is_set_counts_however_small_and_later_ones_keep_step)
{
	struct vm *vm = vm_create(0);
	struct vcpu *one = vcpu_create(vm, 0), *two = vcpu_create(vm, 1);
	u64 step, other;

	if (is_linux_kvm())
		SKIP("Linux KVM before 6.8 takes a small one for the VM's own");
	/* Far over what the VM has itself, and less than a second of any TSC. */
	EXPECT_EQ(1, vcpu_set_msr(one, MSR_TSC, 400000000));
	EXPECT_LE(400000000, vcpu_get_msr(one, MSR_TSC));
	EXPECT_EQ(1, vcpu_set_msr(two, MSR_TSC, 400000000));
	step = vcpu_get_msr(one, MSR_TSC);
	other = vcpu_get_msr(two, MSR_TSC);
	EXPECT_LE(step, other);
	EXPECT_LE(other, vcpu_get_msr(one, MSR_TSC));
}

static int tsc_offset(struct vcpu *vcpu, unsigned long ioctl_nr, u64 *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)offset,
	};

	return ioctl(vcpu->fd, ioctl_nr, &attr);
}

static void tell_tsc(u64 arg)
{
	(void)arg;
	for (int i = 1; i <= 2; i++) {
		tsc_seen = rdtsc();
		stage(i);
	}
}

TEST(the_tsc_offset_is_what_the_guest_has_more_than_the_host)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, tell_tsc, 0), *later;
	u64 before, offset;

	NEED_CAP(KVM_CAP_VCPU_ATTRIBUTES);
	EXPECT_OK(tsc_offset(vcpu, KVM_HAS_DEVICE_ATTR, NULL));
	ASSERT_OK(tsc_offset(vcpu, KVM_GET_DEVICE_ATTR, &offset));
	before = rdtsc();
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_LE(before + offset, tsc_seen);
	EXPECT_LE(tsc_seen, rdtsc() + offset);

	offset += 1ull << 61;
	ASSERT_OK(tsc_offset(vcpu, KVM_SET_DEVICE_ATTR, &offset));
	before = rdtsc();
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_LE(before + offset, tsc_seen);
	EXPECT_LE(tsc_seen, rdtsc() + offset);
	EXPECT_LE(before + offset, vcpu_get_msr(vcpu, MSR_TSC));

	if (is_linux_kvm())
		return;	/* which trusts no offset where the host's TSC is not known to be stable */
	/* The same instant for another vCPU is told by the same offset. */
	later = vcpu_create(vm, 1);
	EXPECT_EQ(1, vcpu_set_msr(later, MSR_TSC, rdtsc() + offset));
	ASSERT_OK(tsc_offset(later, KVM_GET_DEVICE_ATTR, &before));
	EXPECT_EQ(offset, before);
}

TEST(the_tsc_of_a_vm_has_the_rate_of_its_vcpus)
{
	struct vm *vm = vm_create(0);
	int khz = ioctl(vcpu_create(vm, 0)->fd, KVM_GET_TSC_KHZ, 0);

	EXPECT_EQ(khz, ioctl(vm->fd, KVM_GET_TSC_KHZ, 0));
	if (capability(KVM_CAP_VM_TSC_CONTROL))
		return;
	EXPECT_OK(ioctl(vm->fd, KVM_SET_TSC_KHZ, khz));
	if (!is_linux_kvm())	/* which takes any, and does nothing */
		EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_TSC_KHZ, khz * 2));
}

TEST(hwcr_keeps_what_guests_use_and_refuses_what_none_may_set)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	const u64 ignored = 1 << 3 | 1 << 6 | 1 << 8, kept = 1 << 18 | 1 << 24;

	if (is_linux_kvm())
		SKIP("Linux KVM before 6.8 does not keep TscFreqSel");
	for (int bit = 0; bit < 64; bit++) {
		u64 val = 1ull << bit;

		EXPECT_EQ(!!(val & (ignored | kept)), vcpu_set_msr(vcpu, MSR_HWCR, val));
		EXPECT_EQ(val & kept, vcpu_get_msr(vcpu, MSR_HWCR));
		EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_HWCR, 0));
	}
}

static void write_mce_status(u64 arg)
{
	(void)arg;
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MC0_STATUS, 5));
	wrmsr(MSR_HWCR, 1 << 18);
	wrmsr(MSR_MC0_STATUS, 5);
	GUEST_EQ(5, rdmsr(MSR_MC0_STATUS));
}

TEST(with_hwcr_the_guest_writes_the_status_of_a_bank)
{
	struct vm *vm = vm_create(0);

	vcpu_run_to_done(vcpu_add(vm, write_mce_status, 0));
}

TEST(attributes_of_a_vcpu_that_are_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };
	static const unsigned long nrs[] = { KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR,
					     KVM_SET_DEVICE_ATTR };
	u64 offset, after;

	NEED_CAP(KVM_CAP_VCPU_ATTRIBUTES);
	ASSERT_OK(tsc_offset(vcpu, KVM_GET_DEVICE_ATTR, &offset));
	EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr));
	EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr));
	for (int i = 0; i < 3; i++) {
		EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, nrs[i], NULL));
		attr.attr = KVM_VCPU_TSC_OFFSET + 1;
		EXPECT_ERRNO(ENXIO, ioctl(vcpu->fd, nrs[i], &attr));
		attr.attr = KVM_VCPU_TSC_OFFSET;
		attr.group = KVM_VCPU_TSC_CTRL + 1;
		EXPECT_ERRNO(ENXIO, ioctl(vcpu->fd, nrs[i], &attr));
		attr.group = KVM_VCPU_TSC_CTRL;
		if (!is_linux_kvm()) {	/* which does not look at flags */
			attr.flags = 1;
			EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, nrs[i], &attr));
			attr.flags = 0;
		}
	}
	ASSERT_OK(tsc_offset(vcpu, KVM_GET_DEVICE_ATTR, &after));
	EXPECT_EQ(offset, after);
}

/* --- CPUID --- */

static volatile u32 cpuid_seen[3][4];

static void cpuid_guest(u64 arg)
{
	static const u32 leaves[] = { 0x40000000, 1, 0x80000008 };
	u32 regs[4];

	(void)arg;
	for (int i = 0; i < 3; i++) {
		cpuid(leaves[i], 0, regs);
		for (int j = 0; j < 4; j++)
			cpuid_seen[i][j] = regs[j];
	}
}

TEST(the_guests_cpuid_is_what_was_set)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 5);
	static struct cpuid_list list;
	struct kvm_cpuid_entry2 extra = {
		.function = 0x40000000,
		.eax = 0x40000000, .ebx = 0x11, .ecx = 0x22, .edx = 0x33,
	};

	default_cpuid(&list, 5);
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 0x40000000)
			list.entries[i] = list.entries[--list.nent];
	list.entries[list.nent++] = extra;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	vcpu_set_guest(vcpu, cpuid_guest, 0);
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x11, cpuid_seen[0][1]);
	EXPECT_EQ(0x22, cpuid_seen[0][2]);
	EXPECT_EQ(0x33, cpuid_seen[0][3]);
	EXPECT_EQ(5, cpuid_seen[1][1] >> 24);
	EXPECT_EQ(0, cpuid_seen[1][2] >> 27 & 1);	/* OSXSAVE: CR4 has it not */
	EXPECT_EQ(1, cpuid_seen[1][3] >> 9 & 1);	/* APIC */
	EXPECT_NE(0, cpuid_seen[2][0]);
}

TEST(cpuid2_round_trip_and_e2big)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	static struct cpuid_list set, got;

	default_cpuid(&set, 0);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &set));
	got.nent = 1;
	EXPECT_ERRNO(E2BIG, ioctl(vcpu->fd, KVM_GET_CPUID2, &got));
	EXPECT_EQ(1, got.nent);
	got.nent = 128;
	EXPECT_OK(ioctl(vcpu->fd, KVM_GET_CPUID2, &got));
	if (!is_linux_kvm())
		ASSERT_EQ(set.nent, got.nent);
	for (u32 i = 0; i < set.nent; i++) {
		EXPECT_EQ(set.entries[i].function, got.entries[i].function);
		EXPECT_EQ(set.entries[i].index, got.entries[i].index);
		EXPECT_EQ(set.entries[i].ecx, got.entries[i].ecx);
	}
	set.nent = 100000;
	EXPECT_ERRNO(E2BIG, ioctl(vcpu->fd, KVM_SET_CPUID2, &set));
}

static void cpuid_user_guest(u64 arg)
{
	u64 cr4;

	(void)arg;
	asm volatile("movq %%cr4, %0" : "=r"(cr4));
	asm volatile("movq %0, %%cr4" :: "r"(cr4 | CR4_OSXSAVE));
	stage(1);
}

TEST(cpuid_that_the_guest_has_seen_cannot_change)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, cpuid_user_guest, 0);
	static struct cpuid_list set, got;
	u32 i;

	if (!guest_has_xsave())
		SKIP("the CPU has no XSAVE");
	default_cpuid(&set, 0);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &set));
	for (i = 0; set.entries[i].function != 0x80000008; i++)
		ASSERT_LT(i, set.nent);
	set.entries[i].eax--;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_CPUID2, &set));
	set.entries[i].eax++;
	set.nent--;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_CPUID2, &set));
	/* What mirrors other state may be as it was or as it is: here OSXSAVE. */
	got.nent = 128;
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_CPUID2, &got));
	if (is_linux_kvm())
		got.nent = set.nent + 1;	/* 6.1 does not tell the count */
	ASSERT_EQ(set.nent + 1, got.nent);
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &got));
	/* and as it was read while the APIC was off */
	for (i = 0; got.entries[i].function != 1; i++)
		ASSERT_LT(i, got.nent);
	got.entries[i].edx &= ~(1u << 9);
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &got));
}

static u64 translate(struct vcpu *vcpu, u64 la)
{
	struct kvm_translation t = { .linear_address = la };

	ASSERT_OK(ioctl(vcpu->fd, KVM_TRANSLATE, &t));
	EXPECT_EQ(la, t.linear_address);
	EXPECT_EQ(t.physical_address != ~0ull, t.valid);
	return t.physical_address;
}

TEST(translate_walks_the_guests_tables_and_without_paging_there_are_none)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	EXPECT_EQ(0x10000, translate(vcpu, 0x10000));
	EXPECT_EQ(~0ull, translate(vcpu, ~0ull));
	vcpu = vcpu_add(vm, cpuid_user_guest, 0);
	vcpu_run_to_stage(vcpu, 1);
	guest_pd[0][1] = 0xa00000 | (guest_pd[0][1] & 0xfff);	/* 2 MiB: another frame */
	guest_pd[0][2] = 0;
	EXPECT_EQ(0x12345, translate(vcpu, 0x12345));
	EXPECT_EQ(0xa12345, translate(vcpu, 0x212345));
	EXPECT_EQ(~0ull, translate(vcpu, 0x412345));
	if (!is_linux_kvm())	/* it walks for addresses that are not canonical, too */
		EXPECT_EQ(~0ull, translate(vcpu, 0x8000000000000000));
	EXPECT_EQ(~0ull, translate(vcpu, ~0ull));
}

static void disabled_apic_cpuid(u64 arg)
{
	u32 regs[4];

	(void)arg;
	cpuid(1, 0, regs);
	GUEST_EQ(1, regs[3] >> 9 & 1);
	wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE) & ~APICBASE_ENABLE);
	cpuid(1, 0, regs);
	GUEST_EQ(0, regs[3] >> 9 & 1);
}

TEST(cpuid_hides_a_local_apic_that_is_disabled)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	vcpu_run_to_done(vcpu_add(vm, disabled_apic_cpuid, 0));
}

/* --- Debug registers --- */

static volatile u64 dr_seen[2];

static void debugregs_guest(u64 arg)
{
	u64 a, b;

	asm volatile("mov %%dr0, %0; mov %%dr3, %1" : "=r"(a), "=r"(b));
	dr_seen[0] = a;
	dr_seen[1] = b;
	asm volatile("mov %0, %%dr1" :: "r"(arg));
}

TEST(debugregs_round_trip_and_seen_by_the_guest)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, debugregs_guest, 0x4444);
	struct kvm_debugregs set = {
		.db = { 0x1000, 0x2000, 0x3000, 0x4000 },
		.dr6 = 0xffff0ff0,
		.dr7 = 0x400,
	}, got;

	NEED_CAP(KVM_CAP_DEBUGREGS);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &set));
	memset(&got, 0xff, sizeof(got));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &got));
	EXPECT_EQ(0, memcmp(&set, &got, sizeof(set)));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0x1000, dr_seen[0]);
	EXPECT_EQ(0x4000, dr_seen[1]);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &got));
	EXPECT_EQ(0x4444, got.db[1]);
	set.flags = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &set));
	set.flags = 0;
	set.dr7 = 1ull << 32;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &set));
	set.dr7 = 0x400;
	set.dr6 = 1ull << 32;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &set));
}

static volatile u32 db_hits;
static volatile u64 db_rip, db_dr6, watched;

#define WATCH_8_BYTES_DR0 (1 << 16 | 2 << 18 | 2 | 0x400)	/* writes, in DR7 */

static void on_db(struct guest_frame *frame)
{
	u64 dr6;

	asm volatile("mov %%dr6, %0" : "=r"(dr6));
	asm volatile("mov %0, %%dr6" :: "r"(0xffff0ff0ul));
	db_dr6 = dr6;
	db_rip = frame->rip;
	db_hits++;
	frame->rflags &= ~RFLAGS_TF;
}

static void watchpoint_guest(u64 arg)
{
	(void)arg;
	guest_handlers[VEC_DB] = on_db;
	asm volatile("mov %0, %%dr0" :: "r"(&watched));
	asm volatile("mov %0, %%dr7" :: "r"((u64)WATCH_8_BYTES_DR0));
	watched = 5;
	GUEST_EQ(1, db_hits);
	GUEST_EQ(1, db_dr6 & 0xf);
	asm volatile("mov %0, %%dr7" :: "r"(0x400ul));
	watched = 6;
	GUEST_EQ(1, db_hits);
	/* Single step: one trap behind the instruction after POPF. */
	asm volatile("pushfq; orl $0x100, (%%rsp); popfq; nop; nop" ::: "cc", "memory");
	GUEST_EQ(2, db_hits);
	GUEST_EQ(0x4000, db_dr6 & 0x400f);
}

TEST(watchpoints_and_single_step_work_in_the_guest)
{
	struct vm *vm = vm_create(0);

	vcpu_run_to_done(vcpu_add(vm, watchpoint_guest, 0));
}

static void lasting_watchpoint(u64 arg)
{
	guest_handlers[VEC_DB] = on_db;
	if (arg) {
		asm volatile("mov %0, %%dr0" :: "r"(&watched));
		asm volatile("mov %0, %%dr7" :: "r"((u64)WATCH_8_BYTES_DR0));
	}
	stage(1);
	watched = 5;
	GUEST_EQ(1, db_hits);
	stage(2);
	watched = 6;
	GUEST_EQ(2, db_hits);
}

/* Another guest leaves its own debug registers in this CPU. */
static void stay_and_run_another_guest(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(sched_getcpu(), &cpus);
	ASSERT_OK(sched_setaffinity(0, sizeof(cpus), &cpus));
	vcpu_run_to_done(vcpu_add(vm_create(0), debugregs_guest, 1));
}

TEST(watchpoints_last_over_exits_to_userspace)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), lasting_watchpoint, 1);

	vcpu_run_to_stage(vcpu, 1);
	stay_and_run_another_guest();
	vcpu_run_to_done(vcpu);
}

TEST(watchpoints_that_userspace_restores_work_at_once)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), lasting_watchpoint, 0);
	struct kvm_debugregs regs;

	NEED_CAP(KVM_CAP_DEBUGREGS);
	vcpu_run_to_stage(vcpu, 1);
	stay_and_run_another_guest();
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	regs.db[0] = (u64)&watched;
	regs.dr7 = WATCH_8_BYTES_DR0;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &regs));
	vcpu_run_to_done(vcpu);
}

TEST(the_tsc_frequency_can_be_read)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	NEED_CAP(KVM_CAP_GET_TSC_KHZ);
	EXPECT_LT(0, ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0));
}

/* --- Segments and user mode --- */

static volatile u64 user_result;

static void on_user_gp(struct guest_frame *frame)
{
	/* Back to kernel mode, behind the user code. */
	user_result = frame->cs << 32 | frame->error;
	frame->rip = (u64)guest_return;
	frame->cs = SEL_CODE64;
	frame->ss = SEL_DATA;
	frame->rsp = (u64)guest_stacks[2];
}

static void user_mode_guest(u64 arg)
{
	u64 rsp0 = (u64)guest_stacks[3];

	(void)arg;
	guest_handlers[VEC_GP] = on_user_gp;
	*(u64 *)(guest_tss[0] + 4) = rsp0;
	asm volatile("pushq %0; pushq %1; pushq $2; pushq %2; pushq $1f\n\t"
		     "iretq\n\t"
		     "1: hlt"		/* privileged: #GP at CPL 3 */
		     :: "r"((u64)SEL_USER_DATA), "r"((u64)guest_stacks[5]),
		     "r"((u64)SEL_USER_CODE) : "memory");
}

TEST(a_privileged_instruction_in_user_mode_is_gp)
{
	struct vm *vm = vm_create(0);

	vcpu_run_to_done(vcpu_add(vm, user_mode_guest, 0));
	EXPECT_EQ((u64)SEL_USER_CODE << 32, user_result);
}
