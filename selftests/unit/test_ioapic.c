// SPDX-License-Identifier: GPL-2.0
/*
 * test_ioapic.c - the I/O APIC as a guest and as KVM_GET_IRQCHIP see it. The
 * LAPICs are a set of pending vectors here; what was sent is kept in a log.
 */
#include "ktap.h"
#include "../../kmod/irqchip/ioapic.c"

static struct mkvm vm;
static struct mkvm_ioapic *ioapic;
static char fake_pit;
static int pit_acks;

static struct mkvm_irq sent[64];	/* the last ones, as a ring */
static unsigned int nr_sent;
static int deliver_result;		/* what the LAPICs answer next */

int mkvm_irq_deliver(struct mkvm *v, struct mkvm_lapic *sender, const struct mkvm_irq *irq)
{
	shim_check(v == &vm && !sender, "delivery with a wrong VM or sender");
	/* its end may come at once, on another CPU */
	if (irq->level)
		shim_check(mkvm_ioapic_wants_eoi(v->irqchip.ioapic, irq->vector), "level sent before its EOI was wanted");
	sent[nr_sent++ % ARRAY_SIZE(sent)] = *irq;
	return deliver_result;
}

void mkvm_pit_acked(struct mkvm_pit *pit)
{
	shim_check((void *)pit == &fake_pit, "acknowledge of no PIT");
	pit_acks++;
}

static unsigned int acked, raise_in_ack, nr_acks;	/* pins, and how often */

/*
 * An irqfd with a resamplefd behind each pin that it has raised; raise_in_ack: its device
 * still has a reason.
 */
void mkvm_irq_acked(struct mkvm *v, unsigned int chip, unsigned int pin)
{
	shim_check(v == &vm && chip == KVM_IRQCHIP_IOAPIC && !shim_locks_held,
		   "told of an end under a lock");
	nr_acks++;
	acked |= 1u << pin;
	if (!(v->irqchip.ioapic->source[pin] & BIT(MKVM_SOURCE_RESAMPLE)))
		return;
	mkvm_ioapic_set_irq(v->irqchip.ioapic, pin, MKVM_SOURCE_RESAMPLE, 0);
	if (raise_in_ack >> pin & 1)
		mkvm_ioapic_set_irq(v->irqchip.ioapic, pin, MKVM_SOURCE_RESAMPLE, 1);
}

static void start(void)
{
	acked = raise_in_ack = nr_acks = 0;
	memset(&vm, 0, sizeof(vm));
	shim_check(mkvm_ioapic_create(&vm) == 0, "mkvm_ioapic_create");
	ioapic = vm.irqchip.ioapic;
	vm.irqchip.pit = (void *)&fake_pit;
	nr_sent = 0;
	pit_acks = 0;
	deliver_result = 1;
}

static void stop(void)
{
	mkvm_ioapic_destroy(&vm);
}

static u32 reg_read(u8 index)
{
	u32 val = index;

	mkvm_ioapic_mmio_write(ioapic, 0, 4, &val);
	mkvm_ioapic_mmio_read(ioapic, 0x10, 4, &val);
	return val;
}

static void reg_write(u8 index, u32 val)
{
	u32 i = index;

	mkvm_ioapic_mmio_write(ioapic, 0, 4, &i);
	mkvm_ioapic_mmio_write(ioapic, 0x10, 4, &val);
}

#define LEVEL	0x8000
#define MASKED	0x10000
#define STATUS	0x1000
#define REMOTE	0x4000

static void rte(unsigned int pin, u32 low, u32 high)
{
	reg_write(0x11 + 2 * pin, high);
	reg_write(0x10 + 2 * pin, low);
}

static u32 rte_low(unsigned int pin)
{
	return reg_read(0x10 + 2 * pin);
}

static int line(unsigned int pin, int level)
{
	return mkvm_ioapic_set_irq(ioapic, pin, MKVM_SOURCE_USER, level);
}

TEST(reset_values_are_version_11_with_24_masked_pins)
{
	int i;

	start();
	EXPECT_EQ(0, reg_read(0));
	EXPECT_EQ(0x00170011, reg_read(1));
	EXPECT_EQ(0, reg_read(2));
	for (i = 0; i < 24; i++) {
		EXPECT_EQ(MASKED, reg_read(0x10 + 2 * i));
		EXPECT_EQ(0, reg_read(0x11 + 2 * i));
	}
	stop();
}

