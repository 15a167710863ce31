// SPDX-License-Identifier: GPL-2.0
/*
 * vm.c - a VM: its file descriptor, its ioctls, and the capabilities that it offers.
 *
 * State: struct mkvm, which is reference-counted by the descriptors of the VM and of its vCPUs.
 * All vCPUs live until the last of these closes. Only the process (mm) that created the VM may
 * use it.
 *
 * Read next: vcpu.c, mem/memslot.c, irqchip/routing.c.
 */
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/nospec.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/tsc.h>

#include "hw_ops.h"
#include "compat.h"

#define MIN_MMU_PAGES	64	/* as Linux KVM has it */
#define MSR_EXIT_REASONS \
	(KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER)
#define X2APIC_API_FLAGS (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)

/* The answers of KVM_CHECK_EXTENSION that are always the same. */
static const u32 capabilities[] = {
	[KVM_CAP_IRQCHIP] = 1,
	[KVM_CAP_HLT] = 1,
	[KVM_CAP_USER_MEMORY] = 1,
	[KVM_CAP_SET_TSS_ADDR] = 1,
	[KVM_CAP_EXT_CPUID] = 1,
	[KVM_CAP_NOP_IO_DELAY] = 1,
	[KVM_CAP_SYNC_MMU] = 1,
	[KVM_CAP_MP_STATE] = 1,
	[KVM_CAP_DESTROY_MEMORY_REGION_WORKS] = 1,
	[KVM_CAP_JOIN_MEMORY_REGIONS_WORKS] = 1,
	[KVM_CAP_USER_NMI] = 1,
	[KVM_CAP_IRQ_INJECT_STATUS] = 1,
	[KVM_CAP_PIT2] = 1,
	[KVM_CAP_PIT_STATE2] = 1,
	[KVM_CAP_REINJECT_CONTROL] = 1,
	[KVM_CAP_SET_IDENTITY_MAP_ADDR] = 1,
	[KVM_CAP_SET_BOOT_CPU_ID] = 1,
	[KVM_CAP_INTERNAL_ERROR_DATA] = 1,
	[KVM_CAP_VCPU_EVENTS] = 1,
	[KVM_CAP_DEBUGREGS] = 1,
	[KVM_CAP_XSAVE] = 1,
	[KVM_CAP_GET_TSC_KHZ] = 1,
	[KVM_CAP_VCPU_ATTRIBUTES] = 1,
	[KVM_CAP_USER_MEMORY2] = 1,
	[KVM_CAP_SYS_ATTRIBUTES] = 1,
	[KVM_CAP_TSC_DEADLINE_TIMER] = 1,
	[KVM_CAP_SIGNAL_MSI] = 1,
	[KVM_CAP_READONLY_MEM] = 1,
	[KVM_CAP_CHECK_EXTENSION_VM] = 1,
	[KVM_CAP_IMMEDIATE_EXIT] = 1,
	[KVM_CAP_GET_MSR_FEATURES] = 1,
	[KVM_CAP_SET_GUEST_DEBUG] = 1,
	[KVM_CAP_X86_ROBUST_SINGLESTEP] = 1,
	[KVM_CAP_X86_SMM] = 1,
	[KVM_CAP_ENABLE_CAP] = 1,
	[KVM_CAP_ENABLE_CAP_VM] = 1,
	[KVM_CAP_SPLIT_IRQCHIP] = 1,
	[KVM_CAP_VAPIC] = 1,
	[KVM_CAP_EXCEPTION_PAYLOAD] = 1,
	[KVM_CAP_X86_TRIPLE_FAULT_EVENT] = 1,
	[KVM_CAP_IRQFD] = 1,
	[KVM_CAP_IRQFD_RESAMPLE] = 1,
	[KVM_CAP_IOEVENTFD] = 1,
	[KVM_CAP_IOEVENTFD_NO_LENGTH] = 1,
	[KVM_CAP_IOEVENTFD_ANY_LENGTH] = 1,
	[KVM_CAP_COALESCED_PIO] = 1,
	[KVM_CAP_MMU_SHADOW_CACHE_CONTROL] = 1,
	[KVM_CAP_IOAPIC_POLARITY_IGNORED] = 1,
	[KVM_CAP_BINARY_STATS_FD] = 1,
	[KVM_CAP_EXT_EMUL_CPUID] = 1,
	[KVM_CAP_X86_MSR_FILTER] = 1,
	[KVM_CAP_MSR_PLATFORM_INFO] = 1,
	[KVM_CAP_X86_USER_SPACE_MSR] = 1,
	[KVM_CAP_EXIT_ON_EMULATION_FAILURE] = 1,
	[KVM_CAP_XSAVE2] = sizeof(struct kvm_xsave),
	[KVM_CAP_COALESCED_MMIO] = KVM_COALESCED_MMIO_PAGE_OFFSET,
	[KVM_CAP_MULTI_ADDRESS_SPACE] = MKVM_NR_AS,
	[KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2] = MKVM_DIRTY_MANUAL_FLAGS,
	[KVM_CAP_SYNC_REGS] = KVM_SYNC_X86_VALID_FIELDS,
	[KVM_CAP_MCE] = MKVM_MCE_BANKS,
	[KVM_CAP_ADJUST_CLOCK] = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC,
	[KVM_CAP_SET_GUEST_DEBUG2] = MKVM_GUESTDBG_FLAGS,
	[KVM_CAP_X2APIC_API] = X2APIC_API_FLAGS,
	[KVM_CAP_IRQ_ROUTING] = MKVM_NR_GSI,
	[KVM_CAP_MAX_VCPUS] = MKVM_MAX_VCPUS,
	[KVM_CAP_MAX_VCPU_ID] = MKVM_MAX_VCPUS,
	[KVM_CAP_NR_MEMSLOTS] = MKVM_MAX_SLOTS,
};

