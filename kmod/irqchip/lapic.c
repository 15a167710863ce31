// SPDX-License-Identifier: GPL-2.0
/*
 * lapic.c - the local APIC: registers in xAPIC and x2APIC mode, acceptance of messages,
 * priorities, EOI, MSR_IA32_APICBASE, the image for userspace.
 *
 * State: struct mkvm_lapic (lapic.h). There is no lock. Any thread sets IRR and TMR bits with
 * atomic operations; everything else is written by the owner (the vCPU's thread, or the holder
 * of vcpu->mutex) and read by senders with READ_ONCE.
 *
 * One invariant finds interrupts without a look at 256 bits: a word of IRR that is not empty
 * has its bit set in irr_words. A sender sets the IRR bit, then the word's bit, then kicks; the
 * owner clears the word's bit first and then looks at the word again. ISR has isr_words and
 * highest_isr, which only the owner uses.
 *
 * Intel SDM vol. 3, "Advanced Programmable Interrupt Controller (APIC)"; AMD APM vol. 2, same
 * title. irqchip.h explains "own" and "any context".
 *
 * Read next: ipi.c (which APICs are addressed), lapic_timer.c.
 */
#include <linux/kernel.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/msr-index.h>

#include "mkvm.h"
#include "internal.h"
#include "lapic.h"

#define LAPIC_VERSION		0x50014		/* 6 LVT entries */
#define LAPIC_NR_LVT		6
#define LAPIC_LVT(n)		(APIC_LVTT + 0x10 * (n))
#define LAPIC_IMAGE_WORDS	(sizeof(struct kvm_lapic_state) / sizeof(u32))
#define LAPIC_TIMER_MODE	(APIC_LVT_TIMER_PERIODIC | APIC_LVT_TIMER_TSCDEADLINE)
#define LAPIC_ICR_MASK		0xccfffu	/* bit 12, delivery status, reads 0 */
#define LAPIC_BASE_MODE		(X2APIC_ENABLE | XAPIC_ENABLE)
#define LAPIC_BASE_RESERVED	(GENMASK_ULL(63, 52) | GENMASK_ULL(7, 0) | BIT_ULL(9))

/* A register's number: its offset / 16, which is its MSR's too. */
#define REG(offset)		((offset) >> 4)
#define REGBIT(offset)		BIT_ULL(REG(offset))
#define REGS8(offset)		(0xffull << REG(offset))

#define LAPIC_LVTS		(0x3full << REG(APIC_LVTT))
#define LAPIC_BITMAPS		(REGS8(APIC_ISR) | REGS8(APIC_TMR) | REGS8(APIC_IRR))
/* every register of xAPIC mode; a write to a read-only one is ignored there */
#define LAPIC_RO		(REGBIT(APIC_LVR) | REGBIT(APIC_ARBPRI) | REGBIT(APIC_PROCPRI) | REGBIT(APIC_RRR) | \
				 LAPIC_BITMAPS | REGBIT(APIC_TMCCT))
#define LAPIC_XAPIC		(LAPIC_RO | REGBIT(APIC_ID) | REGBIT(APIC_TASKPRI) | REGBIT(APIC_EOI) | \
				 REGBIT(APIC_LDR) | REGBIT(APIC_DFR) | REGBIT(APIC_SPIV) | REGBIT(APIC_ESR) | \
				 REGBIT(APIC_ICR) | REGBIT(APIC_ICR2) | LAPIC_LVTS | REGBIT(APIC_TMICT) | \
				 REGBIT(APIC_TDCR))
/* "x2APIC Register Address Space"; anything else is #GP */
#define LAPIC_X2APIC_READ	(LAPIC_XAPIC & ~(REGBIT(APIC_ARBPRI) | REGBIT(APIC_EOI) | REGBIT(APIC_RRR) | \
						 REGBIT(APIC_DFR) | REGBIT(APIC_ICR2)))
#define LAPIC_X2APIC_WRITE	((LAPIC_X2APIC_READ & ~(LAPIC_RO | REGBIT(APIC_ID) | REGBIT(APIC_LDR))) | \
				 REGBIT(APIC_EOI) | REGBIT(APIC_SELF_IPI))
/* not simply what regs[] holds */
#define LAPIC_COMPUTED		(REGBIT(APIC_ARBPRI) | REGBIT(APIC_PROCPRI) | REGBIT(APIC_TMCCT) | \
				 REGBIT(APIC_LVT0) | REGBIT(APIC_LVT1) | REGS8(APIC_IRR))

#define LVT_BITS		(APIC_VECTOR_MASK | APIC_LVT_MASKED)
#define LINT_BITS		(LVT_BITS | APIC_MODE_MASK | APIC_LVT_LEVEL_TRIGGER | APIC_INPUT_POLARITY)

