// SPDX-License-Identifier: GPL-2.0
/*
 * The machine: memory, the VM and its vCPUs, the run loop, stop and reset.
 *
 * A guest reset destroys the whole VM and creates a new one over the same
 * memory: KVM knows the power-up state best, and no old state can remain. So
 * machine_run() is one life of the VM, from creation to the event that ends
 * it. One thread runs each vCPU; the main thread serves the terminal
 * meanwhile.
 *
 * Owns the file descriptors, the memory, the counters and the lock. Read
 * chipset.c for what port accesses do.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "mkvm-run.h"

#define HUGE_PAGE		(2 * MIB)
#define IDENTITY_MAP_ADDRESS	0xfeffc000ull	/* reserved in fwcfg.c's memory map */
#define TSS_ADDRESS		0xfeffd000ull
#define KICK_SIGNAL		SIGUSR1

#define SMRAM_SLOT		4
#define SMM_SLOTS		0x10000u	/* numbers of the slots in SMM's address space */

#define EXIT_REASONS		64	/* KVM's exit reasons are below this */
#define EXIT_INTERRUPTED	(EXIT_REASONS - 1)	/* KVM_RUN: EINTR, EAGAIN */

struct exit_count {
	uint64_t count;
	uint64_t ticks;			/* of the TSC, spent in handlers */
};

struct vcpu {
	unsigned int id;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	atomic_bool look;		/* --monitor: the thread must do a look */
	struct exit_count exits[EXIT_REASONS];
};

static int kvm_fd = -1;
static int vm_fd = -1;			/* changed with the lock held */
static int wake_fd = -1;
static size_t run_size;
static struct kvm_cpuid2 *supported_cpuid;
static struct vcpu *vcpus;
static uint8_t *ram, *rom;
static size_t rom_size;
static bool started;			/* a guest instruction may have run */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct exit_count totals[EXIT_REASONS];
static uint64_t first_tick;
static unsigned int resets;
static bool smram_open;
static __thread struct vcpu *self;	/* the vCPU of the current thread, or NULL */

/* The first machine_stop() of a life claims it; later ones change nothing. */
static struct {
	atomic_bool claimed;
	atomic_bool set;
	bool reset;
	int status;
	const char *why;
} stop;

void machine_lock(void)
{
	pthread_mutex_lock(&lock);
}

void machine_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* Returns a descriptor that is readable when the main thread has work. */
int machine_wake_fd(void)
{
	return wake_fd;
}

/* Wakes the main thread. Context: any. */
void machine_wake(void)
{
	uint64_t one = 1;

	/* The counter cannot overflow, so the write cannot fail. */
	if (write(wake_fd, &one, sizeof(one)) < 0)
		return;
}

/*
 * Ends this life of the VM, by a reset or with exit status @status. @why must
 * be a constant. Context: any, with or without the lock. After its handler
 * returns, the caller's vCPU executes no further guest instruction.
 */
void machine_stop(bool reset, int status, const char *why)
{
	if (atomic_exchange(&stop.claimed, true))
		return;
	stop.reset = reset;
	stop.status = status;
	stop.why = why;
	atomic_store(&stop.set, true);
	machine_wake();
}

bool machine_stopping(void)
{
	return atomic_load(&stop.set);
}

/* Sets an interrupt input. Context: lock held. */
void machine_set_irq(unsigned int gsi, bool level)
{
	struct kvm_irq_level irq = { .irq = gsi, .level = level };

	if (vm_fd >= 0 && ioctl(vm_fd, KVM_IRQ_LINE, &irq) < 0)
		machine_stop(false, 1, "the device refuses KVM_IRQ_LINE");
}

/* --- Memory --- */

/* Returns the number of bytes of RAM below the PCI hole. */
uint64_t machine_low_memory(void)
{
	return opt.memory < PCI_HOLE_START ? opt.memory : PCI_HOLE_START;
}

/* Returns the host address of guest RAM, or NULL unless all of the range is RAM. */
void *machine_memory(uint64_t gpa, uint64_t size)
{
	uint64_t low = machine_low_memory();
	uint64_t high = opt.memory - low;

	if (gpa < LOW_MEMORY_END && size <= LOW_MEMORY_END - gpa)
		return ram + gpa;
	if (gpa >= HIGH_AREA_START && gpa < low && size <= low - gpa)
		return ram + gpa;
	if (gpa >= 4 * GIB && gpa - 4 * GIB < high &&
	    size <= high - (gpa - 4 * GIB))
		return ram + low + (gpa - 4 * GIB);
	return NULL;
}

