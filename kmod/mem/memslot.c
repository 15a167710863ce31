// SPDX-License-Identifier: GPL-2.0
/*
 * memslot.c - memory slots: maps guest-physical addresses to host-virtual ones.
 *
 * State: vm->slots, for each address space an immutable array that is sorted by guest frame and
 * replaced as a whole under vm->slots_lock. Readers hold vm->srcu while they use a slot or the
 * memory in it. A slot is removed in two steps. First it is marked dead (no new access, no new
 * second-level entry), but the MMU notifier still finds it and zaps pages that the host takes away
 * meanwhile. When its second-level entries are gone, it leaves the array.
 *
 * Read next: tdp.c.
 */
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

#define MAX_SLOT_PAGES	((1UL << 31) - 1)
#define SLOT_DEAD	(1U << 31)	/* being removed: visible only to the MMU notifier */
#define MAX_GFN		(1ULL << (48 - PAGE_SHIFT))	/* what four levels reach */

/* Returns the slot that was found last, if it still exists and contains gfn; else NULL. */
static inline const struct mkvm_memslot *cached_slot(struct mkvm_vcpu *vcpu, u64 gfn)
{
	const struct mkvm_memslots *slots =
		srcu_dereference(vcpu->vm->slots[vcpu->smm.active], &vcpu->vm->srcu);
	const struct mkvm_memslot *slot = vcpu->slot_cache.slot;

	return likely(slots->generation == vcpu->slot_cache.generation &&
		      gfn - slot->gfn < slot->npages) ?
		       slot :
		       NULL;
}

/* Bisects for the last slot that starts at or below gfn; NULL if it is dead or ends before gfn. */
static const struct mkvm_memslot *find_slot(struct mkvm_vcpu *vcpu, u64 gfn)
{
	const struct mkvm_memslots *slots =
		srcu_dereference(vcpu->vm->slots[vcpu->smm.active], &vcpu->vm->srcu);
	const struct mkvm_memslot *slot;
	int low = 0, high = slots->nr;

	while (low < high) {
		int mid = (low + high) / 2;

		if (slots->slot[mid].gfn <= gfn)
			low = mid + 1;
		else
			high = mid;
	}
	if (!low)
		return NULL;
	slot = &slots->slot[low - 1];
	if (gfn - slot->gfn >= slot->npages || (slot->flags & SLOT_DEAD))
		return NULL;
	vcpu->slot_cache.slot = slot;
	vcpu->slot_cache.generation = slots->generation;
	return slot;
}

/*
 * mkvm_gfn_to_slot - return the slot that contains a guest frame, or NULL
 *
 * Context: the vCPU's own thread, vm->srcu held; the slot is valid until vm->srcu is released.
 */
const struct mkvm_memslot *mkvm_gfn_to_slot(struct mkvm_vcpu *vcpu, u64 gfn)
{
	const struct mkvm_memslot *slot = cached_slot(vcpu, gfn);

	return slot ? slot : find_slot(vcpu, gfn);
}

/*
 * The guest chooses gpa, for example by its page tables. The mask keeps a CPU within the slot that
 * speculates past the checks.
 */
static void __user *gpa_to_user(const struct mkvm_memslot *slot, u64 gpa)
{
	u64 offset = gpa - (slot->gfn << PAGE_SHIFT);

	return (void __user *)(slot->hva + array_index_nospec(offset, slot->npages << PAGE_SHIFT));
}

static unsigned int address_space(u32 id)
{
	return array_index_nospec(id >> 16, MKVM_NR_AS);
}

static noinline void __user *find_gpa(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	const struct mkvm_memslot *slot = find_slot(vcpu, gpa >> PAGE_SHIFT);

	return slot && !(write && (slot->flags & KVM_MEM_READONLY)) ? gpa_to_user(slot, gpa) : NULL;
}

/*
 * mkvm_gpa_to_user - translate a guest-physical address to a host-virtual one
 * @write: return NULL for read-only slots as well
 *
 * Return: NULL if the guest has no memory there. The address is valid up to the end of its page.
 * Context: the vCPU's own thread; vm->srcu held while the address is used.
 */
void __user *mkvm_gpa_to_user(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	const struct mkvm_memslot *slot = cached_slot(vcpu, gpa >> PAGE_SHIFT);

	return likely(slot && !write) ? gpa_to_user(slot, gpa) : find_gpa(vcpu, gpa, write);
}

