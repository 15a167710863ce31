// SPDX-License-Identifier: GPL-2.0
/*
 * Events on their way into a vCPU: NMIs and their blocking, KVM_GET and
 * KVM_SET_VCPU_EVENTS, interrupt shadows, HLT, interrupts whose delivery
 * faults, KVM_INTERRUPT with its window when userspace has the irqchip,
 * payloads of exceptions, triple faults.
 *
 * Read next: lapic.c, initsipi.c.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include "vm.h"

#define VECTOR 0x60

static void nmi(struct vcpu *vcpu)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_NMI, 0));
}

static void set_events(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, events));
}

static struct vcpu *start_guest(struct vm **vm, void (*guest)(u64 arg))
{
	*vm = vm_create(VM_IRQCHIP);
	return vcpu_add(*vm, guest, 0);
}

/* Up to the guest's stage, which is over; and the events there. */
static void stop_at(struct vcpu *vcpu, u32 stage, struct kvm_vcpu_events *events)
{
	vcpu_run_to_stage(vcpu, stage);
	vcpu_finish_exit(vcpu);
	vcpu_get_events(vcpu, events);
}

static void guest_setup(void)
{
	irq_count_range(0x20, 0xfe);
	guest_handlers[VEC_NMI] = irq_count_only;
	apic_enable();
}

/* --- NMI --- */

static void take_nmis(u64 arg)
{
	(void)arg;
	guest_setup();
	stage(1);
	asm volatile("nop");
	GUEST_EQ(1, irqs[VEC_NMI]);
	stage(2);
	asm volatile("nop");
	GUEST_EQ(2, irqs[VEC_NMI]);
}

TEST(an_nmi_comes_with_interrupts_off)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_nmis);

	vcpu_run_to_stage(vcpu, 1);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 2);
	nmi(vcpu);
	vcpu_run_to_done(vcpu);
}

static volatile u32 nmi_depth, nmi_max_depth;

static void on_nmi_stage(struct guest_frame *frame)
{
	(void)frame;
	if (++nmi_depth > nmi_max_depth)
		nmi_max_depth = nmi_depth;
	irqs[VEC_NMI]++;
	stage(100 + irqs[VEC_NMI]);
	asm volatile("nop; nop");
	nmi_depth--;
}

static void nmi_in_nmi(u64 arg)
{
	(void)arg;
	guest_handlers[VEC_NMI] = on_nmi_stage;
	stage(1);
	asm volatile("nop; nop");
	GUEST_EQ(2, irqs[VEC_NMI]);
	GUEST_EQ(1, nmi_max_depth);
	stage(2);
	GUEST_EQ(3, irqs[VEC_NMI]);
}

TEST(nmis_in_the_handler_wait_for_iret_and_one_is_kept)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, nmi_in_nmi);

	vcpu_run_to_stage(vcpu, 1);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 101);
	nmi(vcpu);
	nmi(vcpu);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 102);
	/* Unblocked in between: a new one is taken once more. */
	vcpu_run_to_stage(vcpu, 2);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 103);
	vcpu_run_to_done(vcpu);
}

/* A CPU would be in the first one's handler when the second comes. */
TEST(of_nmis_that_come_before_the_guest_runs_two_arrive)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, nmi_in_nmi);

	vcpu_run_to_stage(vcpu, 1);
	for (u32 i = 0; i < 4; i++)
		nmi(vcpu);
	vcpu_run_to_stage(vcpu, 101);
	vcpu_run_to_stage(vcpu, 102);
	vcpu_run_to_stage(vcpu, 2);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 103);
	vcpu_run_to_done(vcpu);
}

static void nmis_after_a_trap(u64 arg)
{
	u64 dr6;

	(void)arg;
	guest_handlers[VEC_NMI] = on_nmi_stage;
	asm volatile("mov %0, %%dr6" :: "r"(0xffff4ff0ul));
	stage(1);
	asm volatile("nop; nop");
	asm volatile("mov %%dr6, %0" : "=r"(dr6));
	GUEST_EQ(0xffff4ff0, dr6);
	GUEST_EQ(2, irqs[VEC_NMI]);
}

TEST(an_nmi_that_waits_for_iret_leaves_the_trace_of_a_trap_in_dr6)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, nmis_after_a_trap);

	vcpu_run_to_stage(vcpu, 1);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 101);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 102);
	vcpu_run_to_done(vcpu);
}

TEST(events_show_the_nmi_mask_and_can_clear_it)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, nmi_in_nmi);
	struct kvm_vcpu_events events;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(0, events.nmi.masked);
	nmi(vcpu);
	stop_at(vcpu, 101, &events);
	EXPECT_EQ(1, events.nmi.masked);
	EXPECT_EQ(0, events.nmi.pending);
	nmi(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.nmi.pending);
	/* Unmasked by the host, it comes inside of the first handler. */
	events.nmi.masked = 0;
	set_events(vcpu, &events);
	vcpu_run_to_stage(vcpu, 102);
	EXPECT_EQ(2, nmi_max_depth);
}

TEST(a_masked_nmi_set_by_the_host_waits)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, nmi_in_nmi);
	struct kvm_vcpu_events events;

	stop_at(vcpu, 1, &events);
	events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	events.nmi.masked = 1;
	events.nmi.pending = 1;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.nmi.masked);
	EXPECT_EQ(1, events.nmi.pending);
	/* The guest's own check that one came fails, since none may. */
	events.nmi.pending = 0;
	events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	set_events(vcpu, &events);
	irqs[VEC_NMI] = 2;
	nmi_max_depth = 1;
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(2, irqs[VEC_NMI]);
}

TEST(a_stale_copy_of_the_events_does_not_lose_an_nmi)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_nmis);
	struct kvm_vcpu_events stale;

	if (is_linux_kvm())
		SKIP("Linux KVM loses this: KVM_SET_VCPU_EVENTS overwrites the NMI");
	vcpu_run_to_stage(vcpu, 1);
	vcpu_get_events(vcpu, &stale);
	nmi(vcpu);
	set_events(vcpu, &stale);
	vcpu_run_to_stage(vcpu, 2);
	nmi(vcpu);
	vcpu_run_to_done(vcpu);
}

TEST(an_nmi_that_was_seen_can_be_taken_back)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_nmis);
	struct kvm_vcpu_events events;

	vcpu_run_to_stage(vcpu, 1);
	nmi(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.nmi.pending);
	events.nmi.pending = 0;
	events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(0, events.nmi.pending);
	nmi(vcpu);
	vcpu_run_to_stage(vcpu, 2);
	nmi(vcpu);
	vcpu_run_to_done(vcpu);
}

TEST(an_nmi_behind_one_that_was_seen_is_not_taken_back)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_nmis);
	struct kvm_vcpu_events events;

	if (is_linux_kvm())
		SKIP("Linux KVM loses this: KVM_SET_VCPU_EVENTS overwrites the NMI");
	vcpu_run_to_stage(vcpu, 1);
	nmi(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.nmi.pending);
	nmi(vcpu);
	events.nmi.pending = 0;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.nmi.pending);
	set_events(vcpu, &events);		/* says nothing new */
	nmi(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(2, events.nmi.pending);
	set_events(vcpu, &events);
	events.nmi.pending = 1;
	set_events(vcpu, &events);
	vcpu_run_to_stage(vcpu, 2);
	nmi(vcpu);
	vcpu_run_to_done(vcpu);
}

