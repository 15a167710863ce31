// SPDX-License-Identifier: GPL-2.0
/*
 * Dispatches ports, and implements the small devices of a PC: PCI configuration
 * space with an i440FX host bridge, by which SeaBIOS recognises the machine,
 * and the power-management function of pm.c; CMOS and clock; the parts of ports
 * 0x92 and 0xcf9 that reset a PC; QEMU's debug console and debug exit.
 * Unclaimed ports read as ones and ignore writes.
 *
 * Owns the devices' registers. Everything here needs the machine's lock,
 * except chipset_open_debug_console(), which runs before the machine.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "mkvm-run.h"

#define A20_ENABLED		0x02

/* The host bridge by which SeaBIOS recognises an i440FX machine of QEMU. */
#define VENDOR_INTEL		0x8086
#define DEVICE_I440FX		0x1237
#define CLASS_HOST_BRIDGE	0x0600
#define SUBSYSTEM_VENDOR_QEMU	0x1af4
#define SUBSYSTEM_QEMU		0x1100
#define I440FX_SMRAM		0x72
#define SMRAM_OPEN		0x40		/* SMRAM is visible outside SMM, too */

static FILE *debug_console;
static struct {
	uint32_t pci_address;
	uint8_t bridge[256];		/* the host bridge's configuration */
	uint8_t reset_control;
	uint8_t cmos_index;
	uint8_t cmos[128];
	uint8_t port_92;
	bool debug_seen;
} state;

static void put_le16(uint8_t *at, uint16_t value)
{
	at[0] = (uint8_t)value;
	at[1] = (uint8_t)(value >> 8);
}

/* --- PCI configuration space and the reset control register --- */

static void reset_bridge(void)
{
	put_le16(&state.bridge[PCI_VENDOR_ID], VENDOR_INTEL);
	put_le16(&state.bridge[PCI_DEVICE_ID], DEVICE_I440FX);
	state.bridge[PCI_REVISION_ID] = 2;
	put_le16(&state.bridge[PCI_CLASS_DEVICE], CLASS_HOST_BRIDGE);
	put_le16(&state.bridge[PCI_SUBSYSTEM_VENDOR_ID],
		 SUBSYSTEM_VENDOR_QEMU);
	put_le16(&state.bridge[PCI_SUBSYSTEM_ID], SUBSYSTEM_QEMU);
}

/* Returns the configuration of the selected function (00:00.0 or 00:01.0), or NULL. */
static uint8_t *pci_selected(void)
{
	switch (state.pci_address & 0x80ffff00) {
	case 0x80000000:
		return state.bridge;
	case 0x80000800:
		return pm_config;
	default:
		return NULL;
	}
}

static uint32_t pci_in(uint16_t port, unsigned int size)
{
	const uint8_t *config = pci_selected();
	uint32_t value = 0;

	if (port == 0xcf8 && size == 4)
		return state.pci_address;
	if (port == RESET_PORT)
		return state.reset_control;
	if (port < 0xcfc || !config)
		return ~0u;
	memcpy(&value, &config[(state.pci_address & 0xfc) | (port & 3)],
	       size);
	return value;
}

static void pci_out(uint16_t port, unsigned int size, uint32_t value)
{
	unsigned int offset = (state.pci_address & 0xfc) | (port & 3);
	uint8_t *config = pci_selected();

	if (port == 0xcf8 && size == 4) {
		state.pci_address = value;
	} else if (port == RESET_PORT && size == 1) {
		if (value & ~state.reset_control & 0x04)
			machine_stop(true, 0, "reset through port 0xcf9");
		state.reset_control = (uint8_t)value;
	} else if (port >= 0xcfc && config && offset >= 0x40) {
		/* Memory attributes (PAM) and other registers are only stored. */
		memcpy(&config[offset], &value, size);
		machine_open_smram(state.bridge[I440FX_SMRAM] & SMRAM_OPEN);
	}
}

