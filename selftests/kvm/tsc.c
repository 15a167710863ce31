// SPDX-License-Identifier: GPL-2.0
/*
 * The vCPUs of a VM have one time-stamp counter: those that are added late, set one after the
 * other, reset, or set by the guest; and the deadlines that go by it.
 *
 * Two vCPUs are in step when KVM_VCPU_TSC_OFFSET reads the same of both. That time passes between
 * two writes is told by the values: what is written is the less the later.
 *
 * Read next: regs.c, for one vCPU's TSC.
 */
#include <string.h>

#include "vm.h"

#define MSR_TSC_ADJUST 0x3b
#define TIMER_VECTOR 0x61
#define FAR (1ull << 44)	/* cycles: hours, at any rate */
#define NR_RESTORED 8

static u64 offset_of(struct vcpu *vcpu)
{
	u64 offset;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&offset,
	};

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr));
	return offset;
}

static void set_offset(struct vcpu *vcpu, u64 offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&offset,
	};

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr));
}

static void set_tsc(struct vcpu *vcpu, u64 value)
{
	ASSERT_EQ(1, vcpu_set_msr(vcpu, MSR_TSC, value));
}

/* Cycles of that many milliseconds. */
static u64 cycles(struct vcpu *vcpu, u64 ms)
{
	int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ, 0);

	ASSERT_LT(0, khz);
	return ms * khz;
}

/*
 * For tests where the value written last is not what the others have. Linux KVM compares with the
 * former alone, and takes 0, which a vCPU starts with, for one.
 */
#define LAST_VALUE_ALONE "Linux KVM compares with the value that was written last alone, and a new vCPU's is 0"

/* A VM whose one vCPU was set far ahead of the VM's own age, as by a restore. */
static struct vm *restored_vm(struct vcpu **first)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	NEED_CAP(KVM_CAP_VCPU_ATTRIBUTES);
	*first = vcpu_create(vm, 0);
	set_tsc(*first, FAR);
	return vm;
}

/* --- Who joins --- */

TEST(a_vcpu_that_comes_late_has_the_tsc_of_the_others)
{
	struct vcpu *first;
	struct vm *vm = restored_vm(&first);

	EXPECT_EQ(offset_of(first), offset_of(vcpu_create(vm, 1)));
}

/* As QEMU does to each CPU that it creates, the ones of device_add too. */
TEST(a_tsc_of_zero_joins_the_others)
{
	struct vcpu *first, *late;
	struct vm *vm = restored_vm(&first);
	u64 offset = offset_of(first);

	late = vcpu_create(vm, 1);
	set_tsc(late, 0);
	EXPECT_EQ(offset, offset_of(late));
	/* Also one that has departed, and the first again. */
	set_offset(late, offset - FAR);
	set_offset(first, offset);
	set_tsc(late, 0);
	EXPECT_EQ(offset, offset_of(late));
	set_tsc(first, 0);
	EXPECT_EQ(offset, offset_of(first));
}

static volatile u64 seen;

static void tell_tsc(u64 arg)
{
	for (u32 i = 1; i <= arg; i++) {
		u64 now = rdtsc();

		GUEST_TRUE(now > seen);
		seen = now;
		stage(i);
	}
}

TEST(guests_on_a_late_vcpu_and_on_the_first_see_one_clock)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *first = vcpu_add(vm, tell_tsc, 3), *late;
	u64 limit = cycles(first, 600000);

	set_tsc(first, FAR);
	vcpu_run_to_stage(first, 1);
	late = vcpu_add(vm, tell_tsc, 2);
	set_tsc(late, 0);
	vcpu_run_to_stage(late, 1);
	vcpu_run_to_stage(first, 2);
	vcpu_run_to_stage(late, 2);
	vcpu_run_to_stage(first, 3);
	EXPECT_LE(FAR, seen);
	EXPECT_LE(seen, FAR + limit);
}

