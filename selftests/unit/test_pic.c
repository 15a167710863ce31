// SPDX-License-Identifier: GPL-2.0
/*
 * test_pic.c - the 8259 pair as a guest and as KVM_GET_IRQCHIP see it, and
 * random operations against a model that walks the lines one by one.
 */
#include "ktap.h"
#include "../../kmod/irqchip/pic.c"

#define MASTER	0x20
#define SLAVE	0xa0

static struct mkvm vm;
static struct mkvm_pic *pic;
static int output_changes, rises, falls, pit_acks;
static char fake_pit;

void mkvm_pic_output_changed(struct mkvm *v, unsigned int changes)
{
	shim_check(v == &vm && !shim_locks_held, "mkvm_pic_output_changed under a lock");
	output_changes += !!(changes & MKVM_INT_REQUEST);
	rises += !!(changes & MKVM_INT_RISES);
	falls += !!(changes & MKVM_INT_FALLS);
}

void mkvm_pit_acked(struct mkvm_pit *pit)
{
	shim_check((void *)pit == &fake_pit, "acknowledge of no PIT");
	pit_acks++;
}

static unsigned int acked;	/* pins */
static bool raise_in_ack;

/* An irqfd with a resamplefd behind each pin. */
void mkvm_irq_acked(struct mkvm *v, unsigned int chip, unsigned int pin)
{
	shim_check(v == &vm && chip < 2 && pin < 8 && !shim_locks_held,
		   "told of an end under a lock");
	acked |= 1u << (chip * 8 + pin);
	if (raise_in_ack)
		mkvm_pic_set_irq(v->irqchip.pic, chip * 8 + pin, MKVM_SOURCE_RESAMPLE, 1);
}

static void init_chip(u16 port, u8 base, u8 icw4)
{
	mkvm_pic_port_write(pic, port, 0x11);
	mkvm_pic_port_write(pic, port + 1, base);
	mkvm_pic_port_write(pic, port + 1, port == MASTER ? 4 : 2);
	mkvm_pic_port_write(pic, port + 1, icw4);
}

static void start(u8 icw4)
{
	memset(&vm, 0, sizeof(vm));
	shim_check(mkvm_pic_create(&vm) == 0, "mkvm_pic_create");
	pic = vm.irqchip.pic;
	vm.irqchip.pit = (void *)&fake_pit;
	init_chip(MASTER, 0x20, icw4);
	init_chip(SLAVE, 0x28, 1);
	output_changes = rises = falls = 0;
	pit_acks = 0;
	acked = 0;
	raise_in_ack = false;
}

static void stop(void)
{
	mkvm_pic_destroy(&vm);
}

static int line(unsigned int pin, int level)
{
	return mkvm_pic_set_irq(pic, pin, MKVM_SOURCE_USER, level);
}

static void pulse(unsigned int pin)
{
	line(pin, 1);
	line(pin, 0);
}

static u8 read_isr(u16 port)
{
	mkvm_pic_port_write(pic, port, 0x0b);
	return mkvm_pic_port_read(pic, port);
}

static u8 read_irr(u16 port)
{
	mkvm_pic_port_write(pic, port, 0x0a);
	return mkvm_pic_port_read(pic, port);
}

static void eoi(u16 port)
{
	mkvm_pic_port_write(pic, port, 0x20);
}

TEST(edge_gives_its_vector_once_and_sets_isr_until_eoi)
{
	start(1);
	EXPECT_FALSE(mkvm_pic_output(pic));
	EXPECT_EQ(1, line(3, 1));
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(1, output_changes);
	EXPECT_EQ(0x08, read_irr(MASTER));
	EXPECT_EQ(0x23, mkvm_pic_ack(pic));
	EXPECT_FALSE(mkvm_pic_output(pic));
	EXPECT_EQ(0x08, read_isr(MASTER));
	EXPECT_EQ(0, read_irr(MASTER));
	eoi(MASTER);
	EXPECT_EQ(0, read_isr(MASTER));
	EXPECT_FALSE(mkvm_pic_output(pic));
	stop();
}

TEST(edge_is_latched_when_the_line_falls_before_the_acknowledge)
{
	start(1);
	pulse(4);
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(0x24, mkvm_pic_ack(pic));
	stop();
}

