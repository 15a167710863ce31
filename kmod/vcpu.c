// SPDX-License-Identifier: GPL-2.0
/*
 * vcpu.c - a vCPU: its file descriptor, its ioctls, and the host CPU on which it is loaded.
 *
 * State: struct mkvm_vcpu. Everything but the pending word belongs to the thread that holds
 * vcpu->mutex.
 *
 * Read next: cpu/run.c, cpu/pending.c.
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <trace/events/ipi.h>

#include "hw_ops.h"
#include "compat.h"
#include "cpu/fpu.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

/* ---- loading: on a host CPU or not ---- */

static void sched_in(struct preempt_notifier *pn, int cpu)
{
	struct mkvm_vcpu *vcpu = container_of(pn, struct mkvm_vcpu, preempt);

	WRITE_ONCE(vcpu->cpu, cpu);
	mkvm_hw->vcpu_load(vcpu, cpu);
}

static void sched_out(struct preempt_notifier *pn, struct task_struct *next)
{
	struct mkvm_vcpu *vcpu = container_of(pn, struct mkvm_vcpu, preempt);

	mkvm_hw->vcpu_put(vcpu);
	WRITE_ONCE(vcpu->cpu, -1);
}

static struct preempt_ops preempt_ops = { .sched_in = sched_in, .sched_out = sched_out };

/*
 * mkvm_vcpu_load - load the vCPU on this CPU
 *
 * Until mkvm_vcpu_put the vCPU follows its thread from CPU to CPU. Context: vcpu->mutex held.
 */
void mkvm_vcpu_load(struct mkvm_vcpu *vcpu)
{
	int cpu = get_cpu();

	preempt_notifier_register(&vcpu->preempt);
	WRITE_ONCE(vcpu->cpu, cpu);
	mkvm_hw->vcpu_load(vcpu, cpu);
	put_cpu();
}

void mkvm_vcpu_put(struct mkvm_vcpu *vcpu)
{
	preempt_disable();
	mkvm_hw->vcpu_put(vcpu);
	WRITE_ONCE(vcpu->cpu, -1);
	preempt_notifier_unregister(&vcpu->preempt);
	preempt_enable();
}

/* ---- ioctls ---- */

static int set_signal_mask(struct mkvm_vcpu *vcpu, struct kvm_signal_mask __user *arg)
{
	struct kvm_signal_mask mask;
	sigset_t sigset;

	if (!arg) {
		vcpu->signals.active = false;
		return 0;
	}
	if (copy_from_user(&mask, arg, sizeof(mask)))
		return -EFAULT;
	if (mask.len != sizeof(sigset))
		return -EINVAL;
	if (copy_from_user(&sigset, arg->sigset, sizeof(sigset)))
		return -EFAULT;
	sigdelsetmask(&sigset, sigmask(SIGKILL) | sigmask(SIGSTOP));
	vcpu->signals.set = sigset;
	vcpu->signals.active = true;
	return 0;
}

/*
 * KVM_INTERRUPT. One interrupt at a time: another is accepted after the guest has taken this one.
 */
static int vcpu_interrupt(struct mkvm_vcpu *vcpu, u32 vector)
{
	if (vector > 255)
		return -EINVAL;
	if (!vcpu->user_irqchip.pic)
		return -ENXIO;
	if (vcpu->user_irqchip.vector >= 0 || vcpu->ev.delivering.type == MKVM_EV_INTR)
		return -EEXIST;
	vcpu->ids.user = mkvm_trace_id(raise, vcpu->vm, "kvm_interrupt", vcpu->id, -1, 0, vector);
	vcpu->user_irqchip.vector = vector;
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);
	return 0;
}

static int setup_mce(struct mkvm_vcpu *vcpu, u64 __user *arg)
{
	u64 cap;

	return get_user(cap, arg) ? -EFAULT : mkvm_mce_setup(vcpu, cap);
}

static int vcpu_get_mp_state(struct mkvm_vcpu *vcpu, struct kvm_mp_state __user *arg)
{
	struct kvm_mp_state state = {};

	/* No ioctl shows a pending INIT or SIPI, so they take effect on mp_state here. */
	mkvm_accept_init_sipi(vcpu);
	state.mp_state = vcpu->mp_state;
	return copy_to_user(arg, &state, sizeof(state)) ? -EFAULT : 0;
}

