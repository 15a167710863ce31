// SPDX-License-Identifier: GPL-2.0
/*
 * main.c - loading and unloading, the device node and its ioctls, and enabling the hardware on
 * every CPU: at load, on CPU hotplug, suspend and reboot.
 *
 * State: the vendor (mkvm_hw), the misc device. SVM or VMX stays enabled on each CPU until the
 * module is unloaded or the CPU goes offline.
 *
 * Read next: vm.c.
 */
#include <linux/cpu.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/reboot.h>
#include <linux/uaccess.h>
#include <asm/mce.h>

#include "hw_ops.h"
#include "compat.h"

static char *devname = "mkvm";
module_param(devname, charp, 0444);
MODULE_PARM_DESC(devname, "name of the device node in /dev (default mkvm; kvm is for clients that open only /dev/kvm)");

bool mkvm_msi_offsets;		/* (a) root may change it at any time */
module_param_named(msi_offsets, mkvm_msi_offsets, bool, 0644);
MODULE_PARM_DESC(msi_offsets, "KVM_SIGNAL_MSI takes offsets into the MSI window, as QEMU gives them (default: with devname=kvm)");

const struct mkvm_hw_ops *mkvm_hw;
static int cpuhp_state;

/* KVM_{HAS,GET}_DEVICE_ATTR: the XSAVE components that a guest can have. */
static int xcr0_attribute(void __user *argp, bool get)
{
	u64 __user *where;
	int r = mkvm_find_attribute(argp, 0, KVM_X86_XCOMP_GUEST_SUPP, &where);

	return r || !get ? r : put_user(MKVM_GUEST_XCR0, where);
}

static long dev_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	switch (ioctl) {
	case KVM_GET_API_VERSION:
		return arg ? -EINVAL : KVM_API_VERSION;
	case KVM_CREATE_VM:
		return mkvm_vm_create_fd(arg);
	case KVM_CHECK_EXTENSION:
		return mkvm_check_extension(arg);
	case KVM_GET_VCPU_MMAP_SIZE:
		return arg ? -EINVAL : MKVM_MMAP_PAGES * PAGE_SIZE;
	case KVM_GET_MSR_INDEX_LIST:
		return mkvm_msr_index_list(argp, false);
	case KVM_GET_MSR_FEATURE_INDEX_LIST:
		return mkvm_msr_index_list(argp, true);
	case KVM_GET_MSRS:
		return mkvm_msrs_ioctl(NULL, argp, false);
	case KVM_X86_GET_MCE_CAP_SUPPORTED:
		return put_user((u64)MKVM_MCE_CAP, (u64 __user *)argp);
	case KVM_GET_SUPPORTED_CPUID:
		return mkvm_cpuid_supported(argp);
	case KVM_HAS_DEVICE_ATTR: case KVM_GET_DEVICE_ATTR:
		return xcr0_attribute(argp, ioctl == KVM_GET_DEVICE_ATTR);
	case KVM_GET_EMULATED_CPUID:
		return mkvm_cpuid_emulated(argp);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations dev_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = dev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice mkvm_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.fops = &dev_fops,
	.mode = 0660,
};

static int cpu_up(unsigned int cpu)
{
	int r;

	preempt_disable();
	r = mkvm_hw->cpu_enable();
	preempt_enable();
	if (r == -EBUSY)
		pr_err("mkvm: CPU %u: another hypervisor holds %s: unload it (rmmod kvm_amd or kvm_intel), or since Linux 6.12 boot with kvm.enable_virt_at_load=0\n",
		       cpu, mkvm_hw->name);
	return r;
}

static int cpu_down_prep(unsigned int cpu)
{
	preempt_disable();
	mkvm_hw->cpu_disable();
	preempt_enable();
	return 0;
}

/* Suspend takes down all other CPUs by hotplug before it calls this. Context: interrupts off. */
static int mkvm_suspend(MKVM_SYSCORE_ARGS)
{
	mkvm_hw->cpu_disable();
	return 0;
}

static void mkvm_resume(MKVM_SYSCORE_ARGS)
{
	if (mkvm_hw->cpu_enable())
		pr_err("mkvm: %s could not be enabled again after suspend\n", mkvm_hw->name);
}

static struct mkvm_syscore syscore = {
	.ops = { .suspend = mkvm_suspend, .resume = mkvm_resume },
};

static void disable_this_cpu(void *unused)
{
	mkvm_hw->cpu_disable();
}

static int reboot_notify(struct notifier_block *nb, unsigned long code, void *unused)
{
	on_each_cpu(disable_this_cpu, NULL, 1);
	return NOTIFY_OK;
}

static struct notifier_block reboot_notifier = { .notifier_call = reboot_notify };

static int __init mkvm_init(void)
{
	const char *why;
	int r;

	if (boot_cpu_data.x86_vendor == X86_VENDOR_INTEL ||
	    (cpuid_ecx(1) & BIT(X86_FEATURE_VMX & 31)))
		mkvm_hw = &mkvm_vmx_ops;
	else
		mkvm_hw = &mkvm_svm_ops;
	why = mkvm_hw->missing();
	if (why) {
		pr_err("mkvm: not loaded: %s\n", why);
		return -EOPNOTSUPP;
	}
	mkvm_regs_setup();
	mkvm_cpuid_setup();
	r = mkvm_hw->setup();
	if (r)
		return r;
	r = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "mkvm:online", cpu_up, cpu_down_prep);
	if (r < 0)
		goto out_setup;
	cpuhp_state = r;
	mkvm_syscore_register(&syscore);
	register_reboot_notifier(&reboot_notifier);

	/*
	 * Patches the scheduler's code, which interrupts all CPUs: so it is done once, and not when
	 * the first VM is created and the last one goes.
	 */
	preempt_notifier_inc();
	mkvm_debugfs_setup();
	if (!strcmp(devname, "kvm"))
		mkvm_msi_offsets = true;
	mkvm_device.name = devname;
	r = misc_register(&mkvm_device);
	if (r) {
		pr_err("mkvm: /dev/%s could not be created (%d): is another module using that name? See the parameter devname=\n",
		       devname, r);
		goto out_cpus;
	}
	if (mkvm_kernel_is_untested())
		pr_notice("mkvm: was not tested with this kernel: it is newer than any that was\n");
	pr_info("mkvm: ready on /dev/%s (%s)\n", devname, mkvm_hw->name);
	return 0;

out_cpus:
	mkvm_debugfs_teardown();
	preempt_notifier_dec();
	unregister_reboot_notifier(&reboot_notifier);
	mkvm_syscore_unregister(&syscore);
	cpuhp_remove_state(cpuhp_state);
out_setup:
	mkvm_hw->teardown();
	return r;
}

static void __exit mkvm_unload(void)
{
	misc_deregister(&mkvm_device);
	mkvm_debugfs_teardown();
	preempt_notifier_dec();
	unregister_reboot_notifier(&reboot_notifier);
	mkvm_syscore_unregister(&syscore);
	cpuhp_remove_state(cpuhp_state);
	mkvm_hw->teardown();
	rcu_barrier();
}

module_init(mkvm_init);
module_exit(mkvm_unload);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A KVM that can be read: the KVM x86 ioctl ABI with a complete, explained interrupt path");
