/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The host's side of a test: the device, one VM with its memory and vCPUs,
 * and running them, in the caller's thread or in threads of their own.
 *
 * A call of the library that does not work ends the test; a test of an ioctl's
 * errors makes the ioctl itself. Nothing is freed: each test is a process.
 *
 * State: struct vm and struct vcpu below.
 * Read next: lib/vm.c, guest.h.
 */
#ifndef VM_H
#define VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "guest.h"
#include "ktap.h"
#include "types.h"

#define PAGE_SIZE 4096ull
#define MIB (1024 * 1024ull)

/*
 * Guest physical memory: LOW_RAM from 0, then the binary's image at its host
 * address (slot 1), then whatever a test adds from TEST_GPA on.
 */
#define LOW_RAM_SIZE (4 * MIB)
#define SLOT_LOW 0
#define SLOT_IMAGE 1
#define SLOT_TEST 2
#define TEST_GPA (64 * MIB)
/* An address that no memslot covers and no device answers. */
#define MMIO_GPA 0xd0000000ull
/* A place in low RAM for code that is not part of the image. */
#define CODE_GPA 0x9000ull

enum { VM_IRQCHIP = 1, VM_PIT = 2, VM_SPLIT = 4 };

struct vm {
	int fd;
	bool irqchip;
	u8 *low;		/* host address of guest address 0 */
	int nr_vcpus;
	struct vcpu *vcpus[GUEST_CPUS];
};

/* What happened last on a vCPU that runs through the library. */
enum vcpu_event { EVENT_STAGE, EVENT_DONE, EVENT_EXIT };

struct vcpu {
	struct vm *vm;
	int fd;
	u32 id;
	struct kvm_run *run;
	u32 stage;		/* last stage the guest told */
	bool done;
	bool stop;		/* set by vcpu_stop() for the thread */
	bool threaded;
	pthread_t thread;
	/* Answers an exit of a vCPU in a thread; without it such a one fails. */
	void (*on_exit)(struct vcpu *vcpu);
};

/* A list of CPUID entries or MSRs with room for them. */
struct cpuid_list {
	u32 nent;
	u32 padding;
	struct kvm_cpuid_entry2 entries[128];
};

struct msr_list {
	u32 nmsrs;
	u32 pad;
	struct kvm_msr_entry entries[8];
};

/* The file descriptor of the device, opened at the first call. */
int device_fd(void);
const char *device_path(void);
/* True on Linux's own KVM: a test of a stronger promise skips there. */
bool is_linux_kvm(void);
/*
 * True where the machine below is QEMU's TCG, which omits some checks of real
 * CPUs: a test of such a check skips there by name.
 */
bool cpu_is_tcg(void);
/* What differs between the vendors stands in Documentation/vendors.rst. */
bool cpu_is_intel(void);
/* True in Bochs's machines, and in its AMD machine; Documentation/lab.rst has its faults. */
bool cpu_is_bochs(void);
bool cpu_is_bochs_amd(void);
/* KVM_CHECK_EXTENSION on the device. */
int capability(long cap);

#define NEED_CAP(cap) do {						\
	if (capability(cap) <= 0)					\
		SKIP("the device does not offer " #cap);		\
} while (0)

/* flags: VM_IRQCHIP or VM_SPLIT (24 pins), VM_PIT; with low RAM and the image in place. */
struct vm *vm_create(unsigned int flags);
/* KVM_ENABLE_CAP on a VM's or a vCPU's file descriptor, with its result. */
int vm_enable_cap(int fd, u32 cap, u64 arg);
/* The VM's file descriptor alone, with no memory in it. */
int vm_create_bare(void);
/* Copies code or data to a guest address in low RAM. */
void vm_load(struct vm *vm, u64 gpa, const void *start, const void *end);
/* Sets one memslot; returns the ioctl's result with errno. */
int vm_set_slot(struct vm *vm, u32 slot, u32 flags, u64 gpa, u64 size,
		void *host);
/* Fresh anonymous memory, aligned to 2 MiB. */
void *host_memory(size_t size);
/* host_memory() as a memslot; returns its host address. */
void *vm_add_memory(struct vm *vm, u32 slot, u32 flags, u64 gpa, u64 size);
void vm_irq_line(struct vm *vm, u32 gsi, int level);
/* KVM_SIGNAL_MSI with its result. */
int vm_msi(struct vm *vm, u32 address, u32 data);

/* Nonblocking eventfds: a new one, one signal, how many there were since the last call. */
int new_eventfd(void);
void signal_fd(int fd);
u64 take_count(int fd);

