// SPDX-License-Identifier: GPL-2.0
/*
 * Implements power management: the ACPI registers (PM1, PM timer, power
 * button), the APM port that raises an SMI, a TCO watchdog, and the PCI
 * configuration of the PIIX4 function by which SeaBIOS finds them.
 *
 *   0x600   PM1 status, enable, control; PM timer (PIIX4, also in the FADT)
 *   0x628   GLBCTL (PIIX4): bit 0 enables SMIs
 *   0x630   SMI_EN, SMI_STS as in ICH9: the SMIs enabled, and the one raised
 *   0x660   TCO as in ICH9: reload, status, control, timer in 0.6 s
 *   0xb2    APM control: the write raises the SMI on the CPU that wrote
 *   0xb3    APM status: a scratch register
 *
 * Owns these registers and the watchdog's timer. Everything here needs the
 * machine's lock, except pm_timer_fd(). Read chipset.c for the port dispatch.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "mkvm-run.h"

#define PM_TIMER_HZ	3579545ull
#define TCO_TICK_NS	600000000ull
#define PIIX4_DEVACTB	0x58		/* 32-bit register; bit 25 lets APM raise SMIs */
#define PIIX4_APM_ENABLE	0x02	/* bit 25, in the uppermost byte */

enum {
	PM1_STATUS = 0x00,
	PM1_ENABLE = 0x02,
	PM1_CONTROL = 0x04,
	PM_TIMER = 0x08,
	GLBCTL = 0x28,
	SMI_ENABLE = 0x30,
	SMI_STATUS = 0x34,
	TCO_RELOAD = 0x60,
	TCO1_STATUS = 0x64,
	TCO1_CONTROL = 0x68,
	TCO_TIMER = 0x72,
};

enum { PM1_POWER_BUTTON = 1 << 8, PM1_SCI_ENABLED = 1 << 0, PM1_SLEEP = 1 << 13 };
enum { GLBCTL_SMI = 1 << 0 };
enum { SMI_APM = 1 << 5, SMI_PM1 = 1 << 8, SMI_TCO = 1 << 13 };
enum { TCO_TIMEOUT = 1 << 3, TCO_HALT = 1 << 11 };

static struct {
	uint8_t io[ACPI_PORTS];		/* the values read, except of the PM timer */
	uint8_t apm[2];
	bool sci;
} state;
uint8_t pm_config[256];			/* PCI configuration; chipset.c reads and writes it */
static int timer_fd = -1;

static uint32_t get(unsigned int offset, unsigned int size)
{
	uint32_t value = 0;

	memcpy(&value, &state.io[offset], size);
	return value;
}

static void put(unsigned int offset, unsigned int size, uint32_t value)
{
	memcpy(&state.io[offset], &value, size);
}

/* --- Events: an SMI to the firmware, or an SCI to the ACPI driver --- */

static void raise_smi(uint32_t source, bool writer)
{
	put(SMI_STATUS, 4, get(SMI_STATUS, 4) | source);
	if (get(GLBCTL, 4) & GLBCTL_SMI)
		machine_smi(writer);
}

static void update_sci(void)
{
	bool level = (get(PM1_CONTROL, 2) & PM1_SCI_ENABLED) &&
		     (get(PM1_STATUS, 2) & get(PM1_ENABLE, 2) & PM1_POWER_BUTTON);

	if (level != state.sci)
		machine_set_irq(SCI_GSI, level);
	state.sci = level;
}

/* Presses the power button; until ACPI is enabled, that raises an SMI for the firmware. */
void pm_press_power_button(void)
{
	put(PM1_STATUS, 2, get(PM1_STATUS, 2) | PM1_POWER_BUTTON);
	if (!(get(PM1_CONTROL, 2) & PM1_SCI_ENABLED))
		raise_smi(SMI_PM1, false);
	update_sci();
}

/* --- The watchdog --- */

/* Returns a descriptor that is readable when pm_timer_expired() must be called. */
int pm_timer_fd(void)
{
	return timer_fd;
}

/* Starts the watchdog anew, after a reload and after each SMI, unless it is halted. */
static void restart_watchdog(void)
{
	uint64_t ns = (get(TCO_TIMER, 2) & 0x3ff) * TCO_TICK_NS;
	struct itimerspec spec = {
		.it_value = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) },
	};

	if (get(TCO1_CONTROL, 2) & TCO_HALT)
		memset(&spec, 0, sizeof(spec));
	spec.it_interval = spec.it_value;
	timerfd_settime(timer_fd, 0, &spec, NULL);
}

