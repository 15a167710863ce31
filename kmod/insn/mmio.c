// SPDX-License-Identifier: GPL-2.0
/*
 * mmio.c - connects the emulator: turns the linear addresses of an instruction into guest
 * memory, in-kernel devices or exits to userspace.
 *
 * State: vcpu->log, the answers of the devices that the current instruction has read so far. If
 * a device needs userspace, KVM_RUN returns, and the next KVM_RUN executes the same instruction
 * again: accesses in the log are answered from it, so no device sees one twice.
 *
 * Read next: emulate.c, iodev.c.
 */
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>
#include <asm/pkru.h>

#include "decode.h"
#include "hw_ops.h"
#include "explain/testpoint.h"
#include "explain/trace.h"

#define PTE_P	BIT_ULL(0)
#define PTE_W	BIT_ULL(1)
#define PTE_U	BIT_ULL(2)
#define PTE_A	BIT_ULL(5)
#define PTE_D	BIT_ULL(6)
#define PTE_PS	BIT_ULL(7)
#define PTE_NX	BIT_ULL(63)
#define PTE_ADDR 0x000ffffffffff000ULL

/* As in a #PF error code. */
enum { ACC_PRESENT = 1, ACC_WRITE = 2, ACC_USER = 4, ACC_RESERVED = 8, ACC_FETCH = 16, ACC_KEY = 32 };

/* ---- the guest's own page tables ---- */

static enum mkvm_emu_result page_fault(struct mkvm_emu *emu, u64 la, u32 error)
{
	bool tells_fetch = (emu->mode.efer & EFER_NX) || (emu->mode.cr4 & X86_CR4_SMEP);

	emu->fault.vector = X86_TRAP_PF;
	emu->fault.has_error = true;
	emu->fault.error = tells_fetch ? error : error & ~ACC_FETCH;
	emu->fault.cr2 = la;
	return MKVM_EMU_FAULT;
}

/* Reads one entry, 4 or 8 bytes; ones where no memory is, like a bus without a device. False: the host has none. */
static bool read_entry(struct mkvm_vcpu *vcpu, u64 gpa, bool wide, u64 *entry)
{
	void __user *p = mkvm_gpa_to_user(vcpu, gpa, false);
	u32 narrow;
	int r;

	if (unlikely(!p)) {
		*entry = wide ? ~0ULL : ~0U;
		return true;
	}
	if (likely(wide))
		return !get_user(*entry, (u64 __user *)p);
	r = get_user(narrow, (u32 __user *)p);
	*entry = narrow;
	return !r;
}

/*
 * Sets A and D bits in an entry whose lower half still reads old. AGAIN: it changed. Read-only
 * memory stays as it is: the write is lost on the bus, which the CPU does not notice.
 */
static noinline enum mkvm_emu_result set_bits(struct mkvm_emu *emu, u64 gpa, u32 old, u32 bits)
{
	u32 __user *p = mkvm_gpa_to_user(emu->vcpu, gpa, true);
	bool done;

	mkvm_test_point(MKVM_POINT_WALK);
	if (!p)
		return MKVM_EMU_DONE;
	if (!user_access_begin(p, sizeof(*p)))
		return MKVM_EMU_UNHANDLED;
	done = unsafe_try_cmpxchg_user(p, &old, old | bits, fault);
	user_access_end();
	mkvm_mark_dirty(emu->vcpu, gpa);
	return done ? MKVM_EMU_DONE : MKVM_EMU_AGAIN;
fault:
	user_access_end();
	emu->host_fault = true;
	return MKVM_EMU_UNHANDLED;
}

/* The same where bits are missing, which is seldom. */
static __always_inline enum mkvm_emu_result want_bits(struct mkvm_emu *emu, u64 gpa, u32 old, u32 bits)
{
	return likely(!(bits & ~old)) ? MKVM_EMU_DONE : set_bits(emu, gpa, old, bits);
}

/*
 * Does the walk allow it? all, any: the entries of all levels, ANDed and ORed.
 * AMD APM vol. 2, "Page-Protection Checks".
 */