static int set_tpr_reporting(struct mkvm_vcpu *vcpu, struct kvm_tpr_access_ctl __user *arg)
{
	struct kvm_tpr_access_ctl ctl;

	if (copy_from_user(&ctl, arg, sizeof(ctl)))
		return -EFAULT;
	if (ctl.flags || memchr_inv(ctl.reserved, 0, sizeof(ctl.reserved)))
		return -EINVAL;
	vcpu->user_irqchip.report_tpr = ctl.enabled;
	return 0;
}

/*
 * KVM_SET_VAPIC_ADDR: a writable address in a slot, aligned so that it is in one page, or 0 for
 * none.
 */
static int set_tpr_page(struct mkvm_vcpu *vcpu, u64 addr)
{
	int idx;
	bool ok;

	if (!vcpu->lapic || (addr & 3))
		return -EINVAL;
	idx = srcu_read_lock(&vcpu->vm->srcu);
	ok = !addr || mkvm_gpa_to_user(vcpu, addr, true);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	if (!ok)
		return -EINVAL;
	vcpu->tpr_page.gpa = addr;
	return 0;
}

/* KVM_ENABLE_CAP on a vCPU, where no capability can be enabled. */
static int vcpu_enable_cap(struct mkvm_vcpu *vcpu, struct kvm_enable_cap __user *arg)
{
	struct kvm_enable_cap cap;

	if (copy_from_user(&cap, arg, sizeof(cap)))
		return -EFAULT;
	mkvm_not_offered(vcpu->vm, true, cap.cap);
	return -EINVAL;
}

union vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_interrupt interrupt;
	struct kvm_x86_mce mce;
	struct kvm_guest_debug debug;
	struct kvm_vapic_addr vapic;
};

/* State ioctls that fill *s for userspace. */
static int vcpu_get_state(struct mkvm_vcpu *vcpu, unsigned int ioctl, union vcpu_state *s)
{
	switch (ioctl) {
	case KVM_GET_REGS:
		mkvm_regs_get(vcpu, &s->regs);
		return 0;
	case KVM_GET_SREGS:
		mkvm_sregs_get(vcpu, &s->sregs);
		return 0;
	case KVM_GET_FPU:
		mkvm_fpu_get(vcpu, &s->fpu);
		return 0;
	case KVM_GET_XSAVE:
	case KVM_GET_XSAVE2:		/* no component lies beyond struct kvm_xsave */
		mkvm_fpu_get_xsave(vcpu, &s->xsave);
		return 0;
	case KVM_GET_XCRS:
		mkvm_xcrs_get(vcpu, &s->xcrs);
		return 0;
	case KVM_GET_DEBUGREGS:
		mkvm_debugregs_get(vcpu, &s->debugregs);
		return 0;
	case KVM_GET_VCPU_EVENTS:
		mkvm_events_get(vcpu, &s->events);
		return 0;
	case KVM_GET_LAPIC:
		return vcpu->lapic ? mkvm_lapic_get_state(vcpu->lapic, &s->lapic) : -EINVAL;
	default:
		return -ENOTTY;
	}
}

/* State ioctls that take *s from userspace. */
static int vcpu_set_state(struct mkvm_vcpu *vcpu, unsigned int ioctl, const union vcpu_state *s)
{
	switch (ioctl) {
	case KVM_SET_REGS:
		mkvm_regs_set(vcpu, &s->regs);
		return 0;
	case KVM_SET_SREGS:
		return mkvm_sregs_set(vcpu, &s->sregs);
	case KVM_SET_FPU:
		return mkvm_fpu_set(vcpu, &s->fpu);
	case KVM_SET_XSAVE:
		return mkvm_fpu_set_xsave(vcpu, &s->xsave);
	case KVM_SET_XCRS:
		return mkvm_xcrs_set(vcpu, &s->xcrs);
	case KVM_SET_DEBUGREGS:
		return mkvm_debugregs_set(vcpu, &s->debugregs);
	case KVM_SET_VCPU_EVENTS:
		return mkvm_events_set(vcpu, &s->events);
	case KVM_SET_LAPIC:
		return vcpu->lapic ? mkvm_lapic_set_state(vcpu->lapic, &s->lapic) : -EINVAL;
	case KVM_SET_MP_STATE:
		return mkvm_vcpu_set_mp_state(vcpu, s->mp_state.mp_state);
	case KVM_SET_GUEST_DEBUG:
		return mkvm_set_guest_debug(vcpu, &s->debug);
	case KVM_INTERRUPT:
		return vcpu_interrupt(vcpu, s->interrupt.irq);
	case KVM_X86_SET_MCE:
		return mkvm_mce_inject(vcpu, &s->mce);
	case KVM_SET_VAPIC_ADDR:
		return set_tpr_page(vcpu, s->vapic.vapic_addr);
	default:
		return -ENOTTY;
	}
}

