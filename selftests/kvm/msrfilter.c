// SPDX-License-Identifier: GPL-2.0
/*
 * MSRs that userspace keeps from the guest (KVM_X86_SET_MSR_FILTER), and those
 * whose accesses it answers itself (KVM_CAP_X86_USER_SPACE_MSR).
 *
 * Read next: regs.c.
 */
#define _GNU_SOURCE
#include <string.h>

#include "vm.h"

#define MSR_FS_BASE 0xc0000100
#define MSR_UNKNOWN 0x12345678
#define MSR_LAST_OF_RANGE (MSR_UNKNOWN + 0x2fff)
#define BOTH (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)
#define REASONS \
	(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)

static u8 none[KVM_MSR_FILTER_MAX_BITMAP_SIZE];
static u8 all[KVM_MSR_FILTER_MAX_BITMAP_SIZE];

static int set_filter(struct vm *vm, u32 flags, struct kvm_msr_filter_range range)
{
	struct kvm_msr_filter filter = { .flags = flags, .ranges[3] = range };

	memset(all, 0xff, sizeof(all));
	return ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter);
}

static struct kvm_msr_filter_range range(u32 flags, u32 base, u32 nmsrs, u8 *bitmap)
{
	return (struct kvm_msr_filter_range){ flags, nmsrs, base, bitmap };
}

/* --- What a filter does --- */

static void denied_guest(u64 arg)
{
	u64 value;

	(void)arg;
	wrmsr(MSR_KERNEL_GS_BASE, 0x1000);
	stage(1);		/* no writes of KERNEL_GS_BASE */
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_KERNEL_GS_BASE, 0x2000));
	GUEST_EQ(VEC_NONE, rdmsr_try(MSR_KERNEL_GS_BASE, &value));
	GUEST_EQ(0x1000, value);
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_FS_BASE, 0x3000));
	GUEST_EQ(0x3000, rdmsr(MSR_FS_BASE));
	stage(2);		/* no reads */
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_KERNEL_GS_BASE, &value));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_KERNEL_GS_BASE, 0x4000));
	stage(3);		/* neither of PAT, which always exits */
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_PAT, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_PAT, 0));
	GUEST_EQ(0x4000, rdmsr(MSR_KERNEL_GS_BASE));
	stage(4);		/* no filter */
	GUEST_EQ(VEC_NONE, rdmsr_try(MSR_PAT, &value));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_PAT, value));
}

TEST(a_filter_denies_reads_writes_or_both)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, denied_guest, 0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_filter(vm, 0, range(KVM_MSR_FILTER_WRITE, MSR_KERNEL_GS_BASE, 1, none)));
	vcpu_run_to_stage(vcpu, 2);
	ASSERT_OK(set_filter(vm, 0, range(KVM_MSR_FILTER_READ, MSR_KERNEL_GS_BASE, 1, none)));
	vcpu_run_to_stage(vcpu, 3);
	ASSERT_OK(set_filter(vm, 0, range(BOTH, MSR_PAT, 1, none)));
	vcpu_run_to_stage(vcpu, 4);
	ASSERT_OK(set_filter(vm, 0, range(0, 0, 0, NULL)));
	vcpu_run_to_done(vcpu);
}

static void default_deny_guest(u64 arg)
{
	u64 value;

	(void)arg;
	x2apic_enable();
	stage(1);		/* KERNEL_GS_BASE alone is allowed */
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_KERNEL_GS_BASE, 0x1000));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_KERNEL_GS_BASE - 1, 0x1000));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_FS_BASE, &value));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_APICBASE, &value));
	x2apic_write(APIC_TPR, 0x20);
	GUEST_EQ(0x20, x2apic_read(APIC_TPR));
}

TEST(denied_by_default_all_but_the_ranges_and_the_x2apic_is_gp)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, default_deny_guest, 0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(set_filter(vm, KVM_MSR_FILTER_DEFAULT_DENY,
			     range(BOTH, MSR_KERNEL_GS_BASE, 1, all)));
	vcpu_run_to_done(vcpu);
}

TEST(a_filter_is_for_the_guest_and_not_for_userspace)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	ASSERT_OK(set_filter(vm, 0, range(BOTH, MSR_KERNEL_GS_BASE, 1, none)));
	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_KERNEL_GS_BASE, 0x1000));
	EXPECT_EQ(0x1000, vcpu_get_msr(vcpu, MSR_KERNEL_GS_BASE));
}

static void until_denied_guest(u64 arg)
{
	u64 value;

	(void)arg;
	stage(1);
	while (rdmsr_try(MSR_KERNEL_GS_BASE, &value) == VEC_NONE)
		cpu_relax();
	stage(2);
	while (rdmsr_try(MSR_KERNEL_GS_BASE, &value) != VEC_NONE)
		cpu_relax();
}

