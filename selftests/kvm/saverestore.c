// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that is saved and goes on in a new VM, again and again: after every so
 * many exits, and behind each instruction.
 *
 * Two busy vCPUs, run in turn by one thread, check themselves: registers that must
 * stay, a TSC that never goes back, and an account of each interrupt, exception,
 * NMI and SMI. A save takes all that clients take, in the order in which they do
 * (MP_STATE first, MSRS before LAPIC), and so does the restore (SREGS, LAPIC, then
 * MSRS); the chips come before the vCPUs one time, after them the next.
 *
 * State: sent, got, the VM of the moment (now). Read next: stress.c, whose accounts
 * these are, with less going on and more VMs.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <signal.h>
#include <unistd.h>

#include "vm.h"

#define NR_CPUS 2
#define NR_MSRS 128
#define PORT_YIELD 0x80		/* any exit that means nothing */
#define PORT_LOWER 0x510c	/* OUT: the device of LEVEL_GSI lowers its line */
#define EDGE_GSI 20
#define LEVEL_GSI 21
#define PIC_LINE 5
#define PIT_PIN 2		/* where GSI 0 leads */
#define SLOT_SMRAM 0x10000u
#define SMBASE(cpu) (0x30000u + 0x10000u * (cpu))
#define SMI_ENTRY 0x8000
#define MSR_SMBASE 0x9e
#define PATTERN 0x123456789abcdef0ull

enum vector {
	NMI = VEC_NMI, SMI = 3,		/* no vector of an SMI, but a place in the account */
	DB = VEC_DB, UD = VEC_UD,
	TIMER = 0x31, TO_SELF = 0x41, EDGE = 0x51, LEVEL = 0x61, MSI = 0x71, TO_OTHER = 0x81,
	TICK = 0x91, PIC_BASE = 0xa0, PIC = PIC_BASE + PIC_LINE,
};

static volatile u32 sent[256][NR_CPUS], got[256][NR_CPUS];
/* For the SMI handler, which has 16-bit code and no stack of its own. */
volatile u32 saved_smis[NR_CPUS];
static volatile u32 unclaimed[256], loops[NR_CPUS];
static volatile u64 last_tsc[NR_CPUS];
static volatile bool finish, stop, with_cr8, check_tsc;
static volatile u32 ready;

/* Memory is flat and the image is there in SMM as well; CS tells the CPU. It exits once. */
CODE_BLOB(smi_handler, 16,
	  "movl $0, %eax\n"
	  "movw %cs, %ax\n"
	  "shrw $12, %ax\n"
	  "subw $3, %ax\n"
	  "xorl %ebx, %ebx\n"
	  "movl %ebx, %ds\n"
	  "outb %al, $0x80\n"
	  "lock incl saved_smis(, %eax, 4)\n"
	  "rsm\n");

static volatile u32 *taken(u32 vector, u32 cpu)
{
	return vector == SMI ? &saved_smis[cpu] : &got[vector][cpu];
}

/* The last one was taken, and the next one is sent. */
static bool claim(u32 vector, u32 cpu)
{
	if (sent[vector][cpu] != *taken(vector, cpu))
		return false;
	sent[vector][cpu]++;
	return true;
}

static u32 rnd(u64 *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return *seed >> 33;
}

/* --- The guest --- */

static u32 cpu_of(const void *on_stack)
{
	return ((u64)on_stack - (u64)guest_stacks) / sizeof(guest_stacks[0]);
}

/* True: it is one that somebody has sent. */
static bool account(u32 vector, u32 cpu)
{
	if (got[vector][cpu] == sent[vector][cpu]) {
		unclaimed[vector]++;
		return false;
	}
	got[vector][cpu]++;
	return true;
}

