/* SPDX-License-Identifier: GPL-2.0 */
/*
 * insn.h - the front door of the instructions: what the module does for the guest when the CPU
 * cannot. mkvm.h includes it. internal.h and decode.h have what only the files of insn/ call.
 *
 *   mkvm_run_insn (run_insn.c)        an access to a device, to ROM, or a string instruction
 *     -> decode.c, emulate*.c         pure logic, which knows nothing of vCPUs: emulate.h
 *     -> access.c, walk.c             its surroundings: memory, page tables, registers, devices
 *     -> iodev.c                      devices in the kernel, else an exit to userspace
 *   mkvm_skip_instruction (skip.c)    the CPU has decoded the instruction, the module did its work
 *
 * All run on the vCPU's own thread and may sleep, unless a line says otherwise. Where a line says
 * "as handle_exit", the result is 1 to enter the guest again, 0 to exit to userspace, or -errno.
 *
 * Read next: run_insn.c, then emulate.h.
 */
#ifndef MKVM_INSN_H
#define MKVM_INSN_H

/* ---- skip.c: the end of an instruction, and looks at the one at RIP ---- */

int mkvm_skip_instruction(struct mkvm_vcpu *vcpu);		/* as handle_exit */
int mkvm_skip_and_trap(struct mkvm_vcpu *vcpu, u32 traps);	/* likewise; traps: bits of DR6 */
int mkvm_skip_by_decoding(struct mkvm_vcpu *vcpu);	/* for CPUs that do not tell the length */
enum mkvm_insn mkvm_insn_at_rip(struct mkvm_vcpu *vcpu, u8 *vector);
bool mkvm_insn_is_emulated(struct mkvm_vcpu *vcpu);	/* does the emulator know it? */

/* ---- run_insn.c: emulation. vm->srcu held. ---- */

int mkvm_run_insn(struct mkvm_vcpu *vcpu, enum mkvm_cause cause);	/* as handle_exit */
int mkvm_run_delivery(struct mkvm_vcpu *vcpu);	/* as handle_exit, or MKVM_NOT_DELIVERED */
#define MKVM_NOT_DELIVERED 2	/* mkvm_run_delivery could not deliver the event */

/* access.c: drops what is recorded of an unfinished instruction's accesses. */
void mkvm_forget_io(struct mkvm_vcpu *vcpu);

/* ---- walk.c: the guest's page tables. vm->srcu held. ---- */

/* The result of a walk of the guest's page tables. */
struct mkvm_translation {
	u64 gpa;
	u64 all, any, leaf;	/* the entries of all levels ANDed and ORed, and the last one */
	u32 error;		/* the error code of the #PF, if there is one */
};

#define MKVM_WALK_UNCHECKED BIT(31)	/* finds the address without checking permissions */
enum mkvm_emu_result mkvm_walk(struct mkvm_vcpu *vcpu, u64 la, u32 access,
			       struct mkvm_translation *t);
bool mkvm_translate(struct mkvm_vcpu *vcpu, u64 la, u64 *gpa);	/* KVM_TRANSLATE */

/*
 * ---- iodev.c: devices in the kernel, ioeventfds and coalesced writes ----
 *
 * The first three return whether a device in the kernel has answered. The rest may sleep, in the
 * ioctls of the VM.
 */
bool mkvm_kernel_pio(struct mkvm_vcpu *vcpu, u16 port, unsigned int size, bool in, void *data);
bool mkvm_kernel_mmio(struct mkvm_vcpu *vcpu, u64 gpa, unsigned int len, bool write, void *data);
bool mkvm_fast_mmio(struct mkvm_vcpu *vcpu, u64 gpa);	/* an ioeventfd of any length and value */
int mkvm_ioeventfd_ioctl(struct mkvm *vm, const struct kvm_ioeventfd *arg);
int mkvm_coalesced_ioctl(struct mkvm *vm, const struct kvm_coalesced_mmio_zone *zone, bool add);
int mkvm_iodev_init(struct mkvm *vm);
void mkvm_iodev_destroy(struct mkvm *vm);

#endif
