// SPDX-License-Identifier: GPL-2.0
/*
 * irqchip.c - the front door of the interrupt controllers: creation, and the VM's ioctls about
 * them.
 *
 * State: struct mkvm_irqchip in struct mkvm. in_kernel is published last, so that nobody sees a
 * part of it.
 *
 * Read next: routing.c (where an interrupt's way begins), irqchip.h (the whole way).
 */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mkvm.h"
#include "internal.h"

/* ---- creation ---- */

void mkvm_irqchip_init(struct mkvm *vm)
{
	mutex_init(&vm->irqchip.lock);
	mkvm_irqfd_init(vm);
}

void mkvm_irqchip_destroy(struct mkvm *vm)
{
	struct mkvm_vcpu *vcpu;
	int i;

	/*
	 * Those that raise interrupts in other controllers go first; the LAPICs stay until the end.
	 */
	mkvm_irqfd_destroy(vm);
	mkvm_pit_destroy(vm);
	mkvm_for_each_vcpu(i, vcpu, vm)
		if (vcpu->lapic)
			mkvm_lapic_timer_stop(vcpu->lapic);
	mkvm_routing_destroy(vm);
	mkvm_ioapic_destroy(vm);
	mkvm_pic_destroy(vm);
}

/*
 * mkvm_irqchip_create - KVM_CREATE_IRQCHIP
 *
 * vm->irqchip.in_kernel is published last, so that nobody sees a part of the controllers. Context:
 * vm->lock held, may sleep. Return: 0; -EEXIST; -EINVAL if vCPUs exist; -ENOMEM.
 */
int mkvm_irqchip_create(struct mkvm *vm)
{
	int r;

	if (vm->irqchip.in_kernel)
		return -EEXIST;
	if (vm->nr_vcpus)
		return -EINVAL;
	r = mkvm_pic_create(vm);
	if (r)
		return r;
	r = mkvm_ioapic_create(vm);
	if (r)
		goto out_pic;
	r = mkvm_routing_create(vm);
	if (r)
		goto out_ioapic;
	smp_store_release(&vm->irqchip.in_kernel, true);
	return 0;

out_ioapic:
	mkvm_ioapic_destroy(vm);
out_pic:
	mkvm_pic_destroy(vm);
	return r;
}

/*
 * mkvm_irqchip_create_split - KVM_CAP_SPLIT_IRQCHIP: only the LAPICs are in the kernel
 * @pins: GSIs below this are reserved for userspace's IOAPICs (routing_replace)
 *
 * Context: vm->lock held, may sleep. Return: 0, -EINVAL, -EEXIST or -ENOMEM.
 */
int mkvm_irqchip_create_split(struct mkvm *vm, u64 pins)
{
	int r;

	if (pins > MKVM_NR_GSI)
		return -EINVAL;
	if (vm->irqchip.in_kernel || vm->nr_vcpus)
		return -EEXIST;
	r = mkvm_routing_set(vm, NULL, 0, 0);
	if (r)
		return r;
	vm->irqchip.ioapic_pins = pins;
	smp_store_release(&vm->irqchip.in_kernel, true);
	return 0;
}

/* ---- state ---- */