static void on_interrupt(struct guest_frame *frame)
{
	u32 vector = frame->vector, cpu = cpu_of(frame);

	if (vector == LEVEL)
		outl(PORT_LOWER, cpu);
	if (vector == TICK)
		got[TICK][cpu]++;	/* as many as it likes */
	else
		account(vector, cpu);
	if (vector & 1)
		sti_nop_cli();		/* higher ones come between */
	if (vector == PIC)
		outb(PIC_MASTER, OCW2_EOI);
	else
		apic_eoi();
}

/* An exit inside: the handler's NMI mask is saved, and a second NMI that waits for it. */
static void on_nmi(struct guest_frame *frame)
{
	account(NMI, cpu_of(frame));
	outb(PORT_YIELD, 0);
}

static void on_step(struct guest_frame *frame)
{
	u64 dr6;

	asm volatile("mov %%dr6, %0" : "=r"(dr6));
	GUEST_EQ(1 << 14, dr6 & 1 << 14);
	asm volatile("mov %0, %%dr6" :: "r"(0xffff0ff0ul));
	frame->rflags &= ~RFLAGS_TF;
	account(DB, cpu_of(frame));
}

static void on_ud(struct guest_frame *frame)
{
	account(UD, cpu_of(frame));
	frame->rip += 2;
}

/* Even CPUs have a count, odd ones a deadline. */
static void arm_timer(u32 cpu)
{
	u32 delay = 50000 + rdtsc() % 400000;

	if (!claim(TIMER, cpu))
		return;
	if (cpu & 1)
		wrmsr(MSR_TSC_DEADLINE, rdtsc() + delay);
	else
		apic_write(APIC_TMICT, delay);
}

/* The trap of the OUT waits while its exit is with userspace. */
static void step_over_out(u32 cpu)
{
	sent[DB][cpu]++;
	asm volatile("pushfq; orq $0x100, (%%rsp); popfq; outb %%al, $0x80" ::: "memory", "cc");
	GUEST_EQ(sent[DB][cpu], got[DB][cpu]);
}

static void undefined(u32 cpu)
{
	sent[UD][cpu]++;
	asm volatile("ud2" ::: "memory");
	GUEST_EQ(sent[UD][cpu], got[UD][cpu]);
}

static u64 compute(void)
{
	u64 value = PATTERN;

	for (u32 i = 0; i < 300; i++)
		asm volatile("rolq $7, %0; addq %1, %0; movq %0, %%xmm3; pushq %0; popq %0; movq %%xmm3, %0"
			     : "+r"(value) : "r"((u64)i) : "cc");
	return value;
}

static u64 expected(void)
{
	u64 value = PATTERN;

	for (u32 i = 0; i < 300; i++)
		value = (value << 7 | value >> 57) + i;
	return value;
}

static void set_own_state(u64 cpu)
{
	wrmsr(MSR_STAR, PATTERN + cpu);
	wrmsr(MSR_KERNEL_GS_BASE, 0x7000 + cpu);
	asm volatile("movq %0, %%xmm7" :: "r"(PATTERN + cpu));
	asm volatile("mov %0, %%dr3" :: "r"(0x6000 + cpu));
	asm volatile("mov %0, %%cr2" :: "r"(0x5000 + cpu));
	asm volatile("fninit; fldpi");
}

static void check_own_state(u64 cpu)
{
	u64 tsc = rdtsc(), value;
	u16 fsw;

	GUEST_TRUE(!check_tsc || tsc >= last_tsc[cpu]);
	last_tsc[cpu] = tsc;
	GUEST_EQ(PATTERN + cpu, rdmsr(MSR_STAR));
	GUEST_EQ(0x7000 + cpu, rdmsr(MSR_KERNEL_GS_BASE));
	asm volatile("movq %%xmm7, %0" : "=r"(value));
	GUEST_EQ(PATTERN + cpu, value);
	asm volatile("mov %%dr3, %0" : "=r"(value));
	GUEST_EQ(0x6000 + cpu, value);
	asm volatile("mov %%cr2, %0" : "=r"(value));
	GUEST_EQ(0x5000 + cpu, value);
	asm volatile("fnstsw %0" : "=a"(fsw));
	GUEST_EQ(7, fsw >> 11 & 7);
	GUEST_EQ(cpu << 24, apic_read(APIC_ID));
}

