// SPDX-License-Identifier: GPL-2.0
/*
 * test_lapic.c - the local APIC by itself: registers in both modes, rules of
 * acceptance, priority and EOI against a plain model, errors, timers with a
 * fake clock, MSR_IA32_APICBASE, images. Who is addressed: test_ipi.c.
 */
#include "shim/lapic_fixture.h"
#include "ktap.h"

#include <pthread.h>	/* after shim/, whose time.h it would take for the system's */

#define LVTS(reg) (reg = APIC_LVTT; reg <= APIC_LVTERR; reg += 0x10)

static struct mkvm_vcpu *vcpu;
static struct mkvm_lapic *apic;

/* two vCPUs; the tests use the second one, which is no BSP */
static void setup(void)
{
	fixture_start(2, 0, 1);
	vcpu = &fixture_vcpus[1];
	apic = vcpu->lapic;
}

static void setup_enabled(bool x2apic)
{
	setup();
	if (x2apic)
		enter_x2apic(apic);
	sw_enable(apic);
	vcpu->kicks = 0;
}

static u64 msr_read(u32 reg)
{
	u64 val = 0;

	EXPECT_EQ(0, mkvm_lapic_msr_read(apic, 0x800 + (reg >> 4), &val));
	return val;
}

static int msr_write(u32 reg, u64 val)
{
	return mkvm_lapic_msr_write(apic, 0x800 + (reg >> 4), val);
}

static u32 errors(void)
{
	reg_write(apic, APIC_ESR, 0);
	return reg_read(apic, APIC_ESR);
}

/* ---- registers ---- */

TEST(reset_gives_the_values_of_the_manual)
{
	u32 reg;

	setup();
	EXPECT_EQ(1 << 24, reg_read(apic, APIC_ID));
	EXPECT_EQ(0x50014, reg_read(apic, APIC_LVR));
	EXPECT_EQ(0, reg_read(apic, APIC_TASKPRI));
	EXPECT_EQ(0, reg_read(apic, APIC_ARBPRI));
	EXPECT_EQ(0, reg_read(apic, APIC_PROCPRI));
	EXPECT_EQ(0, reg_read(apic, APIC_LDR));
	EXPECT_EQ(0xffffffff, reg_read(apic, APIC_DFR));
	EXPECT_EQ(0xff, reg_read(apic, APIC_SPIV));
	for (reg = APIC_ISR; reg < APIC_ESR; reg += 0x10)
		EXPECT_EQ(0, reg_read(apic, reg));
	EXPECT_EQ(0, reg_read(apic, APIC_ESR));
	EXPECT_EQ(0, reg_read(apic, APIC_ICR));
	EXPECT_EQ(0, reg_read(apic, APIC_ICR2));
	for LVTS(reg)
		EXPECT_EQ(0x10000, reg_read(apic, reg));
	EXPECT_EQ(0, reg_read(apic, APIC_TMICT));
	EXPECT_EQ(0, reg_read(apic, APIC_TMCCT));
	EXPECT_EQ(0, reg_read(apic, APIC_TDCR));
	EXPECT_EQ(0xfee00800, mkvm_lapic_get_base(apic));
	EXPECT_FALSE(mkvm_lapic_sw_enabled(apic));
	EXPECT_EQ(0, errors());
}

TEST(reset_lets_the_pic_through_on_the_boot_cpu_alone)
{
	setup();
	EXPECT_EQ(0x700, reg_read(fixture_vcpus[0].lapic, APIC_LVT0));
	EXPECT_EQ(0xfee00900, mkvm_lapic_get_base(fixture_vcpus[0].lapic));
	EXPECT_TRUE(mkvm_lapic_accepts_pic(fixture_vcpus[0].lapic));
	EXPECT_FALSE(mkvm_lapic_accepts_pic(apic));
}

TEST(xapic_write_changes_the_writable_bits_alone)
{
	static const struct { u32 reg, bits, always;
	} t[] = {
		{ APIC_ID, 0xff000000, 0 },
		{ APIC_LVR, 0, 0x50014 },
		{ APIC_TASKPRI, 0xff, 0 },
		{ APIC_LDR, 0xff000000, 0 },
		{ APIC_DFR, 0xf0000000, 0x0fffffff },
		{ APIC_RRR, 0, 0 },
		{ APIC_EOI, 0, 0 },
		{ APIC_ICR2, 0xff000000, 0 },
		{ APIC_LVTT, 0x700ff, 0 },
		{ APIC_LVTTHMR, 0x107ff, 0 },
		{ APIC_LVTPC, 0x107ff, 0 },
		{ APIC_LVT0, 0x1a7ff, 0 },
		{ APIC_LVT1, 0x1a7ff, 0 },
		{ APIC_LVTERR, 0x100ff, 0 },
		{ APIC_TDCR, 0xb, 0 },
		{ APIC_ESR, 0, 0 },
		{ APIC_TMCCT, 0, 0 },
		{ APIC_ISR, 0, 0 },
		{ APIC_ISR + 0x70, 0, 0 },
		{ APIC_TMR, 0, 0 },
		{ APIC_IRR + 0x70, 0, 0 },
	};

	for (int i = 0; i < ARRAY_SIZE(t); i++) {
		setup_enabled(false);
		/* TPR moves PPR and APR too, and TMICT is written below */
		reg_write(apic, t[i].reg, 0xffffffff);
		EXPECT_EQ(t[i].bits | t[i].always, reg_read(apic, t[i].reg));
		reg_write(apic, t[i].reg, 0);
		EXPECT_EQ(t[i].always, reg_read(apic, t[i].reg));
	}
	setup_enabled(false);
	reg_write(apic, APIC_SPIV, 0xffffffff);
	EXPECT_EQ(0x3ff, reg_read(apic, APIC_SPIV));	/* no directed EOI in this version */
	reg_write(apic, APIC_TMICT, 0xffffffff);
	EXPECT_EQ(0xffffffff, reg_read(apic, APIC_TMICT));
	reg_write(apic, APIC_ICR,
		  0xfff33000 | 0xc8b00 | 0x41); /* to nobody but others, remote read */
	EXPECT_EQ(0xffffab41, reg_read(apic, APIC_ICR));	/* all but delivery status */
	EXPECT_EQ(0, errors());
}

TEST(lvtt_deadline_mode_needs_its_cpuid_bit)
{
	setup_enabled(false);
	vcpu->guest_cpuid.tsc_deadline = false;
	reg_write(apic, APIC_LVTT, 0x400ff);
	EXPECT_EQ(0xff, reg_read(apic, APIC_LVTT));
	setup_enabled(true);
	vcpu->guest_cpuid.tsc_deadline = false;
	EXPECT_EQ(1, msr_write(APIC_LVTT, 0x400ff));
	EXPECT_EQ(0x10000, msr_read(APIC_LVTT));
	vcpu->guest_cpuid.tsc_deadline = true;
	EXPECT_EQ(0, msr_write(APIC_LVTT, 0x400ff));
}

TEST(xapic_reads_take_parts_of_a_register_and_writes_do_not)
{
	u64 val;

	setup_enabled(false);
	val = ~0ull;
	mkvm_lapic_mmio_read(apic, APIC_LVR, 8, &val);
	EXPECT_EQ(0x50014, val);
	val = 0;
	mkvm_lapic_mmio_read(apic, APIC_LVR + 2, 1, &val);
	EXPECT_EQ(0x05, val);
	mkvm_lapic_mmio_read(apic, APIC_LVR, 2, &val);
	EXPECT_EQ(0x0014, val);
	val = ~0ull;
	mkvm_lapic_mmio_read(apic, APIC_LVR + 2, 4, &val);
	EXPECT_EQ(5, (u32)val);
	mkvm_lapic_mmio_read(apic, APIC_LVR + 4, 4, &val);
	EXPECT_EQ(0, (u32)val);
	for (u32 len = 1; len <= 8; len *= 2)
		for (u32 byte = 0; byte < 16; byte++) {
			u64 ones = ~0ull;

			if (len == 4 && !byte)
				continue;
			mkvm_lapic_mmio_write(apic, APIC_TASKPRI + byte, len, &ones);
			EXPECT_EQ(0, reg_read(apic, APIC_TASKPRI));
		}
	EXPECT_EQ(0, errors());
}

TEST(xapic_registers_that_do_not_exist_set_the_illegal_register_error)
{
	static const u32 there[] = { 0x20,  0x30,  0x80,  0x90,	 0xa0,	0xb0,  0xc0,  0xd0,
				     0xe0,  0xf0,  0x280, 0x300, 0x310, 0x320, 0x330, 0x340,
				     0x350, 0x360, 0x370, 0x380, 0x390, 0x3e0 };

	setup_enabled(false);
	for (u32 reg = 0; reg < 0x1000; reg += 0x10) {
		bool exists = reg >= 0x100 && reg < 0x280;

		for (int i = 0; i < ARRAY_SIZE(there); i++)
			exists |= there[i] == reg;
		reg_read(apic, reg);
		EXPECT_EQ(exists ? 0 : APIC_ESR_ILLREGA, errors());
		if (exists)
			continue;
		EXPECT_EQ(0, reg_read(apic, reg));
		errors();
		reg_write(apic, reg, 0xffffffff);
		EXPECT_EQ(APIC_ESR_ILLREGA, errors());
	}
}

