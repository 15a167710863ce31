// SPDX-License-Identifier: GPL-2.0
/*
 * window.c - enters VMX operation for one entry, and keeps a copy of the VMCS's fields meanwhile.
 * Kbuild builds it for kernels that let no module but their own KVM keep CR4.VMXE set.
 *
 * State: vmx->copy, and inside of struct vmx_cpu. Read next: window.h, vmx.c.
 */
#include <linux/bitmap.h>
#include <linux/mm.h>
#include <asm/msr.h>

#include "vmx.h"
#include "compat.h"

/*
 * A field's number has bits for its index, its type and its width: Intel SDM vol. 3, "Structure of
 * VMCS Component Encoding". All indexes are below 64, so these bits are the place in the copy.
 */
#define PLACES		1024
#define INDEX(field)	((field) >> 1 & 63)
#define TYPE(field)	((field) >> 10 & 3)
#define WIDTH(field)	((field) >> 13 & 3)
#define PLACE(field)	(INDEX(field) | TYPE(field) << 6 | WIDTH(field) << 8)
#define FIELD(place)	(((place) & 63) << 1 | ((place) >> 6 & 3) << 10 | ((place) >> 8 & 3) << 13)

enum { WIDTH_16, WIDTH_64, WIDTH_32, WIDTH_NATURAL };

struct vmx_copy {
	u64 value[PLACES];
	DECLARE_BITMAP(written, PLACES);	/* not yet in the VMCS */
	bool cleared;				/* the VMCS was initialised by VMCLEAR */
};

/* What a guest or an exit changes, and mkvm reads. */
static const u16 changed_fields[] = {
	GUEST_ES_SELECTOR, GUEST_CS_SELECTOR, GUEST_SS_SELECTOR, GUEST_DS_SELECTOR,
	GUEST_FS_SELECTOR, GUEST_GS_SELECTOR, GUEST_LDTR_SELECTOR, GUEST_TR_SELECTOR,
	GUEST_ES_LIMIT, GUEST_CS_LIMIT, GUEST_SS_LIMIT, GUEST_DS_LIMIT,
	GUEST_FS_LIMIT, GUEST_GS_LIMIT, GUEST_LDTR_LIMIT, GUEST_TR_LIMIT,
	GUEST_ES_AR_BYTES, GUEST_CS_AR_BYTES, GUEST_SS_AR_BYTES, GUEST_DS_AR_BYTES,
	GUEST_FS_AR_BYTES, GUEST_GS_AR_BYTES, GUEST_LDTR_AR_BYTES, GUEST_TR_AR_BYTES,
	GUEST_ES_BASE, GUEST_CS_BASE, GUEST_SS_BASE, GUEST_DS_BASE,
	GUEST_FS_BASE, GUEST_GS_BASE, GUEST_LDTR_BASE, GUEST_TR_BASE,
	GUEST_GDTR_BASE, GUEST_GDTR_LIMIT, GUEST_IDTR_BASE, GUEST_IDTR_LIMIT,
	GUEST_CR0, GUEST_CR3, GUEST_CR4, GUEST_DR7, GUEST_RSP, GUEST_RIP, GUEST_RFLAGS,
	GUEST_IA32_EFER, GUEST_IA32_PAT, GUEST_IA32_DEBUGCTL,
	GUEST_SYSENTER_CS, GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP,
	GUEST_PDPTR0, GUEST_PDPTR1, GUEST_PDPTR2, GUEST_PDPTR3,
	GUEST_INTERRUPTIBILITY_INFO, GUEST_ACTIVITY_STATE, GUEST_PENDING_DBG_EXCEPTIONS,
	VM_ENTRY_CONTROLS, VM_ENTRY_INTR_INFO_FIELD,
	VM_EXIT_REASON, VM_INSTRUCTION_ERROR, EXIT_QUALIFICATION, GUEST_PHYSICAL_ADDRESS,
	GUEST_LINEAR_ADDRESS, VM_EXIT_INTR_INFO, VM_EXIT_INTR_ERROR_CODE, IDT_VECTORING_INFO_FIELD,
	IDT_VECTORING_ERROR_CODE, VM_EXIT_INSTRUCTION_LEN, VMX_INSTRUCTION_INFO,
};

/* ---- accesses; in the window they cannot fault ---- */