TEST(id_has_four_bits_and_shows_in_the_arbitration_register)
{
	start();
	reg_write(0, 0xffffffff);
	EXPECT_EQ(0x0f000000, reg_read(0));
	EXPECT_EQ(0x0f000000, reg_read(2));
	reg_write(1, 0);
	reg_write(2, 0);
	EXPECT_EQ(0x00170011, reg_read(1));
	EXPECT_EQ(0x0f000000, reg_read(2));
	stop();
}

TEST(every_index_and_length_is_safe_and_only_24_entries_exist)
{
	static const unsigned int lens[] = { 1, 2, 4, 8 };
	struct kvm_ioapic_state before, after;
	unsigned int index, l, offset;
	u8 buf[8];

	start();
	mkvm_ioapic_get(ioapic, &before);
	for (index = 0; index < 256; index++) {
		bool exists = index < 3 || (index >= 0x10 && index < 0x40);

		EXPECT_EQ(!exists, reg_read(index) == ~0u);
		if (!exists)
			reg_write(index, 0x12345678);
		for (l = 0; l < 4; l++) {
			memset(buf, 0xa5, sizeof(buf));
			mkvm_ioapic_mmio_read(ioapic, 0x10, lens[l], buf);
			if (lens[l] < 8)
				EXPECT_EQ(0xa5, buf[lens[l]]);
			else
				EXPECT_EQ(0, buf[4] | buf[5] | buf[6] | buf[7]);
		}
	}
	for (offset = 0; offset < 0x100; offset++) {
		if (offset == 0 || offset == 0x10)
			continue;
		memset(buf, 0xff, sizeof(buf));
		mkvm_ioapic_mmio_write(ioapic, offset, 8, buf);
		mkvm_ioapic_mmio_read(ioapic, offset, 4, buf);
		EXPECT_EQ(0, buf[0] | buf[1] | buf[2] | buf[3]);
	}
	mkvm_ioapic_get(ioapic, &after);
	after.ioregsel = before.ioregsel;
	EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
	EXPECT_EQ(0, nr_sent);
	stop();
}

TEST(eoi_register_of_later_versions_is_absent)
{
	u32 vector = 0x41;

	start();
	rte(5, LEVEL | vector, 0);
	line(5, 1);
	mkvm_ioapic_mmio_write(ioapic, 0x40, 4, &vector);
	EXPECT_TRUE(rte_low(5) & REMOTE);
	stop();
}

TEST(read_only_and_reserved_bits_of_an_entry_stay)
{
	start();
	rte(3, 0xfffe0000 | STATUS | REMOTE | LEVEL | MASKED | 0x33, 0xff123456);
	EXPECT_EQ(LEVEL | MASKED | 0x33, rte_low(3));
	EXPECT_EQ(0xff000000, reg_read(0x11 + 6));
	rte(3, LEVEL | 0x33, 0);
	line(3, 1);
	rte(3, LEVEL | MASKED | 0x34, 0);
	EXPECT_EQ(REMOTE | LEVEL | MASKED | 0x34, rte_low(3));
	stop();
}

TEST(message_carries_all_fields_of_the_entry)
{
	static const u8 modes[] = { 0, 1, 2, 4, 5, 7 };
	unsigned int i, logical, level;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		for (logical = 0; logical < 2; logical++) {
			for (level = 0; level < 2; level++) {
				start();
				rte(23, 0x51 | modes[i] << 8 | logical << 11 | level << 15,
				    0xab000000);
				EXPECT_EQ(1, line(23, 1));
				ASSERT_EQ(1, nr_sent);
				EXPECT_EQ(0x51, sent[0].vector);
				EXPECT_EQ(modes[i], sent[0].delivery);
				EXPECT_EQ(logical, sent[0].logical);
				EXPECT_EQ(0xab, sent[0].dest);
				EXPECT_EQ(0, sent[0].shorthand);
				EXPECT_TRUE(sent[0].assert);
				/* only fixed and lowest priority are ever ended by an EOI */
				EXPECT_EQ(level && modes[i] <= 1, sent[0].level);
				EXPECT_EQ(level && modes[i] <= 1, !!(rte_low(23) & REMOTE));
				stop();
			}
		}
	}
}