/* each MSR: 0 no such, else what of it can be written; RO: nothing */
static u64 x2apic_bits(u32 reg, bool *readable, bool *writable)
{
	*readable = *writable = true;
	switch (reg) {
	case APIC_ID: case APIC_LVR: case APIC_PROCPRI: case APIC_LDR: case APIC_TMCCT:
	case APIC_ISR ... APIC_IRR + 0x7f:
		*writable = false;
		return 0;
	case APIC_TASKPRI: return 0xff;
	case APIC_EOI: *readable = false; return 0;
	case APIC_SPIV: return 0x3ff;
	case APIC_ESR: return 0;
	case APIC_ICR: return 0xffffffff000ccfffull;
	case APIC_LVTT: return 0x700ff;
	case APIC_LVTTHMR: case APIC_LVTPC: return 0x107ff;
	case APIC_LVT0: case APIC_LVT1: return 0x1a7ff;
	case APIC_LVTERR: return 0x100ff;
	case APIC_TMICT: return 0xffffffff;
	case APIC_TDCR: return 0xb;
	case APIC_SELF_IPI: *readable = false; return 0xff;
	}
	*readable = *writable = false;
	return 0;
}

static u64 x2apic_ignored(u32 reg)
{
	if (reg == APIC_ICR)
		return APIC_ICR_BUSY;
	if (reg == APIC_LVT0 || reg == APIC_LVT1)
		return APIC_SEND_PENDING | APIC_LVT_REMOTE_IRR;
	return reg >= APIC_LVTT && reg <= APIC_LVTERR ? APIC_SEND_PENDING : 0;
}

TEST(x2apic_msrs_fault_as_the_table_of_the_manual_says)
{
	for (u32 msr = 0x7ff; msr <= 0x900; msr++) {
		u32 reg = (msr - 0x800) << 4;
		bool readable, writable;
		u64 bits = x2apic_bits(reg, &readable, &writable), val = 0;

		if (msr < 0x800)
			readable = writable = false;
		setup_enabled(true);
		EXPECT_EQ(!readable, mkvm_lapic_msr_read(apic, msr, &val));
		EXPECT_EQ(!writable, mkvm_lapic_msr_write(apic, msr, 0));
		for (int bit = 0; bit < 64; bit++) {
			u64 before, after;

			setup_enabled(true);
			if (reg == APIC_SPIV && bit != 8)	/* keep it enabled */
				EXPECT_EQ(!(bits >> bit & 1),
					  mkvm_lapic_msr_write(apic, msr, BIT_ULL(bit) | 0x100));
			before = readable ? msr_read(reg) : 0;
			if (mkvm_lapic_msr_write(apic, msr, BIT_ULL(bit))) {
				EXPECT_FALSE(writable && ((bits | x2apic_ignored(reg)) >> bit & 1));
				after = readable ? msr_read(reg) : 0;
				EXPECT_EQ(before, after);
			} else {
				EXPECT_TRUE(writable && ((bits | x2apic_ignored(reg)) >> bit & 1));
				if (readable)
					EXPECT_EQ(BIT_ULL(bit) & bits, msr_read(reg));
			}
		}
	}
}

TEST(registers_are_not_read_beyond_the_last_by_speculation_either)
{
	struct mkvm_lapic *apic = fixture_start(1, 0, 1)->vcpus[0]->lapic;
	u64 val;

	shim_nr_clamps = 0;
	reg_write(apic, APIC_LDR, 0);
	EXPECT_TRUE(shim_clamped(APIC_LDR, APIC_SELF_IPI + 1));
	enter_x2apic(apic);
	mkvm_lapic_msr_read(apic, 0x808, &val);
	EXPECT_TRUE(shim_clamped(8, 0x40));
	mkvm_lapic_msr_write(apic, 0x80b, 0);
	EXPECT_TRUE(shim_clamped(0xb, 0x40));
}

TEST(x2apic_msrs_fault_in_xapic_mode_and_disabled)
{
	u64 val;

	setup_enabled(false);
	EXPECT_EQ(1, mkvm_lapic_msr_read(apic, 0x802, &val));
	EXPECT_EQ(1, mkvm_lapic_msr_write(apic, 0x808, 0));
	mkvm_lapic_set_base(apic, 0xfee00000, false);
	EXPECT_EQ(1, mkvm_lapic_msr_read(apic, 0x802, &val));
	EXPECT_EQ(1, mkvm_lapic_msr_write(apic, 0x808, 0));
}

TEST(x2apic_ids_are_derived_from_the_vcpu_id)
{
	for (u32 id = 0; id < 255; id++) {
		fixture_start(1, id, 1);
		vcpu = &fixture_vcpus[0];
		apic = vcpu->lapic;
		EXPECT_EQ(id, mkvm_lapic_id(apic));
		reg_write(apic, APIC_ID, 0x77000000);
		EXPECT_EQ(0x77, mkvm_lapic_id(apic));
		reg_write(apic, APIC_LDR, 0x12000000);
		enter_x2apic(apic);
		EXPECT_EQ(id, mkvm_lapic_id(apic));
		EXPECT_EQ(id, msr_read(APIC_ID));
		EXPECT_EQ((id / 16) << 16 | 1 << (id % 16), msr_read(APIC_LDR));
	}
}

TEST(software_disable_masks_every_lvt_entry_and_keeps_them_masked)
{
	u32 reg;

	for (int x2apic = 0; x2apic < 2; x2apic++) {
		setup_enabled(false);
		for LVTS(reg) {
			reg_write(apic, reg, 0x41);
			EXPECT_EQ(0x41, reg_read(apic, reg));
		}
		reg_write(apic, APIC_SPIV, 0xff);
		for LVTS(reg) {
			EXPECT_EQ(0x10041, reg_read(apic, reg));
			reg_write(apic, reg, 0x42);
			EXPECT_EQ(0x10042, reg_read(apic, reg));
		}
		reg_write(apic, APIC_SPIV, 0x1ff);
		for LVTS(reg) {
			EXPECT_EQ(0x10042, reg_read(apic, reg));
			reg_write(apic, reg, 0x42);
			EXPECT_EQ(0x42, reg_read(apic, reg));
		}
	}
}

/* ---- acceptance ---- */

TEST(software_disabled_takes_no_vector_but_all_else)
{
	struct mkvm_irq irq = { .vector = 0x41, .assert = true };
	static const int taken[8] = { -1, -1, 1, -1, 1, 1, 1, -1 };

	setup();
	for (int d = 0; d < 8; d++) {
		irq.delivery = d;
		EXPECT_EQ(taken[d], mkvm_lapic_accept(apic, &irq));
	}
	EXPECT_EQ(1, vcpu->smis);
	EXPECT_EQ(1, vcpu->nmis);
	EXPECT_EQ(1, vcpu->inits);
	EXPECT_EQ(1, vcpu->sipis);
	EXPECT_EQ(0x41, vcpu->sipi_vector);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
}

TEST(what_was_requested_before_software_disable_is_still_delivered)
{
	setup_enabled(false);
	send_fixed(apic, 0x41, false);
	reg_write(apic, APIC_SPIV, 0xff);
	EXPECT_EQ(0x41, mkvm_lapic_pending(apic));
	EXPECT_EQ(MKVM_IRQ_IGNORED, send_fixed(apic, 0x42, false));
}

TEST(fixed_and_lowest_set_irr_once_and_kick_each_time)
{
	struct mkvm_irq irq = { .vector = 0x41, .assert = true };

	for (irq.delivery = 0; irq.delivery < 2; irq.delivery++) {
		setup_enabled(false);
		EXPECT_EQ(1, mkvm_lapic_accept(apic, &irq));
		EXPECT_EQ(1, vcpu->kicks);
		EXPECT_EQ(0, mkvm_lapic_accept(apic, &irq));
		EXPECT_EQ(2, vcpu->kicks);
		EXPECT_TRUE(vector_test(apic, APIC_IRR, 0x41));
		mkvm_lapic_ack(apic, 0x41);
		EXPECT_EQ(1, mkvm_lapic_accept(apic, &irq));	/* in service, requested again */
		EXPECT_TRUE(vector_test(apic, APIC_ISR, 0x41) && vector_test(apic, APIC_IRR, 0x41));
	}
}

TEST(tmr_is_set_and_cleared_with_each_request)
{
	setup_enabled(false);
	for (int vector = 16; vector < 256; vector++) {
		send_fixed(apic, vector, true);
		EXPECT_TRUE(vector_test(apic, APIC_TMR, vector));
		send_fixed(apic, vector, false);
		EXPECT_FALSE(vector_test(apic, APIC_TMR, vector));
		send_fixed(apic, vector, true);
	}
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(i ? ~0u : 0xffff0000u, reg_read(apic, APIC_TMR + i * 0x10));
}

TEST(a_level_deassert_is_ignored_by_fixed_lowest_and_init)
{
	struct mkvm_irq irq = { .vector = 0x41, .level = true };
	static const int modes[] = { 0, 1, 5 };

	setup_enabled(false);
	for (int i = 0; i < 3; i++) {
		irq.delivery = modes[i];
		EXPECT_EQ(MKVM_IRQ_IGNORED, mkvm_lapic_accept(apic, &irq));
	}
	EXPECT_EQ(0, vcpu->inits);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	reg_write(apic, APIC_ICR2, 1 << 24);
	reg_write(apic, APIC_ICR, 0x8500);
	EXPECT_EQ(0, vcpu->inits);
	reg_write(apic, APIC_ICR, 0xc500);
	EXPECT_EQ(1, vcpu->inits);
	reg_write(apic, APIC_ICR, 0x0500);	/* edge */
	EXPECT_EQ(2, vcpu->inits);
}

