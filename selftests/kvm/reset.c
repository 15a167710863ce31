// SPDX-License-Identifier: GPL-2.0
/*
 * What KVM_CREATE_VCPU and INIT leave of a vCPU, and that SIPI and KVM_SET_MP_STATE leave
 * all but CS, RIP and mp_state: a row for each row of the table at mkvm_vcpu_reset
 * (kmod/cpu/mp_state.c) that an ioctl can show.
 *
 * Read next: initsipi.c, smm.c.
 */
#include <stddef.h>
#include <string.h>

#include "vm.h"

#define MSR_SMBASE 0x9e
#define MSR_TSC_ADJUST 0x3b
#define MSR_MISC_FEATURES 0x140
#define MSR_MCG_STATUS 0x17a
#define MSR_MISC_ENABLE 0x1a0
#define MSR_TSC_AUX 0xc0000103
#define ID 0x21u			/* the AP's APIC id, which the guest has changed */
#define SIPI_PAGE 0x9u
#define SIGNATURE ~0ull			/* what CPUID 1 has in EAX */

struct row {
	const char *name;
	u64 (*get)(struct vcpu *vcpu, u32 arg);
	void (*set)(struct vcpu *vcpu, u32 arg, u64 value);	/* NULL: long mode's is another */
	u32 arg;
	u64 created, dirty;
	enum { CREATED, KEPT, INIT_HAS } after_init;
	u64 init;
	const char *linux_differs;
};

/* --- Ways to the state --- */

static u64 get_reg(struct vcpu *vcpu, u32 offset)
{
	struct kvm_regs regs;

	vcpu_get_regs(vcpu, &regs);
	return *(u64 *)((u8 *)&regs + offset);
}

static void set_reg(struct vcpu *vcpu, u32 offset, u64 value)
{
	struct kvm_regs regs;

	vcpu_get_regs(vcpu, &regs);
	*(u64 *)((u8 *)&regs + offset) = value;
	vcpu_set_regs(vcpu, &regs);
}

static u64 get_sreg(struct vcpu *vcpu, u32 offset)
{
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	return *(u64 *)((u8 *)&sregs + offset);
}

static void set_sreg(struct vcpu *vcpu, u32 offset, u64 value)
{
	struct kvm_sregs sregs;

	vcpu_get_sregs(vcpu, &sregs);
	*(u64 *)((u8 *)&sregs + offset) = value;
	vcpu_set_sregs(vcpu, &sregs);
}

static u64 get_limit(struct vcpu *vcpu, u32 offset)
{
	return (u16)get_sreg(vcpu, offset + offsetof(struct kvm_dtable, limit));
}

static void set_limit(struct vcpu *vcpu, u32 offset, u64 value)
{
	set_sreg(vcpu, offset + offsetof(struct kvm_dtable, limit), value);
}

/* A segment but for its base and its type: selector, limit, S; and it is present. */
#define SEG(selector, limit, s) ((selector) | (u64)(limit) << 16 | (u64)(s) << 52 | 1ull << 56)

static u64 get_segment(struct vcpu *vcpu, u32 offset)
{
	struct kvm_sregs sregs;
	struct kvm_segment *seg = (void *)((u8 *)&sregs + offset);

	vcpu_get_sregs(vcpu, &sregs);
	/* The types differ between CPUs and emulators: accessed or not, a TSS of 16 or 32 bits. */
	return seg->selector | (u64)seg->limit << 16 | (u64)seg->s << 52 | (u64)seg->present << 56;
}

static void set_segment_base(struct vcpu *vcpu, u32 offset, u64 value)
{
	set_sreg(vcpu, offset + offsetof(struct kvm_segment, base), value);
}

static u64 get_segment_base(struct vcpu *vcpu, u32 offset)
{
	return get_sreg(vcpu, offset + offsetof(struct kvm_segment, base));
}

static u64 get_dr(struct vcpu *vcpu, u32 offset)
{
	struct kvm_debugregs regs;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	return *(u64 *)((u8 *)&regs + offset);
}

