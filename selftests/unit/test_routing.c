// SPDX-License-Identifier: GPL-2.0
/*
 * test_routing.c - GSI routes and MSIs. The chips here only note what they were
 * told.
 */
#include "ktap.h"
#include "../../kmod/irqchip/routing.c"

static struct mkvm vm;
static struct {
	unsigned int pin;
	enum mkvm_irq_source source;
	int level, calls, ret;
} pic_seen, ioapic_seen;
static struct mkvm_irq sent;
static int nr_sent, deliver_ret;

int mkvm_pic_set_irq(struct mkvm_pic *pic, unsigned int pin, enum mkvm_irq_source source, int level)
{
	pic_seen.pin = pin;
	pic_seen.source = source;
	pic_seen.level = level;
	pic_seen.calls++;
	return pic_seen.ret;
}

int mkvm_ioapic_set_irq(struct mkvm_ioapic *ioapic, unsigned int pin, enum mkvm_irq_source source,
			int level)
{
	ioapic_seen.pin = pin;
	ioapic_seen.source = source;
	ioapic_seen.level = level;
	ioapic_seen.calls++;
	return ioapic_seen.ret;
}

int mkvm_irq_deliver(struct mkvm *v, struct mkvm_lapic *sender, const struct mkvm_irq *irq)
{
	sent = *irq;
	nr_sent++;
	return deliver_ret;
}

static int unfinished = -1;	/* a vector that some LAPIC holds */

bool mkvm_lapic_unfinished(struct mkvm_lapic *apic, u8 vector)
{
	return vector == unfinished;
}

static int rerouted;

/* Somebody held GSI 11 high. */
void mkvm_irqfd_rerouted(struct mkvm *v, const struct mkvm_routing *old)
{
	rerouted++;
	mkvm_set_irq_by(v, old, MKVM_SOURCE_RESAMPLE, 11, 0);
}

static void reset_seen(void)
{
	memset(&pic_seen, 0, sizeof(pic_seen));
	memset(&ioapic_seen, 0, sizeof(ioapic_seen));
	pic_seen.ret = ioapic_seen.ret = deliver_ret = 1;
	nr_sent = 0;
}

static void start(void)
{
	memset(&vm, 0, sizeof(vm));
	vm.irqchip.pic = (void *)&pic_seen;
	shim_check(mkvm_routing_create(&vm) == 0, "mkvm_routing_create");
	reset_seen();
}

static void stop(void)
{
	mkvm_routing_destroy(&vm);
}

static int raise_gsi(u32 gsi)
{
	return mkvm_set_irq(&vm, MKVM_SOURCE_USER, gsi, 1);
}

static struct kvm_irq_routing_entry pin_entry(u32 gsi, u32 chip, u32 pin)
{
	struct kvm_irq_routing_entry e = { .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP };

	e.u.irqchip.irqchip = chip;
	e.u.irqchip.pin = pin;
	return e;
}

static struct kvm_irq_routing_entry msi_entry(u32 gsi, u32 address, u32 data)
{
	struct kvm_irq_routing_entry e = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };

	e.u.msi.address_lo = address;
	e.u.msi.data = data;
	return e;
}

TEST(default_table_leads_16_gsis_to_both_chips_and_8_to_the_ioapic)
{
	u32 gsi;

	start();
	for (gsi = 0; gsi < 24; gsi++) {
		reset_seen();
		EXPECT_EQ(gsi < 16 ? 2 : 1, raise_gsi(gsi));
		EXPECT_EQ(gsi, ioapic_seen.pin);
		EXPECT_EQ(1, ioapic_seen.calls);
		EXPECT_EQ(gsi < 16, pic_seen.calls);
		if (gsi < 16)
			EXPECT_EQ(gsi, pic_seen.pin);
	}
	reset_seen();
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(24));
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(MKVM_NR_GSI));
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(~0u));
	EXPECT_EQ(0, pic_seen.calls + ioapic_seen.calls);
	stop();
}

