// SPDX-License-Identifier: GPL-2.0
/*
 * System management mode: SMI and RSM in every CPU mode, what waits in SMM,
 * the state-save area, and SMRAM as address space 1.
 *
 * SMRAM is 64 KiB at SMBASE in address space 1 alone. Its handler tells the
 * host through SMM_PORT and returns by RSM; the interrupted code is one OUT to
 * GUEST_PORT, the same two bytes in each mode.
 *
 * Read next: initsipi.c, events.c.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include "vm.h"

#define SMBASE 0x30000u
#define NEW_SMBASE 0x28000u
#define SMRAM_SIZE 0x10000u
#define SLOT_SMRAM 0x10000u
#define ENTRY 0x8000		/* offsets in SMRAM */
#define COUNT 0x9000
#define SMM_PORT 0x70
#define GUEST_PORT 0x60
#define IRQ_PORT 0x62
#define AP_PORT 0x64
#define VECTOR 0x55
#define MSI_VECTOR 0x62
#define MSR_SMBASE 0x9e
#define CR4_PSE (1ull << 4)

/* The 64-bit state-save area, offsets in SMRAM: AMD APM vol. 2. */
#define SAVE_IO_RIP 0xfea0
#define SAVE_IO_DWORD 0xfec0
#define SAVE_IO_RESTART 0xfec8
#define SAVE_HALT_RESTART 0xfec9
#define SAVE_EFER 0xfed0
#define SAVE_REVISION 0xfefc
#define SAVE_SMBASE 0xff00
#define SAVE_CR4 0xff48
#define SAVE_CR0 0xff58
#define SAVE_DR7 0xff60
#define SAVE_RIP 0xff78
#define SAVE_RAX 0xfff8
/* The 32-bit one: Intel SDM vol. 3. */
#define SAVE32_SMBASE 0xfef8
#define SAVE32_EIP 0xfff0
#define SAVE32_EAX 0xffd0

CODE_BLOB(tell_handler, 16,
	  "outb %al, $0x70\n"
	  "rsm\n");
CODE_BLOB(guest_code, 64,
	  "outb %al, $0x60\n"
	  "outb %al, $0x61\n");
/* Wrecks every register that it can, counts, and returns without an exit. */
CODE_BLOB(wreck_handler, 16,
	  "movw $0x1234, %ax\n"
	  "movw %ax, %ds\n"
	  "movw %ax, %es\n"
	  "movw %ax, %fs\n"
	  "movw %ax, %gs\n"
	  "movw %ax, %ss\n"
	  "movl $0xdeadbeef, %ebx\n"
	  "movl %ebx, %ecx\n"
	  "movl %ebx, %edx\n"
	  "movl %ebx, %esi\n"
	  "movl %ebx, %edi\n"
	  "movl %ebx, %ebp\n"
	  "movl %ebx, %esp\n"
	  "incl %cs:0x9000\n"
	  "rsm\n");

struct machine {
	struct vm *vm;
	struct vcpu *vcpu;
	u8 *smram;
};

static void drop_long_mode(struct vcpu *vcpu)
{
	struct cpuid_list list;

	default_cpuid(&list, vcpu->id);
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 0x80000001)
			list.entries[i].edx &= ~(1u << 29);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
}

/* One vCPU in real mode at the guest's code, SMRAM with a handler. */
static struct machine machine_create(void)
{
	struct machine m;

	NEED_CAP(KVM_CAP_X86_SMM);
	m.vm = vm_create(VM_IRQCHIP);
	m.smram = vm_add_memory(m.vm, SLOT_SMRAM, 0, SMBASE, SMRAM_SIZE);
	memcpy(m.smram + ENTRY, tell_handler, tell_handler_end - tell_handler);
	vm_load(m.vm, CODE_GPA, guest_code, guest_code_end);
	m.vcpu = vcpu_create(m.vm, 0);
	vcpu_set_real(m.vcpu, CODE_GPA);
	return m;
}

static void smi(struct vcpu *vcpu)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_SMI));
}

static void run_to_port(struct vcpu *vcpu, u16 port)
{
	struct kvm_run *run = vcpu_run_to_exit(vcpu, KVM_EXIT_IO);

	ASSERT_EQ(port, run->io.port);
	EXPECT_EQ(port == SMM_PORT, run->flags & KVM_RUN_X86_SMM);
}

static struct kvm_vcpu_events events_of(struct vcpu *vcpu)
{
	struct kvm_vcpu_events events;

	vcpu_get_events(vcpu, &events);
	return events;
}

static void set_events(struct vcpu *vcpu, const struct kvm_vcpu_events *events)
{
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, events));
}

static void on_alarm(int sig)
{
	(void)sig;
}

/*
 * KVM_RUN until an exit, or until the vCPU has left SMM and sleeps: a timer
 * ends KVM_RUN every few milliseconds, and who is still in SMM goes on.
 * True: an exit.
 */
static bool run_or_sleep(struct vcpu *vcpu)
{
	struct itimerval tick = { { 0, 5000 }, { 0, 5000 } };
	struct sigaction action = { .sa_handler = on_alarm };
	bool exited;

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &tick, NULL);
	do {
		exited = !ioctl(vcpu->fd, KVM_RUN, 0);
		ASSERT_TRUE(exited || errno == EINTR || errno == EAGAIN);
	} while (!exited &&
		 (events_of(vcpu).smi.smm || vcpu_mp_state(vcpu) == KVM_MP_STATE_RUNNABLE));
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	return exited;
}

/* --- Round trips --- */

static struct kvm_segment seg(u16 selector, u64 base, u32 limit, u8 type)
{
	return (struct kvm_segment){
		.selector = selector,
		.base = base,
		.limit = limit,
		.type = type,
		.present = 1,
		.s = 1,
	};
}

static struct kvm_segment seg_big(u16 selector, u64 base, u8 type, u8 dpl)
{
	struct kvm_segment s = seg(selector, base, 0xffffffff, type);

	s.g = 1;
	s.db = 1;
	s.dpl = dpl;
	return s;
}

static void fill_regs(struct vcpu *vcpu, u64 rip, u64 rflags, bool wide)
{
	u64 mask = wide ? 0x1111111111111111 : 0x11111111;
	struct kvm_regs r = {
		.rax = mask * 1,
		.rbx = mask * 2,
		.rcx = mask * 3,
		.rdx = mask * 4,
		.rsi = mask * 5,
		.rdi = mask * 6,
		.rbp = mask * 7,
		.rsp = mask * 8,
		.rip = rip,
		.rflags = rflags | RFLAGS_FIXED,
	};

	if (wide) {
		r.r8 = mask * 9;
		r.r9 = mask * 10;
		r.r10 = mask * 11;
		r.r11 = mask * 12;
		r.r12 = mask * 13;
		r.r13 = mask * 14;
		r.r14 = mask * 15;
		r.r15 = 0x0123456789abcdef;
	}
	vcpu_set_regs(vcpu, &r);
}