static void set_priority(u32 class)
{
	if (with_cr8)
		write_cr8(class);
	else
		apic_write(APIC_TPR, class << 4);
}

static void work(u32 cpu, u64 *seed)
{
	switch (rnd(seed) % 10) {
	case 0:
		if (ready == NR_CPUS && claim(TO_OTHER, !cpu))
			apic_icr(!cpu, TO_OTHER);
		break;
	case 1:
		if (claim(TO_SELF, cpu))
			apic_icr(0, ICR_SELF | TO_SELF);
		break;
	case 2:
		arm_timer(cpu);
		if (sent[TIMER][cpu] != got[TIMER][cpu])
			sti_hlt_cli();		/* the timer is under way */
		break;
	case 3:
		step_over_out(cpu);
		break;
	case 4:
		undefined(cpu);
		break;
	case 5:
		set_priority(rnd(seed) & 15);
		sti_nop_cli();
		set_priority(0);
		break;
	case 6:
		arm_timer(cpu);
		break;
	case 7:
		outb(PORT_YIELD, 0);
		break;
	default:
		GUEST_EQ(expected(), compute());
	}
	check_own_state(cpu);
	sti_nop_cli();
	loops[cpu]++;
}

static void setup(u64 cpu)
{
	apic_enable();
	apic_write(APIC_TDCR, 0xb);
	apic_write(APIC_LVTT, (cpu & 1 ? LVT_DEADLINE : 0) | TIMER);
	set_own_state(cpu);
	if (cpu)
		return;
	pic_init(PIC_BASE, ICW4_8086);
	pic_mask(0xff & ~(1 << PIC_LINE));
	rte_write(EDGE_GSI, EDGE);
	rte_write(LEVEL_GSI, RTE_DEST(1) | RTE_LEVEL | LEVEL);
	rte_write(PIT_PIN, RTE_DEST(1) | TICK);
	outb(0x43, 0x34);		/* channel 0, mode 2, about 200 Hz */
	outb(0x40, 0x6c);
	outb(0x40, 0x17);
}

/* Stepped through: shadows, a string, traps, an interrupt of its own, what the host adds. */
static void short_sequence(u64 cpu)
{
	static volatile u8 from[8] = "stepped", to[8];
	const void *source = (const void *)from;
	void *target = (void *)to;
	u64 count = sizeof(from);

	setup(cpu);
	ready = NR_CPUS;
	outb(PORT_YIELD, 0);
	claim(TO_SELF, cpu);
	apic_icr(0, ICR_SELF | TO_SELF);
	asm volatile("sti; nop; cli" ::: "memory");
	GUEST_EQ(1, got[TO_SELF][cpu]);
	asm volatile("movl %%ss, %%eax; movl %%eax, %%ss; nop" ::: "eax");
	undefined(cpu);
	asm volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) :: "memory");
	GUEST_EQ('d', to[6]);
	asm volatile("pushq $0x123456; popq %0" : "=r"(count));
	GUEST_EQ(0x123456, count);
	check_own_state(cpu);
}

static void busy(u64 cpu)
{
	u64 seed = cpu + 1;

	setup(cpu);
	ready++;
	while (!finish)
		work(cpu, &seed);
	sti();
	while (!stop)
		outb(PORT_YIELD, 0);
	cli();
}

/* --- Saving and restoring --- */

struct msrs {
	u32 nmsrs, pad;		/* as struct kvm_msrs */
	struct kvm_msr_entry entries[NR_MSRS];
};

struct cpu_state {
	struct kvm_mp_state mp;
	struct kvm_vcpu_events events;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	u32 xsave[1024];		/* as struct kvm_xsave */
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debug;
	struct msrs msrs;
	struct kvm_lapic_state lapic;
};