/* Bits that a write changes. x2APIC: the others are reserved. */
static const u32 lapic_bits[64] = {
	[REG(APIC_ID)]		= 0xff000000,
	[REG(APIC_TASKPRI)]	= APIC_TPRI_MASK,
	[REG(APIC_LDR)]		= APIC_LDR_MASK,
	[REG(APIC_DFR)]		= 0xf0000000,
	[REG(APIC_SPIV)]	= APIC_VECTOR_MASK | APIC_SPIV_APIC_ENABLED | APIC_SPIV_FOCUS_DISABLED,
	[REG(APIC_ICR)]		= ~APIC_ICR_BUSY,	/* reserved ones are kept, unused */
	[REG(APIC_ICR2)]	= 0xff000000,
	[REG(APIC_LVTT)]	= LVT_BITS | LAPIC_TIMER_MODE,
	[REG(APIC_LVTTHMR)]	= LVT_BITS | APIC_MODE_MASK,
	[REG(APIC_LVTPC)]	= LVT_BITS | APIC_MODE_MASK,
	[REG(APIC_LVT0)]	= LINT_BITS,
	[REG(APIC_LVT1)]	= LINT_BITS,
	[REG(APIC_LVTERR)]	= LVT_BITS,
	[REG(APIC_TMICT)]	= ~0u,
	[REG(APIC_TDCR)]	= APIC_TDR_DIV_1,
	[REG(APIC_SELF_IPI)]	= APIC_VECTOR_MASK,
};

static_assert(sizeof(struct kvm_lapic_state) == 64 * 0x10, "the image is 64 registers");
static_assert(offsetof(struct mkvm_lapic, regs) == 0, "regs is page aligned");

static u32 lapic_writable(const struct mkvm_lapic *apic, u32 reg)
{
	if (reg == APIC_LVTT && !apic->vcpu->cpuid_tsc_deadline)
		return lapic_bits[REG(reg)] & ~APIC_LVT_TIMER_TSCDEADLINE;
	if (reg == APIC_SPIV && (lapic_get(apic, APIC_LVR) & APIC_LVR_DIRECTED_EOI))
		return lapic_bits[REG(reg)] | APIC_SPIV_DIRECTED_EOI;
	return lapic_bits[REG(reg)];
}

/* ---- vectors ---- */

/*
 * The word of a 256-bit register that holds @vector; a long for the bit
 * operations, whose upper half is register space that nobody uses.
 */
static unsigned long *lapic_word(struct mkvm_lapic *apic, u32 reg, u8 vector)
{
	return (unsigned long *)&apic->regs[(reg + (vector >> 5) * 0x10) / sizeof(u32)];
}

static bool lapic_test(struct mkvm_lapic *apic, u32 reg, u8 vector)
{
	return test_bit(vector & 31, lapic_word(apic, reg, vector));
}

/* Any context: a word of IRR, with what the CPU has of it (vapic.c). */
static u32 lapic_irr(const struct mkvm_lapic *apic, unsigned int w)
{
	return lapic_get(apic, APIC_IRR + w * 0x10) | READ_ONCE(apic->lent[w]);
}

/* Any context: the highest vector in IRR, -1: none. */
static int lapic_find_irr(struct mkvm_lapic *apic)
{
	unsigned long words = READ_ONCE(apic->irr_words) | READ_ONCE(apic->lent_words);

	while (words) {
		unsigned int w = __fls(words);
		u32 bits = lapic_irr(apic, w);

		if (bits)
			return w * 32 + __fls(bits);
		words &= ~BIT(w);
	}
	return -1;
}

static void lapic_find_isr(struct mkvm_lapic *apic)
{
	int w = apic->isr_words ? __fls(apic->isr_words) : -1;

	WRITE_ONCE(apic->highest_isr, w < 0 ? -1 : w * 32 + __fls(lapic_get(apic, APIC_ISR + w * 0x10)));
}

/* Make the caches agree with IRR and ISR, whatever was put there; senders may be at work. */
static void lapic_rebuild(struct mkvm_lapic *apic)
{
	unsigned int w;

	apic->isr_words = 0;
	xchg(&apic->irr_words, 0);	/* orders it before the reads of IRR */
	for (w = 0; w < APIC_ISR_NR; w++) {
		if (lapic_get(apic, APIC_ISR + w * 0x10))
			apic->isr_words |= BIT(w);
		if (lapic_get(apic, APIC_IRR + w * 0x10))
			set_bit(w, &apic->irr_words);
	}
	lapic_find_isr(apic);
}

static u32 lapic_isr_class(const struct mkvm_lapic *apic)
{
	return max(READ_ONCE(apic->highest_isr), 0) & 0xf0;
}

/* "Task and Processor Priorities" */
static u32 lapic_ppr(const struct mkvm_lapic *apic)
{
	return max(lapic_get(apic, APIC_TASKPRI), lapic_isr_class(apic));
}

/* Any context. By this, APR, lowest priority delivery chooses. */
u32 mkvm_lapic_arb_priority(struct mkvm_lapic *apic)
{
	u32 tpr = lapic_get(apic, APIC_TASKPRI), isr = lapic_isr_class(apic);
	u32 irr = max(lapic_find_irr(apic), 0) & 0xf0;

	if ((tpr & 0xf0) >= irr && (tpr & 0xf0) > isr)
		return tpr;
	return max(tpr & 0xf0, max(isr, irr));
}

/* Own. Vector to inject now: above the processor priority; -1: none. */
int mkvm_lapic_pending(struct mkvm_lapic *apic)
{
	int vector;

	if (!(READ_ONCE(apic->irr_words) | READ_ONCE(apic->lent_words)) || !apic->hw_enabled)
		return -1;
	vector = lapic_find_irr(apic);
	return vector >= 0 && (vector & 0xf0) > (lapic_ppr(apic) & 0xf0) ? vector : -1;
}

/* Own. The highest requested vector, masked by priority or not; -1: none. */
int mkvm_lapic_highest_irr(struct mkvm_lapic *apic)
{
	return apic->hw_enabled ? lapic_find_irr(apic) : -1;
}

int mkvm_lapic_highest_isr(struct mkvm_lapic *apic)
{
	return apic->highest_isr;
}

