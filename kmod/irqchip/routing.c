// SPDX-License-Identifier: GPL-2.0
/*
 * routing.c - GSI routing: from a GSI to the pins of the interrupt controllers or to an MSI.
 *
 * State: vm->irqchip.routing, a table that never changes once it is published. It is read under
 * RCU and replaced under vm->irqchip.lock. The old table is freed when no delivery uses it any
 * more, and only then does the replacing call return.
 *
 * Manuals: the kernel's KVM API document, KVM_SET_GSI_ROUTING; Intel SDM vol. 3, "Message
 * Signalled Interrupts". Read next: ipi.c.
 */
#include <linux/errno.h>
#include <linux/mutex.h>
#include <linux/nospec.h>
#include <linux/overflow.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "mkvm.h"
#include "internal.h"

/* The route of a GSI: it leads nowhere, to an MSI, or to at most one pin of each chip. */
struct route {
	bool msi;
	u8 pin[KVM_NR_IRQCHIPS];	/* by KVM_IRQCHIP_*: pin + 1, 0: none; slave: from 0 */
	u32 data;
	u64 address;			/* 0: the MSI is not yet programmed */
};

struct mkvm_routing {
	u32 nr;				/* this GSI and higher ones lead nowhere */
	struct route route[];
};

/* Decodes a valid MSI. The upper half of the address has bits 31:8 of the destination, or is 0. */
static struct mkvm_irq msi_decode(u64 address, u32 data)
{
	struct mkvm_irq irq = {
		.dest = ((address >> 12) & 0xff) | ((address >> 32) & 0xffffff00),
		.logical = address & BIT(2),
		.vector = data & 0xff,
		.delivery = (data >> 8) & 7,
		.level = data & BIT(15),
		.assert = true,		/* regardless of bit 14, which QEMU's IOAPIC leaves clear */
	};

	/* Redirection hint: the APIC with the lowest priority of a logical destination's set. */
	if ((address & BIT(3)) && irq.logical && irq.delivery == 0)
		irq.delivery = 1;
	return irq;
}

/* KVM_CAP_X2APIC_API allows destination bits in the upper half. */
static bool msi_address_valid(const struct mkvm *vm, u64 address)
{
	return (u32)address - MKVM_LAPIC_BASE < MKVM_MSI_WINDOW &&
	       !(address >> 32 & (READ_ONCE(vm->irqchip.x2apic_ids) ? 0xff : ~0u));
}

static int msi_deliver(struct mkvm *vm, u64 address, u32 data, u32 id)
{
	struct mkvm_irq irq;

	if (!msi_address_valid(vm, address))
		return -EINVAL;
	irq = msi_decode(address, data);
	irq.id = id;
	mkvm_trace(msi, vm, &irq);
	return mkvm_irq_deliver(vm, NULL, &irq);
}

/*
 * mkvm_msi_deliver - deliver the MSI that a device's write of data to address means
 *
 * Context: any, no locks of interrupt controllers held. Return: as mkvm_irq_deliver; -EINVAL if the
 * address is no MSI's.
 */
int mkvm_msi_deliver(struct mkvm *vm, u64 address, u32 data)
{
	u32 id = mkvm_trace_id(raise, vm, "signal_msi", -1, -1, address, data);
	int ret = msi_deliver(vm, address, data, id);

	mkvm_trace(raised, vm, id, ret);
	return ret;
}

/* @id: the id in traces of what is raised. */
static int route_set_irq(struct mkvm *vm, const struct route *route, enum mkvm_irq_source source,
			 int level, u32 id)
{
	int sum = MKVM_IRQ_IGNORED, ret;
	unsigned int chip;

	if (route->msi && (!level || !route->address))
		return MKVM_IRQ_IGNORED;
	if (route->msi)
		return msi_deliver(vm, route->address, route->data,
				   mkvm_trace_id(route, vm, id, KVM_NR_IRQCHIPS, 0, level));

	for (chip = 0; chip < KVM_NR_IRQCHIPS; chip++) {
		unsigned int pin = route->pin[chip] - 1;

		if (!route->pin[chip])
			continue;
		mkvm_trace(route, vm, id, chip, pin, level);
		if (chip == KVM_IRQCHIP_IOAPIC)
			ret = mkvm_ioapic_set_irq(vm->irqchip.ioapic, pin, source, level);
		else
			ret = mkvm_pic_set_irq(vm->irqchip.pic, chip * 8 + pin, source, level);
		if (ret >= 0)
			sum = ret + max(sum, 0);
	}
	return sum;
}

/* mkvm_set_irq_by - mkvm_set_irq with a routing table that the caller keeps alive. Any context. */
int mkvm_set_irq_by(struct mkvm *vm, const struct mkvm_routing *table, enum mkvm_irq_source source,
		    u32 gsi, int level)
{
	u32 id = mkvm_trace_id(raise_gsi, vm, source, gsi, level);
	int ret = MKVM_IRQ_IGNORED;

	if (table && gsi < table->nr)
		ret = route_set_irq(vm, &table->route[array_index_nospec(gsi, table->nr)], source,
				    level, id);
	mkvm_trace(raised, vm, id, ret);
	return ret;
}