void pm_timer_expired(void)
{
	uint64_t count;

	if (read(timer_fd, &count, sizeof(count)) != sizeof(count))
		return;		/* it was reloaded meanwhile */
	put(TCO1_STATUS, 2, get(TCO1_STATUS, 2) | TCO_TIMEOUT);
	if (get(SMI_ENABLE, 4) & SMI_TCO)
		raise_smi(SMI_TCO, false);
}

/* --- Ports --- */

static uint32_t pm_timer(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint32_t)((uint64_t)now.tv_sec * PM_TIMER_HZ +
			  (uint64_t)now.tv_nsec * PM_TIMER_HZ / 1000000000);
}

uint32_t pm_in(uint16_t port, unsigned int size)
{
	unsigned int offset = port - ACPI_PM1_EVENT_PORT;

	if (offset >= PM_TIMER && offset < PM_TIMER + 4)
		return (pm_timer() & 0xffffff) >> (port & 3) * 8;
	return get(offset, size);
}

/* Is this a register in which writing a one clears a bit? */
static bool write_one_to_clear(unsigned int offset)
{
	return offset / 2 == PM1_STATUS / 2 || offset / 4 == SMI_STATUS / 4 ||
	       offset / 4 == TCO1_STATUS / 4;
}

void pm_out(uint16_t port, unsigned int size, uint32_t value)
{
	unsigned int offset = port - ACPI_PM1_EVENT_PORT, control, i;
	uint16_t sci_enabled = get(PM1_CONTROL, 2) & PM1_SCI_ENABLED;

	for (i = 0; i < size; i++, value >>= 8) {
		uint8_t *byte = &state.io[offset + i];

		*byte = (uint8_t)(write_one_to_clear(offset + i) ? *byte & ~value : value);
	}
	control = get(PM1_CONTROL, 2);
	put(PM1_CONTROL, 2, (control & ~(uint32_t)(PM1_SLEEP | PM1_SCI_ENABLED)) | sci_enabled);
	if ((control & PM1_SLEEP) && (control >> 10 & 7) == ACPI_S5_SLEEP_TYPE)
		machine_stop(false, 0, "power-off");
	if (offset == TCO_RELOAD || offset == TCO1_CONTROL || offset == TCO_TIMER)
		restart_watchdog();
	update_sci();
}

uint32_t apm_in(uint16_t port, unsigned int size)
{
	return state.apm[port - APM_CONTROL_PORT];
}

/* The commands that the FADT names work without an SMI handler as well. */
void apm_out(uint16_t port, unsigned int size, uint32_t value)
{
	state.apm[port - APM_CONTROL_PORT] = (uint8_t)value;
	if (port != APM_CONTROL_PORT)
		return;
	if (value == APM_ACPI_ENABLE || value == APM_ACPI_DISABLE)
		put(PM1_CONTROL, 2, (get(PM1_CONTROL, 2) & ~(uint32_t)PM1_SCI_ENABLED) |
		    (value == APM_ACPI_ENABLE ? PM1_SCI_ENABLED : 0));
	update_sci();
	if (pm_config[PIIX4_DEVACTB + 3] & PIIX4_APM_ENABLE)
		raise_smi(SMI_APM, true);
}

/*
 * Resets the function's configuration. If the device has no SMM, APM's enable bit is set, which
 * keeps SeaBIOS from setting up SMM.
 */
void pm_reset(void)
{
	static const uint8_t id[] = { 0x86, 0x80, 0x13, 0x71 };	/* Intel 82371AB, function 3 */

	memset(&state, 0, sizeof(state));
	put(TCO1_CONTROL, 2, TCO_HALT);
	memset(pm_config, 0, sizeof(pm_config));
	memcpy(pm_config, id, sizeof(id));
	pm_config[PCI_REVISION_ID] = 3;			/* PM timers of older revisions misread */
	pm_config[PCI_CLASS_DEVICE] = 0x80;		/* class "other bridge" */
	pm_config[PCI_CLASS_DEVICE + 1] = 0x06;
	if (!machine_has_smm())
		pm_config[PIIX4_DEVACTB + 3] = PIIX4_APM_ENABLE;
	if (timer_fd < 0)
		timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer_fd < 0)
		fail(2, "cannot create a timer (%s): free some file descriptors", strerror(errno));
	restart_watchdog();
}