/* Any context: is an EOI of @vector to come? */
bool mkvm_lapic_unfinished(struct mkvm_lapic *apic, u8 vector)
{
	unsigned int moves;
	bool found;

	do {
		moves = read_seqcount_begin(&apic->moves);
		found = lapic_irr(apic, vector >> 5) & BIT(vector & 31);
		smp_rmb();	/* pairs with mkvm_lapic_ack: no longer requested means in service */
		found |= lapic_test(apic, APIC_ISR, vector);
	} while (read_seqcount_retry(&apic->moves, moves));
	return found;
}

/* Own. The guest takes @vector: IRR to ISR. */
void mkvm_lapic_ack(struct mkvm_lapic *apic, u8 vector)
{
	unsigned int w = vector >> 5;

	mkvm_trace(ack, apic->vcpu, vector);
	__set_bit(vector & 31, lapic_word(apic, APIC_ISR, vector));
	smp_mb__before_atomic();	/* in service before no longer requested: mkvm_lapic_unfinished */
	clear_bit(vector & 31, lapic_word(apic, APIC_IRR, vector));
	if (!lapic_get(apic, APIC_IRR + w * 0x10)) {
		clear_bit(w, &apic->irr_words);
		smp_mb__after_atomic();
		/* a sender that saw the word's bit still set did not set it */
		if (lapic_get(apic, APIC_IRR + w * 0x10))
			set_bit(w, &apic->irr_words);
	}
	apic->isr_words |= BIT(w);
	if (vector > apic->highest_isr)
		WRITE_ONCE(apic->highest_isr, vector);
}

/* The trigger mode of a LINT pin counts in fixed mode alone. */
static bool lapic_lint_is_level(u32 lvt)
{
	return (lvt & APIC_LVT_LEVEL_TRIGGER) && (lvt & APIC_MODE_MASK) == APIC_DM_FIXED;
}

static void lapic_kick_if_requested(struct mkvm_lapic *apic)
{
	if (READ_ONCE(apic->irr_words))
		mkvm_vcpu_kick_event(apic->vcpu);
}

/* ---- messages to this APIC ---- */

/* The first error since ESR was written raises the error interrupt; more of them wait for that write. */
void mkvm_lapic_error(struct mkvm_lapic *apic, u32 bit)
{
	if (!atomic_fetch_or(bit, &apic->errors))
		mkvm_lapic_local_deliver(apic, APIC_LVTERR);
}

static int lapic_accept_vector(struct mkvm_lapic *apic, const struct mkvm_irq *irq)
{
	u8 vector = irq->vector;
	bool was_set, level = irq->level;
	u32 holder;

	if (!READ_ONCE(apic->sw_enabled)) {
		mkvm_trace(drop, apic->vcpu->vm, apic->vcpu, irq, "APIC off");
		return MKVM_IRQ_IGNORED;
	}
	if (vector < 16) {
		mkvm_trace(drop, apic->vcpu->vm, apic->vcpu, irq, "vector < 16");
		mkvm_lapic_error(apic, APIC_ESR_RECVILL);
		return MKVM_IRQ_IGNORED;
	}
	/* TMR first: who sees the request sees how it was triggered */
	if (lapic_test(apic, APIC_TMR, vector) != level)
		assign_bit(vector & 31, lapic_word(apic, APIC_TMR, vector), level);
	holder = mkvm_trace_id(request, apic->vcpu, irq);
	/* orders the look at irr_words after it: see mkvm_lapic_ack */
	was_set = test_and_set_bit(vector & 31, lapic_word(apic, APIC_IRR, vector));
	if (!test_bit(vector >> 5, &apic->irr_words))
		set_bit(vector >> 5, &apic->irr_words);
	mkvm_trace(accept, apic->vcpu, irq, was_set, holder);
	/* even if it was set: nobody relies on an earlier kick */
	mkvm_vcpu_kick_event(apic->vcpu);
	return !was_set;
}

/*
 * A message that is for this APIC arrives. Any context. Returns 1: taken;
 * MKVM_IRQ_COALESCED: requested already; MKVM_IRQ_IGNORED: not acceptable, so
 * that no EOI will follow.
 */
int mkvm_lapic_accept(struct mkvm_lapic *apic, const struct mkvm_irq *irq)
{
	struct mkvm_vcpu *vcpu = apic->vcpu;
	/* a level de-assert tells nobody anything, INIT's included */
	bool deassert = irq->level && !irq->assert;

	mkvm_trace(message, vcpu, irq);
	switch (irq->delivery << 8) {
	case APIC_DM_FIXED:
	case APIC_DM_LOWEST:
		return deassert ? MKVM_IRQ_IGNORED :
			lapic_accept_vector(apic, irq);
	case APIC_DM_SMI:
		mkvm_vcpu_post_smi(vcpu);
		return 1;
	case APIC_DM_NMI:
		mkvm_vcpu_post_nmi(vcpu);
		return 1;
	case APIC_DM_INIT:
		if (deassert)
			return MKVM_IRQ_IGNORED;
		mkvm_vcpu_post_init(vcpu);
		return 1;
	case APIC_DM_STARTUP:
		mkvm_vcpu_post_sipi(vcpu, irq->vector);
		return 1;
	default:
		/* ExtINT comes over LINT0 alone (mkvm_lapic_accepts_pic), as with KVM; mode 3 is reserved */
		return MKVM_IRQ_IGNORED;
	}
}