/*
 * mkvm_set_irq - a source changes the level of a GSI
 * @level: 0, 1 or MKVM_PULSE; a level other than 0 sends an MSI
 *
 * Context: any, no locks of interrupt controllers held but pit->lock. Return: the sum over the
 * controllers that accepted it; MKVM_IRQ_COALESCED if it is pending already; MKVM_IRQ_IGNORED if
 * all ignored it or the GSI leads nowhere.
 */
int mkvm_set_irq(struct mkvm *vm, enum mkvm_irq_source source, u32 gsi, int level)
{
	int ret;

	rcu_read_lock();
	ret = mkvm_set_irq_by(vm, rcu_dereference(vm->irqchip.routing), source, gsi, level);
	rcu_read_unlock();
	return ret;
}

/*
 * mkvm_gsi_has_pin - whether the GSI leads to this pin of this chip (KVM_IRQCHIP_*). Any context.
 */
bool mkvm_gsi_has_pin(struct mkvm *vm, u32 gsi, unsigned int chip, unsigned int pin)
{
	const struct mkvm_routing *table;
	bool ret;

	rcu_read_lock();
	table = rcu_dereference(vm->irqchip.routing);
	ret = table && gsi < table->nr &&
	      table->route[array_index_nospec(gsi, table->nr)].pin[chip] == pin + 1;
	rcu_read_unlock();
	return ret;
}

/*
 * mkvm_routing_get - look up the route of a GSI to one chip
 * @chip: KVM_IRQCHIP_*, or KVM_NR_IRQCHIPS for its MSI
 * @e: filled with the route
 *
 * Context: any. Return: false if the GSI leads nowhere there.
 */
bool mkvm_routing_get(struct mkvm *vm, u32 gsi, unsigned int chip, struct kvm_irq_routing_entry *e)
{
	const struct mkvm_routing *table;
	struct route route = {};

	rcu_read_lock();
	table = rcu_dereference(vm->irqchip.routing);
	if (table && gsi < table->nr)
		route = table->route[array_index_nospec(gsi, table->nr)];
	rcu_read_unlock();
	memset(e, 0, sizeof(*e));
	e->gsi = gsi;
	if (chip == KVM_NR_IRQCHIPS) {
		e->type = KVM_IRQ_ROUTING_MSI;
		e->u.msi.address_lo = route.address;
		e->u.msi.address_hi = route.address >> 32;
		e->u.msi.data = route.data;
		return route.msi;
	}
	e->type = KVM_IRQ_ROUTING_IRQCHIP;
	e->u.irqchip.irqchip = chip;
	e->u.irqchip.pin = route.pin[chip] - 1;
	return route.pin[chip];
}

/* Adds an MSI. Clients set all of it to zero until the guest has programmed the device. */
static int route_add_msi(const struct mkvm *vm, struct route *route,
			 const struct kvm_irq_routing_entry *e)
{
	u64 address = (u64)e->u.msi.address_hi << 32 | e->u.msi.address_lo;

	if (memchr_inv(route, 0, sizeof(*route)))
		return -EINVAL;
	if ((address || e->u.msi.data) && !msi_address_valid(vm, address))
		return -EINVAL;
	if (memchr_inv((const char *)&e->u + offsetof(struct kvm_irq_routing_msi, devid), 0,
		       sizeof(e->u) - offsetof(struct kvm_irq_routing_msi, devid)))
		return -EINVAL;
	route->msi = true;
	route->address = address;
	route->data = e->u.msi.data;
	return 0;
}

static int route_add_pin(const struct mkvm *vm, struct route *route,
			 const struct kvm_irq_routing_entry *e)
{
	u32 chip = e->u.irqchip.irqchip, pin = e->u.irqchip.pin;

	if (!vm->irqchip.pic)
		return -EINVAL;
	if (chip >= KVM_NR_IRQCHIPS ||
	    pin >= (chip == KVM_IRQCHIP_IOAPIC ? KVM_IOAPIC_NUM_PINS : 8))
		return -EINVAL;
	chip = array_index_nospec(chip, KVM_NR_IRQCHIPS);
	if (route->msi || route->pin[chip])
		return -EINVAL;
	if (memchr_inv((const char *)&e->u + sizeof(e->u.irqchip), 0,
		       sizeof(e->u) - sizeof(e->u.irqchip)))
		return -EINVAL;
	route->pin[chip] = pin + 1;
	return 0;
}

static int routing_add(const struct mkvm *vm, struct mkvm_routing *table,
		       const struct kvm_irq_routing_entry *e)
{
	struct route *route = &table->route[array_index_nospec(e->gsi, table->nr)];

	if (e->flags || e->pad)
		return -EINVAL;
	switch (e->type) {
	case KVM_IRQ_ROUTING_IRQCHIP:
		return route_add_pin(vm, route, e);
	case KVM_IRQ_ROUTING_MSI:
		return route_add_msi(vm, route, e);
	default:
		return -EINVAL;
	}
}