TEST(of_two_nmis_behind_a_masked_one_userspace_sees_one)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_nmis);
	struct kvm_vcpu_events events;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_get_events(vcpu, &events);
	events.nmi.masked = 1;
	set_events(vcpu, &events);
	nmi(vcpu);
	nmi(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.nmi.pending);
}

/* --- KVM_SET_VCPU_EVENTS --- */

TEST(unknown_event_flags_are_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_vcpu_events events;

	vcpu_get_events(vcpu, &events);
	events.flags |= 1u << 31;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
	events.flags = 1u << 20;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

TEST(an_exception_that_is_none_is_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_vcpu_events events;

	vcpu_get_events(vcpu, &events);
	events.exception.injected = 1;
	events.exception.nr = VEC_NMI;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
	events.exception.nr = 32;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

TEST(reserved_event_fields_are_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_vcpu_events events;

	if (is_linux_kvm())
		SKIP("Linux KVM does not look at reserved fields");
	vcpu_get_events(vcpu, &events);
	events.reserved[3] = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

TEST(smm_state_is_refused_where_smm_is_not_offered)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_vcpu_events events;

	if (capability(KVM_CAP_X86_SMM) > 0)
		SKIP("the device offers SMM");
	vcpu_get_events(vcpu, &events);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

static volatile u64 seen_error;

static void note_error(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	seen_error = frame->error;
}

static void take_exception(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VEC_GP] = note_error;
	stage(1);
	asm volatile("nop");
	stage(2);
}

TEST(an_injected_exception_comes_with_its_error_code)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_exception);
	struct kvm_vcpu_events events;

	stop_at(vcpu, 1, &events);
	events.exception.injected = 1;
	events.exception.nr = VEC_GP;
	events.exception.has_error_code = 1;
	events.exception.error_code = 0x128;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.exception.injected);
	EXPECT_EQ(VEC_GP, events.exception.nr);
	EXPECT_EQ(0x128, events.exception.error_code);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_GP]);
	EXPECT_EQ(0x128, seen_error);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(0, events.exception.injected);
}

TEST(an_injected_interrupt_comes_at_once)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_exception);
	struct kvm_vcpu_events events;

	if (cpu_is_intel())
		SKIP("VMX has no entry with an interrupt in delivery and IF clear");
	stop_at(vcpu, 1, &events);
	/* What was on its way in: not asked for IF again. */
	events.interrupt.injected = 1;
	events.interrupt.nr = VECTOR;
	events.interrupt.soft = 0;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.interrupt.injected);
	EXPECT_EQ(VECTOR, events.interrupt.nr);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VECTOR]);
}

static volatile u64 pushed_rflags;

static void keep_rflags(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	pushed_rflags |= frame->rflags;
	if (frame->vector != VEC_NMI)
		apic_eoi();
}

static void interrupt_and_nmi(u64 arg)
{
	(void)arg;
	apic_enable();
	guest_handlers[VECTOR] = guest_handlers[VEC_NMI] = keep_rflags;
	sti();
	stage(1);
	asm volatile("nop");
	GUEST_EQ(1, irqs[VECTOR]);
	GUEST_EQ(1, irqs[VEC_NMI]);
	GUEST_EQ(0, pushed_rflags & RFLAGS_TF);
}

/* Whatever finds the moment for the NMI, the guest's stack shows nothing of it. */
TEST(an_nmi_behind_an_injected_interrupt_leaves_no_trap_flag)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, interrupt_and_nmi);
	struct kvm_vcpu_events events;

	stop_at(vcpu, 1, &events);
	events.interrupt.injected = 1;
	events.interrupt.nr = VECTOR;
	events.nmi.pending = 1;
	set_events(vcpu, &events);
	vcpu_run_to_done(vcpu);
}

/* KVM_RUN that a signal ends when the next event was chosen, and the guest not entered. */
static void run_under_a_signal(struct vcpu *vcpu)
{
	struct { u32 len; u64 set; } __attribute__((packed)) mask = { .len = 8 };
	sigset_t usr1;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, &mask));
	raise(SIGUSR1);
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SIGNAL_MASK, NULL));
}

TEST(an_event_on_its_way_in_can_be_taken_back)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_exception);
	struct kvm_vcpu_events events;

	stop_at(vcpu, 1, &events);
	events.exception.injected = 1;
	events.exception.nr = VEC_GP;
	set_events(vcpu, &events);
	run_under_a_signal(vcpu);
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.exception.injected);
	events.exception.injected = 0;
	set_events(vcpu, &events);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(0, irqs[VEC_GP]);
}

TEST(userspace_sees_no_trap_flag_while_an_nmi_waits)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_exception);
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	stop_at(vcpu, 1, &events);
	events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	events.nmi.pending = 1;
	set_events(vcpu, &events);
	run_under_a_signal(vcpu);
	vcpu_get_regs(vcpu, &regs);
	EXPECT_EQ(0, regs.rflags & RFLAGS_TF);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_NMI]);
}

static volatile u64 seen_rflags;

static void note_rflags(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	seen_rflags = frame->rflags;
}

TEST(an_nmi_that_waits_for_another_event_sets_no_trap_flag)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_exception);
	struct kvm_vcpu_events events;

	if (is_linux_kvm())
		SKIP("Linux KVM pushes the TF that it has set");
	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	guest_handlers[VEC_UD] = note_rflags;
	guest_handlers[VEC_DB] = irq_count_only;
	vcpu_get_events(vcpu, &events);
	events.exception.injected = 1;
	events.exception.nr = VEC_UD;
	events.nmi.pending = 1;
	set_events(vcpu, &events);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_UD]);
	EXPECT_EQ(1, irqs[VEC_NMI]);
	EXPECT_EQ(0, irqs[VEC_DB]);
	EXPECT_EQ(0, seen_rflags & RFLAGS_TF);
}

/* --- Interrupt shadows --- */

static volatile u32 marker, marker_seen;

static void note_marker(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	marker_seen = marker;
	apic_eoi();
}

static void sti_shadow(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = note_marker;
	for (int i = 0; i < 20; i++) {
		marker = 0;
		apic_icr(0, ICR_SELF | VECTOR);
		asm volatile("sti; movl $1, marker; movl $2, marker; cli"
			     ::: "memory");
		GUEST_EQ(1, marker_seen);
		GUEST_EQ(i + 1, irqs[VECTOR]);
	}
}

TEST(sti_holds_interrupts_for_one_instruction)
{
	struct vm *vm;

	vcpu_run_to_done(start_guest(&vm, sti_shadow));
}

static void exit_in_shadow(u64 arg)
{
	u32 regs[4];

	guest_setup();
	guest_handlers[VECTOR] = note_marker;
	for (int i = 0; i < 10; i++) {
		marker = 0;
		apic_icr(0, ICR_SELF | VECTOR);
		/* CPUID leaves the guest: emulated, it ends the shadow. */
		asm volatile("sti; cpuid; movl $2, marker; cli"
			     : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]),
			       "=d"(regs[3]) : "a"(0), "c"(0) : "memory");
		GUEST_EQ(0, marker_seen);
		GUEST_EQ(i + 1, irqs[VECTOR]);
	}
	(void)arg;
}

TEST(an_intercepted_instruction_ends_the_shadow)
{
	struct vm *vm;

	vcpu_run_to_done(start_guest(&vm, exit_in_shadow));
}