/*
 * What EDX holds after ECX has gone from 200 to 1 with, each time: EAX = EDX + ECX,
 * rotated left by 5; EDX = (EAX ^ ECX) + 3 * ECX; at first EDX = 1. Guests that
 * SMIs interrupt compute it by way of memory, stack and segments.
 */
u32 busy_checksum(void);
#define MSI_ADDR(dest) (0xfee00000u | (u32)(dest) << 12)
#define MSI_LOGICAL 4
#define MSI_REDIRECT 8

/* A vCPU with default CPUID, in the state that KVM_CREATE_VCPU leaves. */
struct vcpu *vcpu_create(struct vm *vm, u32 id);
/* The CPUID a vCPU gets: what is supported, its APIC id, x2APIC, deadline. */
void default_cpuid(struct cpuid_list *list, u32 id);
/* Long mode, flat, entry(arg) on a stack of its own; RUNNABLE if it was not. */
void vcpu_set_guest(struct vcpu *vcpu, void (*entry)(u64 arg), u64 arg);
/* vcpu_create() with the next id, and vcpu_set_guest(). */
struct vcpu *vcpu_add(struct vm *vm, void (*entry)(u64 arg), u64 arg);
/* Flat 32-bit protected mode without paging, or real mode with CS = 0. */
void vcpu_set_flat32(struct vcpu *vcpu, u32 eip);
void vcpu_set_real(struct vcpu *vcpu, u16 ip);

/*
 * One KVM_RUN that ends in an exit; EINTR and EAGAIN begin it again. Returns
 * the exit reason.
 */
u32 vcpu_run(struct vcpu *vcpu);
/* One KVM_RUN, seen as an event; a guest's failed check ends the test. */
enum vcpu_event vcpu_step(struct vcpu *vcpu);
/* Runs until the guest tells just this stage, or returns from its function. */
void vcpu_run_to_stage(struct vcpu *vcpu, u32 number);
void vcpu_run_to_done(struct vcpu *vcpu);
/* Runs until an exit that is not the library's; it must have this reason. */
struct kvm_run *vcpu_run_to_exit(struct vcpu *vcpu, u32 reason);
/* KVM_RUN with immediate_exit: completes what the last exit left, and no more. */
void vcpu_finish_exit(struct vcpu *vcpu);

/* Runs the vCPU in a thread until its guest is done or vcpu_stop(). */
void vcpu_start(struct vcpu *vcpu);
void vcpu_wait_stage(struct vcpu *vcpu, u32 number);
void vcpu_wait_done(struct vcpu *vcpu);
/* Ends the thread whatever the guest does. */
void vcpu_stop(struct vcpu *vcpu);

void vcpu_get_regs(struct vcpu *vcpu, struct kvm_regs *regs);
void vcpu_set_regs(struct vcpu *vcpu, const struct kvm_regs *regs);
void vcpu_sti(struct vcpu *vcpu);	/* RFLAGS.IF, without a shadow */
/* A segment of 4 GiB from 0, of 32 bits or of code of 64 bits. */
struct kvm_segment flat_segment(u16 selector, u8 type, bool code64);
/* All fields but "unusable", which only a null selector has. */
void expect_same_segment(const char *name, const struct kvm_segment *a,
			 const struct kvm_segment *b);
void vcpu_get_sregs(struct vcpu *vcpu, struct kvm_sregs *sregs);
void vcpu_set_sregs(struct vcpu *vcpu, const struct kvm_sregs *sregs);
u32 vcpu_mp_state(struct vcpu *vcpu);
void vcpu_set_mp_state(struct vcpu *vcpu, u32 state);
void vcpu_get_events(struct vcpu *vcpu, struct kvm_vcpu_events *events);
u64 vcpu_get_msr(struct vcpu *vcpu, u32 index);
/* Returns how many MSRs KVM_SET_MSRS took: 1 or 0, or -1 with errno. */
int vcpu_set_msr(struct vcpu *vcpu, u32 index, u64 value);
/* A local APIC register as KVM_GET_LAPIC shows it. */
u32 vcpu_lapic(struct vcpu *vcpu, u32 reg);
bool vcpu_lapic_bit(struct vcpu *vcpu, u32 reg, u32 vector);

/*
 * Guest code in assembler for a mode that C cannot reach, to be copied with
 * vm_load(vm, gpa, name, name_end).
 */
#define CODE_BLOB(name, bits, text)					\
	asm(".pushsection .rodata\n"					\
	    ".balign 16\n"						\
	    ".code" #bits "\n"						\
	    #name ":\n" text "\n"					\
	    #name "_end:\n"						\
	    ".code64\n"							\
	    ".popsection\n");						\
	extern const u8 name[], name##_end[]

#endif