static u64 vmread(unsigned long field)
{
	u64 val = 0;

	asm volatile("vmread %1, %0" : "+r"(val) : "r"(field) : "cc");
	return val;
}

static void vmwrite(unsigned long field, u64 val)
{
	asm volatile("vmwrite %0, %1" : : "r"(val), "r"(field) : "cc", "memory");
}

/* ---- the copy ---- */

bool vmx_copy_create(struct vmx_vcpu *vmx)
{
	vmx->copy = kvzalloc(sizeof(*vmx->copy), GFP_KERNEL_ACCOUNT);
	return vmx->copy;
}

void vmx_copy_destroy(struct vmx_vcpu *vmx)
{
	kvfree(vmx->copy);
}

/*
 * Returns the copy of the vCPU that the thread has loaded. The thread may move to another CPU at
 * any time, and its vCPU is then loaded there before it runs.
 */
static struct vmx_copy *loaded_copy(void)
{
	return this_cpu_read(vmx_cpus.copy);
}

u64 vmx_copy_read(unsigned long field)
{
	if (this_cpu_read(vmx_cpus.inside))
		return vmread(field);
	return loaded_copy()->value[PLACE(field)];
}

void vmx_copy_write(unsigned long field, u64 val)
{
	struct vmx_copy *copy = loaded_copy();

	if (WIDTH(field) == WIDTH_16)
		val = (u16)val;
	else if (WIDTH(field) == WIDTH_32)
		val = (u32)val;
	copy->value[PLACE(field)] = val;
	if (this_cpu_read(vmx_cpus.inside))
		vmwrite(field, val);
	else
		__set_bit(PLACE(field), copy->written);
}

/* ---- the window ---- */

/* On these CPUs VMXON stops Processor Trace: Intel SDM vol. 3, "Tracing of VMX Operation". */
static bool would_stop_trace(void)
{
	u64 misc, ctl;

	return boot_cpu_has(X86_FEATURE_INTEL_PT) && !rdmsrl_safe(MSR_IA32_VMX_MISC, &misc) &&
	       !(misc & BIT(14)) && !rdmsrl_safe(MSR_IA32_RTIT_CTL, &ctl) &&
	       (ctl & RTIT_CTL_TRACEEN);
}

int vmx_window_open(struct vmx_vcpu *vmx)
{
	struct vmx_cpu *c = this_cpu_ptr(&vmx_cpus);
	unsigned long cr4 = __read_cr4();
	unsigned int place;

	if (unlikely(cr4 & X86_CR4_VMXE)) {
		pr_err_ratelimited("mkvm: CPU %u: another hypervisor holds VMX: unload it (rmmod kvm_intel)\n",
				   smp_processor_id());
		return -EBUSY;
	}
	if (unlikely(would_stop_trace())) {
		pr_err_ratelimited("mkvm: CPU %u: Intel Processor Trace is on, and VMX would stop it: end the tracing (perf record -e intel_pt)\n",
				   smp_processor_id());
		return -EAGAIN;
	}
	mkvm_write_cr4(cr4 | X86_CR4_VMXE);
	if (unlikely(!vmxon(__pa(c->vmxon)))) {
		mkvm_write_cr4(cr4);
		pr_err_ratelimited("mkvm: CPU %u: VMXON failed\n", smp_processor_id());
		return -EIO;
	}
	c->inside = true;
	if (!vmx)
		return 0;
	if (unlikely(!vmx->copy->cleared)) {
		vmclear(__pa(vmx->vmcs));
		vmx->copy->cleared = true;
	}
	vmptrld(__pa(vmx->vmcs));
	for_each_set_bit(place, vmx->copy->written, PLACES)
		vmwrite(FIELD(place), vmx->copy->value[place]);
	bitmap_zero(vmx->copy->written, PLACES);
	return 0;
}

void vmx_window_close(struct vmx_vcpu *vmx)
{
	unsigned int i;

	if (vmx) {
		for (i = 0; i < ARRAY_SIZE(changed_fields); i++)
			vmx->copy->value[PLACE(changed_fields[i])] = vmread(changed_fields[i]);
		vmclear(__pa(vmx->vmcs));
		vmx->launched = false;
	}
	this_cpu_write(vmx_cpus.inside, false);
	vmxoff();
	mkvm_write_cr4(__read_cr4() & ~X86_CR4_VMXE);
}
