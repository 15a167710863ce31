// SPDX-License-Identifier: GPL-2.0
/*
 * smm.c - system management mode: what an SMI saves and sets, and what RSM restores.
 *
 * State: vcpu->smm.active, smbase and smm_inside_nmi. In SMM the guest's memory is address space 1:
 * other slots, other second-level tables. While the vCPU is in SMM, further SMIs and INIT stay
 * in the pending word, and SIPIs are dropped.
 *
 * The state-save area is the last 512 bytes of the 64 KiB at SMBASE. It has AMD64's layout for
 * guests whose CPUID offers long mode, otherwise the older 32-bit layout. Both include the
 * hidden parts of the segments, so that big real mode survives. Both leave space to the CPU
 * vendor; the interrupt shadow is stored there, at the same place as in Linux KVM.
 *
 * Manuals: AMD APM vol. 2, "System-Management Mode"; Intel SDM vol. 3, "System Management
 * Mode". Read next: inject.c, run.c.
 */
#include <linux/build_bug.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>

#include "internal.h"
#include "explain/trace.h"

#define SMM_ENTRY 0x8000 /* offset of the handler, and of the upper half that holds the state */
#define SMRAM_OFFSET	0xfe00		/* from SMBASE to the saved state */
#define SMRAM_SIZE	0x200
#define SMM_REVISION	0x30000		/* relocation of SMBASE, restart of I/O instructions */
#define SMM_REVISION_64	(SMM_REVISION | 0x64)
#define SMM_RFLAGS	0x3f7fd5ULL	/* all flags that exist */

struct smram_seg64 {
	u16 selector;
	u16 attributes;		/* bits 8 to 23 of a descriptor's upper half */
	u32 limit;
	u64 base;
} __packed;

struct smram64 {
	struct smram_seg64 es, cs, ss, ds, fs, gs, gdtr, ldt, idtr, tr;
	u64 io_rip, io_rcx, io_rsi, io_rdi;	/* before the I/O instruction of io_dword */
	u32 io_dword;				/* the I/O instruction: MKVM_SMM_IO_* */
	u32 smi_status;
	u8 io_restart;			/* the handler writes 0xff to restart that instruction */
	u8 halt_restart;		/* nonzero: the SMI came in HLT, and RSM returns to it */
	u8 reserved0;
	u8 int_shadow;
	u32 reserved1;
	u64 efer;
	u64 svm[3];
	u32 reserved2[3];
	u32 revision;
	u32 smbase;
	u32 reserved3[5];
	u64 svm_host[6];
	u64 cr4, cr3, cr0, dr7, dr6, rflags, rip;
	u64 regs[16];				/* R15 first */
} __packed;

struct smram_seg32 {
	u32 flags;		/* a descriptor's upper half: type, S, DPL, P, AVL, DB, G */
	u32 limit;
	u32 base;
} __packed;

struct smram32 {
	u8 reserved1[0xf8];
	u32 smbase;
	u32 revision;
	u16 io_restart;
	u16 halt_restart;
	u32 io_edi, io_ecx, io_esi, io_eip;
	u32 cr4;
	u16 reserved2;
	u8 int_shadow;
	u8 reserved3;
	u32 io_dword;
	u32 reserved4[3];
	struct smram_seg32 ds, fs, gs, idtr, tr;
	u32 reserved5;
	struct smram_seg32 gdtr, ldt, es, cs, ss;
	u32 es_sel, cs_sel, ss_sel, ds_sel, fs_sel, gs_sel, ldt_sel, tr_sel;
	u32 dr7, dr6;
	u32 regs[8];				/* EAX first */
	u32 eip, eflags, cr3, cr0;
} __packed;

#define AT64(field, offset) static_assert(offsetof(struct smram64, field) == (offset)-SMRAM_OFFSET)
#define AT32(field, offset) static_assert(offsetof(struct smram32, field) == (offset)-SMRAM_OFFSET)

