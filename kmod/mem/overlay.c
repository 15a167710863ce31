// SPDX-License-Identifier: GPL-2.0
/*
 * overlay.c - maps a writable copy of one page of ROM for one entry, for accessed and busy bits of
 * descriptors.
 *
 * A CPU that loads a segment from a descriptor without the accessed bit writes that bit to the
 * table. A bus drops such a write to ROM. If the emulator does not know the instruction, the CPU
 * gets a copy of the page through second-level tables that belong to its vCPU and differ from the
 * VM's in this page only. The next exit drops the tables, the copy and with it the write. All other
 * vCPUs see the ROM throughout.
 *
 * State: vcpu->overlay.copy, vcpu->overlay.root; only the vCPU's thread accesses them.
 *
 * Read next: tdp.c.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"
#include "hw_ops.h"

struct mkvm_overlay {
	u64 *table[5];		/* indexed by level - 1; the fifth is used if the CPU walks five */
	void *page;
};

/* mkvm_overlay_free - free the tables and the copy. Context: the vCPU can no longer run. */
void mkvm_overlay_free(struct mkvm_vcpu *vcpu)
{
	struct mkvm_overlay *o = vcpu->overlay.copy;
	int i;

	if (!o)
		return;
	for (i = 0; i < ARRAY_SIZE(o->table); i++)
		free_page((unsigned long)o->table[i]);
	free_page((unsigned long)o->page);
	kfree(o);
	vcpu->overlay.copy = NULL;
}

static bool overlay_alloc(struct mkvm_vcpu *vcpu)
{
	struct mkvm_overlay *o = kzalloc(sizeof(*o), GFP_KERNEL_ACCOUNT);
	int i;

	vcpu->overlay.copy = o;
	if (!o)
		return false;
	o->page = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	for (i = 0; i < ARRAY_SIZE(o->table) && o->page; i++) {
		o->table[i] = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
		if (!o->table[i])
			break;
	}
	if (i == ARRAY_SIZE(o->table))
		return true;
	mkvm_overlay_free(vcpu);
	return false;
}

/* Is gpa within the descriptor table at base, which may wrap at the end of the address space? */
static bool in_table(struct mkvm_vcpu *vcpu, u64 base, u16 limit, u64 gpa)
{
	u32 off = (u32)(gpa - base) & ~PAGE_MASK;	/* the first byte at gpa's page offset */
	u64 at;

	for (; off <= limit; off += PAGE_SIZE)
		if (mkvm_translate(vcpu, base + off, &at) && at == gpa)
			return true;
	return false;
}

static bool in_descriptors(struct mkvm_vcpu *vcpu, u64 gpa)
{
	struct kvm_segment ldt;
	struct kvm_dtable gdt;

	mkvm_hw->get_dt(vcpu, false, &gdt);
	if (in_table(vcpu, gdt.base, gdt.limit, gpa))
		return true;
	mkvm_hw->get_segment(vcpu, MKVM_LDTR, &ldt);
	return !ldt.unusable && (ldt.selector & ~3) &&
	       in_table(vcpu, ldt.base, min(ldt.limit, 0xffffU), gpa);
}

/* Maps the copy. Returns false if memory is short, or if the vendor code cannot single-step. */
static bool overlay_begin(struct mkvm_vcpu *vcpu, u64 gpa, bool step)
{
	void __user *from = mkvm_gpa_to_user(vcpu, gpa & PAGE_MASK, false);
	u64 *from_root = vcpu->vm->tdp[vcpu->smm.active].root, root_pa;
	struct mkvm_overlay *o = vcpu->overlay.copy;

	if (!from || (!o && !overlay_alloc(vcpu)))
		return false;
	o = vcpu->overlay.copy;
	if (copy_from_user(o->page, from, PAGE_SIZE))
		return false;
	if (vcpu->soft_tlb.root)
		from_root = mkvm_soft_space(vcpu, &gpa);
	mkvm_tdp_clone_path(vcpu->vm, from_root, o->table, gpa, __pa(o->page));
	root_pa = __pa(o->table[3]);
	if (mkvm_hw->tdp_five_levels()) {
		o->table[4][0] = root_pa | mkvm_hw->tdp.table;
		root_pa = __pa(o->table[4]);
	}
	if (!mkvm_hw->use_root(vcpu, root_pa, step))
		return false;
	vcpu->overlay.root = root_pa;
	return true;
}

/*
 * mkvm_overlay_end - drop the copy, after each exit and when TLBs must be flushed
 *
 * Context: the vCPU's own thread; interrupts may be off.
 */
void mkvm_overlay_end(struct mkvm_vcpu *vcpu)
{
	vcpu->overlay.root = 0;
	mkvm_hw->use_root(vcpu, 0, false);
}

/*
 * mkvm_overlay_fault - handle a write to read-only memory that sets a bit in a descriptor
 *
 * Instructions that the emulator knows are left to it, because the write may be the guest's own.
 * Return: true if the copy is mapped, so the guest can be entered again.
 * Context: the vCPU's own thread, vm->srcu held, may sleep; no event was being delivered.
 */
bool mkvm_overlay_fault(struct mkvm_vcpu *vcpu, u64 gpa)
{
	return !mkvm_insn_is_emulated(vcpu) && in_descriptors(vcpu, gpa) &&
	       overlay_begin(vcpu, gpa, true);
}
