/* SPDX-License-Identifier: GPL-2.0 */
/*
 * window.h - VMX operation for one entry at a time, for kernels that let no other module than
 * their own KVM keep CR4.VMXE set (Linux 6.19 and newer; compat.h).
 *
 * The kernel writes CR4 from a copy of its own, which lacks VMXE, and doing so in VMX operation
 * would fault. So the CPU is in VMX operation only while interrupts are off, from vmx_window_open
 * to vmx_window_close: VMXON, VMPTRLD, the entry, VMCLEAR, VMXOFF. (A VMCS that is active at
 * VMXOFF may be corrupted: Intel SDM vol. 3, "Software Use of Virtual-Machine Control
 * Structures".) It costs a guest more than staying in VMX operation would, and it always works: no
 * CPU is ever left in VMX operation, not by a crash or a suspend either.
 *
 * Outside the window a VMCS cannot be accessed: the vCPU has a copy of its fields. Writes go to
 * the copy and are written to the VMCS when the window opens; what a guest or an exit changes is
 * read into the copy when it closes.
 *
 * State: vmx->copy, this CPU's vmx_cpus.inside. Read next: window.c, vmx.h.
 */
#ifndef MKVM_VMX_WINDOW_H
#define MKVM_VMX_WINDOW_H

struct vmx_vcpu;

/* Allocate and free a vCPU's copy. May sleep. */
bool vmx_copy_create(struct vmx_vcpu *vmx);
void vmx_copy_destroy(struct vmx_vcpu *vmx);

/* Access a field of the loaded vCPU's VMCS, in the window or outside it. Own thread. */
u64 vmx_copy_read(unsigned long field);
void vmx_copy_write(unsigned long field, u64 val);

/*
 * Enter VMX operation with the vCPU's VMCS current, and leave it. Context: interrupts off.
 * vmx_window_open returns 0; -EBUSY if another hypervisor is in VMX operation here; -EAGAIN if
 * Intel Processor Trace is on and VMXON would stop it; -EIO if VMXON fails. All say so in the log.
 * With NULL no VMCS becomes current.
 */
int vmx_window_open(struct vmx_vcpu *vmx);
void vmx_window_close(struct vmx_vcpu *vmx);

#endif