/*
 * Returns the exits that userspace may disable. PAUSE never exits here. MWAIT needs a host whose
 * MWAIT ends at an interrupt and whose local APIC timer goes on meanwhile. The registers that
 * KVM_X86_DISABLE_EXITS_CSTATE concerns do not exist here.
 */
static u32 exits_to_disable(void)
{
	u32 exits = KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE;

	if (boot_cpu_has(X86_FEATURE_MWAIT) && boot_cpu_has(X86_FEATURE_ARAT) &&
	    !boot_cpu_has_bug(X86_BUG_MONITOR))
		exits |= KVM_X86_DISABLE_EXITS_MWAIT;
	return exits;
}

/* KVM_CHECK_EXTENSION, on the device and on a VM. Any context. */
long mkvm_check_extension(unsigned long cap)
{
	switch (cap) {
	case MKVM_CAP_VERSION:
		return MKVM_API_VERSION;
	case KVM_CAP_XCRS:
		return boot_cpu_has(X86_FEATURE_XSAVE);
	case KVM_CAP_X86_DISABLE_EXITS:
		return exits_to_disable();
	case KVM_CAP_NR_VCPUS:
		return min_t(unsigned int, num_online_cpus(), MKVM_MAX_VCPUS);
	default:
		if (cap >= ARRAY_SIZE(capabilities))
			return 0;
		return capabilities[array_index_nospec(cap, ARRAY_SIZE(capabilities))];
	}
}

/*
 * mkvm_not_offered - log that a client requested something that is not offered
 * @cap: number is a capability's, else an ioctl's
 *
 * Each request is logged once per VM. Context: process.
 */
void mkvm_not_offered(struct mkvm *vm, bool cap, u32 number)
{
	const char *what = cap ? "KVM_ENABLE_CAP of capability" : "ioctl number";

	if (!test_and_set_bit((cap ? 256 : 0) + min(number, 255u), vm->logged))
		pr_info_ratelimited("mkvm: %s[%d] asks for %s %u, which is not offered\n",
				    current->comm, task_pid_nr(current), what, number);
}

void mkvm_vm_get(struct mkvm *vm)
{
	kref_get(&vm->refs);
}

static void free_slots(struct mkvm *vm)
{
	struct mkvm_memslots *slots;
	int as, i;

	for (as = 0; as < MKVM_NR_AS; as++) {
		slots = rcu_dereference_protected(vm->slots[as], true);
		for (i = 0; slots && i < slots->nr; i++)
			kvfree(slots->slot[i].dirty);
		kvfree(slots);
	}
}

static int alloc_slots(struct mkvm *vm)
{
	struct mkvm_memslots *slots;
	int as;

	for (as = 0; as < MKVM_NR_AS; as++) {
		slots = kvzalloc(sizeof(*slots), GFP_KERNEL_ACCOUNT);
		if (!slots)
			return -ENOMEM;
		slots->generation = 1;
		RCU_INIT_POINTER(vm->slots[as], slots);
	}
	return 0;
}

static void vm_destroy(struct kref *ref)
{
	struct mkvm *vm = container_of(ref, struct mkvm, refs);
	struct mkvm_vcpu *vcpu;
	int i;

	mkvm_debugfs_remove(vm);
	mkvm_irqchip_destroy(vm);
	mmu_notifier_unregister(&vm->notifier, vm->mm);
	mkvm_for_each_vcpu(i, vcpu, vm)
		mkvm_vcpu_destroy(vcpu);
	mkvm_iodev_destroy(vm);
	mkvm_tdp_destroy(vm);
	free_slots(vm);
	mkvm_msr_filter_free(rcu_dereference_protected(vm->msr_filter, true));
	cleanup_srcu_struct(&vm->srcu);
	mmdrop(vm->mm);
	kvfree(vm);
}

