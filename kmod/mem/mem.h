/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mem.h - the front door of guest memory: slots, second-level tables, the dirty log. mkvm.h
 * includes it. internal.h has what only the files of mem/ call.
 *
 * The path of a second-level fault, from cpu/exit.c:
 *
 *   mkvm_gfn_to_slot (memslot.c)      finds the slot; none: MMIO, insn/ emulates the access
 *     -> mkvm_tdp_fault (tdp.c)       maps the host's page there, or a huge one
 *          -> get_user_pages          the host's page; may sleep
 *          -> mmu_lock                the entry is stored, unless an invalidation came meanwhile
 *
 * and back: the MMU notifier of tdp.c removes what the host takes away, and flushes the TLBs.
 * Two rare paths serve guests that keep what their CPU writes in read-only memory: soft_tlb.c
 * (page tables) and overlay.c (descriptors).
 *
 * Read next: memslot.c, then tdp.c.
 */
#ifndef MKVM_MEM_H
#define MKVM_MEM_H

/* ---- memslot.c ---- */

/* KVM_SET_USER_MEMORY_REGION. May sleep. Return: 0 or -errno; on failure nothing has changed. */
int mkvm_memslot_set(struct mkvm *vm, const struct kvm_userspace_memory_region *mem);
/* The slot of a frame in the vCPU's address space, or NULL. vm->srcu held. */
const struct mkvm_memslot *mkvm_gfn_to_slot(struct mkvm_vcpu *vcpu, u64 gfn);
/* The user address of guest memory; NULL: no slot, or @write and read-only. vm->srcu held. */
void __user *mkvm_gpa_to_user(struct mkvm_vcpu *vcpu, u64 gpa, bool write);

/* ---- dirty_log.c: the ioctls may sleep ---- */

#define MKVM_DIRTY_MANUAL_FLAGS (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET)
void mkvm_mark_dirty(struct mkvm_vcpu *vcpu, u64 gpa);	/* the kernel wrote there; vm->srcu held */
int mkvm_dirty_log_get(struct mkvm *vm, const struct kvm_dirty_log *log);
int mkvm_dirty_log_clear(struct mkvm *vm, const struct kvm_clear_dirty_log *log);

/* ---- tdp.c: second-level tables. May sleep. ---- */

int mkvm_tdp_create(struct mkvm *vm);
void mkvm_tdp_destroy(struct mkvm *vm);
/* Maps the page at gpa. Own thread, vm->srcu held. Return: MKVM_FAULT_*, or -errno. */
int mkvm_tdp_fault(struct mkvm_vcpu *vcpu, const struct mkvm_memslot *slot, u64 gpa, bool write);
#define MKVM_FAULT_MAPPED	0	/* a mapping exists now: run the guest again */
#define MKVM_FAULT_MMIO		1	/* no slot has this address */
#define MKVM_FAULT_ROM		2	/* a write to read-only memory, which is MMIO as well */
/* SIGBUS for memory that has failed. Own thread. Return: MKVM_FAULT_MAPPED, or -EFAULT. */
int mkvm_host_page_missing(const void __user *p, bool write);
void mkvm_tdp_flush(struct mkvm *vm);	/* makes all vCPUs flush their TLB before they go on */
void mkvm_tdp_free_pages(struct mkvm_vcpu *vcpu);	/* with the vCPU */

/* ---- soft_tlb.c: walks of guest page tables that are not in RAM. Own thread, may sleep. ---- */

int mkvm_soft_begin(struct mkvm_vcpu *vcpu);
void mkvm_soft_flush(struct mkvm_vcpu *vcpu);	/* the guest flushed its TLB */
u64 mkvm_soft_pdpte(struct mkvm_vcpu *vcpu, unsigned int i);
void mkvm_soft_free(struct mkvm_vcpu *vcpu);
int mkvm_handle_soft_fault(struct mkvm_vcpu *vcpu, u64 la, u32 error);	/* as handle_exit */
int mkvm_soft_fault_gpa(struct mkvm_vcpu *vcpu, u64 *gpa, bool write);
void mkvm_soft_mapped(struct mkvm_vcpu *vcpu);

/* ---- overlay.c: one instruction runs with read-only memory replaced. Own thread. ---- */

bool mkvm_overlay_fault(struct mkvm_vcpu *vcpu, u64 gpa);	/* begins; false: it cannot */
void mkvm_overlay_end(struct mkvm_vcpu *vcpu);			/* after that instruction */
void mkvm_overlay_free(struct mkvm_vcpu *vcpu);

#endif
