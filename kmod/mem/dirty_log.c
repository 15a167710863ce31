// SPDX-License-Identifier: GPL-2.0
/*
 * dirty_log.c - logs the pages that the guest writes, for display updates and migration.
 *
 * State: slot->dirty, one bit for each page, while the slot has KVM_MEM_LOG_DIRTY_PAGES. The
 * slot's second-level leaves are then 4 KiB, and writable only if the bit is set: one critical
 * section of mmu_lock clears the bit and write-protects the leaf, and another one, in the fault
 * handler, makes the leaf writable and sets the bit. After a write on the guest's behalf
 * (emulation), the host sets the bit.
 *
 * Read next: tdp.c, memslot.c.
 */
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static size_t dirty_bytes(const struct mkvm_memslot *slot)
{
	return BITS_TO_LONGS(slot->npages) * sizeof(long);
}

/* mkvm_mark_dirty - log a write that the host has made for the guest. Context: vm->srcu held. */
void mkvm_mark_dirty(struct mkvm_vcpu *vcpu, u64 gpa)
{
	const struct mkvm_memslot *slot = mkvm_gfn_to_slot(vcpu, gpa >> PAGE_SHIFT);

	if (slot && unlikely(slot->dirty))
		set_bit(array_index_nospec((gpa >> PAGE_SHIFT) - slot->gfn, slot->npages),
			slot->dirty);
}

/*
 * Clears the bits in mask of the 64 pages that begin with first, and write-protects their leaves.
 * Returns the bits that were set. Context: slots_lock held, no spinlock held.
 */
static u64 clear_word(struct mkvm *vm, const struct mkvm_memslot *slot, u64 first, u64 mask,
		      bool *flush)
{
	unsigned long *word = slot->dirty + first / BITS_PER_LONG;
	u64 bits;

	if (!(READ_ONCE(*word) & mask))
		return 0;
	spin_lock(&vm->mmu_lock);
	bits = atomic_long_fetch_andnot(mask, (atomic_long_t *)word) & mask;
	*flush |= mkvm_tdp_write_protect(vm, slot->id >> 16, slot->gfn + first, bits);
	spin_unlock(&vm->mmu_lock);
	return bits;
}

/*
 * Finds the slot with number id and takes slots_lock. Returns an errno, without the lock, if there
 * is no such slot or it is not logged.
 */
static const struct mkvm_memslot *lock_logged_slot(struct mkvm *vm, u32 id)
{
	const struct mkvm_memslot *slot;

	if (id >> 16 >= MKVM_NR_AS || (u16)id >= MKVM_MAX_SLOTS)
		return ERR_PTR(-EINVAL);
	mutex_lock(&vm->slots_lock);
	slot = mkvm_slot_by_id(vm, id);
	if (slot && slot->dirty)
		return slot;
	mutex_unlock(&vm->slots_lock);
	return ERR_PTR(-ENOENT);
}

/*
 * mkvm_dirty_log_get - KVM_GET_DIRTY_LOG
 *
 * The bits that it reports are cleared, unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 leaves that to
 * KVM_CLEAR_DIRTY_LOG. Return: 0; -EINVAL: the number is out of range; -ENOENT: there is no such
 * slot, or it is not logged; -EFAULT; -ENOMEM.
 * Context: process; takes slots_lock and mmu_lock; may sleep.
 */
int mkvm_dirty_log_get(struct mkvm *vm, const struct kvm_dirty_log *log)
{
	const struct mkvm_memslot *slot = lock_logged_slot(vm, log->slot);
	bool flush = false;
	u64 first, *copy;
	int r = -ENOMEM;

	if (IS_ERR(slot))
		return PTR_ERR(slot);
	copy = kvzalloc(dirty_bytes(slot), GFP_KERNEL_ACCOUNT);
	if (!copy)
		goto out;
	for (first = 0; first < slot->npages; first += 64) {
		if (vm->dirty_manual)
			copy[first / 64] = READ_ONCE(slot->dirty[first / 64]);
		else
			copy[first / 64] = clear_word(vm, slot, first, ~0ULL, &flush);
		cond_resched();
	}
	if (flush)
		mkvm_tdp_flush(vm);
	r = copy_to_user(log->dirty_bitmap, copy, dirty_bytes(slot)) ? -EFAULT : 0;
	/* Userspace did not get the bits, so the pages stay dirty. */
	for (first = 0; r && first < slot->npages; first += 64) {
		atomic_long_or(copy[first / 64], (atomic_long_t *)(slot->dirty + first / 64));
		cond_resched();
	}
	kvfree(copy);
out:
	mutex_unlock(&vm->slots_lock);
	return r;
}

/*
 * mkvm_dirty_log_clear - KVM_CLEAR_DIRTY_LOG: clear the bits of pages that the caller has copied
 *
 * Context and errors are those of mkvm_dirty_log_get. It also returns -EINVAL for a range that does
 * not begin at a multiple of 64 pages, exceeds the slot, or ends neither at a multiple of 64 nor at
 * the slot's end.
 */
int mkvm_dirty_log_clear(struct mkvm *vm, const struct kvm_clear_dirty_log *log)
{
	const struct mkvm_memslot *slot = lock_logged_slot(vm, log->slot);
	u64 i, mask, __user *from = log->dirty_bitmap;
	bool flush = false;
	int r = -EINVAL;

	if (IS_ERR(slot))
		return PTR_ERR(slot);
	if (log->first_page & 63 || log->first_page > slot->npages ||
	    log->num_pages > slot->npages - log->first_page ||
	    (log->num_pages & 63 && log->num_pages < slot->npages - log->first_page))
		goto out;
	r = 0;
	for (i = 0; i < log->num_pages && !r; i += 64) {
		if (get_user(mask, from + i / 64))
			r = -EFAULT;
		else
			clear_word(vm, slot, array_index_nospec(log->first_page + i, slot->npages),
				   mask, &flush);
		cond_resched();
	}
	if (flush)
		mkvm_tdp_flush(vm);
out:
	mutex_unlock(&vm->slots_lock);
	return r;
}
