// SPDX-License-Identifier: GPL-2.0
/*
 * INIT and SIPI in all orders, from the host by KVM_SIGNAL_MSI and from a
 * guest through the ICR; mp_state at each step; what INIT resets and keeps;
 * and that a client's stale copy of the events stops no CPU.
 *
 * The AP runs a little real-mode program at the SIPI's page. It counts its
 * starts at AP_COUNT, leaves its CS at AP_CS, waits for AP_GO, and tells its
 * CS through AP_PORT.
 *
 * Read next: ipi.c, events.c.
 */
#include <string.h>

#include "vm.h"

#define AP_PORT 0x60
#define SIPI_PAGE 0x9		/* the AP's code, CODE_GPA */
#define OTHER_PAGE 0xa
#define AP_COUNT 0x5000
#define AP_GO 0x5004
#define AP_CS 0x5008

CODE_BLOB(ap_code, 16,
	  "xorw %ax, %ax\n"
	  "movw %ax, %ds\n"
	  "movw %cs, 0x5008\n"
	  "lock incl 0x5000\n"
	  "1: pause\n"
	  "cmpl $0, 0x5004\n"
	  "je 1b\n"
	  "movw %cs, %ax\n"
	  "outw %ax, $0x60\n"
	  "cli\n"
	  "2: hlt\n"
	  "jmp 2b\n");

static volatile u32 *low32(struct vm *vm, u64 gpa)
{
	return (volatile u32 *)(vm->low + gpa);
}

static void idle_bsp(u64 arg)
{
	(void)arg;
	stage(1);
}

/* Two vCPUs; the AP as KVM_CREATE_VCPU left it, with code for it to find. */
static struct vm *vm_with_ap(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_lapic_state lapic;
	struct vcpu *ap;

	vm_load(vm, SIPI_PAGE << 12, ap_code, ap_code_end);
	vm_load(vm, OTHER_PAGE << 12, ap_code, ap_code_end);
	vcpu_add(vm, idle_bsp, 0);
	ap = vcpu_create(vm, 1);
	/* Linux KVM finds a new vCPU for MSIs once its APIC was touched. */
	ASSERT_OK(ioctl(ap->fd, KVM_GET_LAPIC, &lapic));
	ASSERT_OK(ioctl(ap->fd, KVM_SET_LAPIC, &lapic));
	return vm;
}

static void init(struct vm *vm)
{
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(1), ICR_INIT));
}

static void sipi(struct vm *vm, u32 page)
{
	ASSERT_LE(0, vm_msi(vm, MSI_ADDR(1), ICR_STARTUP | page));
}

/* The AP must come up at this page: it is let go, and tells its CS. */
static void expect_starts(struct vm *vm, u32 page)
{
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_run *run;
	u16 cs;

	*low32(vm, AP_GO) = 1;
	run = vcpu_run_to_exit(ap, KVM_EXIT_IO);
	ASSERT_EQ(AP_PORT, run->io.port);
	memcpy(&cs, (u8 *)run + run->io.data_offset, 2);
	EXPECT_EQ(page << 8, cs);
	EXPECT_EQ(1, *low32(vm, AP_COUNT));
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
}

/* --- From the host --- */

TEST(init_then_sipi_starts_the_ap_at_the_sipis_page)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	EXPECT_EQ(KVM_MP_STATE_UNINITIALIZED, vcpu_mp_state(ap));
	init(vm);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	sipi(vm, SIPI_PAGE);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	vcpu_get_regs(ap, &regs);
	vcpu_get_sregs(ap, &sregs);
	EXPECT_EQ(0, regs.rip);
	EXPECT_EQ(SIPI_PAGE << 8, sregs.cs.selector);
	EXPECT_EQ(SIPI_PAGE << 12, sregs.cs.base);
	expect_starts(vm, SIPI_PAGE);
}

TEST(init_and_sipi_before_anyone_looks_start_the_ap)
{
	struct vm *vm = vm_with_ap();

	init(vm);
	sipi(vm, SIPI_PAGE);
	expect_starts(vm, SIPI_PAGE);
}

