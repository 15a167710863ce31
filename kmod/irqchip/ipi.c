// SPDX-License-Identifier: GPL-2.0
/*
 * ipi.c - finds the local APICs to which an interrupt message from an ICR, an IOAPIC pin or an
 * MSI goes.
 *
 * State: only lowest_stamp of each LAPIC, by which lowest priority takes turns. There are no
 * locks: vm->vcpus only grows, and each field of a target is read once.
 *
 * Intel SDM vol. 3, "Issuing Interprocessor Interrupts" and "Determining IPI Destination".
 *
 * Read next: lapic.c, mkvm_lapic_matches and mkvm_lapic_accept.
 */
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/nospec.h>

#include "mkvm.h"
#include "internal.h"
#include "lapic.h"

enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

#define DELIVERY_FIXED		(APIC_DM_FIXED >> 8)
#define DELIVERY_LOWEST		(APIC_DM_LOWEST >> 8)

/*
 * The destination of an IOAPIC or an MSI has 8 bits. If all are ones, it addresses everybody in
 * both modes, unless userspace has wider MSIs and says so (KVM_CAP_X2APIC_API). An IPI is a
 * broadcast if all destination bits of its target's mode are ones.
 */
static bool lapic_is_broadcast(struct mkvm_lapic *apic, bool x2apic, struct mkvm_lapic *sender,
			       u32 dest)
{
	if (x2apic && dest == 0xffffffff)
		return true;
	return dest == 0xff &&
	       !(x2apic && (sender || READ_ONCE(apic->vcpu->vm->irqchip.no_broadcast_quirk)));
}

static bool lapic_matches_logical(struct mkvm_lapic *apic, bool x2apic, u32 dest)
{
	u32 ldr = lapic_get(apic, APIC_LDR);

	if (x2apic)
		return ldr >> 16 == dest >> 16 && (ldr & dest & 0xffff);
	ldr = GET_APIC_LOGICAL_ID(ldr);
	switch (lapic_get(apic, APIC_DFR)) {
	case APIC_DFR_FLAT:
		return ldr & dest;
	case APIC_DFR_CLUSTER:
		return ldr >> 4 == dest >> 4 && (ldr & dest & 0xf);
	default:
		return false;
	}
}

/*
 * mkvm_lapic_matches - whether @irq addresses this APIC
 * @sender: the APIC that sends an IPI, NULL: an IOAPIC or an MSI
 *
 * A disabled APIC is never addressed. Context: any.
 */
bool mkvm_lapic_matches(struct mkvm_lapic *apic, struct mkvm_lapic *sender,
			const struct mkvm_irq *irq)
{
	bool x2apic = READ_ONCE(apic->x2apic);

	if (!READ_ONCE(apic->hw_enabled))
		return false;
	switch (irq->shorthand) {
	case SHORTHAND_SELF:
		return apic == sender;
	case SHORTHAND_ALL:
		return true;
	case SHORTHAND_OTHERS:
		return apic != sender;
	}
	if (lapic_is_broadcast(apic, x2apic, sender, irq->dest))
		return true;
	if (irq->logical)
		return lapic_matches_logical(apic, x2apic, irq->dest);
	/*
	 * as in Linux KVM, an id over 8 bits matches even in xAPIC mode, and no shorter one does
	 * then
	 */
	return irq->dest == (apic->vcpu->id > 0xff ? apic->vcpu->id : mkvm_lapic_id(apic));
}

static bool irq_is_broadcast(const struct mkvm_irq *irq)
{
	return irq->dest == 0xff || irq->dest == 0xffffffff;
}

/*
 * Finds the target of a physical destination that names one APIC without a search: ids are mostly
 * indexes. Returns NULL if all APICs must be searched.
 */
static struct mkvm_lapic *irq_single_target(struct mkvm *vm, struct mkvm_lapic *sender,
					    const struct mkvm_irq *irq)
{
	u32 nr_vcpus = smp_load_acquire(&vm->nr_vcpus);
	struct mkvm_lapic *apic;

	if (irq->logical || irq->dest >= nr_vcpus || irq_is_broadcast(irq))
		return NULL;
	apic = vm->vcpus[array_index_nospec(irq->dest, nr_vcpus)]->lapic;
	return apic && mkvm_lapic_matches(apic, sender, irq) ? apic : NULL;
}

/*
 * Lowest-priority arbitration chooses the APIC with the lowest priority of those that accept
 * interrupts, and among equals the one that was not chosen for the longest time.
 */
static int irq_deliver_lowest(struct mkvm *vm, struct mkvm_lapic *sender,
			      const struct mkvm_irq *irq)
{
	struct mkvm_lapic *best = NULL;
	struct mkvm_vcpu *vcpu;
	u32 best_priority = 0, best_stamp = 0, newest = 0;
	int i;

	mkvm_for_each_vcpu(i, vcpu, vm) {
		struct mkvm_lapic *apic = vcpu->lapic;
		u32 priority, stamp;

		if (!apic || !mkvm_lapic_matches(apic, sender, irq) || !mkvm_lapic_sw_enabled(apic))
			continue;
		priority = mkvm_lapic_arb_priority(apic);
		stamp = READ_ONCE(apic->lowest_stamp);
		/* stamps wrap around, so they are compared by their distance */
		if (!best || (s32)(stamp - newest) > 0)
			newest = stamp;
		if (!best || priority < best_priority ||
		    (priority == best_priority && (s32)(stamp - best_stamp) < 0)) {
			best = apic;
			best_priority = priority;
			best_stamp = stamp;
		}
	}
	if (!best) {
		mkvm_trace(drop, vm, NULL, irq, "no target");
		return MKVM_IRQ_IGNORED;
	}
	WRITE_ONCE(best->lowest_stamp, newest + 1);
	return mkvm_lapic_accept(best, irq);
}

