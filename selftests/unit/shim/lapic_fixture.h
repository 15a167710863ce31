/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lapic_fixture.h - what test_lapic.c and test_ipi.c share: a VM of some
 * vCPUs with LAPICs, and what the LAPIC asks of the rest, recorded.
 *
 * It takes the place of shim/mkvm.h, since a LAPIC sees more of a vCPU than
 * the other controllers do; the names are those of kmod/mkvm.h.
 */
#ifndef SHIM_LAPIC_FIXTURE_H
#define SHIM_LAPIC_FIXTURE_H
#define SHIM_MKVM_H

#include "base.h"
#include "sync.h"
#include "time.h"

#include <linux/kvm.h>

#include "irqchip.h"

#define FIXTURE_VCPUS 260
#define MKVM_MAX_VCPUS FIXTURE_VCPUS

struct mkvm;

struct mkvm_vcpu {
	struct mkvm *vm;
	u32 id;
	int idx;
	struct mkvm_lapic *lapic;
	struct {
		bool x2apic, tsc_deadline;
		u64 gpa_reserved;
	} guest_cpuid;
	/* recorded */
	int eois_reported, last_eoi, tpr_reads, tpr_writes;
	int kicks, nmis, smis, inits, sipis;
	u8 sipi_vector;
	struct {
		s64 offset;
	} tsc;
};

struct mkvm_ioapic {
	bool wants[256];
	int eois;
	u8 last;
};

struct mkvm_pic {
	bool line;
};

struct mkvm {
	struct mkvm_irqchip irqchip;
	bool wants_eoi[256];		/* split: the vectors of userspace's IOAPIC */
	u32 bsp_id;
	int nr_vcpus;
	struct mkvm_vcpu *vcpus[FIXTURE_VCPUS];
};

#define mkvm_for_each_vcpu(i, vcpu, vm) \
	for ((i) = 0; (i) < (vm)->nr_vcpus && ((vcpu) = (vm)->vcpus[i]); (i)++)

/* A test's threads take turns as the owner of a vCPU, where it matters. */
static inline void mkvm_assert_owner(struct mkvm_vcpu *vcpu) { (void)vcpu; }
void mkvm_vcpu_kick_event(struct mkvm_vcpu *vcpu) { __atomic_fetch_add(&vcpu->kicks, 1, __ATOMIC_SEQ_CST); }
void mkvm_vcpu_post_nmi(struct mkvm_vcpu *vcpu) { vcpu->nmis++; }
void mkvm_vcpu_post_smi(struct mkvm_vcpu *vcpu) { vcpu->smis++; }
void mkvm_vcpu_post_init(struct mkvm_vcpu *vcpu) { vcpu->inits++; }
void mkvm_vcpu_post_sipi(struct mkvm_vcpu *vcpu, u8 vector) { vcpu->sipis++; vcpu->sipi_vector = vector; }
u64 mkvm_vcpu_tsc_offset(struct mkvm_vcpu *vcpu) { return vcpu->tsc.offset; }

void mkvm_vcpu_report_eoi(struct mkvm_vcpu *vcpu, u8 vector) { vcpu->eois_reported++; vcpu->last_eoi = vector; }
void mkvm_vcpu_report_tpr(struct mkvm_vcpu *vcpu, bool write) { (*(write ? &vcpu->tpr_writes : &vcpu->tpr_reads))++; }
bool mkvm_routing_wants_eoi(struct mkvm *vm, u8 vector) { return vm->wants_eoi[vector]; }

bool mkvm_pic_line(struct mkvm_pic *pic) { return pic->line; }
bool mkvm_ioapic_wants_eoi(struct mkvm_ioapic *ioapic, u8 vector) { return ioapic->wants[vector]; }
void mkvm_ioapic_eoi(struct mkvm_ioapic *ioapic, u8 vector)
{
	ioapic->eois++;
	ioapic->last = vector;
}

/* what happens just before a bit of @clear_hook_word is cleared, once */
static volatile unsigned long *clear_hook_word;
static void (*clear_hook)(void);

static inline void fixture_before_clear(volatile unsigned long *word)
{
	if (word == clear_hook_word && clear_hook) {
		void (*hook)(void) = clear_hook;

		clear_hook = NULL;
		hook();
	}
}

#define clear_bit(n, p) (fixture_before_clear(p), clear_bit(n, p))

#include "../../../kmod/irqchip/lapic.c"
#include "../../../kmod/irqchip/lapic_timer.c"
#include "../../../kmod/irqchip/ipi.c"

static struct mkvm_ioapic fixture_ioapic;
static struct mkvm_pic fixture_pic;
static struct mkvm fixture_vm;
static struct mkvm_vcpu fixture_vcpus[FIXTURE_VCPUS];

static void fixture_stop(void)
{
	for (int i = 0; i < fixture_vm.nr_vcpus; i++)
		mkvm_lapic_destroy(&fixture_vcpus[i]);
	fixture_vm.nr_vcpus = 0;
}

/* @nr vCPUs, the id of the n-th is @first_id + n * @step; the first one is the BSP. */
static struct mkvm *fixture_start(int nr, u32 first_id, u32 step)
{
	fixture_stop();
	memset(&fixture_ioapic, 0, sizeof(fixture_ioapic));
	memset(&fixture_pic, 0, sizeof(fixture_pic));
	memset(fixture_vcpus, 0, sizeof(fixture_vcpus));
	fixture_vm = (struct mkvm){ .irqchip.pic = &fixture_pic, .irqchip.ioapic = &fixture_ioapic, .bsp_id = first_id };
	tsc_khz = 2000000;
	for (int i = 0; i < nr; i++) {
		struct mkvm_vcpu *vcpu = &fixture_vcpus[i];

		*vcpu = (struct mkvm_vcpu){ .vm = &fixture_vm, .id = first_id + i * step, .idx = i,
					    .guest_cpuid.x2apic = true, .guest_cpuid.tsc_deadline = true };
		if (mkvm_lapic_create(vcpu))
			exit(1);
		fixture_vm.vcpus[i] = vcpu;
		fixture_vm.nr_vcpus++;
	}
	return &fixture_vm;
}

static inline void reg_write(struct mkvm_lapic *apic, u32 reg, u32 val)
{
	mkvm_lapic_mmio_write(apic, reg, 4, &val);
}

static inline u32 reg_read(struct mkvm_lapic *apic, u32 reg)
{
	u32 val = 0xdeadbeef;

	mkvm_lapic_mmio_read(apic, reg, 4, &val);
	return val;
}

static inline bool vector_test(struct mkvm_lapic *apic, u32 reg, u8 vector)
{
	return apic->regs[(reg + (vector >> 5) * 0x10) / 4] >> (vector & 31) & 1;
}

/* as a guest does after reset, every LVT entry but LINT0 still masked */
static inline void sw_enable(struct mkvm_lapic *apic)
{
	apic->x2apic ? (void)mkvm_lapic_msr_write(apic, 0x80f, 0x1ff) : reg_write(apic, APIC_SPIV, 0x1ff);
}

static inline void enter_x2apic(struct mkvm_lapic *apic)
{
	mkvm_lapic_set_base(apic, apic->base | X2APIC_ENABLE, false);
}

static inline int send_fixed(struct mkvm_lapic *apic, u8 vector, bool level)
{
	struct mkvm_irq irq = { .vector = vector, .level = level, .assert = true };

	return mkvm_lapic_accept(apic, &irq);
}

#endif