TEST(an_msi_reaches_a_vcpu_that_was_created_a_moment_ago)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *ap;

	if (is_linux_kvm())
		SKIP("Linux KVM delivers it once the APIC was touched");
	vm_load(vm, SIPI_PAGE << 12, ap_code, ap_code_end);
	vcpu_create(vm, 0);
	ap = vcpu_create(vm, 1);
	init(vm);
	sipi(vm, SIPI_PAGE);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	expect_starts(vm, SIPI_PAGE);
}

TEST(a_lone_sipi_is_ignored)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	sipi(vm, OTHER_PAGE);
	EXPECT_EQ(KVM_MP_STATE_UNINITIALIZED, vcpu_mp_state(ap));
	init(vm);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	sipi(vm, SIPI_PAGE);
	expect_starts(vm, SIPI_PAGE);
}

TEST(a_sipi_before_the_init_does_not_count)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	/* Both pending at once: INIT clears the earlier SIPI. */
	sipi(vm, OTHER_PAGE);
	init(vm);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	sipi(vm, SIPI_PAGE);
	expect_starts(vm, SIPI_PAGE);
}

CODE_BLOB(ins_code, 16,
	  "xorw %ax, %ax\n"
	  "movw %ax, %es\n"
	  "movw $0x5010, %di\n"
	  "movw $0x61, %dx\n"
	  "insb\n"
	  "outb %al, $0x62\n");

TEST(init_ends_an_access_that_userspace_has_not_answered)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_run *run;

	vm_load(vm, SIPI_PAGE << 12, ins_code, ins_code_end);
	for (int i = 0; i < 2; i++) {
		init(vm);
		EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
		sipi(vm, SIPI_PAGE);
		run = vcpu_run_to_exit(ap, KVM_EXIT_IO);
		EXPECT_EQ(0x61, run->io.port);
		EXPECT_EQ(KVM_EXIT_IO_IN, run->io.direction);
	}
}

TEST(an_nmi_that_init_has_dropped_leaves_nothing_behind)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_vcpu_events events;

	ASSERT_OK(ioctl(ap->fd, KVM_NMI));
	init(vm);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	vcpu_get_events(ap, &events);
	EXPECT_EQ(0, events.nmi.pending);
	for (int pending = 1; pending >= 0; pending--) {
		events.nmi.pending = pending;
		ASSERT_OK(ioctl(ap->fd, KVM_SET_VCPU_EVENTS, &events));
	}
	vcpu_get_events(ap, &events);
	EXPECT_EQ(0, events.nmi.pending);
}

TEST(init_twice_is_init_once)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	init(vm);
	init(vm);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	init(vm);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	sipi(vm, SIPI_PAGE);
	expect_starts(vm, SIPI_PAGE);
}

TEST(sipi_twice_starts_once_at_the_first_page)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	init(vm);
	sipi(vm, SIPI_PAGE);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	sipi(vm, OTHER_PAGE);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	expect_starts(vm, SIPI_PAGE);
}

static void count_exit(struct vcpu *vcpu)
{
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	__atomic_store_n(&vcpu->stage, vcpu->stage + 1, __ATOMIC_RELEASE);
}

/* The AP in a thread, started, and seen running. */
static struct vcpu *start_ap(struct vm *vm)
{
	struct vcpu *ap = vm->vcpus[1];

	ap->on_exit = count_exit;
	init(vm);
	sipi(vm, SIPI_PAGE);
	vcpu_start(ap);
	WAIT_FOR(*low32(vm, AP_COUNT) == 1);
	return ap;
}

TEST(a_sipi_to_a_running_ap_is_ignored)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = start_ap(vm);

	sipi(vm, OTHER_PAGE);
	*low32(vm, AP_GO) = 1;
	vcpu_wait_stage(ap, 1);
	EXPECT_EQ(1, *low32(vm, AP_COUNT));
	vcpu_stop(ap);
	/* Halted, or a moment before it. */
	EXPECT_NE(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
}