static int check_region(const struct kvm_userspace_memory_region *mem)
{
	u64 end = mem->guest_phys_addr + mem->memory_size;

	if ((u16)mem->slot >= MKVM_MAX_SLOTS || mem->slot >> 16 >= MKVM_NR_AS ||
	    (mem->flags & ~(KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES)))
		return -EINVAL;
	if ((mem->memory_size | mem->guest_phys_addr | mem->userspace_addr) & ~PAGE_MASK)
		return -EINVAL;
	if (end < mem->guest_phys_addr || end >> PAGE_SHIFT > MAX_GFN ||
	    mem->memory_size >> PAGE_SHIFT > MAX_SLOT_PAGES)
		return -EINVAL;
	if (untagged_addr(mem->userspace_addr) != mem->userspace_addr ||
	    !access_ok((void __user *)(unsigned long)mem->userspace_addr, mem->memory_size))
		return -EINVAL;
	return 0;
}

static const struct mkvm_memslot *slot_by_id(const struct mkvm_memslots *slots, u32 id)
{
	u32 i;

	for (i = 0; i < slots->nr; i++)
		if (slots->slot[i].id == id)
			return &slots->slot[i];
	return NULL;
}

/*
 * mkvm_slot_by_id - return the slot with this number, or NULL
 *
 * The caller has checked the number's range. Context: slots_lock held.
 */
const struct mkvm_memslot *mkvm_slot_by_id(struct mkvm *vm, u32 id)
{
	const struct mkvm_memslots *slots =
		rcu_dereference_protected(vm->slots[address_space(id)],
					  lockdep_is_held(&vm->slots_lock));

	return slot_by_id(slots, id);
}

static bool overlaps(const struct mkvm_memslots *slots, const struct mkvm_memslot *new)
{
	u32 i;

	for (i = 0; i < slots->nr; i++) {
		const struct mkvm_memslot *s = &slots->slot[i];

		if (s->id != new->id &&
		    s->gfn < new->gfn + new->npages &&new->gfn < s->gfn + s->npages)
			return true;
	}
	return false;
}

/* Copies the slots with slot new->id replaced by *new, or removed if *new has no pages. */
static struct mkvm_memslots *slots_with(const struct mkvm_memslots *old,
					const struct mkvm_memslot *new)
{
	struct mkvm_memslots *slots;
	bool placed = !new->npages;
	u32 i, n = 0;

	slots = kvzalloc(struct_size(slots, slot, old->nr + 1), GFP_KERNEL_ACCOUNT);
	if (!slots)
		return NULL;
	for (i = 0; i < old->nr; i++) {
		if (old->slot[i].id == new->id)
			continue;
		if (!placed && old->slot[i].gfn > new->gfn) {
			slots->slot[n++] = *new;
			placed = true;
		}
		slots->slot[n++] = old->slot[i];
	}
	if (!placed)
		slots->slot[n++] = *new;
	slots->nr = n;
	slots->generation = old->generation + 1;
	return slots;
}

/* Publishes slots, waits until no reader uses the old array, and frees it. */
static void replace_slots(struct mkvm *vm, unsigned int as, struct mkvm_memslots *old,
			  struct mkvm_memslots *slots)
{
	rcu_assign_pointer(vm->slots[as], slots);
	synchronize_srcu_expedited(&vm->srcu);
	kvfree(old);
}

/*
 * Replaces the array slots by one that has *new, and lacks *old if given. When this returns, no
 * vCPU uses old's memory. A moved slot is absent for a moment, as in KVM: a vCPU that accesses it
 * meanwhile causes MMIO exits.
 */
static int change_slot(struct mkvm *vm, struct mkvm_memslots *slots, const struct mkvm_memslot *new,
		       const struct mkvm_memslot *old)
{
	struct mkvm_memslots *with = slots_with(slots, new), *without;
	unsigned int as = address_space(new->id);
	struct mkvm_memslot dead;

	if (!with)
		return -ENOMEM;
	if (old) {
		dead = *old;
		dead.flags |= SLOT_DEAD;
		without = slots_with(slots, &dead);
		if (!without) {
			kvfree(with);
			return -ENOMEM;
		}
		replace_slots(vm, as, slots, without);
		mkvm_tdp_zap_gfns(vm, as, dead.gfn, dead.gfn + dead.npages);
		with->generation = without->generation + 1;
		slots = without;
	}
	replace_slots(vm, as, slots, with);
	return 0;
}

