// SPDX-License-Identifier: GPL-2.0
/*
 * --monitor: reads the whole state of every CPU and writes it back, again and
 * again while the guest runs, as a VMM does whose user keeps asking for all
 * registers. A CPU's own thread does both, between two KVM_RUN; the CPU is
 * stopped for that, the others run on. Not written back is what goes on without
 * the CPU: its local APIC and its clocks.
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

/* Asks which MSRs there are. */
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

/* Some devices list MSRs that a CPU of theirs does not have: those are left out. */
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

/* Reads and writes back the state of the CPU. False: an ioctl failed, see errno. */
bool monitor_look(int fd)
{
	struct cpu_state *s = calloc(1, sizeof(*s));
	bool done;

	if (!s)
		return false;
	/* It takes in what waits, and so comes first. */
	done = ioctl(fd, KVM_GET_MP_STATE, &s->mp_state) >= 0 && ioctl(fd, KVM_GET_VCPU_EVENTS, &s->events) >= 0 &&
	       ioctl(fd, KVM_GET_REGS, &s->regs) >= 0 && ioctl(fd, KVM_GET_SREGS, &s->sregs) >= 0 &&
	       ioctl(fd, KVM_GET_XSAVE, s->xsave) >= 0 && ioctl(fd, KVM_GET_XCRS, &s->xcrs) >= 0 &&
	       ioctl(fd, KVM_GET_DEBUGREGS, &s->debugregs) >= 0 && ioctl(fd, KVM_GET_LAPIC, &s->lapic) >= 0;
	if (done)
		get_msrs(fd, &s->msrs);
	/* Here the person reads; other CPUs send this one what they like. */
	sched_yield();
	done = done && ioctl(fd, KVM_SET_SREGS, &s->sregs) >= 0 && ioctl(fd, KVM_SET_REGS, &s->regs) >= 0 &&
	       ioctl(fd, KVM_SET_XSAVE, s->xsave) >= 0 && ioctl(fd, KVM_SET_XCRS, &s->xcrs) >= 0 &&
	       ioctl(fd, KVM_SET_MSRS, &s->msrs) == (int)s->msrs.nmsrs &&
	       ioctl(fd, KVM_SET_VCPU_EVENTS, &s->events) >= 0 && ioctl(fd, KVM_SET_MP_STATE, &s->mp_state) >= 0 &&
	       ioctl(fd, KVM_SET_DEBUGREGS, &s->debugregs) >= 0;
	free(s);
	return done;
}
