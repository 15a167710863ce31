// SPDX-License-Identifier: GPL-2.0
/*
 * The LAPIC's pins: LINT0, to which the PIC's INT output is wired on every CPU, in each
 * delivery mode, masked, by edge, level and polarity; and KVM_NMI beside LINT1.
 *
 * Nobody acknowledges the PIC here unless LINT0 is ExtINT, which pic.c tests.
 * Read next: pic.c, lapic.c.
 */
#include <string.h>

#include "vm.h"

#define BASE 0x30		/* vectors of the PIC */
#define VECTOR 0x61		/* of LINT0 */
#define LVT_SMI 0x200
#define LVT_INIT 0x500
#define LVT_LOW 0x2000
#define LVT_REMOTE_IRR 0x4000
#define LVT_LEVEL 0x8000
#define OCW3_POLL 0x0c
#define LOWER 0x10		/* a stage is a wish to the host: raise this line, or lower it */
#define SMM_PORT 0x70

#define PIT_ALONE "Linux KVM wires LINT0 for ExtINT, and for the PIT's ticks as NMI"

static void pulse_line(u32 line)
{
	stage(line);
	stage(LOWER | line);
}

static void guest_setup(u32 lvt0)
{
	irq_count_range(BASE, 0xfe);
	guest_handlers[VEC_NMI] = irq_count_only;
	pic_init(BASE, ICW4_8086);
	pic_mask(0);
	apic_enable();
	apic_write(APIC_LVT0, lvt0);
}

/* One vCPU, whose stages move lines. */
static void move_lines(void (*guest)(u64 arg))
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, guest, 0);

	while (vcpu_step(vcpu) == EVENT_STAGE)
		vm_irq_line(vm, vcpu->stage & 0xf, !(vcpu->stage & LOWER));
	ASSERT_TRUE(vcpu->done);
}

static void pulse(struct vm *vm, u32 gsi)
{
	vm_irq_line(vm, gsi, 1);
	vm_irq_line(vm, gsi, 0);
}

/* --- The NMI watchdog: ticks of the PIT --- */

/* It counts down, and up once in a tick. */
static u32 pit_count(void)
{
	u32 low;

	outb(0x43, 0);
	low = inb(0x40);
	return low | inb(0x40) << 8;
}

static void take_ticks(u64 arg)
{
	(void)arg;
	guest_setup(LVT_NMI);
	pic_mask(0xfffe);
	outb(0x43, 0x34);		/* channel 0, mode 2, 18 Hz: slow enough for any machine */
	outb(0x40, 0);
	outb(0x40, 0);
	GUEST_WAIT(irqs[VEC_NMI] >= 5);
	/* Masked at the PIC they end. */
	pic_mask(0xffff);
	irqs[VEC_NMI] = 0;
	for (u32 ticks = 0, last = pit_count(), now; ticks < 3; last = now) {
		now = pit_count();
		ticks += now > last;
	}
	stage(irqs[VEC_NMI]);
}

static void watchdog(u8 reinject)
{
	struct vm *vm = vm_create(VM_IRQCHIP | VM_PIT);
	struct vcpu *vcpu = vcpu_add(vm, take_ticks, 0);
	struct kvm_reinject_control control = { .pit_reinject = reinject };

	ASSERT_OK(ioctl(vm->fd, KVM_REINJECT_CONTROL, &control));
	ASSERT_EQ(EVENT_STAGE, vcpu_step(vcpu));
	if (!is_linux_kvm())		/* it does not look at the mask */
		EXPECT_EQ(0, vcpu->stage);
}

TEST(each_tick_of_the_pit_is_an_nmi_through_lint0)
{
	watchdog(0);
}

TEST(ticks_that_are_to_be_made_up_for_are_nmis_as_well)
{
	if (is_linux_kvm())
		SKIP("Linux KVM sends the second when the first was acknowledged");
	watchdog(1);
}

/* --- Edges --- */

static void nmi_edges(u64 arg)
{
	(void)arg;
	guest_setup(LVT_NMI | LVT_LEVEL);	/* always by edge */
	stage(3);
	GUEST_EQ(1, irqs[VEC_NMI]);
	stage(4);				/* INT is high already */
	GUEST_EQ(1, irqs[VEC_NMI]);
	stage(LOWER | 3);
	stage(LOWER | 4);
	GUEST_EQ(1, irqs[VEC_NMI]);
	for (u32 i = 2; i < 20; i++) {
		pulse_line(3);
		GUEST_EQ(i, irqs[VEC_NMI]);
	}
	pulse_line(12);				/* of the slave */
	GUEST_EQ(20, irqs[VEC_NMI]);
	pic_mask(1 << 3);
	pulse_line(3);
	GUEST_EQ(20, irqs[VEC_NMI]);
	pic_mask(0);
	apic_write(APIC_LVT0, LVT_NMI | LVT_MASKED);
	stage(3);
	apic_write(APIC_LVT0, LVT_NMI);		/* the edge is over */
	GUEST_EQ(20, irqs[VEC_NMI]);
	stage(LOWER | 3);
	stage(3);
	GUEST_EQ(21, irqs[VEC_NMI]);
	apic_write(APIC_SPIV, 0xff); /* switched off by software: all entries are masked */
	stage(LOWER | 3);
	stage(3);
	GUEST_EQ(21, irqs[VEC_NMI]);
}