TEST(second_edge_before_the_acknowledge_is_coalesced)
{
	start(1);
	EXPECT_EQ(1, line(4, 1));
	EXPECT_EQ(0, line(4, 1));	/* no edge */
	EXPECT_EQ(1, line(4, 0));
	EXPECT_EQ(0, line(4, 1));	/* pending already */
	EXPECT_EQ(0x24, mkvm_pic_ack(pic));
	EXPECT_EQ(0, line(4, 1));	/* still high: no edge */
	EXPECT_EQ(0, read_irr(MASTER));
	stop();
}

TEST(masked_edge_is_ignored_but_latched)
{
	start(1);
	mkvm_pic_port_write(pic, 0x21, 0x10);
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(4, 1));
	EXPECT_FALSE(mkvm_pic_output(pic));
	EXPECT_EQ(0x10, mkvm_pic_port_read(pic, 0x21));
	mkvm_pic_port_write(pic, 0x21, 0);
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(1, output_changes);
	EXPECT_EQ(0x24, mkvm_pic_ack(pic));
	stop();
}

TEST(pending_edge_masked_before_the_cpu_takes_it_gives_no_vector)
{
	start(1);
	pulse(5);
	mkvm_pic_port_write(pic, 0x21, 0x20);
	EXPECT_FALSE(mkvm_pic_output(pic));
	pulse(14);
	mkvm_pic_port_write(pic, 0xa1, 0x40);
	EXPECT_FALSE(mkvm_pic_output(pic));	/* nothing is left behind in the master */
	stop();
}

TEST(acknowledge_with_nothing_pending_gives_spurious_vector_without_isr_bit)
{
	start(1);
	EXPECT_EQ(0x27, mkvm_pic_ack(pic));
	EXPECT_EQ(0, read_isr(MASTER));
	EXPECT_EQ(0, read_isr(SLAVE));
	stop();
}

TEST(slave_line_goes_through_the_cascade_and_sets_both_isr_bits)
{
	start(1);
	pulse(12);
	EXPECT_EQ(0x04, read_irr(MASTER));
	EXPECT_EQ(0x2c, mkvm_pic_ack(pic));
	EXPECT_EQ(0x04, read_isr(MASTER));
	EXPECT_EQ(0x10, read_isr(SLAVE));
	/* same slave, lower and higher: held back by the master's IR2 in service */
	pulse(13);
	pulse(8);
	EXPECT_FALSE(mkvm_pic_output(pic));
	eoi(SLAVE);
	EXPECT_FALSE(mkvm_pic_output(pic));
	eoi(MASTER);
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(0x28, mkvm_pic_ack(pic));
	stop();
}

TEST(special_fully_nested_mode_lets_the_slave_interrupt_itself)
{
	start(0x11);
	pulse(12);
	EXPECT_EQ(0x2c, mkvm_pic_ack(pic));
	pulse(13);	/* lower than the one in service */
	EXPECT_FALSE(mkvm_pic_output(pic));
	pulse(3);	/* lower than the slave on the master */
	EXPECT_FALSE(mkvm_pic_output(pic));
	pulse(8);
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(0x28, mkvm_pic_ack(pic));
	stop();
}

TEST(fully_nested_only_higher_priority_interrupts_service)
{
	int i;

	start(1);
	pulse(4);
	EXPECT_EQ(0x24, mkvm_pic_ack(pic));
	for (i = 4; i < 8; i++) {
		pulse(i);
		EXPECT_FALSE(mkvm_pic_output(pic));
	}
	pulse(1);
	EXPECT_EQ(0x21, mkvm_pic_ack(pic));
	pulse(0);
	EXPECT_EQ(0x20, mkvm_pic_ack(pic));
	EXPECT_EQ(0x13, read_isr(MASTER));
	eoi(MASTER);
	EXPECT_EQ(0x12, read_isr(MASTER));
	eoi(MASTER);
	EXPECT_EQ(0x10, read_isr(MASTER));
	stop();
}

TEST(rotation_on_eoi_makes_the_served_line_the_lowest)
{
	start(1);
	pulse(3);
	mkvm_pic_ack(pic);
	mkvm_pic_port_write(pic, MASTER, 0xa0);		/* rotate on non-specific EOI */
	pulse(3);
	pulse(4);
	pulse(0);
	EXPECT_EQ(0x24, mkvm_pic_ack(pic));
	mkvm_pic_port_write(pic, MASTER, 0xe4);		/* rotate on specific EOI of 4 */
	EXPECT_EQ(0x20, mkvm_pic_ack(pic));
	mkvm_pic_port_write(pic, MASTER, 0x60);		/* specific EOI of 0: no rotation */
	EXPECT_EQ(0x23, mkvm_pic_ack(pic));
	stop();
}