static void shadow_from_host(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = note_marker;
	marker = 0;
	apic_icr(0, ICR_SELF | VECTOR);
	asm volatile("outl %%eax, %%dx; movl $1, marker; movl $2, marker; cli"
		     :: "a"(1), "d"(PORT_STAGE) : "memory");
	GUEST_EQ(1, irqs[VECTOR]);
	GUEST_EQ(1, marker_seen);
}

TEST(a_shadow_set_by_the_host_holds_one_instruction)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, shadow_from_host);
	struct kvm_vcpu_events events;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_sti(vcpu);
	vcpu_get_events(vcpu, &events);
	events.flags = KVM_VCPUEVENT_VALID_SHADOW;
	events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &events);
	EXPECT_NE(0, events.interrupt.shadow);
	vcpu_run_to_done(vcpu);
}

/* --- HLT --- */

static void halt_if_0(u64 arg)
{
	(void)arg;
	guest_setup();
	stage(1);
	asm volatile("cli; hlt");
	GUEST_TRUE(irqs[VEC_NMI] >= 1);
	GUEST_EQ(0, irqs[VECTOR]);
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
	stage(2);
}

TEST(hlt_with_interrupts_off_wakes_by_nmi_alone)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, halt_if_0);
	struct ktap_wait wait = { 0 };

	vcpu_start(vcpu);
	vcpu_wait_stage(vcpu, 1);
	vm_msi(vm, MSI_ADDR(0), VECTOR);
	/* One that comes before the HLT does not wake it: hence again. */
	while (__atomic_load_n(&vcpu->stage, __ATOMIC_ACQUIRE) != 2) {
		vm_msi(vm, MSI_ADDR(0), ICR_NMI);
		ASSERT_TRUE(ktap_wait(&wait));
	}
	vcpu_wait_done(vcpu);
}

static void halt_for_ever(u64 arg)
{
	(void)arg;
	guest_setup();
	stage(1);
	for (;;)
		sti_hlt_cli();
}

TEST(a_signal_ends_kvm_run_of_a_halted_vcpu)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, halt_for_ever);

	vcpu_start(vcpu);
	vcpu_wait_stage(vcpu, 1);
	vcpu_stop(vcpu);
	/* Halted or a moment before: the state is one that can go on. */
	EXPECT_NE(KVM_MP_STATE_UNINITIALIZED, vcpu_mp_state(vcpu));
}

static void halt_and_count(u64 arg)
{
	(void)arg;
	guest_setup();
	for (u32 i = 1; i <= 300; i++) {
		stage(i);
		while (irqs[VECTOR] != i)
			sti_hlt_cli();
	}
}

TEST(an_msi_wakes_a_halted_vcpu_every_time)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, halt_and_count);

	vcpu_start(vcpu);
	for (u32 i = 1; i <= 300; i++) {
		vcpu_wait_stage(vcpu, i);
		ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), VECTOR));
	}
	vcpu_wait_done(vcpu);
}

static void wait_marker(u64 arg)
{
	(void)arg;
	guest_setup();
	stage(1);
	stage(2);
}

TEST(a_halted_state_set_by_the_host_ends_with_an_interrupt)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, wait_marker);

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_sti(vcpu);
	vcpu_set_mp_state(vcpu, KVM_MP_STATE_HALTED);
	vcpu_start(vcpu);
	vm_msi(vm, MSI_ADDR(0), VECTOR);
	vcpu_wait_done(vcpu);
	EXPECT_EQ(1, irqs[VECTOR]);
	EXPECT_EQ(2, vcpu->stage);
}

#define LOW_VECTOR 0x41
#define HIGH_VECTOR 0xa1

static volatile bool about_to_halt;

static void halt_above_low(u64 arg)
{
	(void)arg;
	guest_setup();
	apic_write(APIC_TPR, 0x80);
	about_to_halt = true;
	sti_hlt_cli();
	GUEST_EQ(1, irqs[HIGH_VECTOR]);
	GUEST_EQ(0, irqs[LOW_VECTOR]);
	apic_write(APIC_TPR, 0);
	sti_nop_cli();
	GUEST_EQ(1, irqs[LOW_VECTOR]);
}

/* The vCPU's thread sleeps, by its state in /proc. */
static bool thread_sleeps(void)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;
	bool sleeps = false;
	char path[300], text[256];

	while (tasks && (task = readdir(tasks))) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/stat", task->d_name);
		f = atoi(task->d_name) == getpid() ? NULL : fopen(path, "re");
		if (f && fgets(text, sizeof(text), f))
			sleeps = strstr(text, ") S ");
		if (f)
			fclose(f);
	}
	closedir(tasks);
	return sleeps;
}

TEST(a_halted_vcpu_for_which_something_waits_is_woken_by_a_higher_interrupt)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, halt_above_low);

	vcpu_start(vcpu);
	WAIT_FOR(about_to_halt && thread_sleeps());
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), LOW_VECTOR));
	WAIT_FOR(thread_sleeps());
	ASSERT_EQ(1, vm_msi(vm, MSI_ADDR(0), HIGH_VECTOR));
	vcpu_wait_done(vcpu);
}

/* --- Delivery that faults on the way --- */

#define FAULT_ROUNDS 20

static void take_many(u64 arg)
{
	(void)arg;
	guest_setup();
	for (u32 i = 1; i <= FAULT_ROUNDS; i++) {
		stage(i);
		sti_nop_cli();
		GUEST_EQ((i + 1) / 2, irqs[VECTOR]);
		GUEST_EQ(i / 2, irqs[VEC_NMI]);
	}
}

/* Drops the second-level mapping of the page, and keeps what is in it. */
static void unmap_from_guest(void *addr)
{
	void *page = (void *)((u64)addr & ~(PAGE_SIZE - 1));

	ASSERT_OK(mprotect(page, PAGE_SIZE, PROT_NONE));
	ASSERT_OK(mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC));
}

TEST(interrupts_and_nmis_whose_delivery_faults_are_not_lost)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_many);
	struct kvm_regs regs;

	for (u32 i = 1; i <= FAULT_ROUNDS; i++) {
		vcpu_run_to_stage(vcpu, i);
		vcpu_finish_exit(vcpu);
		vcpu_get_regs(vcpu, &regs);
		if (i & 1)
			vm_msi(vm, MSI_ADDR(0), VECTOR);
		else
			nmi(vcpu);
		unmap_from_guest((void *)(regs.rsp - 64));
		unmap_from_guest(guest_idt);
	}
	vcpu_run_to_done(vcpu);
}

static volatile u64 soft_rip;

static void on_soft(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	soft_rip = frame->rip;
}

extern const u8 after_int80[], after_int3[];

static void software_interrupts(u64 arg)
{
	(void)arg;
	guest_handlers[0x80] = on_soft;
	guest_handlers[VEC_BP] = on_soft;
	asm volatile("outl %%eax, %%dx; int $0x80; after_int80: nop"
		     :: "a"(1), "d"(PORT_STAGE) : "memory");
	GUEST_EQ(1, irqs[0x80]);
	GUEST_EQ((u64)after_int80, soft_rip);
	asm volatile("outl %%eax, %%dx; int3; after_int3: nop"
		     :: "a"(2), "d"(PORT_STAGE) : "memory");
	GUEST_EQ(1, irqs[VEC_BP]);
	GUEST_EQ((u64)after_int3, soft_rip);
}