TEST(init_stops_a_running_ap_and_sipi_starts_it_anew)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = start_ap(vm);

	for (u32 i = 2; i < 12; i++) {
		init(vm);
		sipi(vm, OTHER_PAGE);
		WAIT_FOR(*low32(vm, AP_COUNT) == i);
	}
	init(vm);
	vcpu_stop(ap);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
}

TEST(init_reaches_an_ap_that_halts_with_interrupts_off)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = start_ap(vm);

	*low32(vm, AP_GO) = 1;
	vcpu_wait_stage(ap, 1);
	for (u32 i = 2; i < 12; i++) {
		init(vm);
		sipi(vm, i & 1 ? OTHER_PAGE : SIPI_PAGE);
		vcpu_wait_stage(ap, i);
		EXPECT_EQ(i, *low32(vm, AP_COUNT));
	}
	vcpu_stop(ap);
	EXPECT_NE(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
}

TEST(an_ap_that_waits_inside_kvm_run_is_started)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	ap->on_exit = count_exit;
	*low32(vm, AP_GO) = 1;
	vcpu_start(ap);
	sipi(vm, OTHER_PAGE);
	init(vm);
	sipi(vm, SIPI_PAGE);
	vcpu_wait_stage(ap, 1);
	EXPECT_EQ(1, *low32(vm, AP_COUNT));
	vcpu_stop(ap);
}

TEST(a_signal_ends_kvm_run_of_an_ap_that_was_never_started)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	vcpu_start(ap);
	vcpu_stop(ap);
	EXPECT_EQ(KVM_MP_STATE_UNINITIALIZED, vcpu_mp_state(ap));
}

TEST(sipi_pages_over_the_whole_first_mebibyte)
{
	static const u8 pages[] = { 0x01, 0x10, 0x7f, 0x9f, 0xff };

	for (u32 i = 0; i < sizeof(pages); i++) {
		struct vm *vm = vm_with_ap();

		vm_load(vm, pages[i] << 12, ap_code, ap_code_end);
		init(vm);
		sipi(vm, pages[i]);
		expect_starts(vm, pages[i]);
	}
}

TEST(init_and_sipi_in_any_order_end_with_one_start)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	u32 random = 1;

	ap->on_exit = count_exit;
	vcpu_start(ap);
	for (int round = 0; round < 60; round++) {
		for (int i = 0; i < 4; i++) {
			random = random * 1103515245 + 12345;
			if (random >> 16 & 1)
				init(vm);
			else
				sipi(vm, OTHER_PAGE);
		}
		*low32(vm, AP_CS) = 0;
		init(vm);
		sipi(vm, SIPI_PAGE);
		WAIT_FOR((u16)*low32(vm, AP_CS) == SIPI_PAGE << 8);
	}
	*low32(vm, AP_GO) = 1;
	vcpu_wait_stage(ap, 1);
	vcpu_stop(ap);
	EXPECT_LE(60, *low32(vm, AP_COUNT));
}

static volatile bool resetting;

static void *reset_always(void *arg)
{
	while (resetting)
		vm_msi(arg, MSI_ADDR(1), ICR_INIT);
	return NULL;
}

TEST(an_apic_is_found_by_its_id_while_init_resets_it)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	pthread_t thread;

	ap->on_exit = count_exit;
	vcpu_start(ap);
	resetting = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, reset_always, vm));
	for (int i = 0; i < 30000; i++)
		ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(1), ICR_NMI));
	resetting = false;
	pthread_join(thread, NULL);
	vcpu_stop(ap);
}

/* --- What INIT resets and keeps --- */



static void dirty_ap(u64 arg)
{
	(void)arg;
	apic_enable();
	apic_write(APIC_TPR, 0x40);
	apic_icr(0, ICR_SELF | 0x33);
	apic_write(APIC_LVT0, LVT_NMI);
	wrmsr(MSR_STAR, 0x1234);
	wrmsr(MSR_KERNEL_GS_BASE, 0x5678);
	asm volatile("movq %0, %%xmm5" :: "r"(0xabcdefull));
	asm volatile("mov %0, %%dr0" :: "r"(0x1000ul));
	asm volatile("mov %0, %%cr2" :: "r"(0x2000ul));
	stage(1);
}