static bool allowed(const struct mkvm_emu *emu, u64 all, u64 any, u32 acc)
{
	const struct mkvm_mode *m = &emu->mode;

	if ((acc & ACC_USER) && !(all & PTE_U))
		return false;
	if ((acc & ACC_WRITE) && !(all & PTE_W) && ((acc & ACC_USER) || (m->cr0 & X86_CR0_WP)))
		return false;
	if ((acc & ACC_FETCH) && (any & PTE_NX))
		return false;
	if ((acc & ACC_USER) || !(all & PTE_U))
		return true;
	if (acc & ACC_FETCH)
		return !(m->cr4 & X86_CR4_SMEP);
	return !(m->cr4 & X86_CR4_SMAP) || (emu->rflags & X86_EFLAGS_AC);
}

/* With CR4.PKE: does the leaf's protection key allow it? AMD APM vol. 2, "Memory Protection Keys (MPK) Bit". */
static bool key_allows(const struct mkvm_emu *emu, u64 leaf, u64 all, u32 acc)
{
	const struct mkvm_mode *m = &emu->mode;
	u32 pkru = emu->vcpu->pkru;
	u16 key = leaf >> 59 & 15;

	if (!(m->efer & EFER_LMA) || (acc & ACC_FETCH) || !(all & PTE_U))
		return true;
	if ((acc & ACC_WRITE) && ((acc & ACC_USER) || (m->cr0 & X86_CR0_WP)))
		return __pkru_allows_write(pkru, key);
	return __pkru_allows_read(pkru, key);
}

/*
 * One walk, with the checks and the A and D bits of a CPU's. levels: a constant, which makes it quick;
 * 4 in long mode, 3 with PAE, 2. AGAIN: an entry changed meanwhile.
 */
static __always_inline enum mkvm_emu_result walk(struct mkvm_emu *emu, u64 la, u32 acc, u64 *gpa, unsigned int levels)
{
	const struct mkvm_mode *m = &emu->mode;
	bool lm = levels == 4, wide = levels > 2, leaf;
	unsigned int bits = wide ? 9 : 10, level = levels, shift = 12 + bits * levels;
	u64 reserved = wide ? emu->vcpu->gpa_reserved | (m->efer & EFER_NX ? 0 : PTE_NX) : 0;
	u64 table = m->cr3 & (lm ? PTE_ADDR : wide ? 0xffffffe0 : 0xfffff000);
	u64 entry, at, span, all = ~0ULL, any = 0;
	enum mkvm_emu_result r;
	u32 want;

	for (;; level--) {
		shift -= bits;
		at = table + (la >> shift & ((1 << bits) - 1)) * (wide ? 8 : 4);
		if (!read_entry(emu->vcpu, at, wide, &entry)) {
			emu->host_fault = true;
			return MKVM_EMU_UNHANDLED;
		}
		if (!(entry & PTE_P))
			return page_fault(emu, la, acc);
		leaf = level == 1 || ((entry & PTE_PS) && (wide || (m->cr4 & X86_CR4_PSE)));
		if (unlikely((entry & reserved) || (leaf && level > (lm ? 3 : 2))))
			return page_fault(emu, la, acc | ACC_PRESENT | ACC_RESERVED);
		want = PTE_A;
		if (likely(lm || level < 3)) {
			all &= entry;
			any |= entry;
		} else {		/* PDPTEs of PAE paging have no rights and no A */
			want = 0;
		}
		if (leaf)
			break;
		r = want_bits(emu, at, entry, want);
		if (r)
			return r;
		table = entry & PTE_ADDR;
	}
	if (!allowed(emu, all, any, acc))
		return page_fault(emu, la, acc | ACC_PRESENT);
	if (unlikely(m->cr4 & X86_CR4_PKE) && !key_allows(emu, entry, all, acc))
		return page_fault(emu, la, acc | ACC_PRESENT | ACC_KEY);
	if (acc & ACC_WRITE)
		want |= PTE_D;
	r = want_bits(emu, at, entry, want);
	if (r)
		return r;
	emu->walked.all = all;
	emu->walked.any = any;
	emu->walked.leaf = entry;
	span = (1ULL << shift) - 1;
	*gpa = (entry & PTE_ADDR & ~span) | (la & span);
	if (!wide && level == 2)	/* PSE-36: address bits 39:32 stand in bits 20:13 */
		*gpa |= (entry >> 13 & 0xff) << 32;
	return MKVM_EMU_DONE;
}