struct vm_state {
	struct cpu_state cpu[NR_CPUS];
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
};

static struct vm *now;
static u8 *smram;

/* The MSRs that the device wants saved, and how many. */
static u32 msr_indices(u32 *index)
{
	static struct { u32 n, indices[NR_MSRS]; } list;	/* as struct kvm_msr_list */

	if (!list.n) {
		list.n = NR_MSRS;
		ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &list));
	}
	memcpy(index, list.indices, list.n * sizeof(*index));
	return list.n;
}

static void get_msrs(int fd, struct msrs *msrs)
{
	u32 index[NR_MSRS], n = msr_indices(index);

	memset(msrs, 0, sizeof(*msrs));
	for (u32 i = 0; i < n; i++) {
		struct msrs one = { .nmsrs = 1, .entries[0].index = index[i] };

		/* Linux KVM lists some that this vCPU does not have. */
		if (ioctl(fd, KVM_GET_MSRS, &one) == 1)
			msrs->entries[msrs->nmsrs++] = one.entries[0];
		else
			ASSERT_TRUE(is_linux_kvm());
	}
}

static void get_cpu(int fd, struct cpu_state *s)
{
	memset(s, 0, sizeof(*s));
	ASSERT_OK(ioctl(fd, KVM_GET_MP_STATE, &s->mp));
	ASSERT_OK(ioctl(fd, KVM_GET_VCPU_EVENTS, &s->events));
	ASSERT_OK(ioctl(fd, KVM_GET_REGS, &s->regs));
	ASSERT_OK(ioctl(fd, KVM_GET_SREGS, &s->sregs));
	ASSERT_OK(ioctl(fd, KVM_GET_XSAVE, s->xsave));
	ASSERT_OK(ioctl(fd, KVM_GET_XCRS, &s->xcrs));
	ASSERT_OK(ioctl(fd, KVM_GET_DEBUGREGS, &s->debug));
	get_msrs(fd, &s->msrs);
	ASSERT_OK(ioctl(fd, KVM_GET_LAPIC, &s->lapic));
}

static void set_cpu(int fd, struct cpu_state *s)
{
	ASSERT_OK(ioctl(fd, KVM_SET_SREGS, &s->sregs));
	ASSERT_OK(ioctl(fd, KVM_SET_REGS, &s->regs));
	ASSERT_OK(ioctl(fd, KVM_SET_XSAVE, s->xsave));
	ASSERT_OK(ioctl(fd, KVM_SET_XCRS, &s->xcrs));
	ASSERT_OK(ioctl(fd, KVM_SET_LAPIC, &s->lapic));
	ASSERT_EQ(s->msrs.nmsrs, ioctl(fd, KVM_SET_MSRS, &s->msrs));
	ASSERT_OK(ioctl(fd, KVM_SET_DEBUGREGS, &s->debug));
	ASSERT_OK(ioctl(fd, KVM_SET_VCPU_EVENTS, &s->events));
	ASSERT_OK(ioctl(fd, KVM_SET_MP_STATE, &s->mp));
}

static void get_chips(int fd, struct vm_state *s)
{
	for (u32 i = 0; i < 3; i++) {
		s->chip[i].chip_id = i;
		ASSERT_OK(ioctl(fd, KVM_GET_IRQCHIP, &s->chip[i]));
	}
	ASSERT_OK(ioctl(fd, KVM_GET_PIT2, &s->pit));
	ASSERT_OK(ioctl(fd, KVM_GET_CLOCK, &s->clock));
}

static void set_chips(int fd, struct vm_state *s)
{
	for (u32 i = 0; i < 3; i++)
		ASSERT_OK(ioctl(fd, KVM_SET_IRQCHIP, &s->chip[i]));
	ASSERT_OK(ioctl(fd, KVM_SET_PIT2, &s->pit));
	s->clock.flags = 0;
	ASSERT_OK(ioctl(fd, KVM_SET_CLOCK, &s->clock));
}

