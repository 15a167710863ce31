// SPDX-License-Identifier: GPL-2.0
/*
 * apicv.c - a LAPIC whose CPU delivers and ends interrupts itself while it runs the guest
 * (virtual-interrupt delivery).
 *
 * An entry lends the CPU what is requested: it moves from IRR to a page that the CPU reads and
 * writes, together with the in-service vectors and TPR. After the exit everything is taken
 * back. Meanwhile senders find IRR empty and put new requests there, which the kick lends a
 * moment later: a second request of a vector that the CPU has already delivered does not get
 * lost in the first.
 *
 * State: lent, lent_words, given_words and moves of struct mkvm_lapic (lapic.h).
 *
 * Intel SDM vol. 3, "APIC Virtualization and Virtual Interrupts". Read next: vmx/vmx.c.
 */
#include <linux/kernel.h>
#include <asm/barrier.h>

#include "mkvm.h"
#include "internal.h"
#include "lapic.h"

static u32 *page_reg(void *page, u32 reg, unsigned int w)
{
	return page + reg + w * 0x10;
}

/* The vectors of word @w whose EOI a controller may wait for. lapic_eoi then decides. */
static u32 awaited(struct mkvm_lapic *apic, unsigned int w, u32 bits)
{
	struct mkvm_ioapic *ioapic = apic->vcpu->vm->irqchip.ioapic;
	unsigned long edges = bits & ~lapic_get(apic, APIC_TMR + w * 0x10);
	u32 found = bits & ~edges;
	unsigned int bit;

	for_each_set_bit(bit, &edges, 32)
		if (ioapic && mkvm_ioapic_wants_eoi(ioapic, w * 32 + bit))
			found |= BIT(bit);
	return found;
}

/*
 * mkvm_lapic_lend - give the CPU the requested and in-service vectors before an entry
 * @page: the CPU's virtual-APIC page, with IRR and ISR empty
 * @awaited_eois: filled with 256 bits, set for the vectors whose EOI must cause an exit
 *
 * Context: own, interrupts off, after MKVM_IN_GUEST is announced. Return: the highest requested
 * vector in bits 7:0, and the highest one in service in bits 15:8. 0 means that there is neither,
 * and leaves @awaited_eois unchanged.
 */
u16 mkvm_lapic_lend(struct mkvm_lapic *apic, void *page, u32 *awaited_eois)
{
	unsigned long words = READ_ONCE(apic->irr_words) | apic->isr_words;
	unsigned int w, requested = 0;

	*page_reg(page, APIC_TASKPRI, 0) = lapic_get(apic, APIC_TASKPRI);
	apic->given_words = words;
	if (likely(!words))
		return 0;
	write_seqcount_begin(&apic->moves);
	for (w = 0; w < APIC_ISR_NR; w++) {
		u32 irr = 0, isr = lapic_get(apic, APIC_ISR + w * 0x10);

		awaited_eois[w] = 0;
		if (!(words & BIT(w)))
			continue;
		if (apic->irr_words & BIT(w)) {
			clear_bit(w, &apic->irr_words);
			smp_mb__after_atomic();	/* a later sender sets it again */
			irr = xchg(&apic->regs[(APIC_IRR + w * 0x10) / sizeof(u32)], 0);
			requested = irr ? w * 32 + __fls(irr) : requested;
		}
		*page_reg(page, APIC_IRR, w) = irr;
		*page_reg(page, APIC_ISR, w) = isr;
		WRITE_ONCE(apic->lent[w], irr);
		awaited_eois[w] = awaited(apic, w, irr | isr);
	}
	WRITE_ONCE(apic->lent_words, words);
	write_seqcount_end(&apic->moves);
	return max(apic->highest_isr, 0) << 8 | requested;
}

/*
 * mkvm_lapic_take_back - undo mkvm_lapic_lend after the exit, or if there was no entry
 * @page: the CPU's virtual-APIC page; its IRR and ISR are empty afterwards
 * @ended: the vector whose EOI caused the exit, -1: none. It is put in service again, for
 *         mkvm_lapic_msr_write to end it.
 *
 * Context: own, interrupts off.
 */
void mkvm_lapic_take_back(struct mkvm_lapic *apic, void *page, int ended)
{
	unsigned int w;

	if (*page_reg(page, APIC_TASKPRI, 0) != lapic_get(apic, APIC_TASKPRI))
		lapic_set(apic, APIC_TASKPRI, *page_reg(page, APIC_TASKPRI, 0));
	if (likely(!apic->given_words))
		return;
	if (ended >= 0)
		*page_reg(page, APIC_ISR, ended >> 5) |= BIT(ended & 31);
	write_seqcount_begin(&apic->moves);
	apic->isr_words = 0;
	WRITE_ONCE(apic->highest_isr, -1);
	for (w = 0; w < APIC_ISR_NR; w++) {
		u32 irr = *page_reg(page, APIC_IRR, w), isr = *page_reg(page, APIC_ISR, w);

		if (!(apic->given_words & BIT(w)))
			continue;
		*page_reg(page, APIC_IRR, w) = 0;
		*page_reg(page, APIC_ISR, w) = 0;
		lapic_set(apic, APIC_ISR + w * 0x10, isr);
		if (isr) {
			apic->isr_words |= BIT(w);
			WRITE_ONCE(apic->highest_isr, w * 32 + __fls(isr));
		}
		if (irr) {
			atomic_or(irr,
				  (atomic_t *)&apic->regs[(APIC_IRR + w * 0x10) / sizeof(u32)]);
			set_bit(w, &apic->irr_words);
		}
		WRITE_ONCE(apic->lent[w], 0);
	}
	WRITE_ONCE(apic->lent_words, 0);
	apic->given_words = 0;
	write_seqcount_end(&apic->moves);
}
