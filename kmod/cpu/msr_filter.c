// SPDX-License-Identifier: GPL-2.0
/*
 * msr_filter.c - MSR accesses that userspace denies the guest (KVM_X86_SET_MSR_FILTER), and
 * those that it answers itself (KVM_CAP_X86_USER_SPACE_MSR).
 *
 * State: vm->msr_filter, which is replaced as a whole; vm->user_msr_reasons. The CPU lets the
 * guest access some registers without an exit, so after a change of the filter each vCPU's
 * vendor part applies it before the next entry (MKVM_PEND_MSRS).
 *
 * Read next: msr.c, exit.c.
 */
#include <linux/nospec.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/apicdef.h>

#include "internal.h"

struct mkvm_msr_filter {
	bool allow;			/* registers in no range are allowed */
	u32 nr;				/* number of ranges */
	struct {
		u32 flags, base, nmsrs;
		unsigned long *bitmap;	/* a bit per register: 1 allows it */
	} range[KVM_MSR_FILTER_MAX_RANGES];
};

/* Frees a filter, which may be NULL. Context: nobody reads the filter any more. */
void mkvm_msr_filter_free(struct mkvm_msr_filter *filter)
{
	while (filter && filter->nr)
		kfree(filter->range[--filter->nr].bitmap);
	kfree(filter);
}

static int filter_add(struct mkvm_msr_filter *filter, const struct kvm_msr_filter_range *user)
{
	u32 bytes = DIV_ROUND_UP((u64)user->nmsrs, 8);
	unsigned long *bitmap;

	if (!user->nmsrs)
		return 0;
	if (!user->flags || (user->flags & ~(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)))
		return -EINVAL;
	if (bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE || user->base + user->nmsrs - 1 < user->base)
		return -EINVAL;
	bitmap = kzalloc(ALIGN(bytes, sizeof(long)), GFP_KERNEL_ACCOUNT);
	if (!bitmap)
		return -ENOMEM;
	filter->range[filter->nr].flags = user->flags;
	filter->range[filter->nr].base = user->base;
	filter->range[filter->nr].nmsrs = user->nmsrs;
	filter->range[filter->nr++].bitmap = bitmap;
	return copy_from_user(bitmap, (void __user *)user->bitmap, bytes) ? -EFAULT : 0;
}

/*
 * mkvm_msr_filter_set - KVM_X86_SET_MSR_FILTER
 *
 * Context: vm->lock held, may sleep. On return no vCPU runs with the previous filter.
 * Return: -EINVAL (unknown flags, a range without flags, too long or beyond the last register, or
 * everything denied by no range at all), -EFAULT, -ENOMEM; nothing has changed then.
 */
int mkvm_msr_filter_set(struct mkvm *vm, const struct kvm_msr_filter *user)
{
	struct mkvm_msr_filter *old, *filter;
	struct mkvm_vcpu *vcpu;
	int i, r = 0;

	if (user->flags & ~KVM_MSR_FILTER_DEFAULT_DENY)
		return -EINVAL;
	filter = kzalloc(sizeof(*filter), GFP_KERNEL_ACCOUNT);
	if (!filter)
		return -ENOMEM;
	filter->allow = !(user->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (i = 0; i < KVM_MSR_FILTER_MAX_RANGES && !r; i++)
		r = filter_add(filter, &user->ranges[i]);
	if (!r && !filter->nr && !filter->allow)
		r = -EINVAL;
	if (r || !filter->nr) {		/* no ranges: the same as no filter */
		mkvm_msr_filter_free(filter);
		filter = NULL;
	}
	if (r)
		return r;
	old = rcu_replace_pointer(vm->msr_filter, filter, lockdep_is_held(&vm->lock));
	synchronize_srcu(&vm->srcu);
	mkvm_msr_filter_free(old);
	mkvm_for_each_vcpu(i, vcpu, vm)
		mkvm_pending_set(vcpu, MKVM_PEND_MSRS);
	mkvm_tdp_flush(vm);		/* makes all vCPUs exit, and waits until they have */
	return 0;
}

static bool filter_allows(const struct mkvm_msr_filter *filter, u32 index, u32 access)
{
	u32 i, bit, nmsrs;

	for (i = 0; i < filter->nr; i++) {
		bit = index - filter->range[i].base;
		nmsrs = filter->range[i].nmsrs;
		if ((filter->range[i].flags & access) && bit < nmsrs)
			return test_bit(array_index_nospec(bit, nmsrs), filter->range[i].bitmap);
	}
	return filter->allow;
}

static bool is_x2apic(u32 index)
{
	return index >= APIC_BASE_MSR && index <= APIC_BASE_MSR + 0xff;
}

/* As mkvm_msr_allowed, for a VM that may have a filter. */
bool mkvm_msr_filter_allows(struct mkvm_vcpu *vcpu, u32 index, u32 access)
{
	const struct mkvm_msr_filter *filter;
	bool allowed;
	int idx;

	if (is_x2apic(index))
		return true;
	idx = srcu_read_lock(&vcpu->vm->srcu);
	filter = srcu_dereference(vcpu->vm->msr_filter, &vcpu->vm->srcu);
	allowed = !filter || filter_allows(filter, index, access);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return allowed;
}

/*
 * mkvm_msrs_allowed - whether the filter and CPUID let the guest read and write all n registers
 *
 * Context: may sleep.
 */
bool mkvm_msrs_allowed(struct mkvm_vcpu *vcpu, const u32 *index, u32 n)
{
	while (n--)
		if (mkvm_msr_hidden(vcpu, index[n]) ||
		    !mkvm_msr_allowed(vcpu, index[n], KVM_MSR_FILTER_READ) ||
		    !mkvm_msr_allowed(vcpu, index[n], KVM_MSR_FILTER_WRITE))
			return false;
	return true;
}

/*
 * mkvm_msr_refusal - returns why an access was refused: KVM_MSR_EXIT_REASON_*
 * @filtered: the filter refused it
 *
 * Context: own thread.
 */
u32 mkvm_msr_refusal(struct mkvm_vcpu *vcpu, u32 index, bool filtered)
{
	u64 val;

	if (filtered)
		return KVM_MSR_EXIT_REASON_FILTER;
	if (is_x2apic(index) || !mkvm_msr_get(vcpu, index, &val, true))
		return KVM_MSR_EXIT_REASON_INVAL;
	return KVM_MSR_EXIT_REASON_UNKNOWN;
}