TEST(vectors_below_16_are_errors_of_receiver_and_sender)
{
	setup_enabled(false);
	for (int vector = 0; vector < 18; vector++) {
		EXPECT_EQ(vector >= 16 ? 1 : MKVM_IRQ_IGNORED, send_fixed(apic, vector, false));
		EXPECT_EQ(vector >= 16 ? 0 : APIC_ESR_RECVILL, errors());
		reg_write(apic, APIC_ICR,
			  0x44000 | vector); /* to itself: refused before it is sent */
		EXPECT_EQ(vector >= 16 ? 0 : APIC_ESR_SENDILL, errors());
	}
	reg_write(apic, APIC_ICR, 0x44400);	/* an NMI has no vector */
	EXPECT_EQ(0, errors());
	EXPECT_EQ(1, vcpu->nmis);
	setup_enabled(true);
	EXPECT_EQ(0, msr_write(APIC_SELF_IPI, 15));
	EXPECT_EQ(0, msr_write(APIC_SELF_IPI, 16));
	EXPECT_EQ(16, mkvm_lapic_highest_irr(apic));
	EXPECT_EQ(0, msr_read(APIC_ESR));
	msr_write(APIC_ESR, 0);
	EXPECT_EQ(APIC_ESR_SENDILL, msr_read(APIC_ESR));
}

TEST(esr_shows_errors_after_a_write_and_the_next_write_forgets_them)
{
	setup_enabled(false);
	send_fixed(apic, 3, false);
	EXPECT_EQ(0, reg_read(apic, APIC_ESR));
	reg_write(apic, APIC_ESR, 0xff);
	EXPECT_EQ(APIC_ESR_RECVILL, reg_read(apic, APIC_ESR));
	send_fixed(apic, 3, false);
	reg_read(apic, 0x40);
	EXPECT_EQ(APIC_ESR_RECVILL, reg_read(apic, APIC_ESR));
	EXPECT_EQ(APIC_ESR_RECVILL | APIC_ESR_ILLREGA, errors());
	EXPECT_EQ(0, errors());
}

TEST(the_error_interrupt_comes_once_until_esr_is_written)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVTERR, 0xfe);
	reg_read(apic, 0x40);
	EXPECT_EQ(0xfe, mkvm_lapic_highest_irr(apic));
	mkvm_lapic_ack(apic, 0xfe);
	reg_write(apic, APIC_EOI, 0);
	send_fixed(apic, 3, false);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	reg_write(apic, APIC_ESR, 0);
	send_fixed(apic, 3, false);
	EXPECT_EQ(0xfe, mkvm_lapic_highest_irr(apic));
}

TEST(an_error_interrupt_with_an_illegal_vector_ends)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVTERR, 0x05);
	reg_read(apic, 0x40);
	EXPECT_EQ(APIC_ESR_ILLREGA | APIC_ESR_RECVILL, errors());
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
}

/* ---- local vector table ---- */

TEST(lint_entries_deliver_as_their_mode_says)
{
	static const struct { int mode, result; } t[] = {
		{ 0, 1 }, { 1, -1 }, { 2, 1 }, { 3, -1 }, { 4, 1 }, { 5, 1 }, { 6, -1 }, { 7, -1 },
	};

	for (u32 reg = APIC_LVT0; reg <= APIC_LVT1; reg += 0x10)
		for (int i = 0; i < 8; i++) {
			setup_enabled(false);
			reg_write(apic, reg, t[i].mode << 8 | 0x41);
			EXPECT_EQ(t[i].result, mkvm_lapic_local_deliver(apic, reg));
			EXPECT_EQ(t[i].mode ? -1 : 0x41, mkvm_lapic_highest_irr(apic));
			EXPECT_EQ(t[i].mode == 2, vcpu->smis);
			EXPECT_EQ(t[i].mode == 4, vcpu->nmis);
			EXPECT_EQ(t[i].mode == 5, vcpu->inits);
			EXPECT_EQ(0, vcpu->sipis);
			reg_write(apic, reg, t[i].mode << 8 | 0x10041);
			EXPECT_EQ(-1, mkvm_lapic_local_deliver(apic, reg));
		}
}

TEST(remote_irr_of_a_level_lint_lasts_until_eoi)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVT1, 0x8041);
	EXPECT_EQ(0x8041, reg_read(apic, APIC_LVT1));
	EXPECT_EQ(1, mkvm_lapic_local_deliver(apic, APIC_LVT1));
	EXPECT_EQ(0xc041, reg_read(apic, APIC_LVT1));
	mkvm_lapic_ack(apic, 0x41);
	reg_write(apic, APIC_LVT1, 0x8041);
	EXPECT_EQ(0xc041, reg_read(apic, APIC_LVT1));
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(0x8041, reg_read(apic, APIC_LVT1));
	reg_write(apic, APIC_LVT1, 0x8441);	/* an NMI has no trigger mode */
	mkvm_lapic_local_deliver(apic, APIC_LVT1);
	EXPECT_EQ(1, vcpu->nmis);
	EXPECT_EQ(0x8441, reg_read(apic, APIC_LVT1));
}

TEST(the_pic_gets_through_lint0_or_a_disabled_apic)
{
	setup_enabled(false);
	for (u32 mode = 0; mode < 8; mode++)
		for (u32 masked = 0; masked < 2; masked++) {
			reg_write(apic, APIC_LVT0, masked << 16 | mode << 8 | 0x41);
			EXPECT_EQ(mode == 7 && !masked, mkvm_lapic_accepts_pic(apic));
		}
	vcpu->kicks = 0;
	reg_write(apic, APIC_LVT0, 0x700);
	EXPECT_EQ(1, vcpu->kicks);
	reg_write(apic, APIC_SPIV, 0xff);
	EXPECT_FALSE(mkvm_lapic_accepts_pic(apic));
	mkvm_lapic_set_base(apic, 0xfee00000, false);
	EXPECT_TRUE(mkvm_lapic_accepts_pic(apic));
}

static void set_int(bool high)
{
	fixture_pic.line = high;
	mkvm_lapic_lint0(apic, high ? MKVM_INT_RISES | MKVM_INT_REQUEST : MKVM_INT_FALLS);
}

static int delivered(u32 mode)
{
	switch (mode) {
	case 0: return vector_test(apic, APIC_IRR, 0x41);
	case 2: return vcpu->smis;
	case 4: return vcpu->nmis;
	case 5: return vcpu->inits;
	default: return 0;
	}
}

TEST(lint0_delivers_by_its_mode_at_an_edge_of_its_polarity)
{
	static const u32 modes[] = { 0, 2, 4, 5 };

	for (u32 i = 0; i < ARRAY_SIZE(modes); i++)
		for (u32 low = 0; low < 2; low++)
			for (u32 level = 0; level < 2; level++)
				for (u32 masked = 0; masked < 2; masked++) {
					u32 lvt = masked << 16 | level << 15 | low << 13 |
						  modes[i] << 8 | 0x41;

					if (!modes[i] && level)
						continue;
					setup_enabled(false);
					set_int(low);
					reg_write(apic, APIC_LVT0, lvt);
					EXPECT_EQ(
						0,
						delivered(
							/* writing an entry is no edge */
							modes[i]));
					set_int(!low);
					EXPECT_EQ(!masked, delivered(modes[i]));
					set_int(low);
					EXPECT_EQ(!masked, delivered(modes[i]));
					set_int(!low);
					EXPECT_EQ(masked   ? 0 :
						  modes[i] ? 2 :
							     1,
						  delivered(modes[i]));
					EXPECT_EQ(!masked && modes[i] ? 2 : 0,
						  vcpu->smis + vcpu->nmis + vcpu->inits);
				}
}

TEST(a_pulse_of_int_is_one_edge)
{
	for (u32 low = 0; low < 2; low++) {
		setup_enabled(false);
		fixture_pic.line = false;
		reg_write(apic, APIC_LVT0, low << 13 | 0x400);
		mkvm_lapic_lint0(apic, MKVM_INT_RISES | MKVM_INT_FALLS | MKVM_INT_REQUEST);
		EXPECT_EQ(1, vcpu->nmis);
	}
}

TEST(lint0_as_extint_looks_when_there_is_a_request_and_delivers_nothing_itself)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVT0, 0x700);
	vcpu->kicks = 0;
	set_int(true);
	EXPECT_EQ(1, vcpu->kicks);
	mkvm_lapic_lint0(apic, MKVM_INT_RISES | MKVM_INT_FALLS);
	EXPECT_EQ(1, vcpu->kicks);
	/* so does the INTR pin of a CPU whose APIC is disabled */
	mkvm_lapic_set_base(apic, 0xfee00000, false);
	vcpu->kicks = 0;
	set_int(true);
	EXPECT_EQ(1, vcpu->kicks);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
}

TEST(level_triggered_lint0_delivers_while_its_pin_is_asserted)
{
	for (u32 low = 0; low < 2; low++) {
		setup_enabled(false);
		set_int(low);
		reg_write(apic, APIC_LVT0, low << 13 | 0x18041);
		set_int(!low);
		EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
		reg_write(apic, APIC_LVT0, low << 13 | 0x8041);	/* unmasked: it is a level */
		EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
		EXPECT_TRUE(vector_test(apic, APIC_TMR, 0x41));
		EXPECT_EQ(low << 13 | 0xc041, reg_read(apic, APIC_LVT0));
		mkvm_lapic_ack(apic, 0x41);
		set_int(low);
		set_int(!low);
		EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));	/* no EOI yet */
		reg_write(apic, APIC_EOI, 0);
		EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
		mkvm_lapic_ack(apic, 0x41);
		set_int(low);
		reg_write(apic, APIC_EOI, 0);
		EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
		EXPECT_EQ(low << 13 | 0x8041, reg_read(apic, APIC_LVT0));
	}
}

