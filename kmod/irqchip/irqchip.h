/* SPDX-License-Identifier: GPL-2.0 */
/*
 * irqchip.h - the front door of the interrupt controllers: what the rest of the module calls.
 * internal.h has what only the files of irqchip/ call.
 *
 * The path of an interrupt, in the order of the calls:
 *
 *   mkvm_set_irq (routing.c)  a GSI changes its level
 *     -> mkvm_pic_set_irq (pic.c)         -> INT output -> LINT0 of each LAPIC
 *     -> mkvm_ioapic_set_irq (ioapic.c)   -> mkvm_irq_deliver (ipi.c)
 *     -> mkvm_msi_deliver (routing.c)     -> mkvm_irq_deliver (ipi.c)
 *   mkvm_irq_deliver            picks the target LAPICs
 *     -> mkvm_lapic_accept (lapic.c)      sets IRR, or posts NMI, INIT, SIPI
 *     -> mkvm_vcpu_kick_event (cpu/pending.c)   the target looks at its IRR
 *   mkvm_lapic_pending, mkvm_lapic_ack    called by the target in cpu/inject.c
 *   EOI -> mkvm_ioapic_eoi, or a write to the PIC
 *     -> mkvm_irq_acked (irqfd.c)         lowers the pin, signals resamplefds
 *     -> the IOAPIC clears remote-IRR and delivers again if the line is still high
 *
 * With a split irqchip, PIC, PIT and IOAPIC are in userspace. Interrupts then arrive only through
 * mkvm_msi_deliver, ExtINT comes from KVM_INTERRUPT, and mkvm_vcpu_report_eoi reports an EOI for
 * which the IOAPIC waits.
 *
 * Lock order: pit->lock, then pic->lock or ioapic->lock, never both of these. They are innermost.
 * All are raw spinlocks and are taken with interrupts off, since timers raise interrupts from hard
 * interrupt context. A LAPIC has no lock: any thread sets bits of IRR and TMR with atomic bit
 * operations; the vCPU's own thread (under vcpu->mutex) writes all else, and senders read it with
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
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/workqueue.h>

#include "explain/provenance.h"

struct mkvm;
struct mkvm_vcpu;
struct mkvm_pic;
struct mkvm_ioapic;
struct mkvm_pit;
struct mkvm_lapic;
struct mkvm_routing;

/* The tags are those of mkvm.h. "Once set" means once in_kernel is true. */
struct mkvm_irqchip {
	bool in_kernel;			/* (l) LAPICs and routing exist; stored with release */
	struct mkvm_pic *pic;			/* (c) once set; NULL: split, in userspace */
	struct mkvm_ioapic *ioapic;		/* (c) once set; NULL: split, in userspace */
	struct mkvm_pit *pit;			/* (l) stored with release */
	u32 ioapic_pins;		/* (c) once set; GSIs of userspace's IOAPICs if split */
	DECLARE_BITMAP(eoi_vectors, 256);	/* (a) that these IOAPICs send level triggered */
	struct mutex lock;			/* (q): routing, irqfds, iodev; inside vm->lock */
	struct mkvm_routing __rcu *routing;	/* (r) and (q) */
	bool x2apic_ids, no_broadcast_quirk;	/* (l) KVM_CAP_X2APIC_API; READ_ONCE */
	struct list_head irqfds;		/* (q) */
	struct list_head resamplers;		/* (r) and (q): irqfds that have a resamplefd */
	struct work_struct irqfd_reap;		/* (a) removes irqfds whose eventfd was closed */
};

#define MKVM_NR_GSI		1024	/* GSIs that routes may name: 0..1023 */
#define MKVM_IOAPIC_BASE	0xfec00000u
#define MKVM_LAPIC_BASE		0xfee00000u
extern bool mkvm_msi_offsets;	/* KVM_SIGNAL_MSI takes offsets into the window; READ_ONCE */
#define MKVM_MSI_WINDOW		0x100000u	/* bytes of MSI addresses from MKVM_LAPIC_BASE */
#define MKVM_LAPIC_SIZE		0x1000u

/*
 * The sources that drive a GSI. A pin is high while any of its sources holds it high, so that one
 * source cannot lower a pin that another one has raised.
 */
enum mkvm_irq_source {
	MKVM_SOURCE_USER,	/* KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS */
	MKVM_SOURCE_PIT,	/* the in-kernel PIT */
	MKVM_SOURCE_IRQFD,	/* pulses of irqfds */
	MKVM_SOURCE_RESAMPLE,	/* irqfds with a resamplefd: high until the guest's EOI */
	MKVM_SOURCE_RESTORED,	/* restored as high; internal.h says what ends that */
};

