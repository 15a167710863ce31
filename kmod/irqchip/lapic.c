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
/* The registers of xAPIC mode, where a write to a read-only one is ignored. */
#define LAPIC_RO                                                                            \
	(REGBIT(APIC_LVR) | REGBIT(APIC_ARBPRI) | REGBIT(APIC_PROCPRI) | REGBIT(APIC_RRR) | \
	 LAPIC_BITMAPS | REGBIT(APIC_TMCCT))
#define LAPIC_XAPIC                                                                                \
	(LAPIC_RO | REGBIT(APIC_ID) | REGBIT(APIC_TASKPRI) | REGBIT(APIC_EOI) | REGBIT(APIC_LDR) | \
	 REGBIT(APIC_DFR) | REGBIT(APIC_SPIV) | REGBIT(APIC_ESR) | REGBIT(APIC_ICR) |              \
	 REGBIT(APIC_ICR2) | LAPIC_LVTS | REGBIT(APIC_TMICT) | REGBIT(APIC_TDCR))
/* "x2APIC Register Address Space": any other access is #GP. */
#define LAPIC_X2APIC_READ                                                            \
	(LAPIC_XAPIC & ~(REGBIT(APIC_ARBPRI) | REGBIT(APIC_EOI) | REGBIT(APIC_RRR) | \
			 REGBIT(APIC_DFR) | REGBIT(APIC_ICR2)))
#define LAPIC_X2APIC_WRITE                                                        \
	((LAPIC_X2APIC_READ & ~(LAPIC_RO | REGBIT(APIC_ID) | REGBIT(APIC_LDR))) | \
	 REGBIT(APIC_EOI) | REGBIT(APIC_SELF_IPI))
/* Registers whose value is more than what regs[] holds. */
#define LAPIC_COMPUTED		(REGBIT(APIC_ARBPRI) | REGBIT(APIC_PROCPRI) | REGBIT(APIC_TMCCT) | \
				 REGBIT(APIC_LVT0) | REGBIT(APIC_LVT1) | REGS8(APIC_IRR))

#define LVT_BITS		(APIC_VECTOR_MASK | APIC_LVT_MASKED)
#define LINT_BITS (LVT_BITS | APIC_MODE_MASK | APIC_LVT_LEVEL_TRIGGER | APIC_INPUT_POLARITY)

/* The bits that a write changes. In x2APIC mode the others are reserved. */
static const u32 lapic_bits[64] = {
	[REG(APIC_ID)] = 0xff000000,
	[REG(APIC_TASKPRI)] = APIC_TPRI_MASK,
	[REG(APIC_LDR)] = APIC_LDR_MASK,
	[REG(APIC_DFR)] = 0xf0000000,
	[REG(APIC_SPIV)] = APIC_VECTOR_MASK | APIC_SPIV_APIC_ENABLED | APIC_SPIV_FOCUS_DISABLED,
	[REG(APIC_ICR)] = ~APIC_ICR_BUSY, /* reserved ones are kept, unused */
	[REG(APIC_ICR2)] = 0xff000000,
	[REG(APIC_LVTT)] = LVT_BITS | LAPIC_TIMER_MODE,
	[REG(APIC_LVTTHMR)] = LVT_BITS | APIC_MODE_MASK,
	[REG(APIC_LVTPC)] = LVT_BITS | APIC_MODE_MASK,
	[REG(APIC_LVT0)] = LINT_BITS,
	[REG(APIC_LVT1)] = LINT_BITS,
	[REG(APIC_LVTERR)] = LVT_BITS,
	[REG(APIC_TMICT)] = ~0u,
	[REG(APIC_TDCR)] = APIC_TDR_DIV_1,
	[REG(APIC_SELF_IPI)] = APIC_VECTOR_MASK,
};

static_assert(sizeof(struct kvm_lapic_state) == 64 * 0x10, "the image is 64 registers");
static_assert(offsetof(struct mkvm_lapic, regs) == 0, "regs is page aligned");

static u32 lapic_writable(const struct mkvm_lapic *apic, u32 reg)
{
	if (reg == APIC_LVTT && !apic->vcpu->guest_cpuid.tsc_deadline)
		return lapic_bits[REG(reg)] & ~APIC_LVT_TIMER_TSCDEADLINE;
	if (reg == APIC_SPIV && (lapic_get(apic, APIC_LVR) & APIC_LVR_DIRECTED_EOI))
		return lapic_bits[REG(reg)] | APIC_SPIV_DIRECTED_EOI;
	return lapic_bits[REG(reg)];
}

