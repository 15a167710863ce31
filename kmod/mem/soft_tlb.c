// SPDX-License-Identifier: GPL-2.0
/*
 * soft_tlb.c - a TLB filled by software, for a guest whose page tables are not in RAM.
 *
 * A CPU with nested paging treats its reads of the guest's page tables as writes (Intel's: while
 * EPT has accessed bits), because it may set accessed and dirty bits. So it cannot walk tables in
 * read-only memory, and absent memory cannot answer it with all ones, as a bus without a device
 * does. For such a guest mkvm_walk does the walks in software and drops their writes to read-only
 * memory. The CPU walks shadow tables instead, which hold the translations of the pages that the
 * guest has used. To the guest these tables are a TLB, and whatever flushes a TLB empties them. The
 * CPU finds them in a private guest-physical address space:
 *
 *   the page that CR3 names	the top-level shadow table, so that CR3 need not change
 *   SOFT_TABLES pages at base	the other shadow tables
 *   SOFT_PAGES after them	windows: each maps one page of the guest's memory
 *
 * The linear addresses that the guest accesses do not change; the second-level tables (tdp.c)
 * determine which page a window maps and whether it is writable. The mode ends with any change of
 * CR0, CR3, CR4, EFER or the address space, and starts again at the next walk that the CPU
 * cannot do.
 *
 * State: vcpu->soft_tlb.tlb, which only the vCPU's thread accesses.
 *
 * Read next: mkvm_walk in insn/walk.c, svm_set_soft_tlb in svm/svm.c, vmx_set_soft_tlb in
 * vmx/vmx.c.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <asm/trap_pf.h>

#include "internal.h"
#include "hw_ops.h"

#define SOFT_TABLES	128
#define SOFT_PAGES	(512 - SOFT_TABLES)	/* one second-level table maps both */
#define NPT_PAGES	8			/* fifth level, root, three for each range */

#define PTE_P		BIT_ULL(0)
#define PTE_W		BIT_ULL(1)
#define PTE_U		BIT_ULL(2)
#define PTE_A		BIT_ULL(5)
#define PTE_D		BIT_ULL(6)
#define PTE_KEY		GENMASK_ULL(62, 59)
#define PTE_NX		BIT_ULL(63)
#define PTE_ADDR	0x000ffffffffff000ULL

/* The page that one window maps. */
struct soft_page {
	u64 la;		/* a linear address of the page, for walks that set its dirty bit */
	u64 gfn;
	bool dirty;	/* its dirty bit is set in the guest's tables, so it may be writable */
};

struct mkvm_soft_tlb {
	u64 cr3;			/* the guest's CR3, which finds the top table */
	u64 base;			/* where tables and windows are; a multiple of 1 GiB */
	u64 *npt[NPT_PAGES];		/* second-level tables of the private space */
	u8 nr_npt;			/* number of them in use */
	u64 *leaves;			/* the one of them that maps tables and windows */
	void *top;
	void *table[SOFT_TABLES];	/* allocated when first used */
	unsigned int nr_tables, nr_pages;
	unsigned int fault;		/* window of the second-level fault being handled */
	struct soft_page page[SOFT_PAGES];
};

/* mkvm_soft_free - free the shadow tables. Context: the vCPU can no longer run. */
void mkvm_soft_free(struct mkvm_vcpu *vcpu)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;
	int i;

	if (!soft)
		return;
	for (i = 0; i < NPT_PAGES; i++)
		free_page((unsigned long)soft->npt[i]);
	for (i = 0; i < SOFT_TABLES; i++)
		free_page((unsigned long)soft->table[i]);
	free_page((unsigned long)soft->top);
	kvfree(soft);
	vcpu->soft_tlb.tlb = NULL;
}

static int soft_alloc(struct mkvm_vcpu *vcpu)
{
	struct mkvm_soft_tlb *soft = kvzalloc(sizeof(*soft), GFP_KERNEL_ACCOUNT);
	int i;

	vcpu->soft_tlb.tlb = soft;
	if (!soft)
		return -ENOMEM;
	soft->top = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	for (i = 0; i < NPT_PAGES && soft->top; i++) {
		soft->npt[i] = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
		if (!soft->npt[i])
			break;
	}
	if (i == NPT_PAGES)
		return 0;
	mkvm_soft_free(vcpu);
	return -ENOMEM;
}

