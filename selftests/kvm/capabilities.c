// SPDX-License-Identifier: GPL-2.0
/*
 * Each capability that is offered has behaviour: one row for each, with the shortest thing that
 * shows it. What it means in full is tested where its subject is.
 *
 * Read next: system.c.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm.h"

#ifndef KVM_SET_USER_MEMORY_REGION2		/* headers before 6.8 */
#define KVM_CAP_USER_MEMORY2 231
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, u64[20])
#endif

static void nop_guest(u64 arg)
{
	(void)arg;
}

static void hlt_guest(u64 arg)
{
	(void)arg;
	asm volatile("hlt");
}

static void out_guest(u64 arg)
{
	outb(arg, 0);
}

static void read_guest(u64 address)
{
	GUEST_EQ(0x11, *(volatile u8 *)address);
}

static void mmio_write_guest(u64 address)
{
	mmio_write32(address, 5);
}

static struct vcpu *run_guest(unsigned int flags, void (*guest)(u64 arg), u64 arg)
{
	return vcpu_add(vm_create(flags), guest, arg);
}

static void irqchip(void)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	EXPECT_OK(ioctl(vm_create(VM_IRQCHIP)->fd, KVM_GET_IRQCHIP, &chip));
}

static void hlt(void)
{
	vcpu_run_to_exit(run_guest(0, hlt_guest, 0), KVM_EXIT_HLT);
}

/* A slot comes, the guest sees it, its halves join, and it goes. */
static void user_memory(void)
{
	struct vcpu *vcpu = run_guest(0, read_guest, TEST_GPA + PAGE_SIZE);
	u8 *host = vm_add_memory(vcpu->vm, SLOT_TEST, 0, TEST_GPA, 2 * PAGE_SIZE);

	host[PAGE_SIZE] = 0x11;
	vcpu_run_to_done(vcpu);
	EXPECT_OK(vm_set_slot(vcpu->vm, SLOT_TEST, 0, TEST_GPA, 0, host));
	EXPECT_OK(vm_set_slot(vcpu->vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE, host));
	EXPECT_OK(vm_set_slot(vcpu->vm, SLOT_TEST + 1, 0, TEST_GPA + PAGE_SIZE, PAGE_SIZE,
			      host + PAGE_SIZE));
	vcpu_set_guest(vcpu, read_guest, TEST_GPA + PAGE_SIZE);
	vcpu_run_to_done(vcpu);
	EXPECT_OK(vm_set_slot(vcpu->vm, SLOT_TEST + 1, 0, TEST_GPA + PAGE_SIZE, 0, host));
	vcpu_set_guest(vcpu, read_guest, TEST_GPA + PAGE_SIZE);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
}

static void user_memory2(void)
{
	struct vm *vm = vm_create(0);
	u64 region[20] = { SLOT_TEST, TEST_GPA, PAGE_SIZE, (u64)host_memory(PAGE_SIZE) };

	EXPECT_OK(ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION2, region));
}

/* The host changes the page behind a slot: the guest sees the new one. */
static void sync_mmu(void)
{
	struct vcpu *vcpu = run_guest(0, read_guest, TEST_GPA);
	u8 *host = vm_add_memory(vcpu->vm, SLOT_TEST, 0, TEST_GPA, PAGE_SIZE);

	for (int i = 0; i < 2; i++) {
		host[0] = 0x11;
		vcpu_set_guest(vcpu, read_guest, TEST_GPA);
		vcpu_run_to_done(vcpu);
		ASSERT_OK(madvise(host, PAGE_SIZE, MADV_DONTNEED));
	}
}

static void readonly_mem(void)
{
	struct vcpu *vcpu = run_guest(0, mmio_write_guest, TEST_GPA);

	vm_add_memory(vcpu->vm, SLOT_TEST, KVM_MEM_READONLY, TEST_GPA, PAGE_SIZE);
	vcpu_run_to_exit(vcpu, KVM_EXIT_MMIO);
}

static void nr_memslots(void)
{
	struct vm *vm = vm_create(0);
	u32 nr = capability(KVM_CAP_NR_MEMSLOTS);
	void *host = host_memory(PAGE_SIZE);

	EXPECT_OK(vm_set_slot(vm, nr - 1, 0, TEST_GPA, PAGE_SIZE, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, nr, 0, TEST_GPA + PAGE_SIZE, PAGE_SIZE, host));
}