TEST(set_priority_names_the_lowest_line)
{
	int lowest, i;

	for (lowest = 0; lowest < 8; lowest++) {
		start(1);
		mkvm_pic_port_write(pic, MASTER, 0xc0 | lowest);
		for (i = 0; i < 8; i++)
			pulse(i);
		for (i = 1; i <= 8; i++) {
			if (((lowest + i) & 7) == PIC_CASCADE)
				continue;
			EXPECT_EQ(0x20 + ((lowest + i) & 7), mkvm_pic_ack(pic));
			mkvm_pic_port_write(pic, MASTER, 0x60 | ((lowest + i) & 7));
		}
		EXPECT_FALSE(mkvm_pic_output(pic));
		stop();
	}
}

TEST(automatic_eoi_leaves_no_isr_bit_and_can_rotate)
{
	start(3);
	pulse(3);
	EXPECT_EQ(0x23, mkvm_pic_ack(pic));
	EXPECT_EQ(0, read_isr(MASTER));
	mkvm_pic_port_write(pic, MASTER, 0x80);		/* rotate in AEOI mode */
	pulse(3);
	pulse(5);
	EXPECT_EQ(0x23, mkvm_pic_ack(pic));
	pulse(3);
	EXPECT_EQ(0x25, mkvm_pic_ack(pic));
	EXPECT_EQ(0x23, mkvm_pic_ack(pic));
	mkvm_pic_port_write(pic, MASTER, 0x00);		/* off again: 3 stays the lowest */
	pulse(5);
	EXPECT_EQ(0x25, mkvm_pic_ack(pic));
	pulse(5);
	pulse(4);
	EXPECT_EQ(0x24, mkvm_pic_ack(pic));
	EXPECT_EQ(0x25, mkvm_pic_ack(pic));
	stop();
}

TEST(special_mask_mode_lets_lower_lines_through_a_masked_service)
{
	start(1);
	pulse(1);
	mkvm_pic_ack(pic);
	mkvm_pic_port_write(pic, 0x21, 0x02);
	pulse(5);
	EXPECT_FALSE(mkvm_pic_output(pic));
	mkvm_pic_port_write(pic, MASTER, 0x68);		/* set special mask mode */
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(0x25, mkvm_pic_ack(pic));
	eoi(MASTER);					/* passes over the masked service */
	EXPECT_EQ(0x02, read_isr(MASTER));
	eoi(MASTER);
	EXPECT_EQ(0x02, read_isr(MASTER));
	mkvm_pic_port_write(pic, MASTER, 0x48);		/* and back */
	eoi(MASTER);
	EXPECT_EQ(0, read_isr(MASTER));
	stop();
}

TEST(poll_acknowledges_and_tells_the_line)
{
	start(1);
	pulse(6);
	mkvm_pic_port_write(pic, MASTER, 0x0c);
	EXPECT_EQ(0x86, mkvm_pic_port_read(pic, MASTER));
	EXPECT_EQ(0x40, read_isr(MASTER));
	EXPECT_FALSE(mkvm_pic_output(pic));
	mkvm_pic_port_write(pic, MASTER, 0x0c);
	EXPECT_EQ(0, mkvm_pic_port_read(pic, 0x21) & 0x80); /* nothing: bit 7 clear, either port */
	EXPECT_EQ(0x40, read_isr(MASTER));
	EXPECT_EQ(0, mkvm_pic_port_read(pic, 0x21));		/* one read only */
	stop();
}

TEST(poll_tells_line_0_from_nothing)
{
	start(1);
	pulse(0);
	mkvm_pic_port_write(pic, MASTER, 0x0c);
	EXPECT_EQ(0x80, mkvm_pic_port_read(pic, MASTER));
	stop();
}

TEST(poll_of_the_slave_takes_its_request_from_the_master)
{
	start(1);
	pulse(9);
	EXPECT_TRUE(mkvm_pic_output(pic));
	mkvm_pic_port_write(pic, SLAVE, 0x0c);
	EXPECT_EQ(0x81, mkvm_pic_port_read(pic, SLAVE));
	EXPECT_FALSE(mkvm_pic_output(pic));
	EXPECT_EQ(0x02, read_isr(SLAVE));
	EXPECT_EQ(0, read_isr(MASTER));
	stop();
}