/* ---- the private address space ---- */

static u64 *next_npt(struct mkvm_soft_tlb *soft)
{
	u64 *table = soft->npt[soft->nr_npt++];

	memset(table, 0, PAGE_SIZE);
	return table;
}

/* Returns the last-level table that maps gpa, and creates it if it does not exist. */
static u64 *npt_leaves(struct mkvm_soft_tlb *soft, u64 *table, u64 gpa)
{
	int shift;

	for (shift = 39; shift > 12; shift -= 9) {
		u64 *entry = &table[gpa >> shift & 511];

		if (!*entry)
			*entry = __pa(next_npt(soft)) | mkvm_hw->tdp.table;
		table = __va(*entry & PTE_ADDR);
	}
	return table;
}

static u64 npt_leaf(void *page)
{
	return __pa(page) | mkvm_hw->tdp.leaf | mkvm_hw->tdp.write;
}

/*
 * Builds the private address space, with an empty top table at CR3's page. Returns the physical
 * address of its root.
 */
static u64 build_space(struct mkvm_soft_tlb *soft)
{
	u64 top_gpa = soft->cr3 & PTE_ADDR & GENMASK_ULL(47, 0), *root, *outer;

	soft->nr_npt = 0;
	soft->base = top_gpa >> 30 ? 0 : BIT_ULL(30);
	root = next_npt(soft);
	npt_leaves(soft, root, top_gpa)[top_gpa >> PAGE_SHIFT & 511] = npt_leaf(soft->top);
	soft->leaves = npt_leaves(soft, root, soft->base);
	if (!mkvm_hw->tdp_five_levels())
		return __pa(root);
	outer = next_npt(soft);
	outer[0] = __pa(root) | mkvm_hw->tdp.table;
	return __pa(outer);
}

/*
 * mkvm_soft_flush - drop all translations of the guest's page tables
 *
 * The caller also flushes the CPU's TLB. Context: the vCPU's own thread; interrupts may be off.
 */
void mkvm_soft_flush(struct mkvm_vcpu *vcpu)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;

	memset(soft->top, 0, PAGE_SIZE);
	memset(soft->leaves, 0, PAGE_SIZE);
	soft->nr_tables = 0;
	soft->nr_pages = 0;
}

/*
 * mkvm_soft_begin - walk the guest's page tables in software, from the next entry on
 *
 * Return: 1, or -ENOMEM.
 * Context: the vCPU's own thread, may sleep; the guest has paging enabled.
 */
int mkvm_soft_begin(struct mkvm_vcpu *vcpu)
{
	struct mkvm_mode mode;

	if (!vcpu->soft_tlb.tlb && soft_alloc(vcpu))
		return -ENOMEM;
	mkvm_hw->get_mode(vcpu, &mode);
	vcpu->soft_tlb.tlb->cr3 = mode.efer & EFER_LMA ? mode.cr3 : (u32)mode.cr3;
	mkvm_hw->set_soft_tlb(vcpu, build_space(vcpu->soft_tlb.tlb));
	mkvm_soft_flush(vcpu);
	return 1;
}

/* ---- filling ---- */

/* The format of the guest's tables, and of the shadow tables. */
struct paging {
	unsigned int levels, bits;	/* bits: of an address, for each level */
	bool lm, wide;
};

static struct paging get_paging(struct mkvm_vcpu *vcpu)
{
	struct mkvm_mode mode;
	struct paging p;

	mkvm_hw->get_mode(vcpu, &mode);
	p.lm = mode.efer & EFER_LMA;
	p.wide = p.lm || (mode.cr4 & X86_CR4_PAE);
	p.levels = p.wide ? 3 : 2;
	if (p.lm)
		p.levels = 4;
	p.bits = p.wide ? 9 : 10;
	return p;
}