TEST(who_held_pins_of_the_old_table_is_asked_after_the_change)
{
	struct kvm_irq_routing_entry e = pin_entry(40, KVM_IRQCHIP_IOAPIC, 11);

	start();
	EXPECT_TRUE(mkvm_gsi_has_pin(&vm, 11, KVM_IRQCHIP_IOAPIC, 11));
	EXPECT_TRUE(mkvm_gsi_has_pin(&vm, 11, KVM_IRQCHIP_PIC_SLAVE, 3));
	EXPECT_FALSE(mkvm_gsi_has_pin(&vm, 11, KVM_IRQCHIP_PIC_MASTER, 3));
	EXPECT_FALSE(mkvm_gsi_has_pin(&vm, 40, KVM_IRQCHIP_IOAPIC, 11));
	rerouted = 0;
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_EQ(1, rerouted);
	EXPECT_EQ(1, ioapic_seen.calls);
	EXPECT_EQ(11, ioapic_seen.pin);
	EXPECT_EQ(MKVM_SOURCE_RESAMPLE, ioapic_seen.source);
	EXPECT_EQ(0, ioapic_seen.level);
	EXPECT_TRUE(mkvm_gsi_has_pin(&vm, 40, KVM_IRQCHIP_IOAPIC, 11));
	EXPECT_FALSE(mkvm_gsi_has_pin(&vm, ~0u, KVM_IRQCHIP_IOAPIC, 11));
	stop();
}

TEST(source_and_level_reach_the_chips)
{
	start();
	mkvm_set_irq(&vm, MKVM_SOURCE_PIT, 3, 0);
	EXPECT_EQ(MKVM_SOURCE_PIT, pic_seen.source);
	EXPECT_EQ(MKVM_SOURCE_PIT, ioapic_seen.source);
	EXPECT_EQ(0, pic_seen.level);
	mkvm_set_irq(&vm, MKVM_SOURCE_USER, 3, 1);
	EXPECT_EQ(MKVM_SOURCE_USER, ioapic_seen.source);
	EXPECT_EQ(1, ioapic_seen.level);
	stop();
}

TEST(result_is_the_sum_over_those_that_did_not_ignore)
{
	int p, i;

	start();
	for (p = -1; p <= 2; p++) {
		for (i = -1; i <= 2; i++) {
			pic_seen.ret = p;
			ioapic_seen.ret = i;
			EXPECT_EQ(p < 0 && i < 0 ? -1 : max(p, 0) + max(i, 0), raise_gsi(5));
		}
	}
	stop();
}

TEST(set_replaces_the_whole_table)
{
	struct kvm_irq_routing_entry e[] = {
		pin_entry(0, KVM_IRQCHIP_IOAPIC, 2),
		pin_entry(0, KVM_IRQCHIP_PIC_MASTER, 0),
		pin_entry(1023, KVM_IRQCHIP_PIC_SLAVE, 7),
		msi_entry(40, 0xfee01000, 0x41),
	};

	start();
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 4, 0));
	EXPECT_EQ(2, raise_gsi(0));
	EXPECT_EQ(2, ioapic_seen.pin);
	EXPECT_EQ(0, pic_seen.pin);
	EXPECT_EQ(1, raise_gsi(1023));
	EXPECT_EQ(15, pic_seen.pin);
	EXPECT_EQ(1, raise_gsi(40));
	EXPECT_EQ(0x41, sent.vector);
	EXPECT_EQ(1, sent.dest);
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(5));
	EXPECT_EQ(0, mkvm_routing_set(&vm, NULL, 0, 0));
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(0));
	stop();
}

TEST(msi_route_fires_on_level_1_only)
{
	struct kvm_irq_routing_entry e = msi_entry(3, 0xfee00000, 0x55);

	start();
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_EQ(1, raise_gsi(3));
	EXPECT_EQ(MKVM_IRQ_IGNORED, mkvm_set_irq(&vm, MKVM_SOURCE_USER, 3, 0));
	EXPECT_EQ(1, raise_gsi(3));
	EXPECT_EQ(2, nr_sent);
	deliver_ret = MKVM_IRQ_COALESCED;
	EXPECT_EQ(MKVM_IRQ_COALESCED, raise_gsi(3));
	stop();
}

TEST(unprogrammed_msi_route_is_kept_and_sends_nothing)
{
	struct kvm_irq_routing_entry e = msi_entry(3, 0, 0);

	start();
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(3));
	EXPECT_EQ(0, nr_sent);
	stop();
}

