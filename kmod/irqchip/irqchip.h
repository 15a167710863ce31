/* SPDX-License-Identifier: GPL-2.0 */
/*
 * irqchip.h - the interrupt controllers: what each file of irqchip/ offers to
 * the others and to the rest of the module.
 *
 * The path of an interrupt, in the order of the calls:
 *
 *   mkvm_set_irq (routing.c)  a GSI changes its level
 *     -> mkvm_pic_set_irq (pic.c)         -> INT output -> LINT0 of each LAPIC
 *     -> mkvm_ioapic_set_irq (ioapic.c)   -> mkvm_irq_deliver (ipi.c)
 *     -> mkvm_msi_deliver (routing.c)     -> mkvm_irq_deliver (ipi.c)
 *   mkvm_irq_deliver            picks the target LAPICs
 *     -> mkvm_lapic_accept (lapic.c)      sets IRR, or posts NMI, INIT, SIPI
 *     -> mkvm_vcpu_kick_event (pending.c)   the target looks at its IRR
 *   mkvm_lapic_pending, mkvm_lapic_ack    called by the target in inject.c
 *   EOI -> mkvm_ioapic_eoi, or a write to the PIC
 *     -> mkvm_irq_acked (irqfd.c)         lowers the pin, signals resamplefds
 *     -> the IOAPIC clears remote-IRR and delivers again what is high
 *
 * Split irqchip: PIC, PIT and IOAPIC are in userspace. Interrupts then enter only by
 * mkvm_msi_deliver, ExtINT comes from KVM_INTERRUPT, and an EOI for which the IOAPIC
 * waits goes to mkvm_vcpu_tell_eoi.
 *
 * Lock order: pit->lock, then pic->lock or ioapic->lock (never both at once),
 * then nothing. All are raw spinlocks taken with interrupts off, since timers
 * raise interrupts from hard interrupt context. A LAPIC has no lock: IRR and
 * TMR are set by anybody with atomic bit operations; all else is written by
 * the vCPU's own thread (under vcpu->mutex) and read by senders with
 * READ_ONCE.
 *
 * Read next: routing.c, then lapic.c.
 */
#ifndef MKVM_IRQCHIP_H
#define MKVM_IRQCHIP_H

#include <linux/types.h>
#include <linux/kvm.h>
#include <linux/spinlock.h>
#include <linux/hrtimer.h>
#include <linux/bitmap.h>

#include "explain/provenance.h"

struct mkvm;
struct mkvm_vcpu;
struct mkvm_pic;
struct mkvm_ioapic;
struct mkvm_pit;
struct mkvm_lapic;
struct mkvm_routing;

#define MKVM_NR_GSI		1024	/* GSIs that routes may name: 0..1023 */
#define MKVM_IOAPIC_BASE	0xfec00000u
#define MKVM_LAPIC_BASE		0xfee00000u
extern bool mkvm_msi_offsets;
#define MKVM_MSI_WINDOW		0x100000u	/* MSIs are writes to so many bytes from there */
#define MKVM_LAPIC_SIZE		0x1000u

/*
 * Who drives a GSI. A pin is high while any of its sources holds it high, so
 * that one source cannot lower what another one raised.
 */
enum mkvm_irq_source {
	MKVM_SOURCE_USER,	/* KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS */
	MKVM_SOURCE_PIT,	/* the in-kernel PIT */
	MKVM_SOURCE_IRQFD,	/* pulses of irqfds */
	MKVM_SOURCE_RESAMPLE,	/* irqfds with a resamplefd: high until the guest's EOI */
	MKVM_SOURCE_RESTORED,	/* was high in a state that was set; the functions below say what ends it */
};

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

/* Level of a source: 0 low, 1 high, or high and low again in one step that nobody gets between. */
#define MKVM_PULSE	2

/* What has become of the PIC's INT output; several at once. */
#define MKVM_INT_RISES		1
#define MKVM_INT_FALLS		2
#define MKVM_INT_REQUEST	4	/* an acknowledge may find a request: look */