static const char *lvt_name(unsigned int lvt_reg)
{
	if (lvt_reg == APIC_LVT0)
		return "lvt-lint0";
	return lvt_reg == APIC_LVTT ? "lvt-timer" : "lvt-error";
}

/*
 * The source of a local vector table entry (APIC_LVTT, APIC_LVT0 ...) fires.
 * Any context. Returns what mkvm_lapic_accept does; masked: MKVM_IRQ_IGNORED.
 */
int mkvm_lapic_local_deliver(struct mkvm_lapic *apic, unsigned int lvt_reg)
{
	u32 lvt = lapic_get(apic, lvt_reg);
	struct mkvm_irq irq = {
		.vector = lvt & APIC_VECTOR_MASK,
		.delivery = lvt >> 8 & 7,
		.level = lvt & APIC_LVT_LEVEL_TRIGGER,	/* counts in fixed mode alone */
		.assert = true,
	};

	if (!READ_ONCE(apic->hw_enabled) || (lvt & APIC_LVT_MASKED))
		return MKVM_IRQ_IGNORED;
	/* modes that a local vector table entry does not have */
	if (irq.delivery == APIC_DM_LOWEST >> 8 || irq.delivery == APIC_DM_STARTUP >> 8)
		return MKVM_IRQ_IGNORED;
	irq.id = mkvm_trace_id(raise_local, apic->vcpu, lvt_name(lvt_reg), lvt_reg, lvt);
	return mkvm_lapic_accept(apic, &irq);
}

/* Any context. A disabled APIC leaves LINT0 to the CPU as its INTR pin. ExtINT has no polarity. */
bool mkvm_lapic_accepts_pic(struct mkvm_lapic *apic)
{
	u32 lvt0 = lapic_get(apic, APIC_LVT0);

	return !READ_ONCE(apic->hw_enabled) ||
	       (!(lvt0 & APIC_LVT_MASKED) && (lvt0 & APIC_MODE_MASK) == APIC_DM_EXTINT);
}

/* Any context. Remote IRR of LINT0, LINT1: a level interrupt was accepted and has seen no EOI. */
static u32 lapic_read_lint(struct mkvm_lapic *apic, u32 reg)
{
	u32 lvt = lapic_get(apic, reg);
	u8 vector = lvt & APIC_VECTOR_MASK;

	if (lapic_lint_is_level(lvt) && lapic_test(apic, APIC_TMR, vector) &&
	    mkvm_lapic_unfinished(apic, vector))
		lvt |= APIC_LVT_REMOTE_IRR;
	return lvt;
}

/*
 * Level triggered LINT0: deliver when its pin is asserted and no EOI is to come. Any context;
 * after each change of the pin, the entry or what is in service.
 */
static void lapic_look_at_lint0(struct mkvm_lapic *apic)
{
	struct mkvm_pic *pic = apic->vcpu->vm->irqchip.pic;
	u32 lvt = lapic_get(apic, APIC_LVT0);

	if (!pic || !lapic_lint_is_level(lvt) || (lvt & APIC_LVT_MASKED))
		return;
	smp_mb();	/* one's own change, then the look at others': of two at once one sees both */
	if (mkvm_pic_line(pic) != !!(lvt & APIC_INPUT_POLARITY) &&
	    !(lapic_read_lint(apic, APIC_LVT0) & APIC_LVT_REMOTE_IRR))
		mkvm_lapic_local_deliver(apic, APIC_LVT0);
}

/*
 * LINT0's pin, the PIC's INT output, has changed. Any context. "Local Vector Table": NMI, SMI
 * and INIT are edge triggered always, fixed as the entry says, and ExtINT is a level.
 */
void mkvm_lapic_lint0(struct mkvm_lapic *apic, unsigned int changes)
{
	u32 lvt = lapic_get(apic, APIC_LVT0);

	if (mkvm_lapic_accepts_pic(apic)) {
		if (changes & MKVM_INT_REQUEST)
			mkvm_vcpu_kick_event(apic->vcpu);
	} else if (lapic_lint_is_level(lvt)) {
		lapic_look_at_lint0(apic);
	} else if (changes & (lvt & APIC_INPUT_POLARITY ? MKVM_INT_FALLS : MKVM_INT_RISES)) {
		mkvm_lapic_local_deliver(apic, APIC_LVT0);
	}
}

/* INT of the PIC is wired to LINT0 of every CPU. Any context. */
void mkvm_pic_output_changed(struct mkvm *vm, unsigned int changes)
{
	struct mkvm_vcpu *vcpu;
	int i;

	mkvm_for_each_vcpu(i, vcpu, vm)
		if (vcpu->lapic)
			mkvm_lapic_lint0(vcpu->lapic, changes);
}

/*
 * Split: does userspace's IOAPIC wait for the EOI of @vector? "Directed EOI with
 * x2APIC Mode": with SPIV bit 12 no EOI is broadcast, software writes to the IOAPIC.
 */
static bool lapic_tells_eoi(struct mkvm_lapic *apic, u8 vector)
{
	return lapic_test(apic, APIC_TMR, vector) && !(lapic_get(apic, APIC_SPIV) & APIC_SPIV_DIRECTED_EOI) &&
	       mkvm_routing_wants_eoi(apic->vcpu->vm, vector);
}

/*
 * EOI of the highest vector in service; without one it is ignored. The kernel's
 * IOAPIC says which vectors it waits for, which takes the place of TMR: the PIT's
 * edge pin waits as well.
 */
