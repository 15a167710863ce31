// SPDX-License-Identifier: GPL-2.0
/*
 * A 16-bit guest that calls SeaBIOS's services and works in big real mode, under
 * SMIs of the power button and the watchdog at any of its instructions.
 *
 * The guest is the setup code of a Linux image that the launcher boots: SeaBIOS is
 * as in any boot, its SMI handler too. The guest puts a few instructions before
 * that handler which count what came: the power button's SMIs at linear 0x5f0,
 * the watchdog's at 0x5f4. In each round it calls services, loads FS and GS with
 * hidden bases and limits that no selector tells, computes with them, and checks
 * checksum, registers and stack. On the debug console it writes, after the letter
 * G when it begins, the number of button SMIs of each round plus '@', w for an SMI of
 * the watchdog; else what was wrong: n handler not as known, c checksum, r registers,
 * i an interrupt that is lost or came twice: each round ends with vector 0x62 and an SMI of the
 * APM port at the same moment.
 *
 * Read next: smm.c, launcher_smm.c.
 */
#define _GNU_SOURCE
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"
#include "vm.h"

#define SETUP_SECTORS 4
#define IMAGE_SIZE ((SETUP_SECTORS + 2) * 512)
#define EXPECTED 0x9f8		/* offset in the image of the checksum that the guest shall find */

/*
 * Loaded at 0x10000 and entered at 0x1020:0, all segments but CS 0x1000. Data
 * offsets count from the image's start.
 */
