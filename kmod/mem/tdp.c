// SPDX-License-Identifier: GPL-2.0
/*
 * tdp.c - second-level page tables (NPT, EPT): filled on a fault from the host's page tables,
 * emptied when the host takes pages away.
 *
 * State: for each address space vm->tdp and the tables below it, under vm->mmu_lock. An entry
 * exists only while the host maps the same page: no page is pinned. A fault reads
 * vm->invalidate_seq, asks the host for the page, and installs it only if no invalidation of
 * that address ran meanwhile; otherwise the guest faults again.
 *
 * TLBs: whoever removes entries increments vm->tlb_gen and then makes every CPU that is inside
 * this VM exit. A vCPU compares the generation after it has announced that it is in the guest,
 * so at least one of the two sees the other.
 *
 * The time for which mmu_lock is held does not grow with the guest's memory: a table whose whole
 * range is removed is unlinked with one store, and the tables below it are visited and freed
 * without the lock. The lock is taken once for each slot whose range is zapped, and TLBs are
 * flushed once at the end. Until then vm->tlbs_stale records that a TLB may hold entries that the
 * tables no longer have; whoever relies on the absence of an entry must flush first. When the host
 * asks for accessed bits, the lock is taken anew for each 2 MiB.
 *
 * Read next: memslot.c for the addresses, svm/svm.c for the format of an entry.
 */
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/smp.h>

#include "internal.h"
#include "hw_ops.h"
#include "compat.h"
#include "explain/testpoint.h"

#define TDP_LEVELS	4
#define TDP_ADDR_MASK	0x000ffffffffff000ULL
#define PAGES_PER(level) (1ULL << (9 * ((level) - 1)))	/* 4 KiB pages under an entry */

static unsigned int tdp_index(u64 gfn, int level)
{
	return (gfn >> (9 * (level - 1))) & 511;
}

static bool tdp_present(u64 entry)
{
	return entry & mkvm_hw->tdp.present;
}

static bool tdp_is_leaf(u64 entry, int level)
{
	return level == 1 || (entry & mkvm_hw->tdp.huge);
}

static u64 *tdp_table(u64 entry)
{
	return __va(entry & TDP_ADDR_MASK);
}

static void ipi_nothing(void *unused)
{
}

/*
 * Flushes the TLBs of all CPUs: when it returns, no CPU uses removed entries. It disables
 * preemption for smp_call_function_many, because a spinlock does not do so in every kernel.
 * Context: mmu_lock held, interrupts on.
 */
static void flush_tlbs(struct mkvm *vm)
{
	struct mkvm_vcpu *vcpu;
	int i, cpu;

	lockdep_assert_held(&vm->mmu_lock);
	vm->stats[MKVM_STAT_REMOTE_TLB_FLUSH]++;
	preempt_disable();
	atomic_long_inc(&vm->tlb_gen);
	smp_mb__after_atomic();		/* pairs with the store to vcpu->where in cpu/run.c */
	cpumask_clear(&vm->flush_cpus);
	mkvm_for_each_vcpu(i, vcpu, vm) {
		cpu = READ_ONCE(vcpu->cpu);
		if (READ_ONCE(vcpu->where) != MKVM_OUTSIDE && cpu >= 0)
			cpumask_set_cpu(cpu, &vm->flush_cpus);
	}
	if (!cpumask_empty(&vm->flush_cpus))
		smp_call_function_many(&vm->flush_cpus, ipi_nothing, NULL, true);
	preempt_enable();
	vm->tlbs_stale = false;
}

/* Flushes TLBs if entries have been removed since the last flush. Context: mmu_lock held. */
static void flush_stale(struct mkvm *vm)
{
	if (vm->tlbs_stale)
		flush_tlbs(vm);
}

/* Queues a table, unlinked with everything below it, to be freed after the flush. */
static void tdp_cut_off(u64 *table, int level, struct list_head *cut)
{
	struct page *page = virt_to_page(table);

	set_page_private(page, level);
	list_add(&page->lru, cut);
}

/* Frees one table, counts its leaves by level, and queues the tables below it. */
static void tdp_free_table(struct page *page, struct list_head *cut, u64 *leaves)
{
	int i, level = page_private(page);
	u64 *table = page_address(page);

	for (i = 0; i < 512; i++) {
		if (!tdp_present(table[i]))
			continue;
		if (tdp_is_leaf(table[i], level))
			leaves[level - 1]++;
		else
			tdp_cut_off(tdp_table(table[i]), level - 1, cut);
	}
	set_page_private(page, 0);
	__free_page(page);
}