TEST(level_request_follows_the_line_and_comes_back_after_eoi)
{
	start(1);
	mkvm_pic_port_write(pic, 0x4d1, 0x0c);		/* 10 and 11 level */
	EXPECT_EQ(1, line(11, 1));
	EXPECT_EQ(0x2b, mkvm_pic_ack(pic));
	EXPECT_EQ(0x08, read_irr(SLAVE));
	EXPECT_FALSE(mkvm_pic_output(pic));
	eoi(SLAVE);
	eoi(MASTER);
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(1, line(11, 0));
	EXPECT_FALSE(mkvm_pic_output(pic));
	EXPECT_EQ(0, read_irr(SLAVE));
	EXPECT_EQ(0, read_irr(MASTER));
	stop();
}

TEST(line_stays_high_while_one_source_holds_it)
{
	start(1);
	mkvm_pic_port_write(pic, 0x4d0, 0x20);
	mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_PIT, 1);
	line(5, 1);
	line(5, 0);
	EXPECT_TRUE(mkvm_pic_output(pic));
	mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_PIT, 0);
	EXPECT_FALSE(mkvm_pic_output(pic));
	stop();
}

TEST(elcr_keeps_the_pins_of_the_board_edge_triggered)
{
	start(1);
	mkvm_pic_port_write(pic, 0x4d0, 0xff);
	mkvm_pic_port_write(pic, 0x4d1, 0xff);
	EXPECT_EQ(0xf8, mkvm_pic_port_read(pic, 0x4d0));
	EXPECT_EQ(0xde, mkvm_pic_port_read(pic, 0x4d1));
	stop();
}

TEST(pin_made_level_triggered_requests_only_while_its_line_is_high)
{
	start(1);
	line(6, 1);
	mkvm_pic_ack(pic);
	eoi(MASTER);
	pulse(7);
	EXPECT_EQ(0x80, read_irr(MASTER));
	mkvm_pic_port_write(pic, 0x4d0, 0xc0);
	EXPECT_EQ(0x40, read_irr(MASTER));
	EXPECT_EQ(0x26, mkvm_pic_ack(pic));
	stop();
}

TEST(icw1_forgets_edges_service_mask_and_modes)
{
	struct kvm_pic_state s;

	start(0x13);
	mkvm_pic_port_write(pic, 0x4d0, 0x20);
	mkvm_pic_port_write(pic, 0x21, 0xc0);
	mkvm_pic_port_write(pic, MASTER, 0x6b);
	mkvm_pic_port_write(pic, MASTER, 0xc5);
	mkvm_pic_port_write(pic, MASTER, 0x80);
	line(3, 1);
	line(5, 1);
	mkvm_pic_port_write(pic, MASTER, 0x10);		/* no ICW4 */
	mkvm_pic_get(pic, 0, &s);
	EXPECT_EQ(0x20, s.irr); /* the level is still there, the edge is not */
	EXPECT_EQ(0x28, s.last_irr);
	EXPECT_EQ(0, s.imr | s.isr | s.priority_add | s.special_mask | s.read_reg_select | s.poll);
	EXPECT_EQ(0, s.auto_eoi | s.special_fully_nested_mode | s.rotate_on_auto_eoi);
	EXPECT_EQ(1, s.init_state);
	mkvm_pic_port_write(pic, 0x21, 0x4f);		/* ICW2: the low bits do not count */
	mkvm_pic_port_write(pic, 0x21, 0x04);		/* ICW3, and that was all */
	mkvm_pic_port_write(pic, 0x21, 0x01);		/* so this is a mask */
	EXPECT_EQ(0x01, mkvm_pic_port_read(pic, 0x21));
	EXPECT_EQ(0x4d, mkvm_pic_ack(pic));
	line(3, 1);					/* no edge */
	EXPECT_FALSE(mkvm_pic_output(pic));
	stop();
}

TEST(cascade_pin_and_pins_past_the_last_lead_nowhere)
{
	start(1);
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(2, 1));
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(16, 1));
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(~0u, 1));
	EXPECT_FALSE(mkvm_pic_output(pic));
	EXPECT_EQ(1, line(15, 1));
	EXPECT_EQ(0x2f, mkvm_pic_ack(pic));
	stop();
}

TEST(acknowledge_of_a_tick_is_told_to_the_pit)
{
	start(1);
	pulse(0);
	mkvm_pic_ack(pic);
	eoi(MASTER);
	EXPECT_EQ(0, pit_acks);		/* userspace's, not the PIT's */
	EXPECT_EQ(1, mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_PIT, 1));
	mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_PIT, 0);
	EXPECT_EQ(0, pit_acks);
	EXPECT_EQ(0x20, mkvm_pic_ack(pic));
	EXPECT_EQ(1, pit_acks);
	pulse(1);
	eoi(MASTER);
	mkvm_pic_ack(pic);
	EXPECT_EQ(1, pit_acks);
	stop();
}

