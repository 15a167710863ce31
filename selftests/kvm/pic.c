// SPDX-License-Identifier: GPL-2.0
/*
 * The pair of 8259A PICs: initialization, masks, priorities, end of interrupt,
 * level lines, polling, and their way to the CPU as ExtINT through LINT0.
 *
 * Read next: ioapic.c, pit.c.
 */
#include <string.h>

#include "vm.h"

#define ELCR 0x4d0
#define BASE 0x30		/* vectors of IRQs 0 to 7, then of 8 to 15 */

#define OCW2_SPECIFIC 0x60
#define OCW2_ROTATE_EOI 0xa0
#define OCW2_SET_PRIORITY 0xc0
#define OCW3_READ_IRR 0x0a
#define OCW3_READ_ISR 0x0b
#define OCW3_POLL 0x0c
#define OCW3_SET_SPECIAL_MASK 0x68

/* A stage is a wish to the host: raise this line, or lower it. */
#define LOWER 0x10

static void raise_line(u32 line)
{
	stage(line);
}

static void lower_line(u32 line)
{
	stage(LOWER | line);
}

static u8 pic_read(u16 pic, u8 ocw3)
{
	outb(pic, ocw3);
	return inb(pic);
}

/* Counts, and leaves the end of interrupt to the test. */
static void guest_setup(u8 icw4)
{
	for (u32 vector = BASE; vector < BASE + 16; vector++)
		guest_handlers[vector] = irq_count_only;
	pic_init(BASE, icw4);
	pic_mask(0);
	apic_enable();
	apic_write(APIC_LVT0, LVT_EXTINT);
}

static struct vcpu *start_guest(struct vm **vm, void (*guest)(u64 arg))
{
	*vm = vm_create(VM_IRQCHIP);
	return vcpu_add(*vm, guest, 0);
}

static void pulse(struct vm *vm, u32 gsi)
{
	vm_irq_line(vm, gsi, 1);
	vm_irq_line(vm, gsi, 0);
}

/* Runs the guest and does as its stages say. */
static void move_lines(void (*guest)(u64 arg))
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, guest);

	while (vcpu_step(vcpu) == EVENT_STAGE)
		vm_irq_line(vm, vcpu->stage & 0xf, !(vcpu->stage & LOWER));
	ASSERT_TRUE(vcpu->done);
}

/* --- Initialization and masks --- */

static void init_and_vectors(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(1);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 1]);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_IRR));
	GUEST_EQ(1 << 1, pic_read(PIC_MASTER, OCW3_READ_ISR));
	outb(PIC_MASTER, OCW2_EOI);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_ISR));
	/* An edge that stays high does not come again. */
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 1]);
	lower_line(1);
	raise_line(1);
	sti_nop_cli();
	GUEST_EQ(2, irqs[BASE + 1]);
}

TEST(an_edge_gives_the_vector_of_icw2)
{
	move_lines(init_and_vectors);
}

static void merged_edges(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(1);
	lower_line(1);
	raise_line(1);
	lower_line(1);
	sti_nop_cli();
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 1]);
}

TEST(two_edges_before_the_acknowledge_are_one_interrupt)
{
	move_lines(merged_edges);
}

static void slave_lines(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(12);
	GUEST_EQ(1 << 2, pic_read(PIC_MASTER, OCW3_READ_IRR));
	GUEST_EQ(1 << 4, pic_read(PIC_SLAVE, OCW3_READ_IRR));
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 12]);
	GUEST_EQ(1 << 2, pic_read(PIC_MASTER, OCW3_READ_ISR));
	GUEST_EQ(1 << 4, pic_read(PIC_SLAVE, OCW3_READ_ISR));
	outb(PIC_SLAVE, OCW2_EOI);
	outb(PIC_MASTER, OCW2_EOI);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_ISR));
	GUEST_EQ(0, pic_read(PIC_SLAVE, OCW3_READ_ISR));
}

TEST(a_line_of_the_slave_comes_through_the_masters_line_2)
{
	move_lines(slave_lines);
}

static void masks(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	pic_mask(1 << 3 | 1 << 10);
	GUEST_EQ(1 << 3, inb(PIC_MASTER + 1));
	GUEST_EQ(1 << 2, inb(PIC_SLAVE + 1));
	raise_line(3);
	raise_line(10);
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 3]);
	GUEST_EQ(0, irqs[BASE + 10]);
	/* It waits behind the mask. */
	GUEST_EQ(1 << 3, pic_read(PIC_MASTER, OCW3_READ_IRR));
	pic_mask(1 << 10);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
	outb(PIC_MASTER, OCW2_EOI);
	pic_mask(0);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 10]);
}

TEST(a_masked_line_waits_in_irr)
{
	move_lines(masks);
}

static void init_clears(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(5);
	pic_mask(0xffff);
	outb(PIC_MASTER, OCW3_READ_ISR);
	pic_init(BASE, ICW4_8086);
	/* ICW1 clears the mask, the edge seen, and selects IRR for reading. */
	GUEST_EQ(0, inb(PIC_MASTER + 1));
	GUEST_EQ(0, inb(PIC_MASTER));
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 5]);
}