/*
 * Frees the tables on the list, and those below them. Context: TLBs have been flushed since the
 * tables were unlinked; takes mmu_lock, to update the number of leaves.
 */
static void tdp_free_cut(struct mkvm *vm, struct list_head *cut, bool may_sleep)
{
	u64 leaves[TDP_LEVELS] = {};
	struct page *page;

	if (list_empty(cut))
		return;
	mkvm_test_point(MKVM_POINT_FREE);
	while ((page = list_first_entry_or_null(cut, struct page, lru))) {
		list_del(&page->lru);
		tdp_free_table(page, cut, leaves);
		if (may_sleep)
			cond_resched();
	}
	spin_lock(&vm->mmu_lock);
	vm->stats[MKVM_STAT_PAGES_4K] -= leaves[0];
	vm->stats[MKVM_STAT_PAGES_4K + 1] -= leaves[1];
	spin_unlock(&vm->mmu_lock);
}

/*
 * Clears the entries of guest frames [first, end) in a table whose first frame is base. Returns
 * true if there were any. It visits at most two tables of each level, whatever the range.
 */
static bool tdp_zap_table(struct mkvm *vm, u64 *table, int level, u64 base, u64 first, u64 end,
			  struct list_head *cut)
{
	unsigned int i = first > base ? tdp_index(first, level) : 0;
	u64 gfn, entry, span = PAGES_PER(level);
	bool zapped = false;

	for (; i < 512 && (gfn = base + i * span) < end; i++) {
		mkvm_test_hold_step();
		entry = READ_ONCE(table[i]);
		if (!tdp_present(entry))
			continue;
		if (!tdp_is_leaf(entry, level) && (gfn < first || gfn + span > end)) {
			zapped |= tdp_zap_table(vm, tdp_table(entry), level - 1, gfn, first, end,
						cut);
			continue;
		}
		xchg(&table[i], 0);
		zapped = true;
		if (tdp_is_leaf(entry, level))
			vm->stats[MKVM_STAT_PAGES_4K + level - 1]--;
		else
			tdp_cut_off(tdp_table(entry), level - 1, cut);
	}
	return zapped;
}

/* Zaps a range. The caller must call flush_stale, then tdp_free_cut. Context: mmu_lock held. */
static void tdp_zap(struct mkvm *vm, unsigned int as, u64 first, u64 end, struct list_head *cut)
{
	lockdep_assert_held(&vm->mmu_lock);
	if (tdp_zap_table(vm, vm->tdp[as].root, TDP_LEVELS, 0, first, end, cut))
		vm->tlbs_stale = true;
}

/*
 * mkvm_tdp_zap_gfns - remove the guest's mappings of frames [first, end)
 *
 * On return no CPU's TLB holds them. Context: takes mmu_lock; may sleep.
 */
void mkvm_tdp_zap_gfns(struct mkvm *vm, unsigned int as, u64 first, u64 end)
{
	LIST_HEAD(cut);

	spin_lock(&vm->mmu_lock);
	mkvm_test_hold_begin();
	tdp_zap(vm, as, first, end, &cut);
	flush_stale(vm);
	mkvm_test_hold_end();
	spin_unlock(&vm->mmu_lock);
	tdp_free_cut(vm, &cut, true);
}

/*
 * Returns the frame's leaf, or the absent entry that ends its walk, and the level of the entry.
 * Context: mmu_lock held.
 */
static u64 *tdp_find(u64 *root, u64 gfn, int *level)
{
	u64 *entry = &root[tdp_index(gfn, TDP_LEVELS)];

	for (*level = TDP_LEVELS; tdp_present(*entry) && !tdp_is_leaf(*entry, *level); (*level)--)
		entry = &tdp_table(*entry)[tdp_index(gfn, *level - 1)];
	return entry;
}

/*
 * mkvm_tdp_leaf - return the last-level entry that maps a page; 0 if it is not mapped
 *
 * A huge leaf is returned as the 4 KiB entry for this page. Like a TLB entry, it is valid until the
 * next flush of TLBs. Context: the vCPU's own thread; takes mmu_lock.
 */