TEST(edge_is_delivered_once_for_each_rise)
{
	start();
	rte(4, 0x44, 0);
	EXPECT_EQ(1, line(4, 1));
	EXPECT_EQ(MKVM_IRQ_COALESCED, line(4, 1));
	EXPECT_EQ(1, nr_sent);
	EXPECT_EQ(1, line(4, 0));
	EXPECT_EQ(1, line(4, 1));
	EXPECT_EQ(2, nr_sent);
	EXPECT_FALSE(mkvm_ioapic_wants_eoi(ioapic, 0x44));
	stop();
}

TEST(edge_on_a_masked_pin_is_lost)
{
	start();
	rte(4, MASKED | 0x44, 0);
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(4, 1));
	rte(4, 0x44, 0);
	EXPECT_EQ(0, nr_sent);
	line(4, 0);
	line(4, 1);
	EXPECT_EQ(1, nr_sent);
	stop();
}

TEST(level_is_delivered_once_until_eoi_and_again_while_high)
{
	start();
	rte(10, LEVEL | 0x61, 0);
	EXPECT_EQ(1, line(10, 1));
	EXPECT_TRUE(rte_low(10) & REMOTE);
	EXPECT_TRUE(mkvm_ioapic_wants_eoi(ioapic, 0x61));
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(10, 1));
	EXPECT_EQ(1, nr_sent);
	mkvm_ioapic_eoi(ioapic, 0x61);
	EXPECT_EQ(2, nr_sent);
	EXPECT_TRUE(rte_low(10) & REMOTE);
	line(10, 0);
	EXPECT_TRUE(rte_low(10) & REMOTE);
	mkvm_ioapic_eoi(ioapic, 0x61);
	EXPECT_EQ(2, nr_sent);
	EXPECT_FALSE(rte_low(10) & REMOTE);
	EXPECT_FALSE(mkvm_ioapic_wants_eoi(ioapic, 0x61));
	stop();
}

TEST(masked_level_pin_delivers_on_unmask_only_while_high)
{
	start();
	rte(10, MASKED | LEVEL | 0x61, 0);
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(10, 1));
	rte(10, LEVEL | 0x61, 0);
	EXPECT_EQ(1, nr_sent);
	rte(10, MASKED | LEVEL | 0x61, 0);
	mkvm_ioapic_eoi(ioapic, 0x61);
	line(10, 0);
	rte(10, LEVEL | 0x61, 0);
	EXPECT_EQ(1, nr_sent);		/* nothing more */
	stop();
}

TEST(eoi_of_the_sent_vector_ends_it_after_the_entry_was_rewritten)
{
	start();
	rte(9, LEVEL | 0x71, 0x01000000);
	line(9, 1);
	rte(9, LEVEL | 0x72, 0x02000000);
	EXPECT_TRUE(rte_low(9) & REMOTE);
	EXPECT_EQ(1, nr_sent);
	mkvm_ioapic_eoi(ioapic, 0x72);		/* not the one */
	EXPECT_EQ(1, nr_sent);
	EXPECT_TRUE(mkvm_ioapic_wants_eoi(ioapic, 0x71));
	mkvm_ioapic_eoi(ioapic, 0x71);
	EXPECT_EQ(2, nr_sent);			/* still high */
	EXPECT_EQ(0x72, sent[1].vector);
	EXPECT_EQ(2, sent[1].dest);
	EXPECT_FALSE(mkvm_ioapic_wants_eoi(ioapic, 0x71));
	line(9, 0);
	mkvm_ioapic_eoi(ioapic, 0x72);
	EXPECT_FALSE(rte_low(9) & REMOTE);
	stop();
}

TEST(switching_to_edge_and_back_clears_remote_irr_and_delivers_a_high_line)
{
	start();
	rte(9, LEVEL | 0x71, 0);
	line(9, 1);
	rte(9, MASKED | 0x71, 0);
	EXPECT_FALSE(rte_low(9) & REMOTE);
	rte(9, LEVEL | 0x71, 0);
	EXPECT_EQ(2, nr_sent);
	EXPECT_TRUE(rte_low(9) & REMOTE);
	line(9, 0);
	mkvm_ioapic_eoi(ioapic, 0x71);
	EXPECT_EQ(1, line(9, 1));
	EXPECT_EQ(3, nr_sent);
	stop();
}