TEST(initialization_clears_mask_and_edges)
{
	move_lines(init_clears);
}

/* --- Priorities and end of interrupt --- */

static void priorities(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(4);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 4]);
	/* In service: lower ones wait, higher ones come. */
	raise_line(6);
	raise_line(1);
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 6]);
	GUEST_EQ(1, irqs[BASE + 1]);
	GUEST_EQ(1 << 4 | 1 << 1, pic_read(PIC_MASTER, OCW3_READ_ISR));
	/* Unspecific EOI ends the highest. */
	outb(PIC_MASTER, OCW2_EOI);
	GUEST_EQ(1 << 4, pic_read(PIC_MASTER, OCW3_READ_ISR));
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 6]);
	outb(PIC_MASTER, OCW2_SPECIFIC | 4);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_ISR));
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 6]);
}

TEST(lower_lines_wait_for_the_end_of_higher_ones)
{
	move_lines(priorities);
}

static void both_pending(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	/* IRQ 8 to 15 stand between 1 and 3. */
	raise_line(3);
	raise_line(9);
	raise_line(1);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 1]);
	GUEST_EQ(0, irqs[BASE + 9] + irqs[BASE + 3]);
	outb(PIC_MASTER, OCW2_EOI);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 9]);
	GUEST_EQ(0, irqs[BASE + 3]);
	outb(PIC_SLAVE, OCW2_EOI);
	outb(PIC_MASTER, OCW2_EOI);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
}

TEST(pending_lines_come_in_order_of_priority)
{
	move_lines(both_pending);
}

static void rotation(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	/* Line 4 becomes the lowest, so 5 is the highest. */
	outb(PIC_MASTER, OCW2_SET_PRIORITY | 4);
	raise_line(1);
	raise_line(5);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 5]);
	GUEST_EQ(0, irqs[BASE + 1]);
	/* Rotating EOI: 5 is the lowest now. */
	outb(PIC_MASTER, OCW2_ROTATE_EOI);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 1]);
	lower_line(5);
	raise_line(5);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 5]);
	outb(PIC_MASTER, OCW2_EOI);
	sti_nop_cli();
	GUEST_EQ(2, irqs[BASE + 5]);
}

TEST(priorities_rotate)
{
	move_lines(rotation);
}

static void auto_eoi(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086 | ICW4_AUTO_EOI);
	raise_line(3);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_ISR));
	lower_line(3);
	raise_line(3);
	sti_nop_cli();
	GUEST_EQ(2, irqs[BASE + 3]);
}

TEST(automatic_eoi_leaves_nothing_in_service)
{
	move_lines(auto_eoi);
}

static void special_mask(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(3);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
	/* With 3 masked and the special mask on, lower lines come in. */
	pic_mask(1 << 3);
	outb(PIC_MASTER, OCW3_SET_SPECIAL_MASK);
	raise_line(6);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 6]);
}

TEST(special_mask_mode_lets_lower_lines_in)
{
	if (is_linux_kvm())
		SKIP("Linux KVM keeps the mode and does nothing with it");
	move_lines(special_mask);
}

/* --- Level lines, spurious interrupts, polling --- */

static void level(u64 arg)
{
	(void)arg;
	outb(ELCR, 1 << 5);
	outb(ELCR + 1, 1 << 2);
	GUEST_EQ(1 << 5, inb(ELCR));
	GUEST_EQ(1 << 2, inb(ELCR + 1));
	guest_setup(ICW4_8086);
	raise_line(5);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 5]);
	outb(PIC_MASTER, OCW2_EOI);
	/* Still high: again. */
	sti_nop_cli();
	GUEST_EQ(2, irqs[BASE + 5]);
	lower_line(5);
	outb(PIC_MASTER, OCW2_EOI);
	sti_nop_cli();
	GUEST_EQ(2, irqs[BASE + 5]);
}

TEST(a_level_line_comes_again_until_it_falls)
{
	move_lines(level);
}

static void elcr_fixed_bits(u64 arg)
{
	(void)arg;
	/* Timer, keyboard, cascade, RTC and FPU are edge lines for ever. */
	outb(ELCR, 0xff);
	outb(ELCR + 1, 0xff);
	GUEST_EQ(0xf8, inb(ELCR));
	GUEST_EQ(0xde, inb(ELCR + 1));
}

TEST(elcr_keeps_the_fixed_edge_lines)
{
	move_lines(elcr_fixed_bits);
}

static void mask_after_edge(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	raise_line(4);
	lower_line(4);
	pic_mask(0xffff);
	sti_nop_cli();
	for (u32 irq = 0; irq < 16; irq++)
		GUEST_EQ(0, irqs[BASE + irq]);
}

TEST(a_line_masked_before_it_was_taken_gives_no_wrong_vector)
{
	move_lines(mask_after_edge);
}