static void address_spaces(void)
{
	struct vm *vm = vm_create(0);
	u32 nr = capability(KVM_CAP_MULTI_ADDRESS_SPACE);
	void *host = host_memory(PAGE_SIZE);

	EXPECT_OK(vm_set_slot(vm, (nr - 1) << 16, 0, TEST_GPA, PAGE_SIZE, host));
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm, nr << 16, 0, TEST_GPA, PAGE_SIZE, host));
}

static void dirty_log_protect(void)
{
	struct vm *vm = vm_create(0);
	u64 bitmap = 1;
	struct kvm_clear_dirty_log clear = {
		.slot = SLOT_TEST, .num_pages = 64, .dirty_bitmap = &bitmap,
	};

	EXPECT_OK(vm_enable_cap(vm->fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
				KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE));
	vm_add_memory(vm, SLOT_TEST, KVM_MEM_LOG_DIRTY_PAGES, TEST_GPA, 64 * PAGE_SIZE);
	EXPECT_OK(ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear));
}

static void mmu_pages(void)
{
	struct vm *vm = vm_create(0);

	EXPECT_OK(ioctl(vm->fd, KVM_SET_NR_MMU_PAGES, 100L));
	EXPECT_EQ(100, ioctl(vm->fd, KVM_GET_NR_MMU_PAGES, 0));
}

static void coalesced(void)
{
	struct vcpu *vcpu = run_guest(0, mmio_write_guest, MMIO_GPA);
	struct kvm_coalesced_mmio_zone zone = { .addr = MMIO_GPA, .size = 16 };

	EXPECT_OK(ioctl(vcpu->vm->fd, KVM_REGISTER_COALESCED_MMIO, &zone));
	vcpu_run_to_done(vcpu);
}

static void coalesced_pio(void)
{
	struct vcpu *vcpu = run_guest(0, out_guest, 0x300);
	struct kvm_coalesced_mmio_zone zone = { .addr = 0x300, .size = 1, .pio = 1 };

	EXPECT_OK(ioctl(vcpu->vm->fd, KVM_REGISTER_COALESCED_MMIO, &zone));
	vcpu_run_to_done(vcpu);
}

/* One of each length, 0 for any; each signals once. */
static void ioeventfd(void)
{
	static const u32 lengths[] = { 0, 4 };

	for (int i = 0; i < 2; i++) {
		struct vcpu *vcpu = run_guest(0, mmio_write_guest, MMIO_GPA);
		struct kvm_ioeventfd io = {
			.addr = MMIO_GPA, .len = lengths[i], .fd = new_eventfd(),
		};

		EXPECT_OK(ioctl(vcpu->vm->fd, KVM_IOEVENTFD, &io));
		vcpu_run_to_done(vcpu);
		EXPECT_EQ(1, take_count(io.fd));
	}
}

static void irqfd(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irqfd irq = {
		.fd = new_eventfd(), .gsi = 5,
		.flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = new_eventfd(),
	};

	EXPECT_OK(ioctl(vm->fd, KVM_IRQFD, &irq));
}

static void irq_status(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irq_level level = { .irq = 5, .level = 1 };

	vcpu_create(vm, 0);
	EXPECT_OK(ioctl(vm->fd, KVM_IRQ_LINE_STATUS, &level));
}

static void irq_routing(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irq_routing *none = calloc(1, sizeof(*none));

	EXPECT_OK(ioctl(vm->fd, KVM_SET_GSI_ROUTING, none));
}

static void signal_msi(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	/* An NMI, which a local APIC takes that no guest has switched on yet. */
	struct kvm_msi msi = { .address_lo = MSI_ADDR(0), .data = ICR_NMI };

	vcpu_run_to_done(vcpu_add(vm, nop_guest, 0));
	EXPECT_EQ(1, ioctl(vm->fd, KVM_SIGNAL_MSI, &msi));
}

static void split_irqchip(void)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	EXPECT_ERRNO(ENXIO, ioctl(vm_create(VM_SPLIT)->fd, KVM_GET_IRQCHIP, &chip));
}