TEST(lint0_as_nmi_takes_each_rise_of_int)
{
	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	move_lines(nmi_edges);
}

static void active_low(u64 arg)
{
	(void)arg;
	guest_setup(LVT_NMI | LVT_LOW);
	GUEST_EQ(0, irqs[VEC_NMI]);		/* low already */
	stage(3);
	GUEST_EQ(0, irqs[VEC_NMI]);
	stage(LOWER | 3);
	GUEST_EQ(1, irqs[VEC_NMI]);
}

TEST(an_active_low_lint0_takes_each_fall_of_int)
{
	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	move_lines(active_low);
}

static void fixed_edges(u64 arg)
{
	(void)arg;
	guest_setup(VECTOR);
	for (u32 i = 1; i < 10; i++) {
		stage(3);
		GUEST_EQ(0, apic_bit(APIC_TMR, VECTOR));
		sti_nop_cli();
		GUEST_EQ(i, irqs[VECTOR]);
		stage(LOWER | 3);
		sti_nop_cli();
		GUEST_EQ(i, irqs[VECTOR]);
	}
	for (u32 vector = BASE; vector < BASE + 16; vector++)
		GUEST_EQ(0, irqs[vector]);
}

TEST(lint0_as_a_fixed_edge_brings_its_own_vector)
{
	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	move_lines(fixed_edges);
}

/* --- A level --- */

static u8 poll_pic(void)
{
	outb(PIC_MASTER, OCW3_POLL);
	return inb(PIC_MASTER);
}

static void fixed_level(u64 arg)
{
	(void)arg;
	guest_setup(VECTOR | LVT_LEVEL | LVT_MASKED);
	guest_handlers[VECTOR] = irq_count_only;
	outb(0x4d0, 1 << 3);
	stage(3);
	sti_nop_cli();
	GUEST_EQ(0, irqs[VECTOR]);
	apic_write(APIC_LVT0, VECTOR | LVT_LEVEL);	/* it opens, and the pin is high */
	GUEST_EQ(1, apic_bit(APIC_IRR, VECTOR));
	GUEST_EQ(1, apic_bit(APIC_TMR, VECTOR));
	GUEST_EQ(VECTOR | LVT_LEVEL | LVT_REMOTE_IRR, apic_read(APIC_LVT0));
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
	apic_eoi();			/* still high: once more */
	sti_nop_cli();
	GUEST_EQ(2, irqs[VECTOR]);
	GUEST_EQ(0x80 | 3, poll_pic());	/* the handler asks the PIC, which lowers INT */
	apic_eoi();
	GUEST_EQ(VECTOR | LVT_LEVEL, apic_read(APIC_LVT0));
	sti_nop_cli();
	GUEST_EQ(2, irqs[VECTOR]);
	outb(PIC_MASTER, OCW2_EOI);	/* and the end there raises it again */
	sti_nop_cli();
	GUEST_EQ(3, irqs[VECTOR]);
	stage(LOWER | 3);
	apic_eoi();
	sti_nop_cli();
	GUEST_EQ(3, irqs[VECTOR]);
	/* Active low it is asserted now. */
	apic_write(APIC_LVT0, VECTOR | LVT_LEVEL | LVT_LOW);
	sti_nop_cli();
	GUEST_EQ(4, irqs[VECTOR]);
	stage(3);
	apic_eoi();
	sti_nop_cli();
	GUEST_EQ(4, irqs[VECTOR]);
}

TEST(lint0_as_a_level_comes_again_until_int_falls)
{
	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	move_lines(fixed_level);
}

/* --- SMI, INIT; each CPU --- */

static void lint0_is(u64 lvt0)
{
	guest_setup(lvt0);
	guest_handlers[VECTOR] = irq_count_only; /* no EOI: a level would come again for ever */
	stage(1);
	asm volatile("nop");
	stage(2);
}

TEST(lint0_can_be_an_smi)
{
	static const u8 handler[] = { 0xe6, SMM_PORT, 0x0f, 0xaa };	/* out; rsm */
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, lint0_is, LVT_SMI);
	struct kvm_run *run;

	NEED_CAP(KVM_CAP_X86_SMM);
	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	memcpy(vm->low + 0x38000, handler, sizeof(handler));
	ASSERT_OK(vm_set_slot(vm, 0x10000, 0, 0, LOW_RAM_SIZE, vm->low));
	vcpu_run_to_stage(vcpu, 1);
	pulse(vm, 3);
	run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(SMM_PORT, run->io.port);
	EXPECT_EQ(KVM_RUN_X86_SMM, run->flags & KVM_RUN_X86_SMM);
	vcpu_run_to_stage(vcpu, 2);
}