/* The same memory in a VM: the image is the process's own, low RAM and SMRAM move along. */
static struct vm *create(u8 *low)
{
	extern char __executable_start[], _end[];
	u64 start = (u64)__executable_start & ~(PAGE_SIZE - 1);
	u64 size = ((u64)_end - start + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	struct vm *vm = vm_create(VM_IRQCHIP | VM_PIT);

	if (low) {
		ASSERT_OK(vm_set_slot(vm, SLOT_LOW, 0, 0, 0, NULL));
		munmap(vm->low, LOW_RAM_SIZE);
		vm->low = low;
		ASSERT_OK(vm_set_slot(vm, SLOT_LOW, 0, 0, LOW_RAM_SIZE, low));
	}
	if (capability(KVM_CAP_X86_SMM) > 0) {
		ASSERT_OK(vm_set_slot(vm, SLOT_SMRAM, 0, SMBASE(0), NR_CPUS * 0x10000, smram));
		ASSERT_OK(vm_set_slot(vm, SLOT_SMRAM + 1, 0, start, size, (void *)start));
	}
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		vcpu_create(vm, cpu);
	return vm;
}

static void destroy(struct vm *vm)
{
	int size = ioctl(device_fd(), KVM_GET_VCPU_MMAP_SIZE, 0);

	for (u32 cpu = 0; cpu < NR_CPUS; cpu++) {
		munmap(vm->vcpus[cpu]->run, size);
		close(vm->vcpus[cpu]->fd);
		free(vm->vcpus[cpu]);
	}
	close(vm->fd);
	free(vm);
}

/* What was set is what is read, as far as it stands still. */
static void expect_same(struct cpu_state *want, int fd)
{
	struct cpu_state seen;

	get_cpu(fd, &seen);
	EXPECT_TRUE(!memcmp(&want->mp, &seen.mp, sizeof(seen.mp)));
	EXPECT_TRUE(!memcmp(&want->events, &seen.events, sizeof(seen.events)));
	EXPECT_TRUE(!memcmp(&want->regs, &seen.regs, sizeof(seen.regs)));
	EXPECT_TRUE(!memcmp(&want->sregs, &seen.sregs, sizeof(seen.sregs)));
	EXPECT_TRUE(!memcmp(want->xsave, seen.xsave, sizeof(seen.xsave)));
	EXPECT_TRUE(!memcmp(&want->xcrs, &seen.xcrs, sizeof(seen.xcrs)));
	EXPECT_TRUE(!memcmp(&want->debug, &seen.debug, sizeof(seen.debug)));
}

/* All state to a new VM; the old one is gone then. */
static void move(void)
{
	static struct vm_state s;
	static u32 nr_moves;
	sigset_t alarm_signal;
	struct vm *new;
	u32 cpu;

	sigemptyset(&alarm_signal);
	sigaddset(&alarm_signal, SIGALRM);
	sigprocmask(SIG_BLOCK, &alarm_signal, NULL);
	ktap_about("move %u", ++nr_moves);
	memset(&s, 0, sizeof(s));
	for (cpu = 0; cpu < NR_CPUS; cpu++)
		get_cpu(now->vcpus[cpu]->fd, &s.cpu[cpu]);
	get_chips(now->fd, &s);
	new = create(now->low);
	if (nr_moves & 1)
		set_chips(new->fd, &s);
	for (cpu = 0; cpu < NR_CPUS; cpu++)
		set_cpu(new->vcpus[cpu]->fd, &s.cpu[cpu]);
	if (!(nr_moves & 1))
		set_chips(new->fd, &s);
	for (cpu = 0; cpu < NR_CPUS; cpu++)
		expect_same(&s.cpu[cpu], new->vcpus[cpu]->fd);
	destroy(now);
	now = new;
	sigprocmask(SIG_UNBLOCK, &alarm_signal, NULL);
}

/* --- The host --- */

static void on_alarm(int sig)
{
	(void)sig;
}

static void pulse(u32 gsi)
{
	vm_irq_line(now, gsi, 1);
	vm_irq_line(now, gsi, 0);
}

static void raise_one(u64 *seed)
{
	u32 cpu = rnd(seed) % NR_CPUS;

	if (ready != NR_CPUS)
		return;
	switch (rnd(seed) % 8) {
	case 0:
		if (claim(EDGE, 0))
			pulse(EDGE_GSI);
		break;
	case 1:
		if (claim(LEVEL, 1))
			vm_irq_line(now, LEVEL_GSI, 1);
		break;
	case 2:
		if (claim(PIC, 0))
			pulse(PIC_LINE);
		break;
	case 3:
		if (claim(MSI, cpu))
			ASSERT_EQ(1, vm_msi(now, MSI_ADDR(cpu), MSI));
		break;
	case 4:
		if (claim(NMI, cpu))
			ASSERT_OK(ioctl(now->vcpus[cpu]->fd, KVM_NMI));
		break;
	case 5:
		/* Linux KVM 6.1 shuts a vCPU down when SMIs come together with the rest. */
		if (!is_linux_kvm() && claim(SMI, cpu))
			ASSERT_OK(ioctl(now->vcpus[cpu]->fd, KVM_SMI));
		break;
	}
}

/* Does what the exit asked for. */
static void answer(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	ASSERT_EQ(KVM_EXIT_IO, run->exit_reason);
	if (run->io.port == PORT_LOWER)
		vm_irq_line(now, LEVEL_GSI, 0);
	else if (run->io.port == PORT_DONE)
		vcpu->done = true;
	else if (run->io.port == PORT_FAIL) {
		struct guest_failure *f =
			*(struct guest_failure **)((u8 *)run + run->io.data_offset);

		FAIL("guest on vCPU %u: %s:%u: %s: 0x%llx, 0x%llx", vcpu->id, f->file, f->line, f->text,
		     (unsigned long long)f->want, (unsigned long long)f->seen);
	} else {
		ASSERT_EQ(PORT_YIELD, run->io.port);
	}
	run->immediate_exit = 1;
	if (!ioctl(vcpu->fd, KVM_RUN, 0))
		ASSERT_EQ(KVM_EXIT_DEBUG, run->exit_reason);	/* the step ends with the OUT */
	run->immediate_exit = 0;
}

/* One KVM_RUN, ended by an exit or by the clock. */
static void run_slice(u32 cpu)
{
	struct vcpu *vcpu = now->vcpus[cpu];

	if (!ioctl(vcpu->fd, KVM_RUN, 0))
		answer(vcpu);
	else
		ASSERT_TRUE(errno == EINTR || errno == EAGAIN);
}

static bool balanced(void)
{
	for (u32 vector = 0; vector < 256; vector++)
		for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
			if (vector != TICK && sent[vector][cpu] != *taken(vector, cpu))
				return false;
	return true;
}

static void expect_accounts(void)
{
	for (u32 vector = 0; vector < 256; vector++) {
		u32 in = sent[vector][0] + sent[vector][1],
		    out = *taken(vector, 0) + *taken(vector, 1);

		if (!in && !out && !unclaimed[vector])
			continue;
		ktap_note("vector 0x%02x: sent %u, got %u, unclaimed %u", vector, in, out, unclaimed[vector]);
		ktap_about("vector 0x%x", vector);
		if (vector != TICK)
			EXPECT_EQ(in, out);
		/*
		 * A one-shot that is over looks as one whose current count was not saved, which
		 * clients do: it fires again rather than be lost.
		 */
		if (vector != TIMER)
			EXPECT_EQ(0, unclaimed[vector]);
		EXPECT_LT(0, out);
	}
}

static void prepare(void (*guest)(u64 cpu))
{
	static const u8 vectors[] = { TIMER, TO_SELF, EDGE, LEVEL, MSI, TO_OTHER, TICK, PIC };

	with_cr8 = !is_linux_kvm() || !cpu_is_tcg();
	check_tsc = !is_linux_kvm(); /* which brings the TSCs of a VM together as they are set */
	for (u32 i = 0; i < sizeof(vectors); i++)
		guest_handlers[vectors[i]] = on_interrupt;
	guest_handlers[NMI] = on_nmi;
	guest_handlers[DB] = on_step;
	guest_handlers[UD] = on_ud;
	smram = host_memory(NR_CPUS * 0x10000);
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		memcpy(smram + cpu * 0x10000 + SMI_ENTRY, smi_handler,
		       smi_handler_end - smi_handler);
	now = create(NULL);
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++) {
		vcpu_set_guest(now->vcpus[cpu], guest, cpu);
		if (capability(KVM_CAP_X86_SMM) > 0)
			ASSERT_EQ(1, vcpu_set_msr(now->vcpus[cpu], MSR_SMBASE, SMBASE(cpu)));
	}
}