TEST(init_resets_the_cpu_and_keeps_what_the_manual_says)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_debugregs dr;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_fpu fpu;

	vcpu_set_guest(ap, dirty_ap, 0);
	vcpu_run_to_stage(ap, 1);
	vcpu_finish_exit(ap);
	init(vm);
	sipi(vm, SIPI_PAGE);
	ASSERT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	vcpu_get_regs(ap, &regs);
	vcpu_get_sregs(ap, &sregs);
	EXPECT_EQ(RFLAGS_FIXED, regs.rflags);
	EXPECT_EQ(0, regs.rax | regs.rbx | regs.rcx | regs.rsi | regs.rdi |
		     regs.rbp | regs.rsp | regs.r8 | regs.r15);
	/* CD and NW are left as they were, all else but ET falls. */
	EXPECT_EQ(CR0_ET, sregs.cr0);
	EXPECT_EQ(0, sregs.cr2);
	EXPECT_EQ(0, sregs.cr3);
	EXPECT_EQ(0, sregs.cr4);
	EXPECT_EQ(0, sregs.efer);
	EXPECT_EQ(0, sregs.gdt.base);
	EXPECT_EQ(0xffff, sregs.gdt.limit);
	EXPECT_EQ(0xffff, sregs.idt.limit);
	EXPECT_EQ(0xffff, sregs.cs.limit);
	EXPECT_EQ(0, sregs.ds.selector | sregs.ss.selector);
	/* Local APIC: reset but for its id and base. */
	EXPECT_EQ(APIC_BASE | APICBASE_ENABLE, sregs.apic_base);
	EXPECT_EQ(1 << 24, vcpu_lapic(ap, APIC_ID));
	EXPECT_EQ(0, vcpu_lapic(ap, APIC_TPR));
	EXPECT_EQ(0xff, vcpu_lapic(ap, APIC_SPIV));
	EXPECT_EQ(LVT_MASKED, vcpu_lapic(ap, APIC_LVT0));
	EXPECT_TRUE(!vcpu_lapic_bit(ap, APIC_IRR, 0x33));
	/* Kept: MSRs and the FPU. */
	EXPECT_EQ(0x1234, vcpu_get_msr(ap, MSR_STAR));
	EXPECT_EQ(0x5678, vcpu_get_msr(ap, MSR_KERNEL_GS_BASE));
	ASSERT_OK(ioctl(ap->fd, KVM_GET_FPU, &fpu));
	EXPECT_EQ(0xabcdef, *(u64 *)fpu.xmm[5]);
	if (capability(KVM_CAP_DEBUGREGS) > 0) {
		ASSERT_OK(ioctl(ap->fd, KVM_GET_DEBUGREGS, &dr));
		EXPECT_EQ(0, dr.db[0]);
		EXPECT_EQ(0x400, dr.dr7);
	}
	*low32(vm, AP_COUNT) = 0;
	expect_starts(vm, SIPI_PAGE);
}

TEST(init_to_the_bsp_sends_it_to_the_reset_vector)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *bsp = vm->vcpus[0];
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_run_to_stage(bsp, 1);
	vcpu_finish_exit(bsp);
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), ICR_INIT));
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(bsp));
	vcpu_get_regs(bsp, &regs);
	vcpu_get_sregs(bsp, &sregs);
	EXPECT_EQ(0xfff0, regs.rip);
	EXPECT_EQ(0xf000, sregs.cs.selector);
	EXPECT_EQ(0xffff0000, sregs.cs.base);
	EXPECT_EQ(APIC_BASE | APICBASE_ENABLE | APICBASE_BSP, sregs.apic_base);
}

/* --- KVM_GET_MP_STATE, KVM_SET_MP_STATE --- */

TEST(mp_state_round_trip)
{
	static const u32 states[] = {
		KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED,
		KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_HALTED,
	};
	struct vm *vm = vm_with_ap();

	for (int i = 0; i < 4; i++) {
		vcpu_set_mp_state(vm->vcpus[1], states[i]);
		EXPECT_EQ(states[i], vcpu_mp_state(vm->vcpus[1]));
	}
}

