// SPDX-License-Identifier: GPL-2.0
/*
 * The device, a VM and its memory.
 *
 * At the start of each test the binary's own image (text, data, bss) is
 * replaced by anonymous memory with the same contents at the same address, so
 * that a memslot made of it is plain memory and not a file's page cache.
 *
 * State: the device's fd, and the VM made last, for the dump after a failure.
 * Read next: lib/vcpu.c.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib.h"
#include "vm.h"

extern char __executable_start[], _end[];

static int the_device = -1;
static struct vm *last_vm;

static u64 image_start(void)
{
	return (u64)__executable_start & ~(PAGE_SIZE - 1);
}

static u64 image_size(void)
{
	u64 end = ((u64)_end + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);

	return end - image_start();
}

/* Copies the mapped parts of the image; between segments there may be holes. */
static void copy_image(u8 *to, u64 start, u64 size)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long from, end;
	char line[512], prot[8];

	if (!maps)
		FAIL("/proc/self/maps cannot be read: is /proc mounted?");
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &from, &end, prot) != 3)
			continue;
		if (from < start || end > start + size || prot[0] != 'r')
			continue;
		memcpy(to + (from - start), (void *)from, end - from);
	}
	fclose(maps);
}

static void make_image_anonymous(void)
{
	u64 start = image_start(), size = image_size();
	u8 *copy = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (copy == MAP_FAILED)
		FAIL("mmap of %llu bytes: %s", (unsigned long long)size,
		     strerror(errno));
	copy_image(copy, start, size);
	if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		   (void *)start) == MAP_FAILED)
		FAIL("mremap: %s", strerror(errno));
}

static void dump(void)
{
	if (!last_vm)
		return;
	for (int i = 0; i < last_vm->nr_vcpus; i++)
		vcpu_dump(last_vm->vcpus[i]);
}

static void start(void)
{
	make_image_anonymous();
	guest_init_tables();
	install_kick_handler();
}

__attribute__((constructor)) static void hook_harness(void)
{
	ktap_on_start = start;
	ktap_on_fail = dump;
}

const char *device_path(void)
{
	const char *path = getenv("MKVM_DEVICE");

	return path && *path ? path : "/dev/mkvm";
}

int device_fd(void)
{
	if (the_device >= 0)
		return the_device;
	the_device = open(device_path(), O_RDWR | O_CLOEXEC);
	if (the_device < 0)
		FAIL("%s: %s: load the module, or name the device in $MKVM_DEVICE",
		     device_path(), strerror(errno));
	return the_device;
}

bool is_linux_kvm(void)
{
	if (strstr(device_path(), "mkvm"))
		return false;
	return access("/sys/module/mkvm", F_OK) || !access("/sys/module/kvm", F_OK);
}

bool cpu_is_bochs(void)
{
	const char *emulator = getenv("MKVM_EMULATOR");

	return emulator && !strcmp(emulator, "bochs");
}

bool cpu_is_intel(void)
{
	u32 regs[4];

	cpuid(0, 0, regs);
	return regs[1] == 0x756e6547;	/* "Genu" */
}

bool cpu_is_bochs_amd(void)
{
	return cpu_is_bochs() && !cpu_is_intel();
}

bool cpu_is_tcg(void)
{
	u32 regs[4];

	cpuid(0x40000000, 0, regs);
	return !memcmp(regs + 1, "TCGTCGTCGTCG", 12);
}

int capability(long cap)
{
	return ioctl(device_fd(), KVM_CHECK_EXTENSION, cap);
}

int vm_create_bare(void)
{
	int fd = ioctl(device_fd(), KVM_CREATE_VM, 0ul);

	ASSERT_OK(fd);
	return fd;
}

int vm_enable_cap(int fd, u32 cap, u64 arg)
{
	struct kvm_enable_cap request = { .cap = cap, .args = { arg } };

	return ioctl(fd, KVM_ENABLE_CAP, &request);
}

struct vm *vm_create(unsigned int flags)
{
	struct kvm_pit_config pit = { 0 };
	struct vm *vm = calloc(1, sizeof(*vm));

	vm->fd = vm_create_bare();
	vm->irqchip = flags & (VM_IRQCHIP | VM_SPLIT);
	if (flags & VM_SPLIT)
		ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_SPLIT_IRQCHIP, 24));
	if (flags & VM_IRQCHIP)
		ASSERT_OK(ioctl(vm->fd, KVM_CREATE_IRQCHIP));
	if (flags & VM_PIT)
		ASSERT_OK(ioctl(vm->fd, KVM_CREATE_PIT2, &pit));
	vm->low = vm_add_memory(vm, SLOT_LOW, 0, 0, LOW_RAM_SIZE);
	ASSERT_EQ(LOW_RAM_SIZE, image_start());
	ASSERT_OK(vm_set_slot(vm, SLOT_IMAGE, 0, image_start(), image_size(),
			      (void *)image_start()));
	last_vm = vm;
	return vm;
}

void vm_load(struct vm *vm, u64 gpa, const void *start, const void *end)
{
	size_t size = (const u8 *)end - (const u8 *)start;

	ASSERT_LE(gpa + size, LOW_RAM_SIZE);
	memcpy(vm->low + gpa, start, size);
}

int vm_set_slot(struct vm *vm, u32 slot, u32 flags, u64 gpa, u64 size,
		void *host)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (u64)host,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

void *host_memory(size_t size)
{
	const u64 align = 2 * MIB;
	u8 *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u8 *aligned;

	if (p == MAP_FAILED)
		FAIL("mmap of %zu bytes: %s", size, strerror(errno));
	aligned = (u8 *)(((u64)p + align - 1) & ~(align - 1));
	if (aligned > p)
		munmap(p, aligned - p);
	munmap(aligned + size, p + align - aligned);
	return aligned;
}

void *vm_add_memory(struct vm *vm, u32 slot, u32 flags, u64 gpa, u64 size)
{
	void *host = host_memory(size);

	ASSERT_OK(vm_set_slot(vm, slot, flags, gpa, size, host));
	return host;
}

void vm_irq_line(struct vm *vm, u32 gsi, int level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	ASSERT_OK(ioctl(vm->fd, KVM_IRQ_LINE, &irq));
}

int vm_msi(struct vm *vm, u32 address, u32 data)
{
	struct kvm_msi msi = { .address_lo = address, .data = data };

	return ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

int new_eventfd(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	ASSERT_OK(fd);
	return fd;
}

void signal_fd(int fd)
{
	u64 one = 1;

	ASSERT_EQ(8, write(fd, &one, 8));
}

u64 take_count(int fd)
{
	u64 count = 0;

	return read(fd, &count, 8) == 8 ? count : 0;
}

u32 busy_checksum(void)
{
	u32 edx = 1;

	for (u32 ecx = 200; ecx; ecx--) {
		u32 eax = edx + ecx;

		eax = eax << 5 | eax >> 27;
		edx = (eax ^ ecx) + ecx * 3;
	}
	return edx;
}