TEST(level_triggered_lint0_follows_its_pin_through_images_and_disabling)
{
	struct kvm_lapic_state image;

	setup_enabled(false);
	reg_write(apic, APIC_LVT0, 0x8041);
	mkvm_lapic_get_state(apic, &image);
	mkvm_lapic_reset(apic, true);
	set_int(true);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	EXPECT_EQ(0, mkvm_lapic_set_state(apic, &image));
	EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
	/* served there, and no EOI: it comes with the EOI */
	mkvm_lapic_ack(apic, 0x41);
	mkvm_lapic_get_state(apic, &image);
	mkvm_lapic_reset(apic, true);
	EXPECT_EQ(0, mkvm_lapic_set_state(apic, &image));
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
	mkvm_lapic_ack(apic, 0x41);
	reg_write(apic, APIC_SPIV, 0xff);		/* masks it */
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	/* userspace switches the APIC off and on again */
	reg_write(apic, APIC_SPIV, 0x1ff);
	mkvm_lapic_set_base(apic, 0xfee00000, true);
	mkvm_lapic_lint0(apic, MKVM_INT_RISES);
	mkvm_lapic_set_base(apic, 0xfee00800, true);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	reg_write(apic, APIC_LVT0, 0x8041);
	EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
}

TEST(without_a_pic_in_the_kernel_lint0_has_no_level)
{
	setup_enabled(false);
	fixture_vm.irqchip.pic = NULL;
	reg_write(apic, APIC_LVT0, 0x8041);
	reg_write(apic, APIC_LVT0, 0xa041);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
}

/* ---- priorities and EOI ---- */

TEST(ppr_is_tpr_or_the_class_in_service)
{
	for (u32 tpr = 0; tpr < 256; tpr++)
		for (u32 isr = 0; isr < 256; isr = isr ? isr + 1 : 16) {
			u32 expected = tpr >> 4 >= isr >> 4 ? tpr : isr & 0xf0;

			if (!isr || isr == 16)
				setup_enabled(false);
			reg_write(apic, APIC_TASKPRI, tpr);
			if (isr)
				mkvm_lapic_ack(apic, isr);
			EXPECT_EQ(expected, reg_read(apic, APIC_PROCPRI));
		}
}

TEST(apr_is_what_arbitration_uses)
{
	static const struct { u8 tpr, irr, isr, apr; } t[] = {
		{ 0x00, 0x00, 0x00, 0x00 }, { 0x35, 0x00, 0x00, 0x35 }, { 0x35, 0x31, 0x00, 0x35 },
		{ 0x35, 0x41, 0x00, 0x40 }, { 0x35, 0x00, 0x31, 0x30 }, { 0x35, 0x00, 0x51, 0x50 },
		{ 0x35, 0x61, 0x51, 0x60 }, { 0x35, 0x41, 0x51, 0x50 }, { 0x05, 0x00, 0x00, 0x00 },
	};

	for (int i = 0; i < ARRAY_SIZE(t); i++) {
		setup_enabled(false);
		reg_write(apic, APIC_TASKPRI, t[i].tpr);
		if (t[i].irr)
			send_fixed(apic, t[i].irr, false);
		if (t[i].isr)
			mkvm_lapic_ack(apic, t[i].isr);
		EXPECT_EQ(t[i].apr, mkvm_lapic_arb_priority(apic));
		EXPECT_EQ(t[i].apr, reg_read(apic, APIC_ARBPRI));
	}
}

TEST(pending_needs_a_class_above_the_processor_priority)
{
	for (int vector = 16; vector < 256; vector++) {
		setup_enabled(false);
		send_fixed(apic, vector, false);
		for (u32 tpr = 0; tpr < 256; tpr += 5) {
			mkvm_lapic_set_tpr(apic, tpr);
			EXPECT_EQ(tpr, mkvm_lapic_get_tpr(apic));
			EXPECT_EQ(vector >> 4 > tpr >> 4 ? vector : -1, mkvm_lapic_pending(apic));
			EXPECT_EQ(vector, mkvm_lapic_highest_irr(apic));
		}
	}
}

TEST(tpr_and_eoi_ask_for_another_look_only_when_something_is_requested)
{
	setup_enabled(false);
	reg_write(apic, APIC_TASKPRI, 0x50);
	reg_write(apic, APIC_TASKPRI, 0);
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(0, vcpu->kicks);
	reg_write(apic, APIC_TASKPRI, 0x50);
	send_fixed(apic, 0x41, false);
	EXPECT_EQ(1, vcpu->kicks);
	EXPECT_EQ(-1, mkvm_lapic_pending(apic));
	reg_write(apic, APIC_TASKPRI, 0x30);
	EXPECT_EQ(2, vcpu->kicks);
	EXPECT_EQ(0x41, mkvm_lapic_pending(apic));
	mkvm_lapic_ack(apic, 0x41);
	send_fixed(apic, 0x40, false);
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(4, vcpu->kicks);
	mkvm_lapic_ack(apic, 0x40);
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(4, vcpu->kicks);
}

TEST(without_ioapic_the_eoi_of_a_level_vector_of_userspace_is_told)
{
	for (int x2apic = 0; x2apic < 2; x2apic++) {
		setup_enabled(x2apic);
		vcpu->vm->irqchip.ioapic = NULL;
		mkvm_lapic_reset(apic, true);
		EXPECT_EQ(APIC_LVR_DIRECTED_EOI, lapic_get(apic, APIC_LVR) & APIC_LVR_DIRECTED_EOI);
		/* bit 0: waited for, bit 1: level, bit 2: broadcast suppressed */
		for (int i = 0; i < 8; i++) {
			u32 spiv = 0x1ff | (i & 4 ? APIC_SPIV_DIRECTED_EOI : 0);

			x2apic ? (void)mkvm_lapic_msr_write(apic, 0x80f, spiv) :
				 reg_write(apic, APIC_SPIV, spiv);
			EXPECT_EQ(spiv, lapic_get(apic, APIC_SPIV));
			vcpu->vm->wants_eoi[0x41] = i & 1;
			vcpu->eois_reported = 0;
			send_fixed(apic, 0x41, i & 2);
			mkvm_lapic_ack(apic, 0x41);
			EXPECT_EQ(0, vcpu->eois_reported);
			lapic_eoi(apic);
			EXPECT_EQ(i == 3, vcpu->eois_reported);
		}
		EXPECT_EQ(0x41, vcpu->last_eoi);
	}
}

TEST(a_vector_is_unfinished_from_its_request_to_its_eoi)
{
	setup_enabled(false);
	EXPECT_FALSE(mkvm_lapic_unfinished(apic, 0x41));
	send_fixed(apic, 0x41, true);
	EXPECT_TRUE(mkvm_lapic_unfinished(apic, 0x41));
	mkvm_lapic_ack(apic, 0x41);
	EXPECT_TRUE(mkvm_lapic_unfinished(apic, 0x41));
	EXPECT_FALSE(mkvm_lapic_unfinished(apic, 0x42));
	lapic_eoi(apic);
	EXPECT_FALSE(mkvm_lapic_unfinished(apic, 0x41));
}

TEST(only_the_guests_accesses_to_tpr_are_told)
{
	struct kvm_lapic_state state;
	u64 val;

	setup_enabled(false);
	reg_write(apic, APIC_TASKPRI, 0x20);
	EXPECT_EQ(1, vcpu->tpr_writes);
	reg_read(apic, APIC_TASKPRI);
	EXPECT_EQ(1, vcpu->tpr_reads);
	mkvm_lapic_set_tpr(apic, 0x30);
	mkvm_lapic_get_tpr(apic);
	mkvm_lapic_get_state(apic, &state);
	mkvm_lapic_set_state(apic, &state);
	enter_x2apic(apic);
	mkvm_lapic_msr_write(apic, 0x808, 0x20);
	mkvm_lapic_msr_read(apic, 0x808, &val);
	EXPECT_EQ(2, vcpu->tpr_writes);
	EXPECT_EQ(2, vcpu->tpr_reads);
}

TEST(eoi_is_broadcast_for_the_vectors_that_the_ioapic_waits_for)
{
	setup_enabled(false);
	reg_write(apic, APIC_EOI, 0);
	EXPECT_EQ(0, fixture_ioapic.eois);
	for (int vector = 16; vector < 256; vector++) {
		fixture_ioapic.eois = 0;
		fixture_ioapic.wants[vector] = vector & 1;
		send_fixed(apic, vector, true);
		mkvm_lapic_ack(apic, vector);
		reg_write(apic, APIC_EOI, vector ^ 0x55);	/* any value, in xAPIC mode */
		EXPECT_EQ(vector & 1, fixture_ioapic.eois);
		if (vector & 1)
			EXPECT_EQ(vector, fixture_ioapic.last);
		reg_write(apic, APIC_EOI, 0);
		EXPECT_EQ(vector & 1, fixture_ioapic.eois);
	}
	fixture_vm.irqchip.ioapic = NULL;
	send_fixed(apic, 0x41, true);
	mkvm_lapic_ack(apic, 0x41);
	reg_write(apic, APIC_EOI, 0);
	EXPECT_FALSE(vector_test(apic, APIC_ISR, 0x41));
}

