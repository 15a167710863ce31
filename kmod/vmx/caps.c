// SPDX-License-Identifier: GPL-2.0
/*
 * caps.c - negotiates VMX capabilities: one table of the controls that are required, used if
 * present, or never used.
 *
 * State: vmx_caps, written once at load.
 *
 * Intel SDM vol. 3, "VMX Capability Reporting Facility". Read next: vmx.c.
 */
#include <linux/moduleparam.h>
#include <asm/msr.h>

#include "vmx.h"
#include "compat.h"

struct vmx_caps vmx_caps;

static bool vmx_wanted;
module_param_named(vmx, vmx_wanted, bool, 0444);
MODULE_PARM_DESC(vmx, "use VMX, which has only been tested in an emulator (default 0: do not load on Intel CPUs)");

static bool apicv_wanted = true;
module_param_named(apicv, apicv_wanted, bool, 0444);
MODULE_PARM_DESC(apicv, "let the CPU deliver and end the interrupts of local APICs in x2APIC mode, if it can (default 1)");

enum word { PIN, CPU, CPU2, EXIT, ENTRY, EPT, MISC, NR_WORDS };

/*
 * REQUIRED: must exist, and is always on. WANTED: is on if it exists. SWITCHED: must exist, and
 * starts off. NEVER: must allow the value 0, although the CPU's default is 1. APICV: all of them
 * are switched together, if all exist. Controls that are not in this table are off if the CPU
 * allows it.
 */
enum need { REQUIRED, WANTED, SWITCHED, NEVER, APICV };

