/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - what the files of irqchip/ call of each other and nobody else does.
 *
 * Read next: irqchip.h, which shows the way of an interrupt through them.
 */
#ifndef MKVM_IRQCHIP_INTERNAL_H
#define MKVM_IRQCHIP_INTERNAL_H

#include "irqchip.h"

/* What a source that goes low does not hold any more. */
static inline u8 mkvm_source_released(enum mkvm_irq_source source)
{
	bool restored = source == MKVM_SOURCE_USER || source == MKVM_SOURCE_RESAMPLE;

	return BIT(source) | (restored ? BIT(MKVM_SOURCE_RESTORED) : 0);
}

/*
 * Each tick of the PIT and each signal of a plain irqfd is an edge. If an edge-triggered pin is high
 * only because the state that was set had it high, that state was saved in the middle of such a
 * pulse, and the next one must not merge with it.
 */
static inline bool mkvm_source_pulses(enum mkvm_irq_source source)
{
	return source == MKVM_SOURCE_PIT || source == MKVM_SOURCE_IRQFD;
}

/* What has become of the PIC's INT output; several at once. */
#define MKVM_INT_RISES		1
#define MKVM_INT_FALLS		2
#define MKVM_INT_REQUEST	4	/* an acknowledge may find a request: look */

/* pic.c: the 8259 pair */
int mkvm_pic_create(struct mkvm *vm);
void mkvm_pic_destroy(struct mkvm *vm);
int mkvm_pic_set_irq(struct mkvm_pic *pic, unsigned int pin, enum mkvm_irq_source source, int level);
bool mkvm_pic_line(struct mkvm_pic *pic);
int mkvm_pic_set(struct mkvm_pic *pic, unsigned int chip, const struct kvm_pic_state *state);

/* ioapic.c */
int mkvm_ioapic_create(struct mkvm *vm);
void mkvm_ioapic_destroy(struct mkvm *vm);
int mkvm_ioapic_set_irq(struct mkvm_ioapic *ioapic, unsigned int pin, enum mkvm_irq_source source, int level);
bool mkvm_ioapic_wants_eoi(struct mkvm_ioapic *ioapic, u8 vector);	/* lock-free: does any pin care? */
void mkvm_ioapic_eoi(struct mkvm_ioapic *ioapic, u8 vector);
int mkvm_ioapic_set(struct mkvm_ioapic *ioapic, const struct kvm_ioapic_state *state);

/* pit.c: the 8254 and port 0x61 */
int mkvm_pit_create(struct mkvm *vm, const struct kvm_pit_config *config);
void mkvm_pit_destroy(struct mkvm *vm);
void mkvm_pit_get(struct mkvm_pit *pit, struct kvm_pit_state2 *state);
int mkvm_pit_set(struct mkvm_pit *pit, const struct kvm_pit_state2 *state);
void mkvm_pit_set_reinject(struct mkvm_pit *pit, bool reinject);
/* The guest took or finished the last tick. Only arms work: may be called under pic or ioapic lock. */
void mkvm_pit_acked(struct mkvm_pit *pit);

/* routing.c */
int mkvm_routing_create(struct mkvm *vm);	/* KVM's default table */
void mkvm_routing_destroy(struct mkvm *vm);
int mkvm_routing_set(struct mkvm *vm, const struct kvm_irq_routing_entry *entries, u32 nr, u32 flags);
int mkvm_set_irq(struct mkvm *vm, enum mkvm_irq_source source, u32 gsi, int level);
int mkvm_set_irq_by(struct mkvm *vm, const struct mkvm_routing *table, enum mkvm_irq_source source, u32 gsi, int level);
bool mkvm_gsi_has_pin(struct mkvm *vm, u32 gsi, unsigned int chip, unsigned int pin);	/* any context */
int mkvm_msi_deliver(struct mkvm *vm, u64 address, u32 data);	/* -EINVAL: not an MSI address */
bool mkvm_routing_wants_eoi(struct mkvm *vm, u8 vector);	/* any context: userspace's IOAPIC sends it by level */

/* irqfd.c: interrupts from eventfds */
void mkvm_irqfd_init(struct mkvm *vm);
void mkvm_irqfd_destroy(struct mkvm *vm);
void mkvm_irq_acked(struct mkvm *vm, unsigned int chip, unsigned int pin);	/* any context, no locks held */
void mkvm_irqfd_rerouted(struct mkvm *vm, const struct mkvm_routing *old);

/* ipi.c */
int mkvm_irq_deliver(struct mkvm *vm, struct mkvm_lapic *sender, const struct mkvm_irq *irq);
bool mkvm_lapic_matches(struct mkvm_lapic *apic, struct mkvm_lapic *sender, const struct mkvm_irq *irq);

/* lapic.c; "own": only on the vCPU's thread or under vcpu->mutex */
int mkvm_lapic_accept(struct mkvm_lapic *apic, const struct mkvm_irq *irq);	/* any context */
u32 mkvm_lapic_id(struct mkvm_lapic *apic);					/* any context: as its mode has it */
bool mkvm_lapic_sw_enabled(struct mkvm_lapic *apic);				/* any context */
u32 mkvm_lapic_arb_priority(struct mkvm_lapic *apic);				/* any context: for lowest priority */
int mkvm_lapic_local_deliver(struct mkvm_lapic *apic, unsigned int lvt_reg);	/* any context: it fires */
void mkvm_pic_output_changed(struct mkvm *vm, unsigned int changes);		/* any context, no lock held: MKVM_INT_* */
void mkvm_lapic_lint0(struct mkvm_lapic *apic, unsigned int changes);		/* any context: MKVM_INT_* */
bool mkvm_lapic_unfinished(struct mkvm_lapic *apic, u8 vector);			/* any context: in IRR or ISR */

/* lapic_timer.c: started and read by lapic.c alone */
void mkvm_lapic_timer_init(struct mkvm_lapic *apic);
void mkvm_lapic_timer_stop(struct mkvm_lapic *apic);	/* returns when no callback runs */
u32 mkvm_lapic_timer_count(struct mkvm_lapic *apic);	/* TMCCT */

#endif
