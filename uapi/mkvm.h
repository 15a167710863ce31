/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * mkvm.h - what mkvm offers beyond the KVM API of <linux/kvm.h>.
 *
 * A client asks KVM_CHECK_EXTENSION, on the device or on a VM, for MKVM_CAP_VERSION. Linux KVM
 * answers 0 and mkvm its MKVM_API_VERSION. Structures only grow where they have reserved fields,
 * and what a number means never changes; the version rises with each addition.
 *
 * This header compiles alone, as C and as C++.
 */
#ifndef MKVM_UAPI_H
#define MKVM_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define MKVM_API_VERSION	1
#define MKVM_CAP_VERSION	0x6d6b766d	/* "mkvm" */

/* The device node; the module parameter devname names another one in /dev, which may be kvm. */
#define MKVM_DEVICE		"/dev/mkvm"
#define MKVM_PARAMETERS		"/sys/module/mkvm/parameters"

/* Module parameters, files in MKVM_PARAMETERS. */
#define MKVM_PARAM_DEVNAME	"devname"	/* string; set when the module is loaded */
#define MKVM_PARAM_MSI_OFFSETS	"msi_offsets"	/* Y: KVM_SIGNAL_MSI takes QEMU's offsets, or N */

/*
 * Each VM has the directory PID-NUMBER here, for root, and each file has a twin in JSON with this
 * version.
 */
#define MKVM_DEBUGFS		"/sys/kernel/debug/mkvm"
#define MKVM_DEBUGFS_VERSION	1

/*
 * Bits of a vCPU's pending word: any thread sets them, the vCPU's own thread consumes them.
 * Bit n + MKVM_PEND_UNSEEN says that bit n was posted after userspace's last
 * KVM_GET_VCPU_EVENTS, so that a KVM_SET_VCPU_EVENTS with older knowledge cannot take it away.
 */
enum mkvm_pending {
	MKVM_PEND_INIT,
	MKVM_PEND_SIPI,
	MKVM_PEND_NMI,
	MKVM_PEND_SMI,
	MKVM_PEND_EVENT,	/* IRR, ExtINT or a queued event changed: look again */
	MKVM_PEND_MSRS,		/* the MSR filter changed, or this vCPU has not looked at it */
	MKVM_PEND_REPORT,	/* an EOI or an access to TPR waits to be reported to userspace */
	MKVM_PEND_NMI2,		/* a second NMI, behind the first one */
	MKVM_NR_PEND,
	MKVM_PEND_UNSEEN = 8,
};

/* Where a vCPU's thread is. */
enum mkvm_where {
	/* not in the guest; it looks at the pending word before it enters */
	MKVM_OUTSIDE,
	MKVM_IN_GUEST,		/* in the guest; an IPI makes it leave */
	MKVM_EXITING,		/* in the guest, and that IPI was sent */
};

/* What holds back an event that waits. */
enum mkvm_hold {
	MKVM_HOLD_NOTHING,	/* it goes in at the next entry */
	MKVM_HOLD_SIPI,		/* the vCPU waits for INIT or SIPI */
	MKVM_HOLD_DEBUGGER,	/* KVM_GUESTDBG_BLOCKIRQ */
	MKVM_HOLD_SHADOW,	/* the interrupt shadow of STI or MOV SS */
	MKVM_HOLD_EVENT,	/* another event is being delivered, or an exception comes first */
	MKVM_HOLD_IF,		/* RFLAGS.IF is 0 */
	MKVM_HOLD_TPR,		/* its priority class is not above that of TPR */
	/* its priority class is not above that of the interrupt in service */
	MKVM_HOLD_PPR,
	MKVM_HOLD_SMM,		/* the vCPU is in SMM, which began with this masked */
	MKVM_HOLD_NMI_MASK,	/* an NMI is being handled */
	MKVM_NR_HOLDS,
};

#define MKVM_WAITS_NONE		(-1)	/* no interrupt waits */
/* the PIC has one, whose vector it tells when it is acknowledged */
#define MKVM_WAITS_EXTINT	256

/*
 * MKVM_GET_VCPU_STATE - what a vCPU does and what waits for it, as debugfs's file vcpus has it
 *
 * An ioctl of a VM. It takes no lock of the vCPU and does not disturb it, so the answer is a
 * snapshot: fields may be from moments that are a little apart.
 *
 * Errors: EINVAL (a reserved field is not 0), ENOENT (no vCPU has this id), EIO (another
 * process's VM), EFAULT.
 */
struct mkvm_vcpu_state {
	__u32 id;		/* in: the id given to KVM_CREATE_VCPU */
	__u32 mp_state;		/* KVM_MP_STATE_* */
	__u32 where;		/* enum mkvm_where */
	__s32 cpu;		/* the host CPU that it is loaded on, -1: none */
	__u32 pending;		/* 1 << enum mkvm_pending, and the same << MKVM_PEND_UNSEEN */
	__s32 delivering;	/* the vector that is being delivered, MKVM_WAITS_NONE: none */
	__s32 waiting;		/* the vector that comes next, or MKVM_WAITS_* */
	__u32 hold;		/* enum mkvm_hold: what holds back the interrupt in waiting */
	__u32 hold_nmi;		/* likewise an NMI, if MKVM_PEND_NMI is pending */
	__u32 in_smm;		/* 0 or 1 */
	__u64 rip;		/* of the last exit */
	__u64 rflags;		/* of the last exit */
	__u64 exits;		/* how often the guest was left */
	/* the last exit's name, ended by a 0; "none" before the first entry */
	char last_exit[32];
	__u64 reserved[8];	/* in and out: 0 */
};

#define MKVM_IOC		0xc6	/* type of mkvm's own ioctls */
#define MKVM_GET_VCPU_STATE	_IOWR(MKVM_IOC, 0x00, struct mkvm_vcpu_state)

#endif