TEST(a_filter_reaches_a_running_vcpu)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, until_denied_guest, 0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	vcpu_start(vcpu);
	vcpu_wait_stage(vcpu, 1);
	ASSERT_OK(set_filter(vm, 0, range(BOTH, MSR_KERNEL_GS_BASE, 1, none)));
	vcpu_wait_stage(vcpu, 2);
	ASSERT_OK(set_filter(vm, 0, range(0, 0, 0, NULL)));
	vcpu_wait_done(vcpu);
}

static void write_and_read_guest(u64 arg)
{
	for (u64 i = 0; i < arg; i++) {
		wrmsr(MSR_KERNEL_GS_BASE, i);
		GUEST_EQ(i, rdmsr(MSR_KERNEL_GS_BASE));
	}
}

TEST(a_filter_that_comes_and_goes_takes_no_value_away)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpus[2];
	int changes = 0;

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	for (int i = 0; i < 2; i++) {
		vcpus[i] = vcpu_add(vm, write_and_read_guest, 3000);
		vcpu_start(vcpus[i]);
	}
	do {
		ASSERT_OK(
			set_filter(vm, 0, range(BOTH, MSR_FS_BASE, 1, changes++ & 1 ? all : none)));
	} while (!__atomic_load_n(&vcpus[0]->done, __ATOMIC_ACQUIRE) ||
		 !__atomic_load_n(&vcpus[1]->done, __ATOMIC_ACQUIRE));
	vcpu_wait_done(vcpus[0]);
	vcpu_wait_done(vcpus[1]);
}

static void read_once_guest(u64 arg)
{
	u64 value;

	GUEST_EQ(VEC_GP, rdmsr_try(arg, &value));
}

TEST(a_filter_holds_for_a_vcpu_created_later)
{
	struct vm *vm = vm_create(0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	ASSERT_OK(set_filter(vm, 0, range(BOTH, MSR_KERNEL_GS_BASE, 1, none)));
	vcpu_run_to_done(vcpu_add(vm, read_once_guest, MSR_KERNEL_GS_BASE));
}

/* --- Exits to userspace --- */

static volatile u64 seen;

static void unknown_msr_guest(u64 arg)
{
	(void)arg;
	seen = rdmsr(MSR_UNKNOWN);
	stage(1);
	wrmsr(MSR_UNKNOWN, 0x1122334455667788);
	stage(2);
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_UNKNOWN, 1));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_UNKNOWN, (u64 *)&seen));
}

static void check_exit(const struct kvm_run *run, u32 reason, u32 index, u64 data)
{
	EXPECT_EQ(reason, run->msr.reason);
	EXPECT_EQ(index, run->msr.index);
	EXPECT_EQ(data, run->msr.data);
	EXPECT_EQ(0, run->msr.error);
}

TEST(userspace_answers_accesses_to_unknown_msrs)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, unknown_msr_guest, 0);
	struct kvm_run *run;

	NEED_CAP(KVM_CAP_X86_USER_SPACE_MSR);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN));
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR);
	EXPECT_EQ(KVM_MSR_EXIT_REASON_UNKNOWN, run->msr.reason);
	EXPECT_EQ(MSR_UNKNOWN, run->msr.index);
	run->msr.data = 0x8877665544332211;
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(0x8877665544332211, seen);
	check_exit(vcpu_run_to_exit(vcpu, KVM_EXIT_X86_WRMSR), KVM_MSR_EXIT_REASON_UNKNOWN,
		   MSR_UNKNOWN, 0x1122334455667788);
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_exit(vcpu, KVM_EXIT_X86_WRMSR)->msr.error = 1;
	vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR)->msr.error = 1;
	vcpu_run_to_done(vcpu);
}

static void bad_value_guest(u64 arg)
{
	(void)arg;
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_PAT, 2));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_UNKNOWN, 2));
}

TEST(a_value_that_an_msr_refuses_is_told_as_invalid)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, bad_value_guest, 0);

	NEED_CAP(KVM_CAP_X86_USER_SPACE_MSR);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_INVAL));
	check_exit(vcpu_run_to_exit(vcpu, KVM_EXIT_X86_WRMSR), KVM_MSR_EXIT_REASON_INVAL, MSR_PAT,
		   2);
	vcpu_run_to_done(vcpu);
}

static void filtered_guest(u64 arg)
{
	u64 value;

	(void)arg;
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_KERNEL_GS_BASE, 0x5000));
	GUEST_EQ(VEC_NONE, rdmsr_try(MSR_KERNEL_GS_BASE, &value));
	GUEST_EQ(0x6000, value);
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_UNKNOWN, &value));
}

TEST(userspace_answers_what_its_filter_denies)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, filtered_guest, 0);

	NEED_CAP(KVM_CAP_X86_USER_SPACE_MSR);
	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER));
	ASSERT_OK(set_filter(vm, 0, range(BOTH, MSR_KERNEL_GS_BASE, 1, none)));
	check_exit(vcpu_run_to_exit(vcpu, KVM_EXIT_X86_WRMSR), KVM_MSR_EXIT_REASON_FILTER,
		   MSR_KERNEL_GS_BASE, 0x5000);
	vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR)->msr.data = 0x6000;
	vcpu_run_to_done(vcpu);
	/* The guest's write went to userspace and nowhere else. */
	EXPECT_EQ(0, vcpu_get_msr(vcpu, MSR_KERNEL_GS_BASE));
}