static void pit(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP | VM_PIT);
	struct kvm_reinject_control control = { .pit_reinject = 0 };
	struct kvm_pit_state2 state;

	EXPECT_OK(ioctl(vm->fd, KVM_GET_PIT2, &state));
	EXPECT_OK(ioctl(vm->fd, KVM_SET_PIT2, &state));
	EXPECT_OK(ioctl(vm->fd, KVM_REINJECT_CONTROL, &control));
}

static void x2apic_api(void)
{
	EXPECT_OK(vm_enable_cap(vm_create(VM_IRQCHIP)->fd, KVM_CAP_X2APIC_API,
				KVM_X2APIC_API_USE_32BIT_IDS));
}

/* The polarity of a pin says nothing about the level that KVM_IRQ_LINE gives it. */
static void polarity(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	chip.chip.ioapic.redirtbl[5].bits = RTE_LOW | RTE_LEVEL | RTE_MASKED;
	ASSERT_OK(ioctl(vm->fd, KVM_SET_IRQCHIP, &chip));
	vm_irq_line(vm, 5, 1);
	ASSERT_OK(ioctl(vm->fd, KVM_GET_IRQCHIP, &chip));
	EXPECT_TRUE(chip.chip.ioapic.irr & 1 << 5);
}

static void mp_state(void)
{
	vcpu_set_mp_state(vcpu_create(vm_create(VM_IRQCHIP), 0), KVM_MP_STATE_HALTED);
}

static void nmi(void)
{
	EXPECT_OK(ioctl(vcpu_create(vm_create(VM_IRQCHIP), 0)->fd, KVM_NMI, 0));
}

static void smi(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);
	struct kvm_vcpu_events events;

	EXPECT_OK(ioctl(vcpu->fd, KVM_SMI, 0));
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(1, events.smi.pending);
}

static void vcpu_events(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);
	struct kvm_vcpu_events events;

	vcpu_get_events(vcpu, &events);
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

static void payloads(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);
	struct kvm_vcpu_events events;

	EXPECT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_EXCEPTION_PAYLOAD, 1));
	EXPECT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
	vcpu_get_events(vcpu, &events);
	EXPECT_EQ(KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
		  events.flags & (KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT));
}

static void debugregs(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct kvm_debugregs regs;

	EXPECT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &regs));
}

static void xsave(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct kvm_xsave area;

	EXPECT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE, &area));
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_XSAVE, &area));
}

static void xsave2(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	void *area = calloc(1, capability(KVM_CAP_XSAVE2));

	EXPECT_OK(ioctl(vcpu->fd, KVM_GET_XSAVE2, area));
}

static void xcrs(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct kvm_xcrs x;

	EXPECT_OK(ioctl(vcpu->fd, KVM_GET_XCRS, &x));
	EXPECT_EQ(1, x.nr_xcrs);
	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_XCRS, &x));
}

static void sync_regs(void)
{
	struct vcpu *vcpu = run_guest(0, out_guest, 0x300);

	vcpu->run->kvm_valid_regs = KVM_SYNC_X86_REGS;
	vcpu_run_to_exit(vcpu, KVM_EXIT_IO);
	EXPECT_EQ(0x300, vcpu->run->s.regs.regs.rdx);
}

static void guest_debug(void)
{
	struct vcpu *vcpu = run_guest(0, nop_guest, 0);
	struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };

	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug));
	vcpu_run_to_exit(vcpu, KVM_EXIT_DEBUG);
}

static void immediate_exit(void)
{
	struct vcpu *vcpu = run_guest(0, nop_guest, 0);

	vcpu->run->immediate_exit = 1;
	EXPECT_ERRNO(EINTR, ioctl(vcpu->fd, KVM_RUN, 0));
	vcpu->run->immediate_exit = 0;
}

static void tsc_khz(void)
{
	EXPECT_LT(0, ioctl(vcpu_create(vm_create(0), 0)->fd, KVM_GET_TSC_KHZ, 0));
}