int mkvm_irqchip_get(struct mkvm *vm, struct kvm_irqchip __user *arg)
{
	struct kvm_irqchip *chip;
	u32 id;
	int r = 0;

	if (!mkvm_pic_in_kernel(vm))
		return -ENXIO;
	if (get_user(id, &arg->chip_id))
		return -EFAULT;
	chip = kzalloc(sizeof(*chip), GFP_KERNEL);
	if (!chip)
		return -ENOMEM;
	chip->chip_id = id;
	switch (id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		mkvm_pic_get(vm->irqchip.pic, id, &chip->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		mkvm_ioapic_get(vm->irqchip.ioapic, &chip->chip.ioapic);
		break;
	default:
		r = -EINVAL;
	}
	if (!r && copy_to_user(arg, chip, sizeof(*chip)))
		r = -EFAULT;
	kfree(chip);
	return r;
}

int mkvm_irqchip_set(struct mkvm *vm, struct kvm_irqchip __user *arg)
{
	struct kvm_irqchip *chip;
	int r;

	if (!mkvm_pic_in_kernel(vm))
		return -ENXIO;
	chip = memdup_user(arg, sizeof(*chip));
	if (IS_ERR(chip))
		return PTR_ERR(chip);
	switch (chip->chip_id) {
	case KVM_IRQCHIP_PIC_MASTER:
	case KVM_IRQCHIP_PIC_SLAVE:
		r = mkvm_pic_set(vm->irqchip.pic, chip->chip_id, &chip->chip.pic);
		break;
	case KVM_IRQCHIP_IOAPIC:
		r = mkvm_ioapic_set(vm->irqchip.ioapic, &chip->chip.ioapic);
		break;
	default:
		r = -EINVAL;
	}
	kfree(chip);
	return r;
}

int mkvm_irqchip_create_pit(struct mkvm *vm, struct kvm_pit_config __user *arg)
{
	struct kvm_pit_config config;

	if (copy_from_user(&config, arg, sizeof(config)))
		return -EFAULT;
	if (vm->irqchip.pit)
		return -EEXIST;
	if (!vm->irqchip.pic)
		return -ENOENT;
	return mkvm_pit_create(vm, &config);
}

int mkvm_irqchip_pit_ioctl(struct mkvm *vm, unsigned int ioctl, void __user *argp)
{
	struct mkvm_pit *pit = smp_load_acquire(&vm->irqchip.pit);
	struct kvm_reinject_control control;
	struct kvm_pit_state2 state = {};

	if (!pit)
		return -ENXIO;
	switch (ioctl) {
	case KVM_GET_PIT2:
		mkvm_pit_get(pit, &state);
		return copy_to_user(argp, &state, sizeof(state)) ? -EFAULT : 0;
	case KVM_SET_PIT2:
		if (copy_from_user(&state, argp, sizeof(state)))
			return -EFAULT;
		return mkvm_pit_set(pit, &state);
	default:
		if (copy_from_user(&control, argp, sizeof(control)))
			return -EFAULT;
		if (memchr_inv(control.reserved, 0, sizeof(control.reserved)))
			return -EINVAL;
		mkvm_pit_set_reinject(pit, control.pit_reinject);
		return 0;
	}
}

/* ---- interrupts from userspace, and where they go ---- */

int mkvm_irqchip_line(struct mkvm *vm, struct kvm_irq_level __user *arg, bool status)
{
	struct kvm_irq_level line;
	int r;

	if (copy_from_user(&line, arg, sizeof(line)))
		return -EFAULT;
	if (!mkvm_irqchip_in_kernel(vm))
		return -ENXIO;
	if (line.irq >= MKVM_NR_GSI)
		return -EINVAL;
	r = mkvm_set_irq(vm, MKVM_SOURCE_USER, line.irq, !!line.level);
	if (!status)
		return 0;
	line.status = r;
	return copy_to_user(arg, &line, sizeof(line)) ? -EFAULT : 0;
}

int mkvm_irqchip_signal_msi(struct mkvm *vm, struct kvm_msi __user *arg)
{
	struct kvm_msi msi;

	if (copy_from_user(&msi, arg, sizeof(msi)))
		return -EFAULT;
	if (!mkvm_irqchip_in_kernel(vm) || msi.flags || memchr_inv(msi.pad, 0, sizeof(msi.pad)))
		return -EINVAL;
	/*
	 * QEMU passes the offset of a device's write in the MSI window. Routes have whole
	 * addresses.
	 */
	if (READ_ONCE(mkvm_msi_offsets) && msi.address_lo < MKVM_MSI_WINDOW)
		msi.address_lo |= MKVM_LAPIC_BASE;
	return mkvm_msi_deliver(vm, (u64)msi.address_hi << 32 | msi.address_lo, msi.data);
}

int mkvm_irqchip_set_routing(struct mkvm *vm, struct kvm_irq_routing __user *arg)
{
	struct kvm_irq_routing_entry *entries = NULL;
	struct kvm_irq_routing head;
	int r;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (!mkvm_irqchip_in_kernel(vm) || head.flags || head.nr > MKVM_NR_GSI)
		return -EINVAL;
	if (head.nr) {
		entries = vmemdup_user(arg->entries, array_size(head.nr, sizeof(*entries)));
		if (IS_ERR(entries))
			return PTR_ERR(entries);
	}
	r = mkvm_routing_set(vm, entries, head.nr, head.flags);
	kvfree(entries);
	return r;
}
