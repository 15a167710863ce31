// SPDX-License-Identifier: GPL-2.0
/*
 * The device's own ioctls: version, capabilities, lists, VM creation, and how
 * it refuses what it does not know.
 *
 * Read next: vm.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vm.h"

#define BAD_POINTER ((void *)0x10)
#define UNKNOWN_IOCTL _IO(KVMIO, 0xfd)

#define CPUID_1_ECX_VMX (1u << 5)
#define CPUID_80000001_ECX_SVM (1u << 2)

/*
 * The API document says ENOTTY for an ioctl that is not known; Linux KVM says
 * EINVAL on the device and on vCPUs.
 */
#define EXPECT_UNKNOWN(call) do {					\
	if (is_linux_kvm())						\
		EXPECT_EQ(-1, call);					\
	else								\
		EXPECT_ERRNO(ENOTTY, call);				\
} while (0)

static struct kvm_msr_list *msr_list(void)
{
	struct kvm_msr_list probe = { 0 }, *list;

	ASSERT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &probe));
	list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(u32));
	list->nmsrs = probe.nmsrs;
	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, list));
	return list;
}

TEST(api_version_is_12)
{
	EXPECT_EQ(KVM_API_VERSION, ioctl(device_fd(), KVM_GET_API_VERSION, 0));
	EXPECT_EQ(12, KVM_API_VERSION);
}

TEST(argument_of_an_ioctl_without_one_must_be_zero)
{
	EXPECT_ERRNO(EINVAL, ioctl(device_fd(), KVM_GET_API_VERSION, 1));
	EXPECT_ERRNO(EINVAL, ioctl(device_fd(), KVM_GET_VCPU_MMAP_SIZE, 1));
}

TEST(what_vmms_need_is_offered)
{
	static const long needed[] = {
		KVM_CAP_IRQCHIP, KVM_CAP_HLT, KVM_CAP_USER_MEMORY,
		KVM_CAP_SET_TSS_ADDR, KVM_CAP_EXT_CPUID, KVM_CAP_MP_STATE,
		KVM_CAP_IRQ_ROUTING, KVM_CAP_IRQ_INJECT_STATUS,
		KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
		KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, KVM_CAP_PIT2,
		KVM_CAP_PIT_STATE2, KVM_CAP_VCPU_EVENTS, KVM_CAP_XSAVE,
		KVM_CAP_XCRS, KVM_CAP_SIGNAL_MSI, KVM_CAP_READONLY_MEM,
		KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_USER_NMI,
		KVM_CAP_SYNC_MMU, KVM_CAP_NR_VCPUS, KVM_CAP_MAX_VCPUS,
		KVM_CAP_NR_MEMSLOTS, KVM_CAP_INTERNAL_ERROR_DATA,
	};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		ktap_about("capability %ld", needed[i]);
		EXPECT_LT(0, capability(needed[i]));
	}
}

TEST(unknown_capability_is_0)
{
	EXPECT_EQ(0, capability(0x7ffffff));
	EXPECT_EQ(0, capability(-1));
	EXPECT_EQ(0, capability(100000));
}

TEST(capabilities_are_the_same_on_a_vm)
{
	static const long caps[] = {
		KVM_CAP_IRQCHIP, KVM_CAP_NR_MEMSLOTS, KVM_CAP_MAX_VCPUS,
		KVM_CAP_MAX_VCPU_ID, KVM_CAP_SIGNAL_MSI, KVM_CAP_IRQFD,
	};
	int vm = vm_create_bare();

	if (capability(KVM_CAP_CHECK_EXTENSION_VM) <= 0)
		SKIP("KVM_CAP_CHECK_EXTENSION_VM is not offered");
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		EXPECT_EQ(capability(caps[i]),
			  ioctl(vm, KVM_CHECK_EXTENSION, caps[i]));
	EXPECT_EQ(0, ioctl(vm, KVM_CHECK_EXTENSION, 100000L));
}

TEST(mmap_size_is_whole_pages_and_holds_kvm_run)
{
	int size = ioctl(device_fd(), KVM_GET_VCPU_MMAP_SIZE, 0);

	ASSERT_LE(sizeof(struct kvm_run), size);
	EXPECT_EQ(0, size % PAGE_SIZE);
}

TEST(msr_list_too_small_tells_the_size_and_writes_no_index)
{
	struct {
		u32 nmsrs;
		u32 indices[4];
	} small = { .nmsrs = 1, .indices = { 0x5a5a5a5a } };

	EXPECT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &small));
	EXPECT_LT(1, small.nmsrs);
	EXPECT_EQ(0x5a5a5a5a, small.indices[0]);
	small.nmsrs = 0;
	EXPECT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &small));
}