/*
 * An entry of the guest's tables has changed under a walk: walk again? A signal ends it, for nobody
 * else bounds what other processors do, but not soon where the walk cannot be put off, since
 * something was done already.
 */
static bool may_walk_again(const struct mkvm_emu *emu, unsigned int walks)
{
	cond_resched();
	return !signal_pending(current) || (emu->patient && walks < 10000);
}

/* Linear to guest-physical. RETRY: a signal has ended the walk. */
static enum mkvm_emu_result translate(struct mkvm_emu *emu, u64 la, u32 acc, u64 *gpa)
{
	const struct mkvm_mode *m = &emu->mode;
	enum mkvm_emu_result r;
	unsigned int walks = 0;

	if (!m->cs_l || !(m->efer & EFER_LMA))
		la = (u32)la;
	*gpa = la;
	if (!(m->cr0 & X86_CR0_PG))
		return MKVM_EMU_DONE;
	if (m->cpl == 3)
		acc |= ACC_USER;
	do {
		if (likely(m->efer & EFER_LMA))
			r = walk(emu, la, acc, gpa, 4);
		else
			r = m->cr4 & X86_CR4_PAE ? walk(emu, la, acc, gpa, 3) : walk(emu, la, acc, gpa, 2);
	} while (unlikely(r == MKVM_EMU_AGAIN) && may_walk_again(emu, ++walks));
	return unlikely(r == MKVM_EMU_AGAIN) ? MKVM_EMU_RETRY : r;
}

/*
 * mkvm_walk - the walk that a CPU would do for one access, checks and A and D bits included
 * @access: bits of a #PF error code: write, user, fetch; or MKVM_WALK_UNCHECKED
 *
 * Return: DONE; FAULT with t->error; RETRY: a signal waits, or an entry changes all the time;
 * UNHANDLED: the host has no memory where an entry should be.
 * Context: own thread, vm->srcu held, may sleep; the guest has paging on.
 */
enum mkvm_emu_result mkvm_walk(struct mkvm_vcpu *vcpu, u64 la, u32 access, struct mkvm_translation *t)
{
	struct mkvm_emu emu = { .vcpu = vcpu };
	enum mkvm_emu_result r;

	mkvm_hw->get_mode(vcpu, &emu.mode);
	/* AC has no say in what the CPU does by itself as a supervisor. */
	emu.rflags = emu.mode.cpl == 3 || vcpu->vectoring ? 0 : vcpu->rflags;
	emu.mode.cpl = 0;
	emu.mode.cs_l = emu.mode.efer & EFER_LMA;
	if (access & MKVM_WALK_UNCHECKED) {
		emu.rflags = X86_EFLAGS_AC;
		emu.mode.cr0 &= ~(u64)X86_CR0_WP;
		emu.mode.cr4 &= ~(u64)X86_CR4_PKE;
	}
	r = translate(&emu, la, access & (ACC_WRITE | ACC_USER | ACC_FETCH), &t->gpa);
	t->all = emu.walked.all;
	t->any = emu.walked.any;
	t->leaf = emu.walked.leaf;
	t->error = emu.fault.error;
	return r;
}

/*
 * mkvm_translate - linear to guest-physical, as for a supervisor's read (KVM_TRANSLATE)
 *
 * The walk sets A bits as a CPU's does. Return: false: nothing is mapped there, or it is no
 * address in this mode; *gpa is ~0 then.
 * Context: vcpu->mutex held, vCPU loaded; may sleep.
 */