static void expect_same_sregs(const struct kvm_sregs *a, const struct kvm_sregs *b)
{
	struct kvm_segment cs = b->cs;

	if (cpu_is_bochs() && !(a->cr0 & CR0_PE)) /* it makes CS a data segment in real mode */
		cs.type = a->cs.type;
	expect_same_segment("cs", &a->cs, &cs);
	expect_same_segment("ds", &a->ds, &b->ds);
	expect_same_segment("es", &a->es, &b->es);
	expect_same_segment("fs", &a->fs, &b->fs);
	expect_same_segment("gs", &a->gs, &b->gs);
	expect_same_segment("ss", &a->ss, &b->ss);
	expect_same_segment("tr", &a->tr, &b->tr);
	expect_same_segment("ldtr", &a->ldt, &b->ldt);
	ktap_about("system registers");
	EXPECT_EQ(a->gdt.base, b->gdt.base);
	EXPECT_EQ(a->gdt.limit, b->gdt.limit);
	EXPECT_EQ(a->idt.base, b->idt.base);
	EXPECT_EQ(a->idt.limit, b->idt.limit);
	EXPECT_EQ(a->cr0, b->cr0);
	EXPECT_EQ(a->cr2, b->cr2);
	EXPECT_EQ(a->cr3, b->cr3);
	EXPECT_EQ(a->cr4, b->cr4);
	EXPECT_EQ(a->cr8, b->cr8);
	EXPECT_EQ(a->efer, b->efer);
	EXPECT_EQ(a->apic_base, b->apic_base);
}

/* What the handler finds: AMD APM vol. 2, "SMM Execution Environment". */
static void expect_smm_state(struct vcpu *vcpu, u32 smbase)
{
	struct kvm_debugregs debug;
	struct kvm_sregs s;
	struct kvm_regs r;

	vcpu_get_regs(vcpu, &r);
	vcpu_get_sregs(vcpu, &s);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &debug));
	EXPECT_EQ(RFLAGS_FIXED, r.rflags);
	EXPECT_EQ(smbase, s.cs.base);
	EXPECT_EQ(smbase >> 4, s.cs.selector);
	EXPECT_EQ(0xffffffff, s.cs.limit);
	EXPECT_EQ(0, s.ds.base);
	EXPECT_EQ(0xffffffff, s.ss.limit);
	EXPECT_EQ(0, s.cr0 & (CR0_PE | CR0_PG));
	EXPECT_EQ(0, s.cr4);
	EXPECT_EQ(0, s.efer);
	EXPECT_EQ(0, s.idt.limit);
	EXPECT_EQ(0x400, debug.dr7);
}

/* The vCPU stands at the guest's code: an SMI there, and nothing has changed. */
static void expect_round_trip(struct machine *m)
{
	struct kvm_debugregs debug = { .db = { 0x1000, 0x2000, 0x3000, 0x4000 },
				       .dr6 = 0xffff4ff0,
				       .dr7 = 0x400 };
	struct kvm_debugregs after_debug;
	struct kvm_sregs before_s, after_s;
	struct kvm_regs before, after;
	struct vcpu *vcpu = m->vcpu;

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &debug));
	vcpu_get_regs(vcpu, &before);
	vcpu_get_sregs(vcpu, &before_s);
	smi(vcpu);
	run_to_port(vcpu, SMM_PORT);
	expect_smm_state(vcpu, SMBASE);
	run_to_port(vcpu, GUEST_PORT);
	vcpu_finish_exit(vcpu);
	vcpu_get_regs(vcpu, &after);
	vcpu_get_sregs(vcpu, &after_s);
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &after_debug));
	before.rip += 2;
	for (u32 i = 0; i < sizeof(before) / 8; i++) {
		ktap_about("register %u of struct kvm_regs", i);
		EXPECT_EQ(((u64 *)&before)[i], ((u64 *)&after)[i]);
	}
	expect_same_sregs(&before_s, &after_s);
	EXPECT_EQ(debug.db[3], after_debug.db[3]);
	EXPECT_EQ(debug.dr6, after_debug.dr6);
	EXPECT_EQ(debug.dr7, after_debug.dr7);
}

static void set_real(struct vcpu *vcpu)
{
	struct kvm_sregs s;

	vcpu_get_sregs(vcpu, &s);
	s.cs = seg(CODE_GPA >> 4, CODE_GPA, 0xffff, 11);
	s.ds = seg(0x1111, 0x11110, 0xffff, 3);
	s.es = seg(0x2222, 0x22220, 0xffff, 3);
	s.ss = seg(0x3333, 0x33330, 0xffff, 3);
	s.gdt.base = 0x5008;
	s.gdt.limit = 0x77;
	s.cr2 = 0x12345678;
	s.cr3 = 0x7000;
	s.cr8 = 5;
	vcpu_set_sregs(vcpu, &s);
	fill_regs(vcpu, 0, 0x46, false);
}

TEST(real_mode_round_trip)
{
	struct machine m = machine_create();

	set_real(m.vcpu);
	expect_round_trip(&m);
}

/* Real mode with the limits and bases that protected mode left in the hidden parts. */
static void set_big_real(struct vcpu *vcpu)
{
	struct kvm_sregs s;

	set_real(vcpu);
	vcpu_get_sregs(vcpu, &s);
	s.ds = seg_big(0x10, 0, 3, 0);
	s.es = seg_big(0x4444, 0x123456, 3, 0);
	s.fs = seg(0x5555, 0x7654321, 0xabcde, 1);
	s.gs = seg_big(0, 0xfee00000, 7, 0);
	if (!is_linux_kvm())		/* up to 6.1 it cuts limits to 20 bits */
		s.gs.limit = 0x1ffffff;
	s.ss.limit = 0x1234;
	vcpu_set_sregs(vcpu, &s);
}

TEST(big_real_mode_round_trip)
{
	struct machine m = machine_create();

	set_big_real(m.vcpu);
	expect_round_trip(&m);
}

static void set_protected(struct vcpu *vcpu, u8 dpl)
{
	struct kvm_sregs s;

	vcpu_set_flat32(vcpu, CODE_GPA);
	vcpu_get_sregs(vcpu, &s);
	s.cs.dpl = s.ss.dpl = dpl;
	s.cs.selector |= dpl;
	s.ss.selector |= dpl;
	s.ds = seg_big(0x13, 0x1000, 7, 3);
	s.es = seg(0x1b, 0x87654000, 0xfff, 5);
	s.es.dpl = 3;
	s.es.avl = 1;
	s.fs.present = 0;
	s.fs.unusable = 1;
	s.ldt = seg(0x28, 0x5000, 0xff, 2);
	s.ldt.s = 0;
	s.tr = seg(0x38, 0x6000, 0x67, 11);
	s.tr.s = 0;
	vcpu_set_sregs(vcpu, &s);
	fill_regs(vcpu, CODE_GPA, 3 << 12 | RFLAGS_DF, false);
}

TEST(protected_mode_round_trip)
{
	struct machine m = machine_create();

	set_protected(m.vcpu, 0);
	expect_round_trip(&m);
}

TEST(protected_user_mode_round_trip)
{
	struct machine m = machine_create();

	set_protected(m.vcpu, 3);
	expect_round_trip(&m);
}