/* The level of a source: 0 is low, 1 is high, and this raises and lowers it in one atomic step. */
#define MKVM_PULSE	2

/* An interrupt message, as an ICR, an RTE or an MSI describe it. */
struct mkvm_irq {
	u32 dest;		/* destination field: 8 bits (xAPIC) or 32 (x2APIC) */
	u8 vector;
	u8 delivery;		/* APIC_DM_* >> 8 */
	u8 shorthand;		/* 0 none, 1 self, 2 all, 3 all but self */
	bool logical;		/* destination mode: logical, not physical */
	bool level;		/* trigger mode: level, not edge */
	bool assert;		/* level bit; INIT with level && !assert is a de-assert */
	u32 id;			/* of explain/provenance.c; 0: tracing is off */
};

/* All functions that raise an interrupt return one of these, which KVM_IRQ_LINE_STATUS reports. */
#define MKVM_IRQ_IGNORED	(-1)	/* it is masked, or has no target */
#define MKVM_IRQ_COALESCED	0	/* already pending */
/* A result above 0 is the number of targets that accepted it. */

/* irqchip.c: creation, and ioctls of the VM. May sleep; creation needs vm->lock. */
void mkvm_irqchip_init(struct mkvm *vm);
void mkvm_irqchip_destroy(struct mkvm *vm);	/* LAPICs stay; their timers stop */
int mkvm_irqchip_create(struct mkvm *vm); /* KVM_CREATE_IRQCHIP */
int mkvm_irqchip_create_split(struct mkvm *vm, u64 pins); /* KVM_CAP_SPLIT_IRQCHIP */
int mkvm_irqchip_get(struct mkvm *vm, struct kvm_irqchip __user *arg);
int mkvm_irqchip_set(struct mkvm *vm, struct kvm_irqchip __user *arg);
int mkvm_irqchip_create_pit(struct mkvm *vm, struct kvm_pit_config __user *arg);
int mkvm_irqchip_pit_ioctl(struct mkvm *vm, unsigned int ioctl, void __user *argp);
int mkvm_irqchip_line(struct mkvm *vm, struct kvm_irq_level __user *arg, bool status);
int mkvm_irqchip_signal_msi(struct mkvm *vm, struct kvm_msi __user *arg);
int mkvm_irqchip_set_routing(struct mkvm *vm, struct kvm_irq_routing __user *arg);

/* pic.c: the 8259 pair. Any context. */
int mkvm_pic_ack(struct mkvm_pic *pic);
bool mkvm_pic_output(struct mkvm_pic *pic);
void mkvm_pic_get(struct mkvm_pic *pic, unsigned int chip, struct kvm_pic_state *state);
/* Accesses of one byte to port 0x20, 0x21, 0xa0, 0xa1, 0x4d0 or 0x4d1. */
u8 mkvm_pic_port_read(struct mkvm_pic *pic, u16 port);
void mkvm_pic_port_write(struct mkvm_pic *pic, u16 port, u8 val);

/* ioapic.c. Any context. */
void mkvm_ioapic_get(struct mkvm_ioapic *ioapic, struct kvm_ioapic_state *state);
/* Accesses of 1, 2, 4 or 8 bytes at an offset below 0x100 from MKVM_IOAPIC_BASE. */
void mkvm_ioapic_mmio_read(struct mkvm_ioapic *ioapic, u32 offset, unsigned int len, void *val);
void mkvm_ioapic_mmio_write(struct mkvm_ioapic *ioapic, u32 offset, unsigned int len,
			    const void *val);

/* pit.c: the 8254 and port 0x61. Any context. */
u8 mkvm_pit_port_read(struct mkvm_pit *pit, u16 port);			/* 0x40-0x43, 0x61 */
void mkvm_pit_port_write(struct mkvm_pit *pit, u16 port, u8 val);
bool mkvm_pit_owns_speaker(struct mkvm_pit *pit);			/* KVM_PIT_SPEAKER_DUMMY */

/* routing.c. Any context. */
bool mkvm_routing_get(struct mkvm *vm, u32 gsi, unsigned int chip, struct kvm_irq_routing_entry *e);

/* irqfd.c: interrupts from eventfds. May sleep. */
int mkvm_irqfd_ioctl(struct mkvm *vm, const struct kvm_irqfd *arg);