/* An interrupt message, as an ICR, an RTE or an MSI describe it. */
struct mkvm_irq {
	u32 dest;		/* destination field: 8 bits (xAPIC) or 32 (x2APIC) */
	u8 vector;
	u8 delivery;		/* APIC_DM_* >> 8: 0 fixed, 1 lowest, 2 SMI, 4 NMI, 5 INIT, 6 SIPI, 7 ExtINT */
	u8 shorthand;		/* 0 none, 1 self, 2 all, 3 all but self */
	bool logical;		/* destination mode */
	bool level;		/* trigger mode */
	bool assert;		/* level bit; INIT with level && !assert is a de-assert */
	u32 id;			/* provenance.c; 0: nobody traces */
};

/* What is returned by everything that raises an interrupt (as KVM_IRQ_LINE_STATUS reports it). */
#define MKVM_IRQ_IGNORED	(-1)	/* masked, or no such target */
#define MKVM_IRQ_COALESCED	0	/* already pending */
/* > 0: the number of targets that took it */

/* pic.c: the 8259 pair */
int mkvm_pic_create(struct mkvm *vm);
void mkvm_pic_destroy(struct mkvm *vm);
int mkvm_pic_set_irq(struct mkvm_pic *pic, unsigned int pin, enum mkvm_irq_source source, int level);
int mkvm_pic_ack(struct mkvm_pic *pic);
bool mkvm_pic_output(struct mkvm_pic *pic);
bool mkvm_pic_line(struct mkvm_pic *pic);
void mkvm_pic_get(struct mkvm_pic *pic, unsigned int chip, struct kvm_pic_state *state);
int mkvm_pic_set(struct mkvm_pic *pic, unsigned int chip, const struct kvm_pic_state *state);
/* port accesses, one byte each: 0x20 0x21 0xa0 0xa1 0x4d0 0x4d1 */
u8 mkvm_pic_port_read(struct mkvm_pic *pic, u16 port);
void mkvm_pic_port_write(struct mkvm_pic *pic, u16 port, u8 val);

/* ioapic.c */
int mkvm_ioapic_create(struct mkvm *vm);
void mkvm_ioapic_destroy(struct mkvm *vm);
int mkvm_ioapic_set_irq(struct mkvm_ioapic *ioapic, unsigned int pin, enum mkvm_irq_source source, int level);
bool mkvm_ioapic_wants_eoi(struct mkvm_ioapic *ioapic, u8 vector);	/* lock-free: does any pin care? */
void mkvm_ioapic_eoi(struct mkvm_ioapic *ioapic, u8 vector);
void mkvm_ioapic_get(struct mkvm_ioapic *ioapic, struct kvm_ioapic_state *state);
int mkvm_ioapic_set(struct mkvm_ioapic *ioapic, const struct kvm_ioapic_state *state);
/* accesses at an offset below 0x100 from MKVM_IOAPIC_BASE, len 1, 2, 4 or 8 */
void mkvm_ioapic_mmio_read(struct mkvm_ioapic *ioapic, u32 offset, unsigned int len, void *val);
void mkvm_ioapic_mmio_write(struct mkvm_ioapic *ioapic, u32 offset, unsigned int len, const void *val);

/* pit.c: the 8254 and port 0x61 */
int mkvm_pit_create(struct mkvm *vm, const struct kvm_pit_config *config);
void mkvm_pit_destroy(struct mkvm *vm);
void mkvm_pit_get(struct mkvm_pit *pit, struct kvm_pit_state2 *state);
int mkvm_pit_set(struct mkvm_pit *pit, const struct kvm_pit_state2 *state);
void mkvm_pit_set_reinject(struct mkvm_pit *pit, bool reinject);
u8 mkvm_pit_port_read(struct mkvm_pit *pit, u16 port);			/* 0x40-0x43, 0x61 */
void mkvm_pit_port_write(struct mkvm_pit *pit, u16 port, u8 val);
bool mkvm_pit_owns_speaker(struct mkvm_pit *pit);			/* KVM_PIT_SPEAKER_DUMMY */
/* The guest took or finished the last tick. Only arms work: may be called under pic or ioapic lock. */
void mkvm_pit_acked(struct mkvm_pit *pit);

