// SPDX-License-Identifier: GPL-2.0
/*
 * The 8254 PIT: its ticks as IRQ 0, counts read back, the gate and output of
 * channel 2 at port 0x61, and KVM_GET_PIT2 / KVM_SET_PIT2.
 *
 * Read next: pic.c.
 */
#include <string.h>

#include "vm.h"

#define PIT_COUNTER0 0x40
#define PIT_COUNTER2 0x42
#define PIT_CONTROL 0x43
#define PORT_B 0x61
#define PORT_B_GATE 0x01
#define PORT_B_SPEAKER 0x02
#define PORT_B_OUT 0x20

/* Control words: channel, low then high byte, mode. */
#define CONTROL(channel, mode) ((channel) << 6 | 0x30 | (mode) << 1)
#define LATCH(channel) ((channel) << 6)
#define READ_BACK_STATUS(channel) (0xe0 | 2 << (channel))
#define READ_BACK_BOTH(channel) (0xc0 | 2 << (channel))

#define PIT_HZ 1193182
#define BASE 0x30
#define TICKS (irqs[BASE])

static struct vm *vm_with_pit(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_pit_config config = { .flags = KVM_PIT_SPEAKER_DUMMY };

	ASSERT_OK(ioctl(vm->fd, KVM_CREATE_PIT2, &config));
	return vm;
}

static void run_guest_arg(void (*guest)(u64 arg), u64 arg)
{
	struct vm *vm = vm_with_pit();

	vcpu_run_to_done(vcpu_add(vm, guest, arg));
}

static void run_guest(void (*guest)(u64 arg))
{
	run_guest_arg(guest, 0);
}

static void on_tick(struct guest_frame *frame)
{
	irq_count_only(frame);
	outb(PIC_MASTER, OCW2_EOI);
}

/* IRQ 0 through the PIC, all else masked. */
static void guest_setup(void)
{
	irq_count_range(0x40, 0xfe);
	guest_handlers[BASE] = on_tick;
	pic_init(BASE, ICW4_8086);
	pic_mask(0xfffe);
	apic_enable();
	apic_write(APIC_LVT0, LVT_EXTINT);
}

static void pit_program(u32 channel, u32 mode, u32 count)
{
	outb(PIT_CONTROL, CONTROL(channel, mode));
	outb(PIT_COUNTER0 + channel, count);
	outb(PIT_COUNTER0 + channel, count >> 8);
}

static u32 pit_read(u32 channel)
{
	u32 low;

	outb(PIT_CONTROL, LATCH(channel));
	low = inb(PIT_COUNTER0 + channel);
	return low | inb(PIT_COUNTER0 + channel) << 8;
}

/* Lets some milliseconds pass by the local APIC's timer. */
static void pass_time(void)
{
	irqs[0x80] = 0;
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, 0x80);
	apic_write(APIC_TMICT, 5000000);
	sti();
	GUEST_WAIT(irqs[0x80]);
	cli();
}

/* --- Ticks --- */

static void mode_0(u64 arg)
{
	(void)arg;
	guest_setup();
	pit_program(0, 0, 1000);
	sti();
	GUEST_WAIT(TICKS == 1);
	cli();
	pass_time();
	GUEST_EQ(1, TICKS);
	/* A new count, a new tick. */
	outb(PIT_COUNTER0, 200);
	outb(PIT_COUNTER0, 0);
	sti();
	GUEST_WAIT(TICKS == 2);
	cli();
}

TEST(mode_0_ticks_once_for_each_count)
{
	run_guest(mode_0);
}

static void mode_2(u64 arg)
{
	(void)arg;
	guest_setup();
	pit_program(0, 2, 1193);
	sti();
	GUEST_WAIT(TICKS >= 10);
	cli();
	/* One shot, so one tick at the most. */
	pit_program(0, 0, 0xffff);
	sti_nop_cli();
	TICKS = 0;
	pass_time();
	GUEST_TRUE(TICKS <= 1);
}

TEST(mode_2_ticks_until_it_is_programmed_anew)
{
	run_guest(mode_2);
}