/* ipi.c: KVM_HC_SEND_IPI. Own thread. */
long mkvm_lapic_send_ipis(struct mkvm_lapic *apic, u64 low, u64 high, unsigned int bits, u64 min,
			  u32 icr);
/* lapic.c. "Own" means only on the vCPU's thread or under vcpu->mutex. */
int mkvm_lapic_create(struct mkvm_vcpu *vcpu);
void mkvm_lapic_destroy(struct mkvm_vcpu *vcpu);
void mkvm_lapic_reset(struct mkvm_lapic *apic, bool init); /* own; init: as by INIT */
bool mkvm_lapic_accepts_pic(struct mkvm_lapic *apic);	/* any context: ExtINT reaches the CPU */
int mkvm_lapic_pending(struct mkvm_lapic *apic); /* own: highest IRR above PPR, or -1 */
int mkvm_lapic_highest_isr(struct mkvm_lapic *apic);	/* own: highest vector in service, or -1 */
int mkvm_lapic_highest_irr(struct mkvm_lapic *apic);		/* own: regardless of PPR, or -1 */
void mkvm_lapic_ack(struct mkvm_lapic *apic, u8 vector); /* own: IRR -> ISR */
u8 mkvm_lapic_get_tpr(struct mkvm_lapic *apic); /* own: the register, 8 bits */
void mkvm_lapic_set_tpr(struct mkvm_lapic *apic, u8 tpr);			/* own */
bool mkvm_lapic_mmio_match(struct mkvm_lapic *apic, u64 gpa);	/* own: its page, in xAPIC mode */
bool mkvm_lapic_owns_page(struct mkvm_lapic *apic, u64 gpa); /* own: in its page, in any mode */
int mkvm_lapic_mmio_read(struct mkvm_lapic *apic, u32 offset, unsigned int len,
			 void *val); /* own */
int mkvm_lapic_mmio_write(struct mkvm_lapic *apic, u32 offset, unsigned int len,
			  const void *val); /* own */
int mkvm_lapic_msr_read(struct mkvm_lapic *apic, u32 msr, u64 *val); /* own: 0x800-0x8ff; 1: #GP */
int mkvm_lapic_msr_write(struct mkvm_lapic *apic, u32 msr, u64 val); /* own: 0x800-0x8ff; 1: #GP */
bool mkvm_lapic_in_x2apic_mode(struct mkvm_lapic *apic);			/* own */
u64 mkvm_lapic_get_base(struct mkvm_lapic *apic); /* own: MSR_IA32_APICBASE */
int mkvm_lapic_set_base(struct mkvm_lapic *apic, u64 base,
			bool host); /* own; 1: refused (#GP or -EINVAL) */
u64 mkvm_lapic_get_deadline(struct mkvm_lapic *apic); /* own: MSR_IA32_TSC_DEADLINE */
void mkvm_lapic_set_deadline(struct mkvm_lapic *apic, u64 tsc);			/* own */
int mkvm_lapic_get_state(struct mkvm_lapic *apic, struct kvm_lapic_state *state);	/* own */
int mkvm_lapic_set_state(struct mkvm_lapic *apic, const struct kvm_lapic_state *state);	/* own */

/* apicv.c: for a CPU that delivers and ends interrupts itself. Own, interrupts off. */
u16 mkvm_lapic_lend(struct mkvm_lapic *apic, void *page, u32 *awaited_eois);
void mkvm_lapic_take_back(struct mkvm_lapic *apic, void *page, int ended);

/* lapic_timer.c: only lapic.c starts and reads the timer. */
/* own: the deadline or the guest's TSC changed */
void mkvm_lapic_timer_update(struct mkvm_lapic *apic);

/*
 * What the controllers need of the rest of the module, all of it in cpu/pending.c. The unit tests
 * have their own versions. Any context, unless a line says otherwise.
 */
void mkvm_vcpu_kick_event(struct mkvm_vcpu *vcpu);	/* has it look at IRR and ExtINT again */
void mkvm_vcpu_post_nmi(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_post_smi(struct mkvm_vcpu *vcpu);
void mkvm_vcpu_post_init(struct mkvm_vcpu *vcpu);		/* also drops a pending SIPI */
void mkvm_vcpu_post_sipi(struct mkvm_vcpu *vcpu, u8 vector);
void mkvm_vcpu_report_eoi(struct mkvm_vcpu *vcpu, u8 vector);	/* own: KVM_EXIT_IOAPIC_EOI */
void mkvm_vcpu_report_tpr(struct mkvm_vcpu *vcpu, bool write);	/* own: KVM_EXIT_TPR_ACCESS */

#endif