TEST(the_value_that_the_others_have_joins_them)
{
	struct vcpu *first, *late;
	struct vm *vm = restored_vm(&first);

	if (is_linux_kvm())
		SKIP(LAST_VALUE_ALONE);
	late = vcpu_create(vm, 1);
	set_tsc(late, vcpu_get_msr(first, MSR_TSC));
	EXPECT_EQ(offset_of(first), offset_of(late));
}

TEST(a_second_apart_is_another_time_and_less_the_same)
{
	struct vcpu *first, *late;
	struct vm *vm = restored_vm(&first);
	u64 offset = offset_of(first);

	if (is_linux_kvm())
		SKIP(LAST_VALUE_ALONE);
	/* Above: time runs towards the limit. Below: away from it, so it needs room. */
	late = vcpu_create(vm, 1);
	set_tsc(late, rdtsc() + offset + cycles(late, 999));
	EXPECT_EQ(offset, offset_of(late));
	set_tsc(late, 0);
	set_tsc(first, rdtsc() + offset);
	set_tsc(late, rdtsc() + offset - cycles(late, 500));
	EXPECT_EQ(offset, offset_of(late));
	set_tsc(first, rdtsc() + offset);
	set_tsc(late, rdtsc() + offset - cycles(late, 1001));
	EXPECT_NE(offset, offset_of(late));
	/* And the VM's time is that one from now on. */
	offset = offset_of(late);
	set_tsc(first, 0);
	EXPECT_EQ(offset, offset_of(first));
	EXPECT_EQ(offset, offset_of(vcpu_create(vm, 2)));
}

/* --- Restoring --- */

/* One value to each vCPU, as if 200 ms had passed between two of them; and then as if none had. */
static void restore_all(struct vcpu **vcpus, u64 offset)
{
	for (u32 i = 0; i < NR_RESTORED; i++)
		set_tsc(vcpus[i], rdtsc() + offset - i * cycles(vcpus[i], 200));
	for (u32 i = 0; i < NR_RESTORED; i++) {
		ktap_about("vCPU %u", i);
		EXPECT_EQ(offset_of(vcpus[0]), offset_of(vcpus[i]));
	}
}

static struct vm *many(struct vcpu **vcpus)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	NEED_CAP(KVM_CAP_VCPU_ATTRIBUTES);
	for (u32 i = 0; i < NR_RESTORED; i++)
		vcpus[i] = vcpu_create(vm, i);
	return vm;
}

TEST(vcpus_restored_one_after_the_other_for_longer_than_a_second_are_in_step)
{
	struct vcpu *vcpus[NR_RESTORED];

	many(vcpus);
	restore_all(vcpus, FAR - rdtsc());
}

TEST(a_vcpu_added_after_a_slow_restore_joins_by_the_value_that_the_others_have)
{
	struct vcpu *vcpus[NR_RESTORED], *late;
	struct vm *vm = many(vcpus);
	u64 offset;

	if (is_linux_kvm())
		SKIP(LAST_VALUE_ALONE);
	restore_all(vcpus, FAR - rdtsc());
	offset = offset_of(vcpus[0]);
	late = vcpu_create(vm, NR_RESTORED);
	set_tsc(late, rdtsc() + offset);
	EXPECT_EQ(offset, offset_of(late));
}

TEST(a_vm_that_is_resumed_with_the_values_of_minutes_ago_is_in_step)
{
	struct vcpu *vcpus[NR_RESTORED];
	u64 offset, old;

	many(vcpus);
	restore_all(vcpus, FAR - rdtsc());
	offset = offset_of(vcpus[0]);
	old = offset - cycles(vcpus[0], 300000);
	restore_all(vcpus, old);
	/* And it is the old time that goes on. */
	EXPECT_LE((long long)(offset_of(vcpus[0]) - old), (long long)cycles(vcpus[0], 1000));
	EXPECT_NE(offset, offset_of(vcpus[0]));
}

