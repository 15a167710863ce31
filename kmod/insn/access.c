// SPDX-License-Identifier: GPL-2.0
/*
 * access.c - what the emulator reads and writes: guest memory, in-kernel devices or exits to
 * userspace, ports, segments and control registers.
 *
 * State: vcpu->log, the answers of the devices that the current instruction has read so far. If
 * a device needs userspace, KVM_RUN returns, and the next KVM_RUN executes the same instruction
 * again: accesses in the log are answered from it, so no device sees one twice.
 *
 * Read next: walk.c, iodev.c.
 */
#include <linux/nospec.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>

#include "decode.h"
#include "internal.h"
#include "hw_ops.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

/* ---- memory and devices ---- */

/* One access of at most 8 bytes to something that is not RAM. */
static enum mkvm_emu_result device_access(struct mkvm_vcpu *vcpu, u64 gpa, u64 *val, unsigned int len, bool write)
{
	struct mkvm_io_log *log = &vcpu->log;
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

/* The memory at gpa, NULL: a device is there, or nothing. */
static void __user *ram_at(struct mkvm_vcpu *vcpu, u64 gpa, bool write)
{
	if (vcpu->lapic && mkvm_lapic_mmio_match(vcpu->lapic, gpa))
		return NULL;
	return mkvm_gpa_to_user(vcpu, gpa, write);
}

#define COPY_RAM(type)									\
	(write ? put_user(*(type *)data, (type __user *)p) : get_user(*(type *)data, (type __user *)p))

/*
 * Reads or writes RAM. What a CPU accesses at once others see at once, too. Returns whether the host
 * has no memory there.
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

/* CMPXCHG16B, which the CPU has since the guest's CPUID shows it. Returns 0 or -EFAULT. */
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

/* Replaces emu->was by data, of 1, 2, 4, 8 or 16 bytes. RETRY: something else is there by now. */
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
	emu->host_fault = true;
	return MKVM_EMU_UNHANDLED;
}

/*
 * Within one guest page of RAM. What lies across cache lines is replaced by a plain write: a host
 * may forbid locked accesses of that kind (split-lock detection), even in the kernel.
 */
static enum mkvm_emu_result ram_access(struct mkvm_emu *emu, void __user *p, void *data,
				       unsigned int len, enum mkvm_emu_how how)
{
	bool in_line = ((unsigned long)p & (SMP_CACHE_BYTES - 1)) + len <= SMP_CACHE_BYTES;

	if (how == MKVM_EMU_REPLACE)
		mkvm_test_point(MKVM_POINT_REPLACE);
	if (how == MKVM_EMU_REPLACE && in_line)
		return replace_ram(emu, p, data, len);
	emu->host_fault = copy_ram(p, data, len, how >= MKVM_EMU_WRITE);
	return emu->host_fault ? MKVM_EMU_UNHANDLED : MKVM_EMU_DONE;
}

/* Within one guest page: RAM, or devices in pieces of at most 8 bytes. */
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
	if (unlikely(!p && emu->implicit))	/* ROM, on which a write is lost? */
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
 * The fault's own address saves the walk for the one operand, if that is still the one that
 * faulted: the code may have changed since, but for bytes that the CPU gives. So what a fault by a
 * write proves is not proved by one of a read, either.
 */
static bool know_gpa(const struct mkvm_emu *emu, u64 la, unsigned int len, enum mkvm_emu_how how)
{
	const struct mkvm_vcpu *vcpu = emu->vcpu;

	return emu->one_operand && !((la ^ vcpu->fault_gpa) & ~PAGE_MASK) &&
	       (la == vcpu->fault_la || vcpu->insn_by_cpu >= emu->insn_len) &&
	       (la & ~PAGE_MASK) + len <= PAGE_SIZE &&
	       (vcpu->cause == MKVM_BY_WRITE || (vcpu->cause == MKVM_BY_READ && how == MKVM_EMU_READ));
}