u64 mkvm_tdp_leaf(struct mkvm_vcpu *vcpu, u64 gfn)
{
	struct mkvm *vm = vcpu->vm;
	u64 entry;
	int level;

	spin_lock(&vm->mmu_lock);
	entry = READ_ONCE(*tdp_find(vm->tdp[vcpu->smm.active].root, gfn, &level));
	spin_unlock(&vm->mmu_lock);
	if (!tdp_present(entry))
		return 0;
	if (level > 1)
		entry = (entry & ~mkvm_hw->tdp.huge) | (gfn & (PAGES_PER(level) - 1)) << PAGE_SHIFT;
	return entry;
}

/* Fills a table with last-level entries that map the same pages as a 2 MiB leaf. */
static void split_leaf(u64 *table, u64 entry)
{
	int i;

	for (i = 0; i < 512; i++)
		table[i] = (entry & ~mkvm_hw->tdp.huge) + ((u64)i << PAGE_SHIFT);
}

/*
 * mkvm_tdp_clone_path - build second-level tables that differ in one page from the current ones
 * @from: the level-4 table that the CPU walks now
 * @tables: pages for the new tables, indexed by level - 1
 * @gpa: guest-physical address of the page
 * @page_pa: physical address of the page to be mapped there instead, writable
 *
 * Like a TLB, the tables must not be used after the next flush. Context: the vCPU's own thread;
 * takes mmu_lock.
 */
void mkvm_tdp_clone_path(struct mkvm *vm, u64 *from, u64 **tables, u64 gpa, u64 page_pa)
{
	const struct mkvm_tdp_format *f = &mkvm_hw->tdp;
	u64 entry = 0;
	int l;

	spin_lock(&vm->mmu_lock);
	for (l = TDP_LEVELS; l >= 1; l--) {
		if (from)
			memcpy(tables[l - 1], from, PAGE_SIZE);
		else if (tdp_present(entry))
			split_leaf(tables[l - 1], entry);
		else
			memset(tables[l - 1], 0, PAGE_SIZE);
		entry = tables[l - 1][tdp_index(gpa >> PAGE_SHIFT, l)];
		from = tdp_present(entry) && !tdp_is_leaf(entry, l) ? tdp_table(entry) : NULL;
		tables[l - 1][tdp_index(gpa >> PAGE_SHIFT, l)] =
			l > 1 ? __pa(tables[l - 2]) | f->table : page_pa | f->leaf | f->write;
	}
	spin_unlock(&vm->mmu_lock);
}

/*
 * mkvm_tdp_write_protect - make the 4 KiB leaves of frames gfn + n read-only, n a bit of mask
 *
 * Return: true if mkvm_tdp_flush must follow. Context: mmu_lock held.
 */
bool mkvm_tdp_write_protect(struct mkvm *vm, unsigned int as, u64 gfn, u64 mask)
{
	u64 *entry, frame, write = mkvm_hw->tdp.write;
	bool flush = mask && vm->tlbs_stale;	/* a removed entry may still be in a TLB */
	int level;

	for (; mask; mask &= mask - 1) {
		frame = gfn + __ffs64(mask);
		entry = tdp_find(vm->tdp[as].root, frame, &level);
		if (tdp_present(*entry) && (*entry & write)) {
			clear_bit(__ffs64(write), (unsigned long *)entry);
			flush = true;
		}
	}
	return flush;
}

/*
 * mkvm_tdp_flush - flush the TLBs of all CPUs that run this VM
 *
 * On return no CPU uses an entry that was removed or write-protected before. Context: takes
 * mmu_lock; interrupts on.
 */
void mkvm_tdp_flush(struct mkvm *vm)
{
	spin_lock(&vm->mmu_lock);
	flush_tlbs(vm);
	spin_unlock(&vm->mmu_lock);
}

/* ---- fault ---- */

/* Allocates zeroed pages for tables in advance, since mmu_lock does not allow it. */
static int tdp_fill_pages(struct mkvm_vcpu *vcpu)
{
	while (vcpu->tdp_cache.nr < ARRAY_SIZE(vcpu->tdp_cache.pages)) {
		void *page = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);

		if (!page)
			return -ENOMEM;
		vcpu->tdp_cache.pages[vcpu->tdp_cache.nr++] = page;
	}
	return 0;
}