/* Ioctls that copy one struct. The ioctl's number encodes its direction and size. */
static int vcpu_state_ioctl(struct mkvm_vcpu *vcpu, unsigned int ioctl, void __user *argp)
{
	bool get = _IOC_DIR(ioctl) & _IOC_READ;
	size_t size = _IOC_SIZE(ioctl);
	union vcpu_state *s;
	int r;

	s = kzalloc(sizeof(*s), GFP_KERNEL);
	if (!s)
		return -ENOMEM;
	if (get) {
		r = vcpu_get_state(vcpu, ioctl, s);
		if (!r && copy_to_user(argp, s, size))
			r = -EFAULT;
		if (!r && ioctl == KVM_GET_VCPU_EVENTS)
			mkvm_events_seen(vcpu, &s->events);
	} else if (copy_from_user(s, argp, size)) {
		r = -EFAULT;
	} else {
		r = vcpu_set_state(vcpu, ioctl, s);
	}
	kfree(s);
	return r;
}

static int vcpu_translate(struct mkvm_vcpu *vcpu, struct kvm_translation __user *arg)
{
	struct kvm_translation t = { .writeable = 1 };

	if (copy_from_user(&t.linear_address, &arg->linear_address, sizeof(t.linear_address)))
		return -EFAULT;
	t.valid = mkvm_translate(vcpu, t.linear_address, &t.physical_address);
	return copy_to_user(arg, &t, sizeof(t)) ? -EFAULT : 0;
}

/*
 * mkvm_find_attribute - check a struct kvm_device_attr and find its value
 * @group: the only supported group
 * @nr: the only supported attribute
 * @where: set to the address of the value
 *
 * Context: may sleep. Return: -EINVAL for flags, -ENXIO for another attribute, -EFAULT.
 */
int mkvm_find_attribute(void __user *argp, u32 group, u64 nr, u64 __user **where)
{
	struct kvm_device_attr attr;

	if (copy_from_user(&attr, argp, sizeof(attr)))
		return -EFAULT;
	if (attr.flags)
		return -EINVAL;
	*where = u64_to_user_ptr(attr.addr);
	return attr.group == group && attr.attr == nr ? 0 : -ENXIO;
}

/* KVM_{HAS,GET,SET}_DEVICE_ATTR: the offset of the TSC. */
static int tsc_attribute(struct mkvm_vcpu *vcpu, unsigned int ioctl, void __user *argp)
{
	u64 offset, __user *where;
	int r = mkvm_find_attribute(argp, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, &where);

	if (r || ioctl == KVM_HAS_DEVICE_ATTR)
		return r;
	if (ioctl == KVM_GET_DEVICE_ATTR)
		return put_user(vcpu->tsc.offset, where);
	if (get_user(offset, where))
		return -EFAULT;
	mkvm_tsc_set_offset(vcpu, offset);
	return 0;
}