/* AMD APM vol. 2, "SMRAM State-Save Area". */
AT64(es, 0xfe00);
AT64(cs, 0xfe10);
AT64(ss, 0xfe20);
AT64(ds, 0xfe30);
AT64(fs, 0xfe40);
AT64(gs, 0xfe50);
AT64(gdtr, 0xfe60); AT64(ldt, 0xfe70); AT64(idtr, 0xfe80); AT64(tr, 0xfe90);
AT64(io_rip, 0xfea0);
AT64(io_rcx, 0xfea8);
AT64(io_rsi, 0xfeb0);
AT64(io_rdi, 0xfeb8);
AT64(io_dword, 0xfec0);
AT64(io_restart, 0xfec8); AT64(halt_restart, 0xfec9); AT64(int_shadow, 0xfecb); AT64(efer, 0xfed0);
AT64(revision, 0xfefc); AT64(smbase, 0xff00);
AT64(cr4, 0xff48); AT64(cr3, 0xff50); AT64(cr0, 0xff58); AT64(dr7, 0xff60); AT64(dr6, 0xff68);
AT64(rflags, 0xff70); AT64(rip, 0xff78); AT64(regs, 0xff80);
static_assert(sizeof(struct smram64) == SMRAM_SIZE);

/*
 * Intel SDM vol. 3, "SMRAM State Save Map"; the hidden parts of segments are where the Pentium Pro
 * has them.
 */
AT32(smbase, 0xfef8); AT32(revision, 0xfefc); AT32(io_restart, 0xff00); AT32(halt_restart, 0xff02);
AT32(cr4, 0xff14); AT32(int_shadow, 0xff1a); AT32(ds, 0xff2c); AT32(idtr, 0xff50); AT32(tr, 0xff5c);
AT32(gdtr, 0xff6c); AT32(ldt, 0xff78); AT32(es, 0xff84); AT32(ss, 0xff9c);
AT32(es_sel, 0xffa8);
AT32(ldt_sel, 0xffc0);
AT32(tr_sel, 0xffc4);
AT32(dr7, 0xffc8);
AT32(dr6, 0xffcc);
AT32(regs, 0xffd0); AT32(eip, 0xfff0); AT32(eflags, 0xfff4); AT32(cr3, 0xfff8); AT32(cr0, 0xfffc);
static_assert(sizeof(struct smram32) == SMRAM_SIZE);

union smram {
	struct smram64 s64;
	struct smram32 s32;
};

/* The state of a vCPU that the state-save area holds in either layout. */
struct smm_state {
	struct kvm_sregs sregs;
	struct kvm_debugregs debug;
	u64 regs[16], rip, rflags;
	u64 io_rip, io_rcx, io_rsi, io_rdi;
	u32 io_dword, smbase;
	u8 io_restart, halt_restart, shadow;
};

/* ---- the two layouts: one list of fields each, for both directions ---- */

#define MOVE(area, reg) do { if (save) (area) = (reg); else (reg) = (area); } while (0)

/* A segment's attributes as in the upper half of its descriptor. */
static void move_flags(u32 *flags, struct kvm_segment *s, bool save)
{
	if (save) {
		*flags = s->type << 8 | s->s << 12 | s->dpl << 13 | s->present << 15 |
			 s->avl << 20 | s->l << 21 | s->db << 22 | s->g << 23;
		return;
	}
	s->type = *flags >> 8 & 15;
	s->s = *flags >> 12 & 1;
	s->dpl = *flags >> 13 & 3;
	s->present = *flags >> 15 & 1;
	s->avl = *flags >> 20 & 1;
	s->l = *flags >> 21 & 1;
	s->db = *flags >> 22 & 1;
	s->g = *flags >> 23 & 1;
	s->unusable = !s->present;
}

static void move_seg64(struct smram_seg64 *a, struct kvm_segment *s, bool save)
{
	u32 flags = (u32)a->attributes << 8;

	move_flags(&flags, s, save);
	a->attributes = flags >> 8;
	MOVE(a->selector, s->selector);
	MOVE(a->limit, s->limit);
	MOVE(a->base, s->base);
}

#define MOVE_SEGMENT64(name, field) move_seg64(&a->field, &s->field, save);