static void lapic_eoi(struct mkvm_lapic *apic)
{
	struct mkvm_ioapic *ioapic = apic->vcpu->vm->irqchip.ioapic;
	int vector = apic->highest_isr;

	if (vector < 0)
		return;
	mkvm_trace(eoi, apic->vcpu, vector);
	if (!ioapic && lapic_tells_eoi(apic, vector))	/* asked while in service: see routing_replace */
		mkvm_vcpu_tell_eoi(apic->vcpu, vector);
	__clear_bit(vector & 31, lapic_word(apic, APIC_ISR, vector));
	if (!lapic_get(apic, APIC_ISR + (vector >> 5) * 0x10))
		apic->isr_words &= ~BIT(vector >> 5);
	lapic_find_isr(apic);
	if (ioapic && mkvm_ioapic_wants_eoi(ioapic, vector))
		mkvm_ioapic_eoi(ioapic, vector);
	if (lapic_test(apic, APIC_TMR, vector))
		lapic_look_at_lint0(apic);
	lapic_kick_if_requested(apic);
}

/* Any context. */
bool mkvm_lapic_sw_enabled(struct mkvm_lapic *apic)
{
	return READ_ONCE(apic->sw_enabled);
}

/* Any context. In x2APIC mode the vCPU's id, else the 8 bits of the register. */
u32 mkvm_lapic_id(struct mkvm_lapic *apic)
{
	return READ_ONCE(apic->x2apic) ? apic->vcpu->id : lapic_get(apic, APIC_ID) >> 24;
}

/* ---- registers ---- */

/* @reg: one that the mode has */
static u32 lapic_read(struct mkvm_lapic *apic, u32 reg)
{
	if (likely(!(LAPIC_COMPUTED >> REG(reg) & 1)))
		return lapic_get(apic, reg);
	if (reg == APIC_ARBPRI)
		return mkvm_lapic_arb_priority(apic);
	if (reg == APIC_PROCPRI)
		return lapic_ppr(apic);
	if (reg >= APIC_IRR && reg < APIC_ESR)
		return lapic_irr(apic, (reg - APIC_IRR) >> 4);
	return reg == APIC_TMCCT ? mkvm_lapic_timer_count(apic) : lapic_read_lint(apic, reg);
}

static void lapic_write_spiv(struct mkvm_lapic *apic, u32 val)
{
	unsigned int i;

	lapic_set(apic, APIC_SPIV, val);
	WRITE_ONCE(apic->sw_enabled, val & APIC_SPIV_APIC_ENABLED);
	if (val & APIC_SPIV_APIC_ENABLED)
		return;
	/* "Local APIC State After It Has Been Software Disabled" */
	for (i = 0; i < LAPIC_NR_LVT; i++)
		lapic_set(apic, LAPIC_LVT(i), lapic_get(apic, LAPIC_LVT(i)) | APIC_LVT_MASKED);
}

static void lapic_write_lvt(struct mkvm_lapic *apic, u32 reg, u32 val)
{
	if (!apic->sw_enabled)
		val |= APIC_LVT_MASKED;
	lapic_set(apic, reg, val);
	if (reg == APIC_LVTT)
		mkvm_lapic_timer_set_mode(apic);
	if (reg != APIC_LVT0)
		return;
	mkvm_vcpu_kick_event(apic->vcpu);	/* the PIC may be let through now */
	lapic_look_at_lint0(apic);
}

/* @reg: one that the mode lets be written; @val: reserved bits clear */
static void lapic_write(struct mkvm_lapic *apic, u32 reg, u32 val)
{
	switch (reg) {
	case APIC_EOI:
		lapic_eoi(apic);
		break;
	case APIC_TASKPRI:
		mkvm_vcpu_tell_tpr(apic->vcpu, true);
		mkvm_lapic_set_tpr(apic, val);
		break;
	case APIC_ICR:
		lapic_set(apic, reg, val);
		mkvm_lapic_send_ipi(apic, val, apic->x2apic ? lapic_get(apic, APIC_ICR2) :
				    lapic_get(apic, APIC_ICR2) >> 24, "ipi");
		break;
	case APIC_SELF_IPI:
		mkvm_lapic_send_ipi(apic, val | APIC_DEST_SELF | APIC_INT_ASSERT, 0, "ipi");
		break;
	case APIC_ESR:
		lapic_set(apic, reg, atomic_xchg(&apic->errors, 0));
		break;
	case APIC_DFR:
		lapic_set(apic, reg, val | APIC_DFR_CLUSTER);
		break;
	case APIC_SPIV:
		lapic_write_spiv(apic, val);
		break;
	case APIC_LVTT ... APIC_LVTERR:
		lapic_write_lvt(apic, reg, val);
		break;
	case APIC_TMICT:
		/* "TSC-Deadline Mode": writes to the initial count register are ignored */
		if (apic->timer_mode == LAPIC_TIMER_DEADLINE)
			break;
		lapic_set(apic, reg, val);
		mkvm_lapic_timer_start(apic, val);
		break;
	case APIC_TDCR:
		lapic_set(apic, reg, val);
		mkvm_lapic_timer_set_divide(apic);
		break;
	default:
		lapic_set(apic, reg, val);
	}
}

/* Own. */
u8 mkvm_lapic_get_tpr(struct mkvm_lapic *apic)
{
	return lapic_get(apic, APIC_TASKPRI);
}

/* Own. */
void mkvm_lapic_set_tpr(struct mkvm_lapic *apic, u8 tpr)
{
	lapic_set(apic, APIC_TASKPRI, tpr);
	lapic_kick_if_requested(apic);
}

