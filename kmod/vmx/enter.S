/* SPDX-License-Identifier: GPL-2.0 */
/*
 * enter.S - enters the guest by VMLAUNCH or VMRESUME, and returns after the exit.
 *
 * State: none; the registers are exchanged between the guest and the array that the caller
 * passes. RSP, RIP and RFLAGS are in the VMCS. Read next: vmx.c.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include "compat.h"
#include "enter.h"
#define HOST_RSP_FIELD 0x6c14		/* assembly cannot include enum vmcs_field */

/*
 * int vmx_vmenter(u64 *regs, bool launched)
 *
 * Interrupts are off and stay off: with external-interrupt exiting, an interrupt causes an exit and
 * is taken when the caller enables interrupts. After an exit execution continues at vmx_vmexit with
 * the stack as it was (Intel SDM vol. 3, "Loading Host State"). Return: VMX_ENTERED; VMX_FAILED or
 * VMX_OFF if the guest has not been entered.
 */
SYM_FUNC_START(vmx_vmenter)
	PUSH_CALLERS_REGS
	push %rdi			/* 0(%rsp): registers */

	mov $HOST_RSP_FIELD, %eax
1:	vmwrite %rsp, %rax
	bt $0, %esi			/* CF: launched; preserved up to the branch */
	mov %rdi, %rax
	LOAD_GUEST_REGS
	mov REG(0)(%rax), %rax
	MKVM_VMX_CLEAR_CPU_BUFFERS	/* preserves CF */
	jc 2f
3:	vmlaunch
	jmp 4f
2:	vmresume
4:	mov $1, %eax			/* VMX_FAILED: the entry failed */
	jbe 5f				/* always taken: CF or ZF is set */

SYM_INNER_LABEL(vmx_vmexit, SYM_L_GLOBAL)
	ENDBR
	push %rax
	mov 8(%rsp), %rax
	SAVE_GUEST_REGS
	pop (%rax)			/* the guest's RAX */
	xor %eax, %eax			/* VMX_ENTERED */

	/* The guest's register values and predictions must not influence host speculation. */
5:	mov %eax, %ebx			/* EAX is clobbered below */
	xor %ebp, %ebp
	xor %esi, %esi
	xor %edi, %edi
	xor %r8d, %r8d
	xor %r9d, %r9d
	xor %r10d, %r10d
	xor %r11d, %r11d
	xor %r12d, %r12d
	xor %r13d, %r13d
	xor %r14d, %r14d
	xor %r15d, %r15d
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE
	/* IBRS covers predictions trained by the guest only after it is written again. */
	ALTERNATIVE "jmp .Librs_done", "", X86_FEATURE_KERNEL_IBRS
	mov $MSR_IA32_SPEC_CTRL, %ecx
	rdmsr
	wrmsr
.Librs_done:
	xor %ecx, %ecx
	xor %edx, %edx
	CLEAR_BRANCH_HISTORY_VMEXIT
	mov %ebx, %eax

	add $8, %rsp
	POP_CALLERS_REGS
	RET

7:	mov $2, %eax			/* VMX_OFF: #UD */
	jmp 5b
	_ASM_EXTABLE(1b, 7b)
	_ASM_EXTABLE(2b, 7b)
	_ASM_EXTABLE(3b, 7b)
SYM_FUNC_END(vmx_vmenter)
