// SPDX-License-Identifier: GPL-2.0
/*
 * The IOAPIC: registers, edge and level pins, remote-IRR, masks, destinations,
 * delivery modes, and its state through KVM_GET_IRQCHIP / KVM_SET_IRQCHIP.
 *
 * A guest tells a stage, the test moves a line with KVM_IRQ_LINE and lets the
 * guest go on: so each step is certain. GSIs 16 to 23 reach the IOAPIC alone.
 *
 * Read next: routing.c, pic.c.
 */
#include <string.h>

#include "vm.h"

#define PIN 20
#define VECTOR 0x60

static volatile u32 taken_by[4];
static volatile bool ready[4], finish;

static struct vcpu *start_guest(struct vm **vm, void (*guest)(u64 arg))
{
	*vm = vm_create(VM_IRQCHIP);
	return vcpu_add(*vm, guest, 0);
}

static void guest_setup(void)
{
	irq_count_range(0x20, 0xfe);
	apic_enable();
}

/* --- Registers --- */

static void registers(u64 arg)
{
	(void)arg;
	GUEST_EQ(0x11, ioapic_read(IOAPIC_REG_VERSION) & 0xff);
	GUEST_EQ(23, ioapic_read(IOAPIC_REG_VERSION) >> 16 & 0xff);
	for (u32 pin = 0; pin < 24; pin++)
		GUEST_EQ(RTE_MASKED, rte_read(pin) & 0x1ffff);
	ioapic_write(IOAPIC_REG_ID, 0xffffffff);
	GUEST_EQ(0x0f000000, ioapic_read(IOAPIC_REG_ID));
	ioapic_write(IOAPIC_REG_VERSION, 0);
	GUEST_EQ(23, ioapic_read(IOAPIC_REG_VERSION) >> 16 & 0xff);
	/* Delivery status and remote-IRR are read-only. */
	rte_write(PIN, RTE_DEST(0xab) | RTE_MASKED | RTE_LEVEL | RTE_LOW |
		  RTE_LOGICAL | RTE_LOWEST | RTE_PENDING | RTE_REMOTE_IRR | 0x77);
	GUEST_EQ(RTE_DEST(0xab) | RTE_MASKED | RTE_LEVEL | RTE_LOW |
		 RTE_LOGICAL | RTE_LOWEST | 0x77, rte_read(PIN));
	GUEST_EQ(RTE_MASKED, rte_read(PIN + 1) & 0x1ffff);
}

TEST(registers_have_their_reset_values_and_writable_bits)
{
	struct vm *vm;

	vcpu_run_to_done(start_guest(&vm, registers));
}

static void sweep(u64 arg)
{
	(void)arg;
	for (u32 index = 0; index < 256; index++) {
		mmio_write32(IOAPIC_BASE, index);
		GUEST_EQ(index, mmio_read32(IOAPIC_BASE) & 0xff);
		(void)*(volatile u8 *)(IOAPIC_BASE + 0x10);
		(void)*(volatile u16 *)(IOAPIC_BASE + 0x10);
		(void)*(volatile u64 *)(IOAPIC_BASE + 0x10);
		if (index >= 0x10 + 48)
			mmio_write32(IOAPIC_BASE + 0x10, 0xffffffff);
	}
	for (u32 pin = 0; pin < 24; pin++)
		GUEST_EQ(RTE_MASKED, rte_read(pin) & 0x1ffff);
}

TEST(no_index_and_access_size_reaches_past_the_registers)
{
	struct vm *vm;

	vcpu_run_to_done(start_guest(&vm, sweep));
}

/* --- Edge --- */

static void edge(u64 arg)
{
	(void)arg;
	guest_setup();
	rte_write(PIN, VECTOR);
	stage(1);			/* raised */
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
	GUEST_EQ(0, rte_read(PIN) & RTE_REMOTE_IRR);
	stage(2);			/* lowered */
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
	stage(3);			/* raised */
	sti_nop_cli();
	GUEST_EQ(2, irqs[VECTOR]);
}

TEST(a_rising_edge_interrupts_once)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, edge);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_stage(vcpu, 2);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_stage(vcpu, 3);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_done(vcpu);
}

