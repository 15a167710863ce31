// SPDX-License-Identifier: GPL-2.0
/*
 * Implements fw_cfg, the device from which the firmware and the linuxboot
 * option ROM read everything they need: a selector at port 0x510, a data byte
 * at 0x511, DMA at 0x514. See "QEMU Firmware Configuration (fw_cfg) Device" in
 * QEMU's specifications; numbers come from <linux/qemu_fw_cfg.h>.
 *
 * Owns the items (constant once the machine runs), the selection and the DMA
 * address. Read acpi.c and linux.c for the contents of the items.
 */
#include <endian.h>
#include <linux/qemu_fw_cfg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mkvm-run.h"

#define PORT_SELECT		0x510
#define PORT_DATA		0x511
#define PORT_DMA_HIGH		0x514
#define PORT_DMA_LOW		0x518
#define MAX_FILES		16
/* The only PC-specific key here: IRQ 0 is connected to GSI 2. */
#define KEY_IRQ0_OVERRIDE	(FW_CFG_ARCH_LOCAL + 2)

struct item {
	const uint8_t *data;
	size_t size;
};

static struct item items[FW_CFG_FILE_FIRST + MAX_FILES];
static struct {
	uint32_t count;		/* big-endian for the guest */
	struct fw_cfg_file file[MAX_FILES];
} directory;
static unsigned int file_count;

static struct {
	uint16_t key;
	size_t offset;
	uint64_t dma_address;
	bool rom_announced;
	bool kernel_loaded;
} state;

/* Adds an item. @data must live as long as the program. */
void fwcfg_add(unsigned int key, const void *data, size_t size)
{
	items[key] = (struct item){ data, size };
}

static void *store(const void *data, size_t size)
{
	void *copy = malloc(size);

	if (!copy)
		fail(2, "no memory left for the set-up: free some on this machine");
	return memcpy(copy, data, size);
}

void fwcfg_add_u16(unsigned int key, uint16_t value)
{
	value = htole16(value);
	fwcfg_add(key, store(&value, sizeof(value)), sizeof(value));
}

void fwcfg_add_u32(unsigned int key, uint32_t value)
{
	value = htole32(value);
	fwcfg_add(key, store(&value, sizeof(value)), sizeof(value));
}

/* Adds a file, of at most MAX_FILES; @name has at most FW_CFG_MAX_FILE_PATH - 1 bytes. */
void fwcfg_add_file(const char *name, const void *data, size_t size)
{
	struct fw_cfg_file *file = &directory.file[file_count];
	unsigned int key = FW_CFG_FILE_FIRST + file_count;

	file->size = htobe32((uint32_t)size);
	file->select = htobe16((uint16_t)key);
	snprintf(file->name, sizeof(file->name), "%s", name);
	fwcfg_add(key, data, size);
	file_count++;
}

/* Adds SeaBIOS's memory map: the RAM, and the addresses that must stay free. */
static void add_e820(void)
{
	static struct {
		uint64_t address;
		uint64_t size;
		uint32_t type;
	} __attribute__((packed)) map[3];
	enum { E820_USABLE = 1, E820_KEEP_OUT = 2 };
	uint64_t low = machine_low_memory();
	unsigned int n = 0;

	map[n].size = low;
	map[n++].type = E820_USABLE;
	if (opt.memory > low) {
		map[n].address = 4 * GIB;
		map[n].size = opt.memory - low;
		map[n++].type = E820_USABLE;
	}
	/* The pages given to KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR. */
	map[n].address = 0xfeffc000;
	map[n].size = 4 * PAGE_SIZE;
	map[n++].type = E820_KEEP_OUT;
	fwcfg_add_file("etc/e820", map, n * sizeof(map[0]));
}

/* Adds the items that every machine has and closes the list. */
void fwcfg_create(void)
{
	fwcfg_add(FW_CFG_SIGNATURE, "QEMU", FW_CFG_SIG_SIZE);
	fwcfg_add_u32(FW_CFG_ID, FW_CFG_VERSION | FW_CFG_VERSION_DMA);
	fwcfg_add_u16(FW_CFG_NB_CPUS, (uint16_t)opt.smp);
	fwcfg_add_u16(FW_CFG_MAX_CPUS, (uint16_t)opt.smp);
	fwcfg_add_u16(FW_CFG_BOOT_MENU, 0);
	add_e820();
	directory.count = htobe32(file_count);
	fwcfg_add(FW_CFG_FILE_DIR, &directory,
		  sizeof(directory.count) +
		  file_count * sizeof(directory.file[0]));
}