static void move64(struct smram64 *a, struct smm_state *st, bool save)
{
	struct kvm_sregs *s = &st->sregs;
	int i;

	MKVM_SEGMENTS(MOVE_SEGMENT64)
	MOVE(a->gdtr.limit, s->gdt.limit);
	MOVE(a->gdtr.base, s->gdt.base);
	MOVE(a->idtr.limit, s->idt.limit);
	MOVE(a->idtr.base, s->idt.base);
	MOVE(a->efer, s->efer);
	MOVE(a->cr4, s->cr4);
	MOVE(a->cr3, s->cr3);
	MOVE(a->cr0, s->cr0);
	MOVE(a->dr7, st->debug.dr7);
	MOVE(a->dr6, st->debug.dr6);
	MOVE(a->rflags, st->rflags);
	MOVE(a->rip, st->rip);
	for (i = 0; i < 16; i++)
		MOVE(a->regs[15 - i], st->regs[i]);
	MOVE(a->io_rip, st->io_rip);
	MOVE(a->io_rcx, st->io_rcx);
	MOVE(a->io_rsi, st->io_rsi);
	MOVE(a->io_rdi, st->io_rdi);
	MOVE(a->io_dword, st->io_dword);
	MOVE(a->io_restart, st->io_restart);
	MOVE(a->halt_restart, st->halt_restart);
	MOVE(a->int_shadow, st->shadow);
	MOVE(a->smbase, st->smbase);
}

static void move_seg32(struct smram_seg32 *a, u32 *selector, struct kvm_segment *s, bool save)
{
	u32 flags = a->flags & ~BIT(21);	/* no L without long mode */

	move_flags(&flags, s, save);
	a->flags = flags;
	MOVE(*selector, s->selector);
	MOVE(a->limit, s->limit);
	MOVE(a->base, s->base);
}

#define MOVE_SEGMENT32(name, field) move_seg32(&a->field, &a->field##_sel, &s->field, save);

/* EFER and R8 to R15 are not in this layout: RSM leaves them alone. */
static void move32(struct smram32 *a, struct smm_state *st, bool save)
{
	struct kvm_sregs *s = &st->sregs;
	int i;

	MKVM_SEGMENTS(MOVE_SEGMENT32)
	MOVE(a->gdtr.limit, s->gdt.limit);
	MOVE(a->gdtr.base, s->gdt.base);
	MOVE(a->idtr.limit, s->idt.limit);
	MOVE(a->idtr.base, s->idt.base);
	MOVE(a->cr4, s->cr4);
	MOVE(a->cr3, s->cr3);
	MOVE(a->cr0, s->cr0);
	MOVE(a->dr7, st->debug.dr7);
	MOVE(a->dr6, st->debug.dr6);
	MOVE(a->eflags, st->rflags);
	MOVE(a->eip, st->rip);
	for (i = 0; i < 8; i++)
		MOVE(a->regs[i], st->regs[i]);
	MOVE(a->io_eip, st->io_rip);
	MOVE(a->io_ecx, st->io_rcx);
	MOVE(a->io_esi, st->io_rsi);
	MOVE(a->io_edi, st->io_rdi);
	MOVE(a->io_dword, st->io_dword);
	MOVE(a->io_restart, st->io_restart);
	MOVE(a->halt_restart, st->halt_restart);
	MOVE(a->int_shadow, st->shadow);
	MOVE(a->smbase, st->smbase);
}

/* Whether the guest's CPUID offers long mode, so that AMD64's layout is used. */
static bool long_mode_offered(struct mkvm_vcpu *vcpu)
{
	return !(vcpu->guest_cpuid.efer_reserved & EFER_LME);
}

static void save_state(struct mkvm_vcpu *vcpu, union smram *area, struct smm_state *st)
{
	memset(area, 0, sizeof(*area));
	if (long_mode_offered(vcpu)) {
		move64(&area->s64, st, true);
		area->s64.revision = SMM_REVISION_64;
	} else {
		move32(&area->s32, st, true);
		area->s32.revision = SMM_REVISION;
	}
}

/* ---- SMI and RSM ---- */

/*
 * Copies the state-save area, which may cross pages. Return: 0; -ENOENT if the guest has no memory
 * there; -EFAULT if the host has none behind it; -EAGAIN if the host has it by now, or a signal
 * tells userspace that it has failed.
 */
static int smram_copy(struct mkvm_vcpu *vcpu, void *area, bool write)
{
	u32 gpa = vcpu->smm.base + SMRAM_OFFSET, n, done;
	int idx = srcu_read_lock(&vcpu->vm->srcu), r = 0;
	void __user *p;

	for (done = 0; done < SMRAM_SIZE && !r; done += n, gpa += n) {
		n = min_t(u32, SMRAM_SIZE - done, PAGE_SIZE - (gpa & ~PAGE_MASK));
		p = mkvm_gpa_to_user(vcpu, gpa, write);
		if (!p)
			r = -ENOENT;
		else if (write ? copy_to_user(p, area + done, n) :
				 copy_from_user(area + done, p, n))
			r = mkvm_host_page_missing(p, write) < 0 ? -EFAULT : -EAGAIN;
		else if (write)
			mkvm_mark_dirty(vcpu, gpa);
	}
	srcu_read_unlock(&vcpu->vm->srcu, idx);
	return r;
}