CODE_BLOB(image, 16,
	  "img:\n"
	  ".org img + 0x1f1\n"
	  ".byte 4\n" /* setup_sects */
	  ".org img + 0x1fe\n"
	  ".word 0xaa55\n"
	  ".byte 0xeb, 0x66\n" /* to 0x268 */
	  ".ascii \"HdrS\"\n"
	  ".word 0x20a\n"
	  ".org img + 0x211\n"
	  ".byte 1\n" /* loaded high */
	  ".org img + 0x238\n"
	  ".long 255\n" /* cmdline_size */
	  ".org img + 0x258\n"
	  ".quad 0x100000, 0x1000\n" /* pref_address, init_size */
	  ".org img + 0x268\n"
	  "jmp 1f\n"
	  ".org img + 0x280\n"
	  "gdtr: .word 23\n"
	  ".long 0x10000 + gdt - img\n"
	  ".balign 8\n"
	  "gdt: .quad 0\n"
	  ".quad 0x008f93200000ffff\n" /* FS: base 2 MiB, 4 GiB */
	  ".quad 0x008f93000000ffff\n" /* GS: all memory */
	  "last: .long 0, 0\n" /* counts that were told */

	  "handler: pushl %eax\n" /* of vector 0x62, with GS as it was loaded */
	  "incl %cs:irqs - img - 0x200\n"
	  "movl $0xfee000b0, %eax\n"
	  "movl $0, %gs:(%eax)\n"
	  "popl %eax\n"
	  "iretw\n"
	  "irqs: .long 0\n"
	  "sent: .long 0\n"

	  /* What goes before SeaBIOS's handler: all registers are its own to wreck. */
	  "hook: movw $0x634, %dx\n"
	  "inl %dx, %eax\n"
	  "movl %eax, %ebx\n"
	  "andl $0x2100, %eax\n"
	  "outl %eax, %dx\n" /* seen */
	  "testw $0x100, %bx\n"
	  "jz 2f\n"
	  "incl 0x5f0\n"
	  "2: testw $0x2000, %bx\n"
	  "jz 2f\n"
	  "incl 0x5f4\n"
	  "2:\n"
	  "hook_end:\n"

	  "1: cli\n"
	  "cld\n"
	  "movw $0x402, %dx\n"
	  "movb $'\\n', %al\n"
	  "outb %al, %dx\n"
	  "movb $0x23, %al\n" /* a number sign */
	  "outb %al, %dx\n"
	  "movw $0x1000, %ax\n"
	  "movw %ax, %ds\n"
	  "movw %ax, %ss\n"
	  "movl $0xf000, %esp\n"
	  "movl $0x80000070, %eax\n" /* the bridge's SMRAM register: open */
	  "movw $0xcf8, %dx\n"
	  "outl %eax, %dx\n"
	  "movw $0xcfe, %dx\n"
	  "movb $0x4a, %al\n"
	  "outb %al, %dx\n"
	  "movw $0xa800, %ax\n" /* handler at 0: AX = CS, a far jump; hook at 0x1000 */
	  "movw %ax, %es\n"
	  "movb $'n', %al\n"
	  "cmpb $0xea, %es:2\n"
	  "jne wrong\n"
	  "movw $hook - img, %si\n"
	  "movw $0x1000, %di\n"
	  "movw $hook_end - hook, %cx\n"
	  "rep movsb\n"
	  "movl %es:0, %eax\n"
	  "movl %eax, %es:(%di)\n"
	  "movl %es:4, %eax\n"
	  "movl %eax, %es:4(%di)\n"
	  "movb $0xe9, %es:0\n"
	  "movw $0x1000 - 3, %es:1\n"
	  "movl $0x80000070, %eax\n" /* closed */
	  "movw $0xcf8, %dx\n"
	  "outl %eax, %dx\n"
	  "movw $0xcfe, %dx\n"
	  "movb $0x0a, %al\n"
	  "outb %al, %dx\n"
	  "xorw %ax, %ax\n"
	  "movw %ax, %es\n"
	  "movl $0, %es:0x5f0\n"
	  "movl $0, %es:0x5f4\n"
	  "movw $handler - img - 0x200, %es:0x188\n" /* vector 0x62 */
	  "movw %cs, %es:0x18a\n"
	  "movw $0x672, %dx\n" /* the watchdog: 0.6 s */
	  "movw $1, %ax\n"
	  "outw %ax, %dx\n"
	  "movw $0x668, %dx\n"
	  "xorw %ax, %ax\n"
	  "outw %ax, %dx\n"
	  "movw $0x630, %dx\n" /* SMI_EN: TCO, PM1 */
	  "movl $0x2100, %eax\n"
	  "outl %eax, %dx\n"

	  "round: sti\n"
	  "movw $0x0e41, %ax\n" /* teletype, cursor */
	  "xorw %bx, %bx\n"
	  "int $0x10\n"
	  "movb $3, %ah\n"
	  "int $0x10\n"
	  "int $0x11\n" /* equipment, memory */
	  "int $0x12\n"
	  "movb $0x88, %ah\n" /* extended memory, configuration table */
	  "int $0x15\n"
	  "movb $0xc0, %ah\n"
	  "int $0x15\n"
	  "movw $0x1000, %ax\n" /* memory map, its first entry */
	  "movw %ax, %es\n"
	  "movl $0xe820, %eax\n"
	  "xorl %ebx, %ebx\n"
	  "movl $24, %ecx\n"
	  "movl $0x534d4150, %edx\n"
	  "movw $0x8000, %di\n"
	  "int $0x15\n"
	  "movb $1, %ah\n" /* keyboard: a key?, shift flags */
	  "int $0x16\n"
	  "movb $2, %ah\n"
	  "int $0x16\n"
	  "movb $0, %ah\n" /* time: ticks, clock; PCI: there?, a device */
	  "int $0x1a\n"
	  "movb $2, %ah\n"
	  "int $0x1a\n"
	  "movw $0xb101, %ax\n"
	  "int $0x1a\n"
	  "movw $0xb102, %ax\n"
	  "movw $0x1237, %cx\n"
	  "movw $0x8086, %dx\n"
	  "xorw %si, %si\n"
	  "int $0x1a\n"
	  "movb $3, %ah\n" /* serial and printer status */
	  "xorw %dx, %dx\n"
	  "int $0x14\n"
	  "movb $2, %ah\n"
	  "xorw %dx, %dx\n"
	  "int $0x17\n"
	  "movw $0x0800, %ax\n" /* a disk's geometry; there is none */
	  "movb $0x80, %dl\n"
	  "int $0x13\n"
	  "cli\n"

	  "movw $0x1000, %ax\n"
	  "movw %ax, %ds\n"
	  "lgdtl gdtr - img\n"
	  "movl %cr0, %eax\n"
	  "orb $1, %al\n"
	  "movl %eax, %cr0\n"
	  "movw $8, %bx\n"
	  "movw %bx, %fs\n"
	  "movw $16, %bx\n"
	  "movw %bx, %gs\n"
	  "andb $0xfe, %al\n"
	  "movl %eax, %cr0\n"
	  "movl $0x55667788, %esi\n"
	  "movl $0x66778899, %edi\n"
	  "movl $0x778899aa, %ebp\n"
	  "movl $200, %ecx\n"
	  "movl $1, %edx\n"
	  "1: pushl %ecx\n"
	  "movl %edx, %fs:0x10\n"
	  "addl %ecx, %fs:0x10\n"
	  "movl $0x200010, %ebx\n"
	  "movl %gs:(%ebx), %eax\n"
	  "roll $5, %eax\n"
	  "popl %ecx\n"
	  "xorl %ecx, %eax\n"
	  "movl %eax, %edx\n"
	  "imull $3, %ecx, %ebx\n"
	  "addl %ebx, %edx\n"
	  "decl %ecx\n"
	  "jnz 1b\n"
	  "movl $0xfee00300, %ebx\n" /* vector 0x62 to itself, and an SMI */
	  "movl $0x44062, %gs:(%ebx)\n"
	  "incl sent - img\n"
	  "xorw %ax, %ax\n"
	  "sti\n"
	  "outb %al, $0xb2\n"
	  "nop\n"
	  "cli\n"
	  "movb $'i', %al\n"
	  "movl sent - img, %ebx\n"
	  "cmpl %ebx, irqs - img\n"
	  "jne wrong\n"
	  "movb $'c', %al\n"
	  "cmpl %edx, 0x9f8\n"
	  "jne wrong\n"
	  "movb $'r', %al\n"
	  "cmpl $0x55667788, %esi\n"
	  "jne wrong\n"
	  "cmpl $0x66778899, %edi\n"
	  "jne wrong\n"
	  "cmpl $0x778899aa, %ebp\n"
	  "jne wrong\n"
	  "cmpl $0xf000, %esp\n"
	  "jne wrong\n"
	  "movw %ss, %bx\n"
	  "cmpw $0x1000, %bx\n"
	  "jne wrong\n"

	  "xorw %ax, %ax\n" /* tell: first the watchdog, then the button */
	  "movw %ax, %es\n"
	  "movw $0x402, %dx\n"
	  "movl %es:0x5f4, %ebx\n"
	  "cmpl %ebx, last - img + 4\n"
	  "movl %ebx, last - img + 4\n"
	  "je 2f\n"
	  "movb $'w', %al\n"
	  "outb %al, %dx\n"
	  "movb $'\\n', %al\n" /* which makes the launcher hand it all on */
	  "outb %al, %dx\n"
	  "2: movl %es:0x5f0, %ebx\n"
	  "movl %ebx, %eax\n"
	  "subl last - img, %eax\n"
	  "movl %ebx, last - img\n"
	  "cmpl $31, %eax\n"
	  "jbe 2f\n"
	  "movb $31, %al\n"
	  "2: addb $'@', %al\n"
	  "outb %al, %dx\n"
	  "jmp round\n"
	  "wrong: movw $0x402, %dx\n"
	  "outb %al, %dx\n"
	  "movb $'\\n', %al\n"
	  "outb %al, %dx\n"
	  "2: jmp 2b\n");