static int model_highest(const bool *bits)
{
	int v = 255;

	while (v >= 0 && !bits[v])
		v--;
	return v;
}

TEST(random_operations_agree_with_a_plain_model)
{
	bool irr[256] = { 0 }, isr[256] = { 0 }, tmr[256] = { 0 };
	u32 tpr = 0;

	setup_enabled(true);
	for (int n = 0; n < 300000; n++) {
		u64 r = ktap_random();
		u8 vector = 16 + (r >> 8) % 240;
		int in_service = model_highest(isr), wanted = model_highest(irr);
		u32 ppr = in_service >= 0 && in_service >> 4 > tpr >> 4 ? in_service & 0xf0 : tpr;

		ASSERT_EQ(wanted, mkvm_lapic_highest_irr(apic));
		ASSERT_EQ(wanted >= 0 && wanted >> 4 > ppr >> 4 ? wanted : -1,
			  mkvm_lapic_pending(apic));
		ASSERT_EQ(ppr, msr_read(APIC_PROCPRI));
		ASSERT_EQ(isr[vector], vector_test(apic, APIC_ISR, vector));
		ASSERT_EQ(irr[vector], vector_test(apic, APIC_IRR, vector));
		ASSERT_EQ(tmr[vector], vector_test(apic, APIC_TMR, vector));
		switch (r % 6) {
		case 0:
			tmr[vector] = r >> 32 & 1;
			ASSERT_EQ(!irr[vector], send_fixed(apic, vector, tmr[vector]));
			irr[vector] = true;
			break;
		case 1: case 2:
			if (mkvm_lapic_pending(apic) < 0)
				break;
			mkvm_lapic_ack(apic, wanted);
			irr[wanted] = false;
			isr[wanted] = true;
			break;
		case 5:		/* whatever PPR says, as after an image with odd contents */
			if (irr[vector]) {
				mkvm_lapic_ack(apic, vector);
				irr[vector] = false;
				isr[vector] = true;
			}
			break;
		case 3:
			msr_write(APIC_EOI, 0);
			if (in_service >= 0)
				isr[in_service] = false;
			break;
		case 4:
			tpr = r >> 40 & 0x7f;
			msr_write(APIC_TASKPRI, tpr);
			break;
		}
	}
}

static void send_next_in_same_word(void)
{
	EXPECT_EQ(1, send_fixed(apic, 0x42, false));
}

TEST(a_request_between_the_look_at_a_word_and_its_mark_is_kept)
{
	setup_enabled(false);
	send_fixed(apic, 0x41, false);
	clear_hook_word = &apic->irr_words;
	clear_hook = send_next_in_same_word;
	mkvm_lapic_ack(apic, 0x41);
	EXPECT_TRUE(!clear_hook);
	EXPECT_EQ(0x42, mkvm_lapic_highest_irr(apic));
	mkvm_lapic_ack(apic, 0x42);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	EXPECT_EQ(0, apic->irr_words);
}

/* Two senders set vectors while the owner acknowledges: every request that was taken is seen. */
static struct { int running, taken, stop; } senders;