/* Returns the host address of a byte of guest RAM or ROM, for reading, or NULL. */
const uint8_t *machine_byte(uint64_t gpa)
{
	if (gpa < 4 * GIB && gpa >= 4 * GIB - rom_size)
		return rom + (gpa - (4 * GIB - rom_size));
	return machine_memory(gpa, 1);
}

static uint8_t *map_memory(uint64_t size)
{
	uint8_t *at = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		fail(2, "cannot get %llu MiB of memory (%s): give a smaller --mem",
		     (unsigned long long)(size / MIB), strerror(errno));
	return (uint8_t *)(((uintptr_t)at + HUGE_PAGE - 1) &
			   ~((uintptr_t)HUGE_PAGE - 1));
}

/* Allocates the RAM and the firmware's ROM, and copies @bios to the ROM. */
void machine_create_memory(const struct file_data *bios)
{
	ram = map_memory(opt.memory);
	madvise(ram, opt.memory, MADV_HUGEPAGE);
	rom_size = bios->size;
	rom = map_memory(rom_size);
	memcpy(rom, bios->data, rom_size);
}

/* --- Creating the VM --- */

/* Reports a failed ioctl during set-up and ends the program. */
static void refused(const char *what)
{
	fail(started ? 1 : 2, "%s refuses %s (%s): see the kernel log, or use another --device",
	     opt.device, what, strerror(errno));
}

static int extension(unsigned int capability)
{
	int value = ioctl(kvm_fd, KVM_CHECK_EXTENSION, capability);

	return value < 0 ? 0 : value;
}

static void open_device(void)
{
	int version;

	kvm_fd = open(opt.device, O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0) {
		switch (errno) {
		case ENOENT:
			fail(2, "%s does not exist: load its module (for /dev/mkvm: modprobe mkvm), or give --device",
			     opt.device);
		case ENXIO:
		case ENODEV:
			fail(2, "no module answers for %s: load it (for /dev/mkvm: modprobe mkvm)",
			     opt.device);
		case EACCES:
		case EPERM:
			fail(2, "you may not open %s: join the group that owns it (kvm), or run this as root",
			     opt.device);
		default:
			fail(2, "cannot open %s (%s): give --device a KVM device",
			     opt.device, strerror(errno));
		}
	}
	version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		fail(2, "%s is not a KVM device: give --device /dev/mkvm or /dev/kvm",
		     opt.device);
	if (version != KVM_API_VERSION)
		fail(2, "%s speaks version %d of the KVM ABI, not %d: use another --device",
		     opt.device, version, KVM_API_VERSION);
}