static long vcpu_ioctl_locked(struct mkvm_vcpu *vcpu, unsigned int ioctl, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	switch (ioctl) {
	case KVM_RUN:
		return arg ? -EINVAL : mkvm_vcpu_run(vcpu);
	case KVM_SET_SIGNAL_MASK:
		return set_signal_mask(vcpu, argp);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return mkvm_msrs_ioctl(vcpu, argp, ioctl == KVM_SET_MSRS);
	case KVM_HAS_DEVICE_ATTR: case KVM_GET_DEVICE_ATTR: case KVM_SET_DEVICE_ATTR:
		return tsc_attribute(vcpu, ioctl, argp);
	case KVM_SET_CPUID2:
		return mkvm_cpuid_set(vcpu, argp);
	case KVM_GET_CPUID2:
		return mkvm_cpuid_get(vcpu, argp);
	case KVM_GET_TSC_KHZ:
		return vcpu->tsc.khz;
	case KVM_SET_TSC_KHZ:
		return mkvm_tsc_set_khz(&vcpu->tsc.khz, arg);
	case KVM_X86_SETUP_MCE:
		return setup_mce(vcpu, argp);
	case KVM_GET_MP_STATE:
		return vcpu_get_mp_state(vcpu, argp);
	case KVM_GET_REGS: case KVM_SET_REGS:
	case KVM_GET_SREGS: case KVM_SET_SREGS:
	case KVM_GET_FPU: case KVM_SET_FPU:
	case KVM_GET_XSAVE: case KVM_SET_XSAVE: case KVM_GET_XSAVE2:
	case KVM_GET_XCRS: case KVM_SET_XCRS:
	case KVM_GET_DEBUGREGS: case KVM_SET_DEBUGREGS:
	case KVM_GET_VCPU_EVENTS: case KVM_SET_VCPU_EVENTS:
	case KVM_GET_LAPIC: case KVM_SET_LAPIC:
	case KVM_SET_MP_STATE:
	case KVM_INTERRUPT:
	case KVM_X86_SET_MCE:
	case KVM_SET_GUEST_DEBUG:
	case KVM_SET_VAPIC_ADDR:
		return vcpu_state_ioctl(vcpu, ioctl, argp);
	case KVM_TRANSLATE:
		return vcpu_translate(vcpu, argp);
	case KVM_TPR_ACCESS_REPORTING:
		return set_tpr_reporting(vcpu, argp);
	case KVM_ENABLE_CAP:
		return vcpu_enable_cap(vcpu, argp);
	case KVM_GET_STATS_FD:
		return mkvm_stats_fd(vcpu->vm, vcpu);
	default:
		if (_IOC_TYPE(ioctl) == KVMIO)
			mkvm_not_offered(vcpu->vm, false, _IOC_NR(ioctl));
		return -ENOTTY;
	}
}

static long vcpu_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	struct mkvm_vcpu *vcpu = file->private_data;
	long r;

	if (vcpu->vm->mm != current->mm)
		return -EIO;
	if (ioctl == KVM_NMI) {		/* posts: does not wait for KVM_RUN to end */
		mkvm_trace(raise_post, vcpu, MKVM_PEND_NMI, "kvm_nmi");
		mkvm_vcpu_post_nmi(vcpu);
		return 0;
	}
	if (ioctl == KVM_SMI) {
		mkvm_trace(raise_post, vcpu, MKVM_PEND_SMI, "kvm_smi");
		mkvm_vcpu_post_smi(vcpu);
		return 0;
	}
	if (mutex_lock_killable(&vcpu->mutex))
		return -EINTR;
	mkvm_vcpu_load(vcpu);
	r = vcpu_ioctl_locked(vcpu, ioctl, arg);
	mkvm_vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return r;
}

static vm_fault_t vcpu_fault(struct vm_fault *vmf)
{
	struct mkvm_vcpu *vcpu = vmf->vma->vm_file->private_data;

	if (vmf->pgoff == KVM_COALESCED_MMIO_PAGE_OFFSET)
		vmf->page = virt_to_page(vcpu->vm->iodev.ring);
	else if (vmf->pgoff < MKVM_RUN_PAGES)
		vmf->page =
			virt_to_page((void *)vcpu->run +
				     array_index_nospec(vmf->pgoff, MKVM_RUN_PAGES) * PAGE_SIZE);
	else
		return VM_FAULT_SIGBUS;
	get_page(vmf->page);
	return 0;
}

static const struct vm_operations_struct vcpu_vm_ops = { .fault = vcpu_fault };

static int vcpu_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_ops = &vcpu_vm_ops;
	return 0;
}

static int vcpu_release(struct inode *inode, struct file *file)
{
	struct mkvm_vcpu *vcpu = file->private_data;

	mkvm_vm_put(vcpu->vm);
	return 0;
}

static const struct file_operations vcpu_fops = {
	.owner = THIS_MODULE,
	.release = vcpu_release,
	.unlocked_ioctl = vcpu_ioctl,
	.mmap = vcpu_mmap,
	.llseek = noop_llseek,
};