TEST(software_interrupts_whose_delivery_faults_return_behind_themselves)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, software_interrupts);
	struct kvm_regs regs;

	if (cpu_is_bochs_amd())
		SKIP("Bochs's EXITINTINFO tells an older event after an exit in INT n's delivery");
	for (u32 i = 1; i <= 2; i++) {
		vcpu_run_to_stage(vcpu, i);
		vcpu_finish_exit(vcpu);
		vcpu_get_regs(vcpu, &regs);
		unmap_from_guest((void *)(regs.rsp - 64));
		unmap_from_guest(guest_idt);
	}
	vcpu_run_to_done(vcpu);
}

TEST(an_injected_breakpoint_whose_delivery_faults_is_not_lost)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, take_exception);
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	if (is_linux_kvm())
		SKIP("Linux KVM takes it for an INT3 that will run again");
	guest_handlers[VEC_BP] = on_soft;
	vcpu_get_events(vcpu, &events);
	events.exception.injected = 1;
	events.exception.nr = VEC_BP;
	set_events(vcpu, &events);
	vcpu_get_regs(vcpu, &regs);
	unmap_from_guest((void *)(regs.rsp - 64));
	unmap_from_guest(guest_idt);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_BP]);
	EXPECT_EQ(regs.rip, soft_rip);
}

static void double_fault(u64 arg)
{
	(void)arg;
	/* No gate for #PF: a contributory fault on the way, so #DF. */
	guest_idt[VEC_PF * 2] &= ~(0x8000ull << 32);
	GUEST_EQ(VEC_DF, GUEST_TRY("mov (%1), %0", "=r"(arg) : "r"(GUEST_UNMAPPED)));
	GUEST_EQ(0, guest_caught.error);
}

TEST(a_fault_in_a_page_faults_delivery_is_a_double_fault)
{
	struct vm *vm;

	if (cpu_is_tcg())
		SKIP("QEMU's TCG delivers the second fault alone in a nested guest");
	vcpu_run_to_done(start_guest(&vm, double_fault));
}

static void on_db(struct guest_frame *frame)
{
	irqs[VEC_DB]++;
	soft_rip = frame->rip;
	frame->rflags &= ~RFLAGS_TF;
}

extern const u8 after_cpuid_tf[], after_out_tf[];

static void tf_over_exits(u64 arg)
{
	u32 regs[4];

	(void)arg;
	guest_handlers[VEC_DB] = on_db;
	asm volatile("pushfq; orl $0x100, (%%rsp); popfq; cpuid\n"
		     "after_cpuid_tf: nop"
		     : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3])
		     : "a"(0), "c"(0) : "memory", "cc");
	GUEST_EQ(1, irqs[VEC_DB]);
	GUEST_EQ((u64)after_cpuid_tf, soft_rip);
	asm volatile("pushfq; orl $0x100, (%%rsp); popfq; outl %%eax, %%dx\n"
		     "after_out_tf: nop"
		     :: "a"(1), "d"(PORT_STAGE) : "memory", "cc");
	GUEST_EQ(2, irqs[VEC_DB]);
	GUEST_EQ((u64)after_out_tf, soft_rip);
}

TEST(single_step_traps_behind_an_intercepted_instruction)
{
	struct vm *vm;

	vcpu_run_to_done(start_guest(&vm, tf_over_exits));
}

/* --- KVM_INTERRUPT: the irqchip is userspace's --- */

static int interrupt(struct vcpu *vcpu, u32 vector)
{
	struct kvm_interrupt irq = { .irq = vector };

	return ioctl(vcpu->fd, KVM_INTERRUPT, &irq);
}

static void user_irqchip(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = irq_count_only;
	guest_handlers[VECTOR + 1] = irq_count_only;
	stage(1);
	sti();
	asm volatile("nop");
	stage(2);
	asm volatile("nop");
	cli();
	stage(3);
	sti();
	asm volatile("nop");
	cli();
	stage(4);
}

TEST(kvm_interrupt_comes_when_the_window_opens)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, user_irqchip, 0);
	struct kvm_run *run = vcpu->run;

	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(0, run->if_flag);
	EXPECT_EQ(0, run->ready_for_interrupt_injection);
	run->request_interrupt_window = 1;
	EXPECT_EQ(KVM_EXIT_IRQ_WINDOW_OPEN, vcpu_run(vcpu));
	EXPECT_EQ(1, run->if_flag);
	EXPECT_EQ(1, run->ready_for_interrupt_injection);
	run->request_interrupt_window = 0;
	ASSERT_OK(interrupt(vcpu, VECTOR));
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VECTOR]);
	/* Open all the time: injected without a window exit. */
	EXPECT_EQ(1, run->ready_for_interrupt_injection);
	ASSERT_OK(interrupt(vcpu, VECTOR + 1));
	vcpu_run_to_stage(vcpu, 3);
	EXPECT_EQ(1, irqs[VECTOR + 1]);
	EXPECT_EQ(1, irqs[VECTOR]);
	vcpu_run_to_stage(vcpu, 4);
	vcpu_run_to_done(vcpu);
}

TEST(an_open_window_that_was_asked_for_exits_at_once)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, user_irqchip, 0);

	vcpu_run_to_stage(vcpu, 1);
	vcpu_run_to_stage(vcpu, 2);
	vcpu->run->request_interrupt_window = 1;
	EXPECT_EQ(KVM_EXIT_IRQ_WINDOW_OPEN, vcpu_run(vcpu));
	vcpu->run->request_interrupt_window = 0;
	vcpu_run_to_stage(vcpu, 3);
}

static volatile bool split_on;

/* An atomic access that crosses a page: the emulator stops all other CPUs for it. */
static void *split_always(void *arg)
{
	u32 *word = (u32 *)((u8 *)mmap(NULL, 8192, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) +
			    4094);

	(void)arg;
	while (split_on)
		asm volatile("lock incl %0" : "+m"(*word));
	munmap((u8 *)word - 4094, 8192);
	return NULL;
}

#define INTERRUPTS 300

static void take_interrupts(u64 arg)
{
	(void)arg;
	guest_handlers[VECTOR] = irq_count_only;
	sti();
	for (int i = 0; i < INTERRUPTS; i++) {
		stage(1);
		for (volatile int spin = 0; spin < 20000; spin++)
			;
		GUEST_EQ(i + 1, irqs[VECTOR]);
	}
}

TEST(an_interrupt_comes_once_though_other_cpus_stop_the_machine)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, take_interrupts, 0);
	pthread_t thread;

	if (!cpu_is_tcg())
		SKIP("it looks for a fault of QEMU's TCG");
	if (is_linux_kvm())
		SKIP("QEMU's TCG delivers some twice");
	split_on = true;
	ASSERT_EQ(0, pthread_create(&thread, NULL, split_always, NULL));
	for (int i = 0; i < INTERRUPTS; i++) {
		vcpu_run_to_stage(vcpu, 1);
		ASSERT_OK(interrupt(vcpu, VECTOR));
	}
	vcpu_run_to_done(vcpu);
	split_on = false;
	pthread_join(thread, NULL);
}

TEST(kvm_interrupt_refusals)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct vcpu *with_irqchip = vcpu_create(vm_create(VM_IRQCHIP), 0);

	EXPECT_ERRNO(EINVAL, interrupt(vcpu, 256));
	EXPECT_ERRNO(EINVAL, interrupt(vcpu, 0xffffffff));
	EXPECT_ERRNO(ENXIO, interrupt(with_irqchip, VECTOR));
}

