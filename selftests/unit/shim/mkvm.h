/* SPDX-License-Identifier: GPL-2.0 */
/*
 * mkvm.h - stand-in for kmod/mkvm.h: the part of a VM and of a vCPU that the
 * interrupt controllers see. The names are those of the real ones. What the
 * controllers call (mkvm_vcpu_kick_event and so on) each test supplies itself.
 */
#ifndef SHIM_MKVM_H
#define SHIM_MKVM_H

#include "base.h"
#include "sync.h"
#include "time.h"

#include <linux/kvm.h>

#include "irqchip.h"

struct mkvm;

struct mkvm_vcpu {
	struct mkvm *vm;
	u32 id;
	int idx;
	struct mkvm_lapic *lapic;
	struct {
		bool x2apic, tsc_deadline;
	} guest_cpuid;
};

/* A test has one thread, which owns every vCPU. */
static inline void mkvm_assert_owner(struct mkvm_vcpu *vcpu) { (void)vcpu; }

#define SHIM_MAX_VCPUS 288

struct mkvm {
	struct mkvm_irqchip irqchip;
	int nr_vcpus;
	struct mkvm_vcpu *vcpus[SHIM_MAX_VCPUS];
};

#define mkvm_for_each_vcpu(i, vcpu, vm) \
	for ((i) = 0; (i) < (vm)->nr_vcpus && ((vcpu) = (vm)->vcpus[i], true); (i)++)

#endif