static const struct {
	u8 word, need;
	u16 feature;		/* needed only on CPUs that have it; 0: on all */
	u32 bit;
	const char *name;
} controls[] = {
	{ PIN, REQUIRED, 0, PIN_BASED_EXT_INTR_MASK, "external-interrupt exiting" },
	{ PIN, REQUIRED, 0, PIN_BASED_NMI_EXITING, "NMI exiting" },
	{ PIN, REQUIRED, 0, PIN_BASED_VIRTUAL_NMIS, "virtual NMIs" },
	{ PIN, WANTED, 0, PIN_BASED_VMX_PREEMPTION_TIMER,
	  "the preemption timer" }, /* see vmx_stay */
	{ CPU, REQUIRED, 0, CPU_BASED_ACTIVATE_SECONDARY_CONTROLS,
	  "secondary processor-based controls" },
	{ CPU, REQUIRED, 0, CPU_BASED_HLT_EXITING, "HLT exiting" },
	{ CPU, REQUIRED, 0, CPU_BASED_MWAIT_EXITING, "MWAIT exiting" },
	{ CPU, REQUIRED, 0, CPU_BASED_MONITOR_EXITING, "MONITOR exiting" },
	{ CPU, REQUIRED, 0, CPU_BASED_RDPMC_EXITING, "RDPMC exiting" },
	{ CPU, REQUIRED, 0, CPU_BASED_MOV_DR_EXITING, "MOV-DR exiting" },
	{ CPU, REQUIRED, 0, CPU_BASED_UNCOND_IO_EXITING, "unconditional I/O exiting" },
	{ CPU, REQUIRED, 0, CPU_BASED_USE_MSR_BITMAPS, "MSR bitmaps" },
	{ CPU, REQUIRED, 0, CPU_BASED_USE_TSC_OFFSETTING, "TSC offsetting" },
	{ CPU, REQUIRED, 0, CPU_BASED_TPR_SHADOW, "the TPR shadow" },
	{ CPU, SWITCHED, 0, CPU_BASED_CR8_LOAD_EXITING, "CR8-load exiting" },
	{ CPU, SWITCHED, 0, CPU_BASED_INTR_WINDOW_EXITING, "interrupt-window exiting" },
	{ CPU, SWITCHED, 0, CPU_BASED_NMI_WINDOW_EXITING, "NMI-window exiting" },
	{ CPU, NEVER, 0, CPU_BASED_CR3_LOAD_EXITING, "CR3 loads without exits" },
	{ CPU, NEVER, 0, CPU_BASED_CR3_STORE_EXITING, "CR3 stores without exits" },
	{ CPU, NEVER, 0, CPU_BASED_INVLPG_EXITING, "INVLPG without exits" },
	{ CPU2, REQUIRED, 0, SECONDARY_EXEC_ENABLE_EPT, "extended page tables (EPT)" },
	{ CPU2, REQUIRED, 0, SECONDARY_EXEC_UNRESTRICTED_GUEST, "unrestricted guests" },
	{ CPU2, REQUIRED, X86_FEATURE_RDTSCP, SECONDARY_EXEC_ENABLE_RDTSCP, "RDTSCP in guests" },
	{ CPU2, REQUIRED, X86_FEATURE_INVPCID, SECONDARY_EXEC_ENABLE_INVPCID, "INVPCID in guests" },
	{ CPU2, WANTED, 0, SECONDARY_EXEC_ENABLE_VPID, "VPIDs" },
	{ CPU2, WANTED, 0, SECONDARY_EXEC_WBINVD_EXITING, "WBINVD exiting" },
	{ CPU2, WANTED, 0, SECONDARY_EXEC_RDRAND_EXITING, "RDRAND exiting" },
	{ CPU2, WANTED, 0, SECONDARY_EXEC_RDSEED_EXITING, "RDSEED exiting" },
	{ CPU2, APICV, 0, SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE, "virtualized x2APIC mode" },
	{ CPU2, APICV, 0, SECONDARY_EXEC_APIC_REGISTER_VIRT, "APIC-register virtualization" },
	{ CPU2, APICV, 0, SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY, "virtual-interrupt delivery" },
	{ EXIT, REQUIRED, 0, VM_EXIT_HOST_ADDR_SPACE_SIZE, "64-bit hosts" },
	{ EXIT, REQUIRED, 0, VM_EXIT_SAVE_DEBUG_CONTROLS, "saving debug controls" },
	{ EXIT, REQUIRED, 0, VM_EXIT_SAVE_IA32_EFER, "saving EFER" },
	{ EXIT, REQUIRED, 0, VM_EXIT_LOAD_IA32_EFER, "loading the host's EFER" },
	{ EXIT, REQUIRED, 0, VM_EXIT_LOAD_IA32_PAT, "loading the host's PAT" },
	{ ENTRY, REQUIRED, 0, VM_ENTRY_LOAD_DEBUG_CONTROLS, "loading debug controls" },
	{ ENTRY, REQUIRED, 0, VM_ENTRY_LOAD_IA32_EFER, "loading EFER" },
	{ ENTRY, REQUIRED, 0, VM_ENTRY_LOAD_IA32_PAT, "loading PAT" },
	{ ENTRY, SWITCHED, 0, VM_ENTRY_IA32E_MODE, "64-bit guests" },
	{ EPT, REQUIRED, 0, VMX_EPT_PAGE_WALK_4_BIT, "EPT with four levels" },
	{ EPT, REQUIRED, 0, VMX_EPTP_WB_BIT, "EPT in write-back memory" },
	{ EPT, REQUIRED, 0, VMX_EPT_2MB_PAGE_BIT, "EPT with 2 MiB pages" },
	{ EPT, REQUIRED, 0, VMX_EPT_INVEPT_BIT, "INVEPT" },
	{ EPT, REQUIRED, 0, VMX_EPT_EXTENT_GLOBAL_BIT, "INVEPT of all contexts" },
	{ EPT, WANTED, 0, VMX_EPT_EXTENT_CONTEXT_BIT, "INVEPT of one context" },
	{ EPT, WANTED, 0, VMX_EPT_AD_BIT, "EPT with accessed bits" },
	{ MISC, REQUIRED, 0, VMX_MISC_SAVE_EFER_LMA, "saving of EFER.LMA as an entry control" },
};