/*
 * mkvm_smm_set - put the vCPU into SMM, or take it out
 *
 * Only the memory that it sees changes. Context: own thread.
 */
void mkvm_smm_set(struct mkvm_vcpu *vcpu, bool smm)
{
	vcpu->smm.active = smm;
	vcpu->slot_cache.generation = 0;
	mkvm_hw->set_tdp_root(vcpu, vcpu->vm->tdp[smm].root_pa);
	mkvm_pending_set(vcpu, MKVM_PEND_EVENT);	/* other pending events are held back now */
}

static void collect(struct mkvm_vcpu *vcpu, struct smm_state *st, u32 io)
{
	*st = (struct smm_state) {
		.rip = vcpu->rip, .rflags = vcpu->rflags, .smbase = vcpu->smm.base,
		.shadow = mkvm_hw->get_shadow(vcpu),
		.halt_restart = vcpu->mp_state == KVM_MP_STATE_HALTED, .io_dword = io,
	};
	memcpy(st->regs, vcpu->regs, sizeof(st->regs));
	mkvm_sregs_get(vcpu, &st->sregs);
	mkvm_debugregs_get(vcpu, &st->debug);
	if (!io)
		return;
	st->io_rip = vcpu->insn.io_rip;
	st->io_rcx = vcpu->regs[MKVM_RCX];
	st->io_rsi = vcpu->regs[MKVM_RSI];
	st->io_rdi = vcpu->regs[MKVM_RDI];
}

/*
 * Sets the state in which the handler begins: AMD APM vol. 2, "SMM Execution Environment". Without
 * long mode EFER stays.
 */
static void set_entry_state(struct mkvm_vcpu *vcpu, struct kvm_sregs *s)
{
	const struct kvm_segment flat = { .limit = ~0u, .type = 3, .s = 1, .present = 1, .g = 1 };

	s->cr0 &= ~(u64)(X86_CR0_PE | X86_CR0_EM | X86_CR0_TS | X86_CR0_PG);
	s->cr4 = 0;
	s->efer = long_mode_offered(vcpu) ? 0 : s->efer & ~(u64)(EFER_LME | EFER_LMA);
	memset(&s->idt, 0, sizeof(s->idt));
	s->ds = flat;
	s->es = flat;
	s->fs = flat;
	s->gs = flat;
	s->ss = flat;
	s->cs = flat;
	s->cs.selector = vcpu->smm.base >> 4;
	s->cs.base = vcpu->smm.base;
	s->cs.type = 0xb;
	if (mkvm_sregs_set(vcpu, s))
		vcpu->ev.triple_fault = true;	/* its state was one that no CPU can be in */
	mkvm_hw->set_dr(vcpu, 7, MKVM_DR7_FIXED);
	mkvm_hw->set_shadow(vcpu, 0);
	vcpu->rip = SMM_ENTRY;
	vcpu->rflags = X86_EFLAGS_FIXED;
	mkvm_wake(vcpu, "SMI");
}

/*
 * mkvm_accept_smi - take a pending SMI if this is an instruction boundary at which it can be taken
 * @io: MKVM_SMM_IO_* of the I/O instruction at vcpu->insn.io_rip that has just ended, or 0
 *
 * Otherwise it stays pending: in SMM until RSM, during the delivery of an event until that is
 * complete, and in wait-for-SIPI until the SIPI. A pending INIT is taken first (AMD APM vol. 2,
 * "Priorities"). Only taking it or KVM_SET_VCPU_EVENTS removes a pending SMI: firmware sends an SMI
 * to a processor that it then starts by INIT and SIPI.
 *
 * A vCPU without memory for its saved state shuts down. If it is the host that has no memory, the
 * SMI stays pending; when it is taken later, the handler hears nothing of the I/O instruction.
 * Context: own thread, may sleep. Return: 0 or -EFAULT.
 */