static void control_alone(u64 arg)
{
	(void)arg;
	guest_setup();
	pit_program(0, 2, 1193);
	sti();
	GUEST_WAIT(TICKS >= 3);
	cli();
	/* A control word stops the count until a new one is written. */
	outb(PIT_CONTROL, CONTROL(0, 2));
	sti_nop_cli();
	TICKS = 0;
	pass_time();
	GUEST_EQ(0, TICKS);
	outb(PIT_COUNTER0, 1193 & 0xff);
	outb(PIT_COUNTER0, 1193 >> 8);
	sti();
	GUEST_WAIT(TICKS >= 3);
	cli();
}

TEST(a_control_word_without_a_count_stops_the_ticks)
{
	if (is_linux_kvm())
		SKIP("Linux KVM ticks on until the new count");
	run_guest(control_alone);
}

static void mode_3(u64 arg)
{
	(void)arg;
	guest_setup();
	pit_program(0, 3, 1193);
	sti();
	GUEST_WAIT(TICKS >= 10);
	cli();
}

TEST(mode_3_ticks_periodically)
{
	run_guest(mode_3);
}

static void mode_4(u64 arg)
{
	(void)arg;
	guest_setup();
	for (u32 i = 1; i <= 3; i++) {
		pit_program(0, 4, 1000);
		sti();
		GUEST_WAIT(TICKS == i);
		cli();
		pass_time();
		GUEST_EQ(i, TICKS);
	}
}

TEST(mode_4_ticks_once_for_each_count)
{
	run_guest(mode_4);
}

#define MISSED 50
#define SLOW_COUNT 4772		/* 4 ms */

static u64 slow_start, tsc_of_slow_tick;

static u64 slow_ticks_due(void)
{
	return (rdtsc() - slow_start) / tsc_of_slow_tick;
}

/* Interrupts stay off for many ticks; then time for those that are owed. */
static void missed_ticks(u64 discarded)
{
	u64 until;

	guest_setup();
	pit_program(0, 2, SLOW_COUNT);
	slow_start = rdtsc();
	GUEST_WAIT(slow_ticks_due() >= MISSED);
	until = slow_ticks_due() + (discarded ? 50 : 1000);
	sti();
	while (TICKS + 2 < slow_ticks_due() && slow_ticks_due() < until)
		cpu_relax();
	cli();
	if (discarded)
		GUEST_TRUE(TICKS + MISSED - 2 <= slow_ticks_due());
	else
		GUEST_TRUE(slow_ticks_due() < until);
}

TEST(missed_ticks_come_later_unless_they_are_to_be_discarded)
{
	NEED_CAP(KVM_CAP_REINJECT_CONTROL);
	for (u64 discarded = 0; discarded <= 1; discarded++) {
		struct vm *vm = vm_with_pit();
		struct vcpu *vcpu = vcpu_add(vm, missed_ticks, discarded);
		struct kvm_reinject_control control = { .pit_reinject = !discarded };
		int khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ);

		ASSERT_LT(0, khz);
		ktap_about("discarded: %llu", (unsigned long long)discarded);
		tsc_of_slow_tick = khz * 1000ull * SLOW_COUNT / PIT_HZ;
		TICKS = 0;
		ASSERT_OK(ioctl(vm->fd, KVM_REINJECT_CONTROL, &control));
		vcpu_run_to_done(vcpu);
	}
}

TEST(reinject_control_refuses_values_in_its_reserved_bytes)
{
	struct vm *vm = vm_with_pit();
	struct kvm_reinject_control first = { .reserved[0] = 1 }, last = { .reserved[30] = 1 };

	NEED_CAP(KVM_CAP_REINJECT_CONTROL);
	if (is_linux_kvm())
		SKIP("Linux KVM does not look at them");
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_REINJECT_CONTROL, &first));
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_REINJECT_CONTROL, &last));
}

#define NR_TICKS 100

static void hundred_ticks(u64 arg)
{
	(void)arg;
	guest_setup();
	stage(1);
	pit_program(0, 2, 1193);
	while (TICKS < NR_TICKS)
		sti_hlt_cli();
}