/* routing.c */
int mkvm_routing_create(struct mkvm *vm);	/* KVM's default table */
void mkvm_routing_destroy(struct mkvm *vm);
bool mkvm_routing_get(struct mkvm *vm, u32 gsi, unsigned int chip, struct kvm_irq_routing_entry *e);
int mkvm_routing_set(struct mkvm *vm, const struct kvm_irq_routing_entry *entries, u32 nr, u32 flags);
int mkvm_set_irq(struct mkvm *vm, enum mkvm_irq_source source, u32 gsi, int level);
int mkvm_set_irq_by(struct mkvm *vm, const struct mkvm_routing *table, enum mkvm_irq_source source, u32 gsi, int level);
bool mkvm_gsi_has_pin(struct mkvm *vm, u32 gsi, unsigned int chip, unsigned int pin);	/* any context */
int mkvm_msi_deliver(struct mkvm *vm, u64 address, u32 data);	/* -EINVAL: not an MSI address */
bool mkvm_routing_wants_eoi(struct mkvm *vm, u8 vector);	/* any context: userspace's IOAPIC sends it by level */

/* irqfd.c: interrupts from eventfds */
void mkvm_irqfd_init(struct mkvm *vm);
void mkvm_irqfd_destroy(struct mkvm *vm);
int mkvm_irqfd_ioctl(struct mkvm *vm, const struct kvm_irqfd *arg);
void mkvm_irq_acked(struct mkvm *vm, unsigned int chip, unsigned int pin);	/* any context, no locks held */
void mkvm_irqfd_rerouted(struct mkvm *vm, const struct mkvm_routing *old);

/* ipi.c */
long mkvm_lapic_send_ipis(struct mkvm_lapic *apic, u64 low, u64 high, unsigned int bits, u64 min, u32 icr);
int mkvm_irq_deliver(struct mkvm *vm, struct mkvm_lapic *sender, const struct mkvm_irq *irq);
/* any context */
bool mkvm_lapic_matches(struct mkvm_lapic *apic, struct mkvm_lapic *sender, const struct mkvm_irq *irq);