int mkvm_accept_smi(struct mkvm_vcpu *vcpu, u32 io)
{
	union smram area;
	struct smm_state st;
	int r;

	if (vcpu->smm.active || vcpu->ev.delivering.type != MKVM_EV_NONE ||
	    vcpu->ev.raised.type != MKVM_EV_NONE ||
	    (READ_ONCE(vcpu->pending) & BIT(MKVM_PEND_INIT)) ||
	    (vcpu->mp_state != KVM_MP_STATE_RUNNABLE && vcpu->mp_state != KVM_MP_STATE_HALTED))
		return 0;
	collect(vcpu, &st, io);
	save_state(vcpu, &area, &st);
	mkvm_smm_set(vcpu, true);
	r = smram_copy(vcpu, &area, true);
	if (r && r != -ENOENT) {
		mkvm_smm_set(vcpu, false);
		return r == -EAGAIN ? 0 : r;
	}
	mkvm_pending_take_smi(vcpu);
	trace_smm_enter(vcpu, "", vcpu->smm.base, vcpu->ids.smi, 0, 0);
	vcpu->msr.smi_count++;
	if (r) {
		vcpu->ev.triple_fault = true;
		return 0;
	}
	vcpu->smm.inside_nmi = mkvm_hw->nmi_masked(vcpu);
	mkvm_hw->set_nmi_masked(vcpu, true);
	set_entry_state(vcpu, &st.sregs);
	return 0;
}

/*
 * Loads the state that RSM has read, after checking all of it. Return: -EINVAL; nothing has changed
 * then.
 */
static int load_state(struct mkvm_vcpu *vcpu, const struct smm_state *st)
{
	/* CS.L and CS.D together are reserved, and so is virtual-8086 mode in long mode. */
	if ((st->sregs.efer & EFER_LMA) &&
	    ((st->sregs.cs.l && st->sregs.cs.db) || (st->rflags & X86_EFLAGS_VM)))
		return -EINVAL;
	if ((st->debug.dr6 | st->debug.dr7) >> 32 || mkvm_sregs_set(vcpu, &st->sregs))
		return -EINVAL;
	mkvm_debugregs_set(vcpu, &st->debug);
	memcpy(vcpu->regs, st->regs, sizeof(st->regs));
	vcpu->rip = st->rip;
	vcpu->rflags = (st->rflags & SMM_RFLAGS) | X86_EFLAGS_FIXED;
	return 0;
}

/*
 * mkvm_handle_rsm - handle the guest's RSM
 *
 * AMD APM vol. 2, "Leaving SMM"; vol. 3, "RSM". RSM is #UD outside of SMM. The vCPU shuts down,
 * still in SMM, if the saved state is impossible or the guest has no memory there. Own thread.
 * Return: as handle_exit; -EFAULT if the host has no memory behind the state: RSM may be tried
 * again.
 */
int mkvm_handle_rsm(struct mkvm_vcpu *vcpu)
{
	union smram area;
	struct smm_state st;
	int r;

	if (!vcpu->smm.active) {
		mkvm_queue_exception(vcpu, X86_TRAP_UD, false, 0);
		return 1;
	}
	mkvm_accept_init_sipi(vcpu);	/* the last moment at which a SIPI is dropped */
	collect(vcpu, &st, 0);		/* what the area does not hold stays as it is */
	r = smram_copy(vcpu, &area, false);
	if (r && r != -ENOENT)
		return r == -EAGAIN ? 1 : r;
	vcpu->ev.triple_fault = true;
	if (r)
		return 1;
	if (long_mode_offered(vcpu))
		move64(&area.s64, &st, false);
	else
		move32(&area.s32, &st, false);
	if (load_state(vcpu, &st))
		return 1;
	vcpu->ev.triple_fault = false;
	if (st.io_restart == 0xff && (st.io_dword & MKVM_SMM_IO_VALID)) {
		vcpu->rip = st.io_rip;
		vcpu->regs[MKVM_RCX] = st.io_rcx;
		vcpu->regs[MKVM_RSI] = st.io_rsi;
		vcpu->regs[MKVM_RDI] = st.io_rdi;
	}
	vcpu->smm.base = st.smbase;
	mkvm_hw->set_shadow(vcpu, st.shadow & (KVM_X86_SHADOW_INT_MOV_SS | KVM_X86_SHADOW_INT_STI));
	mkvm_hw->set_nmi_masked(vcpu, vcpu->smm.inside_nmi);
	vcpu->smm.inside_nmi = false;
	trace_smm_leave(vcpu, "", vcpu->smm.base, vcpu->ids.smi, 0, 0);
	mkvm_smm_set(vcpu, false);
	return st.halt_restart ? mkvm_halt(vcpu) : 1;
}