TEST(two_pins_with_one_vector_both_end_with_one_eoi)
{
	start();
	rte(9, LEVEL | 0x71, 0);
	rte(11, LEVEL | 0x71, 0);
	line(9, 1);
	deliver_result = MKVM_IRQ_COALESCED;
	EXPECT_EQ(MKVM_IRQ_COALESCED, line(11, 1));
	EXPECT_TRUE(rte_low(11) & REMOTE);
	line(9, 0);
	deliver_result = 1;
	mkvm_ioapic_eoi(ioapic, 0x71);
	EXPECT_EQ(3, nr_sent);
	EXPECT_FALSE(rte_low(9) & REMOTE);
	EXPECT_TRUE(rte_low(11) & REMOTE);
	stop();
}

TEST(level_that_reaches_nobody_leaves_remote_irr_clear_and_can_be_retried)
{
	start();
	rte(9, LEVEL | 0x71, 0x55000000);
	deliver_result = MKVM_IRQ_IGNORED;
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(9, 1));
	EXPECT_FALSE(rte_low(9) & REMOTE);
	deliver_result = 1;
	EXPECT_EQ(1, line(9, 1));
	EXPECT_TRUE(rte_low(9) & REMOTE);
	stop();
}

TEST(polarity_bit_changes_nothing)
{
	start();
	rte(9, 0x2000 | LEVEL | 0x71, 0);
	EXPECT_EQ(0, nr_sent);
	EXPECT_EQ(0x2000 | LEVEL | 0x71, rte_low(9));
	line(9, 1);
	EXPECT_EQ(1, nr_sent);
	stop();
}

TEST(line_stays_high_while_one_source_holds_it)
{
	start();
	rte(9, LEVEL | 0x71, 0);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_PIT, 1);
	line(9, 1);
	line(9, 0);
	mkvm_ioapic_eoi(ioapic, 0x71);
	EXPECT_EQ(2, nr_sent);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_PIT, 0);
	mkvm_ioapic_eoi(ioapic, 0x71);
	EXPECT_EQ(2, nr_sent);
	stop();
}

TEST(pins_past_the_last_lead_nowhere)
{
	start();
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(24, 1));
	EXPECT_EQ(MKVM_IRQ_IGNORED, line(~0u, 1));
	stop();
}

/* A CPU may run on past the check of a number that the guest or userspace chose. */
TEST(entries_are_not_read_beyond_the_last_by_speculation_either)
{
	start();
	shim_nr_clamps = 0;
	reg_read(0x10 + 2 * 5 + 1);
	EXPECT_TRUE(shim_clamped(5, KVM_IOAPIC_NUM_PINS));
	reg_write(0x10 + 2 * 7, 0x10000);
	EXPECT_TRUE(shim_clamped(7, KVM_IOAPIC_NUM_PINS));
	line(9, 1);
	EXPECT_TRUE(shim_clamped(9, KVM_IOAPIC_NUM_PINS));
	stop();
}

TEST(line_that_never_falls_lets_the_guest_go_on)
{
	unsigned int i;

	start();
	rte(9, LEVEL | 0x71, 0);
	line(9, 1);
	for (i = 0; i < 20000 && mkvm_ioapic_wants_eoi(ioapic, 0x71); i++)
		mkvm_ioapic_eoi(ioapic, 0x71);
	EXPECT_EQ(IOAPIC_STORM_COUNT, i);
	EXPECT_EQ(IOAPIC_STORM_COUNT, nr_sent);
	shim_clock_advance(9 * NSEC_PER_MSEC);
	EXPECT_EQ(IOAPIC_STORM_COUNT, nr_sent);
	rte(9, LEVEL | 0x71, 0);		/* no way around the wait */
	EXPECT_EQ(IOAPIC_STORM_COUNT, nr_sent);
	shim_clock_advance(1 * NSEC_PER_MSEC);
	EXPECT_EQ(IOAPIC_STORM_COUNT + 1, nr_sent);
	stop();
}

TEST(first_and_last_pin_come_back_after_a_storm)
{
	unsigned int pin;

	for (pin = 0; pin < 24; pin += 23) {
		start();
		rte(pin, LEVEL | 0x71, 0);
		line(pin, 1);
		while (mkvm_ioapic_wants_eoi(ioapic, 0x71))
			mkvm_ioapic_eoi(ioapic, 0x71);
		shim_clock_advance(10 * NSEC_PER_MSEC);
		EXPECT_EQ(IOAPIC_STORM_COUNT + 1, nr_sent);
		mkvm_ioapic_eoi(ioapic, 0x71);
		EXPECT_EQ(IOAPIC_STORM_COUNT + 2, nr_sent);
		stop();
	}
}