/* --- CMOS memory and the clock, which shows the host's UTC --- */

enum {
	CMOS_STATUS_A = 0x0a, CMOS_STATUS_B, CMOS_STATUS_C, CMOS_STATUS_D,
	CMOS_CENTURY = 0x32,
};

static void reset_cmos(void)
{
	uint64_t low = machine_low_memory();
	uint64_t above_1m = (low - MIB) / 1024;
	uint64_t above_16m = low > 16 * MIB ? (low - 16 * MIB) / 0x10000 : 0;
	uint64_t above_4g = (opt.memory - low) / 0x10000;

	if (above_1m > 0xffff)
		above_1m = 0xffff;
	state.cmos[0x14] = 0x02;		/* a coprocessor */
	put_le16(&state.cmos[0x15], LOW_MEMORY_END / 1024);
	put_le16(&state.cmos[0x17], (uint16_t)above_1m);
	put_le16(&state.cmos[0x30], (uint16_t)above_1m);
	put_le16(&state.cmos[0x34], (uint16_t)above_16m);
	put_le16(&state.cmos[0x5b], (uint16_t)above_4g);
	state.cmos[0x5d] = (uint8_t)(above_4g >> 16);
	state.cmos[0x5f] = (uint8_t)(opt.smp <= 256 ? opt.smp - 1 : 255);
}

static uint8_t bcd(int value)
{
	return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static uint8_t read_cmos(uint8_t index)
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	switch (index) {
	case 0x00:
		return bcd(tm.tm_sec);
	case 0x02:
		return bcd(tm.tm_min);
	case 0x04:
		return bcd(tm.tm_hour);
	case 0x06:
		return (uint8_t)(tm.tm_wday + 1);
	case 0x07:
		return bcd(tm.tm_mday);
	case 0x08:
		return bcd(tm.tm_mon + 1);
	case 0x09:
		return bcd(tm.tm_year);
	case CMOS_CENTURY:
		return bcd((tm.tm_year + 1900) / 100);
	case CMOS_STATUS_A:
		/* UIP is set for the last 244 microseconds of each second. */
		return 0x26 | (now.tv_nsec >= 1000000000 - 244000 ? 0x80 : 0);
	case CMOS_STATUS_B:
		return 0x02;			/* BCD, 24 hours */
	case CMOS_STATUS_C:
		return 0;
	case CMOS_STATUS_D:
		return 0x80;			/* the battery is good */
	default:
		return state.cmos[index];
	}
}

static uint32_t cmos_in(uint16_t port, unsigned int size)
{
	return port == 0x71 ? read_cmos(state.cmos_index) : 0xff;
}

static void cmos_out(uint16_t port, unsigned int size, uint32_t value)
{
	if (port == 0x70)
		state.cmos_index = value & 0x7f;	/* bit 7 masks NMI */
	else
		state.cmos[state.cmos_index] = (uint8_t)value;
}

/* --- Port 0x92 --- */

static uint32_t port_92_in(uint16_t port, unsigned int size)
{
	return state.port_92 | A20_ENABLED;	/* A20 is always on */
}

static void port_92_out(uint16_t port, unsigned int size, uint32_t value)
{
	if (value & ~state.port_92 & 0x01)
		machine_stop(true, 0, "reset through port 0x92");
	state.port_92 = (uint8_t)value;
}

/* --- Debug console, debug exit --- */

/* Opens the file that --debugcon names. */
void chipset_open_debug_console(void)
{
	if (!opt.debugcon)
		return;
	if (!strcmp(opt.debugcon, "-")) {
		debug_console = stderr;
		return;
	}
	debug_console = fopen(opt.debugcon, "we");
	if (!debug_console)
		fail(2, "cannot write --debugcon %s (%s): give a file that can be written",
		     opt.debugcon, strerror(errno));
	setvbuf(debug_console, NULL, _IOLBF, 0);
}

static uint32_t debug_console_in(uint16_t port, unsigned int size)
{
	return 0xe9;
}

