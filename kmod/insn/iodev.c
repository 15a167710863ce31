// SPDX-License-Identifier: GPL-2.0
/*
 * iodev.c - finds the owner of a port or physical address: an in-kernel device, an eventfd
 * (KVM_IOEVENTFD) or a zone of coalesced writes.
 *
 * State: the devices belong to the VM (irqchip/); all of them are known, so the lookup is a
 * switch and not a bus. vm->iodev.ioeventfds and vm->iodev.zones are changed under
 * vm->irqchip.lock and read under RCU. vm->iodev.ring is the page from which userspace takes
 * coalesced writes: userspace owns "first", we own "last", and keep a copy of it.
 *
 * Manual: the kernel's KVM API document. Read next: irqchip/pic.c, irqchip/lapic.c.
 */
#include <linux/err.h>
#include <linux/eventfd.h>
#include <linux/hash.h>
#include <linux/nospec.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "mkvm.h"
#include "compat.h"

#define MAX_IOEVENTFDS	16384
#define MAX_ZONES	100

struct ioeventfd {
	struct hlist_node link;
	struct eventfd_ctx *eventfd;
	u64 addr;
	u64 data;
	u32 len;		/* of the write in bytes; 0: any */
	bool pio;
	bool match;		/* the write must equal data */
};

struct write_zone {
	struct list_head link;
	struct kvm_coalesced_mmio_zone zone;
};

/* ---- eventfds ---- */

static struct hlist_head *bucket(struct mkvm *vm, u64 addr)
{
	return &vm->iodev.ioeventfds[hash_64(addr, ilog2(MKVM_IOEVENTFD_BUCKETS))];
}

/*
 * Does a write of len bytes match this eventfd? Length 0 means that the length is unknown; then
 * only an eventfd for any length matches.
 */
static bool ioeventfd_takes(const struct ioeventfd *e, bool pio, u64 addr, unsigned int len,
			    u64 data)
{
	return e->addr == addr && e->pio == pio &&
	       (!e->len || (e->len == len && (!e->match || e->data == data)));
}

static bool ioeventfd_write(struct mkvm *vm, bool pio, u64 addr, unsigned int len, const void *buf)
{
	struct ioeventfd *e;
	u64 data = 0;

	memcpy(&data, buf, len);
	rcu_read_lock();
	hlist_for_each_entry_rcu(e, bucket(vm, addr), link) {
		if (ioeventfd_takes(e, pio, addr, len, data)) {
			mkvm_eventfd_signal(e->eventfd);
			break;
		}
	}
	rcu_read_unlock();
	return e;
}

/*
 * mkvm_fast_mmio - signal the eventfd for a write to gpa before the instruction is decoded
 *
 * Return: true if there was an eventfd that depends on neither length nor data. Context: any.
 */
bool mkvm_fast_mmio(struct mkvm_vcpu *vcpu, u64 gpa)
{
	return ioeventfd_write(vcpu->vm, false, gpa, 0, "");
}

/* Could one write match both? */
static bool ioeventfds_collide(const struct ioeventfd *a, const struct ioeventfd *b)
{
	return a->addr == b->addr && a->pio == b->pio &&
	       (!a->len || !b->len ||
		(a->len == b->len && (!a->match || !b->match || a->data == b->data)));
}

/* Takes ownership of new if it returns 0. */
static int ioeventfd_add(struct mkvm *vm, struct ioeventfd *new)
{
	struct ioeventfd *e;

	lockdep_assert_held(&vm->irqchip.lock);
	if (vm->iodev.nr_ioeventfds == MAX_IOEVENTFDS)
		return -ENOSPC;
	hlist_for_each_entry(e, bucket(vm, new->addr), link)
		if (ioeventfds_collide(e, new))
			return -EEXIST;
	hlist_add_head_rcu(&new->link, bucket(vm, new->addr));
	vm->iodev.nr_ioeventfds++;
	return 0;
}

static void ioeventfd_free(struct ioeventfd *e)
{
	eventfd_ctx_put(e->eventfd);
	kfree(e);
}

static int ioeventfd_remove(struct mkvm *vm, const struct ioeventfd *old)
{
	struct ioeventfd *e;

	lockdep_assert_held(&vm->irqchip.lock);
	hlist_for_each_entry(e, bucket(vm, old->addr), link)
		if (e->eventfd == old->eventfd && e->addr == old->addr && e->pio == old->pio &&
		    e->len == old->len && e->match == old->match && e->data == old->data)
			break;
	if (!e)
		return -ENOENT;
	hlist_del_rcu(&e->link);
	vm->iodev.nr_ioeventfds--;
	synchronize_rcu_expedited();
	ioeventfd_free(e);
	return 0;
}

/*
 * mkvm_ioeventfd_ioctl - KVM_IOEVENTFD
 *
 * Return: 0; -EINVAL: unknown flags, nonzero padding, a length other than 0, 1, 2, 4 or 8, an
 * address range that wraps, a datamatch without a length, an fd that is not an eventfd; -EBADF;
 * -EEXIST: another eventfd matches the same write; -ENOENT: there is none to remove; -ENOSPC;
 * -ENOMEM.
 * Context: process; takes vm->irqchip.lock; may sleep.
 */