static void two_reads_guest(u64 arg)
{
	(void)arg;
	seen = rdmsr(MSR_UNKNOWN);
	stage(1);
}

TEST(a_reset_while_userspace_answers_ends_the_access)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, two_reads_guest, 0);

	NEED_CAP(KVM_CAP_X86_USER_SPACE_MSR);
	if (is_linux_kvm())
		SKIP("Linux KVM finishes the access on the new state");
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, REASONS));
	vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR)->msr.error = 1;
	seen = 0;
	vcpu_set_guest(vcpu, read_once_guest, MSR_UNKNOWN);
	vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR)->msr.error = 1;
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(0, seen);
}

/* --- Refusals --- */

TEST(unknown_reasons_to_exit_are_refused)
{
	struct vm *vm = vm_create(0);

	NEED_CAP(KVM_CAP_X86_USER_SPACE_MSR);
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, REASONS + 1));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, 1ull << 32));
	EXPECT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, REASONS));
	EXPECT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, 0));
}

TEST(a_filter_that_makes_no_sense_is_refused_and_changes_nothing)
{
	struct vm *vm = vm_create(0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	ASSERT_OK(set_filter(vm, 0, range(BOTH, MSR_KERNEL_GS_BASE, 1, none)));
	/* Flags of the filter and of a range, and none where they are needed. */
	EXPECT_ERRNO(EINVAL, set_filter(vm, 2, range(BOTH, MSR_UNKNOWN, 1, all)));
	EXPECT_ERRNO(EINVAL, set_filter(vm, 0, range(4, MSR_UNKNOWN, 1, all)));
	EXPECT_ERRNO(EINVAL, set_filter(vm, 0, range(0, MSR_UNKNOWN, 1, all)));
	/* Nothing is left that would be allowed. */
	EXPECT_ERRNO(EINVAL, set_filter(vm, KVM_MSR_FILTER_DEFAULT_DENY, range(BOTH, 0, 0, NULL)));
	/* Too long, and as long as can be. */
	EXPECT_ERRNO(EINVAL, set_filter(vm, 0, range(BOTH, MSR_UNKNOWN, sizeof(all) * 8 + 1, all)));
	EXPECT_ERRNO(EINVAL, set_filter(vm, 0, range(BOTH, MSR_UNKNOWN, ~0u, all)));
	EXPECT_ERRNO(EFAULT, set_filter(vm, 0, range(BOTH, MSR_UNKNOWN, 1, (u8 *)8)));
	EXPECT_ERRNO(EFAULT, ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, 8));
	vcpu_run_to_done(vcpu_add(vm, read_once_guest, MSR_KERNEL_GS_BASE));
	EXPECT_OK(set_filter(vm, 0, range(BOTH, MSR_UNKNOWN, sizeof(all) * 8, all)));
}

TEST(a_range_beyond_the_last_msr_is_refused)
{
	struct vm *vm = vm_create(0);

	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	if (is_linux_kvm())
		SKIP("Linux KVM takes a range that wraps around, and never finds a register in it");
	EXPECT_OK(set_filter(vm, 0, range(BOTH, ~0u, 1, all)));
	EXPECT_ERRNO(EINVAL, set_filter(vm, 0, range(BOTH, ~0u, 2, all)));
}

static void edges_guest(u64 arg)
{
	(void)arg;
	rdmsr(MSR_UNKNOWN - 1);
	rdmsr(MSR_UNKNOWN);
	rdmsr(MSR_LAST_OF_RANGE);
	rdmsr(MSR_LAST_OF_RANGE + 1);
}

static u32 next_reason(struct vcpu *vcpu)
{
	return vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR)->msr.reason;
}

TEST(a_range_begins_and_ends_where_it_says)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, edges_guest, 0);

	NEED_CAP(KVM_CAP_X86_USER_SPACE_MSR);
	NEED_CAP(KVM_CAP_X86_MSR_FILTER);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_USER_SPACE_MSR, REASONS));
	ASSERT_OK(set_filter(vm, 0, range(KVM_MSR_FILTER_READ, MSR_UNKNOWN,
					  MSR_LAST_OF_RANGE - MSR_UNKNOWN + 1, none)));
	EXPECT_EQ(KVM_MSR_EXIT_REASON_UNKNOWN, next_reason(vcpu));
	EXPECT_EQ(KVM_MSR_EXIT_REASON_FILTER, next_reason(vcpu));
	EXPECT_EQ(KVM_MSR_EXIT_REASON_FILTER, next_reason(vcpu));
	EXPECT_EQ(KVM_MSR_EXIT_REASON_UNKNOWN, next_reason(vcpu));
	vcpu_run_to_done(vcpu);
}