TEST(msr_list_has_what_clients_save_and_no_index_twice)
{
	static const u32 needed[] = {
		0x174, 0x175, 0x176,		/* SYSENTER_CS, ESP, EIP */
		0x277, 0x10,			/* PAT, TSC */
		0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102,
	};
	struct kvm_msr_list *list = msr_list();

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		u32 j = 0;

		while (j < list->nmsrs && list->indices[j] != needed[i])
			j++;
		ktap_about("MSR 0x%x", needed[i]);
		EXPECT_NE(list->nmsrs, j);
	}
	for (u32 i = 0; i < list->nmsrs; i++)
		for (u32 j = 0; j < i; j++)
			EXPECT_NE(list->indices[i], list->indices[j]);
}

TEST(supported_cpuid_too_small_is_e2big)
{
	struct {
		u32 nent;
		u32 padding;
		struct kvm_cpuid_entry2 entries[2];
	} small = { .nent = 1 };

	EXPECT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, &small));
	small.nent = 0;
	EXPECT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, &small));
}

TEST(what_state_a_guest_can_have_is_told_before_there_is_one)
{
	struct cpuid_list list = { .nent = 128 };
	u64 xcr0 = 0, cpuid = 0;
	struct kvm_device_attr attr = { .attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = (u64)&xcr0 };

	NEED_CAP(KVM_CAP_SYS_ATTRIBUTES);
	EXPECT_OK(ioctl(device_fd(), KVM_HAS_DEVICE_ATTR, &attr));
	ASSERT_OK(ioctl(device_fd(), KVM_GET_DEVICE_ATTR, &attr));
	ASSERT_OK(ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, &list));
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 0xd && list.entries[i].index == 0)
			cpuid = list.entries[i].eax | (u64)list.entries[i].edx << 32;
	if (cpuid)
		EXPECT_EQ(cpuid, xcr0);
	attr.addr = 0;
	EXPECT_ERRNO(EFAULT, ioctl(device_fd(), KVM_GET_DEVICE_ATTR, &attr));
	attr.attr++;
	EXPECT_ERRNO(ENXIO, ioctl(device_fd(), KVM_GET_DEVICE_ATTR, &attr));
	attr.attr--;
	attr.group++;
	EXPECT_ERRNO(ENXIO, ioctl(device_fd(), KVM_HAS_DEVICE_ATTR, &attr));
	EXPECT_ERRNO(EFAULT, ioctl(device_fd(), KVM_HAS_DEVICE_ATTR, NULL));
}

TEST(supported_cpuid_is_sane)
{
	struct cpuid_list list = { .nent = 128 };
	u32 seen_basic = 0, seen_extended = 0, leaf1_edx = 0;
	const u32 essential = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 |
			      1 << 8 | 1 << 9 | 1 << 24 | 1 << 25 | 1 << 26;

	ASSERT_OK(ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, &list));
	ASSERT_LT(0, list.nent);
	for (u32 i = 0; i < list.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &list.entries[i];

		if (entry->function == 0)
			seen_basic = entry->eax;
		if (entry->function == 0x80000000)
			seen_extended = entry->eax;
		if (entry->function == 1)
			leaf1_edx = entry->edx;
	}
	EXPECT_LE(1, seen_basic);
	EXPECT_LE(0x80000008, seen_extended);
	/* FPU, PSE, TSC, MSR, PAE, CX8, APIC, FXSR, SSE, SSE2. */
	EXPECT_EQ(essential, leaf1_edx & essential);
}

TEST(supported_cpuid_shows_no_nested_virtualization)
{
	struct cpuid_list list = { .nent = 128 };

	if (capability(KVM_CAP_NESTED_STATE) > 0)
		SKIP("this device offers nested virtualization");
	ASSERT_OK(ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, &list));
	for (u32 i = 0; i < list.nent; i++) {
		struct kvm_cpuid_entry2 *entry = &list.entries[i];

		if (entry->function == 1)
			EXPECT_EQ(0, entry->ecx & CPUID_1_ECX_VMX);
		if (entry->function == 0x80000001)
			EXPECT_EQ(0, entry->ecx & CPUID_80000001_ECX_SVM);
		if (entry->function == 0x8000000a)
			EXPECT_EQ(0, entry->eax | entry->ebx | entry->ecx |
				     entry->edx);
	}
}

TEST(vm_type_other_than_0_is_refused)
{
	EXPECT_ERRNO(EINVAL, ioctl(device_fd(), KVM_CREATE_VM, 0x1000L));
	EXPECT_ERRNO(EINVAL, ioctl(device_fd(), KVM_CREATE_VM, -1L));
}

TEST(many_vms_live_side_by_side)
{
	int fds[20];

	for (int i = 0; i < 20; i++)
		fds[i] = vm_create_bare();
	for (int i = 0; i < 20; i += 2)
		EXPECT_OK(close(fds[i]));
	for (int i = 1; i < 20; i += 2)
		EXPECT_OK(ioctl(fds[i], KVM_CREATE_VCPU, 0L));
}