void mkvm_vm_put(struct mkvm *vm)
{
	kref_put(&vm->refs, vm_destroy);
}

static struct mkvm *vm_create(void)
{
	struct mkvm *vm = kvzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	static atomic_t last_nr;
	int r;

	if (!vm)
		return ERR_PTR(-ENOMEM);
	kref_init(&vm->refs);
	mutex_init(&vm->lock);
	mutex_init(&vm->slots_lock);
	spin_lock_init(&vm->mmu_lock);
	mkvm_irqchip_init(vm);
	vm->nr = atomic_inc_return(&last_nr);
	mkvm_tsc_init(vm);
	vm->clock_offset = -ktime_get_boottime_ns();
	r = alloc_slots(vm);
	if (!r)
		r = mkvm_iodev_init(vm);
	if (r)
		goto out_slots;
	r = init_srcu_struct(&vm->srcu);
	if (r)
		goto out_iodev;
	vm->mm = current->mm;
	mmgrab(vm->mm);
	r = mkvm_tdp_create(vm);
	if (r)
		goto out_mm;
	mkvm_debugfs_add(vm);
	return vm;

out_mm:
	mmdrop(vm->mm);
	cleanup_srcu_struct(&vm->srcu);
out_iodev:
	mkvm_iodev_destroy(vm);
out_slots:
	free_slots(vm);
	kvfree(vm);
	return ERR_PTR(r);
}

/* The limit is set once, before vCPUs exist and not below the BSP's id; repeating it is allowed. */
static int set_max_vcpu_ids(struct mkvm *vm, u64 ids)
{
	if (!ids || ids > MKVM_MAX_VCPUS || ids < vm->bsp_id ||
	    (ids != vm->max_vcpu_ids && (vm->nr_vcpus || vm->max_vcpu_ids)))
		return -EINVAL;
	vm->max_vcpu_ids = ids;
	return 0;
}

/*
 * KVM_ENABLE_CAP. Each capability has one argument. Return: -EINVAL for one that cannot be enabled.
 */