TEST(ticks_do_not_run_ahead_of_time)
{
	struct vm *vm = vm_with_pit();
	struct vcpu *vcpu = vcpu_add(vm, hundred_ticks, 0);
	u64 start;

	vcpu_run_to_stage(vcpu, 1);
	start = ktap_now_ns();
	vcpu_run_to_done(vcpu);
	EXPECT_LE((NR_TICKS - 1) * 1193ull * 1000000000 / PIT_HZ,
		  ktap_now_ns() - start);
}

static void through_ioapic(u64 arg)
{
	(void)arg;
	irq_count_range(0x40, 0xfe);
	apic_enable();
	apic_write(APIC_LVT0, LVT_MASKED);
	/* The default table has GSI 0 at pin 0. */
	rte_write(0, 0x55);
	pit_program(0, 2, 1193);
	sti();
	GUEST_WAIT(irqs[0x55] >= 10);
	cli();
}

TEST(ticks_reach_the_ioapic_too)
{
	run_guest(through_ioapic);
}

static void ticks_after_restore(u64 through_pic)
{
	if (through_pic) {
		guest_setup();
	} else {
		irq_count_range(0x40, 0xfe);
		apic_enable();
		apic_write(APIC_LVT0, LVT_MASKED);
		rte_write(0, 0x55);
	}
	stage(1);			/* IRQ 0 is high in a state that is set */
	pit_program(0, 2, 1193);
	sti();
	GUEST_WAIT((through_pic ? TICKS : irqs[0x55]) >= 10);
	cli();
}

/* A tick is two steps, high and low, and a state may have been saved between them. */
TEST(ticks_go_on_after_a_state_that_was_saved_amid_one)
{
	for (u64 through_pic = 0; through_pic <= 1; through_pic++) {
		struct vm *vm = vm_with_pit();
		struct vcpu *vcpu = vcpu_add(vm, ticks_after_restore, through_pic);
		struct kvm_irqchip chip = { .chip_id = through_pic ? KVM_IRQCHIP_PIC_MASTER :
								     KVM_IRQCHIP_IOAPIC };

		ktap_about("through the PIC: %llu", (unsigned long long)through_pic);
		TICKS = irqs[0x55] = 0;
		vcpu_run_to_stage(vcpu, 1);
		ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
		if (through_pic)
			chip.chip.pic.last_irr |= 1;
		else
			chip.chip.ioapic.irr |= 1;
		ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
		vcpu_run_to_done(vcpu);
	}
}

static void masked_ticks(u64 arg)
{
	(void)arg;
	guest_setup();
	pic_mask(0xffff);
	pit_program(0, 2, 1193);
	pass_time();
	GUEST_EQ(0, TICKS);
	pic_mask(0xfffe);
	sti();
	GUEST_WAIT(TICKS >= 3);
	cli();
}

TEST(ticks_behind_a_mask_come_when_it_opens)
{
	run_guest(masked_ticks);
}

/* --- Reading counts and status --- */

static void counts_down(u64 arg)
{
	u32 falls = 0;

	(void)arg;
	pit_program(0, 2, 0);		/* 65536: 55 ms */
	for (int i = 0; i < 10; i++) {
		u32 first = pit_read(0), second = pit_read(0);

		falls += second < first;
	}
	/* It may wrap now and then. */
	GUEST_TRUE(falls >= 7);
}

TEST(the_count_goes_down)
{
	run_guest(counts_down);
}

static void latched(u64 arg)
{
	u32 low, high, again;

	(void)arg;
	guest_setup();
	pic_mask(0xffff);
	pit_program(0, 2, 0);
	outb(PIT_CONTROL, LATCH(0));
	pass_time();
	/* Latched twice: the first holds. */
	outb(PIT_CONTROL, LATCH(0));
	low = inb(PIT_COUNTER0);
	high = inb(PIT_COUNTER0);
	again = pit_read(0);
	GUEST_TRUE((high << 8 | low) != again);
	GUEST_TRUE((high << 8 | low) > 65536 - 5000);
}