TEST(an_mp_state_that_is_none_is_refused)
{
	struct vm *vm = vm_with_ap();
	struct kvm_mp_state mp = { .mp_state = 99 };

	EXPECT_ERRNO(EINVAL, ioctl(vm->vcpus[1]->fd, KVM_SET_MP_STATE, &mp));
	mp.mp_state = -1;
	EXPECT_ERRNO(EINVAL, ioctl(vm->vcpus[1]->fd, KVM_SET_MP_STATE, &mp));
	/* States of other architectures. */
	mp.mp_state = KVM_MP_STATE_STOPPED;
	if (!is_linux_kvm())
		EXPECT_ERRNO(EINVAL, ioctl(vm->vcpus[1]->fd, KVM_SET_MP_STATE, &mp));
	EXPECT_EQ(KVM_MP_STATE_UNINITIALIZED, vcpu_mp_state(vm->vcpus[1]));
}

TEST(without_irqchip_a_vcpu_is_runnable_and_nothing_else)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 1);
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_INIT_RECEIVED };

	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(vcpu));
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp));
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp));
}

TEST(a_sipi_starts_an_ap_whose_init_came_by_set_mp_state)
{
	struct vm *vm = vm_with_ap();

	vcpu_set_mp_state(vm->vcpus[1], KVM_MP_STATE_INIT_RECEIVED);
	sipi(vm, SIPI_PAGE);
	expect_starts(vm, SIPI_PAGE);
}

TEST(a_sipi_that_userspace_restores_starts_the_ap)
{
	struct vm *vm = vm_with_ap();
	struct kvm_vcpu_events events;

	vcpu_get_events(vm->vcpus[1], &events);
	events.flags |= KVM_VCPUEVENT_VALID_SIPI_VECTOR;
	events.sipi_vector = SIPI_PAGE;
	ASSERT_OK(ioctl(vm->vcpus[1]->fd, KVM_SET_VCPU_EVENTS, &events));
	vcpu_set_mp_state(vm->vcpus[1], KVM_MP_STATE_SIPI_RECEIVED);
	expect_starts(vm, SIPI_PAGE);
}

/* --- Stale events --- */

#define LOSES "Linux KVM loses this: KVM_SET_VCPU_EVENTS clears the INIT"

static void write_back(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, events));
}

TEST(stale_events_written_after_init_and_sipi_do_not_stop_the_ap)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_vcpu_events stale;

	if (is_linux_kvm())
		SKIP(LOSES);
	vcpu_get_events(ap, &stale);
	init(vm);
	sipi(vm, SIPI_PAGE);
	write_back(ap, &stale);
	expect_starts(vm, SIPI_PAGE);
}

TEST(stale_events_written_between_init_and_sipi_do_not_stop_the_ap)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_vcpu_events stale;

	if (is_linux_kvm())
		SKIP(LOSES);
	vcpu_get_events(ap, &stale);
	init(vm);
	write_back(ap, &stale);
	sipi(vm, SIPI_PAGE);
	expect_starts(vm, SIPI_PAGE);
}

TEST(events_that_say_valid_smm_do_not_stop_the_ap_either)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	struct kvm_vcpu_events stale;

	NEED_CAP(KVM_CAP_X86_SMM);
	if (is_linux_kvm())
		SKIP(LOSES);
	vcpu_get_events(ap, &stale);
	stale.flags |= KVM_VCPUEVENT_VALID_SMM;
	stale.smi.latched_init = 0;
	init(vm);
	sipi(vm, SIPI_PAGE);
	write_back(ap, &stale);
	expect_starts(vm, SIPI_PAGE);
}

TEST(stale_mp_state_does_not_undo_init_and_sipi)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];
	u32 stale = vcpu_mp_state(ap);

	/*
	 * A VMM that writes all its state back before KVM_RUN. The INIT that
	 * is pending comes after whatever state is set.
	 */
	init(vm);
	sipi(vm, SIPI_PAGE);
	vcpu_set_mp_state(ap, stale);
	expect_starts(vm, SIPI_PAGE);
}