TEST(masked_tick_counts_as_taken_once_while_it_is_latched)
{
	start(1);
	mkvm_pic_port_write(pic, 0x21, 0x01);
	EXPECT_EQ(1, mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_PIT, 1));
	mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_PIT, 0);
	EXPECT_EQ(MKVM_IRQ_IGNORED, mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_PIT, 1));
	mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_PIT, 0);
	stop();
}

TEST(state_round_trips_at_every_step_of_a_session)
{
	struct kvm_pic_state before[2], after[2];
	int step, chip;

	start(0x11);
	for (step = 0; step < 12; step++) {
		switch (step) {
		case 1: mkvm_pic_port_write(pic, 0x4d1, 0x04); break;
		case 2: line(10, 1); break;
		case 3: mkvm_pic_ack(pic); break;
		case 4: pulse(1); break;
		case 5: mkvm_pic_port_write(pic, 0x21, 0x81); break;
		case 6: mkvm_pic_port_write(pic, MASTER, 0x6b); break;
		case 7: mkvm_pic_port_write(pic, SLAVE, 0x0c); break;
		case 8: mkvm_pic_port_write(pic, MASTER, 0xa0); break;
		case 9: mkvm_pic_port_write(pic, SLAVE, 0x11); break;
		case 10: mkvm_pic_port_write(pic, 0xa1, 0x70); break;
		case 11: mkvm_pic_port_write(pic, 0xa1, 0x02); break;
		}
		for (chip = 0; chip < 2; chip++)
			mkvm_pic_get(pic, chip, &before[chip]);
		for (chip = 0; chip < 2; chip++)
			EXPECT_EQ(0, mkvm_pic_set(pic, chip, &before[chip]));
		for (chip = 0; chip < 2; chip++)
			mkvm_pic_get(pic, chip, &after[chip]);
		EXPECT_EQ(0, memcmp(before, after, sizeof(before)));
	}
	stop();
}

TEST(restored_state_delivers_what_is_pending_and_lines_can_fall)
{
	struct kvm_pic_state state[2];

	start(1);
	mkvm_pic_port_write(pic, 0x4d1, 0x02);
	line(9, 1);
	mkvm_pic_get(pic, 0, &state[0]);
	mkvm_pic_get(pic, 1, &state[1]);
	stop();

	start(1);
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &state[0]));
	EXPECT_EQ(0, mkvm_pic_set(pic, 1, &state[1]));
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_LE(1, output_changes);
	EXPECT_EQ(0x29, mkvm_pic_ack(pic));
	line(9, 0);
	EXPECT_EQ(0, read_irr(SLAVE));
	stop();
}

TEST(restored_lines_are_held_by_userspace)
{
	struct kvm_pic_state s;

	start(1);
	mkvm_pic_port_write(pic, 0x4d0, 0xf8);
	mkvm_pic_get(pic, 0, &s);
	s.last_irr = s.irr = 0x20;
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &s));
	mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_PIT, 0);
	EXPECT_TRUE(mkvm_pic_output(pic));
	s.last_irr = s.irr = 0;
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &s));
	mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_PIT, 0);
	EXPECT_FALSE(mkvm_pic_output(pic));
	stop();
}

TEST(set_refuses_what_a_chip_cannot_hold)
{
	struct kvm_pic_state good, bad, after;
	unsigned int i;

	start(1);
	mkvm_pic_get(pic, 0, &good);
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &good));
	EXPECT_EQ(-EINVAL, mkvm_pic_set(pic, 2, &good));
	EXPECT_EQ(-EINVAL, mkvm_pic_set(pic, 1, &good));	/* the other chip's ELCR mask */
	for (i = 1; i < 12; i++) {
		bad = good;
		switch (i) {
		case 1: bad.priority_add = 8; break;
		case 2: bad.init_state = 4; break;
		case 3: bad.read_reg_select = 2; break;
		case 4: bad.poll = 2; break;
		case 5: bad.special_mask = 2; break;
		case 6: bad.auto_eoi = 2; break;
		case 7: bad.rotate_on_auto_eoi = 2; break;
		case 8: bad.special_fully_nested_mode = 2; break;
		case 9: bad.init4 = 2; break;
		case 10: bad.elcr = 1; break;
		case 11: bad.elcr_mask = 0xff; break;
		}
		bad.imr = 0x55;
		EXPECT_EQ(-EINVAL, mkvm_pic_set(pic, 0, &bad));
	}
	mkvm_pic_get(pic, 0, &after);
	EXPECT_EQ(0, memcmp(&good, &after, sizeof(good)));
	good.priority_add = 7;
	good.init_state = 3;
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &good));
	stop();
}