/* The clock ends KVM_RUN at any instruction, and that of a vCPU that halts. */
static void set_clock(u32 us)
{
	struct itimerval tick = { { 0, us }, { 0, us } };
	struct sigaction action = { .sa_handler = on_alarm };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &tick, NULL);
}

/* Moves after every @every exits, @moves times, then to the end without. */
static void moved(u32 every, u32 moves)
{
	u64 seed = every;

	prepare(busy);
	set_clock(3000);
	for (u32 n = 0; n < every * moves; n++) {
		raise_one(&seed);
		run_slice(rnd(&seed) % NR_CPUS);
		if ((n + 1) % every == 0)
			move();
	}
	finish = true;
	for (struct ktap_wait wait = { 0 }; !balanced();) {
		for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
			run_slice(cpu);
		if (!ktap_wait(&wait))
			break;
	}
	ktap_note("%u and %u rounds of the guest's loops", loops[0], loops[1]);
	expect_accounts();
	stop = true;
	for (u32 cpu = 0; cpu < NR_CPUS; cpu++)
		while (!now->vcpus[cpu]->done)
			run_slice(cpu);
	set_clock(0);
}

static u32 in_check(u32 many, u32 few)
{
	return getenv("MKVM_LONG") ? many : few;
}

TEST_LIMIT(a_busy_guest_goes_on_in_a_new_vm_after_every_exit, 280)
{
	moved(1, in_check(1000, 250));
}