static void set_dr(struct vcpu *vcpu, u32 offset, u64 value)
{
	struct kvm_debugregs regs;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_DEBUGREGS, &regs));
	*(u64 *)((u8 *)&regs + offset) = value;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_DEBUGREGS, &regs));
}

static u64 get_xcr0(struct vcpu *vcpu, u32 arg)
{
	struct kvm_xcrs xcrs;

	(void)arg;
	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_XCRS, &xcrs));
	return xcrs.xcrs[0].value;
}

static void set_xcr0(struct vcpu *vcpu, u32 arg, u64 value)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };

	(void)arg;
	xcrs.xcrs[0].value = value;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_XCRS, &xcrs));
}

enum { FCW, FTW, ST0, XMM5, MXCSR };

static u64 get_fpu(struct vcpu *vcpu, u32 what)
{
	struct kvm_fpu fpu;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_FPU, &fpu));
	switch (what) {
	case FCW:
		return fpu.fcw;
	case FTW:
		return fpu.ftwx;
	case ST0:
		return *(u64 *)fpu.fpr[0];
	case XMM5:
		return *(u64 *)fpu.xmm[5];
	default:
		return fpu.mxcsr;
	}
}

static void set_fpu(struct vcpu *vcpu, u32 what, u64 value)
{
	struct kvm_fpu fpu;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_FPU, &fpu));
	if (what == FCW)
		fpu.fcw = value;
	else if (what == FTW)
		fpu.ftwx = value;
	else if (what == MXCSR)
		fpu.mxcsr = value;
	else
		memcpy(what == ST0 ? fpu.fpr[0] : fpu.xmm[5], &value, sizeof(value));
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_FPU, &fpu));
}

static void set_msr(struct vcpu *vcpu, u32 index, u64 value)
{
	ASSERT_EQ(1, vcpu_set_msr(vcpu, index, value));
}

/* It goes on: only what is far above. */
static u64 get_tsc(struct vcpu *vcpu, u32 arg)
{
	(void)arg;
	return vcpu_get_msr(vcpu, MSR_TSC) >> 48;
}

static void set_tsc(struct vcpu *vcpu, u32 arg, u64 value)
{
	(void)arg;
	set_msr(vcpu, MSR_TSC, value << 48);
}

static u64 get_lapic(struct vcpu *vcpu, u32 reg)
{
	return vcpu_lapic(vcpu, reg);
}

static void set_lapic(struct vcpu *vcpu, u32 reg, u64 value)
{
	struct kvm_lapic_state lapic;

	ASSERT_OK(ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic));
	memcpy(lapic.regs + reg, &value, sizeof(u32));
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic));
}

#define EVENT(field) offsetof(struct kvm_vcpu_events, field)

static u64 get_event(struct vcpu *vcpu, u32 offset)
{
	struct kvm_vcpu_events events;

	vcpu_get_events(vcpu, &events);
	return *((u8 *)&events + offset);
}

static void set_event(struct vcpu *vcpu, u32 offset, u64 value)
{
	struct kvm_vcpu_events events;

	vcpu_get_events(vcpu, &events);
	*((u8 *)&events + offset) = value;
	events.interrupt.nr = 0x55;
	events.exception.nr = VEC_GP;
	events.flags |= KVM_VCPUEVENT_VALID_SMM | KVM_VCPUEVENT_VALID_SHADOW |
			KVM_VCPUEVENT_VALID_NMI_PENDING;
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_VCPU_EVENTS, &events));
}

static u64 get_mp_state(struct vcpu *vcpu, u32 arg)
{
	(void)arg;
	return vcpu_mp_state(vcpu);
}

/* --- The table --- */