TEST(there_is_no_third_chip_for_speculation_either)
{
	struct kvm_pic_state state;

	start(1);
	shim_nr_clamps = 0;
	mkvm_pic_get(pic, 1, &state);
	EXPECT_TRUE(shim_clamped(1, 2));
	EXPECT_EQ(0, mkvm_pic_set(pic, 1, &state));
	EXPECT_TRUE(shim_clamped(1, 2));
	stop();
}

TEST(set_keeps_an_odd_base_and_a_smaller_elcr_mask)
{
	struct kvm_pic_state set = { .irq_base = 10 }, got;

	start(1);
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &set));
	mkvm_pic_get(pic, 0, &got);
	EXPECT_EQ(0, memcmp(&set, &got, sizeof(set)));
	mkvm_pic_set_irq(pic, 1, MKVM_SOURCE_USER, 1);
	EXPECT_EQ(11, mkvm_pic_ack(pic));
	set.irq_base = 0xff;
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &set));
	mkvm_pic_set_irq(pic, 1, MKVM_SOURCE_USER, 0);
	mkvm_pic_set_irq(pic, 1, MKVM_SOURCE_USER, 1);
	EXPECT_EQ(0, mkvm_pic_ack(pic));
	stop();
}

TEST(create_fails_cleanly_without_memory)
{
	memset(&vm, 0, sizeof(vm));
	shim_alloc_fail_in = 1;
	EXPECT_EQ(-ENOMEM, mkvm_pic_create(&vm));
	EXPECT_TRUE(!vm.irqchip.pic);
}

/*
 * The model: each chip as the data sheet draws it, priorities found by walking
 * from the highest line. It keeps no state of its own but the two chips'.
 */
static int model_pending(const struct kvm_pic_state *chip, bool master)
{
	int i, irq;

	for (i = 0; i < 8; i++) {
		irq = (chip->priority_add + i) & 7;
		if ((chip->irr >> irq & 1) && !(chip->imr >> irq & 1)) {
			bool nested = master && irq == 2 && chip->special_fully_nested_mode;

			return (chip->isr >> irq & 1) && !nested ? -1 : irq;
		}
		if ((chip->isr >> irq & 1) && !(chip->special_mask && (chip->imr >> irq & 1)))
			return -1;
	}
	return -1;
}

static int model_ack(struct kvm_pic_state chip[2])
{
	int nr, irq = 0, vector = 0;

	for (nr = 0; nr < 2; nr++) {
		irq = model_pending(&chip[nr], nr == 0);
		vector = chip[nr].irq_base + (irq < 0 ? 7 : irq);
		if (irq >= 0) {
			if (!(chip[nr].elcr >> irq & 1))
				chip[nr].irr &= ~(1 << irq);
			if (!chip[nr].auto_eoi)
				chip[nr].isr |= 1 << irq;
			else if (chip[nr].rotate_on_auto_eoi)
				chip[nr].priority_add = (irq + 1) & 7;
		}
		if (irq != 2)
			break;
	}
	return vector;
}