/* Own. */
bool mkvm_lapic_mmio_match(struct mkvm_lapic *apic, u64 gpa)
{
	return (gpa & ~(u64)(MKVM_LAPIC_SIZE - 1)) == apic->mmio_page;
}

/* Own. No device of userspace's lies here, even when registers are not (KVM_X86_QUIRK_LAPIC_MMIO_HOLE). */
bool mkvm_lapic_owns_page(struct mkvm_lapic *apic, u64 gpa)
{
	return !((gpa ^ apic->base) & GENMASK_ULL(51, 12));
}

/*
 * Own. @offset: below MKVM_LAPIC_SIZE; @len: 1 to 8. The manual asks for
 * aligned 32-bit accesses; parts of a register are given all the same, what
 * lies beside registers reads 0. Without registers, disabled or in x2APIC mode,
 * it reads all ones. Returns 0: the page always answers.
 */
int mkvm_lapic_mmio_read(struct mkvm_lapic *apic, u32 offset, unsigned int len, void *val)
{
	u32 reg = offset & ~0xfu, byte = offset & 0xf, data;

	if (unlikely(apic->mmio_page == ~0ull)) {
		memset(val, 0xff, len);
		return 0;
	}
	if (unlikely(reg > APIC_SELF_IPI || !(LAPIC_XAPIC >> REG(reg) & 1))) {
		mkvm_lapic_error(apic, APIC_ESR_ILLREGA);
		memset(val, 0, len);
		return 0;
	}
	if (reg == APIC_TASKPRI)
		mkvm_vcpu_tell_tpr(apic->vcpu, false);
	data = lapic_read(apic, reg);
	if (likely(len == sizeof(data) && !byte)) {
		memcpy(val, &data, sizeof(data));
		return 0;
	}
	memset(val, 0, len);
	if (byte < sizeof(data))
		memcpy(val, (u8 *)&data + byte, min_t(u32, len, sizeof(data) - byte));
	return 0;
}

/* Own. Anything but an aligned 32-bit write is ignored, as with KVM. Returns 0. */
int mkvm_lapic_mmio_write(struct mkvm_lapic *apic, u32 offset, unsigned int len, const void *val)
{
	u32 data;

	if (len != sizeof(data) || (offset & 0xf) || apic->mmio_page == ~0ull)
		return 0;
	memcpy(&data, val, sizeof(data));
	if (unlikely(offset > APIC_SELF_IPI || !(LAPIC_XAPIC >> REG(offset) & 1))) {
		mkvm_lapic_error(apic, APIC_ESR_ILLREGA);
		return 0;
	}
	offset = array_index_nospec(offset, APIC_SELF_IPI + 1);
	if (!(LAPIC_RO >> REG(offset) & 1))
		lapic_write(apic, offset, data & lapic_writable(apic, offset));
	return 0;
}

/* Own. RDMSR of 0x800-0x8ff; 1: #GP, not in x2APIC mode or no such register. */
int mkvm_lapic_msr_read(struct mkvm_lapic *apic, u32 msr, u64 *val)
{
	u32 index = msr - APIC_BASE_MSR;

	if (!apic->x2apic || index > REG(APIC_SELF_IPI) || !(LAPIC_X2APIC_READ >> index & 1))
		return 1;
	index = array_index_nospec(index, REG(APIC_SELF_IPI) + 1);
	if (index == REG(APIC_TASKPRI))
		mkvm_vcpu_tell_tpr(apic->vcpu, false);
	*val = lapic_read(apic, index << 4);
	if (index == REG(APIC_ICR))
		*val |= (u64)lapic_get(apic, APIC_ICR2) << 32;
	return 0;
}

/*
 * Own. WRMSR of 0x800-0x8ff; 1: #GP, not in x2APIC mode, no such register,
 * read-only, or a reserved bit is set. Bits that only report are ignored.
 */
int mkvm_lapic_msr_write(struct mkvm_lapic *apic, u32 msr, u64 val)
{
	u32 index = msr - APIC_BASE_MSR, reg, writable;

	if (!apic->x2apic || index > REG(APIC_SELF_IPI) || !(LAPIC_X2APIC_WRITE >> index & 1))
		return 1;
	index = array_index_nospec(index, REG(APIC_SELF_IPI) + 1);
	reg = index << 4;
	if (reg == APIC_ICR) {
		if ((u32)val & ~(LAPIC_ICR_MASK | APIC_ICR_BUSY))
			return 1;
		lapic_set(apic, APIC_ICR2, val >> 32);
		lapic_write(apic, reg, (u32)val & LAPIC_ICR_MASK);
		return 0;
	}
	writable = lapic_writable(apic, reg);
	if (LAPIC_LVTS >> index & 1)
		val &= ~(u64)(APIC_SEND_PENDING | (reg >= APIC_LVT0 && reg <= APIC_LVT1 ? APIC_LVT_REMOTE_IRR : 0));
	if (val & ~(u64)writable)
		return 1;
	lapic_write(apic, reg, val);
	return 0;
}

/* Own. Reads 0 in the other modes, after firing, and when disarmed. */
u64 mkvm_lapic_get_deadline(struct mkvm_lapic *apic)
{
	return READ_ONCE(apic->deadline);
}

