// SPDX-License-Identifier: GPL-2.0
/*
 * access.c - performs the emulator's accesses: to guest memory, to devices in the kernel or in
 * userspace, to ports, segments and control registers.
 *
 * State: vcpu->insn.log, the accesses to devices that the current instruction has made so far,
 * with the values read. If a device is userspace's, KVM_RUN returns, and the next KVM_RUN
 * executes the same instruction again from its start. The log then answers the accesses that it
 * contains, so no device sees an access twice.
 *
 * Read next: walk.c, iodev.c.
 */
#include <linux/nospec.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>

#include "emulate.h"
#include "internal.h"
#include "hw_ops.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

/* ---- memory and devices ---- */

/* Performs one access of at most 8 bytes to something that is not RAM. */
static enum mkvm_emu_result device_access(struct mkvm_vcpu *vcpu, u64 gpa, u64 *val,
					  unsigned int len, bool write)
{
	struct mkvm_io_log *log = &vcpu->insn.log;
	struct kvm_run *run = vcpu->run;
	unsigned int n = log->pos;

	if (n == MKVM_LOG_ENTRIES)
		return MKVM_EMU_UNHANDLED;
	log->pos++;
	if (n < log->nr) {
		if (!write)
			*val = log->data[n] & size_mask(len);
		return MKVM_EMU_DONE;
	}
	log->nr++;
	if (mkvm_kernel_mmio(vcpu, gpa, len, write, val)) {
		mkvm_trace_event(mmio, vcpu, gpa, len, write, *val & size_mask(len), "kernel");
		log->data[n] = *val;
		return MKVM_EMU_DONE;
	}
	mkvm_trace_event(mmio, vcpu, gpa, len, write, *val & size_mask(len), "user");
	log->open = true;
	vcpu->stats[MKVM_STAT_MMIO_EXITS]++;
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = gpa;
	run->mmio.len = len;
	run->mmio.is_write = write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (write)
		memcpy(run->mmio.data, val, len);
	return MKVM_EMU_EXIT;
}

/* Returns the host address of the RAM at gpa, or NULL if there is a device or nothing. */
static void __user *ram_at(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	if (vcpu->lapic && mkvm_lapic_mmio_match(vcpu->lapic, gpa))
		return NULL;
	return mkvm_gpa_to_user(vcpu, gpa, write);
}

#define COPY_RAM(type)                                       \
	(write ? put_user(*(type *)data, (type __user *)p) : \
		 get_user(*(type *)data, (type __user *)p))

enum mkvm_emu_result mkvm_emu_host_fault(struct mkvm_emu *emu, const void __user *p, bool write)
{
	if (!emu->asked && mkvm_host_page_missing(p, write) == MKVM_FAULT_MAPPED)
		return MKVM_EMU_RETRY;
	emu->host_fault = true;
	return MKVM_EMU_UNHANDLED;
}

/*
 * Reads or writes RAM. Accesses of 1, 2, 4 and 8 bytes are single accesses, as a CPU's are, so that
 * other vCPUs never see half of one. Returns true if the host has no memory there.
 */
static bool copy_ram(void __user *p, void *data, unsigned int len, bool write)
{
	switch (len) {
	case 1:
		return COPY_RAM(u8);
	case 2:
		return COPY_RAM(u16);
	case 4:
		return COPY_RAM(u32);
	case 8:
		return COPY_RAM(u64);
	}
	return write ? copy_to_user(p, data, len) : copy_from_user(data, p, len);
}

/*
 * Executes CMPXCHG16B on guest memory. The host's CPU has the instruction, because the guest's
 * CPUID shows it. Returns 0 or -EFAULT.
 */
static int try_cmpxchg16_user(void __user *p, const u64 *old, const u64 *new, bool *done)
{
	u64 low = old[0], high = old[1];
	bool equal;
	int err = 0;

	asm volatile("1: lock cmpxchg16b %[mem]; sete %[equal]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_EFAULT_REG, %[err])
		     : [mem] "+m" (*(u64 __force (*)[2])p), [equal] "=qm" (equal), [err] "+r" (err),
		       "+a" (low), "+d" (high)
		     : "b" (new[0]), "c" (new[1]) : "memory", "cc");
	*done = !err && equal;
	return err;
}

#define TRY_CMPXCHG(type)								\
	do {										\
		type was = emu->was[0];							\
											\
		done = unsafe_try_cmpxchg_user((type __user *)p, &was, *(type *)data, fault);	\
	} while (0)

/*
 * Atomically replaces emu->was by data; len is 1, 2, 4, 8 or 16 bytes. RETRY: the memory no longer
 * holds emu->was.
 */