static void deadline_guest(u64 arg)
{
	(void)arg;
	x2apic_enable();
	x2apic_write(APIC_LVTT, LVT_MASKED | LVT_DEADLINE);
	wrmsr(MSR_TSC_DEADLINE, ~0ull >> 1);
	GUEST_EQ(~0ull >> 1, rdmsr(MSR_TSC_DEADLINE));
}

static void tsc_deadline(void)
{
	vcpu_run_to_done(run_guest(VM_IRQCHIP, deadline_guest, 0));
}

static void vcpu_attributes(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };

	EXPECT_OK(ioctl(vcpu->fd, KVM_HAS_DEVICE_ATTR, &attr));
}

static void sys_attributes(void)
{
	struct kvm_device_attr attr = { .attr = KVM_X86_XCOMP_GUEST_SUPP };

	EXPECT_OK(ioctl(device_fd(), KVM_HAS_DEVICE_ATTR, &attr));
}

static void cpuid_lists(void)
{
	static struct cpuid_list list;

	list.nent = 128;
	EXPECT_OK(ioctl(device_fd(), KVM_GET_SUPPORTED_CPUID, &list));
	list.nent = 128;
	EXPECT_OK(ioctl(device_fd(), KVM_GET_EMULATED_CPUID, &list));
}

/* Told to guests in a CPUID leaf of KVM's. */
static void no_io_delay(void)
{
	static struct cpuid_list list;

	default_cpuid(&list, 0);
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 0x40000001)
			EXPECT_EQ(1, list.entries[i].eax >> 1 & 1);
}

static void feature_msrs(void)
{
	struct {
		u32 nmsrs, indices[64];
	} list = { .nmsrs = 64 };

	EXPECT_OK(ioctl(device_fd(), KVM_GET_MSR_FEATURE_INDEX_LIST, &list));
}

static void msr_filter(void)
{
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };

	EXPECT_OK(ioctl(vm_create(0)->fd, KVM_X86_SET_MSR_FILTER, &filter));
}

static void unknown_msr_guest(u64 arg)
{
	(void)arg;
	GUEST_EQ(0x77, rdmsr(0xdead0000));
}

static void user_space_msr(void)
{
	struct vcpu *vcpu = run_guest(0, unknown_msr_guest, 0);

	EXPECT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_X86_USER_SPACE_MSR,
				KVM_MSR_EXIT_REASON_UNKNOWN));
	vcpu_run_to_exit(vcpu, KVM_EXIT_X86_RDMSR)->msr.data = 0x77;
	vcpu_run_to_done(vcpu);
}

static void platform_info_guest(u64 arg)
{
	u64 val;

	(void)arg;
	GUEST_EQ(VEC_GP, rdmsr_try(0xce, &val));
}

static void platform_info(void)
{
	struct vcpu *vcpu = run_guest(0, platform_info_guest, 0);

	EXPECT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_MSR_PLATFORM_INFO, 0));
	vcpu_run_to_done(vcpu);
}

static void mce(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	u64 banks = capability(KVM_CAP_MCE);

	EXPECT_OK(ioctl(vcpu->fd, KVM_X86_SETUP_MCE, &banks));
}

static void clock_ioctls(void)
{
	struct vm *vm = vm_create(0);
	struct kvm_clock_data clock = { 0 };

	EXPECT_OK(ioctl(vm->fd, KVM_GET_CLOCK, &clock));
	EXPECT_EQ(0, clock.flags & ~capability(KVM_CAP_ADJUST_CLOCK));
	clock.flags = 0;
	EXPECT_OK(ioctl(vm->fd, KVM_SET_CLOCK, &clock));
}

static void addresses(void)
{
	struct vm *vm = vm_create(0);
	u64 map = 0xfeffc000;

	EXPECT_OK(ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &map));
	EXPECT_OK(ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xfeffd000L));
}

static void boot_cpu_id(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);

	EXPECT_OK(ioctl(vm->fd, KVM_SET_BOOT_CPU_ID, 3L));
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(vcpu_create(vm, 3)));
}

static void vapic(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);
	struct kvm_vapic_addr addr = { .vapic_addr = 0 };

	EXPECT_OK(ioctl(vcpu->fd, KVM_SET_VAPIC_ADDR, &addr));
}