#define REG(name) #name, get_reg, set_reg, offsetof(struct kvm_regs, name)
#define SREG(name) #name, get_sreg, set_sreg, offsetof(struct kvm_sregs, name)
#define LONG_SREG(name) #name, get_sreg, NULL, offsetof(struct kvm_sregs, name)
#define SEGMENT(name) #name, get_segment, NULL, offsetof(struct kvm_sregs, name)
#define BASE(name) \
#name " base", get_segment_base, set_segment_base, offsetof(struct kvm_sregs, name)
#define LIMIT(name) #name " limit", get_limit, set_limit, offsetof(struct kvm_sregs, name)
#define DR(name) #name, get_dr, set_dr, offsetof(struct kvm_debugregs, name)
#define MSR(name, index) name, vcpu_get_msr, set_msr, index
#define LAPIC(name, reg) "LAPIC's " name, get_lapic, set_lapic, reg
#define NONE 0, NULL

static const struct row rows[] = {
	{ REG(rax), 0, 0x1111, CREATED, NONE },
	{ REG(rbx), 0, 0x2222, CREATED, NONE },
	{ REG(rcx), 0, 0x3333, CREATED, NONE },
	{ REG(rdx), 0x600, 0x4444, INIT_HAS, SIGNATURE, NULL },
	{ REG(rsi), 0, 0x5555, CREATED, NONE },
	{ REG(rdi), 0, 0x6666, CREATED, NONE },
	{ REG(rsp), 0, 0x7777, CREATED, NONE },
	{ REG(rbp), 0, 0x8888, CREATED, NONE },
	{ REG(r8), 0, 0x99990000, CREATED, NONE },
	{ REG(r15), 0, 1ull << 63, CREATED, NONE },
	{ REG(rip), 0xfff0, 0x123456789, CREATED, NONE },
	{ REG(rflags), RFLAGS_FIXED, RFLAGS_FIXED | RFLAGS_IF | RFLAGS_DF | 0x40ad5, CREATED,
	  NONE },
	{ SEGMENT(cs), SEG(0xf000, 0xffff, 1), 0, CREATED, NONE },
	{ BASE(cs), 0xffff0000, 0x1000, CREATED, NONE },
	{ SEGMENT(ds), SEG(0, 0xffff, 1), 0, CREATED, NONE },
	{ SEGMENT(es), SEG(0, 0xffff, 1), 0, CREATED, NONE },
	{ SEGMENT(ss), SEG(0, 0xffff, 1), 0, CREATED, NONE },
	{ SEGMENT(fs), SEG(0, 0xffff, 1), 0, CREATED, NONE },
	{ BASE(fs), 0, 0x7fff00000000, CREATED, NONE },
	{ BASE(gs), 0, 0x7ffe00000000, CREATED, NONE },
	{ SEGMENT(tr), SEG(0, 0xffff, 0), 0, CREATED, NONE },
	{ BASE(tr), 0, 0x5000, CREATED, NONE },
	{ BASE(ldt), 0, 0x6000, CREATED, NONE },
	{ SREG(gdt.base), 0, 0x7000, CREATED, NONE },
	{ LIMIT(gdt), 0xffff, 0x77, CREATED, NONE },
	{ SREG(idt.base), 0, 0x8000, CREATED, NONE },
	{ LIMIT(idt), 0xffff, 0x88, CREATED, NONE },
	/* CD and NW stay. */
	{ SREG(cr0), CR0_ET | CR0_CD | CR0_NW, CR0_PG | CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_CD,
	  INIT_HAS, CR0_ET | CR0_CD, NULL },
	{ SREG(cr2), 0, 0x1234, CREATED, NONE },
	{ LONG_SREG(cr3), 0, 0, CREATED, NONE },
	{ LONG_SREG(cr4), 0, 0, CREATED, NONE },
	{ SREG(cr8), 0, 5, CREATED, NONE },
	{ LONG_SREG(efer), 0, 0, CREATED, NONE },
	{ DR(db[0]), 0, 0x1000, CREATED, NONE },
	{ DR(db[3]), 0, 0x4000, CREATED, NONE },
	{ DR(dr6), 0xffff0ff0, 0xffff4ff0, CREATED, NONE },
	{ DR(dr7), 0x400, 0x402, CREATED, NONE },
	{ "XCR0", get_xcr0, set_xcr0, 0, 1, 3, KEPT, NONE },
	{ "FCW", get_fpu, set_fpu, FCW, 0x37f, 0x27f, KEPT, NONE },
	{ "FTW", get_fpu, set_fpu, FTW, 0, 0x80, KEPT, NONE },
	{ "ST0", get_fpu, set_fpu, ST0, 0, 0x12345, KEPT, NONE },
	{ "XMM5", get_fpu, set_fpu, XMM5, 0, 0xabcdef, KEPT, NONE },
	{ "MXCSR", get_fpu, set_fpu, MXCSR, 0x1f80, 0x1fa0, KEPT, 0,
	  "it shows 0 until there is another" },
	{ "TSC", get_tsc, set_tsc, 0, 0, 4, KEPT, NONE },
	{ MSR("TSC_ADJUST", MSR_TSC_ADJUST), 0, 0x1000, KEPT, NONE },
	{ MSR("TSC_AUX", MSR_TSC_AUX), 0, 7, KEPT, NONE },
	{ MSR("PAT", MSR_PAT), 0x0007040600070406, 0x0007010600070106, KEPT, NONE },
	{ MSR("MTRRdefType", 0x2ff), 0, 0xc06, KEPT, NONE },
	{ MSR("MTRRfix64K", 0x250), 0, 0x0606060606060606, KEPT, NONE },
	{ MSR("MTRRphysBase0", 0x200), 0, 0x80000006, KEPT, NONE },
	{ MSR("MTRRphysMask0", 0x201), 0, 0x80000800, KEPT, NONE },
	{ MSR("SYSENTER_CS", 0x174), 0, 0x10, KEPT, NONE },
	{ MSR("SYSENTER_ESP", 0x175), 0, 0x2000, KEPT, NONE },
	{ MSR("SYSENTER_EIP", 0x176), 0, 0x3000, KEPT, NONE },
	{ MSR("STAR", MSR_STAR), 0, 0x1234, KEPT, NONE },
	{ MSR("LSTAR", 0xc0000082), 0, 0x4000, KEPT, NONE },
	{ MSR("CSTAR", 0xc0000083), 0, 0x5000, KEPT, NONE },
	{ MSR("SFMASK", 0xc0000084), 0, 0x200, KEPT, NONE },
	{ MSR("KERNEL_GS_BASE", MSR_KERNEL_GS_BASE), 0, 0x5678, KEPT, NONE },
	{ MSR("MISC_FEATURES", MSR_MISC_FEATURES), 0, 1, KEPT, NONE },
	{ MSR("MCG_STATUS", MSR_MCG_STATUS), 0, 5, KEPT, NONE },
	{ MSR("MC0_STATUS", MSR_MC0_STATUS), 0, 0x1234, KEPT, NONE },
	{ MSR("HWCR", MSR_HWCR), 0, 1 << 18, KEPT, NONE },
	{ MSR("SMBASE", MSR_SMBASE), 0x30000, 0x28000, KEPT, NONE },
	{ SREG(apic_base), APIC_BASE | APICBASE_ENABLE, 0xd0000000 | APICBASE_ENABLE, KEPT, NONE },
	{ LAPIC("id", APIC_ID), 1 << 24, ID << 24, KEPT, NONE },
	{ LAPIC("SPIV", APIC_SPIV), 0xff, 0x1f0, CREATED, NONE },
	{ LAPIC("LDR", APIC_LDR), 0, 0x44000000, CREATED, NONE },
	{ LAPIC("DFR", APIC_DFR), 0xffffffff, 0x0fffffff, CREATED, NONE },
	{ LAPIC("LVT0", APIC_LVT0), LVT_MASKED, LVT_NMI, CREATED, NONE },
	{ LAPIC("LVT1", APIC_LVT1), LVT_MASKED, LVT_NMI, CREATED, NONE },
	{ LAPIC("LVTT", APIC_LVTT), LVT_MASKED, LVT_MASKED | LVT_DEADLINE | 0x44, CREATED, NONE },
	{ LAPIC("LVTERR", APIC_LVTERR), LVT_MASKED, 0x45, CREATED, NONE },
	{ LAPIC("ISR", APIC_ISR + 0x20), 0, 0x10, CREATED, NONE },
	{ LAPIC("IRR", APIC_IRR + 0x30), 0, 0x20, CREATED, NONE },
	{ LAPIC("TMR", APIC_TMR + 0x20), 0, 0x10, CREATED, NONE },
	{ LAPIC("ICR", APIC_ICR), 0, ICR_SELF | 0x46, CREATED, NONE },
	{ LAPIC("TDCR", APIC_TDCR), 0, 0xb, CREATED, NONE },
	{ MSR("TSC_DEADLINE", MSR_TSC_DEADLINE), 0, 1ull << 62, CREATED, NONE },
	{ "exception raised", get_event, set_event, EVENT(exception.injected), 0, 1, CREATED,
	  NONE },
	{ "interrupt in delivery", get_event, set_event, EVENT(interrupt.injected), 0, 1, CREATED,
	  NONE },
	{ "interrupt shadow", get_event, set_event, EVENT(interrupt.shadow), 0,
	  KVM_X86_SHADOW_INT_STI, CREATED, 0, "on AMD it keeps the shadow" },
	{ "NMI pending", get_event, set_event, EVENT(nmi.pending), 0, 1, CREATED, NONE },
	{ "NMIs masked", get_event, set_event, EVENT(nmi.masked), 0, 1, CREATED, NONE },
	{ "SMI pending", get_event, set_event, EVENT(smi.pending), 0, 1, KEPT, 0,
	  "it drops an SMI that userspace has seen" },
	{ "triple fault", get_event, set_event, EVENT(triple_fault.pending), 0, 1, CREATED, 0,
	  "it keeps that request" },
	{ "mp_state", get_mp_state, NULL, 0, KVM_MP_STATE_UNINITIALIZED, 0, INIT_HAS,
	  KVM_MP_STATE_INIT_RECEIVED, NULL },
};