static u64 get_entry(const struct paging *p, const void *table, unsigned int i)
{
	return p->wide ? ((const u64 *)table)[i] : ((const u32 *)table)[i];
}

static void set_entry(const struct paging *p, void *table, unsigned int i, u64 entry)
{
	if (p->wide)
		((u64 *)table)[i] = entry;
	else
		((u32 *)table)[i] = entry;
}

/*
 * Allocates an empty table and returns its address in the private space; 0 if all are in use, or
 * if memory is short.
 */
static u64 new_table(struct mkvm_soft_tlb *soft)
{
	unsigned int n = soft->nr_tables;

	if (n == SOFT_TABLES)
		return 0;
	if (!soft->table[n])
		soft->table[n] = (void *)__get_free_page(GFP_KERNEL_ACCOUNT);
	if (!soft->table[n])
		return 0;
	memset(soft->table[n], 0, PAGE_SIZE);
	soft->leaves[n] = npt_leaf(soft->table[n]);
	soft->nr_tables++;
	return soft->base + n * PAGE_SIZE;
}

/* Returns the last-level table for la and the index in it; NULL if there is no room. */
static void *last_table(struct mkvm_soft_tlb *soft, const struct paging *p, u64 la,
			unsigned int *index)
{
	void *table = soft->top + (p->wide && !p->lm ? soft->cr3 & 0xfe0 : 0);
	unsigned int level, shift = PAGE_SHIFT + p->bits * p->levels;
	u64 entry;

	for (level = p->levels;; level--) {
		shift -= p->bits;
		*index = la >> shift & ((1 << p->bits) - 1);
		if (level == 1)
			return table;
		entry = get_entry(p, table, *index);
		if (!entry) {
			entry = new_table(soft);
			if (!entry)
				return NULL;
			/* PDPTEs of PAE paging have no access rights. */
			entry |= level == 3 && !p->lm ? PTE_P : PTE_P | PTE_W | PTE_U | PTE_A;
			set_entry(p, table, *index, entry);
		}
		table = soft->table[((entry & PTE_ADDR) - soft->base) >> PAGE_SHIFT];
	}
}

static u64 *window_leaf(struct mkvm_soft_tlb *soft, unsigned int n)
{
	return &soft->leaves[SOFT_TABLES + n];
}

/* Copies the second-level entry of window n's page, if there is one, into the window. */
static void show_page(struct mkvm_vcpu *vcpu, unsigned int n)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;
	u64 leaf = mkvm_tdp_leaf(vcpu, soft->page[n].gfn);

	if (!soft->page[n].dirty)
		leaf &= ~mkvm_hw->tdp.write;
	WRITE_ONCE(*window_leaf(soft, n), leaf);
}

/*
 * Returns the shadow entry for a translation by the guest's tables. D is set, as the window itself
 * is read-only until the first write.
 */
static u64 rights(const struct mkvm_translation *t)
{
	return PTE_P | PTE_A | PTE_D | (t->all & (PTE_W | PTE_U)) | (t->any & PTE_NX) |
	       (t->leaf & PTE_KEY);
}

/* Enters a translation into the shadow tables; false if they are full. */
static bool soft_enter(struct mkvm_vcpu *vcpu, u64 la, const struct mkvm_translation *t, bool write)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;
	struct paging p = get_paging(vcpu);
	unsigned int index, n;
	void *table = last_table(soft, &p, p.lm ? la : (u32)la, &index);
	u64 old;

	if (!table)
		return false;
	old = get_entry(&p, table, index);
	n = old ? ((old & PTE_ADDR) - soft->base) / PAGE_SIZE - SOFT_TABLES : soft->nr_pages;
	if (n == SOFT_PAGES)
		return false;
	if (old)		/* the CPU may have cached the old entry */
		mkvm_hw->set_soft_tlb(vcpu, vcpu->soft_tlb.root);
	else
		soft->nr_pages++;
	soft->page[n] = (struct soft_page) {
		.la = la, .gfn = t->gpa >> PAGE_SHIFT, .dirty = write || (t->leaf & PTE_D),
	};
	set_entry(&p, table, index, (soft->base + (SOFT_TABLES + n) * PAGE_SIZE) | rights(t));
	show_page(vcpu, n);
	return true;
}