TEST(a_second_kvm_interrupt_before_the_first_came_is_refused)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, user_irqchip, 0);

	if (is_linux_kvm())
		SKIP("Linux KVM replaces the first");
	vcpu_run_to_stage(vcpu, 1);
	vcpu_run_to_stage(vcpu, 2);
	vcpu_finish_exit(vcpu);
	EXPECT_OK(interrupt(vcpu, VECTOR));
	EXPECT_ERRNO(EEXIST, interrupt(vcpu, VECTOR + 1));
	vcpu_run_to_stage(vcpu, 3);
	EXPECT_EQ(1, irqs[VECTOR]);
	EXPECT_EQ(0, irqs[VECTOR + 1]);
}

static void set_tpr(u64 arg)
{
	(void)arg;
	write_cr8(5);
	stage(1);
	write_cr8(3);
	stage(2);
	GUEST_EQ(9, read_cr8());
}

TEST(a_lowered_cr8_is_told_to_userspace)
{
	struct vm *vm = vm_create(0);
	struct vcpu *vcpu = vcpu_add(vm, set_tpr, 0);
	struct kvm_run *run = vcpu->run;

	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(5, run->cr8);
	EXPECT_EQ(KVM_EXIT_SET_TPR, vcpu_run(vcpu));
	EXPECT_EQ(3, run->cr8);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(3, run->cr8);
	/* And userspace may set it through the same field. */
	run->cr8 = 9;
	vcpu_run_to_done(vcpu);
}

/* --- Exceptions that are pending, their payloads, triple faults --- */

static volatile u64 seen_cr2, seen_dr6;

static void note_payload(struct guest_frame *frame)
{
	irqs[frame->vector]++;
	seen_error = frame->error;
	asm volatile("mov %%cr2, %0" : "=r"(seen_cr2));
	asm volatile("mov %%dr6, %0" : "=r"(seen_dr6));
}

static void take_payload(u64 arg)
{
	(void)arg;
	guest_handlers[VEC_PF] = guest_handlers[VEC_DB] = note_payload;
	asm volatile("mov %0, %%cr2" :: "r"(0x1000ull));
	stage(1);
	asm volatile("nop");
	stage(2);
}

/* A guest at its first stage, which the exit has left for good. */
static struct vcpu *at_stage_1(u32 cap)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu;

	NEED_CAP(cap);
	ASSERT_OK(vm_enable_cap(vm->fd, cap, 1));
	vcpu = vcpu_add(vm, take_payload, 0);
	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	return vcpu;
}

TEST(payload_and_triple_fault_flags_are_for_who_enabled_them)
{
	static const struct { u32 cap, flag; } events_of[] = {
		{ KVM_CAP_EXCEPTION_PAYLOAD, KVM_VCPUEVENT_VALID_PAYLOAD },
		{ KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_VCPUEVENT_VALID_TRIPLE_FAULT },
	};

	for (int i = 0; i < 2; i++) {
		struct vm *vm = vm_create(VM_IRQCHIP);
		struct vcpu *vcpu = vcpu_create(vm, 0);
		struct kvm_vcpu_events events;

		NEED_CAP(events_of[i].cap);
		for (u32 on = 0; on < 2; on++) {
			ASSERT_OK(vm_enable_cap(vm->fd, events_of[i].cap, on));
			vcpu_get_events(vcpu, &events);
			EXPECT_EQ(on ? events_of[i].flag : 0, events.flags & events_of[i].flag);
			events.flags |= events_of[i].flag;
			if (on)
				EXPECT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
			else
				EXPECT_ERRNO(EINVAL, ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
		}
	}
}

/*
 * Sets a pending exception; it must read back, and nothing of it is to be seen in the
 * registers yet.
 */
static void set_pending_exception(struct vcpu *vcpu, u8 vector, bool has_payload, u64 payload)
{
	struct kvm_vcpu_events events, back;
	struct kvm_sregs sregs;

	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(0, events.exception.pending | events.exception.injected |
			     events.exception_has_payload);
	events.exception.pending = 1;
	events.exception.injected = 1;		/* pending counts */
	events.exception.nr = vector;
	events.exception.has_error_code = vector == VEC_PF;
	events.exception.error_code = vector == VEC_PF ? 6 : 0;
	events.exception_has_payload = has_payload;
	events.exception_payload = payload;
	set_events(vcpu, &events);
	vcpu_get_events(vcpu, &back);
	EXPECT_EQ(1, back.exception.pending);
	EXPECT_EQ(0, back.exception.injected);
	EXPECT_EQ(vector, back.exception.nr);
	EXPECT_EQ(has_payload, back.exception_has_payload);
	if (has_payload)
		EXPECT_EQ(payload, back.exception_payload);
	vcpu_get_sregs(vcpu, &sregs);
	EXPECT_EQ(0x1000, sregs.cr2);
}

TEST(a_pending_page_fault_brings_its_address_when_it_is_taken)
{
	for (u64 payload = 0; payload < 2; payload++) {
		struct vcpu *vcpu = at_stage_1(KVM_CAP_EXCEPTION_PAYLOAD);

		irqs[VEC_PF] = 0;
		set_pending_exception(vcpu, VEC_PF, payload, 0x123456000);
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, irqs[VEC_PF]);
		EXPECT_EQ(6, seen_error);
		EXPECT_EQ(payload ? 0x123456000 : 0x1000, seen_cr2);
	}
}

/*
 * A copy without payloads says "injected". Whichever of the registers and the events is read
 * first, the address is there, and a guest that is restored from them finds it.
 */
TEST(a_payload_is_kept_when_payloads_are_disabled)
{
	for (u32 how = 0; how < 3; how++) {
		struct vcpu *vcpu = at_stage_1(KVM_CAP_EXCEPTION_PAYLOAD);
		struct kvm_vcpu_events events;
		struct kvm_sregs sregs;

		if (how == 2 && is_linux_kvm())
			SKIP("Linux KVM (6.1) sets CR2 then only if the events are read first");
		irqs[VEC_PF] = 0;
		set_pending_exception(vcpu, VEC_PF, true, 0x123456000);
		ASSERT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_EXCEPTION_PAYLOAD, 0));
		if (how == 2)
			vcpu_get_sregs(vcpu, &sregs);
		if (how) {
			vcpu_get_events(vcpu, &events);
			EXPECT_EQ(0, events.flags & KVM_VCPUEVENT_VALID_PAYLOAD);
			EXPECT_EQ(VEC_PF, events.exception.nr);
			EXPECT_EQ(1, events.exception.injected);
			if (how == 1)
				vcpu_get_sregs(vcpu, &sregs);
			EXPECT_EQ(0x123456000, sregs.cr2);
			set_events(vcpu, &events);
		}
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, irqs[VEC_PF]);
		EXPECT_EQ(6, seen_error);
		EXPECT_EQ(0x123456000, seen_cr2);
	}
}

TEST(a_payload_of_a_debug_exception_is_kept_when_payloads_are_disabled)
{
	struct vcpu *vcpu = at_stage_1(KVM_CAP_EXCEPTION_PAYLOAD);
	struct kvm_vcpu_events events;
	struct kvm_debugregs regs;

	set_pending_exception(vcpu, VEC_DB, true, 0x4004);
	ASSERT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_EXCEPTION_PAYLOAD, 0));
	vcpu_get_events(vcpu, &events);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	EXPECT_EQ(0x4004, regs.dr6 & 0x400f);
	set_events(vcpu, &events);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_DB]);
	EXPECT_EQ(0x4004, seen_dr6 & 0x400f);
}