/*
 * mkvm_routing_wants_eoi - whether an IOAPIC in userspace waits for the EOI of this vector. Any
 * context.
 */
bool mkvm_routing_wants_eoi(struct mkvm *vm, u8 vector)
{
	return test_bit(vector, vm->irqchip.eoi_vectors);
}

/* Adds the vectors that the pins of userspace's IOAPICs send level triggered. */
static void routing_level_vectors(const struct mkvm *vm, const struct mkvm_routing *table,
				  unsigned long *map)
{
	u32 gsi;

	for (gsi = 0; gsi < min(vm->irqchip.ioapic_pins, table->nr); gsi++) {
		struct mkvm_irq irq = msi_decode(table->route[gsi].address, table->route[gsi].data);

		if (table->route[gsi].msi && irq.level)
			set_bit(irq.vector, map);
	}
}

static bool vector_unfinished(struct mkvm *vm, u8 vector)
{
	struct mkvm_vcpu *vcpu;
	int i;

	mkvm_for_each_vcpu(i, vcpu, vm)
		if (vcpu->lapic && mkvm_lapic_unfinished(vcpu->lapic, vector))
			return true;
	return false;
}

/*
 * Publishes the table and returns when nobody delivers by the previous one. An interrupt that the
 * previous one has sent is then in IRR, in service or finished, and its EOI is still reported. No
 * irqfd holds a pin by it any more.
 */
static void routing_replace(struct mkvm *vm, struct mkvm_routing *table)
{
	DECLARE_BITMAP(wanted, 256) = {};
	struct mkvm_routing *old;
	unsigned int vector;

	mutex_lock(&vm->irqchip.lock);
	routing_level_vectors(vm, table, wanted);
	routing_level_vectors(vm, table, vm->irqchip.eoi_vectors);
	old = rcu_dereference_protected(vm->irqchip.routing, lockdep_is_held(&vm->irqchip.lock));
	rcu_assign_pointer(vm->irqchip.routing, table);
	synchronize_rcu_expedited();
	for_each_set_bit(vector, vm->irqchip.eoi_vectors, 256)
		if (!test_bit(vector, wanted) && !vector_unfinished(vm, vector))
			clear_bit(vector, vm->irqchip.eoi_vectors);
	mkvm_irqfd_rerouted(vm, old);
	mutex_unlock(&vm->irqchip.lock);
	kvfree(old);
}

/*
 * mkvm_routing_set - KVM_SET_GSI_ROUTING: replace the whole table
 *
 * When it returns, no interrupt is delivered by the old table any more. A GSI has at most one pin
 * of each chip, or one MSI. Context: may sleep; takes vm->irqchip.lock. Return: -EINVAL for nr over
 * MKVM_NR_GSI, flags, a GSI, chip, pin or type out of range, an address that is no MSI's, or
 * nonzero padding; -ENOMEM. Nothing has changed then.
 */
int mkvm_routing_set(struct mkvm *vm, const struct kvm_irq_routing_entry *entries, u32 nr,
		     u32 flags)
{
	struct mkvm_routing *table;
	u32 i, nr_gsi = 0;
	int ret;

	if (nr > MKVM_NR_GSI || flags)
		return -EINVAL;
	for (i = 0; i < nr; i++) {
		if (entries[i].gsi >= MKVM_NR_GSI)
			return -EINVAL;
		nr_gsi = max(nr_gsi, entries[i].gsi + 1);
	}

	table = kvzalloc(struct_size(table, route, nr_gsi), GFP_KERNEL_ACCOUNT);
	if (!table)
		return -ENOMEM;
	table->nr = nr_gsi;
	for (i = 0; i < nr; i++) {
		ret = routing_add(vm, table, &entries[i]);
		if (ret) {
			kvfree(table);
			return ret;
		}
	}
	routing_replace(vm, table);
	return 0;
}

/*
 * mkvm_routing_create - set KVM's default table
 *
 * GSI n leads to IOAPIC pin n, and below 16 to the PIC as well. That the timer of a PC is on IOAPIC
 * pin 2 is set by userspace, which describes the board to the guest. Context: may sleep; takes
 * vm->irqchip.lock. Return: 0 or -ENOMEM.
 */
int mkvm_routing_create(struct mkvm *vm)
{
	struct mkvm_routing *table;
	u32 gsi;

	table = kvzalloc(struct_size(table, route, KVM_IOAPIC_NUM_PINS), GFP_KERNEL_ACCOUNT);
	if (!table)
		return -ENOMEM;
	table->nr = KVM_IOAPIC_NUM_PINS;
	for (gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		table->route[gsi].pin[KVM_IRQCHIP_IOAPIC] = gsi + 1;
		if (gsi < 16)
			table->route[gsi].pin[gsi >> 3] = (gsi & 7) + 1;
	}
	routing_replace(vm, table);
	return 0;
}

/* mkvm_routing_destroy - frees the table. Nobody may raise a GSI any more. */
void mkvm_routing_destroy(struct mkvm *vm)
{
	kvfree(rcu_dereference_protected(vm->irqchip.routing, true));
	RCU_INIT_POINTER(vm->irqchip.routing, NULL);
}