int mkvm_ioeventfd_ioctl(struct mkvm *vm, const struct kvm_ioeventfd *arg)
{
	bool match = arg->flags & KVM_IOEVENTFD_FLAG_DATAMATCH,
	     remove = arg->flags & KVM_IOEVENTFD_FLAG_DEASSIGN;
	struct ioeventfd *e;
	int r;

	if ((arg->flags & ~(KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO |
			    KVM_IOEVENTFD_FLAG_DEASSIGN)) ||
	    memchr_inv(arg->pad, 0, sizeof(arg->pad)))
		return -EINVAL;
	if (arg->len > 8 || (arg->len & (arg->len - 1)) || (!arg->len && match) ||
	    arg->addr + arg->len < arg->addr)
		return -EINVAL;
	e = kzalloc(sizeof(*e), GFP_KERNEL_ACCOUNT);
	if (!e)
		return -ENOMEM;
	e->addr = arg->addr;
	e->len = arg->len;
	e->pio = arg->flags & KVM_IOEVENTFD_FLAG_PIO;
	e->match = match;
	e->data = match ? arg->datamatch : 0;
	e->eventfd = eventfd_ctx_fdget(arg->fd);
	if (IS_ERR(e->eventfd)) {
		r = PTR_ERR(e->eventfd);
		kfree(e);
		return r;
	}
	mutex_lock(&vm->irqchip.lock);
	r = remove ? ioeventfd_remove(vm, e) : ioeventfd_add(vm, e);
	mutex_unlock(&vm->irqchip.lock);
	if (r || remove)
		ioeventfd_free(e);
	return r;
}

/* ---- coalesced writes ---- */

static bool zone_holds(const struct kvm_coalesced_mmio_zone *z, bool pio, u64 addr, u64 len)
{
	return !!z->pio == pio && addr >= z->addr && addr - z->addr <= z->size &&
	       len <= z->size - (addr - z->addr);
}

static bool in_zone(struct mkvm *vm, bool pio, u64 addr, unsigned int len)
{
	struct write_zone *z;
	bool found = false;

	rcu_read_lock();
	list_for_each_entry_rcu(z, &vm->iodev.zones, link)
		found |= zone_holds(&z->zone, pio, addr, len);
	rcu_read_unlock();
	return found;
}

/* Returns false if the ring is full or its "last", which userspace can write, is out of range. */
static bool ring_add(struct mkvm *vm, bool pio, u64 addr, unsigned int len, const void *buf)
{
	struct kvm_coalesced_mmio_ring *ring = vm->iodev.ring;
	struct kvm_coalesced_mmio *e;
	u32 last, next;

	spin_lock(&vm->iodev.ring_lock);
	last = READ_ONCE(ring->last);
	next = (last + 1) % KVM_COALESCED_MMIO_MAX;
	if (last >= KVM_COALESCED_MMIO_MAX || smp_load_acquire(&ring->first) == next) {
		spin_unlock(&vm->iodev.ring_lock);
		return false;
	}
	e = &ring->coalesced_mmio[array_index_nospec(last, KVM_COALESCED_MMIO_MAX)];
	e->phys_addr = addr;
	e->len = len;
	e->pio = pio;
	memcpy(e->data, buf, len);
	smp_store_release(&ring->last, next);	/* publish the entry before its index */
	spin_unlock(&vm->iodev.ring_lock);
	return true;
}

static bool coalesced_write(struct mkvm *vm, bool pio, u64 addr, unsigned int len, const void *buf)
{
	return !list_empty(&vm->iodev.zones) && in_zone(vm, pio, addr, len) &&
	       ring_add(vm, pio, addr, len, buf);
}

static void zone_remove(struct mkvm *vm, struct write_zone *z)
{
	list_del_rcu(&z->link);
	vm->iodev.nr_zones--;
	synchronize_rcu_expedited();
	kfree(z);
}

static int zone_add(struct mkvm *vm, const struct kvm_coalesced_mmio_zone *zone)
{
	struct write_zone *z;

	if (vm->iodev.nr_zones == MAX_ZONES)
		return -ENOSPC;
	z = kmalloc(sizeof(*z), GFP_KERNEL_ACCOUNT);
	if (!z)
		return -ENOMEM;
	z->zone = *zone;
	list_add_tail_rcu(&z->link, &vm->iodev.zones);
	vm->iodev.nr_zones++;
	return 0;
}

/*
 * mkvm_coalesced_ioctl - KVM_REGISTER_COALESCED_MMIO and KVM_UNREGISTER_COALESCED_MMIO
 *
 * Unregistering removes every zone that contains the given one. Return: 0; -EINVAL: the zone is
 * neither memory nor ports, or wraps; -ENOSPC; -ENOMEM.
 * Context: process; takes vm->irqchip.lock; may sleep.
 */
