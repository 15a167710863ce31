// SPDX-License-Identifier: GPL-2.0
/*
 * What clients set up beside the registers: machine checks, the clock, the
 * rate of the TSC, and the MSRs that the device itself shows.
 *
 * Read next: regs.c.
 */
#define _GNU_SOURCE
#include <string.h>

#include "vm.h"

#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MCG_CTL 0x17b
#define MSR_MC0_CTL 0x400
#define MCG_CTL_P (1ull << 8)
#define MCG_STATUS_MCIP 4
#define MCI_VAL (1ull << 63)
#define MCI_OVER (1ull << 62)
#define MCI_UC (1ull << 61)
#define CR4_MCE (1ull << 6)
#define VEC_MC 18
#define MSR_DE_CFG 0xc0011029
#define MSR_KVM_WALL_CLOCK 0x11
#define MSR_KVM_SYSTEM_TIME 0x12

static void set_cr4(u64 bits)
{
	u64 cr4;

	asm volatile("movq %%cr4, %0" : "=r"(cr4));
	asm volatile("movq %0, %%cr4" :: "r"(cr4 | bits));
}

/* --- Machine checks --- */

static u64 setup_mce(struct vcpu *vcpu, u64 cap)
{
	return ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &cap);
}

static int set_mce(struct vcpu *vcpu, u64 status, u8 bank)
{
	struct kvm_x86_mce mce = {
		.status = status, .addr = 0x1000, .misc = 0x8c,
		.mcg_status = MCG_STATUS_MCIP | 1, .bank = bank,
	};

	return ioctl(vcpu->fd, KVM_X86_SET_MCE, &mce);
}

static void mce_registers_guest(u64 arg)
{
	(void)arg;
	GUEST_EQ(10, rdmsr(MSR_MCG_CAP) & 0xff);
	GUEST_EQ(~0ull, rdmsr(MSR_MCG_CTL));
	GUEST_EQ(~0ull, rdmsr(MSR_MC0_CTL));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_MC0_CTL, 0));
	GUEST_EQ(0, rdmsr(MSR_MC0_CTL));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MC0_CTL, 0x123));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_MC0_CTL + 1, 0));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MC0_CTL + 1, 1));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MCG_CAP, 0));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_MC0_CTL + 4 * 10, 0));
}

TEST(the_guest_has_the_banks_that_were_set_up)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, mce_registers_guest, 0);

	NEED_CAP(KVM_CAP_MCE);
	EXPECT_OK(setup_mce(vcpu, 10 | MCG_CTL_P));
	vcpu_run_to_done(vcpu);
}

TEST(setup_of_machine_checks_refuses_what_is_not_there)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	u64 supported;

	NEED_CAP(KVM_CAP_MCE);
	ASSERT_OK(ioctl(device_fd(), KVM_X86_GET_MCE_CAP_SUPPORTED, &supported));
	EXPECT_TRUE(supported & MCG_CTL_P);
	EXPECT_ERRNO(EINVAL, setup_mce(vcpu, 0));
	EXPECT_ERRNO(EINVAL, setup_mce(vcpu, capability(KVM_CAP_MCE) + 1));
	EXPECT_ERRNO(EINVAL, setup_mce(vcpu, 10 | 1ull << 40));
	EXPECT_OK(setup_mce(vcpu, capability(KVM_CAP_MCE) | supported));
	EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, KVM_X86_SETUP_MCE, 8));
	EXPECT_OK(setup_mce(vcpu, 4));
	EXPECT_ERRNO(EINVAL, set_mce(vcpu, MCI_VAL, 4));
	EXPECT_ERRNO(EINVAL, set_mce(vcpu, 0, 0));
}

static void machine_check_guest(u64 arg)
{
	(void)arg;
	guest_handlers[VEC_MC] = irq_count_only;
	set_cr4(CR4_MCE);
	stage(1);
	GUEST_EQ(1, irqs[VEC_MC]);
	GUEST_EQ(MCG_STATUS_MCIP | 1, rdmsr(MSR_MCG_STATUS));
	GUEST_EQ(MCI_VAL | MCI_UC, rdmsr(MSR_MC0_CTL + 4 + 1));
	GUEST_EQ(0x1000, rdmsr(MSR_MC0_CTL + 4 + 2));
	GUEST_EQ(0x8c, rdmsr(MSR_MC0_CTL + 4 + 3));
	stage(2);
}

TEST(an_uncorrected_error_is_a_machine_check_and_a_second_one_a_shutdown)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, machine_check_guest, 0);

	NEED_CAP(KVM_CAP_MCE);
	ASSERT_OK(setup_mce(vcpu, 10 | MCG_CTL_P));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_OK(set_mce(vcpu, MCI_VAL | MCI_UC, 1));
	vcpu_run_to_stage(vcpu, 2);
	/* MCIP is still set. */
	EXPECT_OK(set_mce(vcpu, MCI_VAL | MCI_UC, 1));
	vcpu_run_to_exit(vcpu, KVM_EXIT_SHUTDOWN);
}

