// SPDX-License-Identifier: GPL-2.0
/*
 * MSRs that guests touch unasked: each row of kmod/cpu/quiet_msrs.h, and those with a function that
 * belong to no other subject: microcode, SMI count, DEBUGCTL, TSC_AUX.
 *
 * Read next: cpuid.c, regs.c.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "vm.h"

#define MSR_SMI_COUNT 0x34
#define MSR_UCODE_WRITE 0x79
#define MSR_UCODE_REV 0x8b
#define MSR_ARCH_CAPABILITIES 0x10a
#define MSR_DEBUGCTL 0x1d9
#define MSR_PERF_CAPABILITIES 0x345
#define MSR_TSC_AUX 0xc0000103
#define MSR_OSVW 0xc0010140

enum access { IGNORED, FIXED, WRITES, ABSENT };

static const struct row {
	u32 first, last;
	u64 reads;
	enum access access;
} rows[] = {
#define ROW(first, last, reads, access) { first, last, reads, access },
#include "../../kmod/cpu/quiet_msrs.h"
#undef ROW
};
#define NR_ROWS (sizeof(rows) / sizeof(rows[0]))

/* What one register did: read, write of what it reads, write of something else, read again. */
static volatile struct {
	u64 read_vector, read, same_vector, other_vector, read_back;
} seen[256];
static volatile u32 nr_seen;

static void rows_guest(u64 arg)
{
	u32 n = 0;
	u64 val;

	(void)arg;
	for (u32 i = 0; i < NR_ROWS; i++) {
		for (u32 msr = rows[i].first; msr <= rows[i].last; msr++, n++) {
			val = 0;
			seen[n].read_vector = rdmsr_try(msr, &val);
			seen[n].read = val;
			seen[n].same_vector = wrmsr_try(msr, rows[i].reads);
			seen[n].other_vector = wrmsr_try(msr, rows[i].reads ^ 5);
			val = 0;
			rdmsr_try(msr, &val);
			seen[n].read_back = val;
		}
	}
	nr_seen = n;
}

static void set_vendor(struct cpuid_list *list, const char *vendor)
{
	struct kvm_cpuid_entry2 *e = &list->entries[0];

	ASSERT_EQ(0, e->function);
	memcpy(&e->ebx, vendor, 4);
	memcpy(&e->edx, vendor + 4, 4);
	memcpy(&e->ecx, vendor + 8, 4);
}

static struct vcpu *vcpu_of(const char *vendor, void (*guest)(u64 arg), u64 arg)
{
	static struct cpuid_list list;
	struct vcpu *vcpu = vcpu_create(vm_create(VM_IRQCHIP), 0);

	default_cpuid(&list, 0);
	set_vendor(&list, vendor);
	ASSERT_OK(ioctl(vcpu->fd, KVM_SET_CPUID2, &list));
	vcpu_set_guest(vcpu, guest, arg);
	return vcpu;
}

static void expect_rows(const char *vendor)
{
	struct vcpu *vcpu = vcpu_of(vendor, rows_guest, 0);
	u32 n = 0;

	vcpu_run_to_done(vcpu);
	for (u32 i = 0; i < NR_ROWS; i++) {
		const struct row *row = &rows[i];
		bool reads = row->access == IGNORED || row->access == FIXED;

		for (u32 msr = row->first; msr <= row->last; msr++, n++) {
			ktap_about("MSR %#x of %s", msr, vendor);
			EXPECT_EQ(reads ? VEC_NONE : VEC_GP, seen[n].read_vector);
			EXPECT_EQ(reads ? row->reads : 0, seen[n].read);
			EXPECT_EQ(row->access == ABSENT ? VEC_GP : VEC_NONE, seen[n].same_vector);
			EXPECT_EQ(row->access == ABSENT || row->access == FIXED ? VEC_GP : VEC_NONE,
				  seen[n].other_vector);
			EXPECT_EQ(reads ? row->reads : 0, seen[n].read_back);
			/* Userspace may write back what it has read. */
			if (reads) {
				EXPECT_EQ(row->reads, vcpu_get_msr(vcpu, msr));
				EXPECT_EQ(1, vcpu_set_msr(vcpu, msr, row->reads));
			}
		}
	}
	EXPECT_EQ(n, nr_seen);
}