TEST(lint0_can_be_an_init)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *ap;

	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	vcpu_add(vm, lint0_is, LVT_MASKED);
	ap = vcpu_add(vm, lint0_is, LVT_INIT);
	vcpu_run_to_stage(ap, 1);
	pulse(vm, 3);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	EXPECT_EQ(LVT_MASKED, vcpu_lapic(ap, APIC_LVT0));
}

TEST(int_reaches_lint0_of_every_cpu)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpus[3];

	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	for (u32 i = 0; i < 3; i++)
		vcpus[i] = vcpu_add(vm, lint0_is, i == 1 ? LVT_MASKED : LVT_NMI);
	for (u32 i = 0; i < 3; i++)
		vcpu_run_to_stage(vcpus[i], 1);
	pulse(vm, 3);
	for (u32 i = 0; i < 3; i++) {
		vcpu_run_to_stage(vcpus[i], 2);
		EXPECT_EQ(i == 2 ? 2 : 1, irqs[VEC_NMI]);
	}
}

TEST(a_halted_cpu_is_woken_by_lint0_as_nmi)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, lint0_is, LVT_NMI);

	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	vcpu_set_mp_state(vcpu, KVM_MP_STATE_HALTED);
	vcpu_start(vcpu);
	pulse(vm, 3);
	vcpu_wait_stage(vcpu, 2);
	EXPECT_EQ(1, irqs[VEC_NMI]);
	vcpu_stop(vcpu);
}

/* --- State --- */

/* A second VM gets the first one's PIC and LAPIC, in either order. */
static u32 restored(u32 lvt0, bool lapic_first, u32 vector)
{
	struct vm *vm = vm_create(VM_IRQCHIP), *copy;
	struct vcpu *vcpu = vcpu_add(vm, lint0_is, lvt0);
	struct kvm_irqchip pic = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
	struct kvm_lapic_state lapic;

	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	vm_irq_line(vm, 3, 1);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &pic));
	copy = vm_create(VM_IRQCHIP);
	vcpu = vcpu_add(copy, lint0_is, LVT_MASKED);
	vcpu_run_to_stage(vcpu, 1);
	vcpu_finish_exit(vcpu);
	if (lapic_first)
		ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	ASSERT_OK(ioctl(copy->fd, KVM_SET_IRQCHIP, &pic));
	if (!lapic_first)
		ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
	vcpu_sti(vcpu);
	vcpu_run_to_stage(vcpu, 2);
	return irqs[vector];
}

TEST(a_restored_int_is_a_level_and_no_edge)
{
	if (is_linux_kvm())
		SKIP(PIT_ALONE);
	EXPECT_EQ(0, restored(LVT_NMI, true, VEC_NMI));
	EXPECT_EQ(0, restored(LVT_NMI, false, VEC_NMI));
	EXPECT_EQ(0, restored(VECTOR, true, VECTOR));
	EXPECT_EQ(0, restored(VECTOR, false, VECTOR));
	irqs[VECTOR] = 0;
	EXPECT_EQ(1, restored(VECTOR | LVT_LEVEL, true, VECTOR));
	irqs[VECTOR] = 0;
	EXPECT_EQ(1, restored(VECTOR | LVT_LEVEL, false, VECTOR));
}

/* --- KVM_NMI: an NMI whatever LINT1's entry says, as the kernel's KVM API document has it --- */

static void lint1_is(u64 lvt1)
{
	guest_setup(LVT_MASKED);
	apic_write(APIC_LVT1, lvt1);
	stage(1);
	asm volatile("nop");
	GUEST_EQ(1, irqs[VEC_NMI]);
	/* Without its APIC the CPU has LINT1 as its NMI pin. */
	wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE) & ~APICBASE_ENABLE);
	stage(2);
	asm volatile("nop");
	GUEST_EQ(2, irqs[VEC_NMI]);
}

TEST(kvm_nmi_is_an_nmi_whatever_lint1_says)
{
	static const u32 lvt1[] = { LVT_MASKED, LVT_NMI, LVT_NMI | LVT_MASKED, LVT_EXTINT, VECTOR };

	for (u32 i = 0; i < sizeof(lvt1) / sizeof(lvt1[0]); i++) {
		struct vm *vm = vm_create(VM_IRQCHIP);
		struct vcpu *vcpu = vcpu_add(vm, lint1_is, lvt1[i]);

		ktap_about("LVT1 %#x", lvt1[i]);
		irqs[VEC_NMI] = 0;
		for (u32 nr = 1; nr < 3; nr++) {
			vcpu_run_to_stage(vcpu, nr);
			ASSERT_OK(ioctl(vcpu->fd, KVM_NMI));
		}
		vcpu_run_to_done(vcpu);
	}
}