/* ---- vectors ---- */

/*
 * Returns the word of a 256-bit register that holds @vector. The bit operations need a long, whose
 * upper half is unused register space.
 */
static unsigned long *lapic_word(struct mkvm_lapic *apic, u32 reg, u8 vector)
{
	return (unsigned long *)&apic->regs[(reg + (vector >> 5) * 0x10) / sizeof(u32)];
}

static bool lapic_test(struct mkvm_lapic *apic, u32 reg, u8 vector)
{
	return test_bit(vector & 31, lapic_word(apic, reg, vector));
}

/* Returns a word of IRR, including the requests that the CPU has (apicv.c). Any context. */
static u32 lapic_irr(const struct mkvm_lapic *apic, unsigned int w)
{
	return lapic_get(apic, APIC_IRR + w * 0x10) | READ_ONCE(apic->lent[w]);
}

/* Returns the highest vector in IRR, -1: none. Any context. */
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

	WRITE_ONCE(apic->highest_isr,
		   w < 0 ? -1 : w * 32 + __fls(lapic_get(apic, APIC_ISR + w * 0x10)));
}

/*
 * Recomputes the caches from IRR and ISR, which were replaced. Senders may add requests meanwhile.
 */
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

/* Intel SDM vol. 3, "Task and Processor Priorities". */
static u32 lapic_ppr(const struct mkvm_lapic *apic)
{
	return max(lapic_get(apic, APIC_TASKPRI), lapic_isr_class(apic));
}

/* Returns APR, by which lowest-priority delivery chooses. Any context. */
u32 mkvm_lapic_arb_priority(struct mkvm_lapic *apic)
{
	u32 tpr = lapic_get(apic, APIC_TASKPRI), isr = lapic_isr_class(apic);
	u32 irr = max(lapic_find_irr(apic), 0) & 0xf0;

	if ((tpr & 0xf0) >= irr && (tpr & 0xf0) > isr)
		return tpr;
	return max(tpr & 0xf0, max(isr, irr));
}

/* Returns the highest requested vector if it is above the processor priority, else -1. Own. */
int mkvm_lapic_pending(struct mkvm_lapic *apic)
{
	int vector;

	if (!(READ_ONCE(apic->irr_words) | READ_ONCE(apic->lent_words)) || !apic->hw_enabled)
		return -1;
	vector = lapic_find_irr(apic);
	return vector >= 0 && (vector & 0xf0) > (lapic_ppr(apic) & 0xf0) ? vector : -1;
}

/* Returns the highest requested vector, whether or not priorities mask it; -1: none. Own. */
int mkvm_lapic_highest_irr(struct mkvm_lapic *apic)
{
	return apic->hw_enabled ? lapic_find_irr(apic) : -1;
}

int mkvm_lapic_highest_isr(struct mkvm_lapic *apic)
{
	return apic->highest_isr;
}

/* Whether an EOI of @vector is still to come. Any context. */
bool mkvm_lapic_unfinished(struct mkvm_lapic *apic, u8 vector)
{
	unsigned int moves;
	bool found;

	do {
		moves = read_seqcount_begin(&apic->moves);
		found = lapic_irr(apic, vector >> 5) & BIT(vector & 31);
		smp_rmb(); /* pairs with mkvm_lapic_ack: no longer requested means in service */
		found |= lapic_test(apic, APIC_ISR, vector);
	} while (read_seqcount_retry(&apic->moves, moves));
	return found;
}