TEST(a_vm_that_is_resumed_within_a_second_goes_on)
{
	struct vcpu *vcpus[NR_RESTORED];
	u64 offset;

	if (is_linux_kvm())
		SKIP(LAST_VALUE_ALONE);
	many(vcpus);
	restore_all(vcpus, FAR - rdtsc());
	offset = offset_of(vcpus[0]);
	for (u32 i = 0; i < NR_RESTORED; i++)
		set_tsc(vcpus[i], rdtsc() + offset);
	restore_all(vcpus, offset - cycles(vcpus[0], 500));
	EXPECT_EQ(offset, offset_of(vcpus[0]));
}

/* QEMU writes 0 to all CPUs of a VM that it resets, and of one that then receives a migration. */
TEST(a_reset_of_all_vcpus_leaves_them_in_step)
{
	struct vcpu *vcpus[NR_RESTORED];
	u64 offset;

	if (is_linux_kvm())
		SKIP(LAST_VALUE_ALONE);
	many(vcpus);
	restore_all(vcpus, FAR - rdtsc());
	offset = offset_of(vcpus[0]);
	for (u32 i = 0; i < NR_RESTORED; i++)
		set_tsc(vcpus[i], 0);
	restore_all(vcpus, offset);
	EXPECT_EQ(offset, offset_of(vcpus[0]));
}

TEST(after_zeroes_the_first_value_that_means_something_counts_however_small)
{
	struct vm *vm = vm_create(0);
	struct vcpu *one = vcpu_create(vm, 0), *two = vcpu_create(vm, 1);
	u64 small = cycles(one, 900), before;

	if (is_linux_kvm())
		SKIP("Linux KVM counts the zeroes as values, and takes a small value for the VM's age");
	set_tsc(one, 0);
	set_tsc(two, 0);
	before = rdtsc();
	set_tsc(one, small);
	EXPECT_LE(offset_of(one) + before, small);
	set_tsc(two, small);
	EXPECT_EQ(offset_of(one), offset_of(two));
}

TEST(an_offset_is_taken_as_it_is_and_becomes_the_vms)
{
	struct vcpu *first, *second;
	struct vm *vm = restored_vm(&first);
	u64 offset = offset_of(first);

	if (is_linux_kvm())
		SKIP(LAST_VALUE_ALONE);
	second = vcpu_create(vm, 1);
	/* Nearer than a second: still what was said. */
	set_offset(second, offset - 1000);
	EXPECT_EQ(offset - 1000, offset_of(second));
	EXPECT_EQ(offset, offset_of(first));
	EXPECT_EQ(offset - 1000, offset_of(vcpu_create(vm, 2)));
	set_tsc(first, rdtsc() + offset);
	EXPECT_EQ(offset - 1000, offset_of(first));
}

/* --- The guest's own writes --- */

static void write_own_tsc(u64 arg)
{
	(void)arg;
	wrmsr(MSR_TSC, 5 * FAR);
	GUEST_TRUE(rdtsc() >= 5 * FAR);
	stage(1);
	GUEST_TRUE(rdtsc() < 5 * FAR);
	wrmsr(MSR_TSC_ADJUST, 3 * FAR);
	GUEST_TRUE(rdtsc() >= 3 * FAR);
	stage(2);
}

TEST(a_guest_that_writes_its_tsc_moves_one_vcpu_and_zero_brings_it_back)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *first, *second;
	u64 offset;

	NEED_CAP(KVM_CAP_VCPU_ATTRIBUTES);
	first = vcpu_add(vm, write_own_tsc, 0);
	second = vcpu_create(vm, 1);
	set_tsc(first, FAR);
	set_tsc(second, FAR);
	offset = offset_of(second);
	EXPECT_EQ(offset, offset_of(first));
	vcpu_run_to_stage(first, 1);
	EXPECT_EQ(offset, offset_of(second));
	EXPECT_EQ(offset_of(first), offset + vcpu_get_msr(first, MSR_TSC_ADJUST));
	/* As a reset by QEMU. */
	EXPECT_EQ(1, vcpu_set_msr(first, MSR_TSC_ADJUST, 0));
	EXPECT_NE(offset, offset_of(first));
	set_tsc(first, 0);
	EXPECT_EQ(offset, offset_of(first));
	EXPECT_EQ(offset, offset_of(vcpu_create(vm, 2)));
	vcpu_run_to_stage(first, 2);
	EXPECT_EQ(offset + 3 * FAR, offset_of(first));
	EXPECT_EQ(offset, offset_of(second));
	EXPECT_EQ(offset, offset_of(vcpu_create(vm, 3)));
}

