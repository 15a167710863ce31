// SPDX-License-Identifier: GPL-2.0
/*
 * dirty_log.c - the log of pages that the guest has written, for display updates and migration.
 *
 * State: slot->dirty, one bit for each page, while the slot has KVM_MEM_LOG_DIRTY_PAGES. The
 * slot's second-level leaves are then 4 KiB, and writable only if the bit is set: a bit is
 * cleared and its leaf write-protected in one hold of mmu_lock, and the fault that makes the
 * leaf writable sets the bit in another. A write that the host makes for the guest (emulation)
 * sets the bit afterwards.
 *
 * Read next: tdp.c, memslot.c.
 */
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mkvm.h"

static size_t dirty_bytes(const struct mkvm_memslot *slot)
{
	return BITS_TO_LONGS(slot->npages) * sizeof(long);
}

/* mkvm_mark_dirty - the host has written to a page for the guest. Context: vm->srcu held. */
void mkvm_mark_dirty(struct mkvm_vcpu *vcpu, u64 gpa)
{
	const struct mkvm_memslot *slot = mkvm_gfn_to_slot(vcpu, gpa >> PAGE_SHIFT);

	if (slot && unlikely(slot->dirty))
		set_bit(array_index_nospec((gpa >> PAGE_SHIFT) - slot->gfn, slot->npages), slot->dirty);
}

/*
 * Clears those bits of 64 pages from first on that mask has, and write-protects their leaves.
 * Returns the bits that were set. Context: slots_lock, no spinlock.
 */
static u64 clear_word(struct mkvm *vm, const struct mkvm_memslot *slot, u64 first, u64 mask, bool *flush)
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

/* The slot of that number while it is logged, with slots_lock held; or an errno, without. */
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
 * Clears what it reports, unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 leaves that to
 * KVM_CLEAR_DIRTY_LOG. Context: may sleep; takes slots_lock, mmu_lock.
 * Return: -EINVAL (no such number), -ENOENT (slot not there or not logged), -EFAULT, -ENOMEM.
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
	/* Nobody has it: they are dirty still. */
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
 * mkvm_dirty_log_clear - KVM_CLEAR_DIRTY_LOG: the caller has dealt with these pages
 *
 * Context and errors as above, and -EINVAL for a range that does not begin at a multiple of
 * 64, leaves the slot, or ends elsewhere than at a multiple of 64 or the slot's end.
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
			clear_word(vm, slot, array_index_nospec(log->first_page + i, slot->npages), mask, &flush);
		cond_resched();
	}
	if (flush)
		mkvm_tdp_flush(vm);
out:
	mutex_unlock(&vm->slots_lock);
	return r;
}