/*
 * mkvm_handle_soft_fault - handle a #PF while software does the walks
 * @error: the CPU's error code
 *
 * Either the guest's tables cause it, and the guest gets it, or a shadow entry is missing. Return:
 * as handle_exit. Context: the vCPU's own thread; takes vm->srcu; may sleep.
 */
int mkvm_handle_soft_fault(struct mkvm_vcpu *vcpu, u64 la, u32 error)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu), r = 1;
	struct mkvm_translation t;
	bool write = error & X86_PF_WRITE;

	switch (mkvm_walk(vcpu, la, error & (X86_PF_WRITE | X86_PF_USER | X86_PF_INSTR), &t)) {
	case MKVM_EMU_DONE:
		if (soft_enter(vcpu, la, &t, write))
			break;
		mkvm_hw->flush_tlb(vcpu);
		if (!soft_enter(vcpu, la, &t, write))
			r = -ENOMEM;
		break;
	case MKVM_EMU_FAULT:
		mkvm_queue_page_fault(vcpu, la, t.error);
		break;
	case MKVM_EMU_RETRY:
		break;
	default:
		r = -EFAULT;
	}
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/* ---- second-level faults ---- */

/*
 * mkvm_soft_fault_gpa - translate the address of a second-level fault
 * @gpa: in: address in the private space; out: guest-physical address
 *
 * The first write to a page sets the dirty bit in the guest's tables. Return: 0; 1 if the fault is
 * stale, so the guest must be entered again. Context: the vCPU's own thread, vm->srcu held; may
 * sleep.
 */
int mkvm_soft_fault_gpa(struct mkvm_vcpu *vcpu, u64 *gpa, bool write)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;
	u64 n = ((*gpa - soft->base) >> PAGE_SHIFT) - SOFT_TABLES;
	struct mkvm_translation t;

	if (n >= soft->nr_pages) {	/* a task switch has changed CR3 */
		mkvm_hw->set_soft_tlb(vcpu, 0);
		return 1;
	}
	if (write && !soft->page[n].dirty) {
		/* The CPU has checked that the guest's tables allow the write. */
		if (mkvm_walk(vcpu, soft->page[n].la, X86_PF_WRITE | MKVM_WALK_UNCHECKED, &t) !=
			    MKVM_EMU_DONE ||
		    t.gpa >> PAGE_SHIFT != soft->page[n].gfn) {
			mkvm_hw->flush_tlb(vcpu);
			return 1;
		}
		soft->page[n].dirty = true;
	}
	soft->fault = n;
	*gpa = soft->page[n].gfn << PAGE_SHIFT | (*gpa & ~PAGE_MASK);
	return 0;
}

/*
 * mkvm_soft_space - return the level-4 table of the private address space
 * @gpa: out: address in the private space of the window whose fault is being handled
 *
 * Context: the vCPU's own thread.
 */
u64 *mkvm_soft_space(struct mkvm_vcpu *vcpu, u64 *gpa)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;

	*gpa = soft->base + (SOFT_TABLES + soft->fault) * PAGE_SIZE;
	return soft->npt[0];
}

/*
 * mkvm_soft_pdpte - return entry i of the four that PAE paging has in registers
 *
 * In other paging modes the value has no meaning. Context: the vCPU's own thread; interrupts may be
 * off.
 */
u64 mkvm_soft_pdpte(struct mkvm_vcpu *vcpu, unsigned int i)
{
	struct mkvm_soft_tlb *soft = vcpu->soft_tlb.tlb;

	return ((u64 *)(soft->top + (soft->cr3 & 0xfe0)))[i];
}

/*
 * mkvm_soft_mapped - update the window after its page's second-level fault has been handled
 *
 * Context: the vCPU's own thread.
 */
void mkvm_soft_mapped(struct mkvm_vcpu *vcpu)
{
	show_page(vcpu, vcpu->soft_tlb.tlb->fault);
}