TEST(userspace_restores_tsc_adjust_without_moving_the_tsc)
{
	struct vcpu *first, *second;
	struct vm *vm = restored_vm(&first);
	u64 offset = offset_of(first);

	second = vcpu_create(vm, 1);
	EXPECT_EQ(1, vcpu_set_msr(second, MSR_TSC_ADJUST, FAR));
	EXPECT_EQ(FAR, vcpu_get_msr(second, MSR_TSC_ADJUST));
	EXPECT_EQ(offset, offset_of(second));
	set_tsc(second, 0);
	EXPECT_EQ(FAR, vcpu_get_msr(second, MSR_TSC_ADJUST));
	EXPECT_EQ(offset, offset_of(second));
}

/* --- The rate --- */

TEST(a_rate_that_was_set_is_read_back_and_moves_no_tsc)
{
	struct vcpu *first, *second;
	struct vm *vm = restored_vm(&first);
	u64 offset = offset_of(first);
	int khz = ioctl(first->fd, KVM_GET_TSC_KHZ, 0), other = khz + khz / 5000;

	second = vcpu_create(vm, 1);
	EXPECT_OK(ioctl(second->fd, KVM_SET_TSC_KHZ, other));
	EXPECT_EQ(other, ioctl(second->fd, KVM_GET_TSC_KHZ, 0));
	EXPECT_EQ(khz, ioctl(first->fd, KVM_GET_TSC_KHZ, 0));
	EXPECT_EQ(offset, offset_of(second));
	/* Clocks that are so near are one: nothing is scaled. */
	if (!is_linux_kvm()) {	/* which lets no vCPU join one of another rate */
		set_tsc(second, 0);
		EXPECT_EQ(offset, offset_of(second));
		set_tsc(second, rdtsc() + offset);
		EXPECT_EQ(offset, offset_of(second));
	}
	EXPECT_OK(ioctl(second->fd, KVM_SET_TSC_KHZ, 0));
	EXPECT_EQ(khz, ioctl(second->fd, KVM_GET_TSC_KHZ, 0));
	set_tsc(second, 0);
	EXPECT_EQ(offset, offset_of(second));
}

TEST(a_vcpu_starts_with_the_rate_of_its_vm)
{
	struct vm *vm = vm_create(0);
	struct vcpu *first = vcpu_create(vm, 0);
	int khz = ioctl(first->fd, KVM_GET_TSC_KHZ, 0), other = khz - khz / 5000;

	if (is_linux_kvm() && !capability(KVM_CAP_VM_TSC_CONTROL))
		SKIP("Linux KVM without KVM_CAP_VM_TSC_CONTROL takes a VM's rate as it likes");
	EXPECT_OK(ioctl(vm->fd, KVM_SET_TSC_KHZ, other));
	EXPECT_EQ(other, ioctl(vm->fd, KVM_GET_TSC_KHZ, 0));
	EXPECT_EQ(khz, ioctl(first->fd, KVM_GET_TSC_KHZ, 0));
	EXPECT_EQ(other, ioctl(vcpu_create(vm, 1)->fd, KVM_GET_TSC_KHZ, 0));
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_TSC_KHZ, khz / 2));
	EXPECT_EQ(other, ioctl(vm->fd, KVM_GET_TSC_KHZ, 0));
}

/* --- Deadlines --- */

static void wait_for_deadline(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_DEADLINE);
	stage(1);
	sti_nop_cli();
	GUEST_EQ(0, irqs[TIMER_VECTOR]);
	stage(2);
	sti();
	GUEST_WAIT(irqs[TIMER_VECTOR]);
	cli();
	GUEST_EQ(1, irqs[TIMER_VECTOR]);
	GUEST_EQ(0, rdmsr(MSR_TSC_DEADLINE));
}