static void never_called(u64 arg)
{
	(void)arg;
}

static void set_long(struct vcpu *vcpu, bool compat, u8 dpl, u64 rip)
{
	struct kvm_sregs s;

	vcpu_set_guest(vcpu, never_called, 0);
	vcpu_get_sregs(vcpu, &s);
	s.cs.dpl = s.ss.dpl = dpl;
	s.cs.selector |= dpl;
	s.ss.selector |= dpl;
	if (compat) {
		s.cs.l = 0;
		s.cs.db = 1;
	}
	s.fs.base = compat ? 0x12345000 : 0x7fff12345678;
	s.gs.base = compat ? 0x54321000 : 0xffff800012345678;
	s.efer |= EFER_SCE | EFER_NXE;
	s.cr2 = 0xffff888012345678;
	s.cr8 = 9;
	vcpu_set_sregs(vcpu, &s);
	fill_regs(vcpu, rip, 3 << 12, !compat);
}

TEST(compatibility_mode_round_trip)
{
	struct machine m = machine_create();

	set_long(m.vcpu, true, 3, CODE_GPA);
	expect_round_trip(&m);
}

TEST(long_mode_round_trip)
{
	struct machine m = machine_create();

	set_long(m.vcpu, false, 0, CODE_GPA);
	expect_round_trip(&m);
}

TEST(long_user_mode_round_trip)
{
	struct machine m = machine_create();

	set_long(m.vcpu, false, 3, CODE_GPA);
	expect_round_trip(&m);
}

TEST(a_rip_above_4_gib_is_kept)
{
	struct machine m = machine_create();

	guest_pdpt[5] = guest_pdpt[0];
	set_long(m.vcpu, false, 0, (5ull << 30) + CODE_GPA);
	expect_round_trip(&m);
}

TEST(without_long_mode_in_cpuid_the_area_has_32_bit_layout)
{
	struct machine m = machine_create();
	u32 word;

	drop_long_mode(m.vcpu);
	set_protected(m.vcpu, 0);
	expect_round_trip(&m);
	memcpy(&word, m.smram + SAVE32_EIP, 4);
	EXPECT_EQ(CODE_GPA, word);
	memcpy(&word, m.smram + SAVE32_EAX, 4);
	EXPECT_EQ(0x11111111, word);
	memcpy(&word, m.smram + SAVE32_SMBASE, 4);
	EXPECT_EQ(SMBASE, word);
	memcpy(&word, m.smram + SAVE_REVISION, 4);
	EXPECT_EQ(0x20000, word & 0x2ffff);	/* what SeaBIOS asks for */
	set_big_real(m.vcpu);
	expect_round_trip(&m);
}

TEST(with_long_mode_in_cpuid_the_area_has_amd64_layout)
{
	struct machine m = machine_create();
	u64 word = 0;

	set_long(m.vcpu, false, 0, CODE_GPA);
	expect_round_trip(&m);
	memcpy(&word, m.smram + SAVE_REVISION, 4);
	EXPECT_EQ(0x20064, word & 0x2ffff);
	memcpy(&word, m.smram + SAVE_SMBASE, 4);
	EXPECT_EQ(SMBASE, word);
	memcpy(&word, m.smram + SAVE_RIP, 8);
	EXPECT_EQ(CODE_GPA, word);
	memcpy(&word, m.smram + SAVE_RAX, 8);
	EXPECT_EQ(0x1111111111111111, word);
	memcpy(&word, m.smram + SAVE_EFER, 8);
	EXPECT_EQ(EFER_SCE | EFER_NXE | EFER_LME | EFER_LMA, word);
}

/* --- Memory --- */

TEST(smram_is_seen_in_smm_alone)
{
	struct machine m = machine_create();
	u32 zero = 0;

	EXPECT_EQ(2, capability(KVM_CAP_MULTI_ADDRESS_SPACE));
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	/* The state went to SMRAM, and the memory below it is as it was. */
	EXPECT_TRUE(!memcmp(m.vm->low + SMBASE + SAVE_REVISION, &zero, 4));
	EXPECT_TRUE(memcmp(m.smram + SAVE_REVISION, &zero, 4));
	/* The guest's code lies in low memory, which SMM does not have here. */
	run_to_port(m.vcpu, GUEST_PORT);
}

CODE_BLOB(jump_to_guest_code, 16, "ljmpw $0, $0x9000\n");

TEST(memory_of_address_space_0_is_not_seen_in_smm)
{
	struct machine m = machine_create();

	memcpy(m.smram + ENTRY, jump_to_guest_code, jump_to_guest_code_end - jump_to_guest_code);
	smi(m.vcpu);
	/* A fetch where no memory is: that cannot be emulated. */
	EXPECT_EQ(KVM_EXIT_INTERNAL_ERROR, vcpu_run(m.vcpu));
	EXPECT_EQ(KVM_RUN_X86_SMM, m.vcpu->run->flags);
}

TEST(slots_of_a_third_address_space_are_refused)
{
	NEED_CAP(KVM_CAP_X86_SMM);
	EXPECT_ERRNO(EINVAL, vm_set_slot(vm_create(0), 2 << 16, 0, TEST_GPA, PAGE_SIZE,
					 host_memory(PAGE_SIZE)));
}

TEST(smbase_relocation_counts_from_the_next_smi_on)
{
	struct machine m = machine_create();
	u32 base = NEW_SMBASE;
	u8 *smram;

	EXPECT_EQ(SMBASE, vcpu_get_msr(m.vcpu, MSR_SMBASE));
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	memcpy(m.smram + SAVE_SMBASE, &base, 4);
	run_to_port(m.vcpu, GUEST_PORT);
	EXPECT_EQ(NEW_SMBASE, vcpu_get_msr(m.vcpu, MSR_SMBASE));

	ASSERT_OK(vm_set_slot(m.vm, SLOT_SMRAM, 0, SMBASE, 0, NULL));
	smram = vm_add_memory(m.vm, SLOT_SMRAM, 0, NEW_SMBASE, SMRAM_SIZE);
	memcpy(smram + ENTRY, tell_handler, tell_handler_end - tell_handler);
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	expect_smm_state(m.vcpu, NEW_SMBASE);
	EXPECT_EQ(1, vcpu_set_msr(m.vcpu, MSR_SMBASE, SMBASE));
	EXPECT_EQ(SMBASE, vcpu_get_msr(m.vcpu, MSR_SMBASE));
}

static void guest_reads_smbase(u64 arg)
{
	u64 value;

	(void)arg;
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_SMBASE, &value));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_SMBASE, 0));
	GUEST_EQ(VEC_UD, GUEST_TRY("rsm"));
}

TEST(outside_of_smm_rsm_is_ud_and_smbase_is_no_msr)
{
	struct machine m = machine_create();

	vcpu_set_guest(m.vcpu, guest_reads_smbase, 0);
	vcpu_run_to_done(m.vcpu);
}

TEST(an_smi_without_memory_for_its_state_is_a_shutdown)
{
	struct machine m = machine_create();

	if (is_linux_kvm())
		SKIP("Linux KVM runs what is not there, or ends the VM");
	ASSERT_OK(vm_set_slot(m.vm, SLOT_SMRAM, 0, SMBASE, 0, NULL));
	smi(m.vcpu);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu_run(m.vcpu));
}