TEST(a_latched_count_holds_until_it_was_read)
{
	run_guest(latched);
}

static void status_bytes(u64 arg)
{
	u32 status, low, high;

	(void)arg;
	for (u32 mode = 0; mode <= 5; mode++) {
		pit_program(2, mode, 0x1234);
		outb(PIT_CONTROL, READ_BACK_STATUS(2));
		GUEST_EQ(0x30 | mode << 1, inb(PIT_COUNTER2) & 0x3f);
	}
	/* One byte only: it is the one that is read. */
	outb(PIT_CONTROL, 2 << 6 | 0x10 | 2 << 1);
	outb(PIT_COUNTER2, 0x55);
	outb(PIT_CONTROL, READ_BACK_BOTH(2));
	status = inb(PIT_COUNTER2);
	GUEST_EQ(0x14, status & 0x3f);
	low = inb(PIT_COUNTER2);
	GUEST_TRUE(low <= 0x55);
	/* Status first, then both bytes of the count. */
	pit_program(0, 2, 0xffff);
	outb(PIT_CONTROL, READ_BACK_BOTH(0));
	status = inb(PIT_COUNTER0);
	low = inb(PIT_COUNTER0);
	high = inb(PIT_COUNTER0);
	GUEST_EQ(0x34, status & 0x3f);
	GUEST_TRUE((high << 8 | low) > 0x8000);
}

TEST(read_back_gives_status_then_count)
{
	run_guest(status_bytes);
}

/* --- Channel 2 and port 0x61 --- */

static void gate_and_out(u64 arg)
{
	u32 count;

	(void)arg;
	outb(PORT_B, PORT_B_GATE);
	GUEST_EQ(PORT_B_GATE, inb(PORT_B) & (PORT_B_GATE | PORT_B_SPEAKER));
	outb(PORT_B, PORT_B_GATE | PORT_B_SPEAKER);
	GUEST_EQ(PORT_B_SPEAKER, inb(PORT_B) & PORT_B_SPEAKER);
	/* Mode 0: the output is low until the count is through. */
	pit_program(2, 0, 0xffff);
	GUEST_EQ(0, inb(PORT_B) & PORT_B_OUT);
	pit_program(2, 0, 500);
	GUEST_WAIT(inb(PORT_B) & PORT_B_OUT);
	/* In mode 2 a rising gate starts the count anew. */
	pit_program(2, 2, 0xffff);
	GUEST_WAIT(pit_read(2) < 0xf000);
	outb(PORT_B, 0);
	outb(PORT_B, PORT_B_GATE);
	count = pit_read(2);
	GUEST_TRUE(count > 0xf000);
}

TEST(port_61_has_gate_and_output_of_channel_2)
{
	run_guest(gate_and_out);
}

static void gate_holds(u64 arg)
{
	u32 first;

	(void)arg;
	outb(PORT_B, 0);
	pit_program(2, 2, 0xffff);
	first = pit_read(2);
	for (int i = 0; i < 50; i++)
		GUEST_EQ(first, pit_read(2));
}

TEST(a_low_gate_holds_the_count)
{
	if (is_linux_kvm())
		SKIP("Linux KVM goes on counting");
	run_guest(gate_holds);
}

static void gate_triggers(u64 mode)
{
	u32 first;

	outb(PORT_B, 0);
	pit_program(2, mode, 0xffff);
	first = pit_read(2);
	for (int i = 0; i < 50; i++)
		GUEST_EQ(first, pit_read(2));
	/* Each rise starts it anew, and low in mode 1; what is seen too late is tried again. */
	do {
		outb(PORT_B, 0);
		outb(PORT_B, PORT_B_GATE);
	} while (pit_read(2) <= 0xf000 || !!(inb(PORT_B) & PORT_B_OUT) != (mode == 5));
	GUEST_WAIT(pit_read(2) < 0xe000);
	for (int tries = 0; pit_read(2) <= 0xf000; tries++) {
		GUEST_TRUE(tries < 20);
		outb(PORT_B, 0);
		outb(PORT_B, PORT_B_GATE);
	}
	GUEST_WAIT(inb(PORT_B) & PORT_B_OUT);
}