/* ---- life ---- */

/* mkvm_vcpu_destroy - frees a vCPU that no thread can reach any more. May sleep. */
void mkvm_vcpu_destroy(struct mkvm_vcpu *vcpu)
{
	int i;

	if (vcpu->lapic)
		mkvm_lapic_destroy(vcpu);
	mkvm_tdp_free_pages(vcpu);
	mkvm_soft_free(vcpu);
	mkvm_overlay_free(vcpu);
	kvfree(vcpu->guest_cpuid.entries);
	mkvm_fpu_destroy(vcpu);
	for (i = 0; vcpu->run && i < MKVM_RUN_PAGES; i++)
		__free_page(virt_to_page((void *)vcpu->run + i * PAGE_SIZE));
	mkvm_hw->vcpu_destroy(vcpu);
}

/* Each shared page has order 0, because userspace maps them one by one, but they are adjacent. */
static struct kvm_run *alloc_run_pages(void)
{
	unsigned int order = get_order(MKVM_RUN_PAGES * PAGE_SIZE);
	struct page *page = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, order);

	if (!page)
		return NULL;
	split_page(page, order);
	return page_address(page);
}

static struct mkvm_vcpu *vcpu_create(struct mkvm *vm, u32 id)
{
	struct mkvm_vcpu *vcpu = mkvm_hw->vcpu_create();
	int r = -ENOMEM;

	if (IS_ERR(vcpu))
		return vcpu;
	vcpu->vm = vm;
	vcpu->id = id;
	vcpu->idx = vm->nr_vcpus;
	vcpu->cpu = -1;
	vcpu->where = MKVM_OUTSIDE;
	mkvm_tsc_create(vcpu);
	vcpu->user_irqchip.pic = !vm->irqchip.pic;
	vcpu->user_irqchip.eoi_vector = -1;
	mutex_init(&vcpu->mutex);
	rcuwait_init(&vcpu->wait);
	preempt_notifier_init(&vcpu->preempt, &preempt_ops);
	vcpu->run = alloc_run_pages();
	if (!vcpu->run || !mkvm_fpu_create(vcpu))
		goto out;
	mkvm_cpuid_update(vcpu);
	vcpu->user_irqchip.apic_base = MKVM_LAPIC_BASE | MSR_IA32_APICBASE_ENABLE |
			  (id == vm->bsp_id ? MSR_IA32_APICBASE_BSP : 0);
	if (vm->irqchip.in_kernel) {
		r = mkvm_lapic_create(vcpu);
		if (r)
			goto out;
	}
	mkvm_vcpu_reset(vcpu, false);
	return vcpu;
out:
	mkvm_vcpu_destroy(vcpu);
	return ERR_PTR(r);
}

/*
 * mkvm_vcpu_create_fd - KVM_CREATE_VCPU
 * @id: the APIC id, below vm->max_vcpu_ids
 *
 * When it returns, the vCPU accepts interrupts. Context: vm->lock held, may sleep.
 * Return: a descriptor; -EINVAL (id), -EEXIST, -ENOMEM or another -errno.
 */
int mkvm_vcpu_create_fd(struct mkvm *vm, unsigned long id)
{
	struct mkvm_vcpu *vcpu;
	struct file *file;
	char name[20];
	int fd, i;

	if (id >= (vm->max_vcpu_ids ?: MKVM_MAX_VCPUS))
		return -EINVAL;
	mkvm_for_each_vcpu(i, vcpu, vm)
		if (vcpu->id == id)
			return -EEXIST;
	fd = get_unused_fd_flags(O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fd;
	vcpu = vcpu_create(vm, id);
	if (IS_ERR(vcpu)) {
		put_unused_fd(fd);
		return PTR_ERR(vcpu);
	}
	snprintf(name, sizeof(name), "kvm-vcpu:%u", vcpu->id);	/* strace recognises this name */
	file = anon_inode_getfile(name, &vcpu_fops, vcpu, O_RDWR);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		mkvm_vcpu_destroy(vcpu);
		return PTR_ERR(file);
	}
	mkvm_vm_get(vm);
	vm->vcpus[vcpu->idx] = vcpu;
	smp_store_release(&vm->nr_vcpus, vcpu->idx + 1);
	fd_install(fd, file);
	return fd;
}