TEST(a_pending_debug_exception_brings_its_dr6_bits_when_it_is_taken)
{
	struct vcpu *vcpu = at_stage_1(KVM_CAP_EXCEPTION_PAYLOAD);
	struct kvm_debugregs regs;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	regs.dr6 |= 0x2003;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &regs));
	/* Breakpoint 2 and single step; RTM, bit 16, is the other way round in a payload. */
	set_pending_exception(vcpu, VEC_DB, true, 0x14004);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_DB]);
	/* Intel's CPUs read bit 16 as 1 where they do not have RTM. */
	EXPECT_EQ(0xfffe6ff4, seen_dr6 & (cpu_is_intel() ? ~0x10000ULL : ~0ULL));
}

TEST(the_handler_of_a_debug_exception_may_use_the_debug_registers)
{
	struct vcpu *vcpu = at_stage_1(KVM_CAP_EXCEPTION_PAYLOAD);
	const u64 general_detect = 1 << 13;
	struct kvm_debugregs regs;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	regs.dr7 |= general_detect;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &regs));
	set_pending_exception(vcpu, VEC_DB, true, 0x2000);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_DB]);
	EXPECT_EQ(0xffff2ff0, seen_dr6);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	EXPECT_EQ(0, regs.dr7 & general_detect);
}

TEST(a_payload_of_any_bits_does_no_harm)
{
	for (int i = 0; i < 64; i++) {
		struct vcpu *vcpu = at_stage_1(KVM_CAP_EXCEPTION_PAYLOAD);

		if (is_linux_kvm())
			SKIP("Linux KVM does not look at a payload's bits");
		irqs[VEC_DB] = 0;
		ktap_about("bit %d", i);
		set_pending_exception(vcpu, VEC_DB, true, 1ull << i);
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, irqs[VEC_DB]);
	}
}

TEST(a_triple_fault_event_shuts_down_once_unless_taken_back)
{
	struct vcpu *vcpu = at_stage_1(KVM_CAP_X86_TRIPLE_FAULT_EVENT);
	struct kvm_vcpu_events events;

	for (int taken_back = 1; taken_back >= 0; taken_back--) {
		vcpu_get_events(vcpu, &events);
		EXPECT_EQ(0, events.triple_fault.pending);
		events.triple_fault.pending = 1;
		set_events(vcpu, &events);
		/* A copy without the flag leaves it alone. */
		events.triple_fault.pending = 0;
		events.flags &= ~KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
		set_events(vcpu, &events);
		vcpu_get_events(vcpu, &events);
		EXPECT_EQ(1, events.triple_fault.pending);
		if (taken_back) {
			events.triple_fault.pending = 0;
			set_events(vcpu, &events);
		}
	}
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu_run(vcpu));
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(0, events.triple_fault.pending);
	vcpu_run_to_stage(vcpu, 2);
}

/* --- Several events in one state --- */

#define VEC_MC 18
#define CR4_MCE (1ull << 6)
#define MCG_STATUS_RIPV 1
#define MCI_STATUS_UC_VAL_EN (1ull << 63 | 1ull << 61 | 1ull << 60)

static volatile u64 mc_rip;

static void note_machine_check(struct guest_frame *frame)
{
	irqs[VEC_MC]++;
	mc_rip = frame->rip;
}

static void take_several(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VEC_GP] = irq_count_only;
	guest_handlers[VEC_MC] = note_machine_check;
	sti();
	stage(1);
	asm volatile("nop; nop");
	stage(2);
}

static void *gate_address(u8 vector)
{
	const u64 *gate = &guest_idt[vector * 2];

	return (void *)((gate[0] & 0xffff) | (gate[0] >> 48 << 16) | gate[1] << 32);
}

enum { NO_EVENT, INTERRUPT, AN_NMI, EXCEPTION, INT_N };

/* In delivery: one of these. */
static void put_in_delivery(struct kvm_vcpu_events *events, int what)
{
	events->interrupt.injected = what == INTERRUPT || what == INT_N;
	events->interrupt.soft = what == INT_N;
	events->interrupt.nr = VECTOR;
	events->nmi.injected = events->nmi.masked = what == AN_NMI;
	events->exception.injected = what == EXCEPTION;
	events->exception.nr = VEC_GP;
	events->exception.has_error_code = 1;
}

static u8 vector_of(int what)
{
	if (what == AN_NMI)
		return VEC_NMI;
	return what == EXCEPTION ? VEC_GP : VECTOR;
}

/* A guest that can have machine checks, at its first stage. */
static struct vcpu *several_at_stage_1(u32 payload, struct kvm_vcpu_events *events)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_sregs sregs;
	struct vcpu *vcpu;

	NEED_CAP(KVM_CAP_EXCEPTION_PAYLOAD);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_EXCEPTION_PAYLOAD, payload));
	vcpu = vcpu_add(vm, take_several, 0);
	stop_at(vcpu, 1, events);
	vcpu_get_sregs(vcpu, &sregs);
	sregs.cr4 |= CR4_MCE;
	vcpu_set_sregs(vcpu, &sregs);
	memset((void *)irqs, 0, sizeof(irqs));
	return vcpu;
}

/*
 * How the machine check comes: by its ioctl, by KVM_SET_VCPU_EVENTS, by both of them in a
 * round trip.
 */
static void add_machine_check(struct vcpu *vcpu, struct kvm_vcpu_events *events, int how)
{
	u64 cap = (1ull << 8) | 10;		/* MCG_CTL, ten banks */
	struct kvm_x86_mce mce = {
		.status = MCI_STATUS_UC_VAL_EN, .mcg_status = MCG_STATUS_RIPV, .bank = 1,
	};

	if (how == 0) {
		events->exception.injected = 1;
		events->exception.nr = VEC_MC;
		events->exception.has_error_code = 0;
		if (events->flags & KVM_VCPUEVENT_VALID_PAYLOAD)
			events->exception.pending = 1;
		set_events(vcpu, events);
	} else {
		set_events(vcpu, events);
		ASSERT_OK(ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &cap));
		ASSERT_OK(ioctl(vcpu->fd, KVM_X86_SET_MCE, &mce));
	}
	if (how < 2)
		return;
	vcpu_get_events(vcpu, events);
	set_events(vcpu, events);
	vcpu_get_events(vcpu, events);
	EXPECT_EQ(1, events->exception.pending | events->exception.injected);
	EXPECT_EQ(VEC_MC, events->exception.nr);
}

TEST(a_machine_check_and_the_event_in_delivery_both_come)
{
	struct kvm_vcpu_events events;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM forgets the event in delivery when it delivers the exception");
	for (int in_delivery = NO_EVENT; in_delivery <= INT_N; in_delivery++)
		for (int how = 0; how < 3; how++)
			for (u32 payload = 0; payload < 2; payload++) {
				if (in_delivery == EXCEPTION && how != 1)
					continue;	/* the state has room for one exception */
				ktap_about("in delivery %d, machine check %d, payloads %u", in_delivery, how, payload);
				vcpu = several_at_stage_1(payload, &events);
				put_in_delivery(&events, in_delivery);
				add_machine_check(vcpu, &events, how);
				vcpu_get_events(vcpu, &events);
				EXPECT_EQ(in_delivery == AN_NMI, events.nmi.injected);
				EXPECT_EQ(in_delivery == INTERRUPT || in_delivery == INT_N,
					  events.interrupt.injected);
				EXPECT_EQ(in_delivery == INT_N, events.interrupt.soft);
				EXPECT_EQ(VEC_MC, events.exception.nr);
				EXPECT_EQ(payload, events.exception.pending);
				vcpu_run_to_stage(vcpu, 2);
				EXPECT_EQ(1, irqs[VEC_MC]);
				if (!in_delivery)
					continue;
				EXPECT_EQ(1, irqs[vector_of(in_delivery)]);
				/* Right behind it, before the first instruction of its handler. */
				EXPECT_EQ((u64)gate_address(vector_of(in_delivery)), mc_rip);
			}
}