void fwcfg_reset(void)
{
	memset(&state, 0, sizeof(state));
}

/* Returns true once the option ROM has read the whole kernel. */
bool fwcfg_kernel_loaded(void)
{
	return state.kernel_loaded;
}

static void announce(uint16_t key, size_t size)
{
	if (key == FW_CFG_KERNEL_DATA) {
		stage("option ROM: kernel read, %.1f MiB",
		      (double)size / (double)MIB);
		state.kernel_loaded = true;
	} else if (key == FW_CFG_INITRD_DATA) {
		stage("option ROM: initrd read, %.1f MiB",
		      (double)size / (double)MIB);
	} else if (key == FW_CFG_SETUP_DATA && !state.rom_announced) {
		stage("option ROM: started, reads the kernel");
		state.rom_announced = true;
	}
}

static const struct item *selected_item(void)
{
	static const struct item none, irq0_override = { (uint8_t *)"\1", 1 };

	if (state.key == KEY_IRQ0_OVERRIDE)
		return &irq0_override;
	if (state.key < sizeof(items) / sizeof(items[0]))
		return &items[state.key];
	return &none;
}

/*
 * Copies @size bytes of the selected item to @data, or skips them if it is
 * NULL; bytes past the item's end read as zero.
 */
static void read_item(uint8_t *data, size_t size)
{
	const struct item *item = selected_item();
	size_t left = state.offset < item->size ? item->size - state.offset : 0;
	size_t n = size < left ? size : left;

	if (data) {
		if (n)
			memcpy(data, item->data + state.offset, n);
		memset(data + n, 0, size - n);
	}
	state.offset += n;
	if (n && state.offset == item->size)
		announce(state.key, item->size);
}

static void run_dma(void)
{
	struct fw_cfg_dma_access *access;
	uint32_t control, size;
	uint8_t *data;

	access = machine_memory(state.dma_address, sizeof(*access));
	state.dma_address = 0;
	if (!access)
		return;
	/* The guest may change its memory meanwhile, so each field is read once. */
	control = be32toh(__atomic_load_n(&access->control, __ATOMIC_RELAXED));
	size = be32toh(__atomic_load_n(&access->length, __ATOMIC_RELAXED));
	data = machine_memory(be64toh(__atomic_load_n(&access->address,
						      __ATOMIC_RELAXED)), size);
	if (control & FW_CFG_DMA_CTL_SELECT) {
		state.key = (uint16_t)(control >> 16);
		state.offset = 0;
	}
	if ((control & FW_CFG_DMA_CTL_WRITE) ||
	    ((control & FW_CFG_DMA_CTL_READ) && size && !data)) {
		access->control = htobe32(FW_CFG_DMA_CTL_ERROR);
		return;
	}
	if (control & FW_CFG_DMA_CTL_READ)
		read_item(data, size);
	else if (control & FW_CFG_DMA_CTL_SKIP)
		read_item(NULL, size);
	__atomic_store_n(&access->control, 0, __ATOMIC_RELEASE);
}

uint32_t fwcfg_in(uint16_t port, unsigned int size)
{
	uint64_t signature = FW_CFG_DMA_SIGNATURE;
	uint8_t byte;

	if (port == PORT_DATA) {
		read_item(&byte, 1);
		return byte;
	}
	if (size == 4 && (port == PORT_DMA_HIGH || port == PORT_DMA_LOW))
		return htobe32((uint32_t)(port == PORT_DMA_HIGH ?
					  signature >> 32 : signature));
	return ~0u;
}

void fwcfg_out(uint16_t port, unsigned int size, uint32_t value)
{
	if (port == PORT_SELECT && size == 2) {
		state.key = (uint16_t)value;
		state.offset = 0;
	} else if (port == PORT_DMA_HIGH && size == 4) {
		state.dma_address = (uint64_t)be32toh(value) << 32;
	} else if (port == PORT_DMA_LOW && size == 4) {
		state.dma_address |= be32toh(value);
		run_dma();
	}
}