bool mkvm_translate(struct mkvm_vcpu *vcpu, u64 la, u64 *gpa)
{
	struct mkvm_emu emu = { .vcpu = vcpu, .rflags = X86_EFLAGS_AC, .patient = true };
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	bool mapped;

	mkvm_hw->get_mode(vcpu, &emu.mode);
	emu.mode.cpl = 0;
	emu.mode.cs_l = emu.mode.efer & EFER_LMA;
	mapped = (emu.mode.cs_l ? canonical(la) : !(la >> 32)) && translate(&emu, la, 0, gpa) == MKVM_EMU_DONE;
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	if (!mapped)
		*gpa = ~0ULL;
	return mapped;
}

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
	r = translate(emu, la, acc, &gpa);
	if (r == MKVM_EMU_DONE && first < len)
		r = translate(emu, la + first, acc, &gpa2);
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
	r = translate(emu, la, write ? ACC_WRITE : 0, &gpa);
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

	r = translate(emu, la, ACC_FETCH, &gpa);
	if (r != MKVM_EMU_DONE)
		return r;
	p = mkvm_gpa_to_user(emu->vcpu, gpa, false);
	if (!p)
		return MKVM_EMU_UNHANDLED;
	/* Two loads are quicker than a copy. */
	if ((gpa & ~PAGE_MASK) <= PAGE_SIZE - 16)
		return get_user(to[0], p) || get_user(to[1], p + 1) ? MKVM_EMU_UNHANDLED : MKVM_EMU_DONE;
	return copy_from_user(buf, p, len) ? MKVM_EMU_UNHANDLED : MKVM_EMU_DONE;
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

/* ---- from an exit into the emulator and back ---- */

static struct mkvm_emu *emu_init(struct mkvm_vcpu *vcpu)
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