TEST(an_interrupt_an_nmi_and_an_exception_in_one_state_all_come)
{
	struct kvm_vcpu_events events, back;
	struct kvm_sregs sregs;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM delivers one of them");
	for (int by_sregs = 0; by_sregs < 2; by_sregs++) {
		ktap_about("the interrupt by KVM_SET_SREGS: %d", by_sregs);
		vcpu = several_at_stage_1(0, &events);
		events.nmi.injected = events.nmi.masked = 1;
		events.exception.injected = 1;
		events.exception.nr = VEC_MC;
		events.interrupt.injected = !by_sregs;
		events.interrupt.nr = VECTOR;
		set_events(vcpu, &events);
		if (by_sregs) {
			vcpu_get_sregs(vcpu, &sregs);
			sregs.interrupt_bitmap[VECTOR / 64] = 1ull << VECTOR % 64;
			vcpu_set_sregs(vcpu, &sregs);
		}
		for (int round = 0; round < 2; round++) {
			vcpu_get_events(vcpu, &back);
			EXPECT_EQ(VECTOR, back.interrupt.nr);
			EXPECT_EQ(1, back.interrupt.injected);
			EXPECT_EQ(1, back.nmi.pending);		/* it waits, and may come */
			EXPECT_EQ(0, back.nmi.masked);
			EXPECT_EQ(1, back.exception.injected);
			set_events(vcpu, &back);
		}
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, irqs[VECTOR]);
		EXPECT_EQ(1, irqs[VEC_NMI]);
		EXPECT_EQ(1, irqs[VEC_MC]);
	}
}

TEST(a_vector_that_waits_without_irqchip_is_shown_and_can_be_moved)
{
	struct vcpu *vcpu = vcpu_add(vm_create(0), user_irqchip, 0);
	struct kvm_vcpu_events events, none;
	struct kvm_sregs sregs;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	ASSERT_OK(interrupt(vcpu, VECTOR));
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.interrupt.injected);
	EXPECT_EQ(VECTOR, events.interrupt.nr);
	vcpu_get_sregs(vcpu, &sregs);
	EXPECT_EQ(1ull << VECTOR % 64, sregs.interrupt_bitmap[VECTOR / 64]);
	none = events;
	none.interrupt.injected = 0;
	set_events(vcpu, &none);
	vcpu_get_events(vcpu, &none);
	EXPECT_EQ(0, none.interrupt.injected);
	set_events(vcpu, &events);
	vcpu_set_sregs(vcpu, &sregs);		/* the same one, and no second */
	if (is_linux_kvm())
		return;				/* injects it with IF clear */
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VECTOR]);
	vcpu_run_to_stage(vcpu, 3);
	vcpu_run_to_stage(vcpu, 4);
	EXPECT_EQ(1, irqs[VECTOR]);
}

/* --- All of it at once --- */

struct saved {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
};

static void save(struct vcpu *vcpu, struct saved *s)
{
	vcpu_get_regs(vcpu, &s->regs);
	vcpu_get_sregs(vcpu, &s->sregs);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &s->debugregs));
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &s->lapic));
	vcpu_get_events(vcpu, &s->events);
}

/* As a client that has just read all of the state does it. */
static void restore(struct vcpu *vcpu, const struct saved *s)
{
	struct kvm_guest_debug off = {};
	struct kvm_vcpu_events seen;

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &off));
	vcpu_mp_state(vcpu);
	vcpu_get_events(vcpu, &seen);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_SREGS, &s->sregs));
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &s->lapic));
	vcpu_set_regs(vcpu, &s->regs);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &s->debugregs));
	/* First out of SMM, where no vCPU can wait for a SIPI. */
	vcpu_set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);
	set_events(vcpu, &s->events);
	vcpu_set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE);
}

/* On a vCPU of another VM, which knows nothing of this state; the events or SREGS come last. */
static struct vcpu *move(const struct saved *s, u32 payload, bool sregs_last)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu;

	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_EXCEPTION_PAYLOAD, payload));
	vcpu = vcpu_add(vm, take_several, 0);
	restore(vcpu, s);
	if (sregs_last)
		vcpu_set_sregs(vcpu, &s->sregs);
	return vcpu;
}

/*
 * A page fault or #DB that is pending, with its payload, where the state can have one; else
 * it is injected.
 */
static void add_exception(struct kvm_vcpu_events *events, u8 vector, u32 payload)
{
	events->exception.pending = payload;
	events->exception.injected = !payload;
	events->exception.nr = vector;
	events->exception.has_error_code = vector == VEC_PF;
	events->exception.error_code = vector == VEC_PF ? 6 : 0;
	events->exception_has_payload = payload;
	events->exception_payload = payload ? 0x4000 : 0;	/* an address, or DR6.BS */
}

static volatile u64 exception_rip;

static void note_exception(struct guest_frame *frame)
{
	exception_rip = frame->rip;
	note_payload(frame);
}

static void expect_both_taken(u8 exception, int in_delivery, u32 payload)
{
	EXPECT_EQ(1, irqs[exception]);
	if (exception == VEC_PF)
		EXPECT_EQ(6, seen_error);
	if (payload && exception == VEC_PF)
		EXPECT_EQ(0x4000, seen_cr2);
	if (payload && exception == VEC_DB)
		EXPECT_EQ(0x4000, seen_dr6 & 0x4000);
	if (!in_delivery)
		return;
	EXPECT_EQ(1, irqs[vector_of(in_delivery)]);
	/* Before the first instruction of that event's handler. */
	EXPECT_EQ((u64)gate_address(vector_of(in_delivery)), exception_rip);
}

static void move_with_exception(u8 exception, int in_delivery, u32 payload, bool sregs_last)
{
	struct kvm_vcpu_events events;
	struct saved state, again;
	struct vcpu *vcpu = several_at_stage_1(payload, &events);

	put_in_delivery(&events, in_delivery);
	add_exception(&events, exception, payload);
	set_events(vcpu, &events);
	save(vcpu, &state);
	vcpu = move(&state, payload, sregs_last);
	memset((void *)irqs, 0, sizeof(irqs));
	guest_handlers[VEC_PF] = guest_handlers[VEC_DB] = note_exception;
	save(vcpu, &again);
	EXPECT_EQ(0, memcmp(&state.events, &again.events, sizeof(state.events)));
	EXPECT_EQ(payload, again.events.exception.pending);
	EXPECT_EQ(!payload, again.events.exception.injected);
	EXPECT_EQ(exception, again.events.exception.nr);
	EXPECT_EQ(payload, again.events.exception_has_payload);
	EXPECT_EQ(in_delivery == INTERRUPT || in_delivery == INT_N,
		  again.events.interrupt.injected);
	EXPECT_EQ(in_delivery == INT_N, again.events.interrupt.soft);
	EXPECT_EQ(in_delivery == AN_NMI, again.events.nmi.injected);
	vcpu_run_to_stage(vcpu, 2);
	expect_both_taken(exception, in_delivery, payload);
}