/* The guest takes @vector, which moves from IRR to ISR. Own. */
void mkvm_lapic_ack(struct mkvm_lapic *apic, u8 vector)
{
	unsigned int w = vector >> 5;

	mkvm_assert_owner(apic->vcpu);
	mkvm_trace(ack, apic->vcpu, vector);
	__set_bit(vector & 31, lapic_word(apic, APIC_ISR, vector));
	smp_mb__before_atomic();	/* ISR set before IRR is cleared: mkvm_lapic_unfinished */
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

/* The trigger mode of a LINT pin has an effect only in fixed mode. */
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

/*
 * Only the first error after a write of ESR raises the error interrupt; later ones are just
 * recorded.
 */
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
	/* TMR comes first, so that whoever sees the request sees its trigger mode */
	if (lapic_test(apic, APIC_TMR, vector) != level)
		assign_bit(vector & 31, lapic_word(apic, APIC_TMR, vector), level);
	holder = mkvm_trace_id(request, apic->vcpu, irq);
	/* orders the look at irr_words after it: see mkvm_lapic_ack */
	was_set = test_and_set_bit(vector & 31, lapic_word(apic, APIC_IRR, vector));
	if (!test_bit(vector >> 5, &apic->irr_words))
		set_bit(vector >> 5, &apic->irr_words);
	mkvm_trace(accept, apic->vcpu, irq, was_set, holder);
	/* kicks even if the bit was set, so that nothing depends on an earlier kick */
	mkvm_vcpu_kick_event(apic->vcpu);
	return !was_set;
}

/*
 * mkvm_lapic_accept - a message to this APIC arrives
 *
 * Context: any. Return: 1 if it is accepted; MKVM_IRQ_COALESCED if its vector was requested
 * already; MKVM_IRQ_IGNORED if it is not acceptable, so that no EOI will follow.
 */
int mkvm_lapic_accept(struct mkvm_lapic *apic, const struct mkvm_irq *irq)
{
	struct mkvm_vcpu *vcpu = apic->vcpu;
	/* a level de-assert has no effect, not even that of an INIT */
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
		/*
		 * as in Linux KVM only LINT0 delivers ExtINT (mkvm_lapic_accepts_pic); mode 3 is
		 * reserved
		 */
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
 * mkvm_lapic_local_deliver - the source of a local vector table entry fires
 * @lvt_reg: the entry: APIC_LVTT, APIC_LVT0 ...
 *
 * Context: any. Return: as mkvm_lapic_accept; MKVM_IRQ_IGNORED for a masked entry.
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
	/* a local vector table entry does not have these modes */
	if (irq.delivery == APIC_DM_LOWEST >> 8 || irq.delivery == APIC_DM_STARTUP >> 8)
		return MKVM_IRQ_IGNORED;
	irq.id = mkvm_trace_id(raise_local, apic->vcpu, lvt_name(lvt_reg), lvt_reg, lvt);
	return mkvm_lapic_accept(apic, &irq);
}

/*
 * Whether ExtINT from the PIC reaches the CPU. LINT0 of a disabled APIC is the CPU's INTR pin. The
 * polarity bit has no effect on ExtINT. Any context.
 */
bool mkvm_lapic_accepts_pic(struct mkvm_lapic *apic)
{
	u32 lvt0 = lapic_get(apic, APIC_LVT0);

	return !READ_ONCE(apic->hw_enabled) ||
	       (!(lvt0 & APIC_LVT_MASKED) && (lvt0 & APIC_MODE_MASK) == APIC_DM_EXTINT);
}

/*
 * Reads LVT0 or LVT1. Remote IRR is set after a level interrupt was accepted, until its EOI. Any
 * context.
 */
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
 * Delivers a level-triggered LINT0 if its pin is asserted and no EOI is still to come. It is called
 * after each change of the pin, the entry or the vectors in service. Any context.
 */
static void lapic_look_at_lint0(struct mkvm_lapic *apic)
{
	struct mkvm_pic *pic = apic->vcpu->vm->irqchip.pic;
	u32 lvt = lapic_get(apic, APIC_LVT0);

	if (!pic || !lapic_lint_is_level(lvt) || (lvt & APIC_LVT_MASKED))
		return;
	smp_mb();	/* of two CPUs that each changed one of these, one sees both changes */
	if (mkvm_pic_line(pic) != !!(lvt & APIC_INPUT_POLARITY) &&
	    !(lapic_read_lint(apic, APIC_LVT0) & APIC_LVT_REMOTE_IRR))
		mkvm_lapic_local_deliver(apic, APIC_LVT0);
}

/*
 * mkvm_lapic_lint0 - the PIC's INT output, which drives LINT0, has changed
 * @changes: MKVM_INT_*
 *
 * NMI, SMI and INIT are always edge triggered, fixed mode is triggered as the entry says, and
 * ExtINT is a level: Intel SDM vol. 3, "Local Vector Table". Context: any.
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

/*
 * The PIC's INT output has changed; it is wired to LINT0 of every CPU. Any context, no locks held.
 */