TEST(registers_without_a_function_answer_as_the_table_says)
{
	if (is_linux_kvm())
		SKIP("Linux KVM decides some otherwise");
	expect_rows("AuthenticAMD");
	expect_rows("GenuineIntel");
}

TEST(no_register_is_in_the_table_twice_or_in_the_list_of_those_to_save)
{
	struct {
		u32 nmsrs, indices[256];
	} list = { .nmsrs = 256 };

	for (u32 i = 1; i < NR_ROWS; i++)
		EXPECT_LT(rows[i - 1].last, rows[i].first);
	if (is_linux_kvm())
		SKIP("Linux KVM lists others");
	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_INDEX_LIST, &list));
	for (u32 i = 0; i < NR_ROWS; i++) {
		for (u32 j = 0; j < list.nmsrs; j++) {
			ktap_about("MSR %#x", list.indices[j]);
			EXPECT_TRUE(list.indices[j] < rows[i].first ||
				    list.indices[j] > rows[i].last);
		}
	}
}

/* What the device says a vCPU can have, a fresh one has. */
TEST(feature_msrs_are_answered_by_the_device_and_by_a_vcpu)
{
	struct vcpu *vcpu = vcpu_create(vm_create(0), 0);
	struct {
		u32 nmsrs, indices[64];
	} list = { .nmsrs = 64 };

	NEED_CAP(KVM_CAP_GET_MSR_FEATURES);
	ASSERT_OK(ioctl(device_fd(), KVM_GET_MSR_FEATURE_INDEX_LIST, &list));
	for (u32 i = 0; i < list.nmsrs; i++) {
		struct msr_list one = { .nmsrs = 1, .entries[0].index = list.indices[i] };
		u64 device;

		/* Registers of nested virtualization come with VMX in CPUID. */
		if (list.indices[i] >= 0x480 && list.indices[i] < 0x4a0)
			continue;
		ktap_about("MSR %#x", list.indices[i]);
		EXPECT_EQ(1, ioctl(device_fd(), KVM_GET_MSRS, &one));
		device = one.entries[0].data;
		EXPECT_EQ(1, ioctl(vcpu->fd, KVM_GET_MSRS, &one));
		if (!is_linux_kvm())	/* which tells of the host, and starts with less */
			EXPECT_EQ(device, one.entries[0].data);
		EXPECT_EQ(1, ioctl(vcpu->fd, KVM_SET_MSRS, &one));
	}
}

static void capabilities_guest(u64 arg)
{
	u64 val;

	(void)arg;
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_ARCH_CAPABILITIES, &val));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_PERF_CAPABILITIES, &val));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_ARCH_CAPABILITIES, 0));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_OSVW, &val));
}

TEST(registers_that_cpuid_does_not_announce_are_gp)
{
	if (is_linux_kvm())
		SKIP("Linux KVM announces some of them");
	vcpu_run_to_done(vcpu_of("GenuineIntel", capabilities_guest, 0));
	vcpu_run_to_done(vcpu_of("AuthenticAMD", capabilities_guest, 0));
}

/* --- Microcode --- */

#define REVISION 0x1234567800ull

static void microcode_guest(u64 want)
{
	u64 val;

	GUEST_EQ(want, rdmsr(MSR_UCODE_REV));
	wrmsr(MSR_UCODE_WRITE, 0x1000);
	wrmsr(MSR_UCODE_REV, 0);
	GUEST_EQ(want, rdmsr(MSR_UCODE_REV));
	GUEST_EQ(VEC_GP, rdmsr_try(MSR_UCODE_WRITE, &val));
}

TEST(the_microcode_has_the_revision_that_userspace_says_and_takes_no_update)
{
	struct vcpu *vcpu = vcpu_of("GenuineIntel", microcode_guest, REVISION);

	EXPECT_NE(0, vcpu_get_msr(vcpu, MSR_UCODE_REV));
	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_UCODE_REV, REVISION));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(REVISION, vcpu_get_msr(vcpu, MSR_UCODE_REV));
}

/* --- SMIs are counted --- */

CODE_BLOB(rsm_code, 16, "rsm");

static void smi_count_guest(u64 arg)
{
	(void)arg;
	stage(1);
	GUEST_EQ(3, rdmsr(MSR_SMI_COUNT));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_SMI_COUNT, 0));
}

