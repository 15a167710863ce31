// SPDX-License-Identifier: GPL-2.0
/*
 * walk.c - walks the guest's page tables as a CPU does: makes all checks, and sets the accessed
 * and dirty bits.
 *
 * State: none. Entries are read from guest memory, and their bits are set there by compare-and-
 * exchange.
 *
 * Manual: AMD APM vol. 2, "Page Translation and Protection".
 *
 * Read next: mem/memslot.c, access.c.
 */
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>
#include <asm/pkru.h>

#include "emulate.h"
#include "internal.h"
#include "hw_ops.h"
#include "explain/testpoint.h"

#define PTE_P	BIT_ULL(0)
#define PTE_W	BIT_ULL(1)
#define PTE_U	BIT_ULL(2)
#define PTE_A	BIT_ULL(5)
#define PTE_D	BIT_ULL(6)
#define PTE_PS	BIT_ULL(7)
#define PTE_NX	BIT_ULL(63)
#define PTE_ADDR 0x000ffffffffff000ULL

static enum mkvm_emu_result page_fault(struct mkvm_emu *emu, u64 la, u32 error)
{
	bool reports_fetch = (emu->mode.efer & EFER_NX) || (emu->mode.cr4 & X86_CR4_SMEP);

	emu->fault.vector = X86_TRAP_PF;
	emu->fault.has_error = true;
	emu->fault.error = reports_fetch ? error : error & ~ACC_FETCH;
	emu->fault.cr2 = la;
	return MKVM_EMU_FAULT;
}

/*
 * The part of guest memory in which a walk has found an entry: the entries of one walk are mostly
 * in one slot, which then is looked up once. It is valid while vm->srcu is held.
 */
struct span {
	u64 start, size;	/* guest-physical, in bytes; size is 0 before the first entry */
	unsigned long hva;
};

/* Finds the slot of gpa. Returns false if the guest has no memory there. */
static noinline bool find_span(struct mkvm_vcpu *vcpu, struct span *span, u64 gpa)
{
	const struct mkvm_memslot *slot = mkvm_gfn_to_slot(vcpu, gpa >> PAGE_SHIFT);

	if (!slot)
		return false;
	span->start = slot->gfn << PAGE_SHIFT;
	span->size = slot->npages << PAGE_SHIFT;
	span->hva = slot->hva;
	return true;
}

/*
 * Reads one entry of 4 or 8 bytes. Where the guest has no memory it reads all ones, as on a bus
 * without a device. Returns as mkvm_emu_host_fault if the host has no memory there.
 */
static __always_inline enum mkvm_emu_result read_entry(struct mkvm_emu *emu, struct span *span,
						       u64 gpa, bool wide, u64 *entry)
{
	const void __user *p;
	u32 narrow;
	int r;

	if (unlikely(gpa - span->start >= span->size) && !find_span(emu->vcpu, span, gpa)) {
		*entry = wide ? ~0ULL : ~0U;
		return MKVM_EMU_DONE;
	}
	/* The guest chooses the address; a CPU that speculates past the check stays in the slot. */
	p = (void __user *)(span->hva + array_index_nospec(gpa - span->start, span->size));
	/* memslot.c has done access_ok() for the whole slot. */
	if (likely(wide)) {
		r = __get_user(*entry, (u64 __user *)p);
	} else {
		r = __get_user(narrow, (u32 __user *)p);
		*entry = narrow;
	}
	return unlikely(r) ? mkvm_emu_host_fault(emu, p, false) : MKVM_EMU_DONE;
}

/*
 * Sets A and D bits in an entry if its lower half still equals old; AGAIN if it has changed.
 * Read-only memory stays as it is: the bus drops the write, which a CPU does not notice.
 */
static noinline enum mkvm_emu_result set_bits(struct mkvm_emu *emu, u64 gpa, u32 old, u32 bits)
{
	u32 __user *p = mkvm_gpa_to_user(emu->vcpu, gpa, true);
	bool done;

	mkvm_test_point(MKVM_POINT_WALK);
	if (!p)
		return MKVM_EMU_DONE;
	if (!user_access_begin(p, sizeof(*p)))
		return MKVM_EMU_UNHANDLED;
	done = unsafe_try_cmpxchg_user(p, &old, old | bits, fault);
	user_access_end();
	mkvm_mark_dirty(emu->vcpu, gpa);
	return done ? MKVM_EMU_DONE : MKVM_EMU_AGAIN;
fault:
	user_access_end();
	return mkvm_emu_host_fault(emu, p, true);
}

/* Calls set_bits if any of the bits is clear, which is rare. */
static __always_inline enum mkvm_emu_result want_bits(struct mkvm_emu *emu, u64 gpa, u32 old,
						      u32 bits)
{
	return likely(!(bits & ~old)) ? MKVM_EMU_DONE : set_bits(emu, gpa, old, bits);
}