TEST(set_accepts_each_limit_and_refuses_one_past)
{
	static const struct { u32 chip, last;
	} pins[] = {
		{ KVM_IRQCHIP_PIC_MASTER, 7 },
		{ KVM_IRQCHIP_PIC_SLAVE, 7 },
		{ KVM_IRQCHIP_IOAPIC, 23 },
	};
	struct kvm_irq_routing_entry e;
	unsigned int i;

	start();
	for (i = 0; i < ARRAY_SIZE(pins); i++) {
		e = pin_entry(1, pins[i].chip, pins[i].last);
		EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
		e.u.irqchip.pin++;
		EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
		e.u.irqchip.pin = ~0u;
		EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	}
	e = pin_entry(1, KVM_NR_IRQCHIPS, 0);
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	e = pin_entry(MKVM_NR_GSI - 1, KVM_IRQCHIP_IOAPIC, 0);
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	e.gsi++;
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	e.gsi = ~0u;
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	stop();
}

TEST(set_takes_as_many_entries_as_gsis_and_not_one_more)
{
	struct kvm_irq_routing_entry *e = calloc(MKVM_NR_GSI + 1, sizeof(*e));
	u32 i;

	start();
	for (i = 0; i <= MKVM_NR_GSI; i++)
		e[i] = msi_entry(i % MKVM_NR_GSI, 0xfee00000, i & 0xff);
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, MKVM_NR_GSI + 1, 0));
	EXPECT_EQ(2, raise_gsi(5));			/* the old table is there */
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, MKVM_NR_GSI, 0));
	EXPECT_EQ(1, raise_gsi(1000));
	EXPECT_EQ(1000 & 0xff, sent.vector);
	free(e);
	stop();
}

TEST(the_table_is_not_read_beyond_its_end_by_speculation_either)
{
	struct kvm_irq_routing_entry e = pin_entry(30, KVM_IRQCHIP_IOAPIC, 4);

	start();
	shim_nr_clamps = 0;
	raise_gsi(7);
	EXPECT_TRUE(shim_clamped(7, KVM_IOAPIC_NUM_PINS));
	mkvm_gsi_has_pin(&vm, 8, KVM_IRQCHIP_IOAPIC, 8);
	EXPECT_TRUE(shim_clamped(8, KVM_IOAPIC_NUM_PINS));
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_TRUE(shim_clamped(30, 31));
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_TRUE(shim_clamped(KVM_IRQCHIP_IOAPIC, KVM_NR_IRQCHIPS));
	stop();
}

TEST(set_refuses_flags_types_padding_and_wrong_addresses)
{
	struct kvm_irq_routing_entry e, good = msi_entry(7, 0xfee00000, 0x33);
	unsigned int i;

	start();
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &good, 1, 1));
	for (i = 0; i < 13; i++) {
		e = good;
		switch (i) {
		case 0: e.flags = 1; break;
		case 1: e.flags = KVM_MSI_VALID_DEVID; break;
		case 2: e.pad = 1; break;
		case 3: e.type = 0; break;
		case 4: e.type = KVM_IRQ_ROUTING_S390_ADAPTER; break;
		case 5: e.type = KVM_IRQ_ROUTING_XEN_EVTCHN + 1; break;
		case 6: e.u.msi.address_hi = 1; break;
		case 7: e.u.msi.address_lo = 0xfedffff0; break;
		case 8: e.u.msi.address_lo = 0xfef00000; break;
		case 9: e.u.msi.devid = 1; break;
		case 10: e.u.pad[7] = 1; break;
		case 11: e = pin_entry(7, KVM_IRQCHIP_IOAPIC, 1); e.u.pad[2] = 1; break;
		case 12: e.u.msi.address_lo = 0; break;	/* but data */
		}
		EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	}
	EXPECT_EQ(2, raise_gsi(7));			/* nothing was half-applied */
	EXPECT_EQ(0, mkvm_routing_set(&vm, &good, 1, 0));
	stop();
}