#define NR_ROWS (sizeof(rows) / sizeof(rows[0]))

/* The AP of two vCPUs, as KVM_CREATE_VCPU left it. */
static struct vcpu *create_ap(void)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	u64 cap = 10;
	struct vcpu *ap;

	NEED_CAP(KVM_CAP_X86_SMM);
	NEED_CAP(KVM_CAP_X86_TRIPLE_FAULT_EVENT);
	ASSERT_OK(vm_enable_cap(vm->fd, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1));
	vcpu_create(vm, 0);
	ap = vcpu_create(vm, 1);
	ASSERT_OK(ioctl(ap->fd, KVM_X86_SETUP_MCE, &cap));
	return ap;
}

static void never_run(u64 arg)
{
	(void)arg;
}

static void make_dirty(struct vcpu *ap)
{
	vcpu_set_guest(ap, never_run, 0);
	for (u32 i = 0; i < NR_ROWS; i++) {
		ktap_about("%s", rows[i].name);
		if (rows[i].set)
			rows[i].set(ap, rows[i].arg, rows[i].dirty);
	}
}

static void look(struct vcpu *vcpu, u64 state[NR_ROWS])
{
	for (u32 i = 0; i < NR_ROWS; i++) {
		ktap_about("%s", rows[i].name);
		state[i] = rows[i].get(vcpu, rows[i].arg);
	}
}