void mkvm_tdp_free_pages(struct mkvm_vcpu *vcpu)
{
	while (vcpu->tdp_cache.nr)
		free_page((unsigned long)vcpu->tdp_cache.pages[--vcpu->tdp_cache.nr]);
}

/* Does the host map this address with a leaf of 2 MiB or more? Valid until an invalidation runs. */
static bool host_maps_huge(struct mm_struct *mm, unsigned long hva)
{
	unsigned long flags;
	bool huge = false;
	pgd_t pgd;
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	local_irq_save(flags);	/* keeps the host from freeing its tables meanwhile */
	pgd = READ_ONCE(*pgd_offset(mm, hva));
	if (pgd_none(pgd))
		goto out;
	p4d = READ_ONCE(*p4d_offset(&pgd, hva));
	if (p4d_none(p4d) || !p4d_present(p4d))
		goto out;
	pud = READ_ONCE(*pud_offset(&p4d, hva));
	if (pud_none(pud) || !pud_present(pud))
		goto out;
	if (pud_leaf(pud)) {
		huge = true;
		goto out;
	}
	pmd = READ_ONCE(*pmd_offset(&pud, hva));
	huge = pmd_present(pmd) && pmd_leaf(pmd);
out:
	local_irq_restore(flags);
	return huge;
}

static bool fits_huge(const struct mkvm_memslot *slot, u64 gfn, unsigned long hva,
		      struct page *page)
{
	u64 base = gfn & ~511ULL;

	return PageCompound(page) && !((gfn ^ (hva >> PAGE_SHIFT)) & 511) &&
	       base >= slot->gfn && base + 512 <= slot->gfn + slot->npages;
}

static bool invalidated(struct mkvm *vm, unsigned long seq, unsigned long hva)
{
	if (vm->invalidate_running && hva >= vm->invalidate_start && hva < vm->invalidate_end)
		return true;
	return vm->invalidate_seq != seq;
}

/*
 * Removes whatever maps the range of an entry of this level around gfn, so that another leaf can be
 * installed there. Context: mmu_lock held.
 */
static void tdp_clear_way(struct mkvm_vcpu *vcpu, u64 gfn, int level, struct list_head *cut)
{
	u64 first = gfn & ~(PAGES_PER(level) - 1);

	tdp_zap(vcpu->vm, vcpu->smm.active, first, first + PAGES_PER(level), cut);
	flush_stale(vcpu->vm);
}

/* Installs a leaf. Context: mmu_lock held; the host still maps the page. */
static void tdp_install(struct mkvm_vcpu *vcpu, u64 gfn, u64 pfn, int level, bool writable,
			struct list_head *cut)
{
	const struct mkvm_tdp_format *f = &mkvm_hw->tdp;
	unsigned int as = vcpu->smm.active;
	u64 entry, *table = vcpu->vm->tdp[as].root;
	int l;

	/* A TLB must not hold two leaves of different sizes for one address. */
	flush_stale(vcpu->vm);
	for (l = TDP_LEVELS; l > level; l--) {
		u64 *slot = &table[tdp_index(gfn, l)];

		entry = *slot;
		/* A wider leaf is kept if it grants the access that is needed, else removed. */
		if (tdp_present(entry) && tdp_is_leaf(entry, l)) {
			if ((entry & f->write) || !writable)
				return;
			tdp_clear_way(vcpu, gfn, l, cut);
			entry = 0;
		}
		if (!tdp_present(entry)) {
			entry = __pa(vcpu->tdp_cache.pages[--vcpu->tdp_cache.nr]) | f->table;
			WRITE_ONCE(*slot, entry);
		}
		table = tdp_table(entry);
	}
	table += tdp_index(gfn, level);
	entry = *table;
	if (level > 1 && tdp_present(entry) && !tdp_is_leaf(entry, level))
		tdp_clear_way(vcpu, gfn, level, cut);
	/* Another vCPU has made the leaf writable meanwhile; revoking that would need a flush. */
	if (level == 1 && tdp_present(entry) && (entry & f->write) && !writable)
		return;
	if (!tdp_present(entry) || !tdp_is_leaf(entry, level))
		vcpu->vm->stats[MKVM_STAT_PAGES_4K + level - 1]++;
	entry = (pfn & ~(PAGES_PER(level) - 1)) << PAGE_SHIFT | f->leaf;
	if (writable)
		entry |= f->write;
	if (level > 1)
		entry |= f->huge;
	WRITE_ONCE(*table, entry);
}