TEST(modes_1_and_5_of_channel_2_start_when_the_gate_rises)
{
	if (is_linux_kvm())
		SKIP("Linux KVM counts without the gate");
	run_guest_arg(gate_triggers, 1);
	run_guest_arg(gate_triggers, 5);
}

static void refresh_toggles(u64 arg)
{
	u8 first = inb(PORT_B) & 0x10;

	(void)arg;
	GUEST_WAIT((inb(PORT_B) & 0x10) != first);
	GUEST_WAIT((inb(PORT_B) & 0x10) == first);
}

TEST(the_refresh_bit_of_port_61_toggles)
{
	run_guest(refresh_toggles);
}

/* --- State --- */

static void program_and_stop(u64 arg)
{
	(void)arg;
	guest_setup();
	pit_program(0, 2, 0x4321);
	pit_program(2, 3, 0x1234);
	stage(1);
	sti();
	GUEST_WAIT(TICKS >= 3);
	cli();
}

TEST(pit_state_shows_what_the_guest_programmed_and_restores)
{
	struct vm *vm = vm_with_pit(), *other;
	struct vcpu *vcpu = vcpu_add(vm, program_and_stop, 0);
	struct kvm_pit_state2 state, got;

	vcpu_run_to_stage(vcpu, 1);
	memset(&state, 0xff, sizeof(state));
	ASSERT_OK(ioctl(vm->fd, KVM_GET_PIT2, &state));
	EXPECT_EQ(0x4321, state.channels[0].count);
	EXPECT_EQ(2, state.channels[0].mode);
	EXPECT_EQ(3, state.channels[0].rw_mode);
	EXPECT_EQ(0x1234, state.channels[2].count);
	EXPECT_EQ(3, state.channels[2].mode);
	other = vm_with_pit();
	ASSERT_OK(ioctl(other->fd, KVM_SET_PIT2, &state));
	ASSERT_OK(ioctl(other->fd, KVM_GET_PIT2, &got));
	EXPECT_EQ(0x4321, got.channels[0].count);
	EXPECT_EQ(2, got.channels[0].mode);
	EXPECT_EQ(0x1234, got.channels[2].count);
	vcpu_run_to_done(vcpu);
}

TEST(no_count_and_mode_upsets_the_pit)
{
	struct vm *vm = vm_with_pit();
	struct kvm_pit_state2 state;

	for (u32 mode = 0; mode <= 5; mode++)
		for (u32 count = 0; count <= 2; count++) {
			ASSERT_OK(ioctl(vm->fd, KVM_GET_PIT2, &state));
			for (int channel = 0; channel < 3; channel++) {
				state.channels[channel].mode = mode;
				state.channels[channel].count = count;
			}
			ASSERT_OK(ioctl(vm->fd, KVM_SET_PIT2, &state));
			ASSERT_OK(ioctl(vm->fd, KVM_GET_PIT2, &state));
			EXPECT_EQ(mode, state.channels[0].mode);
		}
}

static volatile bool finish;

static void hammer_ports(u64 arg)
{
	u32 x = arg;

	while (!finish) {
		x = x * 1103515245 + 12345;
		outb(PIT_COUNTER0 + (x >> 16 & 3), x >> 20);
		(void)inb(PIT_COUNTER0 + (x >> 18 & 3));
	}
}

TEST(two_vcpus_hammer_the_ports_while_the_state_is_read_and_set)
{
	struct vm *vm = vm_with_pit();
	struct kvm_pit_state2 state;

	for (int i = 0; i < 2; i++)
		vcpu_start(vcpu_add(vm, hammer_ports, i));
	for (int i = 0; i < 200; i++) {
		ASSERT_OK(ioctl(vm->fd, KVM_GET_PIT2, &state));
		ASSERT_OK(ioctl(vm->fd, KVM_SET_PIT2, &state));
	}
	finish = true;
	for (int i = 0; i < 2; i++)
		vcpu_wait_done(vm->vcpus[i]);
}