static noinline enum mkvm_emu_result access_by_walk(struct mkvm_emu *emu, u64 la, void *data, unsigned int len,
						    enum mkvm_emu_how how)
{
	unsigned int first = min_t(unsigned int, len, PAGE_SIZE - (la & ~PAGE_MASK));
	struct mkvm_vcpu *vcpu = emu->vcpu;
	u32 acc = how == MKVM_EMU_READ ? 0 : ACC_WRITE;
	enum mkvm_emu_result r;
	u64 gpa, gpa2;

	/* Over two pages nothing is atomic. */
	if (how == MKVM_EMU_REPLACE && first < len)
		how = MKVM_EMU_WRITE;
	/* Both pages are translated before either is touched. */
	r = mkvm_emu_translate(emu, la, acc, &gpa);
	if (r == MKVM_EMU_DONE && first < len)
		r = mkvm_emu_translate(emu, la + first, acc, &gpa2);
	if (r == MKVM_EMU_DONE && how == MKVM_EMU_WRITE && first < len && ram_at(vcpu, gpa, true) &&
	    !ram_at(vcpu, gpa2, true)) {
		/* The device first: a replay that reads the operand again must find the same. */
		r = page_access(emu, gpa2, data + first, len - first, how);
		len = first;
	}
	if (r == MKVM_EMU_DONE)
		r = page_access(emu, gpa, data, first, how);
	if (r == MKVM_EMU_DONE && first < len)
		r = page_access(emu, gpa2, data + first, len - first, how);
	return r;
}

enum mkvm_emu_result mkvm_emu_access(struct mkvm_emu *emu, u64 la, void *data, unsigned int len, enum mkvm_emu_how how)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;

	if (unlikely(emu->watched) && how != MKVM_EMU_PROBE)
		emu->traps |= mkvm_breakpoints_met(vcpu, how >= MKVM_EMU_WRITE ? MKVM_WATCH_WRITE :
						   MKVM_WATCH_READ, la, len);
	if (unlikely(!know_gpa(emu, la, len, how)))
		return access_by_walk(emu, la, data, len, how);
	/* A fault means no RAM, but one by a write may mean memory that can be read. */
	if (len <= 8 && (vcpu->cause == MKVM_BY_READ || how == MKVM_EMU_WRITE ||
			 how == MKVM_EMU_REPLACE))
		return device_access(vcpu, vcpu->fault_gpa, data, len, how != MKVM_EMU_READ);
	return page_access(emu, vcpu->fault_gpa, data, len, how);
}

/* What a CPU accesses on its own. A bit that it sets where there is no RAM is lost, and no device hears of it. */
enum mkvm_emu_result mkvm_emu_system(struct mkvm_emu *emu, u64 la, void *data, unsigned int len,
				     enum mkvm_emu_how how)
{
	bool write = how >= MKVM_EMU_WRITE, cs_l = emu->mode.cs_l;
	u8 cpl = emu->mode.cpl;
	u64 rflags = emu->rflags, gpa;
	enum mkvm_emu_result r;

	/*
	 * Implicit accesses are a supervisor's, and AC does not lift SMAP from them. Tables have
	 * addresses of 64 bits in compatibility mode, too.
	 */
	emu->mode.cpl = 0;
	emu->mode.cs_l = emu->mode.efer & EFER_LMA;
	emu->rflags &= ~(u64)X86_EFLAGS_AC;
	r = mkvm_emu_translate(emu, la, write ? ACC_WRITE : 0, &gpa);
	if (r == MKVM_EMU_DONE && (!write || emu->implicit))
		r = access_by_walk(emu, la, data, len, how);
	else if (r == MKVM_EMU_DONE && mkvm_gpa_to_user(emu->vcpu, gpa, true))
		r = page_access(emu, gpa, data, len, how);
	emu->mode.cpl = cpl;
	emu->mode.cs_l = cs_l;
	emu->rflags = rflags;
	return r;
}

enum mkvm_emu_result mkvm_emu_fetch(struct mkvm_emu *emu, u64 la, void *buf, unsigned int len)
{
	u64 gpa, *to = buf, __user *p;
	enum mkvm_emu_result r;