static void level_gone(u64 arg)
{
	(void)arg;
	outb(ELCR, 1 << 5);
	guest_setup(ICW4_8086);
	raise_line(5);
	lower_line(5);
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 5]);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_ISR));
	GUEST_TRUE(irqs[BASE + 7] <= 1);
}

TEST(a_level_that_fell_in_time_leaves_no_service_bit)
{
	move_lines(level_gone);
}

static void polling(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	apic_write(APIC_LVT0, LVT_EXTINT | LVT_MASKED);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_POLL) & 0x80);
	raise_line(6);
	/* Bit 7 says that there is one. */
	GUEST_EQ(0x80 | 6, pic_read(PIC_MASTER, OCW3_POLL));
	/* The read was the acknowledge. */
	GUEST_EQ(1 << 6, pic_read(PIC_MASTER, OCW3_READ_ISR));
	outb(PIC_MASTER, OCW2_EOI);
	GUEST_EQ(0, pic_read(PIC_MASTER, OCW3_READ_ISR));
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 6]);
}

TEST(polling_takes_the_highest_line)
{
	if (is_linux_kvm())
		SKIP("Linux KVM's poll gives no bit 7 and acknowledges nothing");
	move_lines(polling);
}

/* --- The way to the CPU --- */

static void masked_lint0(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	apic_write(APIC_LVT0, LVT_EXTINT | LVT_MASKED);
	raise_line(3);
	sti_nop_cli();
	GUEST_EQ(0, irqs[BASE + 3]);
	apic_write(APIC_LVT0, LVT_EXTINT);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
}

TEST(a_masked_lint0_holds_the_pic_back_until_it_opens)
{
	if (is_linux_kvm())
		SKIP("Linux KVM looks at the PIC again at the next event only");
	move_lines(masked_lint0);
}

static void whatever_tpr(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	/* ExtINT is none of the LAPIC's: no service bit, TPR does not count. */
	write_cr8(15);
	raise_line(3);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
	for (u32 i = 0; i < 8; i++)
		GUEST_EQ(0, apic_read(APIC_ISR + i * 16));
}

TEST(extint_comes_whatever_the_tpr)
{
	move_lines(whatever_tpr);
}

static void apic_off(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	wrmsr(MSR_APICBASE, rdmsr(MSR_APICBASE) & ~APICBASE_ENABLE);
	raise_line(3);
	sti_nop_cli();
	GUEST_EQ(1, irqs[BASE + 3]);
}

TEST(the_pic_is_wired_to_a_cpu_whose_apic_is_off)
{
	move_lines(apic_off);
}

static void halted_by_pic(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	for (u32 i = 1; i <= 50; i++) {
		stage(i);
		while (irqs[BASE + 3] != i)
			sti_hlt_cli();
		outb(PIC_MASTER, OCW2_EOI);
	}
}

TEST(the_pic_wakes_a_halted_vcpu_every_time)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, halted_by_pic);

	vcpu_start(vcpu);
	for (u32 i = 1; i <= 50; i++) {
		vcpu_wait_stage(vcpu, i);
		pulse(vm, 3);
	}
	vcpu_wait_done(vcpu);
}

/* --- State --- */

static void set_up_and_stop(u64 arg)
{
	(void)arg;
	guest_setup(ICW4_8086);
	pic_mask(0x80c0);
	outb(ELCR, 0x20);
	stage(0x100);
	sti_nop_cli();
}

TEST(pic_state_shows_what_the_guest_did_and_round_trips)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, set_up_and_stop);
	struct kvm_irqchip set = { .chip_id = KVM_IRQCHIP_PIC_MASTER }, got;

	vcpu_run_to_stage(vcpu, 0x100);
	vm_irq_line(vm, 4, 1);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &set));
	EXPECT_EQ(BASE, set.chip.pic.irq_base);
	EXPECT_EQ(0xc0, set.chip.pic.imr);
	EXPECT_EQ(0x20, set.chip.pic.elcr);
	EXPECT_EQ(1 << 4, set.chip.pic.irr & ~4);
	EXPECT_EQ(0, set.chip.pic.isr);
	set.chip.pic.imr = 0x11;
	set.chip.pic.irq_base = 0x48;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &set));
	got.chip_id = KVM_IRQCHIP_PIC_MASTER;
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &got));
	EXPECT_EQ(0, memcmp(&set.chip.pic, &got.chip.pic, sizeof(set.chip.pic)));
	got.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &got));
	EXPECT_EQ(BASE + 8, got.chip.pic.irq_base);
	EXPECT_EQ(0x80, got.chip.pic.imr);
}

TEST(a_request_restored_by_set_irqchip_interrupts)
{
	struct vm *vm;
	struct vcpu *vcpu = start_guest(&vm, set_up_and_stop);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

	vcpu_run_to_stage(vcpu, 0x100);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	chip.chip.pic.irr |= 1 << 3;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(1, irqs[BASE + 3]);
}