TEST(line_that_falls_in_between_never_waits)
{
	unsigned int i;

	start();
	rte(9, LEVEL | 0x71, 0);
	for (i = 0; i < 30000; i++) {
		line(9, 1);
		mkvm_ioapic_eoi(ioapic, 0x71);
		line(9, 0);
		mkvm_ioapic_eoi(ioapic, 0x71);
	}
	EXPECT_EQ(60000, nr_sent);
	stop();
}

TEST(eoi_of_a_tick_is_told_to_the_pit)
{
	start();
	rte(2, 0x30, 0);
	line(2, 1);
	line(2, 0);
	EXPECT_FALSE(mkvm_ioapic_wants_eoi(ioapic, 0x30));
	mkvm_ioapic_set_irq(ioapic, 2, MKVM_SOURCE_PIT, 1);
	mkvm_ioapic_set_irq(ioapic, 2, MKVM_SOURCE_PIT, 0);
	EXPECT_TRUE(mkvm_ioapic_wants_eoi(ioapic, 0x30));
	mkvm_ioapic_eoi(ioapic, 0x31);
	EXPECT_EQ(0, pit_acks);
	mkvm_ioapic_eoi(ioapic, 0x30);
	EXPECT_EQ(1, pit_acks);
	EXPECT_EQ(2, nr_sent);
	/* a coalesced attempt wants the next EOI too */
	deliver_result = MKVM_IRQ_COALESCED;
	EXPECT_EQ(MKVM_IRQ_COALESCED, mkvm_ioapic_set_irq(ioapic, 2, MKVM_SOURCE_PIT, 1));
	EXPECT_TRUE(mkvm_ioapic_wants_eoi(ioapic, 0x30));
	stop();
}

TEST(partial_writes_set_the_low_bytes)
{
	u8 index = 0x10;
	u16 low = 0x8055;
	u64 wide = 0x1234567800000011ull;
	u8 buf[8];

	start();
	mkvm_ioapic_mmio_write(ioapic, 0, 1, &index);
	mkvm_ioapic_mmio_write(ioapic, 0x10, 2, &low);
	mkvm_ioapic_mmio_read(ioapic, 0x10, 8, buf);
	EXPECT_EQ(0x8055, *(u32 *)buf);
	mkvm_ioapic_mmio_write(ioapic, 0, 8, &wide);
	mkvm_ioapic_mmio_read(ioapic, 0, 4, buf);
	EXPECT_EQ(0x11, *(u32 *)buf);
	stop();
}

TEST(state_round_trips_at_every_step_of_a_session)
{
	struct kvm_ioapic_state before, after;
	unsigned int step, n;

	start();
	for (step = 0; step < 10; step++) {
		switch (step) {
		case 1: reg_write(0, 0x05000000); break;
		case 2: rte(9, LEVEL | 0x71, 0x01000000); break;
		case 3: line(9, 1); break;
		case 4: rte(9, LEVEL | MASKED | 0x72, 0); break;
		case 5: rte(4, 0x44, 0); break;
		case 6: line(4, 1); break;
		case 7: rte(5, MASKED | 0x45, 0); line(5, 1); break;
		case 8: mkvm_ioapic_eoi(ioapic, 0x71); break;
		case 9: line(9, 0); break;
		}
		mkvm_ioapic_get(ioapic, &before);
		n = nr_sent;
		EXPECT_EQ(0, mkvm_ioapic_set(ioapic, &before));
		mkvm_ioapic_get(ioapic, &after);
		EXPECT_EQ(0, memcmp(&before, &after, sizeof(before)));
		EXPECT_EQ(n, nr_sent);		/* nothing arrives twice */
	}
	stop();
}