TEST(random_operations_agree_with_the_model)
{
	struct kvm_pic_state m[2], now[2];
	static const u8 commands[] = { 0x20, 0xa0, 0x80, 0x00, 0x68, 0x48, 0x40, 0x0a, 0x0b };
	bool out;
	int i, vector;
	u16 port;

	start(1);
	for (i = 0; i < 200000; i++) {
		unsigned long long r = ktap_random();

		port = r & 1 ? MASTER : SLAVE;
		switch (r >> 8 & 15) {
		case 0: case 1: case 2: case 3: case 4: line(r >> 16 & 15, r >> 24 & 1); break;
		case 5: pulse(r >> 16 & 15); break;
		case 6: mkvm_pic_port_write(pic, port + 1, r >> 16 & r >> 24); break;
		case 7:
			mkvm_pic_port_write(pic, port, commands[(r >> 16) % ARRAY_SIZE(commands)]);
			break;
		case 8:
			mkvm_pic_port_write(pic, port, (r >> 24 & 1 ? 0x60 : 0xe0) | (r >> 16 & 7));
			break;
		case 9: mkvm_pic_port_write(pic, 0x4d0 + (r & 1), r >> 16); break;
		case 10:
			if ((r >> 16 & 63) == 0)
				init_chip(port, r >> 24, (r >> 32 & 0x12) | 1);
			break;
		case 11: mkvm_pic_port_write(pic, port, 0xc0 | (r >> 16 & 7)); break;
		default:
			mkvm_pic_get(pic, 0, &m[0]);
			mkvm_pic_get(pic, 1, &m[1]);
			vector = model_ack(m);
			ASSERT_EQ(vector, mkvm_pic_ack(pic));
			mkvm_pic_get(pic, 0, &now[0]);
			mkvm_pic_get(pic, 1, &now[1]);
			m[0].irr = (m[0].irr & ~4) | (model_pending(&m[1], false) >= 0 ? 4 : 0);
			ASSERT_TRUE(!memcmp(m, now, sizeof(m)));
			if (r >> 20 & 1)
				eoi(SLAVE);
			eoi(MASTER);
		}
		mkvm_pic_get(pic, 0, &m[0]);
		mkvm_pic_get(pic, 1, &m[1]);
		ASSERT_EQ(model_pending(&m[1], false) >= 0, m[0].irr >> 2 & 1);
		out = model_pending(&m[0], true) >= 0;
		ASSERT_EQ(out, mkvm_pic_output(pic));
		/* INT as a line: the same, of requests whose lines are high */
		m[1].irr &= m[1].last_irr;
		m[0].irr = (m[0].irr & m[0].last_irr & ~4) |
			   (model_pending(&m[1], false) >= 0 ? 4 : 0);
		out = model_pending(&m[0], true) >= 0;
		ASSERT_EQ(out, mkvm_pic_line(pic));
	}
	stop();
}

TEST(every_rise_of_the_output_is_announced)
{
	bool was, is;
	int i, n;

	start(1);
	for (i = 0; i < 100000; i++) {
		unsigned long long r = ktap_random();

		was = mkvm_pic_output(pic);
		n = output_changes;
		switch (r & 3) {
		case 0: line(r >> 16 & 15, r >> 24 & 1); break;
		case 1:
			mkvm_pic_port_write(pic, r >> 16 & 1 ? 0x21 : 0xa1, r >> 24 & r >> 32);
			break;
		case 2: eoi(r >> 16 & 1 ? MASTER : SLAVE); break;
		case 3: mkvm_pic_ack(pic); break;
		}
		is = mkvm_pic_output(pic);
		if (is && !was)
			ASSERT_EQ(n + 1, output_changes);
		if (!is)
			ASSERT_EQ(n, output_changes);
	}
	stop();
}