/*
 * Do the page-table entries allow the access? all and any are the entries of all levels, ANDed and
 * ORed.
 * AMD APM vol. 2, "Page-Protection Checks".
 */
static bool allowed(const struct mkvm_emu *emu, u64 all, u64 any, u32 acc)
{
	const struct mkvm_mode *m = &emu->mode;

	if ((acc & ACC_USER) && !(all & PTE_U))
		return false;
	if ((acc & ACC_WRITE) && !(all & PTE_W) && ((acc & ACC_USER) || (m->cr0 & X86_CR0_WP)))
		return false;
	if ((acc & ACC_FETCH) && (any & PTE_NX))
		return false;
	if ((acc & ACC_USER) || !(all & PTE_U))
		return true;
	if (acc & ACC_FETCH)
		return !(m->cr4 & X86_CR4_SMEP);
	return !(m->cr4 & X86_CR4_SMAP) || (emu->rflags & X86_EFLAGS_AC);
}

/*
 * With CR4.PKE set, does the leaf's protection key allow the access? AMD APM vol. 2, "Memory
 * Protection Keys (MPK) Bit".
 */
static bool key_allows(const struct mkvm_emu *emu, u64 leaf, u64 all, u32 acc)
{
	const struct mkvm_mode *m = &emu->mode;
	u32 pkru = emu->vcpu->fpu.pkru;
	u16 key = leaf >> 59 & 15;

	if (!(m->efer & EFER_LMA) || (acc & ACC_FETCH) || !(all & PTE_U))
		return true;
	if ((acc & ACC_WRITE) && ((acc & ACC_USER) || (m->cr0 & X86_CR0_WP)))
		return __pkru_allows_write(pkru, key);
	return __pkru_allows_read(pkru, key);
}

/*
 * Performs one walk, with a CPU's checks and A and D bits. levels is 4 in long mode, 3 with PAE,
 * else 2; callers pass a constant, for speed. AGAIN: an entry has changed during the walk.
 */
static __always_inline enum mkvm_emu_result walk(struct mkvm_emu *emu, u64 la, u32 acc, u64 *gpa,
						 unsigned int levels)
{
	const struct mkvm_mode *m = &emu->mode;
	bool lm = levels == 4, wide = levels > 2, leaf;
	unsigned int bits = wide ? 9 : 10, level = levels, shift = 12 + bits * levels;
	u64 no_nx = m->efer & EFER_NX ? 0 : PTE_NX;
	u64 reserved = wide ? emu->vcpu->guest_cpuid.gpa_reserved | no_nx : 0;
	u64 narrow_root = wide ? 0xffffffe0 : 0xfffff000;
	u64 table = m->cr3 & (lm ? PTE_ADDR : narrow_root);
	u64 entry, at, mask, all = ~0ULL, any = 0;
	struct span span = { };
	enum mkvm_emu_result r;
	u32 want;

	for (;; level--) {
		shift -= bits;
		at = table + (la >> shift & ((1 << bits) - 1)) * (wide ? 8 : 4);
		r = read_entry(emu, &span, at, wide, &entry);
		if (unlikely(r))
			return r;
		if (!(entry & PTE_P))
			return page_fault(emu, la, acc);
		leaf = level == 1 || ((entry & PTE_PS) && (wide || (m->cr4 & X86_CR4_PSE)));
		if (unlikely((entry & reserved) || (leaf && level > (lm ? 3 : 2))))
			return page_fault(emu, la, acc | ACC_PRESENT | ACC_RESERVED);
		want = PTE_A;
		if (likely(lm || level < 3)) {
			all &= entry;
			any |= entry;
		} else {		/* PDPTEs of PAE paging have no rights and no A bit */
			want = 0;
		}
		if (leaf)
			break;
		r = want_bits(emu, at, entry, want);
		if (r)
			return r;
		table = entry & PTE_ADDR;
	}
	if (!allowed(emu, all, any, acc))
		return page_fault(emu, la, acc | ACC_PRESENT);
	if (unlikely(m->cr4 & X86_CR4_PKE) && !key_allows(emu, entry, all, acc))
		return page_fault(emu, la, acc | ACC_PRESENT | ACC_KEY);
	if (acc & ACC_WRITE)
		want |= PTE_D;
	r = want_bits(emu, at, entry, want);
	if (r)
		return r;
	emu->walked.all = all;
	emu->walked.any = any;
	emu->walked.leaf = entry;
	mask = (1ULL << shift) - 1;
	*gpa = (entry & PTE_ADDR & ~mask) | (la & mask);
	if (!wide && level == 2)	/* PSE-36: bits 20:13 hold address bits 39:32 */
		*gpa |= (entry >> 13 & 0xff) << 32;
	return MKVM_EMU_DONE;
}