static enum mkvm_emu_result replace_ram(struct mkvm_emu *emu, void __user *p, void *data,
					unsigned int len)
{
	bool done = false;

	if (!user_access_begin(p, len))
		goto no_access;
	switch (len) {
	case 1:
		TRY_CMPXCHG(u8);
		break;
	case 2:
		TRY_CMPXCHG(u16);
		break;
	case 4:
		TRY_CMPXCHG(u32);
		break;
	case 8:
		TRY_CMPXCHG(u64);
		break;
	default:
		if (try_cmpxchg16_user(p, emu->was, data, &done))
			goto fault;
	}
	user_access_end();
	return done ? MKVM_EMU_DONE : MKVM_EMU_RETRY;
fault:
	user_access_end();
no_access:
	return mkvm_emu_host_fault(emu, p, true);
}

/*
 * Accesses RAM within one guest page. An operand that crosses a cache line is replaced by a plain
 * write: a host may forbid locked accesses of that kind (split-lock detection), even in the kernel.
 */
static enum mkvm_emu_result ram_access(struct mkvm_emu *emu, void __user *p, void *data,
				       unsigned int len, enum mkvm_emu_how how)
{
	bool in_line = ((unsigned long)p & (SMP_CACHE_BYTES - 1)) + len <= SMP_CACHE_BYTES;

	if (how == MKVM_EMU_REPLACE)
		mkvm_test_point(MKVM_POINT_REPLACE);
	if (how == MKVM_EMU_REPLACE && in_line)
		return replace_ram(emu, p, data, len);
	if (unlikely(copy_ram(p, data, len, how >= MKVM_EMU_WRITE)))
		return mkvm_emu_host_fault(emu, p, how >= MKVM_EMU_WRITE);
	return MKVM_EMU_DONE;
}

/* Accesses RAM within one guest page, or devices in pieces of at most 8 bytes. */
static enum mkvm_emu_result page_access(struct mkvm_emu *emu, u64 gpa, void *data, unsigned int len,
					enum mkvm_emu_how how)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;
	bool write = how >= MKVM_EMU_WRITE;
	enum mkvm_emu_result r = MKVM_EMU_DONE;
	void __user *p;
	unsigned int n;
	u64 val;

	p = ram_at(vcpu, gpa, write);
	if (unlikely(!p && emu->implicit))	/* is it ROM, which drops writes? */
		return write && ram_at(vcpu, gpa, false) ? MKVM_EMU_DONE : MKVM_EMU_UNHANDLED;
	if (how == MKVM_EMU_PROBE)
		return p || len <= 8 ? MKVM_EMU_DONE : MKVM_EMU_UNHANDLED;
	if (p) {
		r = ram_access(emu, p, data, len, how);
		if (write)
			mkvm_mark_dirty(vcpu, gpa);
		return r;
	}
	for (; len && r == MKVM_EMU_DONE; len -= n, gpa += n, data += n) {
		n = min(len, 8u);
		val = 0;
		if (write)
			memcpy(&val, data, n);
		r = device_access(vcpu, gpa, &val, n, write);
		if (!write)
			memcpy(data, &val, n);
	}
	return r;
}

/*
 * May the access use the faulting guest-physical address, which saves a walk? It may if the
 * instruction has one memory operand and that is the one that faulted. The code may have changed
 * since the fault, unless the CPU supplied its bytes, so the linear address must match. An access
 * that faulted as a write has passed the guest's page tables for reads and writes; one that faulted
 * as a read has passed them for reads only.
 */
static bool know_gpa(const struct mkvm_emu *emu, u64 la, unsigned int len, enum mkvm_emu_how how)
{
	const struct mkvm_vcpu *vcpu = emu->vcpu;

	return emu->one_operand && !((la ^ vcpu->insn.fault_gpa) & ~PAGE_MASK) &&
	       (la == vcpu->insn.fault_la || vcpu->insn.by_cpu >= emu->insn_len) &&
	       (la & ~PAGE_MASK) + len <= PAGE_SIZE &&
	       (vcpu->insn.cause == MKVM_BY_WRITE ||
		(vcpu->insn.cause == MKVM_BY_READ && how == MKVM_EMU_READ));
}