TEST(get_shows_high_lines_but_no_edge_that_was_delivered)
{
	struct kvm_ioapic_state s;

	start();
	rte(0, LEVEL | 0x70, 0);
	rte(1, LEVEL | MASKED | 0x71, 0);
	rte(2, 0x72, 0);
	rte(23, MASKED | 0x73, 0);
	line(0, 1);
	line(1, 1);
	line(2, 1);
	line(23, 1);
	mkvm_ioapic_get(ioapic, &s);
	EXPECT_EQ(BIT(0) | BIT(1) | BIT(23), s.irr);
	EXPECT_EQ(MKVM_IOAPIC_BASE, s.base_address);
	EXPECT_EQ(0, mkvm_ioapic_set(ioapic, &s));
	EXPECT_EQ(1, line(2, 1));		/* its line is low for all we know: an edge */
	stop();
}

TEST(restored_state_delivers_what_is_pending_and_knows_what_is_in_service)
{
	struct kvm_ioapic_state s;

	start();
	mkvm_ioapic_get(ioapic, &s);
	s.redirtbl[9].bits = LEVEL | 0x71;
	s.redirtbl[10].bits = LEVEL | REMOTE | 0x72;
	s.redirtbl[11].bits = 0x73;
	s.redirtbl[12].bits = REMOTE | STATUS | 0x74;	/* edge: cannot be */
	s.irr = BIT(9) | BIT(10) | BIT(11);
	EXPECT_EQ(0, mkvm_ioapic_set(ioapic, &s));
	ASSERT_EQ(2, nr_sent);
	EXPECT_EQ(0x71, sent[0].vector);
	EXPECT_EQ(0x73, sent[1].vector);
	EXPECT_EQ(0x74, rte_low(12));
	EXPECT_TRUE(mkvm_ioapic_wants_eoi(ioapic, 0x72));
	mkvm_ioapic_eoi(ioapic, 0x72);
	ASSERT_EQ(3, nr_sent);
	EXPECT_EQ(0x72, sent[2].vector);
	line(10, 0);
	mkvm_ioapic_eoi(ioapic, 0x72);
	EXPECT_EQ(3, nr_sent);
	stop();
}

TEST(set_refuses_what_it_cannot_hold_and_ignores_padding)
{
	struct kvm_ioapic_state good, bad, after;
	int i;

	start();
	mkvm_ioapic_get(ioapic, &good);
	for (i = 0; i < 5; i++) {
		bad = good;
		bad.redirtbl[0].bits = 0x99;
		switch (i) {
		case 0: bad.base_address = 0; break;
		case 1: bad.base_address += 0x1000; break;
		case 2: bad.ioregsel = 0x100; break;
		case 3: bad.id = 0x10; break;
		case 4: bad.irr = 1u << 24; break;
		}
		EXPECT_EQ(-EINVAL, mkvm_ioapic_set(ioapic, &bad));
	}
	mkvm_ioapic_get(ioapic, &after);
	EXPECT_EQ(0, memcmp(&good, &after, sizeof(good)));
	good.pad = 0xdeadbeef;
	good.ioregsel = 0xff;
	good.id = 0xf;
	good.irr = 0xffffff;
	EXPECT_EQ(0, mkvm_ioapic_set(ioapic, &good));
	mkvm_ioapic_get(ioapic, &after);
	EXPECT_EQ(0, after.pad);
	stop();
}

TEST(create_fails_cleanly_without_memory)
{
	memset(&vm, 0, sizeof(vm));
	shim_alloc_fail_in = 1;
	EXPECT_EQ(-ENOMEM, mkvm_ioapic_create(&vm));
	EXPECT_TRUE(!vm.irqchip.ioapic);
	mkvm_ioapic_destroy(&vm);
}

/*
 * Random life of level pins: whatever the guest writes, a high, unmasked level
 * pin is in service or has been delivered, and once all lines are low and all
 * vectors ended nothing is stuck.
 */
