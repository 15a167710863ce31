/* SPDX-License-Identifier: GPL-2.0 */
/*
 * explain.h - the front door of what explains a VM to people: state, debugfs, counters. mkvm.h
 * includes it. trace.h has the tracepoints, provenance.h the ids of interrupts, testpoint.h the
 * places where a test can stop the module.
 *
 * Read next: trace.h, provenance.h.
 */
#ifndef MKVM_EXPLAIN_H
#define MKVM_EXPLAIN_H

/* state.c: a snapshot of a vCPU, taken without stopping it. Any context. */
void mkvm_vcpu_state(struct mkvm_vcpu *vcpu, struct mkvm_vcpu_state *s);
/*
 * MKVM_GET_VCPU_STATE on the VM's fd. May sleep. Return: 0, -EFAULT, -EINVAL for reserved fields,
 * -ENOENT for an id.
 */
int mkvm_vcpu_state_ioctl(struct mkvm *vm, struct mkvm_vcpu_state __user *arg);

/* debugfs.c: the directories of the module and of each VM. May sleep. */
void mkvm_debugfs_setup(void);
void mkvm_debugfs_teardown(void);
void mkvm_debugfs_add(struct mkvm *vm);
void mkvm_debugfs_remove(struct mkvm *vm);

/* stats.c: names of the counters, and the file of KVM_GET_STATS_FD (of a vCPU, or NULL). */
const char *mkvm_stat_name(u32 i, bool vcpu);
int mkvm_stats_fd(struct mkvm *vm, struct mkvm_vcpu *vcpu);

#endif