static void stats_fd(void)
{
	int fd = ioctl(vm_create(0)->fd, KVM_GET_STATS_FD, 0);
	struct kvm_stats_header header;

	EXPECT_OK(fd);
	EXPECT_EQ(sizeof(header), read(fd, &header, sizeof(header)));
}

static void vcpu_ids(void)
{
	struct vm *vm = vm_create(0);
	long limit = capability(KVM_CAP_MAX_VCPU_ID);

	EXPECT_OK(ioctl(vm->fd, KVM_CREATE_VCPU, limit - 1));
	EXPECT_ERRNO(EINVAL, ioctl(vm->fd, KVM_CREATE_VCPU, limit));
	EXPECT_LE(capability(KVM_CAP_NR_VCPUS), capability(KVM_CAP_MAX_VCPUS));
}

/* The guest has code nowhere: the bytes that could not be run are told. */
static void emulation_failure(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);

	EXPECT_OK(vm_enable_cap(vcpu->vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1));
	vcpu_set_flat32(vcpu, MMIO_GPA);
	vcpu_run_to_exit(vcpu, KVM_EXIT_INTERNAL_ERROR);
	EXPECT_EQ(KVM_INTERNAL_ERROR_EMULATION, vcpu->run->internal.suberror);
	EXPECT_LE(1, vcpu->run->internal.ndata);
}

static void disabled_exits(void)
{
	struct vm *vm = vm_create(0);

	EXPECT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_DISABLE_EXITS,
				capability(KVM_CAP_X86_DISABLE_EXITS)));
}

/* KVM_ENABLE_CAP on VM and vCPU refuses what it does not know. */
static void vm_caps(void)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);

	EXPECT_LE(1, ioctl(vcpu->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_CHECK_EXTENSION_VM));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vcpu->vm->fd, 9999, 0));
	EXPECT_ERRNO(EINVAL, vm_enable_cap(vcpu->fd, 9999, 0));
}

#define ROW(cap, shows) { cap, #cap, shows }