static void send(struct vcpu *ap, u32 message)
{
	ASSERT_LE(0, vm_msi(ap->vm, MSI_ADDR(ID), message));
}

static bool skipped(const struct row *row)
{
	if (!is_linux_kvm() || !row->linux_differs)
		return false;
	ktap_note("%s: not looked at on Linux KVM: %s", row->name, row->linux_differs);
	return true;
}

/* The processor signature, for RDX. */
static u64 signature(void)
{
	struct cpuid_list list;

	default_cpuid(&list, 1);
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 1)
			return list.entries[i].eax;
	return 0;
}

static u64 wanted_after_init(const struct row *row, u64 before)
{
	if (row->after_init == KEPT)
		return before;
	if (row->after_init == CREATED)
		return row->created;
	return row->init == SIGNATURE ? signature() : row->init;
}

/* --- The tests --- */

TEST(a_vcpu_is_created_in_the_state_of_the_table)
{
	struct vcpu *ap = create_ap();
	u64 state[NR_ROWS];

	look(ap, state);
	for (u32 i = 0; i < NR_ROWS; i++) {
		ktap_about("%s", rows[i].name);
		if (!skipped(&rows[i]))
			EXPECT_EQ(rows[i].created, state[i]);
	}
}

TEST(init_resets_and_keeps_what_the_table_says)
{
	struct vcpu *ap = create_ap();
	u64 before[NR_ROWS], after[NR_ROWS];

	make_dirty(ap);
	look(ap, before);
	send(ap, ICR_INIT);
	ASSERT_EQ(KVM_MP_STATE_INIT_RECEIVED, vcpu_mp_state(ap));
	look(ap, after);
	for (u32 i = 0; i < NR_ROWS; i++) {
		ktap_about("%s", rows[i].name);
		EXPECT_NE(rows[i].created, before[i]);		/* else the row shows nothing */
		if (!skipped(&rows[i]))
			EXPECT_EQ(wanted_after_init(&rows[i], before[i]), after[i]);
	}
}

