// SPDX-License-Identifier: GPL-2.0
/*
 * user_work.c - the kernel's function for work on the way to userspace, in kernels in which
 * it wants a struct kvm_vcpu. Built where Kbuild finds such a kernel.
 *
 * State: a struct kvm_vcpu that belongs to nobody. Of it the function touches what KVM tells
 * of a signal: run->exit_reason and a counter, which nobody reads.
 *
 * Read next: compat.h, run.c.
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
