// SPDX-License-Identifier: GPL-2.0
/*
 * state.c - a snapshot of a vCPU for those who ask what it does and what waits: debugfs and
 * MKVM_GET_VCPU_STATE.
 *
 * State: none. Nothing here takes a lock of the vCPU or kicks it.
 *
 * Read next: uapi/mkvm.h, inject.c (what holds an event back).
 */
#include <linux/string.h>
#include <linux/uaccess.h>

#include "hw_ops.h"

/*
 * mkvm_vcpu_state - take a snapshot of what a vCPU does and of what waits for it
 *
 * The fields are not read at one instant. Context: any, while the vCPU exists.
 */
void mkvm_vcpu_state(struct mkvm_vcpu *vcpu, struct mkvm_vcpu_state *s)
{
	int vector;

	memset(s, 0, sizeof(*s));
	s->id = vcpu->id;
	s->mp_state = READ_ONCE(vcpu->mp_state);
	s->where = READ_ONCE(vcpu->where);
	s->cpu = READ_ONCE(vcpu->cpu);
	s->pending = READ_ONCE(vcpu->pending);
	s->delivering = READ_ONCE(vcpu->ev.delivering.type) ?
				READ_ONCE(vcpu->ev.delivering.vector) :
				MKVM_WAITS_NONE;
	s->hold = mkvm_interrupt_waits(vcpu, &vector);
	s->waiting = vector;
	s->hold_nmi = mkvm_nmi_waits(vcpu);
	s->in_smm = READ_ONCE(vcpu->smm.active);
	s->rip = READ_ONCE(vcpu->rip);
	s->rflags = READ_ONCE(vcpu->rflags);
	s->exits = READ_ONCE(vcpu->stats[MKVM_STAT_EXITS]);
	strscpy(s->last_exit, s->exits ? mkvm_hw->last_exit(vcpu) : "none", sizeof(s->last_exit));
}

/* mkvm_vcpu_state_ioctl - MKVM_GET_VCPU_STATE; errors as in uapi/mkvm.h. May sleep. */
int mkvm_vcpu_state_ioctl(struct mkvm *vm, struct mkvm_vcpu_state __user *arg)
{
	struct mkvm_vcpu_state s;
	struct mkvm_vcpu *vcpu;
	int i;

	if (copy_from_user(&s, arg, sizeof(s)))
		return -EFAULT;
	if (memchr_inv(s.reserved, 0, sizeof(s.reserved)))
		return -EINVAL;
	mkvm_for_each_vcpu(i, vcpu, vm) {
		if (vcpu->id != s.id)
			continue;
		mkvm_vcpu_state(vcpu, &s);
		return copy_to_user(arg, &s, sizeof(s)) ? -EFAULT : 0;
	}
	return -ENOENT;
}