/* --- Memory of the host behind the state-save area --- */

static u8 *state_page(const struct machine *m)
{
	return m->smram + (SAVE_IO_RIP & ~(PAGE_SIZE - 1));
}

static void allow(const struct machine *m, int prot)
{
	ASSERT_OK(mprotect(state_page(m), PAGE_SIZE, prot));
}

static void expect_fault_again_and_again(const struct machine *m, bool smm)
{
	for (u32 i = 0; i < 2; i++) {
		EXPECT_ERRNO(EFAULT, ioctl(m->vcpu->fd, KVM_RUN, 0));
		EXPECT_EQ(smm, events_of(m->vcpu).smi.smm);
		EXPECT_EQ(!smm, events_of(m->vcpu).smi.pending);
	}
}

static void not_by_linux_kvm(void)
{
	if (is_linux_kvm())
		SKIP("Linux KVM ends the VM when the host has no memory for SMRAM");
}

TEST(an_smi_and_an_rsm_wait_until_the_host_has_memory_for_the_state)
{
	struct machine m = machine_create();

	not_by_linux_kvm();
	allow(&m, PROT_NONE);
	smi(m.vcpu);
	expect_fault_again_and_again(&m, false);
	allow(&m, PROT_READ | PROT_WRITE);
	run_to_port(m.vcpu, SMM_PORT);
	allow(&m, PROT_NONE);
	expect_fault_again_and_again(&m, true);
	allow(&m, PROT_READ | PROT_WRITE);
	run_to_port(m.vcpu, GUEST_PORT);
	allow(&m, PROT_READ);				/* behind an I/O instruction */
	smi(m.vcpu);
	expect_fault_again_and_again(&m, false);
	allow(&m, PROT_READ | PROT_WRITE);
	run_to_port(m.vcpu, SMM_PORT);
	run_to_port(m.vcpu, GUEST_PORT + 1);
}

static volatile struct {
	u32 count;
	u64 address;
} bus_error;

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	bus_error.count++;
	bus_error.address = (u64)info->si_addr;
}

/* Its contents are lost; the host brings another page with them. */
static void fail_and_replace(const struct machine *m)
{
	u8 *page = state_page(m), saved[PAGE_SIZE];

	*(volatile u8 *)page = 0;		/* the page of zeros cannot fail */
	memcpy(saved, page, PAGE_SIZE);
	if (madvise(page, PAGE_SIZE, MADV_HWPOISON))
		SKIP("the kernel cannot let memory fail (CONFIG_MEMORY_FAILURE, and root's rights): %s",
		     strerror(errno));
	bus_error.count = 0;	/* newer kernels signal the failure here already */
	for (u32 i = 1; i <= 2; i++) {
		EXPECT_ERRNO(EINTR, ioctl(m->vcpu->fd, KVM_RUN, 0));
		EXPECT_EQ(i, bus_error.count);
		EXPECT_EQ((u64)page, bus_error.address);
	}
	ASSERT_TRUE(mmap(page, PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
	memcpy(page, saved, PAGE_SIZE);
}

TEST(memory_of_smram_that_fails_is_told_by_sigbus_and_its_address)
{
	struct sigaction action = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
	struct machine m = machine_create();

	not_by_linux_kvm();
	ASSERT_OK(sigaction(SIGBUS, &action, NULL));
	ASSERT_OK(madvise(m.smram, SMRAM_SIZE, MADV_NOHUGEPAGE));
	smi(m.vcpu);
	fail_and_replace(&m);
	run_to_port(m.vcpu, SMM_PORT);
	fail_and_replace(&m);
	run_to_port(m.vcpu, GUEST_PORT);
}

/* --- Bad state --- */

TEST(rsm_to_an_impossible_state_is_a_shutdown)
{
	static const struct {
		u32 field;
		u64 value;
		bool linux_takes;	/* without the bits that it does not know */
	} bad[] = {
		{ SAVE_CR0, CR0_PG | CR0_ET, false },
		{ SAVE_CR0, CR0_NW | CR0_ET, false },
		{ SAVE_CR0, 1ull << 32 | CR0_ET, true },
		{ SAVE_CR4, 1ull << 63, true },
		{ SAVE_EFER, EFER_LMA, true },
		{ SAVE_EFER, 1ull << 63, false },
		{ SAVE_DR7, 1ull << 32, true },
	};

	for (u32 i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct machine m = machine_create();

		if (is_linux_kvm() && bad[i].linux_takes)
			continue;
		ktap_about("row %u", i);
		smi(m.vcpu);
		run_to_port(m.vcpu, SMM_PORT);
		memcpy(m.smram + bad[i].field, &bad[i].value, 8);
		EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu_run(m.vcpu));
	}
}

CODE_BLOB(fault_handler, 16, "ud2\n");

TEST(a_triple_fault_in_smm_is_a_shutdown_and_ends_smm)
{
	struct machine m = machine_create();

	memcpy(m.smram + ENTRY, fault_handler, fault_handler_end - fault_handler);
	smi(m.vcpu);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu_run(m.vcpu));
	EXPECT_EQ(0, events_of(m.vcpu).smi.smm);
	/* A reset by a client that gives new registers: it runs again. */
	vcpu_set_real(m.vcpu, CODE_GPA);
	run_to_port(m.vcpu, GUEST_PORT);
}

TEST(an_smi_that_comes_with_a_triple_fault_does_no_harm)
{
	struct machine m = machine_create();
	struct kvm_sregs s;

	vm_load(m.vm, CODE_GPA, fault_handler, fault_handler_end);
	vcpu_get_sregs(m.vcpu, &s);
	s.idt.limit = 0;
	vcpu_set_sregs(m.vcpu, &s);
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	smi(m.vcpu);		/* waits for RSM, and comes right behind it */
	run_to_port(m.vcpu, SMM_PORT);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu_run(m.vcpu));
	smi(m.vcpu);
	vm_load(m.vm, CODE_GPA, guest_code, guest_code_end);
	vcpu_set_real(m.vcpu, CODE_GPA);
	run_to_port(m.vcpu, SMM_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
}

/* --- What waits in SMM --- */

CODE_BLOB(irq_code, 16,
	  "outb %al, $0x62\n"
	  "iretw\n");

/* Real-mode interrupts VECTOR and NMI tell IRQ_PORT; the APIC is on. */
static void with_interrupts(struct machine *m)
{
	u16 *ivt = (u16 *)m->vm->low;
	struct kvm_lapic_state lapic;
	u32 spiv = SPIV_ENABLE | 0xff;

	vm_load(m->vm, 0xa000, irq_code, irq_code_end);
	ivt[VECTOR * 2] = ivt[VEC_NMI * 2] = 0xa000;
	ASSERT_OK(ioctl(m->vcpu->fd, KVM_GET_LAPIC, &lapic));
	memcpy(lapic.regs + APIC_SPIV, &spiv, 4);
	ASSERT_OK(ioctl(m->vcpu->fd, KVM_SET_LAPIC, &lapic));
}

