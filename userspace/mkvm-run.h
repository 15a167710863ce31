/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Declarations shared by the launcher's files: the options, messages, the
 * machine, and one group of functions per device. main.c starts everything;
 * machine.c is the file to read next.
 *
 * Locking: port devices (chipset.c, serial.c, fwcfg.c, keyboard.c, pm.c) and
 * the line state of the interrupt controllers are accessed only with
 * machine_lock() held. machine_stop() and stage() need no lock.
 */
#ifndef MKVM_RUN_H
#define MKVM_RUN_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MKVM_RUN_VERSION	"0.1"

#define PAGE_SIZE		4096u
#define MIB			(1024ull * 1024)
#define GIB			(1024 * MIB)
#define LOW_MEMORY_END		0xa0000u	/* the VGA hole starts */
#define HIGH_AREA_START		0xc0000u	/* the VGA hole ends */
#define BIOS_COPY_SIZE		0x20000u	/* the ROM's copy ends at 1 MiB */
#define PCI_HOLE_START		(3 * GIB)	/* RAM goes on at 4 GiB */

/* Fixed by the ACPI tables (acpi.c), answered by pm.c and chipset.c. */
#define ACPI_PM1_EVENT_PORT	0x600
#define ACPI_PM1_CONTROL_PORT	0x604
#define ACPI_PM_TIMER_PORT	0x608
#define ACPI_PORTS		0x80	/* number of ports, from the first on */
#define APM_CONTROL_PORT	0xb2
#define APM_ACPI_DISABLE	0xf0	/* the command that disables ACPI */
#define APM_ACPI_ENABLE		0xf1
#define ACPI_S5_SLEEP_TYPE	5
#define RESET_PORT		0xcf9
#define RESET_VALUE		0x06

/* The interrupt inputs, as a PC has them. */
#define KEYBOARD_GSI		1
#define SERIAL_GSI		4
#define SCI_GSI			9

struct options {
	const char *device;
	const char *kernel;	/* NULL: the firmware alone */
	const char *initrd;
	const char *append;
	const char *bios;
	const char *debugcon;	/* NULL: discarded; "-": standard error */
	unsigned int smp;
	uint64_t memory;	/* bytes, a multiple of 1 MiB */
	bool no_reboot;
	bool quiet;
	bool monitor;
};

/* A file read into memory. */
struct file_data {
	uint8_t *data;
	size_t size;
};

/* main.c: set once before any thread starts, then read only. */
extern struct options opt;

/* main.c: messages. All go to standard error. */
void stage(const char *format, ...) __attribute__((format(printf, 1, 2)));
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void fail(int status, const char *format, ...)
	__attribute__((format(printf, 2, 3), noreturn));
double seconds_since_start(void);
struct file_data read_file(const char *path, const char *remedy);

/* machine.c: memory, vCPUs and the run loop. */
void machine_open(void);
void machine_create_memory(const struct file_data *bios);
bool machine_run(int *status);
void machine_lock(void);
void machine_unlock(void);
void machine_stop(bool reset, int status, const char *why);
bool machine_stopping(void);
int machine_wake_fd(void);
void machine_wake(void);
void machine_set_irq(unsigned int gsi, bool level);
bool machine_has_smm(void);
void machine_smi(bool to_caller);
void machine_open_smram(bool open);
void *machine_memory(uint64_t gpa, uint64_t size);
const uint8_t *machine_byte(uint64_t gpa);
uint64_t machine_low_memory(void);
void machine_print_summary(void);

/* crash.c: the report printed for an exit that the launcher cannot handle. */
void crash_report(unsigned int id, int vcpu_fd, const struct kvm_run *run,
		  int run_errno);

/* monitor.c: --monitor. */
void monitor_open(int kvm_fd);
bool monitor_look(int fd);

/* cpuid.c */
struct kvm_cpuid2 *cpuid_supported(int kvm_fd);
void cpuid_set(int vcpu_fd, const struct kvm_cpuid2 *supported,
	       unsigned int apic_id, unsigned int cpus);

/* chipset.c: port dispatch and the small devices. Lock held. */
void chipset_reset(void);
void chipset_open_debug_console(void);
void ports_access(bool out, uint16_t port, unsigned int size, uint8_t *data);
void ports_print_counts(void);

/* pm.c: power management. Lock held, except for pm_timer_fd(). */
extern uint8_t pm_config[256];
void pm_reset(void);
uint32_t pm_in(uint16_t port, unsigned int size);
void pm_out(uint16_t port, unsigned int size, uint32_t value);
uint32_t apm_in(uint16_t port, unsigned int size);
void apm_out(uint16_t port, unsigned int size, uint32_t value);
void pm_press_power_button(void);
int pm_timer_fd(void);
void pm_timer_expired(void);

/* keyboard.c: lock held. */
void keyboard_reset(void);
uint32_t keyboard_in(uint16_t port, unsigned int size);
void keyboard_out(uint16_t port, unsigned int size, uint32_t value);
void keyboard_send(const uint8_t *bytes, size_t size);

/* serial.c: lock held, except where a comment says otherwise. */
void serial_reset(void);
uint32_t serial_in(uint16_t port, unsigned int size);
void serial_out(uint16_t port, unsigned int size, uint32_t value);
size_t serial_input_room(void);
void serial_input(const uint8_t *data, size_t size);
size_t serial_output_peek(uint8_t *data, size_t size);
void serial_output_done(size_t size);

/* fwcfg.c: lock held once the machine runs. */
void fwcfg_add(unsigned int key, const void *data, size_t size);
void fwcfg_add_u16(unsigned int key, uint16_t value);
void fwcfg_add_u32(unsigned int key, uint32_t value);
void fwcfg_add_file(const char *name, const void *data, size_t size);
void fwcfg_create(void);
void fwcfg_reset(void);
bool fwcfg_kernel_loaded(void);
uint32_t fwcfg_in(uint16_t port, unsigned int size);
void fwcfg_out(uint16_t port, unsigned int size, uint32_t value);

/* linux.c: adds the kernel, the initrd and the command line to fw_cfg. */
void linux_load(void);

/* acpi.c: adds the ACPI tables to fw_cfg. */
void acpi_create(void);

/* terminal.c: standard input and output, signals. Main thread only. */
void terminal_open(void);
void terminal_serve(void);
void terminal_drain(void);
void terminal_finish(void);
void terminal_die(void);
bool terminal_needs_newline(void);

#endif
