// SPDX-License-Identifier: GPL-2.0
/*
 * Prints a block of text when a vCPU exits for a reason that the launcher
 * cannot handle: the reason, the registers and the code at RIP. Owns no state;
 * called by the vCPU's own thread while the vCPU does not run.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "mkvm-run.h"

#define CODE_BYTES	15	/* the longest instruction */

static void print_reason(FILE *out, const struct kvm_run *run, int run_errno)
{
	unsigned int i;

	if (run_errno) {
		fprintf(out, "KVM_RUN failed: %s\n", strerror(run_errno));
		return;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		fprintf(out, "internal error %u%s, data:",
			run->internal.suberror, run->internal.suberror ==
			KVM_INTERNAL_ERROR_EMULATION ?
			" (an instruction could not be emulated)" : "");
		for (i = 0; i < run->internal.ndata && i < 16; i++)
			fprintf(out, " %llx",
				(unsigned long long)run->internal.data[i]);
		fputc('\n', out);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fprintf(out, "the processor refused to enter the guest, reason 0x%llx on CPU %u\n",
			(unsigned long long)
			run->fail_entry.hardware_entry_failure_reason,
			run->fail_entry.cpu);
		break;
	case KVM_EXIT_UNKNOWN:
		fprintf(out, "unknown hardware exit 0x%llx\n",
			(unsigned long long)run->hw.hardware_exit_reason);
		break;
	default:
		fprintf(out, "exit reason %u, which mkvm-run does not expect\n",
			run->exit_reason);
	}
}

/*
 * Translates @linear to a guest-physical address, without paging or with the
 * four or five levels of long mode. Other paging modes are not supported.
 */
static bool translate(const struct kvm_sregs *sregs, uint64_t linear,
		      uint64_t *physical)
{
	const uint64_t address_mask = 0x000ffffffffff000;
	enum { PRESENT = 1, LARGE = 1 << 7, EFER_LMA = 1 << 10,
	       CR4_LA57 = 1 << 12 };
	uint64_t entry = sregs->cr3;
	int shift;

	*physical = linear;
	if (!(sregs->cr0 & 0x80000000))
		return true;
	if (!(sregs->efer & EFER_LMA))
		return false;
	for (shift = sregs->cr4 & CR4_LA57 ? 48 : 39; shift >= 12; shift -= 9) {
		uint64_t *table = machine_memory(entry & address_mask,
						 PAGE_SIZE);

		if (!table)
			return false;
		entry = table[linear >> shift & 511];
		if (!(entry & PRESENT))
			return false;
		if ((entry & LARGE) && (shift == 21 || shift == 30))
			break;
	}
	if (shift < 12)
		shift = 12;
	*physical = (entry & address_mask & ~((1ull << shift) - 1)) |
		    (linear & ((1ull << shift) - 1));
	return true;
}

static void print_code(FILE *out, const struct kvm_sregs *sregs, uint64_t rip)
{
	uint64_t linear = sregs->cs.base + rip;
	uint64_t physical;
	const uint8_t *byte;
	unsigned int i;

	fprintf(out, "  code");
	for (i = 0; i < CODE_BYTES; i++) {
		byte = translate(sregs, linear + i, &physical) ?
		       machine_byte(physical) : NULL;
		if (!byte)
			break;
		fprintf(out, " %02x", *byte);
	}
	fprintf(out, "%s\n", i < CODE_BYTES ? " (no more to be read)" : "");
}

static void print_registers(FILE *out, const struct kvm_regs *r,
			    const struct kvm_sregs *s)
{
	const struct { const char *name; uint64_t value; } list[] = {
		{ "rax", r->rax }, { "rbx", r->rbx }, { "rcx", r->rcx },
		{ "rdx", r->rdx }, { "rsi", r->rsi }, { "rdi", r->rdi },
		{ "rbp", r->rbp }, { "rsp", r->rsp }, { "r8 ", r->r8 },
		{ "r9 ", r->r9 }, { "r10", r->r10 }, { "r11", r->r11 },
		{ "r12", r->r12 }, { "r13", r->r13 }, { "r14", r->r14 },
		{ "r15", r->r15 }, { "rip", r->rip }, { "flg", r->rflags },
		{ "cr0", s->cr0 }, { "cr2", s->cr2 }, { "cr3", s->cr3 },
		{ "cr4", s->cr4 }, { "cr8", s->cr8 }, { "efer", s->efer },
	};
	size_t i;

	for (i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		fprintf(out, "  %-4s %016llx%s", list[i].name,
			(unsigned long long)list[i].value,
			i % 3 == 2 ? "\n" : "");
	fprintf(out, "  cs %04x base %llx   ss %04x base %llx   ds %04x base %llx\n",
		s->cs.selector, (unsigned long long)s->cs.base,
		s->ss.selector, (unsigned long long)s->ss.base,
		s->ds.selector, (unsigned long long)s->ds.base);
}

/* Prints the report. @run_errno is KVM_RUN's errno, or 0 if *@run has the reason. */
void crash_report(unsigned int id, int vcpu_fd, const struct kvm_run *run,
		  int run_errno)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	flockfile(stderr);
	fprintf(stderr, "%smkvm-run: CPU %u stopped: ",
		terminal_needs_newline() ? "\n" : "", id);
	print_reason(stderr, run, run_errno);
	if (!ioctl(vcpu_fd, KVM_GET_REGS, &regs) &&
	    !ioctl(vcpu_fd, KVM_GET_SREGS, &sregs)) {
		print_registers(stderr, &regs, &sregs);
		print_code(stderr, &sregs, regs.rip);
	}
	funlockfile(stderr);
}