TEST(a_pending_exception_and_the_event_in_delivery_move_to_a_new_vcpu)
{
	static const u8 exceptions[] = { VEC_PF, VEC_DB };

	if (is_linux_kvm())
		SKIP("Linux KVM forgets the event in delivery when it delivers the exception");
	for (int in_delivery = NO_EVENT; in_delivery <= INT_N; in_delivery++)
		for (int i = 0; i < 2; i++)
			for (u32 how = 0; how < 4; how++) {
				if (in_delivery == EXCEPTION)
					continue;	/* the state has room for one exception */
				ktap_about("in delivery %d, exception %u, payloads %u, SREGS last %u",
					   in_delivery, exceptions[i], how & 1, how >> 1);
				move_with_exception(exceptions[i], in_delivery, how & 1, how >> 1);
			}
}

/*
 * struct kvm_vcpu_events has one exception: of two the machine check is told, the fault comes
 * again.
 */
TEST(of_a_fault_in_delivery_and_a_machine_check_the_machine_check_moves)
{
	struct kvm_vcpu_events events;
	struct saved state;
	struct vcpu *vcpu;

	if (is_linux_kvm())
		SKIP("Linux KVM forgets the event in delivery when it delivers the exception");
	for (u32 payload = 0; payload < 2; payload++) {
		ktap_about("payloads %u", payload);
		vcpu = several_at_stage_1(payload, &events);
		put_in_delivery(&events, EXCEPTION);
		add_machine_check(vcpu, &events, 1);
		save(vcpu, &state);
		vcpu = move(&state, payload, false);
		memset((void *)irqs, 0, sizeof(irqs));
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, irqs[VEC_MC]);
		EXPECT_EQ(0, irqs[VEC_GP]);
	}
}

static u32 random_below(u32 n)
{
	static u64 x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (x >> 16) % n;
}

/* Events, registers and debug state of any kind; whether it is taken does not matter. */
static void mess_up(struct vm *vm, struct vcpu *vcpu, u8 *logged)
{
	struct kvm_guest_debug debug = { .control = random_below(2) | random_below(2) << 1 |
						    random_below(8) << 16 };
	struct kvm_mp_state mp = { .mp_state = random_below(6) };
	struct kvm_vcpu_events events;
	struct kvm_regs regs;

	switch (random_below(9)) {
	case 0:
		vcpu_get_events(vcpu, &events);
		for (u32 i = random_below(8); i--; )
			((u8 *)&events)[random_below(sizeof(events) - sizeof(events.reserved))] =
				random_below(4);
		events.flags &= 0xf;
		ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events);
		break;
	case 1:
		nmi(vcpu);
		break;
	case 2:
		ioctl(vcpu->fd, KVM_SMI);
		break;
	case 3:
		ioctl(vcpu->fd, KVM_SET_MP_STATE, &mp);
		break;
	case 4:
		debug.arch.debugreg[0] = (u64)&irqs[VECTOR];
		debug.arch.debugreg[7] = 0xf0402;
		ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug);
		break;
	case 5:
		vcpu_get_regs(vcpu, &regs);
		regs.rflags ^= random_below(2) ? RFLAGS_IF : RFLAGS_TF;
		vcpu_set_regs(vcpu, &regs);
		break;
	case 6:
		vm_set_slot(vm, SLOT_TEST, random_below(2) ? KVM_MEM_LOG_DIRTY_PAGES : 0, TEST_GPA,
			    PAGE_SIZE, logged);
		break;
	default:
		vm_msi(vm, MSI_ADDR(0), random_below(8) << 8 | (0x20 + random_below(0xd0)));
	}
}

static void busy(u64 arg)
{
	(void)arg;
	guest_setup();
	for (int vector = 0; vector < 32; vector++)
		guest_handlers[vector] = irq_count_only;
	for (;;) {
		stage(1);
		for (int i = 0; i < 5; i++) {
			(*(volatile u64 *)TEST_GPA)++;
			apic_icr(0, ICR_SELF | VECTOR);
			sti_nop_cli();
			mmio_read32(MMIO_GPA);
		}
	}
}

static void on_tick(int sig)
{
	(void)sig;
}

/* Of an irqchip in the kernel it is one that was on its way in; without one it waits for IF. */
TEST(a_vector_that_set_sregs_brings_is_delivered_once)
{
	static const int flags[] = { 0, VM_IRQCHIP };

	for (int i = 0; i < 2; i++) {
		struct vcpu *vcpu = vcpu_add(vm_create(flags[i]), user_irqchip, 0);
		struct kvm_sregs sregs;
		struct kvm_regs regs;

		irqs[VECTOR] = 0;
		vcpu_run_to_stage(vcpu, 1);
		vcpu_finish_exit(vcpu);
		/*
		 * Nothing is on its way in where IF is clear, and Intel's CPUs refuse such a
		 * state.
		 */
		vcpu_get_regs(vcpu, &regs);
		if (flags[i])
			regs.rflags |= RFLAGS_IF;
		vcpu_set_regs(vcpu, &regs);
		vcpu_get_sregs(vcpu, &sregs);
		sregs.interrupt_bitmap[VECTOR / 64] = 1ull << VECTOR % 64;
		vcpu_set_sregs(vcpu, &sregs);
		vcpu_get_sregs(vcpu, &sregs);
		EXPECT_EQ(1ull << VECTOR % 64, sregs.interrupt_bitmap[VECTOR / 64]);
		vcpu_run_to_stage(vcpu, 2);
		EXPECT_EQ(1, irqs[VECTOR]);
		vcpu_run_to_stage(vcpu, 3);
		vcpu_run_to_stage(vcpu, 4);
		EXPECT_EQ(1, irqs[VECTOR]);
	}
}

TEST(a_state_set_anew_has_nothing_left_of_the_one_before)
{
	static const u8 rsm[] = { 0x0f, 0xaa };
	struct itimerval tick = { { 0, 1000 }, { 0, 1000 } };
	struct sigaction action = { .sa_handler = on_tick };
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, busy);
	u8 *logged = vm_add_memory(vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);

	if (cpu_is_bochs_amd())
		SKIP("in real mode, with too small an IDT, Bochs's guest faults for ever");
	struct saved state;

	if (is_linux_kvm())
		SKIP("Linux KVM does not promise it");
	memcpy(vm->low + 0x38000, rsm, sizeof(rsm));
	ASSERT_OK(vm_set_slot(vm, 0x10000, 0, 0, LOW_RAM_SIZE, vm->low));
	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	save(vcpu, &state);
	state.events.flags |= KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_NMI_PENDING;
	sigaction(SIGALRM, &action, NULL);
	for (u32 i = 0; i < 300; i++) {
		ktap_about("round %u", i);
		setitimer(ITIMER_REAL, &tick, NULL);
		for (u32 j = 0; j < 10; j++) {
			mess_up(vm, vcpu, logged);
			ioctl(vcpu->fd, KVM_RUN, 0);
		}
		setitimer(ITIMER_REAL, &(struct itimerval){}, NULL);
		restore(vcpu, &state);
		memset((void *)irqs, 0, sizeof(irqs));
		for (int read = 0; read < 5; read++)
			vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
		vcpu_run_to_stage(vcpu, 1);
		EXPECT_EQ(5, irqs[VECTOR]);
		for (int vector = 0; vector < 256; vector++)
			if (vector != VECTOR)
				ASSERT_EQ(0, irqs[vector]);
	}
}