static void debug_console_out(uint16_t port, unsigned int size, uint32_t value)
{
	if (!state.debug_seen)
		stage("firmware: first byte on the debug console");
	state.debug_seen = true;
	if (debug_console)
		fputc((int)(value & 0xff), debug_console);
}

static void debug_exit_out(uint16_t port, unsigned int size, uint32_t value)
{
	machine_stop(false, (int)((value << 1 | 1) & 0xff),
		     "debug exit through port 0xf4");
}

/* --- Dispatch --- */

static uint32_t unclaimed_in(uint16_t port, unsigned int size)
{
	return ~0u;
}

static void ignore_out(uint16_t port, unsigned int size, uint32_t value)
{
}

/*
 * @width is the widest access that a device accepts, in bytes; wider accesses,
 * and those that reach past @last, are split into bytes. The last row claims
 * the remaining ports.
 */
static const struct {
	const char *name;
	uint16_t first, last;
	unsigned int width;
	uint32_t (*in)(uint16_t port, unsigned int size);
	void (*out)(uint16_t port, unsigned int size, uint32_t value);
} devices[] = {
	{ "serial port", 0x3f8, 0x3ff, 1, serial_in, serial_out },
	{ "fw_cfg", 0x510, 0x511, 2, fwcfg_in, fwcfg_out },
	{ "fw_cfg DMA", 0x514, 0x51b, 4, fwcfg_in, fwcfg_out },
	{ "power management", ACPI_PM1_EVENT_PORT, ACPI_PM1_EVENT_PORT + ACPI_PORTS - 1, 4, pm_in,
	  pm_out },
	{ "APM", APM_CONTROL_PORT, APM_CONTROL_PORT + 1, 1, apm_in, apm_out },
	{ "PCI", 0xcf8, 0xcff, 4, pci_in, pci_out },
	{ "CMOS", 0x70, 0x71, 1, cmos_in, cmos_out },
	{ "debug console", 0x402, 0x402, 1, debug_console_in, debug_console_out },
	{ "keyboard data", 0x60, 0x60, 1, keyboard_in, keyboard_out },
	{ "keyboard control", 0x64, 0x64, 1, keyboard_in, keyboard_out },
	{ "port 0x92", 0x92, 0x92, 1, port_92_in, port_92_out },
	{ "debug exit", 0xf4, 0xf7, 4, unclaimed_in, debug_exit_out },
	{ "POST codes", 0x80, 0x80, 1, unclaimed_in, ignore_out },
	{ "other ports", 0x0, 0xffff, 4, unclaimed_in, ignore_out },
};

#define DEVICE_COUNT	(sizeof(devices) / sizeof(devices[0]))

static uint64_t access_counts[DEVICE_COUNT];

/* Performs one access of 1, 2 or 4 bytes; @data is in the guest's byte order. */
void ports_access(bool out, uint16_t port, unsigned int size, uint8_t *data)
{
	uint32_t value = 0;
	unsigned int i;

	for (i = 0; port < devices[i].first || port > devices[i].last; i++)
		;
	if (size > devices[i].width || port + size - 1u > devices[i].last) {
		for (i = 0; i < size; i++)
			ports_access(out, (uint16_t)(port + i), 1, data + i);
		return;
	}
	access_counts[i]++;
	if (out) {
		memcpy(&value, data, size);
		devices[i].out(port, size, value);
	} else {
		value = devices[i].in(port, size);
		memcpy(data, &value, size);
	}
}

void ports_print_counts(void)
{
	size_t i;

	for (i = 0; i < DEVICE_COUNT; i++)
		if (access_counts[i])
			note("    %-18s %10llu", devices[i].name,
			     (unsigned long long)access_counts[i]);
}

void chipset_reset(void)
{
	memset(&state, 0, sizeof(state));
	reset_bridge();
	reset_cmos();
	keyboard_reset();
	pm_reset();
}