static noinline enum mkvm_emu_result access_by_walk(struct mkvm_emu *emu, u64 la, void *data,
						    unsigned int len, enum mkvm_emu_how how)
{
	unsigned int first = min_t(unsigned int, len, PAGE_SIZE - (la & ~PAGE_MASK));
	struct mkvm_vcpu *vcpu = emu->vcpu;
	u32 acc = how == MKVM_EMU_READ ? 0 : ACC_WRITE;
	enum mkvm_emu_result r;
	u64 gpa, gpa2;

	/* An access that crosses a page is not atomic. */
	if (how == MKVM_EMU_REPLACE && first < len)
		how = MKVM_EMU_WRITE;
	/* Both pages are translated before either is touched. */
	r = mkvm_emu_translate(emu, la, acc, &gpa);
	if (r == MKVM_EMU_DONE && first < len)
		r = mkvm_emu_translate(emu, la + first, acc, &gpa2);
	if (r == MKVM_EMU_DONE && how == MKVM_EMU_WRITE && first < len && ram_at(vcpu, gpa, true) &&
	    !ram_at(vcpu, gpa2, true)) {
		/* The device first: a replay that reads the operand must find it unchanged. */
		r = page_access(emu, gpa2, data + first, len - first, how);
		len = first;
	}
	if (r == MKVM_EMU_DONE)
		r = page_access(emu, gpa, data, first, how);
	if (r == MKVM_EMU_DONE && first < len)
		r = page_access(emu, gpa2, data + first, len - first, how);
	return r;
}

enum mkvm_emu_result mkvm_emu_access(struct mkvm_emu *emu, u64 la, void *data, unsigned int len,
				     enum mkvm_emu_how how)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;

	if (unlikely(emu->watched) && how != MKVM_EMU_PROBE)
		emu->traps |= mkvm_breakpoints_met(vcpu, how >= MKVM_EMU_WRITE ? MKVM_WATCH_WRITE :
						   MKVM_WATCH_READ, la, len);
	if (unlikely(!know_gpa(emu, la, len, how)))
		return access_by_walk(emu, la, data, len, how);
	/* A fault means that there is no RAM, except that a write also faults on ROM. */
	if (len <= 8 && (vcpu->insn.cause == MKVM_BY_READ || how == MKVM_EMU_WRITE ||
			 how == MKVM_EMU_REPLACE))
		return device_access(vcpu, vcpu->insn.fault_gpa, data, len, how != MKVM_EMU_READ);
	return page_access(emu, vcpu->insn.fault_gpa, data, len, how);
}

/*
 * Performs an implicit access (emulate.h). A write where there is no RAM is dropped and reaches no
 * device.
 */
enum mkvm_emu_result mkvm_emu_system(struct mkvm_emu *emu, u64 la, void *data, unsigned int len,
				     enum mkvm_emu_how how)
{
	bool cs_l = emu->mode.cs_l;
	u8 cpl = emu->mode.cpl;
	u64 rflags = emu->rflags, gpa;
	enum mkvm_emu_result r;

	/*
	 * Implicit accesses are supervisor accesses, and EFLAGS.AC does not exempt them from SMAP.
	 * Descriptor tables have 64-bit addresses in compatibility mode, too.
	 */
	emu->mode.cpl = 0;
	emu->mode.cs_l = emu->mode.efer & EFER_LMA;
	emu->rflags &= ~(u64)X86_EFLAGS_AC;
	if (how < MKVM_EMU_WRITE || emu->implicit) {
		r = access_by_walk(emu, la, data, len, how);
	} else {
		r = mkvm_emu_translate(emu, la, ACC_WRITE, &gpa);
		if (r == MKVM_EMU_DONE && mkvm_gpa_to_user(emu->vcpu, gpa, true))
			r = page_access(emu, gpa, data, len, how);
	}
	emu->mode.cpl = cpl;
	emu->mode.cs_l = cs_l;
	emu->rflags = rflags;
	return r;
}

enum mkvm_emu_result mkvm_emu_fetch(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len)
{
	u64 gpa, *to = buf, __user *p;
	enum mkvm_emu_result r;
	bool missing;

	r = mkvm_emu_translate(emu, la, ACC_FETCH, &gpa);
	if (r != MKVM_EMU_DONE)
		return r;
	p = mkvm_gpa_to_user(emu->vcpu, gpa, false);
	if (!p)
		return MKVM_EMU_UNHANDLED;
	/* Two loads are faster than a copy. */
	if ((gpa & ~PAGE_MASK) <= PAGE_SIZE - 16)
		missing = get_user(to[0], p) || get_user(to[1], p + 1);
	else
		missing = copy_from_user(buf, p, len);
	return unlikely(missing) ? mkvm_emu_host_fault(emu, p, false) : MKVM_EMU_DONE;
}

/* ---- ports, segments, control registers ---- */

/*
 * Performs INS or OUTS. The data are in the page shared with userspace; a replay after userspace
 * has answered finds pio.done set.
 */