static int enable_cap(struct mkvm *vm, struct kvm_enable_cap __user *arg)
{
	struct kvm_enable_cap cap;

	if (copy_from_user(&cap, arg, sizeof(cap)))
		return -EFAULT;
	if (cap.flags ||
	    memchr_inv(&cap.args[1], 0, sizeof(cap) - offsetof(struct kvm_enable_cap, args[1])))
		return -EINVAL;
	switch (cap.cap) {
	case KVM_CAP_SPLIT_IRQCHIP:
		return mkvm_irqchip_create_split(vm, cap.args[0]);
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		if (cap.args[0] & ~(u64)MKVM_DIRTY_MANUAL_FLAGS ||
		    (cap.args[0] && !(cap.args[0] & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)))
			return -EINVAL;
		WRITE_ONCE(vm->dirty_manual, cap.args[0]);
		return 0;
	case KVM_CAP_X2APIC_API:
		if (cap.args[0] & ~(u64)X2APIC_API_FLAGS)
			return -EINVAL;
		vm->irqchip.x2apic_ids |= !!(cap.args[0] & KVM_X2APIC_API_USE_32BIT_IDS);
		vm->irqchip.no_broadcast_quirk |=
			!!(cap.args[0] & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
		return 0;
	case KVM_CAP_EXCEPTION_PAYLOAD:
		WRITE_ONCE(vm->payload_events, cap.args[0]);
		return 0;
	case KVM_CAP_X86_TRIPLE_FAULT_EVENT:
		WRITE_ONCE(vm->triple_fault_events, cap.args[0]);
		return 0;
	case KVM_CAP_MSR_PLATFORM_INFO:
		WRITE_ONCE(vm->hides_platform_info, !cap.args[0]);
		return 0;
	case KVM_CAP_MAX_VCPU_ID:
		return set_max_vcpu_ids(vm, cap.args[0]);
	case KVM_CAP_X86_USER_SPACE_MSR:
		if (cap.args[0] & ~(u64)MSR_EXIT_REASONS)
			return -EINVAL;
		WRITE_ONCE(vm->user_msr_reasons, cap.args[0]);
		return 0;
	case KVM_CAP_X86_DISABLE_EXITS:
		if ((cap.args[0] & ~(u64)exits_to_disable()) || vm->nr_vcpus)
			return -EINVAL;
		vm->disabled_exits |= cap.args[0];
		return 0;
	case KVM_CAP_EXIT_ON_EMULATION_FAILURE:
		if (cap.args[0] > 1)
			return -EINVAL;
		WRITE_ONCE(vm->exit_on_emulation_failure, cap.args[0]);
		return 0;
	default:
		mkvm_not_offered(vm, true, cap.cap);
		return -EINVAL;
	}
}

/*
 * KVM_GET_CLOCK: ns since the VM's creation, adjusted by KVM_SET_CLOCK. No guest sees this clock,
 * since there is no paravirtual clock. It exists for clients that save and restore it.
 */
static int get_clock(struct mkvm *vm, struct kvm_clock_data __user *arg)
{
	struct kvm_clock_data data = {
		.clock = ktime_get_boottime_ns() + READ_ONCE(vm->clock_offset),
		.flags = (check_tsc_unstable() ? 0 : KVM_CLOCK_TSC_STABLE) |
			 KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC,
		.realtime = ktime_get_real_ns(),
		.host_tsc = rdtsc(),
	};

	return copy_to_user(arg, &data, sizeof(data)) ? -EFAULT : 0;
}

static int set_clock(struct mkvm *vm, struct kvm_clock_data __user *arg)
{
	struct kvm_clock_data data;
	s64 passed = 0;

	if (copy_from_user(&data, arg, sizeof(data)))
		return -EFAULT;
	if (data.flags & ~(KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC))
		return -EINVAL;
	if (data.pad0 || memchr_inv(data.pad, 0, sizeof(data.pad)))
		return -EINVAL;
	if (data.flags & KVM_CLOCK_REALTIME)		/* add the time since it was saved */
		passed = max_t(s64, ktime_get_real_ns() - data.realtime, 0);
	WRITE_ONCE(vm->clock_offset, data.clock + passed - ktime_get_boottime_ns());
	return 0;
}

/* Ioctls that pass one struct, without vm->lock. The ioctl's number encodes the struct's size. */
static int struct_ioctl(struct mkvm *vm, unsigned int ioctl, void __user *argp)
{
	union {
		struct kvm_userspace_memory_region memory;
		struct kvm_dirty_log dirty;
		struct kvm_clear_dirty_log clear;
		struct kvm_irqfd irqfd;
		struct kvm_ioeventfd ioeventfd;
		struct kvm_coalesced_mmio_zone zone;
	} arg;

	/* What KVM_SET_USER_MEMORY_REGION2 adds is for flags that are not offered. */
	if (copy_from_user(&arg, argp, min_t(size_t, _IOC_SIZE(ioctl), sizeof(arg))))
		return -EFAULT;
	switch (ioctl) {
	case KVM_SET_USER_MEMORY_REGION: case KVM_SET_USER_MEMORY_REGION2:
		return mkvm_memslot_set(vm, &arg.memory);
	case KVM_GET_DIRTY_LOG:
		return mkvm_dirty_log_get(vm, &arg.dirty);
	case KVM_CLEAR_DIRTY_LOG:
		return mkvm_dirty_log_clear(vm, &arg.clear);
	case KVM_IRQFD:
		return mkvm_irqfd_ioctl(vm, &arg.irqfd);
	case KVM_IOEVENTFD:
		return mkvm_ioeventfd_ioctl(vm, &arg.ioeventfd);
	default:
		return mkvm_coalesced_ioctl(vm, &arg.zone, ioctl == KVM_REGISTER_COALESCED_MMIO);
	}
}

static int set_msr_filter(struct mkvm *vm, struct kvm_msr_filter __user *arg)
{
	struct kvm_msr_filter filter;

	return copy_from_user(&filter, arg, sizeof(filter)) ? -EFAULT :
							      mkvm_msr_filter_set(vm, &filter);
}

/* Ioctls under vm->lock. */
static long vm_ioctl_locked(struct mkvm *vm, unsigned int ioctl, unsigned long arg)
{
	void __user *argp = (void __user *)arg;
	u64 addr __maybe_unused;	/* read to find a bad pointer */

	switch (ioctl) {
	case KVM_CREATE_IRQCHIP:
		return mkvm_irqchip_create(vm);
	case KVM_ENABLE_CAP:
		return enable_cap(vm, argp);
	case KVM_CREATE_PIT2:
		return mkvm_irqchip_create_pit(vm, argp);
	case KVM_CREATE_VCPU:
		return mkvm_vcpu_create_fd(vm, arg);
	case KVM_SET_BOOT_CPU_ID:
		if (vm->nr_vcpus)
			return -EBUSY;
		if (arg >= (vm->max_vcpu_ids ?: MKVM_MAX_VCPUS))
			return -EINVAL;
		vm->bsp_id = arg;
		return 0;
	case KVM_SET_IDENTITY_MAP_ADDR:
		if (get_user(addr, (u64 __user *)argp))
			return -EFAULT;
		if (vm->nr_vcpus)
			return -EINVAL;
		return 0;	/* real mode runs natively here: the page is not needed */
	case KVM_X86_SET_MSR_FILTER:
		return set_msr_filter(vm, argp);
	case KVM_SET_NR_MMU_PAGES:	/* limits shadow page tables, which do not exist here */
		if (arg < MIN_MMU_PAGES || arg > INT_MAX)
			return -EINVAL;
		vm->nr_mmu_pages = arg;
		return 0;
	case KVM_GET_NR_MMU_PAGES:
		return vm->nr_mmu_pages;
	case KVM_GET_STATS_FD:
		return mkvm_stats_fd(vm, NULL);
	default:
		if (_IOC_TYPE(ioctl) == KVMIO)
			mkvm_not_offered(vm, false, _IOC_NR(ioctl));
		return -ENOTTY;
	}
}

static long vm_ioctl(struct file *file, unsigned int ioctl, unsigned long arg)
{
	struct mkvm *vm = file->private_data;
	void __user *argp = (void __user *)arg;
	long r;

	if (vm->mm != current->mm)
		return -EIO;
	switch (ioctl) {
	case KVM_CHECK_EXTENSION:
		return mkvm_check_extension(arg);
	case KVM_SET_TSS_ADDR:
		/* Real mode runs natively here: three pages below 4 GiB are not needed. */
		return arg > (u32)(-3 * PAGE_SIZE) ? -EINVAL : 0;
	case KVM_GET_TSC_KHZ:
		return READ_ONCE(vm->tsc.khz);
	case KVM_SET_TSC_KHZ:
		return mkvm_tsc_set_khz(&vm->tsc.khz, arg);
	case KVM_IRQ_LINE:
	case KVM_IRQ_LINE_STATUS:
		return mkvm_irqchip_line(vm, argp, ioctl == KVM_IRQ_LINE_STATUS);
	case KVM_SIGNAL_MSI:
		return mkvm_irqchip_signal_msi(vm, argp);
	case MKVM_GET_VCPU_STATE:
		return mkvm_vcpu_state_ioctl(vm, argp);
	case KVM_GET_CLOCK:
		return get_clock(vm, argp);
	case KVM_SET_CLOCK:
		return set_clock(vm, argp);
	case KVM_SET_GSI_ROUTING:
		return mkvm_irqchip_set_routing(vm, argp);
	case KVM_GET_IRQCHIP:
		return mkvm_irqchip_get(vm, argp);
	case KVM_SET_IRQCHIP:
		return mkvm_irqchip_set(vm, argp);
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_USER_MEMORY_REGION2:
	case KVM_GET_DIRTY_LOG:
	case KVM_CLEAR_DIRTY_LOG:
	case KVM_IRQFD:
	case KVM_IOEVENTFD:
	case KVM_REGISTER_COALESCED_MMIO:
	case KVM_UNREGISTER_COALESCED_MMIO:
		return struct_ioctl(vm, ioctl, argp);
	case KVM_GET_PIT2:
	case KVM_SET_PIT2:
	case KVM_REINJECT_CONTROL:
		return mkvm_irqchip_pit_ioctl(vm, ioctl, argp);
	}
	mutex_lock(&vm->lock);
	r = vm_ioctl_locked(vm, ioctl, arg);
	mutex_unlock(&vm->lock);
	return r;
}

static int vm_release(struct inode *inode, struct file *file)
{
	mkvm_vm_put(file->private_data);
	return 0;
}

static const struct file_operations vm_fops = {
	.owner = THIS_MODULE,
	.release = vm_release,
	.unlocked_ioctl = vm_ioctl,
	.llseek = noop_llseek,
};

/*
 * mkvm_vm_create_fd - KVM_CREATE_VM
 * @type: must be 0
 *
 * Context: may sleep. Return: a descriptor, -EINVAL, -ENOMEM or another -errno.
 */
int mkvm_vm_create_fd(unsigned long type)
{
	struct mkvm *vm;
	int fd;

	if (type)
		return -EINVAL;
	vm = vm_create();
	if (IS_ERR(vm))
		return PTR_ERR(vm);
	fd = anon_inode_getfd("mkvm-vm", &vm_fops, vm, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		mkvm_vm_put(vm);
	return fd;
}
