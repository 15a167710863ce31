// SPDX-License-Identifier: GPL-2.0
/*
 * Builds CPUID from what the device supports: fills in each CPU's APIC id and
 * a topology of one package with one thread in each core. The leaves are
 * described in Intel SDM vol. 2, "CPUID", and AMD APM vol. 3, "Obtaining
 * Processor Information Via the CPUID Instruction". Owns no state.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "mkvm-run.h"

#define LEAF_TOPOLOGY		0xbu
#define LEAF_TOPOLOGY_V2	0x1fu
#define HYPERVISOR_BIT		(1u << 31)	/* leaf 1 ECX */
#define HTT_BIT			(1u << 28)	/* leaf 1 EDX */
#define CMP_LEGACY_BIT		(1u << 1)	/* leaf 0x80000001 ECX */
#define EXTRA_ENTRIES		6		/* two topology leaves */

static struct kvm_cpuid2 *cpuid_allocate(unsigned int entries)
{
	struct kvm_cpuid2 *cpuid;

	cpuid = calloc(1, sizeof(*cpuid) + entries * sizeof(cpuid->entries[0]));
	if (!cpuid)
		fail(2, "no memory left for the CPUID table: free some on this machine");
	cpuid->nent = entries;
	return cpuid;
}

/* Returns the leaves that the device supports; the caller owns the result. */
struct kvm_cpuid2 *cpuid_supported(int kvm_fd)
{
	struct kvm_cpuid2 *cpuid;
	unsigned int entries;

	for (entries = 64; entries <= 4096; entries *= 2) {
		cpuid = cpuid_allocate(entries);
		if (!ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid))
			return cpuid;
		if (errno != E2BIG)
			break;
		free(cpuid);
	}
	fail(2, "%s does not report its CPUID (%s): see the kernel log",
	     opt.device, strerror(errno));
}

/* Returns the number of bits that hold the ids of @cpus CPUs. */
static unsigned int id_bits(unsigned int cpus)
{
	unsigned int bits = 0;

	while (1u << bits < cpus)
		bits++;
	return bits;
}

static void add_topology(struct kvm_cpuid2 *cpuid, uint32_t leaf,
			 unsigned int apic_id, unsigned int cpus)
{
	enum { LEVEL_NONE, LEVEL_THREAD, LEVEL_CORE };
	unsigned int level;

	for (level = 0; level < 3; level++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[cpuid->nent++];

		*entry = (struct kvm_cpuid_entry2){
			.function = leaf,
			.index = level,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.ecx = level,
			.edx = apic_id,
		};
		if (level == 0) {
			entry->ebx = 1;
			entry->ecx |= LEVEL_THREAD << 8;
		} else if (level == 1) {
			entry->eax = id_bits(cpus);
			entry->ebx = cpus;
			entry->ecx |= LEVEL_CORE << 8;
		}
	}
}

static void adjust_entry(struct kvm_cpuid_entry2 *entry, unsigned int apic_id,
			 unsigned int cpus)
{
	unsigned int shown = cpus < 256 ? cpus : 255;

	switch (entry->function) {
	case 0:
		if (entry->eax < LEAF_TOPOLOGY)
			entry->eax = LEAF_TOPOLOGY;
		break;
	case 1:
		entry->ebx &= 0x0000ffff;
		entry->ebx |= (apic_id & 0xff) << 24 | shown << 16;
		entry->ecx |= HYPERVISOR_BIT;
		entry->edx &= ~HTT_BIT;
		if (cpus > 1)
			entry->edx |= HTT_BIT;
		break;
	case 4:
		/* Clear the number of cores, and of CPUs that share this cache. */
		entry->eax &= 0x00003fff;
		if (entry->eax & 0x1f)
			entry->eax |= ((1u << id_bits(cpus < 64 ? cpus : 64)) -
				       1) << 26;
		break;
	case 0x80000001:
		entry->ecx &= ~CMP_LEGACY_BIT;
		if (cpus > 1)
			entry->ecx |= CMP_LEGACY_BIT;
		break;
	case 0x80000008:
		entry->ecx &= ~0xf0ffu;
		entry->ecx |= id_bits(cpus) << 12 | (shown - 1);
		break;
	case 0x8000001e:
		entry->eax = apic_id;
		entry->ebx = apic_id & 0xff;
		entry->ecx = 0;
		break;
	}
}

/* Sets the CPUID of a new vCPU; does not change @supported. */
void cpuid_set(int vcpu_fd, const struct kvm_cpuid2 *supported,
	       unsigned int apic_id, unsigned int cpus)
{
	struct kvm_cpuid2 *cpuid = cpuid_allocate(supported->nent +
						  EXTRA_ENTRIES);
	bool topology_v2 = false;
	unsigned int i;

	cpuid->nent = 0;
	for (i = 0; i < supported->nent; i++) {
		const struct kvm_cpuid_entry2 *from = &supported->entries[i];

		if (from->function == LEAF_TOPOLOGY_V2)
			topology_v2 = true;
		if (from->function == LEAF_TOPOLOGY ||
		    from->function == LEAF_TOPOLOGY_V2)
			continue;
		cpuid->entries[cpuid->nent] = *from;
		adjust_entry(&cpuid->entries[cpuid->nent++], apic_id, cpus);
	}
	add_topology(cpuid, LEAF_TOPOLOGY, apic_id, cpus);
	if (topology_v2)
		add_topology(cpuid, LEAF_TOPOLOGY_V2, apic_id, cpus);
	if (ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		fail(2, "%s refuses the CPUID of CPU %u (%s): see the kernel log",
		     opt.device, apic_id, strerror(errno));
	free(cpuid);
}