/* Own. @tsc: guest TSC, 0 disarms. Ignored unless LVTT is in that mode. */
void mkvm_lapic_set_deadline(struct mkvm_lapic *apic, u64 tsc)
{
	if (apic->timer_mode != LAPIC_TIMER_DEADLINE)
		return;
	mkvm_lapic_timer_stop(apic);
	WRITE_ONCE(apic->deadline, tsc);
	mkvm_lapic_timer_update(apic);
}

/* ---- MSR_IA32_APICBASE, reset ---- */

/* "Logical Destination Mode in x2APIC Mode": 16 bits of cluster, one bit of 16 */
static u32 lapic_x2apic_ldr(const struct mkvm_lapic *apic)
{
	u32 id = apic->vcpu->id;

	return (id >> 4) << 16 | BIT(id & 0xf);
}

static void lapic_set_base(struct mkvm_lapic *apic, u64 base)
{
	bool enabled = base & XAPIC_ENABLE, x2apic = base & X2APIC_ENABLE;

	if (x2apic != apic->x2apic) {	/* what does not survive: the SDM's list */
		lapic_set(apic, APIC_ID, x2apic ? apic->vcpu->id : apic->vcpu->id << 24);
		lapic_set(apic, APIC_LDR, x2apic ? lapic_x2apic_ldr(apic) : 0);
		lapic_set(apic, APIC_ICR2, 0);
	}
	apic->base = base;
	apic->mmio_page = enabled && !x2apic ? base & GENMASK_ULL(51, 12) : ~0ull;
	WRITE_ONCE(apic->x2apic, x2apic);
	WRITE_ONCE(apic->hw_enabled, enabled);
}

/* Everything but the base and the id. */
static void lapic_reset_registers(struct mkvm_lapic *apic)
{
	unsigned int i;

	mkvm_lapic_timer_stop(apic);
	WRITE_ONCE(apic->sw_enabled, false);
	/* The id stays at any time: the SIPI that follows an INIT looks for it. */
	for (i = 0; i < LAPIC_IMAGE_WORDS; i++)
		if (i != APIC_ID / sizeof(u32))
			WRITE_ONCE(apic->regs[i], 0);
	/* the kernel's IOAPIC has no EOI register, which directed EOI needs */
	lapic_set(apic, APIC_LVR, LAPIC_VERSION | (apic->vcpu->vm->irqchip.ioapic ? 0 : APIC_LVR_DIRECTED_EOI));
	lapic_set(apic, APIC_LDR, apic->x2apic ? lapic_x2apic_ldr(apic) : 0);
	lapic_set(apic, APIC_DFR, APIC_DFR_FLAT);
	lapic_set(apic, APIC_SPIV, 0xff);
	for (i = 0; i < LAPIC_NR_LVT; i++)
		lapic_set(apic, LAPIC_LVT(i), APIC_LVT_MASKED);
	/*
	 * The manuals mask LINT0. But firmware that does not know of APICs
	 * expects the PIC to reach the boot CPU, so KVM's reset lets ExtINT
	 * through there (KVM_X86_QUIRK_LINT0_REENABLED, on by default).
	 */
	if (apic->vcpu->id == apic->vcpu->vm->bsp_id)
		lapic_set(apic, APIC_LVT0, APIC_DM_EXTINT);
	atomic_set(&apic->errors, 0);
	mkvm_lapic_timer_set_mode(apic);
	mkvm_lapic_timer_set_divide(apic);
	lapic_rebuild(apic);
}

/* Own. RESET, or INIT, which keeps the base and the id. Waits for the timer's callback. */
void mkvm_lapic_reset(struct mkvm_lapic *apic, bool init)
{
	struct mkvm_vcpu *vcpu = apic->vcpu;

	if (!init) {
		lapic_set_base(apic, MKVM_LAPIC_BASE | XAPIC_ENABLE |
			       (vcpu->id == vcpu->vm->bsp_id ? MSR_IA32_APICBASE_BSP : 0));
		lapic_set(apic, APIC_ID, vcpu->id << 24);
	}
	lapic_reset_registers(apic);
}

/* Own. */
bool mkvm_lapic_in_x2apic_mode(struct mkvm_lapic *apic)
{
	return apic->x2apic;
}

/* Own. */
u64 mkvm_lapic_get_base(struct mkvm_lapic *apic)
{
	return apic->base;
}

/*
 * Write MSR_IA32_APICBASE. Own. Userspace (@host) may choose any valid state
 * and the BSP bit; the guest goes from row to column ("x2APIC State
 * Transitions"):
 *
 *              disabled  xAPIC  x2APIC  EXTD without EN
 *   disabled   yes       yes    #GP     #GP
 *   xAPIC      yes       yes    yes     #GP
 *   x2APIC     yes       #GP    yes     #GP
 *
 * To be disabled by the guest resets the registers, which the SDM allows
 * ("prior initialization to the APIC may be lost"). Returns 1 when refused.
 */
int mkvm_lapic_set_base(struct mkvm_lapic *apic, u64 base, bool host)
{
	u64 old = apic->base;

	if ((base & (LAPIC_BASE_RESERVED | apic->vcpu->gpa_reserved)) ||
	    (base & LAPIC_BASE_MODE) == X2APIC_ENABLE)
		return 1;
	if (!host) {
		if ((base & X2APIC_ENABLE) && !apic->vcpu->cpuid_x2apic)
			return 1;
		if ((base & X2APIC_ENABLE) && !(old & XAPIC_ENABLE))
			return 1;
		if ((old & X2APIC_ENABLE) && (base & LAPIC_BASE_MODE) == XAPIC_ENABLE)
			return 1;
		base = (base & ~(u64)MSR_IA32_APICBASE_BSP) | (old & MSR_IA32_APICBASE_BSP);
	}
	lapic_set_base(apic, base);
	if (!host && (old & ~base) & XAPIC_ENABLE) {
		lapic_reset_registers(apic);
		lapic_set(apic, APIC_ID, apic->vcpu->id << 24);
	}
	mkvm_vcpu_kick_event(apic->vcpu);	/* who takes ExtINT, and whether IRR counts */
	lapic_look_at_lint0(apic);
	return 0;
}