static void edge_masked(u64 arg)
{
	(void)arg;
	guest_setup();
	rte_write(PIN, RTE_MASKED | VECTOR);
	stage(1);			/* pulsed */
	rte_write(PIN, VECTOR);
	sti_nop_cli();
	GUEST_EQ(0, irqs[VECTOR]);
	stage(2);			/* pulsed */
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
}

static void pulse(struct vm *vm, u32 gsi)
{
	vm_irq_line(vm, gsi, 1);
	vm_irq_line(vm, gsi, 0);
}

TEST(an_edge_on_a_masked_pin_is_lost)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, edge_masked);

	vcpu_run_to_stage(vcpu, 1);
	pulse(vm, PIN);
	vcpu_run_to_stage(vcpu, 2);
	pulse(vm, PIN);
	vcpu_run_to_done(vcpu);
}

/* --- Level --- */

static volatile u32 level_taken;

/* Looks at remote-IRR before and after its EOI. */
static void on_level(struct guest_frame *frame)
{
	(void)frame;
	level_taken++;
	GUEST_EQ(RTE_REMOTE_IRR, rte_read(PIN) & RTE_REMOTE_IRR);
	GUEST_TRUE(apic_bit(APIC_TMR, VECTOR));
	stage(100);			/* the line may fall here */
	apic_eoi();
}

static void level(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = on_level;
	rte_write(PIN, RTE_LEVEL | VECTOR);
	stage(1);			/* raised */
	sti_nop_cli();
	stage(2);
	GUEST_EQ(3, level_taken);
	GUEST_EQ(0, rte_read(PIN) & RTE_REMOTE_IRR);
	sti_nop_cli();
	GUEST_EQ(3, level_taken);
}

TEST(a_high_level_interrupts_again_after_each_eoi_until_it_falls)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, level);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_stage(vcpu, 100);
	vcpu_run_to_stage(vcpu, 100);
	vcpu_run_to_stage(vcpu, 100);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_done(vcpu);
}

static void level_masked(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = on_level;
	rte_write(PIN, RTE_MASKED | RTE_LEVEL | VECTOR);
	stage(1);			/* raised */
	sti_nop_cli();
	GUEST_EQ(0, level_taken);
	rte_write(PIN, RTE_LEVEL | VECTOR);
	sti_nop_cli();
	GUEST_EQ(1, level_taken);
}

TEST(unmasking_a_pin_whose_level_is_high_interrupts)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, level_masked);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_stage(vcpu, 100);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_done(vcpu);
}

/* As Linux does for threaded handlers: mask, EOI, later unmask. */
static void on_level_mask(struct guest_frame *frame)
{
	(void)frame;
	level_taken++;
	rte_write(PIN, RTE_MASKED | RTE_LEVEL | VECTOR);
	apic_eoi();
}

static void masked_in_service(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = on_level_mask;
	rte_write(PIN, RTE_LEVEL | VECTOR);
	stage(1);			/* raised */
	sti_nop_cli();
	GUEST_EQ(1, level_taken);
	sti_nop_cli();
	GUEST_EQ(1, level_taken);
	stage(2);			/* lowered */
	rte_write(PIN, RTE_LEVEL | VECTOR);
	sti_nop_cli();
	GUEST_EQ(1, level_taken);
	stage(3);			/* raised */
	sti_nop_cli();
	GUEST_EQ(2, level_taken);
}

TEST(a_level_pin_masked_in_service_gives_nothing_spurious_later)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, masked_in_service);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_stage(vcpu, 2);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_stage(vcpu, 3);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_done(vcpu);
}

static void on_level_rewrite(struct guest_frame *frame)
{
	level_taken++;
	if (frame->vector == VECTOR)
		rte_write(PIN, RTE_LEVEL | (VECTOR + 1));
	else
		stage(100);		/* lowered */
	apic_eoi();
}

static void rewrite_in_service(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = guest_handlers[VECTOR + 1] = on_level_rewrite;
	rte_write(PIN, RTE_LEVEL | VECTOR);
	stage(1);			/* raised */
	sti_nop_cli();
	sti_nop_cli();
	stage(2);
	GUEST_EQ(2, level_taken);
	GUEST_EQ(0, rte_read(PIN) & RTE_REMOTE_IRR);
}