/*
 * Gets a reference to the host's page at hva, or returns NULL. *writable says on entry whether the
 * page must be writable, on return whether it is.
 */
static struct page *host_page(unsigned long hva, bool readonly, bool *writable)
{
	struct page *page;
	bool write = *writable;

	*writable = !readonly;
	if (!readonly && get_user_pages_fast_only(hva, 1, FOLL_WRITE, &page) == 1)
		return page;
	*writable = write;
	if (get_user_pages_fast(hva, 1, (write ? FOLL_WRITE : 0) | MKVM_FOLL_NUMA, &page) == 1)
		return page;
	return NULL;
}

/*
 * mkvm_host_page_missing - handle the case that the host has no page at p for a guest's access
 *
 * If the memory has failed (hardware poison), the thread gets the SIGBUS that an access of its own
 * would raise; clients use it to inject a machine check. A thread that blocks the signal gets only
 * the error. Return: MKVM_FAULT_MAPPED if a signal is pending or the page exists by now, else
 * -EFAULT. Context: the vCPU's own thread, may sleep.
 */
int mkvm_host_page_missing(const void __user *p, bool write)
{
	unsigned long hva = (unsigned long)p & PAGE_MASK;
	struct page *page;
	long r = get_user_pages_unlocked(hva, 1, &page, (write ? FOLL_WRITE : 0) | FOLL_HWPOISON);

	if (r == 1) {
		put_page(page);
		return MKVM_FAULT_MAPPED;
	}
	if (r != -EHWPOISON)
		return -EFAULT;
	send_sig_mceerr(BUS_MCEERR_AR, (void __user *)hva, PAGE_SHIFT, current);
	return signal_pending(current) ? MKVM_FAULT_MAPPED : -EFAULT;
}

/*
 * mkvm_tdp_fault - handle an access to a guest-physical address that is not mapped, or not writable
 * @slot: the slot that contains gpa, or NULL
 *
 * Return: MKVM_FAULT_MAPPED: enter the guest again; MKVM_FAULT_MMIO: there is no memory;
 * MKVM_FAULT_ROM: a write to read-only memory; -EFAULT: the host has no page there, or one without
 * a struct page; -ENOMEM.
 * Context: the vCPU's own thread, vm->srcu held; may sleep; takes mmu_lock.
 */
int mkvm_tdp_fault(struct mkvm_vcpu *vcpu, const struct mkvm_memslot *slot, u64 gpa, bool write)
{
	struct mkvm *vm = vcpu->vm;
	u64 gfn = gpa >> PAGE_SHIFT;
	bool readonly, writable = write;
	unsigned long hva, seq;
	struct page *page;
	LIST_HEAD(cut);
	int level = 1;

	if (!slot)
		return MKVM_FAULT_MMIO;
	readonly = slot->flags & KVM_MEM_READONLY;
	if (write && readonly)
		return MKVM_FAULT_ROM;
	if (tdp_fill_pages(vcpu))
		return -ENOMEM;
	hva = slot->hva + ((gfn - slot->gfn) << PAGE_SHIFT);

	seq = READ_ONCE(vm->invalidate_seq);
	smp_rmb();		/* read the host's tables after the sequence count */
	page = host_page(hva, readonly, &writable);
	if (!page)
		return mkvm_host_page_missing((void __user *)hva, write);
	if (mkvm_hw->tdp.huge && !slot->dirty && fits_huge(slot, gfn, hva, page) &&
	    host_maps_huge(vm->mm, hva))
		level = 2;
	spin_lock(&vm->mmu_lock);
	if (!invalidated(vm, seq, hva)) {
		tdp_install(vcpu, gfn, page_to_pfn(page), level, writable, &cut);
		if (writable) {
			SetPageDirty(compound_head(page));
			if (slot->dirty)
				set_bit(gfn - slot->gfn, slot->dirty);
		}
	}
	spin_unlock(&vm->mmu_lock);
	tdp_free_cut(vm, &cut, true);
	put_page(page);
	return MKVM_FAULT_MAPPED;
}

/* ---- the MMU notifier ---- */

typedef bool range_fn(struct mkvm *vm, unsigned int as, u64 first, u64 end, void *arg);