enum mkvm_emu_result mkvm_emu_pio(struct mkvm_emu *emu, u16 port, unsigned int size,
				  unsigned int count, const void *out)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;
	struct kvm_run *run = vcpu->run;
	unsigned int i;
	u32 val = 0;

	if (unlikely(emu->watched))
		emu->traps |= mkvm_breakpoints_met(vcpu, MKVM_WATCH_PORT, port, size);
	if (vcpu->insn.pio.done)
		return MKVM_EMU_DONE;
	if (out)
		memcpy(&val, out, size);
	for (i = 0; i < count && mkvm_kernel_pio(vcpu, port, size, !out, &val); i++)
		memcpy(emu->ins_buf + i * size, &val, size);
	mkvm_trace_event(pio, vcpu, port, size, out, val, i ? "kernel" : "user");
	emu->ins_taken = count;
	vcpu->insn.pio.done = true;		/* the port took all elements or none */
	if (i)
		return MKVM_EMU_DONE;
	if (out)
		memcpy(emu->ins_buf, &val, size);
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = out ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
	run->io.size = size;
	run->io.port = port;
	run->io.count = count;
	run->io.data_offset = MKVM_PIO_PAGE_OFFSET * PAGE_SIZE;
	return MKVM_EMU_EXIT;
}

void mkvm_emu_get_segment(struct mkvm_emu *emu, int seg, struct kvm_segment *var)
{
	mkvm_hw->get_segment(emu->vcpu, seg, var);
}

void mkvm_emu_set_segment(struct mkvm_emu *emu, int seg, const struct kvm_segment *var)
{
	mkvm_hw->set_segment(emu->vcpu, seg, var);
}

void mkvm_emu_dt(struct mkvm_emu *emu, bool idt, struct kvm_dtable *dt, bool write)
{
	if (write)
		mkvm_hw->set_dt(emu->vcpu, idt, dt);
	else
		mkvm_hw->get_dt(emu->vcpu, idt, dt);
}

bool mkvm_emu_has(struct mkvm_emu *emu, unsigned int feature)
{
	return mkvm_cpuid_has(emu->vcpu, feature);
}

u64 mkvm_emu_get_cr(struct mkvm_emu *emu, int cr)
{
	return cr == 8 ? mkvm_get_cr8(emu->vcpu) : mkvm_hw->get_cr(emu->vcpu, cr);
}

int mkvm_emu_set_cr(struct mkvm_emu *emu, int cr, u64 val)
{
	return mkvm_cr_write(emu->vcpu, cr, val);
}

/* Only called while the CPU's debug registers hold userspace's breakpoints (cpu/debug.c). */
void mkvm_emu_dr(struct mkvm_emu *emu, int dr, u64 *val, bool write)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;
	u64 *reg = &vcpu->dr[array_index_nospec((unsigned int)dr, 4)];

	if (dr < 4 && write)
		*reg = *val;
	else if (dr < 4)
		*val = *reg;
	else if (write)
		mkvm_hw->set_dr(vcpu, dr,
				dr == 6 ? (*val & ~(u64)BIT(12)) | 0xffff0ff0 :
					  (*val & ~0xd800ULL) | MKVM_DR7_FIXED);
	else
		*val = mkvm_hw->get_dr(vcpu, dr);
}

/* ---- before and after an instruction ---- */

/*
 * mkvm_forget_io - discard the log and the bytes of the last instruction, before the next one
 *
 * Context: the vCPU's own thread, or as mkvm_vcpu_reset.
 */
void mkvm_forget_io(struct mkvm_vcpu *vcpu)
{
	vcpu->insn.log.nr = 0;
	vcpu->insn.log.pos = 0;
	vcpu->insn.log.open = false;
	vcpu->insn.pio.done = false;
	vcpu->insn.emu.ins_taken = 0;
	vcpu->insn.len = 0;
}

/* Initialises vcpu->insn.emu for the instruction at RIP (internal.h). */
struct mkvm_emu *mkvm_emu_begin(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu = &vcpu->insn.emu;

	emu->vcpu = vcpu;
	emu->regs = vcpu->regs;
	emu->rip = vcpu->rip;
	emu->rflags = vcpu->rflags;
	mkvm_hw->get_mode(vcpu, &emu->mode);
	/*
	 * The CPU checks IOPL and the TSS's I/O bitmap before it intercepts (AMD APM vol. 2, "IOIO
	 * Intercepts").
	 */
	emu->io_checked = vcpu->insn.cause == MKVM_BY_INTERCEPT;
	emu->ins_buf = (void *)vcpu->run + MKVM_PIO_PAGE_OFFSET * PAGE_SIZE;
	emu->insn = vcpu->insn.bytes;
	emu->insn_len = vcpu->insn.len;
	emu->implicit = false;
	emu->host_fault = false;
	emu->asked = false;
	emu->patient = vcpu->insn.log.nr || vcpu->insn.pio.done;
	emu->watched = mkvm_watching(vcpu);
	return emu;
}