TEST(unknown_ioctls_are_enotty_on_every_fd)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	EXPECT_UNKNOWN(ioctl(device_fd(), UNKNOWN_IOCTL, 0));
	EXPECT_UNKNOWN(ioctl(device_fd(), TIOCSTI, 0));
	EXPECT_UNKNOWN(ioctl(vm->fd, UNKNOWN_IOCTL, 0));
	EXPECT_UNKNOWN(ioctl(vm->fd, TIOCSTI, 0));
	EXPECT_UNKNOWN(ioctl(vcpu->fd, UNKNOWN_IOCTL, 0));
	EXPECT_UNKNOWN(ioctl(vcpu->fd, TIOCSTI, 0));
}

TEST(an_ioctl_of_another_fd_kind_is_refused)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	struct kvm_regs regs;

	EXPECT_UNKNOWN(ioctl(device_fd(), KVM_CREATE_VCPU, 0L));
	EXPECT_UNKNOWN(ioctl(device_fd(), KVM_RUN, 0));
	EXPECT_UNKNOWN(ioctl(vm->fd, KVM_GET_REGS, &regs));
	EXPECT_UNKNOWN(ioctl(vm->fd, KVM_CREATE_VM, 0L));
	EXPECT_UNKNOWN(ioctl(vcpu->fd, KVM_CREATE_IRQCHIP, 0));
}

TEST(bad_pointers_are_efault_on_the_device)
{
	EXPECT_ERRNO(EFAULT, ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, BAD_POINTER));
	EXPECT_ERRNO(EFAULT, ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, BAD_POINTER));
}

TEST(features_that_the_cpu_lacks_are_none)
{
	static struct cpuid_list list;

	NEED_CAP(KVM_CAP_EXT_EMUL_CPUID);
	list.nent = 1;
	EXPECT_ERRNO(E2BIG, ioctl(device_fd(), KVM_GET_EMULATED_CPUID, &list));
	list.nent = 128;
	ASSERT_OK(ioctl(device_fd(), KVM_GET_EMULATED_CPUID, &list));
	EXPECT_EQ(3, list.nent);
	EXPECT_EQ(7, list.entries[0].eax);
	if (is_linux_kvm())
		SKIP("Linux KVM emulates MOVBE and RDPID");
	for (u32 i = 1; i < list.nent; i++)
		EXPECT_EQ(0, list.entries[i].eax | list.entries[i].ebx | list.entries[i].ecx |
				     list.entries[i].edx);
}

TEST(each_feature_msr_of_the_list_can_be_read)
{
	struct {
		u32 nmsrs, indices[64];
	} list = { .nmsrs = 64 };
	struct msr_list msrs = { .nmsrs = 1 };

	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_FEATURE_INDEX_LIST, &list));
	EXPECT_LT(2, list.nmsrs);
	for (u32 i = 0; i < list.nmsrs; i++) {
		ktap_about("MSR 0x%x", list.indices[i]);
		msrs.entries[0].index = list.indices[i];
		EXPECT_EQ(1, ioctl(device_fd(), KVM_GET_MSRS, &msrs));
	}
	msrs.entries[0].index = 0x345;		/* IA32_PERF_CAPABILITIES, which VMMs ask for */
	EXPECT_EQ(1, ioctl(device_fd(), KVM_GET_MSRS, &msrs));
	msrs.entries[0].index = 0x10;
	EXPECT_EQ(0, ioctl(device_fd(), KVM_GET_MSRS, &msrs));
}

TEST(bad_pointers_are_efault_on_a_vm)
{
	static const unsigned long requests[] = {
		KVM_SET_USER_MEMORY_REGION, KVM_CREATE_PIT2, KVM_IRQ_LINE,
		KVM_IRQ_LINE_STATUS, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP,
		KVM_GET_PIT2, KVM_SET_PIT2, KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING,
	};
	struct vm *vm = vm_create(VM_IRQCHIP);

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (requests[i] == KVM_GET_PIT2) {
			struct kvm_pit_config config = { 0 };

			ASSERT_OK(ioctl(vm->fd, KVM_CREATE_PIT2, &config));
		}
		ktap_about("request 0x%lx", requests[i]);
		EXPECT_ERRNO(EFAULT, ioctl(vm->fd, requests[i], BAD_POINTER));
	}
}

TEST(bad_pointers_are_efault_on_a_vcpu)
{
	static const unsigned long requests[] = {
		KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS,
		KVM_GET_FPU, KVM_SET_FPU, KVM_GET_XSAVE, KVM_SET_XSAVE,
		KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_MSRS, KVM_SET_MSRS,
		KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_MP_STATE,
		KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
		KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_SET_SIGNAL_MASK, KVM_TRANSLATE,
	};
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		ktap_about("request 0x%lx", requests[i]);
		EXPECT_ERRNO(EFAULT, ioctl(vcpu->fd, requests[i], BAD_POINTER));
	}
}