/* What to do with a range of guest frames. */
struct range_work {
	range_fn *fn;
	void *arg;
	u64 step;	/* frames in one hold of mmu_lock, a power of 2 */
	bool may_sleep;
};

/* Does the work on guest frames [first, end), each step in its own hold of mmu_lock. */
static bool do_range(struct mkvm *vm, unsigned int as, u64 first, u64 end,
		     const struct range_work *work)
{
	bool r = false;
	u64 next;

	for (; first < end; first = next) {
		next = min(end, (first | (work->step - 1)) + 1);
		spin_lock(&vm->mmu_lock);
		mkvm_test_hold_begin();
		r |= work->fn(vm, as, first, next, work->arg);
		mkvm_test_hold_end();
		spin_unlock(&vm->mmu_lock);
	}
	return r;
}

static bool for_each_range_in(struct mkvm *vm, unsigned int as, unsigned long start,
			      unsigned long end, const struct range_work *work)
{
	struct mkvm_memslots *slots = srcu_dereference(vm->slots[as], &vm->srcu);
	bool r = false;
	u32 i;

	for (i = 0; i < slots->nr; i++) {
		const struct mkvm_memslot *s = &slots->slot[i];
		unsigned long slot_end = s->hva + (s->npages << PAGE_SHIFT);
		unsigned long from = max(start, s->hva), to = min(end, slot_end);

		if (from >= to)
			continue;
		r |= do_range(vm, as, s->gfn + ((from - s->hva) >> PAGE_SHIFT),
			      s->gfn + ((to - s->hva + PAGE_SIZE - 1) >> PAGE_SHIFT), work);
		if (!work->may_sleep)
			continue;
		mkvm_test_point(MKVM_POINT_ZAP);
		cond_resched();
	}
	return r;
}

/*
 * Does the work on the guest frames of each slot that overlaps host addresses [start, end). Any
 * number of slots can share the range, so each hold of mmu_lock is for one of them only.
 */
static bool for_each_range(struct mkvm *vm, unsigned long start, unsigned long end,
			   const struct range_work *work)
{
	bool r = false;
	int as;

	for (as = 0; as < MKVM_NR_AS; as++)
		r |= for_each_range_in(vm, as, start, end, work);
	return r;
}

static bool zap_range(struct mkvm *vm, unsigned int as, u64 first, u64 end, void *cut)
{
	tdp_zap(vm, as, first, end, cut);
	return true;
}

/* Has any leaf in the range been accessed since the last time? *clear: clear the accessed bits. */
static bool range_young(struct mkvm *vm, unsigned int as, u64 first, u64 end, void *clear)
{
	u64 gfn, accessed = mkvm_hw->tdp.accessed;
	bool young = false;
	int l;

	for (gfn = first; gfn < end; gfn = (gfn | (PAGES_PER(l) - 1)) + 1) {
		u64 *entry = tdp_find(vm->tdp[as].root, gfn, &l);

		mkvm_test_hold_step();
		if (!tdp_present(*entry) || !(*entry & accessed))
			continue;
		young = true;
		if (*(bool *)clear)
			clear_bit(__ffs(accessed), (unsigned long *)entry);
	}
	return young;
}

/*
 * Once invalidate_running is set, no fault maps a page of the range, so ranges that have been
 * zapped stay zapped. It does not sleep if the range is not blockable.
 */
static int mn_invalidate_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct mkvm *vm = container_of(mn, struct mkvm, notifier);
	bool may_sleep = mmu_notifier_range_blockable(range);
	int idx = srcu_read_lock(&vm->srcu);
	LIST_HEAD(cut);
	const struct range_work work = {
		.fn = zap_range,
		.arg = &cut,
		.step = PAGES_PER(TDP_LEVELS + 1),	/* all at once: see tdp_zap_table */
		.may_sleep = may_sleep,
	};

	spin_lock(&vm->mmu_lock);
	if (!vm->invalidate_running++) {
		vm->invalidate_start = range->start;
		vm->invalidate_end = range->end;
	} else {
		vm->invalidate_start = min(vm->invalidate_start, range->start);
		vm->invalidate_end = max(vm->invalidate_end, range->end);
	}
	spin_unlock(&vm->mmu_lock);
	if (for_each_range(vm, range->start, range->end, &work)) {
		spin_lock(&vm->mmu_lock);
		flush_stale(vm);
		spin_unlock(&vm->mmu_lock);
		tdp_free_cut(vm, &cut, may_sleep);
	}
	srcu_read_unlock(&vm->srcu, idx);
	return 0;
}