static void *sender_thread(void *seed)
{
	u64 r = (u64)(unsigned long)seed;

	while (!__atomic_load_n(&senders.stop, __ATOMIC_SEQ_CST)) {
		r = r * 6364136223846793005ull + 1442695040888963407ull;
		if (send_fixed(apic, 32 + (r >> 33) % 8, r >> 60 & 1))
			__atomic_fetch_add(&senders.taken, 1, __ATOMIC_SEQ_CST);
		else
			sched_yield();
	}
	__atomic_fetch_sub(&senders.running, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

TEST(no_request_is_lost_between_senders_and_the_owner)
{
	pthread_t threads[2];
	int acked = 0, vector;
	bool last = false;

	setup_enabled(false);
	senders.running = 2;
	senders.taken = senders.stop = 0;
	for (long i = 0; i < 2; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, sender_thread, (void *)(i + 1)));
	for (;;) {
		bool done = !__atomic_load_n(&senders.running, __ATOMIC_SEQ_CST);

		while ((vector = mkvm_lapic_highest_irr(apic)) >= 0) {
			mkvm_lapic_ack(apic, vector);
			acked++;
		}
		if (acked >= 50000)
			__atomic_store_n(&senders.stop, 1, __ATOMIC_SEQ_CST);
		if (last)
			break;
		last = done;
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	EXPECT_EQ(senders.taken, acked);
	EXPECT_LE(50000, acked);
	for (int i = 0; i < 8; i++)
		EXPECT_EQ(0, reg_read(apic, APIC_IRR + i * 0x10));
}

/* ---- MSR_IA32_APICBASE and reset ---- */

TEST(apicbase_transitions_of_the_guest_follow_the_diagram)
{
	/* [from][to]: disabled, EXTD alone, xAPIC, x2APIC; the second is never a "from" */
	static const int legal[4][4] = { { 1, 0, 1, 0 }, { 0 }, { 1, 0, 1, 1 }, { 1, 0, 0, 1 } };

	for (int host = 0; host < 2; host++)
		for (int from = 0; from < 4; from++)
			for (int to = 0; to < 4; to++) {
				u64 base = 0xfee00000;
				int ok = host ? to != 1 : legal[from][to];

				if (from == 1)
					continue;
				setup();
				ASSERT_EQ(0,
					  mkvm_lapic_set_base(apic, base | (u64)from << 10, true));
				EXPECT_EQ(!ok,
					  mkvm_lapic_set_base(apic, base | (u64)to << 10, host));
				EXPECT_EQ(base | (u64)(ok ? to : from) << 10,
					  mkvm_lapic_get_base(apic));
				EXPECT_EQ((ok ? to : from) == 3, apic->x2apic);
				EXPECT_EQ((ok ? to : from) >= 2, apic->hw_enabled);
				EXPECT_EQ((ok ? to : from) == 2,
					  mkvm_lapic_mmio_match(apic, base + 0x80));
			}
}

TEST(apicbase_x2apic_needs_its_cpuid_bit_unless_userspace_asks)
{
	setup();
	vcpu->guest_cpuid.x2apic = false;
	EXPECT_EQ(1, mkvm_lapic_set_base(apic, 0xfee00c00, false));
	EXPECT_EQ(0, mkvm_lapic_set_base(apic, 0xfee00c00, true));
}

TEST(apicbase_reserved_bits_are_refused_and_the_base_moves)
{
	setup();
	vcpu->guest_cpuid.gpa_reserved = GENMASK_ULL(51, 40);
	for (int host = 0; host < 2; host++)
		for (int bit = 0; bit < 64; bit++) {
			bool ok = bit == 8 || (bit >= 10 && bit < 40);

			setup();
			vcpu->guest_cpuid.gpa_reserved = GENMASK_ULL(51, 40);
			EXPECT_EQ(!ok, mkvm_lapic_set_base(apic, 0xfee00800 ^ BIT_ULL(bit), host));
		}
	setup();
	EXPECT_EQ(0, mkvm_lapic_set_base(apic, 0xd0000800, false));
	EXPECT_TRUE(mkvm_lapic_mmio_match(apic, 0xd0000000));
	EXPECT_TRUE(mkvm_lapic_mmio_match(apic, 0xd0000fff));
	EXPECT_FALSE(mkvm_lapic_mmio_match(apic, 0xd0001000));
	EXPECT_FALSE(mkvm_lapic_mmio_match(apic, 0xcfffffff));
	EXPECT_FALSE(mkvm_lapic_mmio_match(apic, 0xfee00000));
}

TEST(apicbase_bsp_bit_is_userspaces)
{
	setup();
	mkvm_lapic_set_base(apic, 0xfee00900, false);
	EXPECT_EQ(0xfee00800, mkvm_lapic_get_base(apic));
	mkvm_lapic_set_base(apic, 0xfee00900, true);
	EXPECT_EQ(0xfee00900, mkvm_lapic_get_base(apic));
	mkvm_lapic_set_base(apic, 0xfee00800, false);
	EXPECT_EQ(0xfee00900, mkvm_lapic_get_base(apic));
}

TEST(entering_x2apic_keeps_all_but_ids_and_the_upper_half_of_icr)
{
	setup_enabled(false);
	reg_write(apic, APIC_TASKPRI, 0x20);
	reg_write(apic, APIC_LVTERR, 0xfe);
	reg_write(apic, APIC_ICR2, 0x55000000);
	send_fixed(apic, 0x41, false);
	enter_x2apic(apic);
	EXPECT_EQ(0x20, msr_read(APIC_TASKPRI));
	EXPECT_EQ(0xfe, msr_read(APIC_LVTERR));
	EXPECT_EQ(0x1ff, msr_read(APIC_SPIV));
	EXPECT_EQ(0, msr_read(APIC_ICR) >> 32);
	EXPECT_EQ(0x41, mkvm_lapic_pending(apic));
}

TEST(a_disabled_apic_has_no_interrupts_and_comes_back_reset)
{
	setup_enabled(true);
	send_fixed(apic, 0x41, false);
	msr_write(APIC_LVTT, 0x42);
	msr_write(APIC_TMICT, 1000);
	EXPECT_EQ(0, mkvm_lapic_set_base(apic, 0xfee00000, false));
	EXPECT_EQ(-1, mkvm_lapic_pending(apic));
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	EXPECT_FALSE(mkvm_lapic_matches(apic, NULL, &(struct mkvm_irq){ .dest = 1 }));
	EXPECT_EQ(-1, mkvm_lapic_local_deliver(apic, APIC_LVT1));
	EXPECT_EQ(0, mkvm_lapic_set_base(apic, 0xfee00800, false));
	EXPECT_EQ(0xff, reg_read(apic, APIC_SPIV));
	EXPECT_EQ(1 << 24, reg_read(apic, APIC_ID));
	EXPECT_EQ(0, reg_read(apic, APIC_LDR));
	EXPECT_EQ(0x10000, reg_read(apic, APIC_LVTT));
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
	shim_clock_advance(1000000);
	EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
}

TEST(userspace_can_switch_the_apic_off_and_on_without_losing_its_state)
{
	setup_enabled(false);
	send_fixed(apic, 0x41, false);
	reg_write(apic, APIC_LVT1, 0x400);
	mkvm_lapic_set_base(apic, 0xfee00000, true);
	EXPECT_EQ(-1, mkvm_lapic_pending(apic));
	EXPECT_EQ(-1, mkvm_lapic_local_deliver(apic, APIC_LVT1));
	EXPECT_EQ(0, vcpu->nmis);
	mkvm_lapic_set_base(apic, 0xfee00800, true);
	EXPECT_EQ(0x41, mkvm_lapic_pending(apic));
	EXPECT_EQ(1, mkvm_lapic_local_deliver(apic, APIC_LVT1));
	/* the ids follow the mode there and back */
	mkvm_lapic_set_base(apic, 0xfee00c00, true);
	EXPECT_EQ(2, msr_read(APIC_LDR));
	mkvm_lapic_set_base(apic, 0xfee00800, true);
	EXPECT_EQ(1 << 24, reg_read(apic, APIC_ID));
	EXPECT_EQ(0, reg_read(apic, APIC_LDR));
}

TEST(init_keeps_base_mode_and_id_and_reset_does_not)
{
	for (int init = 0; init < 2; init++) {
		setup();
		mkvm_lapic_set_base(apic, 0xd0000800, false);
		sw_enable(apic);
		reg_write(apic, APIC_ID, 0x33000000);
		reg_write(apic, APIC_LDR, 0x44000000);
		reg_write(apic, APIC_DFR, 0);
		reg_write(apic, APIC_TASKPRI, 0x50);
		reg_write(apic, APIC_TDCR, 0xb);
		reg_write(apic, APIC_LVTT, 0x20041);
		reg_write(apic, APIC_TMICT, 1000000);
		send_fixed(apic, 0x61, true);
		mkvm_lapic_ack(apic, 0x61);
		send_fixed(apic, 0x71, true);
		send_fixed(apic, 3, true);
		mkvm_lapic_reset(apic, init);
		EXPECT_EQ(init ? 0xd0000800 : 0xfee00800, mkvm_lapic_get_base(apic));
		EXPECT_EQ(init ? 0x33000000 : 0x01000000, reg_read(apic, APIC_ID));
		EXPECT_EQ(0, reg_read(apic, APIC_LDR));
		EXPECT_EQ(0xffffffff, reg_read(apic, APIC_DFR));
		EXPECT_EQ(0, reg_read(apic, APIC_TASKPRI));
		EXPECT_EQ(0, reg_read(apic, APIC_PROCPRI));
		EXPECT_EQ(0xff, reg_read(apic, APIC_SPIV));
		EXPECT_EQ(0x10000, reg_read(apic, APIC_LVTT));
		EXPECT_EQ(0, reg_read(apic, APIC_TMICT));
		EXPECT_EQ(0, reg_read(apic, APIC_TMCCT));
		EXPECT_EQ(0, reg_read(apic, APIC_TDCR));
		EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
		EXPECT_EQ(0, errors());
		shim_clock_advance(10000000);
		EXPECT_EQ(-1, mkvm_lapic_highest_irr(apic));
		setup_enabled(true);
		mkvm_lapic_reset(apic, init);
		EXPECT_EQ(init, apic->x2apic);
		if (init) {
			EXPECT_EQ(1, msr_read(APIC_ID));
			EXPECT_EQ(2, msr_read(APIC_LDR));
		}
	}
}

/* ---- timer ---- */

static const u8 tdcr_of_shift[8] = { 0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa };

/* takes and finishes all that is requested; how many vectors there were */
static int drain(void)
{
	int n = 0, vector;

	while ((vector = mkvm_lapic_highest_irr(apic)) >= 0) {
		mkvm_lapic_ack(apic, vector);
		lapic_eoi(apic);
		n++;
	}
	return n;
}

TEST(one_shot_counts_exactly_in_all_divisors)
{
	for (int shift = 0; shift < 8; shift++) {
		setup_enabled(false);
		reg_write(apic, APIC_LVTT, 0x41);
		reg_write(apic, APIC_TDCR, tdcr_of_shift[shift]);
		reg_write(apic, APIC_TMICT, 1000);
		EXPECT_EQ(1000, reg_read(apic, APIC_TMCCT));
		for (int n = 1; n < 1000; n++) {
			shim_clock_advance((1 << shift) - 1);
			EXPECT_EQ(1001 - n, reg_read(apic, APIC_TMCCT));
			shim_clock_advance(1);
			EXPECT_EQ(1000 - n, reg_read(apic, APIC_TMCCT));
		}
		EXPECT_EQ(0, drain());
		shim_clock_advance((1 << shift) - 1);
		EXPECT_EQ(0, drain());
		shim_clock_advance(1);
		EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
		EXPECT_EQ(1, drain());
		EXPECT_EQ(0, reg_read(apic, APIC_TMCCT));
		EXPECT_EQ(1000, reg_read(apic, APIC_TMICT));
		shim_clock_advance(1000000000);
		EXPECT_EQ(0, drain());
	}
}

TEST(initial_count_0_stops_and_a_new_one_starts_over)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVTT, 0x41);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_TMICT, 1000);
	shim_clock_advance(999);
	reg_write(apic, APIC_TMICT, 500);
	shim_clock_advance(499);
	EXPECT_EQ(0, drain());
	EXPECT_EQ(1, reg_read(apic, APIC_TMCCT));
	reg_write(apic, APIC_TMICT, 0);
	EXPECT_EQ(0, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(1000000000);
	EXPECT_EQ(0, drain());
}

TEST(periodic_ticks_on_and_the_count_wraps)
{
	setup_enabled(false);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_LVTT, 0x20041);
	reg_write(apic, APIC_TMICT, 1000000);
	for (int n = 0; n < 100; n++) {
		EXPECT_EQ(1000000, reg_read(apic, APIC_TMCCT));
		shim_clock_advance(999999);
		EXPECT_EQ(1, reg_read(apic, APIC_TMCCT));
		EXPECT_EQ(0, drain());
		shim_clock_advance(1);
		EXPECT_EQ(1, drain());
	}
}

TEST(periodic_is_bounded_below_and_catches_up_with_one_callback)
{
	u64 calls;

	setup_enabled(false);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_LVTT, 0x20041);
	reg_write(apic, APIC_TMICT, 1);
	calls = shim_hrtimer_calls;
	shim_clock_advance(200000 * 10);
	EXPECT_EQ(10, shim_hrtimer_calls - calls);
	EXPECT_GE(1, reg_read(apic, APIC_TMCCT));
	/* a guest that was paused for a year */
	drain();
	calls = shim_hrtimer_calls;
	shim_clock_jump(365ull * 86400 * 1000000000);
	EXPECT_EQ(1, shim_hrtimer_calls - calls);
	EXPECT_EQ(1, drain());
	shim_clock_advance(200000);
	EXPECT_EQ(1, drain());
}

TEST(the_count_goes_on_while_the_callback_is_late)
{
	setup_enabled(false);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_LVTT, 0x20041);
	reg_write(apic, APIC_TMICT, 1000000);
	shim_now += 2300000;	/* no callback yet */
	EXPECT_EQ(700000, reg_read(apic, APIC_TMCCT));
	reg_write(apic, APIC_LVTT, 0x41);
	EXPECT_EQ(0, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(0);
	EXPECT_EQ(1, drain());
}

TEST(a_masked_timer_counts_and_delivers_nothing)
{
	setup_enabled(false);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_LVTT, 0x30041);
	reg_write(apic, APIC_TMICT, 1000000);
	shim_clock_advance(2500000);
	EXPECT_EQ(500000, reg_read(apic, APIC_TMCCT));
	EXPECT_EQ(0, drain());
	reg_write(apic, APIC_LVTT, 0x20041);
	EXPECT_EQ(500000, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(500000);
	EXPECT_EQ(1, drain());
}

