// SPDX-License-Identifier: GPL-2.0
/*
 * Builds the ACPI tables (RSDP, RSDT, FADT, MADT, DSDT) that describe the CPUs,
 * the IOAPIC and power-off to the guest, and the fw_cfg "table loader" script
 * by which the firmware places them. Layouts: ACPI specification 6.5, "ACPI
 * Software Programming Model"; a Linux guest shows the resulting tables in
 * /sys/firmware/acpi/tables.
 *
 * Owns the buffers that it passes to fw_cfg. Read chipset.c and pm.c for the
 * registers that the FADT names.
 */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "mkvm-run.h"

#define TABLES_FILE		"etc/acpi/tables"
#define RSDP_FILE		"etc/acpi/rsdp"
#define LOADER_FILE		"etc/table-loader"

#define HEADER_SIZE		36
#define CHECKSUM_OFFSET		9
#define FADT_SIZE		244
#define RSDP_SIZE		20
#define RSDP_CHECKSUM_OFFSET	8
#define RSDP_RSDT_OFFSET	16

#define LAPIC_ADDRESS		0xfee00000u
#define IOAPIC_ADDRESS		0xfec00000u
#define SCI_IRQ			SCI_GSI
#define FIRST_X2APIC_ID		255

/* A byte buffer that grows. */
struct blob {
	uint8_t *data;
	size_t size;
};

static struct blob tables, loader;

static uint8_t *blob_add(struct blob *blob, size_t size)
{
	blob->data = realloc(blob->data, blob->size + size);
	if (!blob->data)
		fail(2, "no memory left for the ACPI tables: free some on this machine");
	memset(blob->data + blob->size, 0, size);
	blob->size += size;
	return blob->data + blob->size - size;
}

static void put16(uint8_t *at, uint16_t value)
{
	value = htole16(value);
	memcpy(at, &value, sizeof(value));
}

static void put32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

/*
 * The loader's commands: 128 bytes each, a number and its operands, file
 * names in fields of 56 bytes.
 */
enum { LOADER_ALLOCATE = 1, LOADER_ADD_POINTER, LOADER_ADD_CHECKSUM };
enum { ZONE_HIGH = 1, ZONE_FSEG };

static uint8_t *loader_add(uint32_t command, const char *file)
{
	uint8_t *at = blob_add(&loader, 128);

	put32(at, command);
	memcpy(at + 4, file, strlen(file));
	return at;
}

static void loader_allocate(const char *file, uint32_t alignment, uint8_t zone)
{
	uint8_t *at = loader_add(LOADER_ALLOCATE, file);

	put32(at + 60, alignment);
	at[64] = zone;
}

/* Makes the firmware relocate the 32-bit field at @offset of @file by the tables' address. */
static void loader_add_pointer(const char *file, size_t offset)
{
	uint8_t *at = loader_add(LOADER_ADD_POINTER, file);

	memcpy(at + 60, TABLES_FILE, strlen(TABLES_FILE));
	put32(at + 116, (uint32_t)offset);
	at[120] = 4;
}

static void loader_add_checksum(const char *file, size_t offset, size_t start,
				size_t size)
{
	uint8_t *at = loader_add(LOADER_ADD_CHECKSUM, file);

	put32(at + 60, (uint32_t)offset);
	put32(at + 64, (uint32_t)start);
	put32(at + 68, (uint32_t)size);
}

/* Starts a table and returns its offset in the file. */
static size_t table_begin(const char *signature, uint8_t revision)
{
	size_t start = tables.size;
	uint8_t *at = blob_add(&tables, HEADER_SIZE);

	memcpy(at, signature, 4);
	at[8] = revision;
	memcpy(at + 10, "MKVM  MKVMRUN ", 14);
	put32(at + 24, 1);
	memcpy(at + 28, "MKVM", 4);
	put32(at + 32, 1);
	return start;
}

static void table_end(size_t start)
{
	size_t size = tables.size - start;

	put32(tables.data + start + 4, (uint32_t)size);
	loader_add_checksum(TABLES_FILE, start + CHECKSUM_OFFSET, start, size);
}

/* Adds Name(\_S5_, Package() { type, type, 0, 0 }), which is all that power-off needs. */
static size_t add_dsdt(void)
{
	static const uint8_t aml[] = {
		0x08, '\\', '_', 'S', '5', '_', 0x12, 0x08, 0x04,
		0x0a, ACPI_S5_SLEEP_TYPE, 0x0a, ACPI_S5_SLEEP_TYPE, 0x00, 0x00,
	};
	size_t start = table_begin("DSDT", 1);

	memcpy(blob_add(&tables, sizeof(aml)), aml, sizeof(aml));
	table_end(start);
	return start;
}

/*
 * Adds a FADT of revision 3. Its extended addresses are zero, so the 32-bit
 * ones are valid. IAPC_BOOT_ARCH reports a keyboard controller, no legacy
 * devices to probe, and no VGA.
 */
