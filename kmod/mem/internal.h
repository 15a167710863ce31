/* SPDX-License-Identifier: GPL-2.0 */
/*
 * internal.h - functions that only the files of mem/ call. The front door is mem.h.
 *
 * Read next: tdp.c.
 */
#ifndef MKVM_MEM_INTERNAL_H
#define MKVM_MEM_INTERNAL_H

#include "mkvm.h"

/* memslot.c: the slot with this id and address space, or NULL. vm->slots_lock held. */
const struct mkvm_memslot *mkvm_slot_by_id(struct mkvm *vm, u32 id);

/* tdp.c: removes all mappings of the frames from first to end - 1. May sleep. */
void mkvm_tdp_zap_gfns(struct mkvm *vm, unsigned int as, u64 first, u64 end);
/* tdp.c: write-protects the frames of mask, bit 0: gfn. mmu_lock held. Return: flush needed? */
bool mkvm_tdp_write_protect(struct mkvm *vm, unsigned int as, u64 gfn, u64 mask);
/* tdp.c: see its comment there. Own thread; takes mmu_lock. */
void mkvm_tdp_clone_path(struct mkvm *vm, u64 *from, u64 **tables, u64 gpa, u64 page_pa);
/* tdp.c: the leaf that maps a frame now, 0: none. Own thread; takes mmu_lock. */
u64 mkvm_tdp_leaf(struct mkvm_vcpu *vcpu, u64 gfn);

/* soft_tlb.c: the tables of its that the CPU walks now, and the gpa there; NULL: not in use. */
u64 *mkvm_soft_space(struct mkvm_vcpu *vcpu, u64 *gpa);

#endif