TEST(what_is_not_offered_is_enotty)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_create(vm, 0);
	static u8 argument[4096];
	const struct {
		long cap;
		int fd;
		unsigned long request;
	} refused[] = {
		{ KVM_CAP_IRQFD, vm->fd, KVM_IRQFD },
		{ KVM_CAP_IOEVENTFD, vm->fd, KVM_IOEVENTFD },
		{ KVM_CAP_X86_SMM, vcpu->fd, KVM_SMI },
		{ KVM_CAP_SPLIT_IRQCHIP, vm->fd, KVM_ENABLE_CAP },
		{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, vm->fd, KVM_CLEAR_DIRTY_LOG },
		{ KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, vm->fd, KVM_GET_DIRTY_LOG },
		{ KVM_CAP_NESTED_STATE, vcpu->fd, KVM_GET_NESTED_STATE },
		{ KVM_CAP_NESTED_STATE, vcpu->fd, KVM_SET_NESTED_STATE },
		{ KVM_CAP_KVMCLOCK_CTRL, vcpu->fd, KVM_KVMCLOCK_CTRL },
		{ KVM_CAP_SET_GUEST_DEBUG, vcpu->fd, KVM_SET_GUEST_DEBUG },
		{ KVM_CAP_COALESCED_MMIO, vm->fd, KVM_REGISTER_COALESCED_MMIO },
		{ KVM_CAP_ADJUST_CLOCK, vm->fd, KVM_GET_CLOCK },
		{ KVM_CAP_HYPERV, vcpu->fd, KVM_GET_SUPPORTED_HV_CPUID },
		{ KVM_CAP_XEN_HVM, vm->fd, KVM_XEN_HVM_CONFIG },
	};
	int checked = 0;

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		if (capability(refused[i].cap) > 0)
			continue;
		checked++;
		ktap_about("capability %ld", refused[i].cap);
		EXPECT_ERRNO(ENOTTY, ioctl(refused[i].fd, refused[i].request,
					   argument));
	}
	if (!checked)
		SKIP("this device offers all of them");
}

/* How many lines of the kernel log that came since it was opened have this in them. */
static int log_lines(int kmsg, const char *text)
{
	char line[8192];
	ssize_t n;
	int lines = 0;

	while ((n = read(kmsg, line, sizeof(line) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
		line[n > 0 ? n : 0] = 0;
		lines += !!strstr(line, text);
	}
	return lines;
}

/* Asks a new VM in vain, three times; how many lines that gave. */
static int ask_in_vain(int kmsg, const char *text)
{
	int vm = vm_create_bare(), vcpu = ioctl(vm, KVM_CREATE_VCPU, 0L), lines;

	for (int i = 0; i < 3; i++) {
		EXPECT_EQ(0, ioctl(vm, KVM_CHECK_EXTENSION, 251));
		EXPECT_ERRNO(EINVAL, vm_enable_cap(vm, 252, 1));
		EXPECT_ERRNO(EINVAL, vm_enable_cap(vcpu, 252, 1));
		EXPECT_ERRNO(ENOTTY, ioctl(vm, UNKNOWN_IOCTL, 0));
		EXPECT_ERRNO(ENOTTY, ioctl(vcpu, UNKNOWN_IOCTL, 0));
	}
	lines = log_lines(kmsg, text);
	EXPECT_LE(lines, 2);
	close(vcpu);
	close(vm);
	return lines;
}

TEST(what_a_client_asks_for_in_vain_is_in_the_log_once)
{
	int kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	char text[128];

	if (is_linux_kvm())
		SKIP("Linux KVM says nothing");
	if (kmsg < 0)
		SKIP("/dev/kmsg cannot be read: %s", strerror(errno));
	lseek(kmsg, 0, SEEK_END);
	snprintf(text, sizeof(text), "[%d] asks for", getpid());
	/* The lines of all VMs together are limited: some may be held back for a while. */
	WAIT_FOR(ask_in_vain(kmsg, text) == 2);
	lseek(kmsg, 0, SEEK_SET);
	snprintf(text, sizeof(text), "[%d] asks for KVM_ENABLE_CAP of capability 252,", getpid());
	EXPECT_LT(0, log_lines(kmsg, text));
}

TEST(the_device_opens_twice_and_closes_in_any_order)
{
	int second = open(device_path(), O_RDWR | O_CLOEXEC), vm;

	ASSERT_OK(second);
	vm = ioctl(second, KVM_CREATE_VM, 0L);
	ASSERT_OK(vm);
	EXPECT_OK(close(second));
	EXPECT_OK(ioctl(vm, KVM_CREATE_VCPU, 0L));
}