TEST(changes_between_one_shot_and_periodic_keep_the_count)
{
	setup_enabled(false);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_LVTT, 0x41);
	reg_write(apic, APIC_TMICT, 1000000);
	shim_clock_advance(400000);
	reg_write(apic, APIC_LVTT, 0x20041);
	EXPECT_EQ(600000, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(600000);
	EXPECT_EQ(1, drain());
	shim_clock_advance(1000000);
	EXPECT_EQ(1, drain());
	shim_clock_advance(300000);
	reg_write(apic, APIC_LVTT, 0x41);
	EXPECT_EQ(700000, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(700000);
	EXPECT_EQ(1, drain());
	shim_clock_advance(10000000);
	EXPECT_EQ(0, drain());
	/* a short one-shot that becomes periodic is held to the least period */
	reg_write(apic, APIC_TMICT, 10);
	reg_write(apic, APIC_LVTT, 0x20041);
	shim_clock_advance(10);
	EXPECT_EQ(1, drain());
	shim_clock_advance(199999);
	EXPECT_EQ(0, drain());
	shim_clock_advance(1);
	EXPECT_EQ(1, drain());
}

TEST(changes_to_and_from_deadline_and_reserved_mode_disarm)
{
	for (u32 from = 0; from < 4; from++)
		for (u32 to = 0; to < 4; to++) {
			bool kept = from == to || (from < 2 && to < 2);

			setup_enabled(false);
			reg_write(apic, APIC_LVTT, from << 17 | 0x41);
			reg_write(apic, APIC_TMICT, 1000000);
			mkvm_lapic_set_deadline(apic, rdtsc() + 4000000);
			EXPECT_EQ(from == 2 ? rdtsc() + 4000000 : 0, mkvm_lapic_get_deadline(apic));
			EXPECT_EQ(from == 2 ? 0 : 1000000, reg_read(apic, APIC_TMICT));
			reg_write(apic, APIC_LVTT, to << 17 | 0x41);
			EXPECT_EQ(kept && from < 2 ? 1000000 : 0, reg_read(apic, APIC_TMCCT));
			EXPECT_EQ(kept && from != 2 ? 1000000 : 0, reg_read(apic, APIC_TMICT));
			EXPECT_EQ(kept && from == 2 ? rdtsc() + 4000000 : 0,
				  mkvm_lapic_get_deadline(apic));
			shim_clock_advance(2000000);
			EXPECT_EQ(kept && from != 3, drain());
		}
}

TEST(a_new_divisor_applies_to_the_rest_of_the_count)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVTT, 0x41);
	reg_write(apic, APIC_TDCR, 0xb);
	reg_write(apic, APIC_TMICT, 1000);
	shim_clock_advance(600);
	reg_write(apic, APIC_TDCR, 0x1);
	EXPECT_EQ(400, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(1599);
	EXPECT_EQ(0, drain());
	EXPECT_EQ(1, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(1);
	EXPECT_EQ(1, drain());
	reg_write(apic, APIC_TDCR, 0xa);	/* stopped: it stays stopped */
	shim_clock_advance(10000000);
	EXPECT_EQ(0, drain());
}

TEST(no_count_divisor_or_mode_overflows_or_fires_early)
{
	static const u32 counts[] = { 0, 1, 2, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff };

	for (u32 mode = 0; mode < 4; mode++)
		for (int c = 0; c < ARRAY_SIZE(counts); c++)
			for (u32 tdcr = 0; tdcr < 16; tdcr++) {
				u64 whole;

				setup_enabled(false);
				reg_write(apic, APIC_LVTT, mode << 17 | 0x41);
				reg_write(apic, APIC_TDCR, tdcr);
				reg_write(apic, APIC_TMICT, counts[c]);
				EXPECT_GE(counts[c], reg_read(apic, APIC_TMCCT));
				whole = (u64)counts[c] << apic->timer_shift;
				if (mode > 1 || !whole)
					continue;
				if (mode == 1 && whole < 200000) {
					shim_clock_advance(199999);
					EXPECT_EQ(0, drain());
					shim_clock_advance(1);
					EXPECT_EQ(1, drain());
					continue;
				}
				shim_clock_advance(whole - 1);
				EXPECT_EQ(0, drain());
				EXPECT_EQ(1, reg_read(apic, APIC_TMCCT));
				reg_write(apic, APIC_TDCR, tdcr ^ 0xb);
				EXPECT_EQ(1, reg_read(apic, APIC_TMCCT));
				reg_write(apic, APIC_TDCR, tdcr);
				shim_clock_advance(128 * 2);
				EXPECT_EQ(1, drain());
			}
}

static void setup_deadline(void)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVTT, 0x40041);
}

TEST(a_deadline_fires_once_at_its_time_and_reads_0_then)
{
	setup_deadline();
	vcpu->tsc.offset = -(s64)rdtsc() + 77;
	mkvm_lapic_set_deadline(apic, 77 + 2000001);
	EXPECT_EQ(77 + 2000001, mkvm_lapic_get_deadline(apic));
	EXPECT_EQ(0, reg_read(apic, APIC_TMCCT));
	shim_clock_advance(1000000);
	EXPECT_EQ(0, drain());		/* half a ns early is early */
	shim_clock_advance(1);
	EXPECT_EQ(0x41, mkvm_lapic_highest_irr(apic));
	EXPECT_EQ(1, drain());
	EXPECT_EQ(0, mkvm_lapic_get_deadline(apic));
	shim_clock_advance(1000000000);
	EXPECT_EQ(0, drain());
}

TEST(a_deadline_that_has_passed_fires_at_once)
{
	setup_deadline();
	shim_clock_advance(1000000);
	mkvm_lapic_set_deadline(apic, rdtsc());
	EXPECT_EQ(1, drain());
	EXPECT_EQ(0, mkvm_lapic_get_deadline(apic));
	mkvm_lapic_set_deadline(apic, 1);
	EXPECT_EQ(1, drain());
	reg_write(apic, APIC_LVTT, 0x50041);	/* masked: it passes all the same */
	mkvm_lapic_set_deadline(apic, 1);
	EXPECT_EQ(0, drain());
	EXPECT_EQ(0, mkvm_lapic_get_deadline(apic));
}

TEST(deadline_0_disarms)
{
	setup_deadline();
	mkvm_lapic_set_deadline(apic, rdtsc() + 2000);
	mkvm_lapic_set_deadline(apic, 0);
	EXPECT_EQ(0, mkvm_lapic_get_deadline(apic));
	shim_clock_advance(1000000000);
	EXPECT_EQ(0, drain());
}

TEST(initial_count_is_ignored_in_deadline_mode)
{
	setup_deadline();
	reg_write(apic, APIC_TMICT, 1000);
	EXPECT_EQ(0, reg_read(apic, APIC_TMICT));
	shim_clock_advance(1000000);
	EXPECT_EQ(0, drain());
}

TEST(a_clock_that_runs_ahead_of_the_tsc_does_not_fire_early)
{
	u64 calls = shim_hrtimer_calls;

	setup_deadline();
	mkvm_lapic_set_deadline(apic, rdtsc() + 2000000);
	vcpu->tsc.offset = -1000;	/* as if the TSC had counted less than the clock says */
	shim_clock_advance(1000000);
	EXPECT_EQ(0, drain());
	EXPECT_NE(0, mkvm_lapic_get_deadline(apic));
	shim_clock_advance(1000);
	EXPECT_EQ(1, drain());
	EXPECT_EQ(2, shim_hrtimer_calls - calls);
}

TEST(a_changed_tsc_moves_the_armed_deadline)
{
	setup_deadline();
	mkvm_lapic_set_deadline(apic, rdtsc() + 2000000000);
	vcpu->tsc.offset = 2000000000 - 2000;
	mkvm_lapic_timer_update(apic);
	shim_clock_advance(999);
	EXPECT_EQ(0, drain());
	shim_clock_advance(1);
	EXPECT_EQ(1, drain());
}

TEST(no_deadline_and_no_tsc_frequency_overflows)
{
	static const u64 deadlines[] = { 1,	     2,		1ull << 32, (1ull << 63) - 1,
					 1ull << 63, ~0ull - 1, ~0ull };
	static const u32 khz[] = { 0, 1, 2, 999, 1000000, 2000000, 0x7fffffff, 0xffffffff };

	for (int d = 0; d < ARRAY_SIZE(deadlines); d++)
		for (int k = 0; k < ARRAY_SIZE(khz); k++) {
			setup_deadline();
			tsc_khz = khz[k];
			vcpu->tsc.offset = -(s64)rdtsc();
			mkvm_lapic_set_deadline(apic, deadlines[d]);
			EXPECT_EQ(0, drain());
			EXPECT_EQ(deadlines[d], mkvm_lapic_get_deadline(apic));
			EXPECT_LT(shim_now, apic->timer.expires);
		}
}

/* ---- images ---- */

static void state_set_reg(struct kvm_lapic_state *s, u32 reg, u32 val)
{
	memcpy(s->regs + reg, &val, 4);
}
static u32 state_reg(const struct kvm_lapic_state *s, u32 reg)
{
	u32 val;
	memcpy(&val, s->regs + reg, 4);
	return val;
}

/* two vCPUs in the same mode: the image of one in the other is the same image */
TEST(an_image_that_is_loaded_reads_back_the_same)
{
	struct kvm_lapic_state a, b;

	for (int round = 0; round < 2000; round++) {
		setup_enabled(round & 1);
		for (int n = 0; n < 30; n++) {
			u32 reg = (ktap_random() % 0x40) << 4, val = ktap_random();

			if (round & 1)
				mkvm_lapic_msr_write(apic, 0x800 + (reg >> 4),
						     val & ktap_random() & 0xf0fff);
			else if (reg != APIC_ICR && reg != APIC_SPIV)
				reg_write(apic, reg, val);
			send_fixed(apic, val >> 8, val & 1);
			if (mkvm_lapic_pending(apic) >= 0 && (val & 2))
				mkvm_lapic_ack(apic, mkvm_lapic_pending(apic));
			shim_clock_advance(val >> 20);
		}
		mkvm_lapic_get_state(apic, &a);
		ASSERT_EQ(0, mkvm_lapic_set_state(apic, &a));
		mkvm_lapic_get_state(apic, &b);
		/* a one-shot that had ended fires at once and is then as before */
		state_set_reg(&a, APIC_TMCCT, 0);
		state_set_reg(&b, APIC_TMCCT, 0);
		ASSERT_EQ(0, memcmp(&a, &b, sizeof(a)));
		/* and a fresh vCPU becomes the same */
		mkvm_lapic_reset(apic, true);
		ASSERT_EQ(0, mkvm_lapic_set_state(apic, &a));
		mkvm_lapic_get_state(apic, &b);
		state_set_reg(&b, APIC_TMCCT, 0);
		ASSERT_EQ(0, memcmp(&a, &b, sizeof(a)));
	}
}