static size_t add_fadt(size_t dsdt)
{
	enum {
		WBINVD = 1 << 0,
		PROC_C1 = 1 << 2,
		SLP_BUTTON = 1 << 5,
		FIX_RTC = 1 << 6,
		RESET_REG_SUP = 1 << 10,
	};
	enum { BOOT_8042 = 1 << 1, BOOT_NO_VGA = 1 << 2 };
	size_t start = table_begin("FACP", 3);
	uint8_t *at = blob_add(&tables, FADT_SIZE - HEADER_SIZE) - HEADER_SIZE;

	put32(at + 40, (uint32_t)dsdt);
	loader_add_pointer(TABLES_FILE, start + 40);
	put16(at + 46, SCI_IRQ);
	put32(at + 48, APM_CONTROL_PORT);
	at[52] = APM_ACPI_ENABLE;
	at[53] = APM_ACPI_DISABLE;
	put32(at + 56, ACPI_PM1_EVENT_PORT);
	put32(at + 64, ACPI_PM1_CONTROL_PORT);
	put32(at + 76, ACPI_PM_TIMER_PORT);
	at[88] = 4;			/* lengths of the three blocks */
	at[89] = 2;
	at[91] = 4;
	put16(at + 96, 0xfff);		/* no C2 */
	put16(at + 98, 0xfff);		/* no C3 */
	at[108] = 0x32;			/* the RTC's century register */
	put16(at + 109, BOOT_8042 | BOOT_NO_VGA);
	put32(at + 112, WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC |
	      RESET_REG_SUP);
	at[116] = 1;			/* RESET_REG: I/O space, 8 bits */
	at[117] = 8;
	at[119] = 1;
	put16(at + 120, RESET_PORT);
	at[128] = RESET_VALUE;
	table_end(start);
	return start;
}

static void add_cpu(unsigned int id)
{
	uint8_t *at;

	if (id < FIRST_X2APIC_ID) {
		at = blob_add(&tables, 8);	/* Processor Local APIC */
		at[0] = 0;
		at[1] = 8;
		at[2] = (uint8_t)id;
		at[3] = (uint8_t)id;
		put32(at + 4, 1);
	} else {
		at = blob_add(&tables, 16);	/* Processor Local x2APIC */
		at[0] = 9;
		at[1] = 16;
		put32(at + 4, id);
		put32(at + 8, 1);
		put32(at + 12, id);
	}
}

static void add_override(uint8_t irq, uint32_t gsi, uint16_t flags)
{
	uint8_t *at = blob_add(&tables, 10);

	at[0] = 2;
	at[1] = 10;
	at[3] = irq;
	put32(at + 4, gsi);
	put16(at + 8, flags);
}

static size_t add_madt(void)
{
	enum { BUS_DEFAULT = 0, ACTIVE_HIGH_LEVEL = 0x0d };
	size_t start = table_begin("APIC", 3);
	uint8_t *at = blob_add(&tables, 8);
	unsigned int id;

	put32(at, LAPIC_ADDRESS);
	put32(at + 4, 1);			/* PCAT_COMPAT: there is a PIC pair */
	for (id = 0; id < opt.smp; id++)
		add_cpu(id);
	at = blob_add(&tables, 12);		/* the IOAPIC: id 0, GSI 0 on */
	at[0] = 1;
	at[1] = 12;
	put32(at + 4, IOAPIC_ADDRESS);
	add_override(0, 2, BUS_DEFAULT);
	add_override(SCI_IRQ, SCI_IRQ, ACTIVE_HIGH_LEVEL);
	at = blob_add(&tables, 6);		/* NMI on LINT1 of every CPU */
	at[0] = 4;
	at[1] = 6;
	at[2] = 0xff;
	at[5] = 1;
	table_end(start);
	return start;
}

/* Builds all tables and adds them to fw_cfg. */
void acpi_create(void)
{
	static uint8_t rsdp[RSDP_SIZE] = "RSD PTR \0MKVM  ";
	size_t rsdt, fadt, madt;
	uint8_t *at;

	loader_allocate(RSDP_FILE, 16, ZONE_FSEG);
	loader_allocate(TABLES_FILE, 64, ZONE_HIGH);
	fadt = add_fadt(add_dsdt());
	madt = add_madt();
	rsdt = table_begin("RSDT", 1);
	at = blob_add(&tables, 8);
	put32(at, (uint32_t)fadt);
	put32(at + 4, (uint32_t)madt);
	loader_add_pointer(TABLES_FILE, rsdt + HEADER_SIZE);
	loader_add_pointer(TABLES_FILE, rsdt + HEADER_SIZE + 4);
	table_end(rsdt);
	put32(rsdp + RSDP_RSDT_OFFSET, (uint32_t)rsdt);
	loader_add_pointer(RSDP_FILE, RSDP_RSDT_OFFSET);
	loader_add_checksum(RSDP_FILE, RSDP_CHECKSUM_OFFSET, 0, RSDP_SIZE);

	fwcfg_add_file(RSDP_FILE, rsdp, sizeof(rsdp));
	fwcfg_add_file(TABLES_FILE, tables.data, tables.size);
	fwcfg_add_file(LOADER_FILE, loader.data, loader.size);
}
