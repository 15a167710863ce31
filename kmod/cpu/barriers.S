/* SPDX-License-Identifier: GPL-2.0 */
/*
 * barriers.S - what the kernel's macros against speculation refer to: a prediction barrier, a loop
 * that clears the branch history, and VERW's operand.
 *
 * From Linux 6.19 on the kernel exports its own to modules named kvm, kvm-amd and kvm-intel only.
 * These are ours, under the names that asm/nospec-branch.h uses. Kbuild builds this file for such
 * kernels only. State: none. Read next: compat.h, svm/enter.S, vmx/enter.S.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/segment.h>
#include "compat.h"

/* VERW clears the CPU's buffers if its operand is in memory and names a writable segment. */
	.section .rodata
	.balign 2
SYM_DATA(x86_verw_sel, .word __KERNEL_DS)

	.text
/*
 * Indirect branch prediction barrier: AMD APM vol. 2, "Indirect Branch Prediction Barrier"; Intel
 * SDM vol. 4, IA32_PRED_CMD. On some CPUs it leaves the return predictions, which are filled then.
 * Clobbers RAX, RCX, RDX and the flags.
 */
SYM_FUNC_START(write_ibpb)
	mov $MSR_IA32_PRED_CMD, %ecx
	mov $PRED_CMD_IBPB, %eax
	xor %edx, %edx
	wrmsr
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_BUG_IBPB_NO_RET
	RET
SYM_FUNC_END(write_ibpb)

/*
 * Clears the branch history that a guest has left: Intel, "Branch History Injection and
 * Intra-mode Branch Target Injection", the software sequence. CPUs that have BHI_CTRL have a
 * longer history and need more branches. Calls and returns keep the loop out of the loop stream
 * detector, which would not record it; each RET lies in the upper half of a cache line, so that
 * its prediction is safe from Indirect Target Selection. Clobbers RAX, RCX, RDX and the flags.
 */
SYM_FUNC_START(clear_bhb_loop)
	push %rbp
	mov %rsp, %rbp			/* the calls below are not the unwinder's frames */
	ALTERNATIVE "mov $5, %ecx; mov $5, %edx", "mov $12, %ecx; mov $7, %edx", X86_FEATURE_BHI_CTRL
	ANNOTATE_INTRA_FUNCTION_CALL
	call 1f
	jmp 5f
	.balign 64, 0xcc
	.skip 32 - 5, 0xcc		/* the call's length: RET is at offset 32 */
	ANNOTATE_INTRA_FUNCTION_CALL
1:	call 2f
	RET
	.balign 64, 0xcc
	.skip 32 - 15, 0xcc		/* the length up to RET, which is at offset 32 */
2:	mov %edx, %eax
3:	jmp 4f
	nop
4:	sub $1, %eax
	jnz 3b
	sub $1, %ecx
	jnz 1b
	RET
5:	lfence
	pop %rbp
	RET
SYM_FUNC_END(clear_bhb_loop)
STACK_FRAME_NON_STANDARD(clear_bhb_loop)