TEST(gsi_has_one_pin_of_each_chip_or_one_msi)
{
	struct kvm_irq_routing_entry e[4] = {
		pin_entry(7, KVM_IRQCHIP_PIC_MASTER, 1),
		pin_entry(7, KVM_IRQCHIP_PIC_SLAVE, 1),
		pin_entry(7, KVM_IRQCHIP_IOAPIC, 1),
	};

	start();
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 3, 0));
	EXPECT_EQ(3, raise_gsi(7));
	e[3] = pin_entry(7, KVM_IRQCHIP_IOAPIC, 2);
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, 4, 0));
	e[3] = msi_entry(7, 0xfee00000, 0x33);
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, 4, 0));
	e[0] = e[3];
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, 2, 0));
	e[1] = e[3];
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, 2, 0));
	e[0] = msi_entry(7, 0, 0);
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, 2, 0));
	e[1].gsi = 8;
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 2, 0));
	stop();
}

TEST(set_without_memory_changes_nothing)
{
	struct kvm_irq_routing_entry e = msi_entry(7, 0xfee00000, 0x33);

	start();
	shim_alloc_fail_in = 1;
	EXPECT_EQ(-ENOMEM, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_EQ(2, raise_gsi(7));
	stop();
	EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(7));	/* destroyed: leads nowhere */
	shim_alloc_fail_in = 1;
	EXPECT_EQ(-ENOMEM, mkvm_routing_create(&vm));
}

TEST(msi_fields_decode_as_the_manual_says)
{
	start();
	EXPECT_EQ(1, mkvm_msi_deliver(&vm, 0xfeeff000, 0x000000ff));
	EXPECT_EQ(0xff, sent.dest);
	EXPECT_EQ(0xff, sent.vector);
	EXPECT_EQ(0, sent.delivery);
	EXPECT_EQ(0, sent.shorthand);
	EXPECT_FALSE(sent.logical);
	EXPECT_FALSE(sent.level);
	EXPECT_TRUE(sent.assert);
	mkvm_msi_deliver(&vm, 0xfee01004, 0x500);
	EXPECT_TRUE(sent.logical);
	EXPECT_EQ(1, sent.dest);
	EXPECT_EQ(5, sent.delivery);
	EXPECT_TRUE(sent.assert);
	mkvm_msi_deliver(&vm, 0xfee00000, 0xc031);
	EXPECT_TRUE(sent.level && sent.assert);
	mkvm_msi_deliver(&vm, 0xfee00000, 0x8531);
	EXPECT_TRUE(sent.level && sent.assert); /* no level bit: QEMU's IOAPIC has none */
	mkvm_msi_deliver(&vm, 0xfee00000, 0xffff0031);	/* reserved bits of the data do not count */
	EXPECT_EQ(0x31, sent.vector);
	EXPECT_EQ(0, sent.delivery);
	stop();
}

TEST(redirection_hint_means_lowest_priority_of_a_logical_set)
{
	u32 data;

	start();
	for (data = 0x31; data < 0x800; data += 0x100) {
		unsigned int mode = data >> 8;

		mkvm_msi_deliver(&vm, 0xfee0300c, data);
		EXPECT_EQ(mode ? mode : 1, sent.delivery);
		mkvm_msi_deliver(&vm, 0xfee03008, data);	/* physical: one target anyway */
		EXPECT_EQ(mode, sent.delivery);
		mkvm_msi_deliver(&vm, 0xfee03004, data);
		EXPECT_EQ(mode, sent.delivery);
	}
	stop();
}

TEST(msi_to_another_address_is_refused)
{
	static const u64 bad[] = { 0,
				   0xfedfffffull,
				   0xfef00000ull,
				   0x1fee00000ull,
				   0x8000fee00000000ull,
				   0xffffffffffffffffull,
				   0xfee00000ull << 32 };
	unsigned int i;

	start();
	for (i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, mkvm_msi_deliver(&vm, bad[i], 0x31));
	EXPECT_EQ(0, nr_sent);
	EXPECT_EQ(1, mkvm_msi_deliver(&vm, 0xfee00000, 0x31));
	EXPECT_EQ(1, mkvm_msi_deliver(&vm, 0xfeefffff, 0x31));
	stop();
}