/* Reads, for each word, the bits that may be 1 and those that must be 1. */
static void read_capabilities(u64 *may, u64 *must)
{
	static const u32 msrs[] = {
		MSR_IA32_VMX_PINBASED_CTLS,   MSR_IA32_VMX_PROCBASED_CTLS,
		MSR_IA32_VMX_PROCBASED_CTLS2, MSR_IA32_VMX_EXIT_CTLS,
		MSR_IA32_VMX_ENTRY_CTLS,
	};
	static const u32 true_msrs[] = {
		MSR_IA32_VMX_TRUE_PINBASED_CTLS, MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
		MSR_IA32_VMX_PROCBASED_CTLS2,	 MSR_IA32_VMX_TRUE_EXIT_CTLS,
		MSR_IA32_VMX_TRUE_ENTRY_CTLS,
	};
	u64 basic, val;
	int i;

	rdmsrl(MSR_IA32_VMX_BASIC, basic);
	vmx_caps.revision = basic & GENMASK(30, 0);
	for (i = 0; i < ARRAY_SIZE(msrs); i++) {
		val = 0;	/* the secondary controls' register may not exist */
		rdmsrl_safe(basic & VMX_BASIC_TRUE_CTLS ? true_msrs[i] : msrs[i], &val);
		must[i] = (u32)val;
		may[i] = val >> 32;
	}
	rdmsrl_safe(MSR_IA32_VMX_EPT_VPID_CAP, &may[EPT]);
	rdmsrl_safe(MSR_IA32_VMX_MISC, &may[MISC]);
	rdmsrl(MSR_IA32_VMX_CR0_FIXED0, vmx_caps.cr0_fixed);
	vmx_caps.cr0_fixed &= ~(u64)(X86_CR0_PE | X86_CR0_PG);	/* unrestricted guests */
}

static const char *negotiate(void)
{
	u64 may[NR_WORDS] = {}, must[NR_WORDS] = {}, on[NR_WORDS];
	static char sentence[96];
	bool apicv = apicv_wanted;
	int i;

	read_capabilities(may, must);
	memcpy(on, must, sizeof(on));
	for (i = 0; i < ARRAY_SIZE(controls); i++) {
		u8 word = controls[i].word, need = controls[i].need;
		u32 bit = controls[i].bit;
		bool can = need == NEVER ? !(must[word] & bit) : may[word] & bit;

		if (controls[i].feature && !boot_cpu_has(controls[i].feature))
			continue;
		if (need == APICV) {
			apicv = apicv && can;
			vmx_caps.apicv |= bit;
		} else if (!can && need != WANTED) {
			snprintf(sentence, sizeof(sentence), "this CPU's VMX does not have %s", controls[i].name);
			return sentence;
		}
		if (can && need <= WANTED)
			on[word] |= bit;
	}
	if (!apicv)
		vmx_caps.apicv = 0;
	vmx_caps.pin = on[PIN];
	vmx_caps.cpu = on[CPU];
	vmx_caps.cpu2 = on[CPU2];
	vmx_caps.exit = on[EXIT];
	vmx_caps.entry = on[ENTRY];
	vmx_caps.ept = on[EPT];
	return NULL;
}

/* hw_ops missing. The kernel locks IA32_FEAT_CTL at boot, so its value cannot change any more. */
const char *vmx_missing(void)
{
	const u64 enabled = FEAT_CTL_LOCKED | FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX;
	u64 feat_ctl = 0;

	if (!vmx_wanted)
		return "VMX has only been tested in an emulator; load with vmx=1 to use it anyway";
	if (!(cpuid_ecx(1) & BIT(X86_FEATURE_VMX & 31)))
		return "this CPU does not have VMX (VT-x), or the hypervisor that it runs under does not expose it";
	if (mkvm_host_has_fred())
		return "the kernel uses FRED, which is not supported here: boot with fred=off";
	rdmsrl_safe(MSR_IA32_FEAT_CTL, &feat_ctl);
	if ((feat_ctl & enabled) != enabled)
		return "VMX is disabled by the firmware (MSR IA32_FEAT_CTL): enable it in the firmware's setup";
	return negotiate();
}