TEST(an_entry_rewritten_in_service_does_not_keep_its_remote_irr)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, rewrite_in_service);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	ASSERT_EQ(EVENT_STAGE, vcpu_step(vcpu));
	if (vcpu->stage != 100 && is_linux_kvm())
		SKIP("Linux KVM loses this: the old vector's EOI no longer matches");
	ASSERT_EQ(100, vcpu->stage);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_stage(vcpu, 2);
	vcpu_run_to_done(vcpu);
}

static void on_level_no_eoi(struct guest_frame *frame)
{
	(void)frame;
	level_taken++;
}

static void edge_toggle(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = on_level_no_eoi;
	rte_write(PIN, RTE_LEVEL | VECTOR);
	stage(1);			/* raised */
	sti_nop_cli();
	GUEST_EQ(1, level_taken);
	GUEST_EQ(RTE_REMOTE_IRR, rte_read(PIN) & RTE_REMOTE_IRR);
	stage(2);			/* lowered */
	/* The way of old Linux to end an interrupt without an EOI message. */
	rte_write(PIN, RTE_MASKED | VECTOR);
	rte_write(PIN, RTE_LEVEL | (VECTOR + 0x10));
	GUEST_EQ(0, rte_read(PIN) & RTE_REMOTE_IRR);
	stage(3);			/* raised */
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR + 0x10]);
}

TEST(edge_and_back_to_level_clears_remote_irr)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, edge_toggle);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_stage(vcpu, 2);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_stage(vcpu, 3);
	vm_irq_line(vm, PIN, 1);
	/* Its handler ends it and the line stays high: bounded by the test. */
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_done(vcpu);
}

static void storm(u64 arg)
{
	(void)arg;
	guest_setup();
	rte_write(PIN, RTE_LEVEL | VECTOR);
	stage(1);			/* raised, for good */
	sti();
	for (int i = 0; i < 50; i++)
		cpu_relax();
	cli();
}

TEST(a_level_that_never_falls_does_not_stop_the_guest)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, storm);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_done(vcpu);
	EXPECT_LT(1, irqs[VECTOR]);
}

static void polarity(u64 arg)
{
	(void)arg;
	guest_setup();
	rte_write(PIN, RTE_LOW | VECTOR);
	sti_nop_cli();
	GUEST_EQ(0, irqs[VECTOR]);
	stage(1);			/* level 1 */
	sti_nop_cli();
	GUEST_EQ(1, irqs[VECTOR]);
}

TEST(level_1_of_an_irq_line_means_asserted_whatever_the_polarity)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, polarity);

	vcpu_run_to_stage(vcpu, 1);
	vm_irq_line(vm, PIN, 1);
	vcpu_run_to_done(vcpu);
}

/* --- KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS --- */

static int line_status(struct vm *vm, u32 gsi, u32 level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	ASSERT_OK(ioctl(vm->fd, KVM_IRQ_LINE_STATUS, &irq));
	return irq.status;
}

static void status_guest(u64 arg)
{
	(void)arg;
	guest_setup();
	rte_write(PIN, RTE_MASKED | VECTOR);
	stage(1);
	rte_write(PIN, VECTOR);
	stage(2);
}

TEST(irq_line_status_tells_masked_delivered_and_coalesced)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, status_guest);

	NEED_CAP(KVM_CAP_IRQ_INJECT_STATUS);
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(-1, line_status(vm, PIN, 1));
	line_status(vm, PIN, 0);
	vcpu_run_to_stage(vcpu, 2);
	EXPECT_EQ(1, line_status(vm, PIN, 1));
	EXPECT_EQ(0, line_status(vm, PIN, 1));
	line_status(vm, PIN, 0);
	vcpu_run_to_done(vcpu);
}

static void many_pins(u64 arg)
{
	(void)arg;
	guest_setup();
	for (u32 pin = 16; pin < 24; pin++)
		rte_write(pin, 0x40 + pin * 4);
	stage(1);			/* all raised */
	sti();
	for (u32 pin = 16; pin < 24; pin++)
		GUEST_WAIT(irqs[0x40 + pin * 4] == 1);
	cli();
}