static bool is_row(u32 i, const char *name)
{
	return !strcmp(rows[i].name, name);
}

TEST(a_sipi_sets_cs_rip_and_mp_state_alone)
{
	struct vcpu *ap = create_ap();
	u64 before[NR_ROWS], after[NR_ROWS];

	make_dirty(ap);
	/* In wait-for-SIPI with all that INIT resets dirty as well. */
	if (is_linux_kvm())
		set_event(ap, EVENT(smi.pending), 0);		/* it refuses the state else */
	vcpu_set_mp_state(ap, KVM_MP_STATE_INIT_RECEIVED);
	look(ap, before);
	send(ap, ICR_STARTUP | SIPI_PAGE);
	ASSERT_EQ(KVM_MP_STATE_RUNNABLE, vcpu_mp_state(ap));
	look(ap, after);
	for (u32 i = 0; i < NR_ROWS; i++) {
		ktap_about("%s", rows[i].name);
		if (is_row(i, "rip"))
			EXPECT_EQ(0, after[i]);
		else if (is_row(i, "cs"))
			EXPECT_EQ(SIPI_PAGE << 8, after[i] & 0xffff);
		else if (is_row(i, "cs base"))
			EXPECT_EQ(SIPI_PAGE << 12, after[i]);
		else if (!is_row(i, "mp_state"))
			EXPECT_EQ(before[i], after[i]);
	}
}

TEST(set_mp_state_changes_nothing_else)
{
	static const u32 states[] = {
		KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED,
		KVM_MP_STATE_RUNNABLE,
	};
	u64 before[NR_ROWS], after[NR_ROWS];
	struct vcpu *ap = create_ap();

	make_dirty(ap);
	if (is_linux_kvm())
		set_event(ap, EVENT(smi.pending), 0);
	look(ap, before);
	for (u32 s = 0; s < 4; s++) {
		vcpu_set_mp_state(ap, states[s]);
		look(ap, after);
		for (u32 i = 0; i < NR_ROWS; i++) {
			ktap_about("mp_state %u, %s", states[s], rows[i].name);
			EXPECT_EQ(is_row(i, "mp_state") ? states[s] : before[i], after[i]);
		}
	}
}
