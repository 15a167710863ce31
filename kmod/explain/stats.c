// SPDX-License-Identifier: GPL-2.0
/*
 * stats.c - KVM_GET_STATS_FD: descriptors from which any process reads the counters of a VM or
 * a vCPU. Names are Linux KVM's where it counts the same.
 *
 * State: the file's image below. The counters are vm->stats and vcpu->stats; each file holds a
 * reference to its VM.
 *
 * Read next: mkvm.h (enum mkvm_vcpu_stat, enum mkvm_vm_stat).
 */
#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/slab.h>

#include "mkvm.h"

#define GAUGE	(KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10)
#define COUNT	(KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10)
#define NAME_SIZE 48		/* bytes of the id and of each counter's name, a multiple of 8 */
/* The size of the name in the struct differs between kernels, so it is not used. */
#define DESC_SIZE (offsetof(struct kvm_stats_desc, name) + NAME_SIZE)

struct stat_def {
	const char *name;
	u32 flags;
};

static const struct stat_def vm_stats[] = {
	[MKVM_STAT_PAGES_4K] = { "pages_4k", GAUGE },
	[MKVM_STAT_PAGES_2M] = { "pages_2m", GAUGE },
	[MKVM_STAT_REMOTE_TLB_FLUSH] = { "remote_tlb_flush", COUNT },
};

static const struct stat_def vcpu_stats[] = {
	[MKVM_STAT_EXITS] = { "exits", COUNT },
	[MKVM_STAT_IRQ_EXITS] = { "irq_exits", COUNT },
	[MKVM_STAT_IRQ_WINDOW_EXITS] = { "irq_window_exits", COUNT },
	[MKVM_STAT_IO_EXITS] = { "io_exits", COUNT },
	[MKVM_STAT_MMIO_EXITS] = { "mmio_exits", COUNT },
	[MKVM_STAT_MSR_EXITS] = { "msr_exits", COUNT },
	[MKVM_STAT_CPUID_EXITS] = { "cpuid_exits", COUNT },
	[MKVM_STAT_HALT_EXITS] = { "halt_exits", COUNT },
	[MKVM_STAT_HALT_WAKEUP] = { "halt_wakeup", COUNT },
	[MKVM_STAT_SIGNAL_EXITS] = { "signal_exits", COUNT },
	[MKVM_STAT_PF_TAKEN] = { "pf_taken", COUNT },
	[MKVM_STAT_INSN_EMULATION] = { "insn_emulation", COUNT },
	[MKVM_STAT_TLB_FLUSH] = { "tlb_flush", COUNT },
	[MKVM_STAT_IRQ_INJECTIONS] = { "irq_injections", COUNT },
	[MKVM_STAT_NMI_INJECTIONS] = { "nmi_injections", COUNT },
};

struct stats_file {
	struct mkvm *vm;		/* a reference */
	const u64 *counters;		/* nr counters, which other threads increase */
	u64 *values;			/* their values in the image */
	u32 nr;
	size_t size;
	u8 image[] __aligned(8);	/* the file's content: header, id, descriptors, values */
};

static void fill_image(struct stats_file *f, const struct stat_def *defs)
{
	struct kvm_stats_header *head = (void *)f->image;
	u32 i;

	head->name_size = NAME_SIZE;
	head->num_desc = f->nr;
	head->id_offset = sizeof(*head);
	head->desc_offset = head->id_offset + NAME_SIZE;
	head->data_offset = head->desc_offset + f->nr * DESC_SIZE;
	f->values = (void *)f->image + head->data_offset;
	for (i = 0; i < f->nr; i++) {
		struct kvm_stats_desc *desc = (void *)f->image + head->desc_offset + i * DESC_SIZE;

		desc->flags = defs[i].flags;
		desc->size = 1;
		desc->offset = i * sizeof(u64);
		memcpy((void *)desc->name, defs[i].name, strlen(defs[i].name));
	}
}

static ssize_t stats_read(struct file *file, char __user *buf, size_t size, loff_t *pos)
{
	struct stats_file *f = file->private_data;
	u32 i;

	for (i = 0; i < f->nr; i++)
		WRITE_ONCE(f->values[i], READ_ONCE(f->counters[i]));
	return simple_read_from_buffer(buf, size, pos, f->image, f->size);
}

static int stats_release(struct inode *inode, struct file *file)
{
	struct stats_file *f = file->private_data;

	mkvm_vm_put(f->vm);
	kfree(f);
	return 0;
}

static const struct file_operations stats_fops = {
	.owner = THIS_MODULE,
	.read = stats_read,
	.release = stats_release,
	.llseek = noop_llseek,
};

static struct stats_file *stats_file_create(struct mkvm *vm, struct mkvm_vcpu *vcpu)
{
	u32 nr = vcpu ? ARRAY_SIZE(vcpu_stats) : ARRAY_SIZE(vm_stats);
	size_t size = sizeof(struct kvm_stats_header) + NAME_SIZE +
		      nr * (DESC_SIZE + sizeof(u64));
	struct stats_file *f = kzalloc(struct_size(f, image, size), GFP_KERNEL_ACCOUNT);
	char *id;

	BUILD_BUG_ON(ARRAY_SIZE(vcpu_stats) != MKVM_NR_VCPU_STATS ||
		     ARRAY_SIZE(vm_stats) != MKVM_NR_VM_STATS);
	if (!f)
		return NULL;
	f->vm = vm;
	f->nr = nr;
	f->size = size;
	f->counters = vcpu ? vcpu->stats : vm->stats;
	fill_image(f, vcpu ? vcpu_stats : vm_stats);
	id = f->image + sizeof(struct kvm_stats_header);
	if (vcpu)
		snprintf(id, NAME_SIZE, "kvm-%d/vcpu-%u", task_pid_nr(current), vcpu->id);
	else
		snprintf(id, NAME_SIZE, "kvm-%d", task_pid_nr(current));
	return f;
}

/*
 * mkvm_stat_name - returns the name of a counter
 * @i: below MKVM_NR_VCPU_STATS for a vCPU's counter, below MKVM_NR_VM_STATS for a VM's
 *
 * Context: any.
 */
const char *mkvm_stat_name(u32 i, bool vcpu)
{
	return vcpu ? vcpu_stats[i].name : vm_stats[i].name;
}

/*
 * mkvm_stats_fd - KVM_GET_STATS_FD
 * @vcpu: the vCPU, NULL: the VM's counters
 *
 * Context: may sleep. Return: a descriptor, -ENOMEM, or what creating files gives.
 */
int mkvm_stats_fd(struct mkvm *vm, struct mkvm_vcpu *vcpu)
{
	struct stats_file *f = stats_file_create(vm, vcpu);
	struct file *file;
	int fd;

	if (!f)
		return -ENOMEM;
	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		goto out;
	file = anon_inode_getfile("mkvm-stats", &stats_fops, f, O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		fd = PTR_ERR(file);
		goto out;
	}
	file->f_mode |= FMODE_PREAD;
	mkvm_vm_get(vm);
	fd_install(fd, file);
	return fd;
out:
	kfree(f);
	return fd;
}