TEST_LIMIT(a_busy_guest_goes_on_in_a_new_vm_after_every_tenth_exit, 280)
{
	moved(10, in_check(400, 100));
}

/* One instruction; false: the guest is done. */
static bool step(struct vcpu *vcpu)
{
	struct kvm_guest_debug debug = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };

	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug));
	ASSERT_OK(ioctl(vcpu->fd, KVM_RUN, 0));
	if (vcpu->run->exit_reason != KVM_EXIT_DEBUG)
		answer(vcpu);
	return !vcpu->done;
}

TEST_LIMIT(a_guest_goes_on_in_a_new_vm_behind_each_instruction, 280)
{
	u32 steps = 0;

	prepare(short_sequence);
	sent[MSI][0] = 1;
	sent[NMI][0] = 2;
	while (!ready)
		run_slice(0);
	while (step(now->vcpus[0])) {
		ASSERT_LT(++steps, 1500);
		if (steps == 5)
			ASSERT_EQ(1, vm_msi(now, MSI_ADDR(0), MSI));
		if (steps == 30 || steps == 40) /* the second one waits for the handler's IRET */
			ASSERT_OK(ioctl(now->vcpus[0]->fd, KVM_NMI));
		move();
	}
	ktap_note("%u steps", steps);
	EXPECT_EQ(1, got[TO_SELF][0]);
	EXPECT_EQ(1, got[UD][0]);
	EXPECT_EQ(1, got[MSI][0]);
	EXPECT_EQ(2, got[NMI][0]);
}