#define TIMERS_STAY "Linux KVM leaves a timer that is armed where it was when the TSC is set"

/* How the TSC gets past the deadline, which the vCPU alone would not reach for hours. */
static void pass_deadline(void (*change)(struct vcpu *first, struct vcpu *late, u64 deadline))
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *first, *late;
	u64 deadline;

	NEED_CAP(KVM_CAP_TSC_DEADLINE_TIMER);
	NEED_CAP(KVM_CAP_VCPU_ATTRIBUTES);
	first = vcpu_create(vm, 0);
	late = vcpu_add(vm, wait_for_deadline, 0);
	vcpu_run_to_stage(late, 1);
	deadline = rdtsc() + offset_of(late) + FAR;
	EXPECT_EQ(1, vcpu_set_msr(late, MSR_TSC_DEADLINE, deadline));
	vcpu_run_to_stage(late, 2);
	EXPECT_EQ(deadline, vcpu_get_msr(late, MSR_TSC_DEADLINE));
	change(first, late, deadline);
	vcpu_run_to_done(late);
}

static void restore_tsc(struct vcpu *first, struct vcpu *late, u64 deadline)
{
	(void)first;
	set_tsc(late, deadline);
}

/* As Firecracker restores them. */
TEST(a_deadline_restored_before_the_tsc_fires_by_the_tsc)
{
	if (is_linux_kvm())
		SKIP(TIMERS_STAY);
	pass_deadline(restore_tsc);
}

static void restore_first_and_join(struct vcpu *first, struct vcpu *late, u64 deadline)
{
	set_tsc(first, deadline);
	EXPECT_EQ(deadline, vcpu_get_msr(late, MSR_TSC_DEADLINE));
	set_tsc(late, 0);
}

TEST(a_deadline_that_has_passed_for_the_others_fires_when_its_vcpu_joins_them)
{
	if (is_linux_kvm())
		SKIP(TIMERS_STAY);
	pass_deadline(restore_first_and_join);
}

static void by_offset(struct vcpu *first, struct vcpu *late, u64 deadline)
{
	(void)first;
	set_offset(late, deadline - rdtsc());
}

TEST(a_deadline_fires_by_an_offset_that_is_set_later)
{
	if (is_linux_kvm())
		SKIP(TIMERS_STAY);
	pass_deadline(by_offset);
}

static void put_off_deadline(u64 arg)
{
	(void)arg;
	irq_count_range(0x20, 0xfe);
	apic_enable();
	apic_write(APIC_LVTT, TIMER_VECTOR | LVT_DEADLINE);
	wrmsr(MSR_TSC_DEADLINE, rdtsc() + 2 * FAR);
	stage(1);
	sti_nop_cli();
	GUEST_EQ(0, irqs[TIMER_VECTOR]);
	GUEST_TRUE(rdmsr(MSR_TSC_DEADLINE) != 0);
}

TEST(a_deadline_goes_back_with_the_tsc)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, put_off_deadline, 0);
	u64 deadline, start;

	NEED_CAP(KVM_CAP_TSC_DEADLINE_TIMER);
	if (is_linux_kvm())
		SKIP(TIMERS_STAY);
	set_tsc(vcpu, 3 * FAR);
	vcpu_run_to_stage(vcpu, 1);
	deadline = vcpu_get_msr(vcpu, MSR_TSC_DEADLINE);
	/* A second before it, and then hours before: the timer of the former must not fire. */
	set_tsc(vcpu, deadline - cycles(vcpu, 1000));
	set_tsc(vcpu, deadline - FAR);
	start = ktap_now_ns();
	WAIT_FOR(ktap_now_ns() > start + 1200000000);
	EXPECT_EQ(deadline, vcpu_get_msr(vcpu, MSR_TSC_DEADLINE));
	vcpu_run_to_done(vcpu);
}