static void set_rflags(struct vcpu *vcpu, u64 rflags)
{
	struct kvm_regs regs;

	vcpu_get_regs(vcpu, &regs);
	regs.rflags = rflags | RFLAGS_FIXED;
	vcpu_set_regs(vcpu, &regs);
}

TEST(a_valid_msi_in_smm_waits_for_rsm)
{
	struct machine m = machine_create();

	with_interrupts(&m);
	set_rflags(m.vcpu, RFLAGS_IF);
	smi(m.vcpu);
	ASSERT_EQ(1, vm_msi(m.vm, MSI_ADDR(0), VECTOR));	/* at the same moment */
	run_to_port(m.vcpu, SMM_PORT);
	EXPECT_TRUE(vcpu_lapic_bit(m.vcpu, APIC_IRR, VECTOR));
	run_to_port(m.vcpu, IRQ_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
}

TEST(an_nmi_in_smm_waits_for_rsm)
{
	struct machine m = machine_create();

	with_interrupts(&m);
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	EXPECT_EQ(1, events_of(m.vcpu).nmi.masked);
	EXPECT_EQ(0, events_of(m.vcpu).smi.smm_inside_nmi);
	ASSERT_OK(ioctl(m.vcpu->fd, KVM_NMI));
	run_to_port(m.vcpu, IRQ_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
}

TEST(an_smi_in_an_nmi_handler_leaves_nmis_masked)
{
	struct machine m = machine_create();
	struct kvm_vcpu_events events = events_of(m.vcpu);

	events.nmi.masked = 1;
	set_events(m.vcpu, &events);
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	EXPECT_EQ(1, events_of(m.vcpu).smi.smm_inside_nmi);
	run_to_port(m.vcpu, GUEST_PORT);
	EXPECT_EQ(1, events_of(m.vcpu).nmi.masked);
	EXPECT_EQ(0, events_of(m.vcpu).smi.smm_inside_nmi);
}

TEST(an_smi_in_smm_waits_for_rsm)
{
	struct machine m = machine_create();

	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	smi(m.vcpu);
	smi(m.vcpu);
	EXPECT_EQ(1, events_of(m.vcpu).smi.pending);
	run_to_port(m.vcpu, SMM_PORT);
	EXPECT_EQ(0, events_of(m.vcpu).smi.pending);
	run_to_port(m.vcpu, GUEST_PORT);
}

TEST(an_smi_waits_for_the_event_in_delivery_and_no_longer)
{
	struct machine m = machine_create();
	struct kvm_vcpu_events events;
	u64 rip;

	with_interrupts(&m);
	set_rflags(m.vcpu, RFLAGS_IF);
	events = events_of(m.vcpu);
	events.interrupt.injected = 1;
	events.interrupt.nr = VECTOR;
	set_events(m.vcpu, &events);
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	memcpy(&rip, m.smram + SAVE_RIP, 8);
	EXPECT_EQ(0xa000, rip);		/* delivered, and none of its handler has run */
	run_to_port(m.vcpu, IRQ_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
}

/* The guest's code stands in the shadow of an STI, and an interrupt is pending. */
static void expect_shadow_survives(struct machine *m, bool smi_too)
{
	struct kvm_vcpu_events events;

	with_interrupts(m);
	set_rflags(m->vcpu, RFLAGS_IF);
	events = events_of(m->vcpu);
	events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	set_events(m->vcpu, &events);
	ASSERT_EQ(1, vm_msi(m->vm, MSI_ADDR(0), VECTOR));
	if (smi_too) {
		smi(m->vcpu);
		run_to_port(m->vcpu, SMM_PORT);
		EXPECT_EQ(0, events_of(m->vcpu).interrupt.shadow);
	}
	run_to_port(m->vcpu, GUEST_PORT);
	run_to_port(m->vcpu, IRQ_PORT);
}

TEST(an_smi_in_the_sti_shadow_keeps_the_shadow)
{
	struct machine m = machine_create();

	if (is_linux_kvm())
		SKIP("Linux KVM keeps it from 6.2 on");
	expect_shadow_survives(&m, true);
}

TEST(an_smi_in_the_sti_shadow_keeps_the_shadow_with_the_32_bit_layout)
{
	struct machine m = machine_create();

	if (is_linux_kvm())
		SKIP("Linux KVM keeps it from 6.2 on");
	drop_long_mode(m.vcpu);
	expect_shadow_survives(&m, true);
}

TEST(the_shadow_holds_the_interrupt_without_an_smi_too)
{
	struct machine m = machine_create();

	expect_shadow_survives(&m, false);
}

/* --- HLT --- */

static struct machine machine_in_hlt(void)
{
	struct machine m = machine_create();

	vcpu_set_mp_state(m.vcpu, KVM_MP_STATE_HALTED);
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	return m;
}

TEST(an_smi_in_hlt_resumes_the_halt)
{
	struct machine m;

	if (is_linux_kvm())
		SKIP("Linux KVM has no auto-halt restart");
	m = machine_in_hlt();
	EXPECT_EQ(1, m.smram[SAVE_HALT_RESTART]);
	EXPECT_TRUE(!run_or_sleep(m.vcpu));
	EXPECT_EQ(KVM_MP_STATE_HALTED, vcpu_mp_state(m.vcpu));
	/* And again: a halt is as good after an SMI as before. */
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	ASSERT_OK(ioctl(m.vcpu->fd, KVM_NMI));
	with_interrupts(&m);
	run_to_port(m.vcpu, IRQ_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
}

TEST(the_handler_may_end_the_halt)
{
	struct machine m = machine_in_hlt();

	m.smram[SAVE_HALT_RESTART] = 0;
	run_to_port(m.vcpu, GUEST_PORT);
}

/* --- Restart of the I/O instruction --- */

static struct machine machine_after_io(void)
{
	struct machine m = machine_create();

	run_to_port(m.vcpu, GUEST_PORT);
	smi(m.vcpu);		/* by the device behind the port */
	run_to_port(m.vcpu, SMM_PORT);
	return m;
}

TEST(the_handler_may_restart_the_io_instruction)
{
	struct machine m;
	u64 rip;
	u32 io;

	if (is_linux_kvm())
		SKIP("Linux KVM has no restart of I/O instructions");
	m = machine_after_io();
	memcpy(&io, m.smram + SAVE_IO_DWORD, 4);
	EXPECT_EQ(GUEST_PORT << 16 | 1 << 4 | 2, io);	/* OUT, valid, one byte */
	memcpy(&rip, m.smram + SAVE_IO_RIP, 8);
	EXPECT_EQ(CODE_GPA, rip);
	EXPECT_EQ(0, m.smram[SAVE_IO_RESTART]);
	m.smram[SAVE_IO_RESTART] = 0xff;
	run_to_port(m.vcpu, GUEST_PORT);
	run_to_port(m.vcpu, GUEST_PORT + 1);
}

TEST(without_the_restart_the_io_instruction_is_over)
{
	struct machine m = machine_after_io();

	run_to_port(m.vcpu, GUEST_PORT + 1);
}

/* --- INIT and SIPI --- */

CODE_BLOB(ap_code, 16, "outb %al, $0x64\n");

static void msi_to_ap(struct vm *vm, u32 data)
{
	ASSERT_LE(0, vm_msi(vm, MSI_ADDR(1), data));
}

TEST(init_in_smm_is_latched_and_sipi_is_dropped)
{
	struct machine m = machine_create();
	struct vcpu *ap = vcpu_create(m.vm, 1);
	struct kvm_lapic_state lapic;

	ASSERT_OK(ioctl(ap->fd, KVM_GET_LAPIC, &lapic));
	ASSERT_OK(ioctl(ap->fd, KVM_SET_LAPIC, &lapic));
	vm_load(m.vm, 0xb000, ap_code, ap_code_end);
	vcpu_set_real(ap, CODE_GPA);
	smi(ap);
	run_to_port(ap, SMM_PORT);
	msi_to_ap(m.vm, ICR_INIT);
	msi_to_ap(m.vm, ICR_STARTUP | 0xa);
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	EXPECT_EQ(1, events_of(ap).smi.latched_init);
	EXPECT_EQ(1, events_of(ap).smi.smm);
	EXPECT_TRUE(!run_or_sleep(ap));
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	msi_to_ap(m.vm, ICR_STARTUP | 0xb);
	run_to_port(ap, AP_PORT);
}

/* --- SMIs before the SIPI --- */

enum { END, SMI, SMI_BY_MSI, INIT, SIPI, MP_STATE, EVENTS, LAPIC };

#define AP_PAGE 0xb
#define NOTED "Linux KVM drops by INIT an SMI that it has noted in its way to the guest"

CODE_BLOB(ap_halts, 16,
	  "outb %al, $0x64\n"
	  "cli\n"
	  "1: hlt\n"
	  "jmp 1b\n");

/*
 * A second vCPU, which MSIs reach, as KVM_CREATE_VCPU left it; and code for it at the SIPI's
 * page.
 */
static struct vcpu *add_ap(struct machine *m)
{
	struct vcpu *ap = vcpu_create(m->vm, 1);
	struct kvm_lapic_state lapic;

	ASSERT_OK(ioctl(ap->fd, KVM_GET_LAPIC, &lapic));
	ASSERT_OK(ioctl(ap->fd, KVM_SET_LAPIC, &lapic));
	vm_load(m->vm, AP_PAGE << 12, ap_halts, ap_halts_end);
	return ap;
}

/* What comes, or what userspace reads and writes back. */
static void step(struct machine *m, struct vcpu *ap, int what)
{
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;

	switch (what) {
	case SMI:
		smi(ap);
		break;
	case SMI_BY_MSI:
		msi_to_ap(m->vm, ICR_SMI);
		break;
	case INIT:
		msi_to_ap(m->vm, ICR_INIT);
		break;
	case SIPI:
		msi_to_ap(m->vm, ICR_STARTUP | AP_PAGE);
		break;
	case MP_STATE:
		vcpu_set_mp_state(ap, vcpu_mp_state(ap));
		break;
	case EVENTS:
		events = events_of(ap);
		events.flags |= KVM_VCPUEVENT_VALID_SMM;
		set_events(ap, &events);
		break;
	case LAPIC:
		ASSERT_OK(ioctl(ap->fd, KVM_GET_LAPIC, &lapic));
		ASSERT_OK(ioctl(ap->fd, KVM_SET_LAPIC, &lapic));
	}
}

static void expect_smi_first(const int orders[][8], u32 nr)
{
	for (u32 i = 0; i < nr; i++) {
		struct machine m = machine_create();
		struct vcpu *ap = add_ap(&m);

		ktap_about("order %u", i);
		for (u32 j = 0; orders[i][j]; j++)
			step(&m, ap, orders[i][j]);
		run_to_port(ap, SMM_PORT);
		run_to_port(ap, AP_PORT);
		EXPECT_EQ(0, events_of(ap).smi.pending);
	}
}

/*
 * Intel SDM vol. 3, "System Management Interrupt (SMI)": it is latched until it can be taken.
 * OVMF starts a processor so that was plugged in.
 */
TEST(an_smi_before_the_sipi_is_taken_before_its_code)
{
	static const int orders[][8] = {
		{ SMI, INIT, SIPI },
		{ INIT, SMI, SIPI },
		{ INIT, SIPI, SMI },
		{ SMI_BY_MSI, INIT, SIPI },
		{ INIT, SMI_BY_MSI, SIPI },
		{ INIT, SIPI, SMI_BY_MSI },
		{ INIT, MP_STATE, SMI, SIPI },
		{ SMI, INIT, MP_STATE, SIPI },
		{ SMI, MP_STATE, INIT, SIPI },
		{ INIT, SMI, INIT, SIPI, SIPI },
		{ SMI, INIT, INIT, SIPI },
		{ SIPI, SMI, INIT, SIPI },
		{ INIT, SMI, SIPI, MP_STATE },
		{ SMI, LAPIC, INIT, LAPIC, SIPI, LAPIC },
		{ SMI, SMI, INIT, SMI_BY_MSI, SIPI }, /* they are one */
	};

	expect_smi_first(orders, sizeof(orders) / sizeof(orders[0]));
}

TEST(an_smi_before_the_sipi_survives_events_that_are_written_back)
{
	static const int orders[][8] = {
		{ SMI, EVENTS, INIT, SIPI },
		{ SMI, INIT, EVENTS, SIPI },
		{ SMI, INIT, SIPI, EVENTS },
		{ INIT, MP_STATE, SMI, EVENTS, SIPI },
		{ SMI, EVENTS, INIT, MP_STATE, EVENTS, SIPI, MP_STATE },
	};

	if (is_linux_kvm())
		SKIP("Linux KVM drops it by INIT then, and refuses it in INIT_RECEIVED");
	expect_smi_first(orders, sizeof(orders) / sizeof(orders[0]));
}

TEST(without_an_smi_the_sipis_code_comes_first)
{
	struct machine m = machine_create();
	struct vcpu *ap = add_ap(&m);

	step(&m, ap, INIT);
	step(&m, ap, SIPI);
	run_to_port(ap, AP_PORT);
}

TEST(an_smi_in_wait_for_sipi_is_saved_and_restored)
{
	struct machine m = machine_create(), other = machine_create();
	struct vcpu *ap = add_ap(&m), *copy = add_ap(&other);
	struct kvm_vcpu_events events;

	if (is_linux_kvm())
		SKIP("Linux KVM takes no SMI in INIT_RECEIVED by KVM_SET_VCPU_EVENTS");
	step(&m, ap, SMI);
	step(&m, ap, INIT);
	EXPECT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	events = events_of(ap);
	EXPECT_EQ(1, events.smi.pending);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	vcpu_set_mp_state(copy, KVM_MP_STATE_INIT_RECEIVED);
	set_events(copy, &events);
	step(&other, copy, SIPI);
	run_to_port(copy, SMM_PORT);
	run_to_port(copy, AP_PORT);
	/* A client that has seen it may take it away: that is how it resets the machine. */
	events.smi.pending = 0;
	set_events(ap, &events);
	step(&m, ap, SIPI);
	run_to_port(ap, AP_PORT);
}

TEST(init_to_the_boot_processor_keeps_an_smi)
{
	struct machine m = machine_create();

	if (is_linux_kvm())
		with_interrupts(&m);
	smi(m.vcpu);
	ASSERT_EQ(1, vm_msi(m.vm, MSI_ADDR(0), ICR_INIT));
	EXPECT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(m.vcpu));
	run_to_port(m.vcpu, SMM_PORT);
}

/*
 * Both come while an I/O instruction waits for userspace: INIT is the first to be taken at
 * its end.
 */
TEST(an_init_that_came_with_an_smi_is_taken_before_it)
{
	struct machine m = machine_create();
	struct vcpu *ap = add_ap(&m);

	if (is_linux_kvm())
		SKIP(NOTED);
	vcpu_set_real(ap, CODE_GPA);
	run_to_port(ap, GUEST_PORT);
	step(&m, ap, SMI);
	step(&m, ap, INIT);
	step(&m, ap, SIPI);
	run_to_port(ap, SMM_PORT);
	run_to_port(ap, AP_PORT);
}

static volatile u32 handled, started;

static void count_ports(struct vcpu *vcpu)
{
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	if (vcpu->run->io.port == SMM_PORT)
		handled++;
	else
		__atomic_store_n(&started, started + 1, __ATOMIC_RELEASE);
}

/* Each round ends when the AP has told its start; by then its SMI must have been taken. */
TEST(no_smi_to_an_ap_inside_kvm_run_is_lost_to_init)
{
	struct machine m = machine_create();
	struct vcpu *ap = add_ap(&m);

	if (is_linux_kvm())
		SKIP(NOTED);
	ap->on_exit = count_ports;
	vcpu_start(ap);
	for (u32 round = 1; round <= 100; round++) {
		ktap_about("round %u", round);
		step(&m, ap, INIT);
		step(&m, ap, SMI_BY_MSI);
		step(&m, ap, SIPI);
		WAIT_FOR(__atomic_load_n(&started, __ATOMIC_ACQUIRE) == round);
		EXPECT_EQ(round, handled);
	}
	vcpu_stop(ap);
}

/* --- Who sends SMIs --- */

TEST(an_msi_can_be_an_smi)
{
	struct machine m = machine_create();

	if (is_linux_kvm())
		with_interrupts(&m);
	ASSERT_EQ(1, vm_msi(m.vm, MSI_ADDR(0), ICR_SMI));
	run_to_port(m.vcpu, SMM_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
}

static void send_smi_to_all(u64 arg)
{
	(void)arg;
	apic_icr(0, ICR_ALL | ICR_ASSERT | ICR_SMI);
	stage(1);
}

TEST(an_ipi_can_be_an_smi)
{
	struct machine m = machine_create();

	vcpu_set_guest(m.vcpu, send_smi_to_all, 0);
	run_to_port(m.vcpu, SMM_PORT);
	vcpu_run_to_stage(m.vcpu, 1);
}

/* --- Events and a client's stale copy --- */

TEST(a_stale_copy_of_the_events_removes_no_smi)
{
	struct machine m = machine_create();
	struct kvm_vcpu_events stale = events_of(m.vcpu);

	smi(m.vcpu);
	stale.flags |= KVM_VCPUEVENT_VALID_SMM;
	set_events(m.vcpu, &stale);
	EXPECT_EQ(1, events_of(m.vcpu).smi.pending);
	run_to_port(m.vcpu, SMM_PORT);
}

TEST(a_client_that_has_seen_an_smi_can_remove_it)
{
	struct machine m = machine_create();
	struct kvm_vcpu_events events;

	smi(m.vcpu);
	events = events_of(m.vcpu);
	EXPECT_EQ(1, events.smi.pending);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.pending = 0;
	set_events(m.vcpu, &events);
	run_to_port(m.vcpu, GUEST_PORT);
}

TEST(all_eight_bits_of_tpr_are_kept)
{
	struct machine m = machine_create();
	struct kvm_lapic_state lapic;
	u32 tpr = 0x25;

	if (is_linux_kvm())
		SKIP("Linux KVM's SVM keeps the upper four alone");
	ASSERT_OK(ioctl(m.vcpu->fd, KVM_GET_LAPIC, &lapic));
	memcpy(lapic.regs + APIC_TPR, &tpr, 4);
	ASSERT_OK(ioctl(m.vcpu->fd, KVM_SET_LAPIC, &lapic));
	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	run_to_port(m.vcpu, GUEST_PORT);
	EXPECT_EQ(tpr, vcpu_lapic(m.vcpu, APIC_TPR));
}

TEST(an_init_that_waits_for_rsm_does_not_keep_an_idle_vcpu_busy)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval in_200_ms = { .it_value.tv_usec = 200000 };
	struct machine m = machine_create();
	struct kvm_vcpu_events events = events_of(m.vcpu);
	struct rusage before, after;

	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	events.smi.latched_init = 1;
	set_events(m.vcpu, &events);
	vcpu_set_mp_state(m.vcpu, KVM_MP_STATE_UNINITIALIZED);
	sigaction(SIGALRM, &action, NULL);
	getrusage(RUSAGE_THREAD, &before);
	setitimer(ITIMER_REAL, &in_200_ms, NULL);
	EXPECT_ERRNO(EINTR, ioctl(m.vcpu->fd, KVM_RUN, 0));
	getrusage(RUSAGE_THREAD, &after);
	EXPECT_LT((after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
		  after.ru_stime.tv_usec - before.ru_stime.tv_usec, 100000);
}

TEST(smm_and_wait_for_sipi_together_are_refused)
{
	struct machine m = machine_create();
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_INIT_RECEIVED };
	struct kvm_vcpu_events events;

	smi(m.vcpu);
	run_to_port(m.vcpu, SMM_PORT);
	events = events_of(m.vcpu);
	EXPECT_ERRNO(EINVAL, ioctl(m.vcpu->fd, KVM_SET_MP_STATE, &mp));
	run_to_port(m.vcpu, GUEST_PORT);
	vcpu_set_mp_state(m.vcpu, KVM_MP_STATE_INIT_RECEIVED);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	EXPECT_ERRNO(EINVAL, ioctl(m.vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

TEST(a_vcpu_saved_in_smm_goes_on_in_a_new_vm)
{
	struct machine old = machine_create(), new = machine_create();
	struct kvm_vcpu_events events;
	struct kvm_sregs s, want;
	struct kvm_regs r;

	set_long(old.vcpu, false, 0, CODE_GPA);
	vcpu_get_sregs(old.vcpu, &want);
	events = events_of(old.vcpu);
	events.nmi.masked = 1;
	set_events(old.vcpu, &events);
	smi(old.vcpu);
	run_to_port(old.vcpu, SMM_PORT);
	vcpu_finish_exit(old.vcpu);
	smi(old.vcpu);
	vcpu_get_regs(old.vcpu, &r);
	vcpu_get_sregs(old.vcpu, &s);
	events = events_of(old.vcpu);
	memcpy(new.smram, old.smram, SMRAM_SIZE);

	vcpu_set_sregs(new.vcpu, &s);
	vcpu_set_regs(new.vcpu, &r);
	events.flags |= KVM_VCPUEVENT_VALID_SMM;
	set_events(new.vcpu, &events);
	run_to_port(new.vcpu, SMM_PORT);	/* the second SMI, after the RSM */
	run_to_port(new.vcpu, GUEST_PORT);
	EXPECT_EQ(1, events_of(new.vcpu).nmi.masked);
	vcpu_get_sregs(new.vcpu, &s);
	expect_same_sregs(&want, &s);
}

/* --- Many --- */

/*
 * Big real mode: ECX rounds of 32-bit addressing beyond 1 MiB, string moves,
 * stack, flags and arithmetic, with a checksum in EDX that it tells at the end
 * through GUEST_PORT. ESI = 2 MiB, EDI = 3 MiB; FS reaches all memory.
 */
CODE_BLOB(busy_code, 16,
	  "again:\n"
	  "movl $200, %ecx\n"
	  "movl $1, %edx\n"
	  "1: pushl %ecx\n"
	  "movl %edx, %fs:(%esi)\n"
	  "addl %ecx, %fs:(%esi)\n"
	  "movl $1, %ecx\n"
	  ".byte 0xf3, 0x66, 0x67, 0xa5\n"		/* rep movsl with 32-bit addresses */
	  "subl $4, %esi\n"
	  "subl $4, %edi\n"
	  "pushfl\n"
	  "movl %ds:(%edi), %eax\n"
	  "roll $5, %eax\n"
	  "popfl\n"
	  "popl %ecx\n"
	  "xorl %ecx, %eax\n"
	  "movl %eax, %edx\n"
	  "sti\n"
	  "imull $3, %ecx, %ebx\n"
	  "cli\n"
	  "addl %ebx, %edx\n"
	  "decl %ecx\n"
	  "jnz 1b\n"
	  "movl %edx, %eax\n"
	  "outl %eax, $0x60\n"
	  "jmp again\n");

static struct machine busy_machine(void)
{
	struct machine m = machine_create();
	struct kvm_regs r = { .rip = CODE_GPA,
			      .rsp = 0x7000,
			      .rsi = 2 * MIB,
			      .rdi = 3 * MIB,
			      .rflags = RFLAGS_FIXED };
	struct kvm_sregs s;

	vm_load(m.vm, CODE_GPA, busy_code, busy_code_end);
	memcpy(m.smram + ENTRY, wreck_handler, wreck_handler_end - wreck_handler);
	vcpu_get_sregs(m.vcpu, &s);
	s.ds = s.es = s.fs = seg_big(0, 0, 3, 0);
	vcpu_set_sregs(m.vcpu, &s);
	vcpu_set_regs(m.vcpu, &r);
	return m;
}

static volatile u32 rounds, wrong;

static void check_round(struct vcpu *vcpu)
{
	u32 seen;

	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	memcpy(&seen, (u8 *)vcpu->run + vcpu->run->io.data_offset, 4);
	if (seen != busy_checksum())
		wrong++;
	rounds++;
}

/* SMIs one after the other; returns when n of them have been served. */
static void raise_smis(struct machine *m, u32 n)
{
	volatile u32 *count = (volatile u32 *)(m->smram + COUNT);

	for (u32 i = 1; i <= n; i++) {
		smi(m->vcpu);
		WAIT_FOR(*count == i);
	}
}

TEST_LIMIT(big_real_mode_survives_smis_at_all_of_its_instructions, 1200)
{
	struct machine m = busy_machine();
	struct kvm_sregs before, after;
	const u32 n = getenv("MKVM_LONG") ? 100000 : 3000;
	u32 seen;

	vcpu_get_sregs(m.vcpu, &before);
	m.vcpu->on_exit = check_round;
	vcpu_start(m.vcpu);
	WAIT_FOR(rounds > 0);
	raise_smis(&m, n);
	/* On a slow machine all may come in one round: that round has to end, too. */
	seen = rounds;
	WAIT_FOR(rounds > seen);
	vcpu_stop(m.vcpu);
	EXPECT_EQ(n, *(u32 *)(m.smram + COUNT));
	EXPECT_EQ(0, wrong);
	vcpu_get_sregs(m.vcpu, &after);
	expect_same_sregs(&before, &after);
	ktap_note("%u SMIs in %u rounds of the guest's loop", n, rounds);
}

/* Counts at 0x5f8 and ends the interrupt; FS reaches the APIC's page. */
CODE_BLOB(count_code, 16,
	  "pushl %eax\n"
	  "incl %cs:0x5f8\n"
	  "movl $0xfee000b0, %eax\n"
	  "movl $0, %fs:(%eax)\n"
	  "popl %eax\n"
	  "iretw\n");

TEST_LIMIT(an_msi_and_an_smi_at_the_same_moment_are_both_served_each_time, 1200)
{
	struct machine m = busy_machine();
	volatile u32 *smis = (volatile u32 *)(m.smram + COUNT),
		     *msis = (volatile u32 *)(m.vm->low + 0x5f8);
	const u32 n = getenv("MKVM_LONG") ? 50000 : 500;

	with_interrupts(&m);
	vm_load(m.vm, 0xa000, count_code, count_code_end);
	((u16 *)m.vm->low)[MSI_VECTOR * 2] = 0xa000;
	m.vcpu->on_exit = check_round;
	vcpu_start(m.vcpu);
	WAIT_FOR(rounds > 0);
	for (u32 i = 1; i <= n; i++) {
		if (i & 1)
			smi(m.vcpu);
		ASSERT_EQ(1, vm_msi(m.vm, MSI_ADDR(0), MSI_VECTOR));
		if (!(i & 1))
			smi(m.vcpu);
		WAIT_FOR(*smis == i && *msis == i);
	}
	vcpu_stop(m.vcpu);
	EXPECT_EQ(n, *smis);
	EXPECT_EQ(n, *msis);
	EXPECT_EQ(0, wrong);
}

TEST_LIMIT(slots_come_and_go_under_smis, 120)
{
	struct machine m = busy_machine();
	u8 *other = host_memory(2 * MIB);

	m.vcpu->on_exit = check_round;
	vcpu_start(m.vcpu);
	WAIT_FOR(rounds > 0);
	for (u32 i = 0; i < 200; i++) {
		u32 slot = (i & 1) << 16 | SLOT_TEST;

		ASSERT_OK(vm_set_slot(m.vm, slot, 0, TEST_GPA, 2 * MIB, other));
		smi(m.vcpu);
		ASSERT_OK(vm_set_slot(m.vm, slot, 0, TEST_GPA + 2 * MIB, 2 * MIB, other));
		smi(m.vcpu);
		ASSERT_OK(vm_set_slot(m.vm, slot, 0, TEST_GPA, 0, other));
	}
	WAIT_FOR(*(volatile u32 *)(m.smram + COUNT) > 0);
	vcpu_stop(m.vcpu);
	EXPECT_EQ(0, wrong);
}