TEST(several_lines_at_once_each_interrupt)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, many_pins);

	vcpu_run_to_stage(vcpu, 1);
	for (u32 pin = 16; pin < 24; pin++)
		pulse(vm, pin);
	vcpu_run_to_done(vcpu);
}

TEST(lines_that_are_not_there_do_no_harm)
{
	static const u32 gsis[] = { 24, 255, 4095, 4096, 0x7fffffff, 0xffffffff };
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, many_pins);

	vcpu_run_to_stage(vcpu, 1);
	for (int i = 0; i < 6; i++) {
		struct kvm_irq_level irq = { .irq = gsis[i], .level = 1 };

		if (ioctl(vm->fd, KVM_IRQ_LINE, &irq))
			EXPECT_EQ(EINVAL, errno);
	}
	for (u32 pin = 16; pin < 24; pin++)
		pulse(vm, pin);
	vcpu_run_to_done(vcpu);
}

/* --- Destinations and delivery modes --- */

static void on_taken(struct guest_frame *frame)
{
	u32 cpu = ((u64)frame - (u64)guest_stacks) / sizeof(guest_stacks[0]);

	taken_by[cpu]++;
	if (frame->vector != VEC_NMI)
		apic_eoi();
}

static void wait_for_irqs(u64 cpu)
{
	apic_write(APIC_LDR, 1 << (24 + cpu));
	apic_enable();
	ready[cpu] = true;
	while (!finish)
		sti_hlt_cli();
}

static u64 test_rte;

/* CPU 0 programs each entry the host asks for. */
static void program_rtes(u64 cpu)
{
	apic_write(APIC_LDR, 1 << (24 + cpu));
	apic_enable();
	for (;;) {
		stage(1);
		if (!test_rte)
			break;
		rte_write(PIN, test_rte);
		stage(2);
		sti_nop_cli();
	}
	finish = true;
	apic_icr(0, ICR_OTHERS | VECTOR);
}

static u32 sum_taken(void)
{
	return taken_by[0] + taken_by[1] + taken_by[2] + taken_by[3];
}

TEST(destinations_and_delivery_modes_of_an_entry)
{
	/* want: CPUs that take it; any: just one of these. */
	static const struct {
		u64 rte;
		u32 want;
		bool any;
	} cases[] = {
		{ RTE_DEST(2) | VECTOR, 0x4, false },
		{ RTE_DEST(0) | VECTOR, 0x1, false },
		{ RTE_DEST(0xff) | VECTOR, 0xf, false },
		{ RTE_DEST(0xa) | RTE_LOGICAL | VECTOR, 0xa, false },
		{ RTE_DEST(0xe) | RTE_LOGICAL | RTE_LOWEST | VECTOR, 0xe, true },
		{ RTE_DEST(3) | RTE_NMI | VECTOR, 0x8, false },
	};
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, program_rtes, 0);

	guest_handlers[VECTOR] = guest_handlers[VEC_NMI] = on_taken;
	for (int i = 1; i < 4; i++)
		vcpu_start(vcpu_add(vm, wait_for_irqs, i));
	for (int i = 1; i < 4; i++)
		WAIT_FOR(ready[i]);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		u32 number = cases[i].any ? 1 : __builtin_popcount(cases[i].want);

		ktap_about("case %zu", i);
		memset((void *)taken_by, 0, sizeof(taken_by));
		test_rte = cases[i].rte;
		vcpu_run_to_stage(vcpu, 1);
		vcpu_run_to_stage(vcpu, 2);
		pulse(vm, PIN);
		/* CPU 0 takes its own on the way to the next stage. */
		if (cases[i].want & 1) {
			test_rte = RTE_MASKED;
			vcpu_run_to_stage(vcpu, 1);
			vcpu_run_to_stage(vcpu, 2);
		}
		WAIT_FOR(sum_taken() == number);
		for (int cpu = 0; cpu < 4; cpu++)
			if (cases[i].any || !(cases[i].want >> cpu & 1))
				EXPECT_LE(taken_by[cpu], cases[i].want >> cpu & 1);
			else
				EXPECT_EQ(1, taken_by[cpu]);
	}
	test_rte = 0;
	vcpu_run_to_done(vcpu);
	for (int i = 1; i < 4; i++)
		vcpu_wait_done(vm->vcpus[i]);
}

