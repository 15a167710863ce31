// SPDX-License-Identifier: GPL-2.0
/*
 * user_work.c - a wrapper for the kernel's work before a return to userspace, for kernels whose
 * function needs a struct kvm_vcpu. Kbuild builds it for such kernels.
 *
 * State: a struct kvm_vcpu that belongs to no vCPU. The function writes only what KVM reports
 * of a signal: run->exit_reason and a counter, which nobody reads.
 *
 * Read next: compat.h, cpu/run.c.
 */
#include <linux/kvm_host.h>

#include "compat.h"

static struct kvm_run nobodys_run;
static struct kvm_vcpu nobody = { .run = &nobodys_run };

/* See compat.h. */
int mkvm_user_work(void)
{
	return xfer_to_guest_mode_handle_work(&nobody);
}