/*
 * An entry of the guest's tables has changed during a walk: may it be repeated? Other vCPUs can
 * keep changing entries, so a signal ends the loop. If the instruction already has side effects
 * (patient), the walk cannot be postponed, and the signal only counts after many walks.
 */
static bool may_walk_again(const struct mkvm_emu *emu, unsigned int walks)
{
	cond_resched();
	return !signal_pending(current) || (emu->patient && walks < 10000);
}

/* Translates a linear address to a guest-physical one (internal.h). */
enum mkvm_emu_result mkvm_emu_translate(struct mkvm_emu *emu, u64 la, u32 acc, u64 *gpa)
{
	const struct mkvm_mode *m = &emu->mode;
	enum mkvm_emu_result r;
	unsigned int walks = 0;

	if (!m->cs_l || !(m->efer & EFER_LMA))
		la = (u32)la;
	*gpa = la;
	if (!(m->cr0 & X86_CR0_PG))
		return MKVM_EMU_DONE;
	if (m->cpl == 3)
		acc |= ACC_USER;
	do {
		if (likely(m->efer & EFER_LMA))
			r = walk(emu, la, acc, gpa, 4);
		else
			r = m->cr4 & X86_CR4_PAE ? walk(emu, la, acc, gpa, 3) :
						   walk(emu, la, acc, gpa, 2);
	} while (unlikely(r == MKVM_EMU_AGAIN) && may_walk_again(emu, ++walks));
	return unlikely(r == MKVM_EMU_AGAIN) ? MKVM_EMU_RETRY : r;
}

/*
 * mkvm_walk - walk the guest's page tables for one access, with a CPU's checks and A and D bits
 * @la: linear address
 * @access: bits of a #PF error code (write, user, fetch), or MKVM_WALK_UNCHECKED
 *
 * Return: DONE; FAULT with t->error; RETRY if a signal is pending or an entry keeps changing;
 * UNHANDLED if the host has no memory where an entry should be. If that memory has failed, the
 * thread has got SIGBUS.
 * Context: the vCPU's own thread, vm->srcu held, may sleep; the guest has paging enabled.
 */
enum mkvm_emu_result mkvm_walk(struct mkvm_vcpu *vcpu, u64 la, u32 access,
			       struct mkvm_translation *t)
{
	struct mkvm_emu emu = { .vcpu = vcpu };
	enum mkvm_emu_result r;

	mkvm_hw->get_mode(vcpu, &emu.mode);
	/* EFLAGS.AC does not affect the CPU's implicit supervisor accesses. */
	emu.rflags = emu.mode.cpl == 3 || vcpu->ev.vectoring ? 0 : vcpu->rflags;
	emu.mode.cpl = 0;
	emu.mode.cs_l = emu.mode.efer & EFER_LMA;
	if (access & MKVM_WALK_UNCHECKED) {
		emu.rflags = X86_EFLAGS_AC;
		emu.mode.cr0 &= ~(u64)X86_CR0_WP;
		emu.mode.cr4 &= ~(u64)X86_CR4_PKE;
	}
	r = mkvm_emu_translate(&emu, la, access & (ACC_WRITE | ACC_USER | ACC_FETCH), &t->gpa);
	t->all = emu.walked.all;
	t->any = emu.walked.any;
	t->leaf = emu.walked.leaf;
	t->error = emu.fault.error;
	return r;
}

/*
 * mkvm_translate - translate a linear address as for a supervisor read (KVM_TRANSLATE)
 *
 * The walk sets A bits, as a CPU's does. Return: false with *gpa set to ~0 if nothing is mapped at
 * la or la is not an address in the current mode.
 * Context: vcpu->mutex held, vCPU loaded; takes vm->srcu; may sleep.
 */
bool mkvm_translate(struct mkvm_vcpu *vcpu, u64 la, u64 *gpa)
{
	struct mkvm_emu emu = { .vcpu = vcpu, .rflags = X86_EFLAGS_AC,
				.patient = true, .asked = true };
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	bool mapped;

	mkvm_hw->get_mode(vcpu, &emu.mode);
	emu.mode.cpl = 0;
	emu.mode.cs_l = emu.mode.efer & EFER_LMA;
	mapped = (emu.mode.cs_l ? canonical(la) : !(la >> 32)) &&
		 mkvm_emu_translate(&emu, la, 0, gpa) == MKVM_EMU_DONE;
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	if (!mapped)
		*gpa = ~0ULL;
	return mapped;
}
