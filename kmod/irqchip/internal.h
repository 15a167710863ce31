/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - what the files of irqchip/ call of each other and nobody else does.
 *
 * Read next: irqchip.h, which shows the way of an interrupt through them.
 */
#ifndef MKVM_IRQCHIP_INTERNAL_H
#define MKVM_IRQCHIP_INTERNAL_H

#include "irqchip.h"

/*
 * The bits of a pin's source mask that go when this source goes low. A level that userspace or a
 * resamplefd raised and that was then restored ends with its source, too.
 */
static inline u8 mkvm_source_released(enum mkvm_irq_source source)
{
	bool restored = source == MKVM_SOURCE_USER || source == MKVM_SOURCE_RESAMPLE;

	return BIT(source) | (restored ? BIT(MKVM_SOURCE_RESTORED) : 0);
}

/*
 * Whether a source's signals are edges: each tick of the PIT and each signal of a plain irqfd is
 * one. If an edge-triggered pin is high only because userspace restored it so, its state was saved
 * in the middle of such a pulse, and the source's next pulse must not merge with it.
 */
static inline bool mkvm_source_pulses(enum mkvm_irq_source source)
{
	return source == MKVM_SOURCE_PIT || source == MKVM_SOURCE_IRQFD;
}

/* Changes of the PIC's INT output. Several may be set at once. */
#define MKVM_INT_RISES		1
#define MKVM_INT_FALLS		2
#define MKVM_INT_REQUEST	4	/* an acknowledge may now find a request */

/*
 * pic.c: the 8259 pair. Creation and destruction may sleep; the rest: any context, without
 * pic->lock.
 */
int mkvm_pic_create(struct mkvm *vm);
void mkvm_pic_destroy(struct mkvm *vm);
int mkvm_pic_set_irq(struct mkvm_pic *pic, unsigned int pin, enum mkvm_irq_source source,
		     int level);
bool mkvm_pic_line(struct mkvm_pic *pic);
int mkvm_pic_set(struct mkvm_pic *pic, unsigned int chip, const struct kvm_pic_state *state);

/* ioapic.c. Creation and destruction may sleep; the rest: any context, without ioapic->lock. */
int mkvm_ioapic_create(struct mkvm *vm);
void mkvm_ioapic_destroy(struct mkvm *vm);
int mkvm_ioapic_set_irq(struct mkvm_ioapic *ioapic, unsigned int pin, enum mkvm_irq_source source,
			int level);
bool mkvm_ioapic_wants_eoi(struct mkvm_ioapic *ioapic, u8 vector);	/* takes no lock */
void mkvm_ioapic_eoi(struct mkvm_ioapic *ioapic, u8 vector);
int mkvm_ioapic_set(struct mkvm_ioapic *ioapic, const struct kvm_ioapic_state *state);

/* pit.c: the 8254. Creation and destruction may sleep; the rest: any context, without pit->lock. */
int mkvm_pit_create(struct mkvm *vm, const struct kvm_pit_config *config);
void mkvm_pit_destroy(struct mkvm *vm);
void mkvm_pit_get(struct mkvm_pit *pit, struct kvm_pit_state2 *state);
int mkvm_pit_set(struct mkvm_pit *pit, const struct kvm_pit_state2 *state);
void mkvm_pit_set_reinject(struct mkvm_pit *pit, bool reinject);
/* The guest took or finished the last tick. Any context, even under pic->lock or ioapic->lock. */
void mkvm_pit_acked(struct mkvm_pit *pit);

/*
 * routing.c. Create, destroy and set may sleep; the rest: any context, without locks of
 * controllers.
 */
int mkvm_routing_create(struct mkvm *vm);	/* sets KVM's default table */
void mkvm_routing_destroy(struct mkvm *vm);
int mkvm_routing_set(struct mkvm *vm, const struct kvm_irq_routing_entry *entries, u32 nr,
		     u32 flags);
int mkvm_set_irq(struct mkvm *vm, enum mkvm_irq_source source, u32 gsi, int level);
int mkvm_set_irq_by(struct mkvm *vm, const struct mkvm_routing *table, enum mkvm_irq_source source,
		    u32 gsi, int level);
bool mkvm_gsi_has_pin(struct mkvm *vm, u32 gsi, unsigned int chip, unsigned int pin);
int mkvm_msi_deliver(struct mkvm *vm, u64 address, u32 data);	/* -EINVAL: not an MSI address */
bool mkvm_routing_wants_eoi(struct mkvm *vm, u8 vector);	/* split: an IOAPIC waits for it */

/* irqfd.c: interrupts from eventfds. May sleep, but for mkvm_irq_acked. */
void mkvm_irqfd_init(struct mkvm *vm);
void mkvm_irqfd_destroy(struct mkvm *vm);
void mkvm_irq_acked(struct mkvm *vm, unsigned int chip,
		    unsigned int pin); /* any context, no locks held */
void mkvm_irqfd_rerouted(struct mkvm *vm, const struct mkvm_routing *old);

/* ipi.c: finds the targets of a message. Any context. */
int mkvm_irq_deliver(struct mkvm *vm, struct mkvm_lapic *sender, const struct mkvm_irq *irq);
bool mkvm_lapic_matches(struct mkvm_lapic *apic, struct mkvm_lapic *sender,
			const struct mkvm_irq *irq);

/* lapic.c. mkvm_lapic_local_deliver: the source of an LVT entry fires; any context. */
int mkvm_lapic_accept(struct mkvm_lapic *apic, const struct mkvm_irq *irq);	/* any context */
u32 mkvm_lapic_id(struct mkvm_lapic *apic);		/* any context: in its mode's format */
bool mkvm_lapic_sw_enabled(struct mkvm_lapic *apic);				/* any context */
u32 mkvm_lapic_arb_priority(struct mkvm_lapic *apic);			/* any context: APR */
int mkvm_lapic_local_deliver(struct mkvm_lapic *apic, unsigned int lvt_reg);
void mkvm_pic_output_changed(struct mkvm *vm, unsigned int changes);	/* any context, no locks */
void mkvm_lapic_lint0(struct mkvm_lapic *apic, unsigned int changes); /* any context: MKVM_INT_* */
bool mkvm_lapic_unfinished(struct mkvm_lapic *apic, u8 vector); /* any context: in IRR or ISR */

/* lapic_timer.c: only lapic.c calls these. Own thread, or before the LAPIC is published. */
void mkvm_lapic_timer_init(struct mkvm_lapic *apic);
void mkvm_lapic_timer_stop(struct mkvm_lapic *apic);	/* on return no callback runs */
u32 mkvm_lapic_timer_count(struct mkvm_lapic *apic);	/* TMCCT */

#endif
