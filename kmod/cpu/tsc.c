// SPDX-License-Identifier: GPL-2.0
/*
 * tsc.c - the guest's time-stamp counters, and which vCPUs have the same.
 *
 * Guests expect the TSC to be one clock of the whole platform (Intel SDM vol. 3, "Invariant
 * TSC"; AMD APM vol. 2, "Time-Stamp Counter"), but userspace sets it vCPU by vCPU, and time
 * passes between its ioctls. So the VM has one offset to the host's TSC, and follows Linux
 * KVM's rules:
 *
 *   a vCPU that is created          has the VM's offset
 *   userspace writes 0              the vCPU joins the others: 0 is what a client writes to a CPU
 *                                   that it adds or resets, without knowing the time
 *   userspace writes a value less than a second from what the others have, or from what the last
 *   vCPU that was set would have    the same instant is meant: the vCPU joins the others. Each
 *                                   write extends the time in which the next one may follow
 *   another value, or the first     becomes the VM's offset; the vCPUs that are set next join it
 *   KVM_VCPU_TSC_OFFSET             is used unchanged, and becomes the VM's offset
 *   the guest writes IA32_TSC or    moves this vCPU only
 *   IA32_TSC_ADJUST
 *   userspace writes TSC_ADJUST     changes what the register reads; the TSC stays
 *
 * State: vm->tsc under its lock, which is inside all others; vcpu->tsc.offset and tsc_adjust.
 *
 * Read next: msr.c; irqchip/lapic_timer.c for deadlines.
 */
#include <asm/tsc.h>

#include "internal.h"

/* Initialises the TSC of a new VM, which is 0 now. */
void mkvm_tsc_init(struct mkvm *vm)
{
	spin_lock_init(&vm->tsc.lock);
	vm->tsc.offset = -rdtsc();
	vm->tsc.khz = tsc_khz;
}

/* Gives a new vCPU the VM's TSC. Context: the vCPU is not yet published. */
void mkvm_tsc_create(struct mkvm_vcpu *vcpu)
{
	struct mkvm *vm = vcpu->vm;

	spin_lock(&vm->tsc.lock);
	vcpu->tsc.offset = vm->tsc.offset;
	spin_unlock(&vm->tsc.lock);
	vcpu->tsc.khz = READ_ONCE(vm->tsc.khz);
}

/* mkvm_tsc_get - returns the guest's TSC in cycles. Context: own thread or vcpu->mutex held. */
u64 mkvm_tsc_get(struct mkvm_vcpu *vcpu)
{
	return rdtsc() + vcpu->tsc.offset;
}

static void set_offset(struct mkvm_vcpu *vcpu, s64 offset)
{
	WRITE_ONCE(vcpu->tsc.offset, offset);
	mkvm_hw->tsc_offset_changed(vcpu);
	if (vcpu->lapic)
		mkvm_lapic_timer_update(vcpu->lapic);	/* a deadline is now at another time */
}

/* Whether two offsets are less than a second apart. */
static bool same_instant(s64 a, s64 b)
{
	u64 second = (u64)tsc_khz * 1000;

	return (u64)a - (u64)b + second - 1 < 2 * second - 1;
}

/* Returns the VM's offset after userspace has written a TSC that would need this offset. */
static s64 settle(struct mkvm *vm, s64 offset)
{
	spin_lock(&vm->tsc.lock);
	if (!vm->tsc.written ||
	    (!same_instant(offset, vm->tsc.last) && !same_instant(offset, vm->tsc.offset)))
		vm->tsc.offset = offset;
	vm->tsc.last = offset;
	vm->tsc.written = true;
	offset = vm->tsc.offset;
	spin_unlock(&vm->tsc.lock);
	return offset;
}

static s64 vm_offset(struct mkvm *vm)
{
	s64 offset;

	spin_lock(&vm->tsc.lock);
	offset = vm->tsc.offset;
	spin_unlock(&vm->tsc.lock);
	return offset;
}

/*
 * mkvm_tsc_set - write IA32_TSC
 * @val: in cycles of the guest's TSC
 * @host: by userspace, to which the rules above apply; else by the guest
 *
 * Context: own thread or vcpu->mutex held.
 */
void mkvm_tsc_set(struct mkvm_vcpu *vcpu, u64 val, bool host)
{
	s64 offset = val - rdtsc();

	if (!host)
		vcpu->tsc.adjust += offset - vcpu->tsc.offset;
	else if (!val)
		offset = vm_offset(vcpu->vm);
	else
		offset = settle(vcpu->vm, offset);
	set_offset(vcpu, offset);
}

/*
 * mkvm_tsc_set_adjust - write IA32_TSC_ADJUST, by userspace (@host) or the guest
 *
 * Intel SDM vol. 3, "IA32_TSC_ADJUST Register and TSC". Context: own thread or vcpu->mutex.
 */
void mkvm_tsc_set_adjust(struct mkvm_vcpu *vcpu, u64 val, bool host)
{
	if (!host)
		set_offset(vcpu, vcpu->tsc.offset + (val - vcpu->tsc.adjust));
	vcpu->tsc.adjust = val;
}

/*
 * mkvm_tsc_set_offset - KVM_VCPU_TSC_OFFSET: guest TSC less host TSC, in cycles. Context:
 * vcpu->mutex.
 */
void mkvm_tsc_set_offset(struct mkvm_vcpu *vcpu, s64 offset)
{
	struct mkvm *vm = vcpu->vm;

	spin_lock(&vm->tsc.lock);
	vm->tsc.offset = offset;
	vm->tsc.last = offset;
	vm->tsc.written = true;
	spin_unlock(&vm->tsc.lock);
	set_offset(vcpu, offset);
}

/*
 * mkvm_tsc_set_khz - KVM_SET_TSC_KHZ
 * @where: the field of the vCPU, or of the VM for later vCPUs
 * @khz: 0 is the host's rate
 *
 * The TSC is not scaled, so only the host's rate is accepted, within the 250 ppm by which clocks
 * drift, as in Linux KVM. The rate is only read back and changes no vCPU's TSC. Context: any.
 * Return: 0 or -EINVAL.
 */
int mkvm_tsc_set_khz(u32 *where, unsigned long khz)
{
	if (!khz)
		khz = tsc_khz;
	if (abs((s64)khz - (s64)tsc_khz) > tsc_khz / 4000)
		return -EINVAL;
	WRITE_ONCE(*where, khz);
	return 0;
}
