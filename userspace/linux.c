// SPDX-License-Identifier: GPL-2.0
/*
 * Passes a Linux kernel to the firmware. The stock linuxboot option ROM reads
 * setup code, kernel, initrd and command line from fw_cfg and copies them to
 * the addresses chosen here. The boot loader's fields of the setup header are
 * filled in according to the kernel's document "The Linux/x86 Boot Protocol".
 * Owns no state. Read fwcfg.c next.
 */
#include <asm/bootparam.h>
#include <linux/qemu_fw_cfg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "mkvm-run.h"

#define OPTION_ROM		"/usr/share/qemu/linuxboot_dma.bin"
#define OPTION_ROM_FILE		"genroms/linuxboot_dma.bin"
#define BOOT_ORDER		"/rom@genroms/linuxboot_dma.bin"

#define SETUP_HEADER_OFFSET	offsetof(struct boot_params, hdr)
#define SETUP_SECTOR		512
#define MIN_PROTOCOL		0x020a		/* the first version with init_size */
#define LOADER_TYPE_QEMU	0xb0		/* the option ROM is QEMU's */

#define SETUP_ADDRESS		0x10000u
#define CMDLINE_ADDRESS		0x20000u
#define KERNEL_ADDRESS		0x100000u
/* The firmware keeps its tables at the top of the RAM below the hole. */
#define FIRMWARE_TOP_RESERVE	(1 * MIB)

static bool is_bzimage(const struct file_data *kernel,
		       const struct setup_header *header)
{
	return kernel->size > SETUP_HEADER_OFFSET + sizeof(*header) &&
	       header->boot_flag == 0xaa55 &&
	       !memcmp(&header->header, "HdrS", 4) &&
	       header->version >= MIN_PROTOCOL &&
	       (header->loadflags & LOADED_HIGH);
}

/*
 * Adds the initrd, as high as the kernel allows but below the firmware's
 * tables, and writes its address into the header.
 */
static void add_initrd(struct setup_header *header, uint64_t kernel_end)
{
	struct file_data initrd;
	uint64_t top = machine_low_memory() - FIRMWARE_TOP_RESERVE;
	uint64_t address;

	initrd = read_file(opt.initrd, "give --initrd a readable archive");
	if (top > (uint64_t)header->initrd_addr_max + 1)
		top = (uint64_t)header->initrd_addr_max + 1;
	if (initrd.size > top || ((top - initrd.size) & ~(PAGE_SIZE - 1ull)) <
	    kernel_end)
		fail(2, "--mem %llu is too little for this kernel and initrd: give at least %llu",
		     (unsigned long long)(opt.memory / MIB),
		     (unsigned long long)((kernel_end + initrd.size +
					   PAGE_SIZE + FIRMWARE_TOP_RESERVE) /
					  MIB + 1));
	address = (top - initrd.size) & ~(PAGE_SIZE - 1ull);
	header->ramdisk_image = (uint32_t)address;
	header->ramdisk_size = (uint32_t)initrd.size;
	fwcfg_add_u32(FW_CFG_INITRD_ADDR, header->ramdisk_image);
	fwcfg_add_u32(FW_CFG_INITRD_SIZE, header->ramdisk_size);
	fwcfg_add(FW_CFG_INITRD_DATA, initrd.data, initrd.size);
}

static void add_command_line(const struct setup_header *header)
{
	const char *text = opt.append ? opt.append : "";
	size_t size = strlen(text) + 1;

	if (size - 1 > header->cmdline_size)
		fail(2, "--append is too long (%zu bytes): this kernel takes %u",
		     size - 1, header->cmdline_size);
	fwcfg_add_u32(FW_CFG_CMDLINE_ADDR, CMDLINE_ADDRESS);
	fwcfg_add_u32(FW_CFG_CMDLINE_SIZE, (uint32_t)size);
	fwcfg_add(FW_CFG_CMDLINE_DATA, text, size);
}

/* Checks the files that --kernel and --initrd name and adds them to fw_cfg. */
void linux_load(void)
{
	struct file_data kernel = read_file(opt.kernel,
					    "give --kernel a readable bzImage");
	struct file_data rom = read_file(OPTION_ROM,
					 "install Debian's package qemu-system-data");
	struct setup_header *header = (void *)(kernel.data +
					       SETUP_HEADER_OFFSET);
	uint64_t kernel_end;
	size_t setup_size;

	if (!is_bzimage(&kernel, header))
		fail(2, "%s is not a Linux bzImage with boot protocol 2.10 or later: give such a file",
		     opt.kernel);
	setup_size = ((header->setup_sects ? header->setup_sects : 4) + 1u) *
		     SETUP_SECTOR;
	if (setup_size >= kernel.size)
		fail(2, "%s is cut short: give the whole file", opt.kernel);
	kernel_end = KERNEL_ADDRESS + kernel.size - setup_size;
	if (kernel_end < header->pref_address + header->init_size)
		kernel_end = header->pref_address + header->init_size;
	if (kernel_end + FIRMWARE_TOP_RESERVE > machine_low_memory())
		fail(2, "--mem %llu is too little for this kernel: give at least %llu",
		     (unsigned long long)(opt.memory / MIB),
		     (unsigned long long)((kernel_end + FIRMWARE_TOP_RESERVE) /
					  MIB + 1));

	header->type_of_loader = LOADER_TYPE_QEMU;
	header->loadflags |= CAN_USE_HEAP;
	header->heap_end_ptr = CMDLINE_ADDRESS - SETUP_ADDRESS - 0x200;
	header->cmd_line_ptr = CMDLINE_ADDRESS;
	if (opt.initrd)
		add_initrd(header, kernel_end);
	add_command_line(header);
	fwcfg_add_u32(FW_CFG_SETUP_ADDR, SETUP_ADDRESS);
	fwcfg_add_u32(FW_CFG_SETUP_SIZE, (uint32_t)setup_size);
	fwcfg_add(FW_CFG_SETUP_DATA, kernel.data, setup_size);
	fwcfg_add_u32(FW_CFG_KERNEL_ADDR, KERNEL_ADDRESS);
	fwcfg_add_u32(FW_CFG_KERNEL_SIZE, (uint32_t)(kernel.size - setup_size));
	fwcfg_add(FW_CFG_KERNEL_DATA, kernel.data + setup_size,
		  kernel.size - setup_size);
	fwcfg_add_file(OPTION_ROM_FILE, rom.data, rom.size);
	fwcfg_add_file("bootorder", BOOT_ORDER, sizeof(BOOT_ORDER));
}