TEST(the_upper_address_has_bits_31_to_8_of_the_destination_once_enabled)
{
	struct kvm_irq_routing_entry e = msi_entry(3, 0xfee2c000, 0x41);

	start();
	e.u.msi.address_hi = 0x100;
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_EQ(-EINVAL, mkvm_msi_deliver(&vm, 0x100fee2c000ull, 0x41));
	vm.irqchip.x2apic_ids = true;
	EXPECT_EQ(0, mkvm_routing_set(&vm, &e, 1, 0));
	EXPECT_EQ(1, raise_gsi(3));
	EXPECT_EQ(300, sent.dest);
	EXPECT_EQ(1, mkvm_msi_deliver(&vm, 0xffffff00feeff000ull, 0x41));
	EXPECT_EQ(0xffffffff, sent.dest);
	EXPECT_EQ(-EINVAL, mkvm_msi_deliver(&vm, 0x101fee2c000ull, 0x41));
	e.u.msi.address_hi = 0x101;
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, &e, 1, 0));
	stop();
}

TEST(eois_are_wanted_for_level_routes_of_reserved_pins_until_the_last_has_come)
{
	struct kvm_irq_routing_entry e[] = {
		msi_entry(3, 0xfee00000, 0xc031),
		msi_entry(4, 0xfee00000, 0x41),
		msi_entry(24, 0xfee00000, 0xc051),
	};
	struct mkvm_vcpu vcpu = { .vm = &vm, .lapic = (void *)&vcpu };
	int vector;

	start();
	vm.irqchip.pic = NULL;
	vm.irqchip.ioapic_pins = 24;
	vm.vcpus[vm.nr_vcpus++] = &vcpu;
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 3, 0));
	for (vector = 0; vector < 256; vector++)
		EXPECT_EQ(vector == 0x31, mkvm_routing_wants_eoi(&vm, vector));
	/* rewritten, while the first is in service */
	unfinished = 0x31;
	e[0].u.msi.data = 0xc061;
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 3, 0));
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 3, 0));
	for (vector = 0; vector < 256; vector++)
		EXPECT_EQ(vector == 0x31 || vector == 0x61, mkvm_routing_wants_eoi(&vm, vector));
	unfinished = -1;
	EXPECT_EQ(0, mkvm_routing_set(&vm, e, 3, 0));
	EXPECT_FALSE(mkvm_routing_wants_eoi(&vm, 0x31));
	EXPECT_EQ(0, mkvm_routing_set(&vm, NULL, 0, 0));
	EXPECT_FALSE(mkvm_routing_wants_eoi(&vm, 0x61));
	e[0] = pin_entry(3, KVM_IRQCHIP_IOAPIC, 3);
	EXPECT_EQ(-EINVAL, mkvm_routing_set(&vm, e, 1, 0));
	stop();
}

TEST(random_tables_are_taken_whole_or_refused)
{
	struct kvm_irq_routing_entry e[8];
	struct kvm_irq_routing_entry marker = pin_entry(0, KVM_IRQCHIP_IOAPIC, 17);
	int i, j, n, taken = 0, refused = 0;

	start();
	for (i = 0; i < 20000; i++) {
		memset(e, 0, sizeof(e));
		n = ktap_random() % 8 + 1;
		for (j = 0; j < n; j++) {
			unsigned long long r = ktap_random();

			e[j] = r & 1 ? msi_entry(1 + (r >> 8 & 31), 0xfee00000 | (r >> 16 & 0xffff),
						 r >> 32) :
				       pin_entry(1 + (r >> 8 & 31), r >> 16 & 3, r >> 24 & 31);
		}
		EXPECT_EQ(0, mkvm_routing_set(&vm, &marker, 1, 0));
		reset_seen();
		if (mkvm_routing_set(&vm, e, n, 0) == 0) {
			taken++;
			EXPECT_EQ(MKVM_IRQ_IGNORED, raise_gsi(0));
			for (j = 0; j < n; j++)
				EXPECT_LE(1, raise_gsi(e[j].gsi));
		} else {
			refused++;
			EXPECT_EQ(1, raise_gsi(0));
			EXPECT_EQ(17, ioapic_seen.pin);
		}
	}
	EXPECT_LT(100, taken);
	EXPECT_LT(100, refused);
	stop();
}