/* ---- the image for userspace, creation ---- */

/* The image has an x2APIC's id in bits 31:24 like an xAPIC's, but with KVM_CAP_X2APIC_API's 32-bit ids. */
static unsigned int lapic_image_id_shift(const struct mkvm_lapic *apic)
{
	return apic->x2apic && !READ_ONCE(apic->vcpu->vm->irqchip.x2apic_ids) ? 24 : 0;
}

/* Own. */
int mkvm_lapic_get_state(struct mkvm_lapic *apic, struct kvm_lapic_state *state)
{
	unsigned int i;
	u32 val;

	memset(state, 0, sizeof(*state));
	for (i = 0; i < 64; i++) {
		/* The arbitration priority follows from the rest: the image has none, as KVM's. */
		if (!(LAPIC_XAPIC >> i & 1) || i == REG(APIC_ARBPRI))
			continue;
		val = lapic_read(apic, i << 4);
		if (i == REG(APIC_ID))
			val <<= lapic_image_id_shift(apic);
		memcpy(state->regs + i * 0x10, &val, sizeof(val));
	}
	return 0;
}

/*
 * What the guest could not have written is dropped: reserved bits, vectors
 * below 16 in service, another version. In IRR they are kept and readable, as
 * with Linux's KVM; their class, 0, is never above PPR's.
 */
static void lapic_load_registers(struct mkvm_lapic *apic, const struct kvm_lapic_state *state)
{
	unsigned int i, reg;
	u32 val;

	for (i = 0; i < 64; i++) {
		reg = i << 4;
		if (!(LAPIC_XAPIC >> i & 1) || reg == APIC_LVR)
			continue;
		memcpy(&val, state->regs + reg, sizeof(val));
		if (reg == APIC_ISR || reg == APIC_TMR)
			val &= ~0xffffu;
		else if (reg == APIC_ESR)
			val &= 0xff;
		else if (reg == APIC_DFR)
			val |= APIC_DFR_CLUSTER;
		else if (!(LAPIC_BITMAPS >> i & 1) && !(reg == APIC_ICR2 && apic->x2apic))
			val &= lapic_writable(apic, reg);
		lapic_set(apic, reg, val);
		/* before TMICT, which a change of mode clears */
		if (reg == APIC_LVTT)
			mkvm_lapic_timer_set_mode(apic);
	}
	if (apic->x2apic) {
		lapic_set(apic, APIC_ID, apic->vcpu->id);
		lapic_set(apic, APIC_LDR, lapic_x2apic_ldr(apic));
	}
}

/*
 * Load an image. Own. The timer goes on from TMCCT, as with KVM: 0 there with
 * a TMICT fires a one-shot at once, since who made the image may not fill it
 * in; in deadline mode it goes on to the deadline that is set. Interrupts that
 * arrive meanwhile may be lost: IRR is replaced. -EINVAL: x2APIC mode, and the
 * id is another one. All else is taken.
 */
int mkvm_lapic_set_state(struct mkvm_lapic *apic, const struct kvm_lapic_state *state)
{
	u32 id, count;

	memcpy(&id, state->regs + APIC_ID, sizeof(id));
	memcpy(&count, state->regs + APIC_TMCCT, sizeof(count));
	if (apic->x2apic && id != apic->vcpu->id << lapic_image_id_shift(apic))
		return -EINVAL;
	mkvm_lapic_timer_stop(apic);
	lapic_load_registers(apic, state);
	for (id = 16; mkvm_tracing() && id < 256; id++)
		if (lapic_test(apic, APIC_IRR, id) || lapic_test(apic, APIC_ISR, id))
			mkvm_trace_raise_restored(apic->vcpu, id);
	lapic_rebuild(apic);
	WRITE_ONCE(apic->sw_enabled, lapic_get(apic, APIC_SPIV) & APIC_SPIV_APIC_ENABLED);
	mkvm_lapic_timer_set_divide(apic);
	mkvm_lapic_timer_start(apic, count);
	mkvm_lapic_timer_update(apic);
	lapic_look_at_lint0(apic);
	mkvm_vcpu_kick_event(apic->vcpu);
	return 0;
}

/* Before the vCPU is published. -ENOMEM. */
int mkvm_lapic_create(struct mkvm_vcpu *vcpu)
{
	struct mkvm_lapic *apic = kzalloc(sizeof(*apic), GFP_KERNEL_ACCOUNT);

	if (!apic)
		return -ENOMEM;
	apic->vcpu = vcpu;
	seqcount_init(&apic->moves);
	mkvm_lapic_timer_init(apic);
	mkvm_lapic_reset(apic, false);
	vcpu->lapic = apic;
	return 0;
}

/* When no sender can reach the vCPU any more. NULL is fine. */
void mkvm_lapic_destroy(struct mkvm_vcpu *vcpu)
{
	if (!vcpu->lapic)
		return;
	mkvm_lapic_timer_stop(vcpu->lapic);
	kfree(vcpu->lapic);
	vcpu->lapic = NULL;
}