TEST(every_isr_and_irr_bit_set_is_worked_off_in_order)
{
	struct kvm_lapic_state s;
	int n = 0;

	setup_enabled(false);
	mkvm_lapic_get_state(apic, &s);
	memset(s.regs + APIC_ISR, 0xff, APIC_ESR - APIC_ISR);
	EXPECT_EQ(0, mkvm_lapic_set_state(apic, &s));
	for (int vector = 255; vector >= 16; vector--, n++) {
		int top = mkvm_lapic_pending(apic);

		EXPECT_EQ(255, mkvm_lapic_highest_irr(apic));
		EXPECT_EQ(vector >= 0xf0 ? -1 : 255, top);
		EXPECT_EQ(vector & 0xf0, reg_read(apic, APIC_PROCPRI));
		EXPECT_EQ(0, send_fixed(apic, vector, false));
		reg_write(apic, APIC_EOI, 0);
	}
	EXPECT_EQ(240, n);
	EXPECT_EQ(0, reg_read(apic, APIC_PROCPRI));
	for (int vector = 255; vector >= 16; vector--) {
		EXPECT_EQ(vector, mkvm_lapic_pending(apic));
		mkvm_lapic_ack(apic, vector);
		reg_write(apic, APIC_EOI, 0);
	}
	EXPECT_EQ(-1, mkvm_lapic_pending(apic));
	EXPECT_EQ(0, fixture_ioapic.eois);
}

TEST(garbage_images_do_no_harm)
{
	struct kvm_lapic_state s;

	for (int round = 0; round < 3000; round++) {
		bool x2apic = round & 1;

		setup();
		if (x2apic)
			enter_x2apic(apic);
		for (int i = 0; i < sizeof(s); i++)
			s.regs[i] = round < 4 ? (round & 2 ? 0xff : 0) : ktap_random();
		if (x2apic)
			state_set_reg(&s, APIC_ID, 1 << 24);
		ASSERT_EQ(0, mkvm_lapic_set_state(apic, &s));
		EXPECT_EQ(false, state_reg(&s, APIC_LVR) == 0x50014);
		mkvm_lapic_get_state(apic, &s);
		EXPECT_EQ(0x50014, state_reg(&s, APIC_LVR));
		EXPECT_EQ(0, state_reg(&s, APIC_ISR) & 0xffff);
		EXPECT_EQ(0x0fffffff, state_reg(&s, APIC_DFR) & 0x0fffffff);
		mkvm_lapic_send_ipi(apic, lapic_get(apic, APIC_ICR), 0xff, "ipi");
		for (u32 reg = APIC_LVTT; reg <= APIC_LVTERR; reg += 0x10)
			mkvm_lapic_local_deliver(apic, reg);
		shim_clock_advance(ktap_random() % 1000000000);
		EXPECT_GE(240 * 2, drain());
		for (int n = 0; n < 256; n++)
			lapic_eoi(apic);
		EXPECT_EQ(-1, apic->highest_isr);
		EXPECT_EQ(0, apic->isr_words);
	}
}

TEST(vectors_below_16_in_an_images_irr_are_readable_and_never_taken)
{
	struct kvm_lapic_state s;

	setup_enabled(false);
	mkvm_lapic_get_state(apic, &s);
	state_set_reg(&s, APIC_IRR, 0x5001);
	ASSERT_EQ(0, mkvm_lapic_set_state(apic, &s));
	EXPECT_EQ(0x5001, reg_read(apic, APIC_IRR));
	EXPECT_EQ(-1, mkvm_lapic_pending(apic));
}

TEST(the_id_in_the_image_counts_in_x2apic_mode)
{
	struct kvm_lapic_state s, before;

	setup_enabled(true);
	mkvm_lapic_get_state(apic, &before);
	EXPECT_EQ(1 << 24, state_reg(&before, APIC_ID));
	s = before;
	state_set_reg(&s, APIC_ID, 2 << 24);
	state_set_reg(&s, APIC_TASKPRI, 0x77);
	EXPECT_EQ(-EINVAL, mkvm_lapic_set_state(apic, &s));
	mkvm_lapic_get_state(apic, &s);
	EXPECT_EQ(0, memcmp(&s, &before, sizeof(s)));
	state_set_reg(&s, APIC_LDR, 0x12345678);
	EXPECT_EQ(0, mkvm_lapic_set_state(apic, &s));
	EXPECT_EQ(2, msr_read(APIC_LDR));
	/* in xAPIC mode it is a register like others */
	setup_enabled(false);
	mkvm_lapic_get_state(apic, &s);
	state_set_reg(&s, APIC_ID, 2 << 24);
	EXPECT_EQ(0, mkvm_lapic_set_state(apic, &s));
	EXPECT_EQ(2, mkvm_lapic_id(apic));
}

TEST(the_64_bit_icr_is_split_in_the_image)
{
	struct kvm_lapic_state s;

	setup_enabled(true);
	EXPECT_EQ(0, msr_write(APIC_ICR, 0x1234567800004041ull));
	EXPECT_EQ(0x1234567800004041ull, msr_read(APIC_ICR));
	mkvm_lapic_get_state(apic, &s);
	EXPECT_EQ(0x4041, state_reg(&s, APIC_ICR));
	EXPECT_EQ(0x12345678, state_reg(&s, APIC_ICR2));
	mkvm_lapic_reset(apic, true);
	mkvm_lapic_set_state(apic, &s);
	EXPECT_EQ(0x1234567800004041ull, msr_read(APIC_ICR));
}

TEST(a_loaded_timer_goes_on_with_what_was_left)
{
	for (u32 mode = 0; mode < 2; mode++) {
		struct kvm_lapic_state s;

		setup_enabled(false);
		reg_write(apic, APIC_TDCR, 0xb);
		reg_write(apic, APIC_LVTT, mode << 17 | 0x41);
		reg_write(apic, APIC_TMICT, 1000000);
		shim_clock_advance(300000);
		mkvm_lapic_get_state(apic, &s);
		EXPECT_EQ(700000, state_reg(&s, APIC_TMCCT));
		mkvm_lapic_reset(apic, false);
		shim_clock_advance(5000000);
		EXPECT_EQ(0, drain());
		mkvm_lapic_set_state(apic, &s);
		EXPECT_EQ(700000, reg_read(apic, APIC_TMCCT));
		shim_clock_advance(699999);
		EXPECT_EQ(0, drain());
		shim_clock_advance(1);
		EXPECT_EQ(1, drain());
		shim_clock_advance(1000000);
		EXPECT_EQ(mode, drain());
		/* no count given: a whole period, or a one-shot that has ended */
		state_set_reg(&s, APIC_TMCCT, 0);
		mkvm_lapic_set_state(apic, &s);
		EXPECT_EQ(mode ? 1000000 : 0, reg_read(apic, APIC_TMCCT));
		shim_clock_advance(0);
		EXPECT_EQ(!mode, drain());
		/* more than the whole is the whole */
		state_set_reg(&s, APIC_TMCCT, 0xffffffff);
		mkvm_lapic_set_state(apic, &s);
		EXPECT_EQ(1000000, reg_read(apic, APIC_TMCCT));
	}
}

TEST(a_loaded_image_keeps_the_deadline)
{
	struct kvm_lapic_state s;

	setup_deadline();
	mkvm_lapic_set_deadline(apic, rdtsc() + 2000);
	mkvm_lapic_get_state(apic, &s);
	mkvm_lapic_set_state(apic, &s);
	EXPECT_EQ(rdtsc() + 2000, mkvm_lapic_get_deadline(apic));
	shim_clock_advance(1000);
	EXPECT_EQ(1, drain());
	EXPECT_EQ(0, mkvm_lapic_get_deadline(apic));
}

TEST(the_tpr_of_an_image_masks_what_is_pending)
{
	struct kvm_lapic_state s;

	setup_enabled(false);
	send_fixed(apic, 0x40, false);
	mkvm_lapic_get_state(apic, &s);
	state_set_reg(&s, APIC_TASKPRI, 0x50);
	vcpu->kicks = 0;
	mkvm_lapic_set_state(apic, &s);
	EXPECT_EQ(-1, mkvm_lapic_pending(apic));
	EXPECT_EQ(1, vcpu->kicks);
	mkvm_lapic_set_tpr(apic, 0x30);
	EXPECT_EQ(0x40, mkvm_lapic_pending(apic));
}

TEST(destroy_stops_a_running_timer)
{
	setup_enabled(false);
	reg_write(apic, APIC_LVTT, 0x20041);
	reg_write(apic, APIC_TMICT, 1000);
	fixture_stop();
	EXPECT_TRUE(!vcpu->lapic);
	EXPECT_TRUE(!shim_hrtimers);
	shim_clock_advance(1000000000);
	mkvm_lapic_destroy(vcpu);
}