static void no_machine_check_guest(u64 arg)
{
	(void)arg;
	stage(1);
	stage(2);
}

TEST(a_corrected_error_is_only_recorded)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, no_machine_check_guest, 0);

	NEED_CAP(KVM_CAP_MCE);
	ASSERT_OK(setup_mce(vcpu, 10 | MCG_CTL_P));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_OK(set_mce(vcpu, MCI_VAL | 0x55, 2));
	EXPECT_EQ(MCI_VAL | 0x55, vcpu_get_msr(vcpu, MSR_MC0_CTL + 4 * 2 + 1));
	EXPECT_OK(set_mce(vcpu, MCI_VAL | 0x66, 2));
	EXPECT_EQ(MCI_VAL | MCI_OVER | 0x66, vcpu_get_msr(vcpu, MSR_MC0_CTL + 4 * 2 + 1));
	vcpu_run_to_stage(vcpu, 2);
}

TEST(a_machine_check_without_cr4_mce_shuts_down)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, no_machine_check_guest, 0);

	NEED_CAP(KVM_CAP_MCE);
	ASSERT_OK(setup_mce(vcpu, 10 | MCG_CTL_P));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_OK(set_mce(vcpu, MCI_VAL | MCI_UC, 1));
	vcpu_run_to_exit(vcpu, KVM_EXIT_SHUTDOWN);
}

/* --- The clock --- */

TEST(the_clock_goes_on_from_what_was_set)
{
	struct vm *vm = vm_create(0);
	struct kvm_clock_data clock = { .clock = 1ull << 50 }, later;

	NEED_CAP(KVM_CAP_ADJUST_CLOCK);
	ASSERT_OK(ioctl(vm->fd, KVM_SET_CLOCK, &clock));
	ASSERT_OK(ioctl(vm->fd, KVM_GET_CLOCK, &clock));
	EXPECT_TRUE(clock.clock >= 1ull << 50 && clock.clock < (1ull << 50) + 60000000000);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_CLOCK, &later));
	EXPECT_TRUE(later.clock >= clock.clock);
}

TEST(set_clock_with_the_real_time_adds_what_passed_since)
{
	struct vm *vm = vm_create(0);
	struct kvm_clock_data clock = {};

	if (!(capability(KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME))
		SKIP("the device does not offer KVM_CLOCK_REALTIME");
	ASSERT_OK(ioctl(vm->fd, KVM_GET_CLOCK, &clock));
	if (!(clock.flags & KVM_CLOCK_REALTIME))
		SKIP("the clock of this host has no real time to go with it");
	clock.flags = KVM_CLOCK_REALTIME;
	clock.clock = 1ull << 50;
	clock.realtime -= 3600000000000;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_CLOCK, &clock));
	ASSERT_OK(ioctl(vm->fd, KVM_GET_CLOCK, &clock));
	EXPECT_TRUE(clock.clock >= (1ull << 50) + 3600000000000);
	EXPECT_TRUE(clock.clock < (1ull << 50) + 3660000000000);
}

TEST(set_clock_refuses_unknown_flags)
{
	struct vm *vm = vm_create(0);
	struct kvm_clock_data clock = { .flags = 1 << 20 };

	NEED_CAP(KVM_CAP_ADJUST_CLOCK);
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_CLOCK, &clock));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_SET_CLOCK, 8));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_GET_CLOCK, 8));
}

TEST(set_clock_refuses_values_in_its_padding)
{
	struct vm *vm = vm_create(0);
	struct kvm_clock_data first = { .pad0 = 1 }, last = { .pad[3] = 1 };

	NEED_CAP(KVM_CAP_ADJUST_CLOCK);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at the padding");
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_CLOCK, &first));
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_CLOCK, &last));
}

static void no_clock_guest(u64 arg)
{
	u64 value;

	(void)arg;
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_KVM_SYSTEM_TIME, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_KVM_SYSTEM_TIME, 0));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_KVM_WALL_CLOCK, 0));
}

/* QEMU before 8 saves and restores these two of every guest. */
TEST(the_paravirtual_clock_that_is_not_there_is_off_for_userspace)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, no_clock_guest, 0);

	if (capability(KVM_CAP_CLOCKSOURCE))
		SKIP("the device has the paravirtual clock (KVM_CAP_CLOCKSOURCE)");
	for (u32 msr = MSR_KVM_WALL_CLOCK; msr <= MSR_KVM_SYSTEM_TIME; msr++) {
		EXPECT_EQ(0, vcpu_get_msr(vcpu, msr));
		EXPECT_EQ(1, vcpu_set_msr(vcpu, msr, 0));
		EXPECT_EQ(0, vcpu_set_msr(vcpu, msr, 0x1001));
		EXPECT_EQ(0, vcpu_get_msr(vcpu, msr));
	}
	vcpu_run_to_done(vcpu);
}

