/* SPDX-License-Identifier: GPL-2.0 */
/*
 * quiet_msrs.h - registers without a function that guests access although CPUID does not
 * announce them, one row each; Documentation/abi.rst gives the reasons. The file that includes this
 * defines ROW(first, last, reads, access), with access one of
 *
 *   IGNORED	it reads as given, and a write changes nothing
 *   FIXED	it reads as given; a guest's write of the same value changes nothing, another is #GP
 *   WRITES	writes change nothing, reading is #GP
 *   ABSENT	both are #GP: guests that read it expect that, or CPUID does not announce it
 *
 * Userspace reads what a guest reads, and its writes change nothing. msr.c implements the
 * first three; selftests/kvm/msrs.c tests all. There is no include guard, because each including
 * file decides what a row becomes.
 */

/* --- any vendor's, or Intel's --- */
ROW(0x00000000, 0x00000001, 0, FIXED)			/* P5_MC_ADDR, P5_MC_TYPE */
ROW(0x00000017, 0x00000017, 0, FIXED)			/* IA32_PLATFORM_ID */
ROW(0x0000002a, 0x0000002a, 0, IGNORED)			/* EBL_CR_POWERON */
ROW(0x0000002c, 0x0000002c, 1 << 24, FIXED)		/* EBC_FREQUENCY_ID: a ratio of 1 */
ROW(0x00000033, 0x00000033, 0, ABSENT)			/* TEST_CTL */
ROW(0x00000035, 0x00000035, 0, ABSENT)			/* CORE_THREAD_COUNT: userspace's */
ROW(0x0000003a, 0x0000003a, 1, FIXED)			/* IA32_FEATURE_CONTROL: locked */
ROW(0x0000004e, 0x0000004f, 0, ABSENT)			/* PPIN_CTL, PPIN */
ROW(0x00000079, 0x00000079, 0, WRITES)			/* IA32_BIOS_UPDT_TRIG: microcode */
ROW(0x000000c1, 0x000000c2, 0, IGNORED)			/* IA32_PMC0, IA32_PMC1 */
ROW(0x000000cd, 0x000000cd, 3, FIXED)			/* FSB_FREQ: 167 MHz */
ROW(0x000000e2, 0x000000e2, 0, IGNORED)			/* PKG_CST_CONFIG_CONTROL */
ROW(0x000000e7, 0x000000e8, 0, ABSENT)			/* IA32_MPERF, IA32_APERF */
ROW(0x0000011e, 0x0000011e, 0xbe702111, IGNORED)	/* BBL_CR_CTL3: an L2 cache that is on */
ROW(0x0000017f, 0x0000017f, 0, ABSENT)			/* ERROR_CONTROL */
ROW(0x00000186, 0x00000187, 0, IGNORED)			/* IA32_PERFEVTSEL0, IA32_PERFEVTSEL1 */
ROW(0x00000194, 0x00000194, 0, IGNORED)			/* FLEX_RATIO */
ROW(0x00000198, 0x00000198, 1000 | 4ull << 40, FIXED)	/* IA32_PERF_STATUS */
ROW(0x00000199, 0x00000199, 0, IGNORED)			/* IA32_PERF_CTL */
ROW(0x0000019a, 0x0000019d, 0, ABSENT)			/* IA32_CLOCK_MODULATION to THERM2_CTL */
ROW(0x000001a2, 0x000001a2, 0, ABSENT)			/* TEMPERATURE_TARGET */
ROW(0x000001ad, 0x000001ad, 0, ABSENT)			/* TURBO_RATIO_LIMIT */
ROW(0x000001b0, 0x000001b2, 0, ABSENT)			/* energy bias, IA32_PACKAGE_THERM_* */
ROW(0x000001c8, 0x000001c9, 0, ABSENT)			/* LBR_SELECT, LASTBRANCH_TOS */
ROW(0x000001db, 0x000001de, 0, FIXED)			/* LASTBRANCHFROMIP to LASTINTTOIP */
ROW(0x00000606, 0x00000606, 0, FIXED)			/* RAPL_POWER_UNIT */
ROW(0x00000610, 0x00000610, 0, ABSENT)			/* PKG_POWER_LIMIT */
ROW(0x00000611, 0x00000611, 0, FIXED)			/* PKG_ENERGY_STATUS */
ROW(0x00000619, 0x00000619, 0, FIXED)			/* DRAM_ENERGY_STATUS */
ROW(0x00000639, 0x00000639, 0, FIXED)			/* PP0_ENERGY_STATUS */
ROW(0x00000641, 0x00000641, 0, FIXED)			/* PP1_ENERGY_STATUS */
ROW(0x00000770, 0x00000774, 0, ABSENT)			/* IA32_PM_ENABLE to IA32_HWP_REQUEST */
/* --- AMD's --- */
ROW(0xc0000104, 0xc0000104, 0, ABSENT)			/* TSC_RATIO */
ROW(0xc0000300, 0xc0000302, 0, ABSENT)			/* PERF_CNTR_GLOBAL_* */
ROW(0xc0010000, 0xc0010007, 0, IGNORED)			/* PERF_CTL0-3, PERF_CTR0-3 */
ROW(0xc0010010, 0xc0010010, 0, FIXED)			/* SYSCFG */
ROW(0xc001001b, 0xc001001b, 0x20000000, IGNORED)	/* K7's CLK_CTL */
ROW(0xc001001f, 0xc001001f, 0, IGNORED)			/* NB_CFG */
ROW(0xc0010020, 0xc0010020, 0, WRITES)			/* PATCH_LOADER: microcode */
ROW(0xc0010044, 0xc001004b, 0, IGNORED)			/* MC0_CTL_MASK to MC7_CTL_MASK */
ROW(0xc0010055, 0xc0010055, 0, FIXED)			/* INT_PENDING_MSG */
ROW(0xc0010058, 0xc0010058, 0, FIXED)			/* MMIO_CONF_BASE */
ROW(0xc0010061, 0xc0010071, 0, ABSENT)			/* P-states, COFVID */
ROW(0xc0010112, 0xc0010113, 0, FIXED)			/* TSEG_ADDR, TSEG_MASK */
ROW(0xc0010114, 0xc0010114, 0x18, IGNORED)		/* VM_CR: SVM is off, and locked */
ROW(0xc0010115, 0xc0010115, 0, IGNORED)			/* IGNNE */
ROW(0xc0010117, 0xc0010117, 0, IGNORED)			/* VM_HSAVE_PA */
ROW(0xc0010131, 0xc0010131, 0, ABSENT)			/* SEV_STATUS */
ROW(0xc0010200, 0xc001020b, 0, ABSENT)			/* PERF_CTL0 to PERF_CTR5 of PERFCTR_CORE */
ROW(0xc0010290, 0xc001029b, 0, ABSENT)			/* power and energy */
ROW(0xc0011020, 0xc0011020, 0, ABSENT)		/* LS_CFG: absent, lest Linux control SSBD by it */
ROW(0xc0011021, 0xc0011021, 0, FIXED)			/* IC_CFG */
ROW(0xc0011022, 0xc0011022, 0, IGNORED)			/* DC_CFG */
ROW(0xc0011023, 0xc0011023, 0, IGNORED)			/* TW_CFG */
ROW(0xc001102a, 0xc001102a, 0, IGNORED)			/* BU_CFG2 */
ROW(0xc001102c, 0xc001102c, 0, IGNORED)			/* EX_CFG */
ROW(0xc0011030, 0xc001103b, 0, ABSENT)			/* IBS */