/* The path of the image, with the checksum that its rounds must give. */
static const char *image_file(void)
{
	static u8 bytes[IMAGE_SIZE];
	u32 sum = busy_checksum();

	ASSERT_LE(image_end - image, EXPECTED);
	memcpy(bytes, image, image_end - image);
	memcpy(bytes + EXPECTED, &sum, sizeof(sum));
	return launcher_file(bytes, sizeof(bytes));
}

static struct {
	bool begun;
	u32 rounds, buttons, watchdogs, rests;
} seen;

/* What the guest wrote: the firmware's words until a line that begins with #. */
static void take(const char *text, ssize_t n)
{
	static char last = '\n';

	for (ssize_t i = 0; i < n; i++) {
		char c = text[i];

		if (!seen.begun) {
			seen.begun = last == '\n' && c == '#';
			last = c;
			continue;
		}
		if (c == 'w') {
			seen.watchdogs++;
		} else if (c >= '@' && c <= '@' + 31) {
			seen.rounds++;
			seen.buttons += c - '@';
		} else if (c != '\n') {
			FAIL("after %u rounds and %u SMIs the guest says '%c'", seen.rounds, seen.buttons, c);
		}
	}
}

/* What debugfs says of a guest that hangs. */
static void show_vcpus(void)
{
	glob_t files;
	char text[4096];

	if (glob("/sys/kernel/debug/mkvm/*/vcpus", 0, NULL, &files))
		return;
	for (size_t i = 0; i < files.gl_pathc; i++) {
		FILE *f = fopen(files.gl_pathv[i], "r");

		while (f && fgets(text, sizeof(text), f))
			ktap_note("%s", text);
		if (f)
			fclose(f);
	}
	globfree(&files);
}

/*
 * The button again and again, at no particular instant, and what the guest says of it.
 * It speaks each 0.6 s; PRESSES in between are more than it takes, and let it go on where
 * it serves an SMI slower than the next one comes.
 */
#define PRESSES 2000
static void press_until(pid_t pid, int console, u32 buttons)
{
	struct ktap_wait wait = { 0 };
	u32 last = 0, presses = 0;
	char text[4096] = "";

	while (seen.buttons < buttons || !seen.watchdogs) {
		struct pollfd in = { console, POLLIN, 0 };
		struct timespec pause = { 0, 200000 };

		if (ppoll(&in, 1, &pause, NULL) == 1) {
			ssize_t n = read(console, text, sizeof(text) - 1);

			ASSERT_LT(0, n);
			text[n] = 0;
			take(text, n);
		}
		if (seen.begun && presses < PRESSES) {
			ASSERT_OK(kill(pid, SIGPWR));
			seen.rests += ++presses == PRESSES;
		}
		if (seen.rounds != last) {
			last = seen.rounds;
			presses = 0;
			wait = (struct ktap_wait){ 0 };
		}
		if (!ktap_wait(&wait)) {
			show_vcpus();
			FAIL("last words \"%s\"; the guest %s; rounds %u, SMIs %u", text,
			     seen.begun ? "hangs" : "never began", seen.rounds, seen.buttons);
		}
	}
}

TEST_LIMIT(bios_services_and_big_real_mode_survive_smis_at_any_instruction, 3000)
{
	u32 wanted = getenv("MKVM_LONG") ? 100000 : 2000;
	struct launcher launcher;

	NEED_CAP(KVM_CAP_X86_SMM);
	launcher = launcher_start("--mem", "64", "--kernel", image_file(), NULL);
	press_until(launcher.pid, launcher.console, wanted);
	ktap_note("%u SMIs of the button, %u of the watchdog, in %u rounds; %u times the button rested", seen.buttons,
		  seen.watchdogs, seen.rounds, seen.rests);
	launcher_end(&launcher);
}