static void no_deadline_guest(u64 arg)
{
	u64 value;

	(void)arg;
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_TSC_DEADLINE, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_TSC_DEADLINE, 0));
}

/*
 * QEMU before 8.2 with kernel-irqchip=off writes it at every reset, since the list of MSRs
 * has it.
 */
TEST(without_a_lapic_userspace_may_clear_the_deadline_and_the_guest_has_none)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, no_deadline_guest, 0);

	EXPECT_EQ(0, vcpu_get_msr(vcpu, MSR_TSC_DEADLINE));
	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_TSC_DEADLINE, 0));
	if (is_linux_kvm())
		SKIP("Linux KVM takes any deadline and forgets it, and lets the guest write it");
	EXPECT_EQ(0, vcpu_set_msr(vcpu, MSR_TSC_DEADLINE, 1));
	vcpu_run_to_done(vcpu);
}

/* --- The TSC's rate --- */

TEST(the_tsc_takes_its_own_rate)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ);

	ASSERT_TRUE(khz > 0);
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_TSC_KHZ, khz));
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_TSC_KHZ, khz + khz / 5000));
}

TEST(a_tsc_that_is_not_scaled_refuses_a_lower_rate)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ);

	if (capability(KVM_CAP_TSC_CONTROL) > 0)
		SKIP("the device scales the TSC (KVM_CAP_TSC_CONTROL)");
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_TSC_KHZ, khz / 2));
}

/* --- Registers in struct kvm_run --- */

static void counting_guest(u64 arg)
{
	(void)arg;
	asm volatile("1: incq %%rbx; outb %%al, $0x80; jmp 1b" ::: "rbx");
}

TEST(registers_travel_with_kvm_run)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, counting_guest, 0);
	struct kvm_run *run = vcpu->run;
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	NEED_CAP(KVM_CAP_SYNC_REGS);
	run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	vcpu_get_regs(vcpu, &regs);
	vcpu_get_sregs(vcpu, &sregs);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(0, memcmp(&regs, &run->s.regs.regs, sizeof(regs)));
	EXPECT_EQ(0, memcmp(&sregs, &run->s.regs.sregs, sizeof(sregs)));
	EXPECT_EQ(0, memcmp(&events, &run->s.regs.events, sizeof(events)));
	run->s.regs.regs.rbx = 0x1000;
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(regs.rbx + 1, run->s.regs.regs.rbx);
	/* What is marked dirty counts, once. */
	run->s.regs.regs.rbx = 0x1000;
	run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(0x1001, run->s.regs.regs.rbx);
	EXPECT_EQ(0, run->kvm_dirty_regs);
	/* What is not asked for is not written. */
	run->kvm_valid_regs = 0;
	run->s.regs.regs.rbx = 0xbad;
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(0xbad, run->s.regs.regs.rbx);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(0x1002, regs.rbx);
}

TEST(unknown_register_sets_are_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, counting_guest, 0);

	NEED_CAP(KVM_CAP_SYNC_REGS);
	vcpu->run->kvm_valid_regs = 1 << 10;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_RUN, 0));
	vcpu->run->kvm_valid_regs = 0;
	vcpu->run->kvm_dirty_regs = 1 << 10;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_RUN, 0));
	vcpu->run->kvm_dirty_regs = KVM_SYNC_X86_SREGS;
	memset(&vcpu->run->s.regs.sregs, 0xff, sizeof(vcpu->run->s.regs.sregs));
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_RUN, 0));
}

/* --- MSRs of the device --- */

TEST(the_device_lists_its_feature_msrs_and_reads_them)
{
	struct {
		u32 nmsrs;
		u32 indices[64];
	} list = { .nmsrs = 0 };
	struct msr_list msrs = { .nmsrs = 1 };

	NEED_CAP(KVM_CAP_GET_MSR_FEATURES);
	EXPECT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_MSR_FEATURE_INDEX_LIST, &list));
	ASSERT_TRUE(list.nmsrs > 0 && list.nmsrs <= 64);
	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_FEATURE_INDEX_LIST, &list));
	for (u32 i = 0; i < list.nmsrs; i++) {
		ktap_about("MSR %#x", list.indices[i]);
		msrs.entries[0].index = list.indices[i];
		EXPECT_EQ(1, ioctl(device_fd(), KVM_GET_MSRS, &msrs));
	}
	msrs.entries[0].index = MSR_EFER;
	EXPECT_EQ(0, ioctl(device_fd(), KVM_GET_MSRS, &msrs));
}
