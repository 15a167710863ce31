// SPDX-License-Identifier: GPL-2.0
/*
 * KVM_SET_GUEST_DEBUG: stepping through a guest, breakpoints in its code and in
 * the debug registers, and that the guest does not notice.
 *
 * Read next: regs.c.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>

#include "vm.h"

#define DR6_STEP (1u << 14)
#define DR6_BD (1u << 13)
#define DR7_GD (1u << 13)

static int set_debug(struct vcpu *vcpu, u32 control, u64 dr0, u64 dr7)
{
	struct kvm_guest_debug dbg = { .control = control };

	dbg.arch.debugreg[0] = dr0;
	dbg.arch.debugreg[7] = dr7;
	return ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &dbg);
}

static u64 rip_of(struct vcpu *vcpu)
{
	struct kvm_regs regs;

	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(0, regs.rflags & RFLAGS_TF);
	return regs.rip;
}

static volatile u64 counted, flags_seen;
extern u8 step_here[], step_middle[], step_out[], step_end[], int3_here[], int3_after[],
	cpuid_here[], cpuid_after[];

static void straight_guest(u64 arg)
{
	(void)arg;
	stage(1);
	asm volatile("step_here: nop\n"
		     "incq counted\n"
		     "step_middle: xorl %%eax, %%eax\n"
		     "step_out: outb %%al, $0x80\n"
		     "step_end: nop\n"
		     "cpuid_here: cpuid\n"
		     "cpuid_after: pushfq; popq flags_seen\n"
		     "int3_here: nop\n"
		     "int3_after:\n" ::: "rax", "rbx", "rcx", "rdx", "memory");
	stage(2);
}

/* The guest's code is this program's. */
static void patch(u8 *code, u8 byte)
{
	ASSERT_OK(mprotect((void *)((u64)code & ~(PAGE_SIZE - 1)), PAGE_SIZE,
			   PROT_READ | PROT_WRITE | PROT_EXEC));
	*(volatile u8 *)code = byte;
}

/* Steps until the guest is at an address. */
static void step_to(struct vcpu *vcpu, const u8 *address)
{
	for (int i = 0; rip_of(vcpu) != (u64)address; i++) {
		ASSERT_LT(i, 200);
		vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	}
}

TEST(each_step_is_one_instruction)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, straight_guest, 0);
	struct kvm_run *run = vcpu->run;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0, 0));
	step_to(vcpu, step_here);
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ(VEC_DB, run->debug.arch.exception);
	EXPECT_TRUE(run->debug.arch.dr6 & DR6_STEP);
	EXPECT_EQ((u64)step_here + 1, run->debug.arch.pc);
	EXPECT_EQ(0, counted);
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ((u64)step_middle, run->debug.arch.pc);
	EXPECT_EQ(1, counted);
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ((u64)step_out, rip_of(vcpu));
	/* An instruction that userspace answers, and one that is emulated. */
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ((u64)step_end, rip_of(vcpu));
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ((u64)cpuid_here, rip_of(vcpu));
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ((u64)cpuid_after, rip_of(vcpu));
	ASSERT_OK(set_debug(vcpu, 0, 0, 0));
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(0, flags_seen & RFLAGS_TF);
}

TEST(a_breakpoint_instruction_is_userspaces)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, straight_guest, 0);
	struct kvm_run *run = vcpu->run;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (cpu_is_tcg() && is_linux_kvm())
		SKIP("QEMU's TCG does not intercept #BP of INT3, and Linux KVM relies on that");
	vcpu_run_to_stage(vcpu, 1);
	patch(int3_here, 0xcc);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0));
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ(VEC_BP, run->debug.arch.exception);
	EXPECT_EQ((u64)int3_here, run->debug.arch.pc);
	EXPECT_EQ((u64)int3_here, rip_of(vcpu));
	patch(int3_here, 0x90);
	vcpu_run_to_stage(vcpu, 2);
}

static void bp_handler(struct guest_frame *frame)
{
	GUEST_EQ((u64)int3_after, frame->rip);
	irqs[VEC_BP]++;
}

TEST(a_breakpoint_of_the_guests_own_can_be_handed_back)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, straight_guest, 0);

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (cpu_is_tcg() && is_linux_kvm())
		SKIP("QEMU's TCG does not intercept #BP of INT3, and Linux KVM relies on that");
	guest_handlers[VEC_BP] = bp_handler;
	vcpu_run_to_stage(vcpu, 1);
	patch(int3_here, 0xcc);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0));
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	ASSERT_OK(set_debug(
		vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP, 0, 0));
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_BP]);
}

extern const u8 int_n_after[], int_cc_after[];
static volatile u64 int_rip[2];

static void int_handler(struct guest_frame *frame)
{
	int_rip[irqs[0x90]++ & 1] = frame->rip;
}

/* The frame goes to a page that the processor has not seen yet: the delivery exits and goes on. */
static void int_n_guest(u64 stack)
{
	guest_handlers[0x90] = int_handler;
	guest_handlers[0xcc] = int_handler;
	stage(1);
	asm volatile("movq %%rsp, %%rbx\n\t"
		     "movq %0, %%rsp\n\t"
		     "int $0x90\n"
		     "int_n_after: movq %%rbx, %%rsp\n\t"
		     "int $0xcc\n"
		     "int_cc_after:\n" :: "r"(stack) : "rbx", "memory");
	GUEST_EQ(2, irqs[0x90]);
	GUEST_EQ((u64)int_n_after, int_rip[0]);
	GUEST_EQ((u64)int_cc_after, int_rip[1]);
}

