/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the library's files share with each other and with no test.
 * Read next: vm.h.
 */
#ifndef LIB_H
#define LIB_H

struct vcpu;

/* Page tables and IDT, before any guest runs. */
void guest_init_tables(void);
/* The signal that makes KVM_RUN return. */
void install_kick_handler(void);
/* Says in diagnostic lines where a vCPU is. */
void vcpu_dump(struct vcpu *vcpu);

#endif