static const struct {
	int cap;
	const char *name;
	void (*shows)(void);
} rows[] = {
	ROW(KVM_CAP_IRQCHIP, irqchip),
	ROW(KVM_CAP_HLT, hlt),
	ROW(KVM_CAP_USER_MEMORY, user_memory),
	ROW(KVM_CAP_DESTROY_MEMORY_REGION_WORKS, user_memory),
	ROW(KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, user_memory),
	ROW(KVM_CAP_USER_MEMORY2, user_memory2),
	ROW(KVM_CAP_SYNC_MMU, sync_mmu),
	ROW(KVM_CAP_READONLY_MEM, readonly_mem),
	ROW(KVM_CAP_NR_MEMSLOTS, nr_memslots),
	ROW(KVM_CAP_MULTI_ADDRESS_SPACE, address_spaces),
	ROW(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, dirty_log_protect),
	ROW(KVM_CAP_MMU_SHADOW_CACHE_CONTROL, mmu_pages),
	ROW(KVM_CAP_COALESCED_MMIO, coalesced),
	ROW(KVM_CAP_COALESCED_PIO, coalesced_pio),
	ROW(KVM_CAP_IOEVENTFD, ioeventfd),
	ROW(KVM_CAP_IOEVENTFD_NO_LENGTH, ioeventfd),
	ROW(KVM_CAP_IOEVENTFD_ANY_LENGTH, ioeventfd),
	ROW(KVM_CAP_IRQFD, irqfd),
	ROW(KVM_CAP_IRQFD_RESAMPLE, irqfd),
	ROW(KVM_CAP_IRQ_INJECT_STATUS, irq_status),
	ROW(KVM_CAP_IRQ_ROUTING, irq_routing),
	ROW(KVM_CAP_SIGNAL_MSI, signal_msi),
	ROW(KVM_CAP_SPLIT_IRQCHIP, split_irqchip),
	ROW(KVM_CAP_PIT2, pit),
	ROW(KVM_CAP_PIT_STATE2, pit),
	ROW(KVM_CAP_REINJECT_CONTROL, pit),
	ROW(KVM_CAP_X2APIC_API, x2apic_api),
	ROW(KVM_CAP_IOAPIC_POLARITY_IGNORED, polarity),
	ROW(KVM_CAP_MP_STATE, mp_state),
	ROW(KVM_CAP_USER_NMI, nmi),
	ROW(KVM_CAP_X86_SMM, smi),
	ROW(KVM_CAP_VCPU_EVENTS, vcpu_events),
	ROW(KVM_CAP_EXCEPTION_PAYLOAD, payloads),
	ROW(KVM_CAP_X86_TRIPLE_FAULT_EVENT, payloads),
	ROW(KVM_CAP_DEBUGREGS, debugregs),
	ROW(KVM_CAP_XSAVE, xsave),
	ROW(KVM_CAP_XSAVE2, xsave2),
	ROW(KVM_CAP_XCRS, xcrs),
	ROW(KVM_CAP_SYNC_REGS, sync_regs),
	ROW(KVM_CAP_SET_GUEST_DEBUG, guest_debug),
	ROW(KVM_CAP_SET_GUEST_DEBUG2, guest_debug),
	ROW(KVM_CAP_X86_ROBUST_SINGLESTEP, guest_debug),
	ROW(KVM_CAP_IMMEDIATE_EXIT, immediate_exit),
	ROW(KVM_CAP_GET_TSC_KHZ, tsc_khz),
	ROW(KVM_CAP_TSC_DEADLINE_TIMER, tsc_deadline),
	ROW(KVM_CAP_VCPU_ATTRIBUTES, vcpu_attributes),
	ROW(KVM_CAP_SYS_ATTRIBUTES, sys_attributes),
	ROW(KVM_CAP_EXT_CPUID, cpuid_lists),
	ROW(KVM_CAP_EXT_EMUL_CPUID, cpuid_lists),
	ROW(KVM_CAP_NOP_IO_DELAY, no_io_delay),
	ROW(KVM_CAP_GET_MSR_FEATURES, feature_msrs),
	ROW(KVM_CAP_X86_MSR_FILTER, msr_filter),
	ROW(KVM_CAP_X86_USER_SPACE_MSR, user_space_msr),
	ROW(KVM_CAP_MSR_PLATFORM_INFO, platform_info),
	ROW(KVM_CAP_MCE, mce),
	ROW(KVM_CAP_ADJUST_CLOCK, clock_ioctls),
	ROW(KVM_CAP_SET_IDENTITY_MAP_ADDR, addresses),
	ROW(KVM_CAP_SET_TSS_ADDR, addresses),
	ROW(KVM_CAP_SET_BOOT_CPU_ID, boot_cpu_id),
	ROW(KVM_CAP_VAPIC, vapic),
	ROW(KVM_CAP_BINARY_STATS_FD, stats_fd),
	ROW(KVM_CAP_NR_VCPUS, vcpu_ids),
	ROW(KVM_CAP_MAX_VCPUS, vcpu_ids),
	ROW(KVM_CAP_MAX_VCPU_ID, vcpu_ids),
	ROW(KVM_CAP_INTERNAL_ERROR_DATA, emulation_failure),
	ROW(KVM_CAP_EXIT_ON_EMULATION_FAILURE, emulation_failure),
	ROW(KVM_CAP_X86_DISABLE_EXITS, disabled_exits),
	ROW(KVM_CAP_CHECK_EXTENSION_VM, vm_caps),
	ROW(KVM_CAP_ENABLE_CAP, vm_caps),
	ROW(KVM_CAP_ENABLE_CAP_VM, vm_caps),
};
#define NR_ROWS (sizeof(rows) / sizeof(rows[0]))

TEST(each_capability_that_is_offered_has_a_row_here)
{
	if (is_linux_kvm())
		SKIP("Linux KVM offers more capabilities");
	for (int cap = 0; cap < 1024; cap++) {
		size_t i = 0;

		while (i < NR_ROWS && rows[i].cap != cap)
			i++;
		ktap_about("capability %d", cap);
		if (capability(cap))
			EXPECT_NE(NR_ROWS, i);
	}
}

TEST_LIMIT(each_capability_that_is_offered_has_behaviour, 120)
{
	for (size_t i = 0; i < NR_ROWS; i++) {
		ktap_about("%s", rows[i].name);
		if (capability(rows[i].cap) > 0)
			rows[i].shows();
	}
}