TEST(an_int_n_is_none_of_userspaces_breakpoints)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, int_n_guest, TEST_GPA + PAGE_SIZE);

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0));
	vcpu_run_to_done(vcpu);
}

TEST(a_breakpoint_in_the_debug_registers_is_userspaces)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, straight_guest, 0);
	struct kvm_run *run = vcpu->run;
	struct kvm_debugregs before, after;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &before));
	before.dr6 |= DR6_STEP | 3;		/* sticky bits of the guest's own */
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &before));
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, (u64)step_middle,
			    0x402));
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ((u64)step_middle, run->debug.arch.pc);
	EXPECT_EQ(1, run->debug.arch.dr6 & 0xf);
	EXPECT_EQ(0x402, run->debug.arch.dr7);
	ASSERT_OK(set_debug(vcpu, 0, 0, 0));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &after));
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_run_to_stage(vcpu, 2);
}

extern const u8 mov_dr_here[];

static void dr_guest(u64 arg)
{
	u64 value = 0x1234;

	(void)arg;
	stage(1);
	asm volatile("mov_dr_here: movq %0, %%dr1" :: "r"(value));
	value = 0x500;
	asm volatile("movq %0, %%dr7" :: "r"(value));
	stage(2);
	asm volatile("movq %%dr1, %0" : "=r"(value));
	GUEST_EQ(0x1234, value);
	asm volatile("movq %%dr7, %0" : "=r"(value));
	GUEST_EQ(0x500, value);
	stage(3);
}

TEST(the_guests_own_debug_registers_are_kept_while_userspace_has_breakpoints)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, dr_guest, 0);

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, (u64)step_middle,
			    0x402));
	vcpu_run_to_stage(vcpu, 2);
	ASSERT_OK(set_debug(vcpu, 0, 0, 0));
	vcpu_run_to_stage(vcpu, 3);
}

TEST(userspace_may_watch_accesses_to_the_debug_registers)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, dr_guest, 0);
	struct kvm_run *run = vcpu->run;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (cpu_is_tcg() && is_linux_kvm())
		SKIP("QEMU's TCG has no decode assists, and Linux KVM then looks at the guest's own DR7");
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0, 0x400 | DR7_GD));
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	EXPECT_EQ(VEC_DB, run->debug.arch.exception);
	EXPECT_EQ((u64)mov_dr_here, run->debug.arch.pc);
	EXPECT_EQ(0xffff0ff0 | DR6_BD, run->debug.arch.dr6);
	ASSERT_OK(set_debug(vcpu, 0, 0, 0));
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_stage(vcpu, 3);
}

/* --- Interrupts between steps --- */

extern u8 loop_here[];

static void irq_guest(u64 arg)
{
	(void)arg;
	guest_handlers[0x40] = irq_count;
	guest_x2apic = true;
	wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE) | APICBASE_X2APIC);
	x2apic_write(APIC_SPIV, SPIV_ENABLE | 0xff);
	asm volatile("sti");
	stage(1);
	asm volatile("loop_here: nop; nop; nop; nop" ::: "memory");
	stage(2);
	GUEST_EQ(1, irqs[0x40]);
	stage(3);
}

TEST(with_blockirq_no_handler_runs_between_steps)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, irq_guest, 0);

	if (!(capability(KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ))
		SKIP("the device does not offer KVM_GUESTDBG_BLOCKIRQ");
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_debug(
		vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ, 0, 0));
	step_to(vcpu, loop_here);
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(0), 0x40));
	for (int i = 1; i <= 4; i++) {
		vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
		EXPECT_EQ((u64)loop_here + i, rip_of(vcpu));
	}
	EXPECT_EQ(0, irqs[0x40]);
	ASSERT_OK(set_debug(vcpu, 0, 0, 0));
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_stage(vcpu, 3);
}

TEST(a_step_into_a_handler_leaves_no_trace_on_the_guests_stack)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, irq_guest, 0);
	struct kvm_regs regs;

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (is_linux_kvm())
		SKIP("Linux KVM pushes the TF that it has set");
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0, 0));
	step_to(vcpu, loop_here);
	EXPECT_EQ(1, vm_msi(vm, MSI_ADDR(0), 0x40));
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
	vcpu_get_regs(vcpu, &regs);
	/* In the handler, before its first instruction: RIP, CS, RFLAGS. */
	EXPECT_EQ((u64)loop_here, ((u64 *)regs.rsp)[0]);
	EXPECT_EQ(RFLAGS_IF, ((u64 *)regs.rsp)[2] & (RFLAGS_TF | RFLAGS_IF));
	ASSERT_OK(set_debug(vcpu, 0, 0, 0));
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_stage(vcpu, 3);
}

/* --- Errors --- */

TEST(guest_debug_refuses_unknown_flags_and_a_second_exception)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, straight_guest, 0);

	NEED_CAP(KVM_CAP_SET_GUEST_DEBUG);
	if (!is_linux_kvm()) {
		EXPECT_ERRNO(EINVAL, set_debug(vcpu, 1 << 30, 0, 0));
		EXPECT_ERRNO(EINVAL, set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
					       0, 1ull << 32));
	}
	EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, 8));
	EXPECT_OK(set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB, 0, 0));
	EXPECT_ERRNO(EBUSY, set_debug(vcpu, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB, 0, 0));
}
