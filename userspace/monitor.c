// SPDX-License-Identifier: GPL-2.0
/*
 * Implements --monitor: reads the whole state of every CPU and writes it back,
 * repeatedly while the guest runs, as a VMM does whose user keeps asking for
 * all registers. The CPU's own thread does both, between two calls of KVM_RUN;
 * the other CPUs keep running. State that changes while the CPU is stopped is
 * not written back: its local APIC and its clocks.
 *
 * Owns the list of MSRs. Called by machine.c.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "mkvm-run.h"

#define MAX_MSRS	256
#define MSR_TSC		0x10
#define MSR_TSC_ADJUST	0x3b
#define MSR_TSC_DEADLINE 0x6e0

struct msrs {
	uint32_t nmsrs, pad;		/* as struct kvm_msrs */
	struct kvm_msr_entry entries[MAX_MSRS];
};

struct cpu_state {
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint32_t xsave[1024];		/* as struct kvm_xsave */
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct msrs msrs;
};

static struct {
	uint32_t nmsrs;			/* as struct kvm_msr_list */
	uint32_t indices[MAX_MSRS];
} list;

/* Gets the list of MSRs from the device. */
void monitor_open(int kvm_fd)
{
	list.nmsrs = MAX_MSRS;
	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0)
		fail(2, "%s does not list its MSRs, which --monitor needs: use another --device", opt.device);
}

static bool is_clock(uint32_t index)
{
	return index == MSR_TSC || index == MSR_TSC_ADJUST || index == MSR_TSC_DEADLINE;
}

/* Reads the MSRs, except those that the device lists but its vCPU does not have. */
static void get_msrs(int fd, struct msrs *msrs)
{
	struct msrs one;
	uint32_t i;

	msrs->nmsrs = 0;
	msrs->pad = 0;
	for (i = 0; i < list.nmsrs; i++) {
		one.nmsrs = 1;
		one.pad = 0;
		one.entries[0] = (struct kvm_msr_entry){ .index = list.indices[i] };
		if (ioctl(fd, KVM_GET_MSRS, &one) == 1 && !is_clock(list.indices[i]))
			msrs->entries[msrs->nmsrs++] = one.entries[0];
	}
}

/* Reads and writes back the CPU's state. Returns false with errno if an ioctl fails. */
bool monitor_look(int fd)
{
	struct cpu_state *s = calloc(1, sizeof(*s));
	bool done;

	if (!s)
		return false;
	/* KVM_GET_MP_STATE accepts pending INIT and SIPI, so it comes first. */
	done = ioctl(fd, KVM_GET_MP_STATE, &s->mp_state) >= 0 &&
	       ioctl(fd, KVM_GET_VCPU_EVENTS, &s->events) >= 0 &&
	       ioctl(fd, KVM_GET_REGS, &s->regs) >= 0 && ioctl(fd, KVM_GET_SREGS, &s->sregs) >= 0 &&
	       ioctl(fd, KVM_GET_XSAVE, s->xsave) >= 0 && ioctl(fd, KVM_GET_XCRS, &s->xcrs) >= 0 &&
	       ioctl(fd, KVM_GET_DEBUGREGS, &s->debugregs) >= 0 &&
	       ioctl(fd, KVM_GET_LAPIC, &s->lapic) >= 0;
	if (done)
		get_msrs(fd, &s->msrs);
	/* Meanwhile other CPUs may send events to this one. */
	sched_yield();
	done = done && ioctl(fd, KVM_SET_SREGS, &s->sregs) >= 0 &&
	       ioctl(fd, KVM_SET_REGS, &s->regs) >= 0 && ioctl(fd, KVM_SET_XSAVE, s->xsave) >= 0 &&
	       ioctl(fd, KVM_SET_XCRS, &s->xcrs) >= 0 &&
	       ioctl(fd, KVM_SET_MSRS, &s->msrs) == (int)s->msrs.nmsrs &&
	       ioctl(fd, KVM_SET_VCPU_EVENTS, &s->events) >= 0 &&
	       ioctl(fd, KVM_SET_MP_STATE, &s->mp_state) >= 0 &&
	       ioctl(fd, KVM_SET_DEBUGREGS, &s->debugregs) >= 0;
	free(s);
	return done;
}