int mkvm_coalesced_ioctl(struct mkvm *vm, const struct kvm_coalesced_mmio_zone *zone, bool add)
{
	struct write_zone *z, *next;
	int r = 0;

	if (zone->pio > 1 || zone->addr + zone->size < zone->addr)
		return -EINVAL;
	mutex_lock(&vm->irqchip.lock);
	if (add)
		r = zone_add(vm, zone);
	else
		list_for_each_entry_safe(z, next, &vm->iodev.zones, link)
			if (zone_holds(&z->zone, zone->pio, zone->addr, zone->size))
				zone_remove(vm, z);
	mutex_unlock(&vm->irqchip.lock);
	return r;
}

/* mkvm_iodev_init - initialise vm->iodev, before the VM is visible; 0 or -ENOMEM. May sleep. */
int mkvm_iodev_init(struct mkvm *vm)
{
	spin_lock_init(&vm->iodev.ring_lock);
	INIT_LIST_HEAD(&vm->iodev.zones);
	vm->iodev.ring = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	return vm->iodev.ring ? 0 : -ENOMEM;
}

/* mkvm_iodev_destroy - free eventfds, zones and the ring, once no vCPU can run. */
void mkvm_iodev_destroy(struct mkvm *vm)
{
	struct hlist_node *hnext;
	struct ioeventfd *e;
	struct write_zone *z, *next;
	unsigned int i;

	for (i = 0; i < MKVM_IOEVENTFD_BUCKETS; i++)
		hlist_for_each_entry_safe(e, hnext, &vm->iodev.ioeventfds[i], link)
			ioeventfd_free(e);
	list_for_each_entry_safe(z, next, &vm->iodev.zones, link)
		kfree(z);
	free_page((unsigned long)vm->iodev.ring);
}

/* Handles a write that no in-kernel device claimed. Returns false if userspace must handle it. */
static bool unclaimed_write(struct mkvm *vm, bool pio, u64 addr, unsigned int len, const void *buf)
{
	return (READ_ONCE(vm->iodev.nr_ioeventfds) && ioeventfd_write(vm, pio, addr, len, buf)) ||
	       coalesced_write(vm, pio, addr, len, buf);
}

/* ---- devices ---- */

static bool pic_port(u16 port)
{
	return (port & ~0x81) == 0x20 || (port & ~1) == 0x4d0;
}

/*
 * Does the port belong to an in-kernel device? All have ports of one byte, so a wider access is
 * split into one for each port, as on the ISA bus. Inline, because every port access calls this.
 */
static __always_inline bool kernel_port(struct mkvm *vm, struct mkvm_pit *pit, u16 port)
{
	if (pic_port(port))
		return mkvm_pic_in_kernel(vm);
	if (!pit)
		return false;
	return (port & ~3) == 0x40 || (port == 0x61 && mkvm_pit_owns_speaker(pit));
}

/*
 * mkvm_kernel_pio - perform one IN or OUT, if the port belongs to an in-kernel device or eventfd
 * @size: 1, 2 or 4 bytes
 * @data: size bytes, read or written
 *
 * Return: false if userspace must handle it. Context: the vCPU's own thread.
 */
bool mkvm_kernel_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in, void *data)
{
	struct mkvm *vm = vcpu->vm;
	struct mkvm_pit *pit = smp_load_acquire(&vm->irqchip.pit);
	u8 *byte = data;
	unsigned int i;

	if (!kernel_port(vm, pit, port))
		return !in && unclaimed_write(vm, true, port, size, data);
	for (i = 0; i < size; i++, port++) {
		bool pic = pic_port(port), ours = i == 0 || kernel_port(vm, pit, port);

		if (in && !ours)
			byte[i] = 0xff;
		else if (in)
			byte[i] = pic ? mkvm_pic_port_read(vm->irqchip.pic, port) :
					mkvm_pit_port_read(pit, port);
		else if (ours && pic)
			mkvm_pic_port_write(vm->irqchip.pic, port, byte[i]);
		else if (ours)
			mkvm_pit_port_write(pit, port, byte[i]);
	}
	return true;
}

/*
 * mkvm_kernel_mmio - perform an access of at most 8 bytes to an in-kernel device or eventfd
 *
 * Return: false if userspace must handle it. Context: the vCPU's own thread.
 */
bool mkvm_kernel_mmio(struct mkvm_vcpu *vcpu, u64 gpa, unsigned int len, bool write, void *data)
{
	struct mkvm_lapic *apic = vcpu->lapic;
	u32 offset;

	if (apic && mkvm_lapic_owns_page(apic, gpa)) {
		offset = gpa & (MKVM_LAPIC_SIZE - 1);
		if (write)
			mkvm_lapic_mmio_write(apic, offset, len, data);
		else
			mkvm_lapic_mmio_read(apic, offset, len, data);
		return true;
	}
	if (vcpu->vm->irqchip.ioapic && gpa - MKVM_IOAPIC_BASE < 0x100) {
		offset = gpa - MKVM_IOAPIC_BASE;
		if (write)
			mkvm_ioapic_mmio_write(vcpu->vm->irqchip.ioapic, offset, len, data);
		else
			mkvm_ioapic_mmio_read(vcpu->vm->irqchip.ioapic, offset, len, data);
		return true;
	}
	return write && unclaimed_write(vcpu->vm, false, gpa, len, data);
}