	r = mkvm_emu_translate(emu, la, ACC_FETCH, &gpa);
	if (r != MKVM_EMU_DONE)
		return r;
	p = mkvm_gpa_to_user(emu->vcpu, gpa, false);
	if (!p)
		return MKVM_EMU_UNHANDLED;
	/* Two loads are quicker than a copy. */
	if ((gpa & ~PAGE_MASK) <= PAGE_SIZE - 16)
		emu->host_fault = get_user(to[0], p) || get_user(to[1], p + 1);
	else
		emu->host_fault = copy_from_user(buf, p, len);
	return emu->host_fault ? MKVM_EMU_UNHANDLED : MKVM_EMU_DONE;
}

/* ---- ports, segments, control registers ---- */

/* String I/O. The data travel in the shared page; once answered, the replay finds pio.done. */
enum mkvm_emu_result mkvm_emu_pio(struct mkvm_emu *emu, u16 port, unsigned int size, unsigned int count,
				  const void *out)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;
	struct kvm_run *run = vcpu->run;
	unsigned int i;
	u32 val = 0;

	if (unlikely(emu->watched))
		emu->traps |= mkvm_breakpoints_met(vcpu, MKVM_WATCH_PORT, port, size);
	if (vcpu->pio.done)
		return MKVM_EMU_DONE;
	if (out)
		memcpy(&val, out, size);
	for (i = 0; i < count && mkvm_kernel_pio(vcpu, port, size, !out, &val); i++)
		memcpy(emu->ins_buf + i * size, &val, size);
	mkvm_trace_event(pio, vcpu, port, size, out, val, i ? "kernel" : "user");
	emu->ins_taken = count;
	vcpu->pio.done = true;		/* a port is a kernel device's or not, so that is all of them or none */
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

/* Comes here only while the breakpoints in the CPU are userspace's (debug.c). */
void mkvm_emu_dr(struct mkvm_emu *emu, int dr, u64 *val, bool write)
{
	struct mkvm_vcpu *vcpu = emu->vcpu;
	u64 *reg = &vcpu->dr[array_index_nospec((unsigned int)dr, 4)];

	if (dr < 4 && write)
		*reg = *val;
	else if (dr < 4)
		*val = *reg;
	else if (write)
		mkvm_hw->set_dr(vcpu, dr, dr == 6 ? (*val & ~(u64)BIT(12)) | 0xffff0ff0 : (*val & ~0xd800ULL) | 0x400);
	else
		*val = mkvm_hw->get_dr(vcpu, dr);
}

/* ---- before and behind an instruction ---- */

/* What the last instruction has read is no answer for the next one. Own thread, or as mkvm_vcpu_reset. */
void mkvm_forget_io(struct mkvm_vcpu *vcpu)
{
	vcpu->log.nr = 0;
	vcpu->log.pos = 0;
	vcpu->log.open = false;
	vcpu->pio.done = false;
	vcpu->emu.ins_taken = 0;
	vcpu->insn_len = 0;
}

/* The emulator's state for the instruction at RIP. Own thread. */
struct mkvm_emu *mkvm_emu_begin(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu = &vcpu->emu;

	emu->vcpu = vcpu;
	emu->regs = vcpu->regs;
	emu->rip = vcpu->rip;
	emu->rflags = vcpu->rflags;
	mkvm_hw->get_mode(vcpu, &emu->mode);
	/* IOPL and the TSS's bitmap come before the intercept (AMD APM vol. 2, "IOIO Intercepts"). */
	emu->io_checked = vcpu->cause == MKVM_BY_INTERCEPT;
	emu->ins_buf = (void *)vcpu->run + MKVM_PIO_PAGE_OFFSET * PAGE_SIZE;
	emu->insn = vcpu->insn;
	emu->insn_len = vcpu->insn_len;
	emu->implicit = false;
	emu->host_fault = false;
	emu->patient = vcpu->log.nr || vcpu->pio.done;
	emu->watched = mkvm_watching(vcpu);
	return emu;
}