TEST(what_ends_with_the_eoi_is_low_before_the_output_rises_again)
{
	start(1);
	mkvm_pic_port_write(pic, 0x4d1, 1 << 3);	/* pin 11 is level triggered */
	mkvm_pic_set_irq(pic, 11, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_EQ(0x2b, mkvm_pic_ack(pic));
	acked = 0;
	output_changes = 0;
	eoi(SLAVE);
	EXPECT_EQ(1 << 11, acked);
	eoi(MASTER);
	EXPECT_EQ(0, output_changes);
	EXPECT_FALSE(mkvm_pic_output(pic));
	/* still a reason: once more */
	mkvm_pic_set_irq(pic, 11, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_EQ(0x2b, mkvm_pic_ack(pic));
	raise_in_ack = true;
	eoi(SLAVE);
	raise_in_ack = false;
	eoi(MASTER);
	EXPECT_EQ(0x2b, mkvm_pic_ack(pic));
	eoi(SLAVE);
	eoi(MASTER);
	EXPECT_FALSE(mkvm_pic_output(pic));
	stop();
}

TEST(a_userspace_level_stays_high_when_a_resampled_one_ends)
{
	start(1);
	mkvm_pic_port_write(pic, 0x4d1, 1 << 3);
	mkvm_pic_set_irq(pic, 11, MKVM_SOURCE_RESAMPLE, 1);
	line(11, 1);
	EXPECT_EQ(0x2b, mkvm_pic_ack(pic));
	eoi(SLAVE);
	eoi(MASTER);
	EXPECT_TRUE(mkvm_pic_output(pic));
	line(11, 0);
	EXPECT_FALSE(mkvm_pic_output(pic));
	stop();
}

TEST(automatic_eoi_and_initialization_tell_of_ends_too)
{
	start(3);
	mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_EQ(0x25, mkvm_pic_ack(pic));
	EXPECT_EQ(1 << 5, acked);
	stop();
	start(1);
	mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_RESAMPLE, 1);
	mkvm_pic_ack(pic);
	EXPECT_EQ(0, acked);
	init_chip(MASTER, 0x20, 1);
	EXPECT_EQ(1 << 5, acked);
	stop();
}

/* ---- INT as a line, which LINT0 sees when it is not ExtINT ---- */

TEST(each_pulse_that_nobody_acknowledges_is_a_rise_and_a_fall_of_int)
{
	start(1);
	for (int i = 1; i < 10; i += 2) {
		pulse(0);
		EXPECT_EQ(i, rises);
		EXPECT_EQ(i, falls);
		/* in one step, which tells of both */
		EXPECT_EQ(0, mkvm_pic_set_irq(pic, 0, MKVM_SOURCE_IRQFD, MKVM_PULSE));
		EXPECT_EQ(i + 1, rises);
		EXPECT_EQ(i + 1, falls);
	}
	stop();
}

TEST(int_is_high_as_long_as_an_unmasked_line_requests)
{
	start(1);
	line(4, 1);
	EXPECT_TRUE(mkvm_pic_line(pic));
	line(3, 1);
	EXPECT_EQ(1, rises);			/* high already */
	line(4, 0);
	EXPECT_TRUE(mkvm_pic_line(pic));
	mkvm_pic_port_write(pic, 0x21, 1 << 3);
	EXPECT_FALSE(mkvm_pic_line(pic));	/* line 4's edge is latched, and its line is low */
	EXPECT_TRUE(mkvm_pic_output(pic));
	EXPECT_EQ(1, falls);
	mkvm_pic_port_write(pic, 0x21, 0);
	EXPECT_EQ(2, rises);
	line(3, 0);
	EXPECT_EQ(2, falls);
	stop();
}

TEST(the_slaves_lines_move_int_through_the_cascade)
{
	start(1);
	line(12, 1);
	EXPECT_EQ(1, rises);
	line(12, 0);
	EXPECT_EQ(1, falls);
	mkvm_pic_port_write(pic, 0x21, 1 << 2);
	pulse(12);
	EXPECT_EQ(1, rises);
	stop();
}

TEST(an_acknowledge_lowers_int_and_what_else_requests_raises_it)
{
	start(1);
	line(4, 1);
	line(1, 1);
	EXPECT_EQ(1, rises);
	EXPECT_EQ(0x21, mkvm_pic_ack(pic));
	EXPECT_EQ(1, falls);
	EXPECT_EQ(1, rises);			/* 4 is below 1, which is in service */
	eoi(MASTER);
	EXPECT_EQ(2, rises);
	line(0, 1);
	EXPECT_EQ(2, rises);
	mkvm_pic_port_write(pic, 0x20, 0x0c);	/* a poll is an acknowledge */
	EXPECT_EQ(0x80, mkvm_pic_port_read(pic, 0x20));
	EXPECT_EQ(2, falls);
	eoi(MASTER);
	EXPECT_EQ(3, rises);
	stop();
	start(3);				/* automatic EOI: at once */
	line(4, 1);
	line(1, 1);
	EXPECT_EQ(0x21, mkvm_pic_ack(pic));
	EXPECT_EQ(2, rises);
	EXPECT_EQ(1, falls);
	stop();
}

TEST(a_restored_state_moves_int_without_an_edge)
{
	struct kvm_pic_state state;

	start(1);
	line(4, 1);
	mkvm_pic_get(pic, 0, &state);
	line(4, 0);
	output_changes = rises = falls = 0;
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &state));
	EXPECT_TRUE(mkvm_pic_line(pic));
	EXPECT_EQ(1, output_changes);
	state.irr = state.last_irr = 0;
	EXPECT_EQ(0, mkvm_pic_set(pic, 0, &state));
	EXPECT_FALSE(mkvm_pic_line(pic));
	EXPECT_EQ(2, output_changes); /* who is level triggered and active low looks, too */
	EXPECT_EQ(0, rises + falls);
	line(4, 1);
	EXPECT_EQ(1, rises);
	stop();
}

TEST(a_pulse_is_an_edge_that_leaves_other_sources_alone)
{
	start(1);
	EXPECT_EQ(1, mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	EXPECT_EQ(MKVM_IRQ_COALESCED, mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	EXPECT_EQ(0x25, mkvm_pic_ack(pic));
	EXPECT_EQ(1, mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	line(5, 1);
	EXPECT_EQ(MKVM_IRQ_COALESCED, mkvm_pic_set_irq(pic, 5, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	stop();
}