static void mn_invalidate_end(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct mkvm *vm = container_of(mn, struct mkvm, notifier);

	spin_lock(&vm->mmu_lock);
	vm->invalidate_seq++;
	vm->invalidate_running--;
	spin_unlock(&vm->mmu_lock);
}

/*
 * The range is one page of the host, of up to 1 GiB, under which we may have a leaf for each 4 KiB.
 * Context: the caller may hold spinlocks of the host's page tables, so this cannot sleep between
 * two steps.
 */
static int young_in(struct mmu_notifier *mn, unsigned long start, unsigned long end, bool clear,
		    bool flush)
{
	struct mkvm *vm = container_of(mn, struct mkvm, notifier);
	const struct range_work work = { .fn = range_young, .arg = &clear, .step = PAGES_PER(2) };
	int idx = srcu_read_lock(&vm->srcu);
	bool young;

	young = for_each_range(vm, start, end, &work);
	if (young && flush)
		mkvm_tdp_flush(vm);
	srcu_read_unlock(&vm->srcu, idx);
	return young;
}

static mkvm_young_t mn_clear_flush_young(struct mmu_notifier *mn, struct mm_struct *mm,
					 unsigned long start, unsigned long end)
{
	return young_in(mn, start, end, true, true);
}

static mkvm_young_t mn_clear_young(struct mmu_notifier *mn, struct mm_struct *mm,
				   unsigned long start, unsigned long end)
{
	return young_in(mn, start, end, true, false);
}

static mkvm_young_t mn_test_young(struct mmu_notifier *mn, struct mm_struct *mm,
				  unsigned long address)
{
	return young_in(mn, address, address + PAGE_SIZE, false, false);
}

static void zap_all(struct mkvm *vm)
{
	int as;

	for (as = 0; as < MKVM_NR_AS; as++)
		mkvm_tdp_zap_gfns(vm, as, 0, PAGES_PER(TDP_LEVELS + 1));
}

/* The process is exiting, and its memory is about to be freed. */
static void mn_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct mkvm *vm = container_of(mn, struct mkvm, notifier);

	zap_all(vm);
}

static const struct mmu_notifier_ops notifier_ops = {
	.release = mn_release,
	.invalidate_range_start = mn_invalidate_start,
	.invalidate_range_end = mn_invalidate_end,
	.clear_flush_young = mn_clear_flush_young,
	.clear_young = mn_clear_young,
	.test_young = mn_test_young,
};

static int create_root(struct mkvm *vm, unsigned int as)
{
	u64 *root = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT), *top;

	vm->tdp[as].root = root;
	if (!root)
		return -ENOMEM;
	vm->tdp[as].root_pa = __pa(root);
	if (!mkvm_hw->tdp_five_levels())
		return 0;
	/* Guest-physical addresses have 48 bits: only the first entry is ever used. */
	top = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	vm->tdp[as].top = top;
	if (!top)
		return -ENOMEM;
	top[0] = __pa(root) | mkvm_hw->tdp.table;
	vm->tdp[as].root_pa = __pa(top);
	return 0;
}

static void free_roots(struct mkvm *vm)
{
	int as;

	for (as = 0; as < MKVM_NR_AS; as++) {
		free_page((unsigned long)vm->tdp[as].top);
		free_page((unsigned long)vm->tdp[as].root);
	}
}

/*
 * mkvm_tdp_create - create a VM's empty second-level tables and register its MMU notifier
 *
 * Return: 0, -ENOMEM, -EINTR. Context: takes the mmap_lock of vm->mm; may sleep.
 */
int mkvm_tdp_create(struct mkvm *vm)
{
	int as, r = 0;

	for (as = 0; as < MKVM_NR_AS && !r; as++)
		r = create_root(vm, as);
	vm->notifier.ops = &notifier_ops;
	if (!r)
		r = mmu_notifier_register(&vm->notifier, vm->mm);
	if (r)
		free_roots(vm);
	return r;
}

/* mkvm_tdp_destroy - free the tables. Context: no vCPU runs and the notifier is unregistered. */
void mkvm_tdp_destroy(struct mkvm *vm)
{
	zap_all(vm);
	free_roots(vm);
}