void mkvm_pic_output_changed(struct mkvm *vm, unsigned int changes)
{
	struct mkvm_vcpu *vcpu;
	int i;

	mkvm_for_each_vcpu(i, vcpu, vm)
		if (vcpu->lapic)
			mkvm_lapic_lint0(vcpu->lapic, changes);
}

/*
 * Whether, with a split irqchip, userspace's IOAPIC waits for the EOI of @vector. With SPIV bit 12
 * set no EOI is broadcast, and software writes to the IOAPIC instead: Intel SDM vol. 3, "Directed
 * EOI with x2APIC Mode".
 */
static bool lapic_reports_eoi(struct mkvm_lapic *apic, u8 vector)
{
	return lapic_test(apic, APIC_TMR, vector) &&
	       !(lapic_get(apic, APIC_SPIV) & APIC_SPIV_DIRECTED_EOI) &&
	       mkvm_routing_wants_eoi(apic->vcpu->vm, vector);
}

/*
 * Ends the highest vector in service; if there is none, the EOI is ignored. The kernel's IOAPIC
 * knows the vectors for which it waits, so TMR is not used: it waits for the PIT's edge-triggered
 * pin as well.
 */
static void lapic_eoi(struct mkvm_lapic *apic)
{
	struct mkvm_ioapic *ioapic = apic->vcpu->vm->irqchip.ioapic;
	int vector = apic->highest_isr;

	if (vector < 0)
		return;
	mkvm_trace(eoi, apic->vcpu, vector);
	if (!ioapic && lapic_reports_eoi(apic, vector))	/* still in service: see routing_replace */
		mkvm_vcpu_report_eoi(apic->vcpu, vector);
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

/* Returns the vCPU's id in x2APIC mode, else the 8 bits of the register. Any context. */
u32 mkvm_lapic_id(struct mkvm_lapic *apic)
{
	return READ_ONCE(apic->x2apic) ? apic->vcpu->id : lapic_get(apic, APIC_ID) >> 24;
}

/* ---- registers ---- */

/* @reg: a register that exists in the present mode */
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
	mkvm_vcpu_kick_event(apic->vcpu);	/* ExtINT may get through now */
	lapic_look_at_lint0(apic);
}