static int irq_deliver_all(struct mkvm *vm, struct mkvm_lapic *sender, const struct mkvm_irq *irq)
{
	int i, result = MKVM_IRQ_IGNORED;
	struct mkvm_vcpu *vcpu;
	bool matched = false;

	mkvm_for_each_vcpu(i, vcpu, vm) {
		struct mkvm_lapic *apic = vcpu->lapic;
		int taken;

		if (!apic || !mkvm_lapic_matches(apic, sender, irq))
			continue;
		matched = true;
		taken = mkvm_lapic_accept(apic, irq);
		if (taken >= 0)
			result = max(result, 0) + taken;
	}
	if (!matched)
		mkvm_trace(drop, vm, NULL, irq, "no target");
	return result;
}

/*
 * mkvm_irq_deliver - send a message to the LAPICs that it addresses
 * @sender: the APIC whose ICR was written, NULL: an IOAPIC or an MSI
 *
 * If two LAPICs have the same xAPIC id, which the manuals forbid, a physical destination may reach
 * only one of them. Context: any; takes no locks. Return: how many LAPICs accepted it;
 * MKVM_IRQ_COALESCED if it was requested already; MKVM_IRQ_IGNORED if it addresses no LAPIC or none
 * accepts it.
 */
int mkvm_irq_deliver(struct mkvm *vm, struct mkvm_lapic *sender, const struct mkvm_irq *irq)
{
	struct mkvm_lapic *single;
	struct mkvm_irq fixed;

	if (irq->shorthand == SHORTHAND_NONE) {
		single = irq_single_target(vm, sender, irq);
		if (single)
			return mkvm_lapic_accept(single, irq);
	} else if (irq->shorthand == SHORTHAND_SELF && sender) {
		return mkvm_lapic_matches(sender, sender, irq) ?
			mkvm_lapic_accept(sender, irq) : MKVM_IRQ_IGNORED;
	}
	if (irq->delivery != DELIVERY_LOWEST)
		return irq_deliver_all(vm, sender, irq);
	/*
	 * The manuals leave a physical broadcast with lowest priority
	 * undefined; KVM sends it to everybody, and so do we.
	 */
	if (irq->shorthand || irq->logical || !irq_is_broadcast(irq))
		return irq_deliver_lowest(vm, sender, irq);
	fixed = *irq;
	fixed.delivery = DELIVERY_FIXED;
	return irq_deliver_all(vm, sender, &fixed);
}

/*
 * mkvm_lapic_send_ipi - the ICR was written
 * @icr: its low half, with reserved bits clear
 * @dest: 8 bits in xAPIC mode, 32 bits in x2APIC mode
 * @origin: the name of the origin in traces
 *
 * A vector below 16 is an error of the sender, which ESR reports. Context: own. Return: as
 * mkvm_irq_deliver.
 */
int mkvm_lapic_send_ipi(struct mkvm_lapic *apic, u32 icr, u32 dest, const char *origin)
{
	struct mkvm_irq irq = {
		.dest = dest,
		.vector = icr & APIC_VECTOR_MASK,
		.delivery = icr >> 8 & 7,
		.shorthand = icr >> 18 & 3,
		.logical = icr & APIC_DEST_LOGICAL,
		.level = icr & APIC_INT_LEVELTRIG,
		.assert = icr & APIC_INT_ASSERT,
	};

	int ret;

	if (irq.delivery <= DELIVERY_LOWEST && irq.vector < 16) {
		mkvm_lapic_error(apic, APIC_ESR_SENDILL);
		return MKVM_IRQ_IGNORED;
	}
	irq.id = mkvm_trace_id(raise_local, apic->vcpu, origin, dest, icr);
	ret = mkvm_irq_deliver(apic->vcpu->vm, apic, &irq);
	mkvm_trace(raised, apic->vcpu->vm, irq.id, ret);
	return ret;
}

/*
 * mkvm_lapic_send_ipis - KVM_HC_SEND_IPI: send one message to a set of ids
 * @low: the set's first @bits bits, 32 or 64; bit 0 stands for the id @min
 * @high: the set's next @bits bits
 * @icr: as for mkvm_lapic_send_ipi
 *
 * Context: own. Return: how many LAPICs accepted it; -EINVAL if @icr has a shorthand or a logical
 * destination.
 */
long mkvm_lapic_send_ipis(struct mkvm_lapic *apic, u64 low, u64 high, unsigned int bits, u64 min,
			  u32 icr)
{
	unsigned int i;
	long count = 0;

	if (icr & (APIC_DEST_ALLBUT | APIC_DEST_LOGICAL))
		return -EINVAL;	/* KVM_EINVAL is the same */
	if (min >= MKVM_MAX_VCPUS)
		return 0;
	/* To an xAPIC 255 is a broadcast and not an id. */
	for (i = 0; i < 2 * bits && min + i < MKVM_MAX_VCPUS; i++)
		if ((min + i != 0xff || apic->x2apic) &&
		    ((i < bits ? low >> i : high >> (i - bits)) & 1))
			count += mkvm_lapic_send_ipi(apic, icr, min + i, "hypercall") > 0;
	return count;
}