TEST(smis_that_were_taken_are_counted)
{
	struct vm *vm = vm_create(VM_IRQCHIP);
	struct vcpu *vcpu = vcpu_add(vm, smi_count_guest, 0);

	NEED_CAP(KVM_CAP_X86_SMM);
	vm_load(vm, 0x38000, rsm_code, rsm_code_end);
	ASSERT_OK(vm_set_slot(vm, 1 << 16, 0, 0, LOW_RAM_SIZE, vm->low));	/* what SMM sees */
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(0, vcpu_get_msr(vcpu, MSR_SMI_COUNT));
	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_SMI_COUNT, 2));
	ASSERT_OK(ioctl(vcpu->fd, KVM_SMI, 0));
	vcpu_run_to_done(vcpu);
	EXPECT_EQ(3, vcpu_get_msr(vcpu, MSR_SMI_COUNT));
}

/* --- DEBUGCTL, TSC_AUX, EFER --- */

static void debugctl_guest(u64 arg)
{
	(void)arg;
	GUEST_EQ(0, rdmsr(MSR_DEBUGCTL));
	/* Last-branch records and branch traps: no CPUID bit says whether there are some. */
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_DEBUGCTL, 1));
	GUEST_EQ(VEC_NONE, wrmsr_try(MSR_DEBUGCTL, 2));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_DEBUGCTL, 1ull << 20));
	GUEST_EQ(VEC_GP, wrmsr_try(MSR_DEBUGCTL, 1ull << 63));
	wrmsr(MSR_DEBUGCTL, 0);
	GUEST_EQ(0, rdmsr(MSR_DEBUGCTL));
}

TEST(debugctl_drops_what_is_not_offered_and_refuses_what_is_reserved)
{
	if (is_linux_kvm())
		SKIP("Linux KVM's SVM without virtual LBRs ignores reserved bits");
	vcpu_run_to_done(vcpu_of("AuthenticAMD", debugctl_guest, 0));
	vcpu_run_to_done(vcpu_of("GenuineIntel", debugctl_guest, 0));
}

static void tsc_aux_guest(u64 upper_vector)
{
	wrmsr(MSR_TSC_AUX, 0x1234);
	GUEST_EQ(upper_vector, wrmsr_try(MSR_TSC_AUX, 0xffffffff00005678));
	GUEST_EQ(upper_vector == VEC_GP ? 0x1234 : 0x5678, rdmsr(MSR_TSC_AUX));
}

/* AMD's CPUs drop it, Intel's manual says that it is reserved. */
TEST(the_upper_half_of_tsc_aux_is_dropped_on_amd_and_gp_on_intel)
{
	static struct cpuid_list list;
	bool has = false;

	default_cpuid(&list, 0);
	for (u32 i = 0; i < list.nent; i++)
		if (list.entries[i].function == 0x80000001)
			has = list.entries[i].edx >> 27 & 1;
	if (!has)
		SKIP("the CPU has no RDTSCP");
	vcpu_run_to_done(vcpu_of("AuthenticAMD", tsc_aux_guest, VEC_NONE));
	vcpu_run_to_done(vcpu_of("GenuineIntel", tsc_aux_guest, VEC_GP));
}

static void nop_guest(u64 arg)
{
	(void)arg;
	stage(1);
}

/* LMA is not userspace's to set by itself: it would be a state that no CPU can be in. */
TEST(efer_by_set_msrs_leaves_lma_as_it_is)
{
	struct vcpu *vcpu = vcpu_of("AuthenticAMD", nop_guest, 0);
	struct vcpu *fresh = vcpu_create(vcpu->vm, 1);

	EXPECT_EQ(1, vcpu_set_msr(vcpu, MSR_EFER, EFER_LME | EFER_SCE));
	EXPECT_EQ(EFER_LME | EFER_LMA | EFER_SCE, vcpu_get_msr(vcpu, MSR_EFER));
	vcpu_run_to_stage(vcpu, 1);
	EXPECT_EQ(1, vcpu_set_msr(fresh, MSR_EFER, EFER_LME | EFER_LMA));
	EXPECT_EQ(EFER_LME, vcpu_get_msr(fresh, MSR_EFER));
}