/* Has the guest write the entry, and pulses the pin. */
static void pulse_with(struct vm *vm, u64 rte)
{
	test_rte = rte;
	vcpu_run_to_stage(vm->vcpus[0], 1);
	vcpu_run_to_stage(vm->vcpus[0], 2);
	pulse(vm, PIN);
}

TEST(a_pin_can_send_init_and_smi_and_extint_reaches_nobody)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct vcpu *target;

	vcpu_add(vm, program_rtes, 0);
	target = vcpu_add(vm, wait_for_irqs, 1);
	ASSERT_OK(ioctl(target->fd, KVM_GET_LAPIC, &lapic));
	ASSERT_OK(ioctl(target->fd, KVM_SET_LAPIC, &lapic));
	pulse_with(vm, RTE_DEST(1) | RTE_EXTINT | VECTOR);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(target));
	for (u32 vector = 0; vector < 256; vector++)
		EXPECT_TRUE(!vcpu_lapic_bit(target, APIC_IRR, vector));
	if (capability(KVM_CAP_X86_SMM) > 0) {
		pulse_with(vm, RTE_DEST(1) | ICR_SMI);
		vcpu_get_events(target, &events);
		EXPECT_EQ(1, events.smi.pending);
	}
	pulse_with(vm, RTE_DEST(1) | ICR_INIT);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(target));
}

static void halted_by_pin(u64 arg)
{
	(void)arg;
	guest_setup();
	rte_write(PIN, VECTOR);
	for (u32 i = 1; i <= 200; i++) {
		stage(i);
		while (irqs[VECTOR] != i)
			sti_hlt_cli();
	}
}

TEST(a_line_wakes_a_halted_vcpu_every_time)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, halted_by_pin);

	vcpu_start(vcpu);
	for (u32 i = 1; i <= 200; i++) {
		vcpu_wait_stage(vcpu, i);
		pulse(vm, PIN);
	}
	vcpu_wait_done(vcpu);
}

/* --- State --- */

TEST(ioapic_state_round_trip)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irqchip set = { .chip_id = KVM_IRQCHIP_IOAPIC }, got;

	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &set));
	EXPECT_EQ(IOAPIC_BASE, set.chip.ioapic.base_address);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		set.chip.ioapic.redirtbl[pin].bits =
			RTE_DEST(pin) | RTE_MASKED | RTE_LEVEL | (0x30 + pin);
	set.chip.ioapic.id = 7;
	set.chip.ioapic.ioregsel = 0x12;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &set));
	memset(&got, 0, sizeof(got));
	got.chip_id = KVM_IRQCHIP_IOAPIC;
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &got));
	EXPECT_EQ(7, got.chip.ioapic.id);
	EXPECT_EQ(0x12, got.chip.ioapic.ioregsel);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		EXPECT_EQ(set.chip.ioapic.redirtbl[pin].bits,
			  got.chip.ioapic.redirtbl[pin].bits);
}

TEST(a_chip_that_is_not_there_is_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irqchip chip = { .chip_id = 3 };

	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	chip.chip_id = 0xffffffff;
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
}

static void restored_level(u64 arg)
{
	(void)arg;
	guest_setup();
	guest_handlers[VECTOR] = on_level;
	stage(1);			/* state set: pin high, unmasked */
	sti_nop_cli();
	GUEST_EQ(1, level_taken);
}

TEST(a_pending_level_restored_by_set_irqchip_interrupts)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, restored_level);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	vcpu_run_to_stage(vcpu, 1);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[PIN].bits = RTE_LEVEL | VECTOR;
	chip.chip.ioapic.irr = 1 << PIN;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	vcpu_run_to_stage(vcpu, 100);
	vm_irq_line(vm, PIN, 0);
	vcpu_run_to_done(vcpu);
}