TEST(stale_events_over_and_over_under_init_and_sipi)
{
	struct vm *vm = vm_with_ap();
	struct vcpu *ap = vm->vcpus[1];

	if (is_linux_kvm())
		SKIP(LOSES);
	for (int round = 0; round < 50; round++) {
		struct kvm_vcpu_events stale;

		*low32(vm, AP_COUNT) = 0;
		vcpu_get_events(ap, &stale);
		init(vm);
		if (round & 1)
			write_back(ap, &stale);
		sipi(vm, SIPI_PAGE);
		if (!(round & 1))
			write_back(ap, &stale);
		expect_starts(vm, SIPI_PAGE);
	}
}

/* --- From the guest --- */

#define NR_APS 3

static volatile u32 rounds_done;
static u32 others_rounds;

static void ap_in_long_mode(u64 index)
{
	(void)index;
	cli();
	for (;;)
		asm volatile("hlt");
}

static void bsp_starts_all(u64 arg)
{
	(void)arg;
	apic_enable();
	guest_ap_entry = ap_in_long_mode;
	for (u32 round = 0; round < others_rounds; round++) {
		guest_ap_count = 0;
		apic_icr(0, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
		apic_icr(0, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | AP_VECTOR);
		GUEST_WAIT(guest_ap_count == NR_APS);
		/* A second SIPI, as the old start-up protocol has it. */
		apic_icr(0, ICR_OTHERS | ICR_STARTUP | ICR_ASSERT | AP_VECTOR);
		rounds_done++;
	}
	GUEST_EQ(NR_APS, guest_ap_count);
}

static struct vm *start_all(void (*bsp)(u64 arg))
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	vm_load(vm, AP_TRAMPOLINE, ap_trampoline, ap_trampoline_end);
	vcpu_add(vm, bsp, 0);
	for (u32 i = 1; i <= NR_APS; i++)
		vcpu_create(vm, i);
	for (u32 i = 0; i <= NR_APS; i++)
		vcpu_start(vm->vcpus[i]);
	vcpu_wait_done(vm->vcpus[0]);
	return vm;
}

TEST(a_guest_starts_all_its_aps_through_the_icr)
{
	others_rounds = 1;
	start_all(bsp_starts_all);
}

TEST(a_guest_restarts_its_halted_aps_many_times)
{
	others_rounds = 20;
	start_all(bsp_starts_all);
	EXPECT_EQ(20, rounds_done);
}

static volatile bool hold_aps;

static void ap_spins(u64 index)
{
	(void)index;
	while (hold_aps)
		cpu_relax();
	stage(0x77);
}

/*
 * INIT level de-assert (trigger level, no assert) is an old bus protocol's
 * message and no INIT: a running AP runs on.
 */
static void bsp_deasserts(u64 arg)
{
	(void)arg;
	apic_enable();
	guest_ap_entry = ap_spins;
	hold_aps = true;
	for (u32 ap = 1; ap <= NR_APS; ap++) {
		apic_icr(ap, ICR_INIT | ICR_ASSERT | ICR_LEVEL);
		apic_icr(ap, ICR_INIT | ICR_LEVEL);
		apic_icr(ap, ICR_STARTUP | AP_VECTOR);
	}
	GUEST_WAIT(guest_ap_count == NR_APS);
	for (u32 ap = 1; ap <= NR_APS; ap++)
		apic_icr(ap, ICR_INIT | ICR_LEVEL);
	hold_aps = false;
}

TEST(init_level_deassert_resets_nobody)
{
	struct vm *vm = start_all(bsp_deasserts);

	for (u32 i = 1; i <= NR_APS; i++)
		vcpu_wait_done(vm->vcpus[i]);
	EXPECT_EQ(NR_APS, guest_ap_count);
}

static void bsp_x2apic(u64 arg)
{
	(void)arg;
	x2apic_enable();
	guest_ap_entry = ap_in_long_mode;
	x2apic_icr(0, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
	x2apic_icr(0, ICR_OTHERS | ICR_STARTUP | AP_VECTOR);
	GUEST_WAIT(guest_ap_count == NR_APS);
}

TEST(aps_start_from_an_x2apic_bsp)
{
	start_all(bsp_x2apic);
}