/* Allocates the bitmap of a slot that is logged from now on. Returns 0 or -ENOMEM. May sleep. */
static int start_logging(struct mkvm *vm, struct mkvm_memslot *slot)
{
	slot->dirty = kvcalloc(BITS_TO_LONGS(slot->npages), sizeof(long), GFP_KERNEL_ACCOUNT);
	if (!slot->dirty)
		return -ENOMEM;
	if (vm->dirty_manual & KVM_DIRTY_LOG_INITIALLY_SET)
		bitmap_set(slot->dirty, 0, slot->npages);
	return 0;
}

/* Starts or stops logging of a slot. Its second-level entries are zapped, so they fault in anew. */
static int change_logging(struct mkvm *vm, struct mkvm_memslots *slots, struct mkvm_memslot *new,
			  unsigned long *dirty)
{
	unsigned int as = address_space(new->id);
	struct mkvm_memslots *with;

	new->dirty = NULL;
	if ((new->flags & KVM_MEM_LOG_DIRTY_PAGES) && start_logging(vm, new))
		return -ENOMEM;
	with = slots_with(slots, new);
	if (!with) {
		kvfree(new->dirty);
		return -ENOMEM;
	}
	replace_slots(vm, as, slots, with);
	mkvm_tdp_zap_gfns(vm, as, new->gfn, new->gfn + new->npages);
	kvfree(dirty);
	return 0;
}

static int create_slot(struct mkvm *vm, struct mkvm_memslots *slots, struct mkvm_memslot *new)
{
	int r = 0;

	if (new->flags & KVM_MEM_LOG_DIRTY_PAGES)
		r = start_logging(vm, new);
	if (!r)
		r = change_slot(vm, slots, new, NULL);
	if (r)
		kvfree(new->dirty);
	return r;
}

/* Moves a slot to another address. Its log is kept, started or ended, according to the flags. */
static int move_slot(struct mkvm *vm, struct mkvm_memslots *slots, struct mkvm_memslot *new,
		     const struct mkvm_memslot *old)
{
	unsigned long *dirty = old->dirty;
	int r = 0;

	if (!(new->flags & KVM_MEM_LOG_DIRTY_PAGES))
		new->dirty = NULL;
	else if (!dirty)
		r = start_logging(vm, new);
	if (!r)
		r = change_slot(vm, slots, new, old);
	/* One of two bitmaps is unused now: the old one, or after a failure the new one. */
	if (new->dirty != dirty)
		kvfree(r ? new->dirty : dirty);
	return r;
}

static int memslot_set_locked(struct mkvm *vm, const struct kvm_userspace_memory_region *mem)
{
	struct mkvm_memslots *slots = rcu_dereference_protected(vm->slots[address_space(mem->slot)],
								lockdep_is_held(&vm->slots_lock));
	const struct mkvm_memslot *old = slot_by_id(slots, mem->slot);
	unsigned long *dirty = old ? old->dirty : NULL;
	struct mkvm_memslot new = {
		.gfn = mem->guest_phys_addr >> PAGE_SHIFT,
		.npages = mem->memory_size >> PAGE_SHIFT,
		.hva = mem->userspace_addr,
		.flags = mem->flags,
		.id = mem->slot,
		.dirty = dirty,
	};
	int r;

	if (!new.npages) {
		r = old ? change_slot(vm, slots, &new, old) : -EINVAL;
		if (!r)
			kvfree(dirty);
		return r;
	}
	if (old && (old->npages != new.npages || old->hva != new.hva ||
		    (old->flags ^ new.flags) & KVM_MEM_READONLY))
		return -EINVAL;
	if (old && old->gfn == new.gfn)
		return old->flags == new.flags ? 0 : change_logging(vm, slots, &new, dirty);
	if (overlaps(slots, &new))
		return -EEXIST;
	return old ? move_slot(vm, slots, &new, old) : create_slot(vm, slots, &new);
}

/*
 * mkvm_memslot_set - KVM_SET_USER_MEMORY_REGION: create, move or delete a slot
 *
 * Bits 31:16 of the slot's number select the address space. When it returns, no vCPU uses memory of
 * a slot that was removed or moved. Return: 0; -EINVAL for what the API document rules out and for
 * flags that are not offered; -EEXIST if slots would overlap; -ENOMEM. After an error nothing has
 * changed.
 * Context: process; takes vm->slots_lock, waits for vm->srcu; may sleep.
 */
int mkvm_memslot_set(struct mkvm *vm, const struct kvm_userspace_memory_region *mem)
{
	int r = check_region(mem);

	if (r)
		return r;
	mutex_lock(&vm->slots_lock);
	r = memslot_set_locked(vm, mem);
	mutex_unlock(&vm->slots_lock);
	return r;
}