/* lapic.c; "own": only on the vCPU's thread or under vcpu->mutex */
int mkvm_lapic_create(struct mkvm_vcpu *vcpu);
void mkvm_lapic_destroy(struct mkvm_vcpu *vcpu);
void mkvm_lapic_reset(struct mkvm_lapic *apic, bool init);			/* own; init: as by INIT */
int mkvm_lapic_accept(struct mkvm_lapic *apic, const struct mkvm_irq *irq);	/* any context */
u32 mkvm_lapic_id(struct mkvm_lapic *apic);					/* any context: as its mode has it */
bool mkvm_lapic_sw_enabled(struct mkvm_lapic *apic);				/* any context */
u32 mkvm_lapic_arb_priority(struct mkvm_lapic *apic);				/* any context: for lowest priority */
int mkvm_lapic_local_deliver(struct mkvm_lapic *apic, unsigned int lvt_reg);	/* any context: it fires */
void mkvm_pic_output_changed(struct mkvm *vm, unsigned int changes);		/* any context, no lock held: MKVM_INT_* */
bool mkvm_lapic_accepts_pic(struct mkvm_lapic *apic);				/* any context: ExtINT gets through */
void mkvm_lapic_lint0(struct mkvm_lapic *apic, unsigned int changes);		/* any context: MKVM_INT_* */
int mkvm_lapic_pending(struct mkvm_lapic *apic);				/* own: highest IRR above PPR, or -1 */
bool mkvm_lapic_unfinished(struct mkvm_lapic *apic, u8 vector);			/* any context: in IRR or ISR */
int mkvm_lapic_highest_isr(struct mkvm_lapic *apic);				/* own: or -1 */
int mkvm_lapic_highest_irr(struct mkvm_lapic *apic);				/* own: whatever PPR says, or -1 */
void mkvm_lapic_ack(struct mkvm_lapic *apic, u8 vector);			/* own: IRR -> ISR */
u8 mkvm_lapic_get_tpr(struct mkvm_lapic *apic);				/* own: the register, 8 bits */
void mkvm_lapic_set_tpr(struct mkvm_lapic *apic, u8 tpr);			/* own */
bool mkvm_lapic_mmio_match(struct mkvm_lapic *apic, u64 gpa);			/* own: xAPIC mode and in its page */
bool mkvm_lapic_owns_page(struct mkvm_lapic *apic, u64 gpa);			/* own: in its page, in any mode */
int mkvm_lapic_mmio_read(struct mkvm_lapic *apic, u32 offset, unsigned int len, void *val);	/* own */
int mkvm_lapic_mmio_write(struct mkvm_lapic *apic, u32 offset, unsigned int len, const void *val);	/* own */
int mkvm_lapic_msr_read(struct mkvm_lapic *apic, u32 msr, u64 *val);		/* own: 0x800-0x8ff; 1 is #GP */
int mkvm_lapic_msr_write(struct mkvm_lapic *apic, u32 msr, u64 val);		/* own */
bool mkvm_lapic_in_x2apic_mode(struct mkvm_lapic *apic);			/* own */
u64 mkvm_lapic_get_base(struct mkvm_lapic *apic);				/* own: MSR_IA32_APICBASE */
int mkvm_lapic_set_base(struct mkvm_lapic *apic, u64 base, bool host);		/* own; 1: refused (#GP or -EINVAL) */
u64 mkvm_lapic_get_deadline(struct mkvm_lapic *apic);				/* own: MSR_IA32_TSC_DEADLINE */
void mkvm_lapic_set_deadline(struct mkvm_lapic *apic, u64 tsc);			/* own */
int mkvm_lapic_get_state(struct mkvm_lapic *apic, struct kvm_lapic_state *state);	/* own */
int mkvm_lapic_set_state(struct mkvm_lapic *apic, const struct kvm_lapic_state *state);	/* own */

/* vapic.c: a CPU that delivers and ends interrupts itself; own, interrupts off */
u16 mkvm_lapic_lend(struct mkvm_lapic *apic, void *page, u32 *awaited_eois);
void mkvm_lapic_take_back(struct mkvm_lapic *apic, void *page, int ended);

/* lapic_timer.c: started and read by lapic.c alone */
void mkvm_lapic_timer_init(struct mkvm_lapic *apic);
void mkvm_lapic_timer_update(struct mkvm_lapic *apic);	/* own: the deadline or the guest's TSC changed */
void mkvm_lapic_timer_stop(struct mkvm_lapic *apic);	/* returns when no callback runs */
u32 mkvm_lapic_timer_count(struct mkvm_lapic *apic);	/* TMCCT */

/*
 * What the controllers ask of the rest, all of it in cpu/pending.c; the unit tests have their own
 * versions. All may be called in any context unless it says otherwise.
 */
void mkvm_vcpu_kick_event(struct mkvm_vcpu *vcpu);		/* look at IRR and ExtINT again; wakes it if it halts */
void mkvm_vcpu_post_nmi(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_post_smi(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_post_init(struct mkvm_vcpu *vcpu);		/* also drops a SIPI that is pending */
void mkvm_vcpu_post_sipi(struct mkvm_vcpu *vcpu, u8 vector);
void mkvm_vcpu_tell_eoi(struct mkvm_vcpu *vcpu, u8 vector);	/* own thread: KVM_EXIT_IOAPIC_EOI */
void mkvm_vcpu_tell_tpr(struct mkvm_vcpu *vcpu, bool write);	/* own thread: KVM_EXIT_TPR_ACCESS, if that is on */

#endif