TEST(random_operations_never_lose_a_level_nor_leave_remote_irr_stuck)
{
	struct kvm_ioapic_state s;
	unsigned int i, pin, v;

	start();
	for (i = 0; i < 100000; i++) {
		unsigned long long r = ktap_random();

		pin = (r >> 8) % 4 + 8;
		v = 0x40 + (r >> 16) % 6;
		switch (r & 7) {
		case 0: case 1: line(pin, r >> 24 & 1); break;
		case 2: rte(pin, v | (r >> 24 & 1) << 15 | (r >> 25 & 1) << 16, 0); break;
		case 3: reg_write(0x10 + 2 * pin, v | LEVEL); break;
		case 4:
		case 5:
		case 6:
			if (mkvm_ioapic_wants_eoi(ioapic, v))
				mkvm_ioapic_eoi(ioapic, v);
			break;
		case 7: shim_clock_advance(20 * NSEC_PER_MSEC); break;
		}
		mkvm_ioapic_get(ioapic, &s);
		for (pin = 8; pin < 12; pin++) {
			if (s.redirtbl[pin].fields.trig_mode && !s.redirtbl[pin].fields.mask &&
			    (s.irr >> pin & 1))
				ASSERT_TRUE(s.redirtbl[pin].fields.remote_irr);
			if (s.redirtbl[pin].fields.remote_irr)
				ASSERT_TRUE(mkvm_ioapic_wants_eoi(ioapic, ioapic->sent[pin]));
		}
	}
	for (pin = 8; pin < 12; pin++)
		line(pin, 0);
	for (v = 0; v < 256; v++)
		mkvm_ioapic_eoi(ioapic, v);
	mkvm_ioapic_get(ioapic, &s);
	for (pin = 0; pin < 24; pin++)
		EXPECT_FALSE(s.redirtbl[pin].fields.remote_irr);
	for (v = 0; v < 256; v++)
		EXPECT_FALSE(mkvm_ioapic_wants_eoi(ioapic, v));
	stop();
}

TEST(what_ends_with_the_eoi_is_low_before_a_level_is_delivered_again)
{
	start();
	rte(9, LEVEL | 0x40, 0);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_EQ(1, nr_sent);
	mkvm_ioapic_eoi(ioapic, 0x40);
	EXPECT_EQ(1 << 9, acked);
	EXPECT_EQ(1, nr_sent);
	EXPECT_FALSE(rte_low(9) & REMOTE);
	/* userspace's own hold on the line does not end */
	line(9, 1);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_EQ(2, nr_sent);
	mkvm_ioapic_eoi(ioapic, 0x40);
	EXPECT_EQ(3, nr_sent);
	stop();
}

TEST(a_level_raised_while_its_end_is_told_is_delivered_once)
{
	start();
	rte(9, LEVEL | 0x40, 0);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_RESAMPLE, 1);
	raise_in_ack = 1 << 9;
	mkvm_ioapic_eoi(ioapic, 0x40);
	EXPECT_EQ(2, nr_sent);
	EXPECT_TRUE(rte_low(9) & REMOTE);
	raise_in_ack = 0;
	mkvm_ioapic_eoi(ioapic, 0x40);
	EXPECT_EQ(2, nr_sent);
	EXPECT_FALSE(rte_low(9) & REMOTE);
	stop();
}

TEST(a_resampled_level_that_never_ends_is_slowed_down_like_any_storm)
{
	unsigned int i;

	start();
	rte(9, LEVEL | 0x40, 0);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_RESAMPLE, 1);
	raise_in_ack = 1 << 9;
	for (i = 0; i < 10000; i++)
		mkvm_ioapic_eoi(ioapic, 0x40);
	EXPECT_EQ(10000, nr_sent);
	EXPECT_FALSE(rte_low(9) & REMOTE);
	shim_clock_advance(20 * NSEC_PER_MSEC);
	EXPECT_EQ(10001, nr_sent);
	stop();
}

TEST(an_edge_pin_tells_its_resampler_too_and_no_other_source)
{
	start();
	rte(9, 0x40, 0);
	line(9, 1);
	EXPECT_FALSE(mkvm_ioapic_wants_eoi(ioapic, 0x40));
	line(9, 0);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_TRUE(mkvm_ioapic_wants_eoi(ioapic, 0x40));
	mkvm_ioapic_eoi(ioapic, 0x40);
	EXPECT_EQ(1, nr_acks);
	mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_RESAMPLE, 1);
	EXPECT_EQ(3, nr_sent);
	stop();
}

TEST(a_pulse_is_an_edge_that_leaves_other_sources_alone)
{
	start();
	rte(9, 0x40, 0);
	EXPECT_EQ(1, mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	EXPECT_EQ(1, mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	EXPECT_EQ(2, nr_sent);
	line(9, 1);
	EXPECT_EQ(MKVM_IRQ_COALESCED,
		  mkvm_ioapic_set_irq(ioapic, 9, MKVM_SOURCE_IRQFD, MKVM_PULSE));
	EXPECT_EQ(MKVM_IRQ_COALESCED, line(9, 1));
	EXPECT_EQ(3, nr_sent);
	stop();
}