static void check_capabilities(void)
{
	static const struct { unsigned int number; const char *name; } needed[] = {
		{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
		{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
		{ KVM_CAP_PIT2, "KVM_CAP_PIT2" },
		{ KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM" },
		{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	};
	int limit = extension(KVM_CAP_MAX_VCPUS);
	size_t i;

	for (i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		if (!extension(needed[i].number))
			fail(2, "%s lacks %s: use a --device that has it",
			     opt.device, needed[i].name);
	if (!limit)
		limit = extension(KVM_CAP_NR_VCPUS);
	if (!limit)
		limit = 4;	/* the KVM API document's rule */
	if (opt.smp > (unsigned int)limit)
		fail(2, "--smp %u is too many: %s allows at most %d",
		     opt.smp, opt.device, limit);
	if (opt.smp > 255 && !extension(KVM_CAP_X2APIC_API))
		fail(2, "--smp %u is too many: %s lacks KVM_CAP_X2APIC_API, so give at most 255",
		     opt.smp, opt.device);
}

static void on_kick(int signal_number)
{
}

/* Opens the device and checks that it supports the options. */
void machine_open(void)
{
	struct sigaction action = { .sa_handler = on_kick };
	int size;

	first_tick = __rdtsc();
	open_device();
	check_capabilities();
	size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		refused("KVM_GET_VCPU_MMAP_SIZE");
	run_size = (size_t)size;
	if (opt.monitor)
		monitor_open(kvm_fd);
	supported_cpuid = cpuid_supported(kvm_fd);
	/* Without deadline mode Linux spends time calibrating the APIC timer. */
	if (extension(KVM_CAP_TSC_DEADLINE_TIMER))
		for (unsigned int i = 0; i < supported_cpuid->nent; i++)
			if (supported_cpuid->entries[i].function == 1)
				supported_cpuid->entries[i].ecx |= 1u << 24;
	wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vcpus = calloc(opt.smp, sizeof(*vcpus));
	if (wake_fd < 0 || !vcpus)
		fail(2, "cannot set up %u CPUs (%s): free some memory or file descriptors",
		     opt.smp, strerror(errno));
	sigaction(KICK_SIGNAL, &action, NULL);
}

/* Does the device support SMM and a separate address space for it? */
bool machine_has_smm(void)
{
	return extension(KVM_CAP_X86_SMM) && extension(KVM_CAP_MULTI_ADDRESS_SPACE) >= 2;
}

/* Raises an SMI on the CPU whose port access is being handled, or on CPU 0. */
void machine_smi(bool to_caller)
{
	if (machine_has_smm() && ioctl(to_caller && self ? self->fd : vcpus[0].fd, KVM_SMI) < 0)
		refused("KVM_SMI");
}

static void add_slot(uint32_t slot, uint64_t gpa, uint8_t *host, uint64_t size,
		     uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (uintptr_t)host,
	};

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		refused("its memory");
}

/* Adds the slots that both address spaces have; @first is the number of the first one. */
static void add_common_slots(uint32_t first)
{
	uint64_t low = machine_low_memory();

	add_slot(first, 0, ram, LOW_MEMORY_END, 0);
	add_slot(first + 1, HIGH_AREA_START, ram + HIGH_AREA_START,
		 low - HIGH_AREA_START, 0);
	if (opt.memory > low)
		add_slot(first + 2, 4 * GIB, ram + low, opt.memory - low, 0);
	add_slot(first + 3, 4 * GIB - rom_size, rom, rom_size, KVM_MEM_READONLY);
}

static void set_smram_slot(uint32_t slot, bool present)
{
	add_slot(slot, LOW_MEMORY_END, ram + LOW_MEMORY_END,
		 present ? HIGH_AREA_START - LOW_MEMORY_END : 0, 0);
}

/*
 * Maps or unmaps SMRAM, the RAM behind the VGA hole. It is always visible in
 * SMM, and outside SMM only while the host bridge opens it. Context: lock held.
 */
void machine_open_smram(bool open)
{
	if (open != smram_open && machine_has_smm())
		set_smram_slot(SMRAM_SLOT, open);
	smram_open = open;
}

static void add_memory(void)
{
	add_common_slots(0);
	smram_open = false;
	if (machine_has_smm()) {
		add_common_slots(SMM_SLOTS);
		set_smram_slot(SMM_SLOTS + SMRAM_SLOT, true);
	}
	memcpy(ram + MIB - BIOS_COPY_SIZE, rom + rom_size - BIOS_COPY_SIZE,
	       BIOS_COPY_SIZE);
}

/*
 * Routes interrupts as on a PC: IRQs 0 to 15 reach the PIC pair, and all 24 GSIs the IOAPIC. The
 * timer's IRQ 0 is connected to IOAPIC pin 2, as the ACPI tables report; the pin is free because
 * IRQ 2 is the PICs' cascade.
 */
static void set_routing(void)
{
	struct {	/* struct kvm_irq_routing with room for its entries */
		uint32_t nr, flags;
		struct kvm_irq_routing_entry entry[16 + KVM_IOAPIC_NUM_PINS];
	} table = {};
	unsigned int gsi;

	for (gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
		if (gsi == 2)
			continue;
		if (gsi < 16)
			table.entry[table.nr++] = (struct kvm_irq_routing_entry){
				.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
				.u.irqchip = { .irqchip = gsi / 8, .pin = gsi % 8 },
			};
		table.entry[table.nr++] = (struct kvm_irq_routing_entry){
			.gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP,
			.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = gsi ? gsi : 2 },
		};
	}
	if (ioctl(vm_fd, KVM_SET_GSI_ROUTING, &table) < 0)
		refused("KVM_SET_GSI_ROUTING");
}

static void create_vm(void)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_enable_cap x2apic = {
		.cap = KVM_CAP_X2APIC_API,
		.args = { KVM_X2APIC_API_USE_32BIT_IDS |
			  KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK },
	};
	uint64_t identity = IDENTITY_MAP_ADDRESS;
	int fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);

	if (fd < 0)
		fail(started ? 1 : 2, "%s cannot create a virtual machine (%s): see the kernel log, another hypervisor may hold the processor",
		     opt.device, strerror(errno));
	vm_fd = fd;
	if (extension(KVM_CAP_SET_IDENTITY_MAP_ADDR) &&
	    ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		refused("KVM_SET_IDENTITY_MAP_ADDR");
	if (extension(KVM_CAP_SET_TSS_ADDR) &&
	    ioctl(vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) < 0)
		refused("KVM_SET_TSS_ADDR");
	if (opt.smp > 255 && ioctl(vm_fd, KVM_ENABLE_CAP, &x2apic) < 0)
		refused("KVM_CAP_X2APIC_API");
	add_memory();
	if (ioctl(vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		refused("KVM_CREATE_IRQCHIP");
	set_routing();
	if (ioctl(vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		refused("KVM_CREATE_PIT2");
}

static void create_vcpu(unsigned int id)
{
	struct vcpu *vcpu = &vcpus[id];

	memset(vcpu, 0, sizeof(*vcpu));
	vcpu->id = id;
	vcpu->fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)id);
	if (vcpu->fd < 0)
		fail(started ? 1 : 2, "%s cannot create CPU %u of %u (%s): give a smaller --smp",
		     opt.device, id + 1, opt.smp, strerror(errno));
	vcpu->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			 vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		refused("to map a CPU's run page");
	cpuid_set(vcpu->fd, supported_cpuid, id, opt.smp);
}

/* --- Running --- */

static void exit_io(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)vcpu->run + run->io.data_offset;
	uint32_t i;

	machine_lock();
	for (i = 0; i < run->io.count; i++)
		ports_access(run->io.direction == KVM_EXIT_IO_OUT, run->io.port,
			     run->io.size, data + (size_t)i * run->io.size);
	machine_unlock();
}

/* No device of the launcher has memory-mapped registers, and ROM ignores writes. */
static void exit_mmio(struct vcpu *vcpu)
{
	if (!vcpu->run->mmio.is_write)
		memset(vcpu->run->mmio.data, 0xff, sizeof(vcpu->run->mmio.data));
}

static void exit_shutdown(struct vcpu *vcpu)
{
	machine_stop(true, 0, "triple fault, which resets a PC");
}

static void exit_nothing(struct vcpu *vcpu)
{
}

static const struct {
	const char *name;
	void (*handle)(struct vcpu *vcpu);
} exits[EXIT_REASONS] = {
	[KVM_EXIT_IO] = { "port I/O", exit_io },
	[KVM_EXIT_MMIO] = { "unclaimed MMIO", exit_mmio },
	[KVM_EXIT_SHUTDOWN] = { "triple fault", exit_shutdown },
	[KVM_EXIT_INTR] = { "signal", exit_nothing },
	[EXIT_INTERRUPTED] = { "interrupted", exit_nothing },
};

static void crash(struct vcpu *vcpu, int run_errno)
{
	crash_report(vcpu->id, vcpu->fd, vcpu->run, run_errno);
	machine_stop(false, 1, "a CPU cannot go on");
}

/*
 * Calls KVM_RUN and handles its exit. Returns the exit reason, or EXIT_REASONS if the CPU cannot
 * continue.
 */
static unsigned int run_once(struct vcpu *vcpu)
{
	unsigned int reason;
	uint64_t before;

	if (!ioctl(vcpu->fd, KVM_RUN, 0)) {
		reason = vcpu->run->exit_reason;
	} else if (errno == EINTR || errno == EAGAIN) {
		reason = EXIT_INTERRUPTED;
	} else {
		crash(vcpu, errno);
		return EXIT_REASONS;
	}
	if (reason >= EXIT_REASONS || !exits[reason].handle) {
		crash(vcpu, 0);
		return EXIT_REASONS;
	}
	before = __rdtsc();
	exits[reason].handle(vcpu);
	vcpu->exits[reason].ticks += __rdtsc() - before;
	vcpu->exits[reason].count++;
	return reason;
}

/* Reads and writes back the state (--monitor), after completing the accesses of the last exit. */
static void look(struct vcpu *vcpu)
{
	unsigned int reason;

	vcpu->run->immediate_exit = 1;
	do {
		reason = run_once(vcpu);
	} while (reason < EXIT_REASONS && reason != EXIT_INTERRUPTED);
	vcpu->run->immediate_exit = 0;
	if (reason == EXIT_INTERRUPTED && !monitor_look(vcpu->fd))
		machine_stop(false, 1, "the device refuses to give a CPU's state or to take it back");
}

static void *vcpu_main(void *argument)
{
	struct vcpu *vcpu = argument;

	self = vcpu;
	while (!machine_stopping()) {
		/* KVM_RUN follows each look; with one host CPU the guest would starve otherwise. */
		if (atomic_exchange(&vcpu->look, false)) {
			look(vcpu);
			if (machine_stopping())		/* its signal interrupts ioctls */
				break;
		}
		if (run_once(vcpu) == EXIT_REASONS)
			break;
	}
	return NULL;
}

/* Makes all CPUs read and write back their state, one after the other, until the stop. */
static void *monitor_main(void *argument)
{
	unsigned int i;

	while (!machine_stopping()) {
		for (i = 0; i < opt.smp && !machine_stopping(); i++) {
			atomic_store(&vcpus[i].look, true);
			do {
				usleep(50);
				pthread_kill(vcpus[i].thread, KICK_SIGNAL);
			} while (atomic_load(&vcpus[i].look) && !machine_stopping());
		}
	}
	return NULL;
}

static void join_vcpus(unsigned int count)
{
	unsigned int i, reason;

	/* A thread that has not entered the guest yet sees the flag, the others the signal. */
	for (i = 0; i < count; i++) {
		vcpus[i].run->immediate_exit = 1;
		pthread_kill(vcpus[i].thread, KICK_SIGNAL);
	}
	for (i = 0; i < count; i++) {
		pthread_join(vcpus[i].thread, NULL);
		for (reason = 0; reason < EXIT_REASONS; reason++) {
			totals[reason].count += vcpus[i].exits[reason].count;
			totals[reason].ticks += vcpus[i].exits[reason].ticks;
		}
	}
}

static void start_vcpus(void)
{
	unsigned int i;
	int error;

	for (i = 0; i < opt.smp; i++) {
		error = pthread_create(&vcpus[i].thread, NULL, vcpu_main,
				       &vcpus[i]);
		if (error) {
			machine_stop(false, 2, "too few threads");
			join_vcpus(i);
			fail(started ? 1 : 2, "cannot start a thread for CPU %u of %u (%s): give a smaller --smp",
			     i + 1, opt.smp, strerror(error));
		}
	}
	started = true;
}

static void close_vm(void)
{
	unsigned int i;

	for (i = 0; i < opt.smp; i++) {
		munmap(vcpus[i].run, run_size);
		close(vcpus[i].fd);
	}
	machine_lock();
	close(vm_fd);
	vm_fd = -1;
	machine_unlock();
}

/*
 * Runs one life of the VM. Returns true if it ended in a reset, which needs
 * another life; else false with the exit status in *@status.
 */
bool machine_run(int *status)
{
	pthread_t monitor;
	bool monitored;
	unsigned int i;

	create_vm();
	for (i = 0; i < opt.smp; i++)
		create_vcpu(i);
	serial_reset();
	chipset_reset();
	fwcfg_reset();
	stage("firmware: first instruction");
	start_vcpus();
	monitored = opt.monitor && !pthread_create(&monitor, NULL, monitor_main, NULL);
	if (opt.monitor && !monitored)
		machine_stop(false, 2, "too few threads");
	terminal_serve();
	if (monitored)
		pthread_join(monitor, NULL);
	join_vcpus(opt.smp);
	terminal_drain();
	close_vm();

	stage("%s", stop.why);
	*status = stop.reset ? 0 : stop.status;
	if (!stop.reset || opt.no_reboot)
		return false;
	resets++;
	atomic_store(&stop.set, false);
	atomic_store(&stop.claimed, false);
	return true;
}

/* Prints the number of exits by reason and the time in their handlers, over all lives. */
void machine_print_summary(void)
{
	uint64_t all_ticks = __rdtsc() - first_tick;
	double total = seconds_since_start();
	unsigned int i;

	note("ran for %.3f s with %u CPU%s and %u reset%s; exits to the launcher and its time in them:",
	     total, opt.smp, opt.smp == 1 ? "" : "s", resets,
	     resets == 1 ? "" : "s");
	for (i = 0; i < EXIT_REASONS; i++) {
		if (!totals[i].count)
			continue;
		note("  %-20s %10llu  %8.3f s", exits[i].name,
		     (unsigned long long)totals[i].count,
		     total * (double)totals[i].ticks / (double)all_ticks);
		if (i == KVM_EXIT_IO)
			ports_print_counts();
	}
}