/* KVM_RUN again after userspace has answered: the instruction runs once more, on the log. */
static int complete_emulation(struct mkvm_vcpu *vcpu)
{
	struct mkvm_io_log *log = &vcpu->log;
	int r, idx;

	if (vcpu->rip != vcpu->io_rip) {	/* userspace reset the vCPU: the access is over */
		mkvm_forget_io(vcpu);
		return 1;
	}
	if (log->open)
		memcpy(&log->data[log->nr - 1], vcpu->run->mmio.data, sizeof(log->data[0]));
	log->open = false;
	log->pos = 0;
	idx = srcu_read_lock(&vcpu->vm->srcu);
	r = mkvm_emulate_exit(vcpu, vcpu->cause);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/* Is the instruction at RIP still the one that the CPU has intercepted, and checked? */
static bool is_intercepted(const struct mkvm_emu *emu)
{
	unsigned int what = emu->vcpu->intercept.what, number = emu->vcpu->intercept.number;

	switch (what) {
	case MKVM_INTERCEPT_INS: case MKVM_INTERCEPT_OUTS:
		return (emu->d.flags & STRING) && emu->size == number &&
		       (what == MKVM_INTERCEPT_INS ? emu->d.src : emu->d.dst) == PORT;
	case MKVM_INTERCEPT_GET_CR:
		return emu->d.op == OP_GET_CR && (number == MKVM_ANY_CR || emu->reg == number);
	case MKVM_INTERCEPT_SET_CR:	/* AMD: LOCK makes CR0 CR8 */
		if (emu->d.op == OP_LMSW)
			return !number;
		return emu->d.op == OP_SET_CR && (emu->prefix[LOCK] ? 8 : emu->reg) == number;
	default:
		return emu->reg == number &&
		       emu->d.op == (what == MKVM_INTERCEPT_SET_DR ? OP_SET_DR : OP_GET_DR);
	}
}

/* RETRY: another processor has changed the code since; the guest runs what stands there now. */
static enum mkvm_emu_result check_intercepted(struct mkvm_emu *emu)
{
	enum mkvm_emu_result r = mkvm_decode(emu);

	if (r == MKVM_EMU_DONE && is_intercepted(emu))
		return MKVM_EMU_DONE;
	return r == MKVM_EMU_DONE || r == MKVM_EMU_UNHANDLED ? MKVM_EMU_RETRY : r;
}

/* A round of REP is over: go on here, or let the guest try the next one itself? */
static bool may_repeat(struct mkvm_vcpu *vcpu, unsigned int round)
{
	return round < 128 && !signal_pending(current) && !need_resched() &&
	       !(READ_ONCE(vcpu->pending) & ~vcpu->waiting);
}

/* The traps that an instruction, or a round of REP, would end with: for mkvm_debug_trap. */
static u32 due_traps(const struct mkvm_vcpu *vcpu, bool tf)
{
	return vcpu->emu.traps | (tf ? DR_STEP : 0);
}

/* The next KVM_RUN has to run the instruction again, with its bytes and its log as they are. */
static void suspend_emulation(struct mkvm_vcpu *vcpu)
{
	vcpu->io_rip = vcpu->rip;
	vcpu->complete = complete_emulation;
	vcpu->insn_len = vcpu->emu.insn_len;	/* whoever patches the code */
}

static void queue_fault(struct mkvm_vcpu *vcpu, const struct mkvm_emu *emu)
{
	if (emu->fault.vector == X86_TRAP_PF)
		mkvm_queue_page_fault(vcpu, emu->fault.cr2, emu->fault.error);
	else
		mkvm_queue_exception(vcpu, emu->fault.vector, emu->fault.has_error, emu->fault.error);
}

/* The emulator's last result becomes the vCPU's state. Return: as handle_exit. */
static int end_emulation(struct mkvm_vcpu *vcpu, enum mkvm_emu_result r, u32 traps)
{
	const struct mkvm_emu *emu = &vcpu->emu;

	switch (r) {
	case MKVM_EMU_DONE:
		/* The guest gets no trap between a load of SS and the next instruction. */
		if (emu->ss_loaded && !mkvm_debug_takes(vcpu, X86_TRAP_DB))
			traps = 0;
		mkvm_end_instruction(vcpu, traps);
		if (unlikely(emu->d.op == OP_IRET))
			mkvm_hw->set_nmi_masked(vcpu, false);
		if (unlikely(emu->fault_after))
			queue_fault(vcpu, emu);
		if (unlikely(emu->ss_loaded))
			mkvm_hw->set_shadow(vcpu, KVM_X86_SHADOW_INT_MOV_SS);
		if (likely(!vcpu->tell_tpr))
			return 1;
		vcpu->tell_tpr = false;
		vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
		return 0;
	case MKVM_EMU_AGAIN:
		if (traps)
			mkvm_hw->set_shadow(vcpu, 0);
		mkvm_debug_trap(vcpu, traps);
		return 1;
	case MKVM_EMU_RETRY:
		return 1;
	case MKVM_EMU_FAULT:
		queue_fault(vcpu, emu);
		return 1;
	default:
		return emu->host_fault ? -EFAULT : mkvm_emulation_failed(vcpu, emu);
	}
}

/* Runs the instruction, or a round of REP; from its start where another processor was quicker. */
static enum mkvm_emu_result emulate_now(struct mkvm_vcpu *vcpu)
{
	enum mkvm_emu_result r;
	unsigned int tries = 0;

	do {
		vcpu->log.pos = 0;
		vcpu->emu.traps = 0;
		r = mkvm_emulate(&vcpu->emu);
	} while (unlikely(r == MKVM_EMU_RETRY) && !signal_pending(current) && ++tries < 100);
	return r;
}

/*
 * mkvm_emulate_exit - run the instruction at RIP in the emulator
 * @cause: of the exit; with MKVM_BY_READ and MKVM_BY_WRITE vcpu->fault_gpa is the operand's address
 *
 * Context: own thread, vm->srcu held, may sleep. Return: as handle_exit.
 */
int mkvm_emulate_exit(struct mkvm_vcpu *vcpu, enum mkvm_cause cause)
{
	enum mkvm_emu_result r = MKVM_EMU_DONE;
	unsigned int round = 0;
	struct mkvm_emu *emu;
	bool tf, stepped;

	vcpu->cause = cause;
	emu = emu_init(vcpu);
	mkvm_test_point(MKVM_POINT_EMULATE);
	stepped = (vcpu->rflags & X86_EFLAGS_TF) || (vcpu->debug.control & KVM_GUESTDBG_SINGLESTEP);
	if (!emu->patient)	/* a replay takes as many elements as the first run did */
		emu->one_by_one = stepped || emu->watched;
	if (cause == MKVM_BY_INTERCEPT)
		r = check_intercepted(emu);
	do {
		tf = vcpu->rflags & X86_EFLAGS_TF;
		if (r == MKVM_EMU_DONE || r == MKVM_EMU_AGAIN)
			r = emulate_now(vcpu);
		if (r == MKVM_EMU_EXIT) {
			suspend_emulation(vcpu);
			return 0;
		}
		if (unlikely(r == MKVM_EMU_RETRY && (vcpu->log.nr || vcpu->pio.done))) {
			suspend_emulation(vcpu);
			return mkvm_interrupted(vcpu, -EINTR);
		}
		mkvm_forget_io(vcpu);
		vcpu->rip = emu->rip;
		/* A breakpoint on its code was met before: AMD APM vol. 2, "Resume Flag (RF) Bit". */
		if (r == MKVM_EMU_AGAIN)
			emu->rflags |= X86_EFLAGS_RF;
		vcpu->rflags = emu->rflags;
	} while (r == MKVM_EMU_AGAIN && !stepped && !emu->traps && may_repeat(vcpu, round++));
	return end_emulation(vcpu, r, due_traps(vcpu, tf));
}

/* The length of the instruction at RIP, 0 where that fails; *emu has it decoded. Own thread. */
static unsigned int decode_at_rip(struct mkvm_vcpu *vcpu, struct mkvm_emu **emu)
{
	int idx = srcu_read_lock(&vcpu->vm->srcu);
	unsigned int len;

	*emu = emu_init(vcpu);
	(*emu)->insn_len = 0;
	(*emu)->patient = true;		/* the instruction was done already */
	len = mkvm_insn_length(*emu);
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return len;
}

/* Is the instruction at RIP one that the emulator runs? Not IRET, of which it knows one form. Own thread. */
bool mkvm_insn_is_emulated(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu;

	return decode_at_rip(vcpu, &emu) && emu->d.op != OP_LENGTH && emu->d.op != OP_IRET;
}

/*
 * mkvm_insn_at_rip - which of the instructions that some CPU does not know, or not apart, is at RIP?
 * @vector: of INT n; may be NULL
 *
 * VMCALL and VMMCALL: whichever is the other maker's. RSM: Intel's knows it in its own SMM only.
 * After any prefix but LOCK. Own thread.
 */
enum mkvm_insn mkvm_insn_at_rip(struct mkvm_vcpu *vcpu, u8 *vector)
{
	static const struct {
		u8 len, bytes[3];
		enum mkvm_insn insn;
	} known[] = {
		{ 3, { 0x0f, 0x01, 0xc1 }, MKVM_INSN_HYPERCALL },
		{ 3, { 0x0f, 0x01, 0xd9 }, MKVM_INSN_HYPERCALL },
		{ 2, { 0x0f, 0xaa }, MKVM_INSN_RSM },
		{ 1, { 0xcc }, MKVM_INSN_INT3 },
		{ 1, { 0xce }, MKVM_INSN_INTO },
		{ 1, { 0xf1 }, MKVM_INSN_INT1 },
	};
	struct mkvm_emu *emu;
	unsigned int len = decode_at_rip(vcpu, &emu), i;
	const u8 *end = emu->insn + len;

	if (!len || emu->d.op != OP_LENGTH || emu->prefix[LOCK] || ((emu->d.flags & MODRM) && emu->mod != 3))
		return MKVM_INSN_OTHER;
	/* Of those that are only measured it alone has an immediate. */
	if (emu->d.src == IMM8) {
		if (vector)
			*vector = end[-1];
		return MKVM_INSN_INT_N;
	}
	for (i = 0; i < ARRAY_SIZE(known); i++)
		if (len >= known[i].len && !memcmp(end - known[i].len, known[i].bytes, known[i].len))
			return known[i].insn;
	return MKVM_INSN_OTHER;
}

/* ---- what the CPU does by itself, and could not ---- */

/* Is a fault's handler to find RF set, so that the instruction meets no breakpoint again? */
static bool sets_rf(const struct mkvm_event *ev)
{
	return ev->type == MKVM_EV_EXCEPTION && ev->vector != X86_TRAP_DB && ev->vector != X86_TRAP_BP &&
	       ev->vector != X86_TRAP_OF && ev->vector != X86_TRAP_DF && ev->vector != X86_TRAP_MC;
}

/*
 * The event that the last exit cut off. Of the guest's own INT n and the like the CPU tells the
 * vector. False: another processor has changed the instruction since.
 */
static bool event_cut_off(struct mkvm_vcpu *vcpu, struct mkvm_emu_event *ev)
{
	const struct mkvm_event *e = &vcpu->event;
	enum mkvm_insn insn;
	u8 vector = 0;

	*ev = (struct mkvm_emu_event) {
		.vector = (u8)vcpu->vectoring, .rip = vcpu->rip, .rflags = vcpu->rflags,
	};
	if (e->type != MKVM_EV_NONE) {
		ev->soft = e->type == MKVM_EV_SOFT || (e->type == MKVM_EV_EXCEPTION &&
			   (e->vector == X86_TRAP_BP || e->vector == X86_TRAP_OF));
		ev->has_error = e->has_error;
		ev->error = e->error;
		if (e->type == MKVM_EV_SOFT)
			ev->rip += mkvm_hw->soft_event_len;
		if (sets_rf(e))
			ev->rflags |= X86_EFLAGS_RF;
		return true;
	}
	insn = mkvm_insn_at_rip(vcpu, &vector);
	if (insn == MKVM_INSN_INT3)
		vector = X86_TRAP_BP;
	else if (insn == MKVM_INSN_INTO)
		vector = X86_TRAP_OF;
	else if (insn == MKVM_INSN_INT1)
		vector = X86_TRAP_DB;
	else if (insn != MKVM_INSN_INT_N)
		return false;
	ev->soft = insn != MKVM_INSN_INT1;
	ev->rip += vcpu->emu.insn_len;
	return vector == ev->vector;
}

/* The event has gone in, or has become the fault that its delivery met. */
static void end_delivery(struct mkvm_vcpu *vcpu, enum mkvm_emu_result r)
{
	const struct mkvm_emu *emu = &vcpu->emu;
	bool nmi = vcpu->event.type == MKVM_EV_NMI;

	if (r == MKVM_EMU_DONE || vcpu->event.type != MKVM_EV_EXCEPTION)
		vcpu->event.type = MKVM_EV_NONE;
	if (nmi)
		mkvm_hw->set_nmi_masked(vcpu, true);
	vcpu->exit_soon = false;
	if (r == MKVM_EMU_FAULT) {
		queue_fault(vcpu, emu);
		return;
	}
	vcpu->rip = emu->rip;
	vcpu->rflags = emu->rflags;
	mkvm_hw->set_shadow(vcpu, 0);
	mkvm_debug_trap(vcpu, emu->traps);
	if (emu->fault_after)
		queue_fault(vcpu, emu);
}

/*
 * mkvm_emulate_delivery - deliver the event that the last exit cut off
 *
 * Context: own thread, vm->srcu held, may sleep; vcpu->vectoring is set.
 * Return: as handle_exit; MKVM_NOT_DELIVERED: a device is on the way, or the instruction that the
 * event came from is gone; nothing has changed.
 */
int mkvm_emulate_delivery(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu_event ev;
	enum mkvm_emu_result r;
	struct mkvm_emu *emu;

	if (!event_cut_off(vcpu, &ev))
		return MKVM_NOT_DELIVERED;
	emu = emu_init(vcpu);
	emu->implicit = true;
	emu->one_operand = false;
	emu->traps = 0;
	r = mkvm_emu_deliver(emu, &ev);
	if (r == MKVM_EMU_RETRY)
		return 1;
	if (r == MKVM_EMU_UNHANDLED)
		return emu->host_fault ? -EFAULT : MKVM_NOT_DELIVERED;
	end_delivery(vcpu, r);
	return 1;
}

static unsigned int bytes_in(u32 opcode)
{
	return DIV_ROUND_UP(fls(opcode), 8);
}

/* Are these, the first in the lowest bits, the last bytes of an instruction? */
static bool ends_with(const u8 *insn, unsigned int len, u32 opcode)
{
	unsigned int n = bytes_in(opcode);

	return len >= n && !memcmp(insn + len - n, &opcode, n);
}

/*
 * RIP past an intercepted instruction when the CPU does not say how long it is.
 * Return: 1, or as handle_exit when that failed.
 */
int mkvm_skip_by_decoding(struct mkvm_vcpu *vcpu)
{
	struct mkvm_emu *emu;
	unsigned int len;

	mkvm_test_point(MKVM_POINT_SKIP);
	len = decode_at_rip(vcpu, &emu);
	if (vcpu->intercepted && !ends_with(emu->insn, len, vcpu->intercepted))
		len = bytes_in(vcpu->intercepted);	/* other code stands there by now */
	if (!len)
		return mkvm_emulation_failed(vcpu, emu);
	vcpu->rip += len;
	if (!(emu->mode.efer & EFER_LMA) || !emu->mode.cs_l)
		vcpu->rip = (u32)vcpu->rip;
	return 1;
}