/* @reg: a register that is writable in the present mode; @val: has no reserved bits */
static void lapic_write(struct mkvm_lapic *apic, u32 reg, u32 val)
{
	switch (reg) {
	case APIC_EOI:
		lapic_eoi(apic);
		break;
	case APIC_TASKPRI:
		mkvm_vcpu_report_tpr(apic->vcpu, true);
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
		/* SDM, "TSC-Deadline Mode": writes to the initial count register are ignored */
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

/*
 * Whether the address is in the APIC's page. Userspace has no devices there, even if the APIC's
 * mode has no registers there (KVM_X86_QUIRK_LAPIC_MMIO_HOLE). Own.
 */
bool mkvm_lapic_owns_page(struct mkvm_lapic *apic, u64 gpa)
{
	return !((gpa ^ apic->base) & GENMASK_ULL(51, 12));
}

/*
 * mkvm_lapic_mmio_read - the guest reads from the APIC's page
 * @offset: below MKVM_LAPIC_SIZE
 * @len: 1 to 8 bytes
 *
 * The manual requires aligned 32-bit accesses. Other accesses read parts of a register, and 0
 * between registers. An APIC that is disabled or in x2APIC mode reads as all ones. Context: own.
 * Return: 0; the page always answers.
 */
int mkvm_lapic_mmio_read(struct mkvm_lapic *apic, u32 offset, unsigned int len, void *val)
{
	u32 reg = offset & ~0xfu, byte = offset & 0xf, data;

	mkvm_assert_owner(apic->vcpu);
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
		mkvm_vcpu_report_tpr(apic->vcpu, false);
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

/* As mkvm_lapic_mmio_read. Only aligned 32-bit writes have an effect, as in Linux KVM. */
int mkvm_lapic_mmio_write(struct mkvm_lapic *apic, u32 offset, unsigned int len, const void *val)
{
	u32 data;

	mkvm_assert_owner(apic->vcpu);
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

/* RDMSR of 0x800-0x8ff. Own. Return: 1 for #GP: not in x2APIC mode, or no such register. */
int mkvm_lapic_msr_read(struct mkvm_lapic *apic, u32 msr, u64 *val)
{
	u32 index = msr - APIC_BASE_MSR;

	mkvm_assert_owner(apic->vcpu);
	if (!apic->x2apic || index > REG(APIC_SELF_IPI) || !(LAPIC_X2APIC_READ >> index & 1))
		return 1;
	index = array_index_nospec(index, REG(APIC_SELF_IPI) + 1);
	if (index == REG(APIC_TASKPRI))
		mkvm_vcpu_report_tpr(apic->vcpu, false);
	*val = lapic_read(apic, index << 4);
	if (index == REG(APIC_ICR))
		*val |= (u64)lapic_get(apic, APIC_ICR2) << 32;
	return 0;
}

/*
 * WRMSR of 0x800-0x8ff. Read-only bits of a writable register are ignored. Own. Return: 1 for #GP:
 * not in x2APIC mode, no such register, a read-only one, or a reserved bit is set.
 */
int mkvm_lapic_msr_write(struct mkvm_lapic *apic, u32 msr, u64 val)
{
	u32 index = msr - APIC_BASE_MSR, reg, writable;

	mkvm_assert_owner(apic->vcpu);
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
		val &= ~(u64)(APIC_SEND_PENDING |
			      (reg >= APIC_LVT0 && reg <= APIC_LVT1 ? APIC_LVT_REMOTE_IRR : 0));
	if (val & ~(u64)writable)
		return 1;
	lapic_write(apic, reg, val);
	return 0;
}

/* Reads as 0 in the other modes, after the timer fired, and when it is disarmed. Own. */
u64 mkvm_lapic_get_deadline(struct mkvm_lapic *apic)
{
	return READ_ONCE(apic->deadline);
}

/*
 * @tsc: in cycles of the guest's TSC, 0 disarms. Ignored unless LVTT selects TSC-deadline mode.
 * Own.
 */
void mkvm_lapic_set_deadline(struct mkvm_lapic *apic, u64 tsc)
{
	mkvm_assert_owner(apic->vcpu);
	if (apic->timer_mode != LAPIC_TIMER_DEADLINE)
		return;
	mkvm_lapic_timer_stop(apic);
	WRITE_ONCE(apic->deadline, tsc);
	mkvm_lapic_timer_update(apic);
}

/* ---- MSR_IA32_APICBASE, reset ---- */

/* SDM, "Logical Destination Mode in x2APIC Mode": a cluster of 16 bits, and one bit of 16. */
static u32 lapic_x2apic_ldr(const struct mkvm_lapic *apic)
{
	u32 id = apic->vcpu->id;

	return (id >> 4) << 16 | BIT(id & 0xf);
}

static void lapic_set_base(struct mkvm_lapic *apic, u64 base)
{
	bool enabled = base & XAPIC_ENABLE, x2apic = base & X2APIC_ENABLE;

	if (x2apic != apic->x2apic) {	/* only these change, by the SDM's list */
		lapic_set(apic, APIC_ID, x2apic ? apic->vcpu->id : apic->vcpu->id << 24);
		lapic_set(apic, APIC_LDR, x2apic ? lapic_x2apic_ldr(apic) : 0);
		lapic_set(apic, APIC_ICR2, 0);
	}
	apic->base = base;
	apic->mmio_page = enabled && !x2apic ? base & GENMASK_ULL(51, 12) : ~0ull;
	WRITE_ONCE(apic->x2apic, x2apic);
	WRITE_ONCE(apic->hw_enabled, enabled);
}

/* Resets everything but the base and the id. */
static void lapic_reset_registers(struct mkvm_lapic *apic)
{
	unsigned int i;

	mkvm_lapic_timer_stop(apic);
	WRITE_ONCE(apic->sw_enabled, false);
	/* The id stays valid throughout: the SIPI after an INIT is matched against it. */
	for (i = 0; i < LAPIC_IMAGE_WORDS; i++)
		if (i != APIC_ID / sizeof(u32))
			WRITE_ONCE(apic->regs[i], 0);
	/* the kernel's IOAPIC has no EOI register, which directed EOI needs */
	lapic_set(apic, APIC_LVR,
		  LAPIC_VERSION | (apic->vcpu->vm->irqchip.ioapic ? 0 : APIC_LVR_DIRECTED_EOI));
	lapic_set(apic, APIC_LDR, apic->x2apic ? lapic_x2apic_ldr(apic) : 0);
	lapic_set(apic, APIC_DFR, APIC_DFR_FLAT);
	lapic_set(apic, APIC_SPIV, 0xff);
	for (i = 0; i < LAPIC_NR_LVT; i++)
		lapic_set(apic, LAPIC_LVT(i), APIC_LVT_MASKED);
	/*
	 * By the manuals LINT0 is masked. But firmware that does not know of APICs
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

/* RESET, or INIT, which keeps the base and the id. Waits for the timer's callback. Own. */
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
 * mkvm_lapic_set_base - write MSR_IA32_APICBASE
 * @host: by userspace, which may choose any valid state and the BSP bit
 *
 * The guest may go from row to column (Intel SDM vol. 3, "x2APIC State Transitions"):
 *
 *              disabled  xAPIC  x2APIC  EXTD without EN
 *   disabled   yes       yes    #GP     #GP
 *   xAPIC      yes       yes    yes     #GP
 *   x2APIC     yes       #GP    yes     #GP
 *
 * When the guest disables the APIC, its registers are reset, which the SDM allows ("prior
 * initialization to the APIC may be lost"). Context: own. Return: 1 when the value is refused.
 */
int mkvm_lapic_set_base(struct mkvm_lapic *apic, u64 base, bool host)
{
	u64 old = apic->base;

	if ((base & (LAPIC_BASE_RESERVED | apic->vcpu->guest_cpuid.gpa_reserved)) ||
	    (base & LAPIC_BASE_MODE) == X2APIC_ENABLE)
		return 1;
	if (!host) {
		if ((base & X2APIC_ENABLE) && !apic->vcpu->guest_cpuid.x2apic)
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
	mkvm_vcpu_kick_event(apic->vcpu);	/* ExtINT's path or the use of IRR has changed */
	lapic_look_at_lint0(apic);
	return 0;
}

/* ---- the image for userspace, creation ---- */

/*
 * The image has an x2APIC's id in bits 31:24, like an xAPIC's, unless userspace has enabled 32-bit
 * ids (KVM_CAP_X2APIC_API).
 */
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
		/*
		 * APR follows from the other registers: as in Linux KVM the image does not have it.
		 */
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
 * Drops values that no guest could have produced: reserved bits, vectors below 16 in ISR and TMR,
 * another version. Vectors below 16 in IRR are kept and readable, as in Linux KVM; their class, 0,
 * is never above PPR's.
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
		/* TMICT is loaded later, because a change of mode clears it */
		if (reg == APIC_LVTT)
			mkvm_lapic_timer_set_mode(apic);
	}
	if (apic->x2apic) {
		lapic_set(apic, APIC_ID, apic->vcpu->id);
		lapic_set(apic, APIC_LDR, lapic_x2apic_ldr(apic));
	}
}

/*
 * mkvm_lapic_set_state - KVM_SET_LAPIC: load an image
 *
 * The timer goes on from TMCCT, as in Linux KVM. If TMICT is set and TMCCT is 0, a one-shot fires
 * at once, since whoever made the image may not have filled in TMCCT. In deadline mode the timer
 * goes on to the deadline that is set. Interrupts that arrive meanwhile may be lost, because IRR is
 * replaced. Context: own. Return: -EINVAL for a wrong id in x2APIC mode. All other images are
 * accepted.
 */
int mkvm_lapic_set_state(struct mkvm_lapic *apic, const struct kvm_lapic_state *state)
{
	u32 id, count;

	mkvm_assert_owner(apic->vcpu);
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

/* Context: the vCPU is not yet published; may sleep. Return: 0 or -ENOMEM. */
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

/* Frees the LAPIC, if there is one. Context: no sender can reach the vCPU any more; may sleep. */
void mkvm_lapic_destroy(struct mkvm_vcpu *vcpu)
{
	if (!vcpu->lapic)
		return;
	mkvm_lapic_timer_stop(vcpu->lapic);
	kfree(vcpu->lapic);
	vcpu->lapic = NULL;
}
