// SPDX-License-Identifier: GPL-2.0
/*
 * The launcher's power management under a firmware of 16-bit code: SMRAM,
 * relocation of SMBASE through the APM port, the TCO watchdog and the power
 * button, each by an SMI.
 *
 * The firmware is a ROM whose last page holds all of it. Its SMI handler tells
 * on the debug console what it found: R relocated, A APM, T watchdog, P power
 * button. Meanwhile the firmware runs in big real mode and checks that its
 * segment still reaches all memory; x on the console says that it does not.
 *
 * Read next: smm.c, and pm.c of the launcher.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launcher.h"
#include "vm.h"

#define ROM_SIZE 0x20000

/*
 * At f000:f000. PCI accesses go through pci: EAX = address, BL = byte, DX =
 * data port. The handler lies at offset 0x800 and is copied to 0x38000 and to
 * 0xa8000; which of them runs it sees by CS.
 */
CODE_BLOB(firmware, 16,
	  "fw:\n"
	  "cli\n"
	  "lgdtl %cs:0xf400\n"
	  "movl $1, %eax\n"
	  "movl %eax, %cr0\n"
	  "movw $8, %ax\n"
	  "movw %ax, %fs\n"			/* the hidden limit is 4 GiB from here on */
	  "xorl %eax, %eax\n"
	  "movl %eax, %cr0\n"
	  "movl $0x100000, %ebp\n"
	  "movl $0x12345678, %fs:(%ebp)\n"
	  "movl $0x80000070, %eax\n"		/* the bridge's SMRAM register: open */
	  "movw $0xcfe, %dx\n"
	  "movb $0x4a, %bl\n"
	  "callw pci\n"
	  "movw $0x3000, %ax\n"
	  "callw copy\n"
	  "movw $0xa000, %ax\n"
	  "callw copy\n"
	  "movl $0x80000858, %eax\n"		/* DEVACTB: APM raises SMIs */
	  "movw $0xcff, %dx\n"
	  "movb $0x02, %bl\n"
	  "callw pci\n"
	  "movw $0x628, %dx\n"			/* GLBCTL: SMIs come out */
	  "movl $1, %eax\n"
	  "outl %eax, %dx\n"
	  "outb %al, $0xb2\n"			/* relocation */
	  "movl $0x80000070, %eax\n"
	  "movw $0xcfe, %dx\n"
	  "movb $0x0a, %bl\n"			/* SMRAM: closed */
	  "callw pci\n"
	  "outb %al, $0xb2\n"			/* from 0xa0000 this time */
	  "movw $0x630, %dx\n"			/* SMI_EN: TCO */
	  "movl $1 << 13, %eax\n"
	  "outl %eax, %dx\n"
	  "movw $0x672, %dx\n"			/* 0.6 s, and go */
	  "movw $1, %ax\n"
	  "outw %ax, %dx\n"
	  "movw $0x668, %dx\n"
	  "xorw %ax, %ax\n"
	  "outw %ax, %dx\n"
	  "1: cmpl $0x12345678, %fs:(%ebp)\n"
	  "je 1b\n"
	  "movb $'x', %al\n"
	  "movw $0x402, %dx\n"
	  "outb %al, %dx\n"
	  "2: jmp 2b\n"
	  "pci: movw %dx, %cx\n"
	  "movw $0xcf8, %dx\n"
	  "outl %eax, %dx\n"
	  "movw %cx, %dx\n"
	  "movb %bl, %al\n"
	  "outb %al, %dx\n"
	  "retw\n"
	  "copy: movw %ax, %es\n"
	  "movw %cs, %ax\n"
	  "movw %ax, %ds\n"
	  "movw $0xf800, %si\n"
	  "movw $0x8000, %di\n"
	  "movw $0x100, %cx\n"
	  "cld\n"
	  "rep movsb\n"
	  "xorw %ax, %ax\n"
	  "movw %ax, %ss\n"
	  "retw\n"
	  ".org fw + 0x400\n"			/* GDTR, and a GDT of null and flat data */
	  ".word 15\n"
	  ".long 0xff408\n"
	  ".word 0\n"
	  ".quad 0\n"
	  ".quad 0x008f93000000ffff\n"
	  ".org fw + 0x800\n"
	  "movw $0x402, %dx\n"
	  "movw %cs, %ax\n"
	  "cmpw $0x3000, %ax\n"
	  "jne 3f\n"
	  "movl $0xa0000, %cs:0xff00\n"		/* SMBASE in AMD64's layout */
	  "movb $'R', %al\n"
	  "jmp 5f\n"
	  "3: xorw %ax, %ax\n"			/* wrecks a segment that RSM must restore */
	  "movw %ax, %fs\n"
	  "movw $0x634, %dx\n"
	  "inl %dx, %eax\n"
	  "movl %eax, %ebx\n"
	  "outl %eax, %dx\n"			/* all seen */
	  "movw $0x402, %dx\n"
	  "movb $'T', %al\n"
	  "testl $1 << 13, %ebx\n"
	  "jnz 5f\n"
	  "movb $'P', %al\n"
	  "testl $1 << 8, %ebx\n"
	  "jnz 5f\n"
	  "movb $'A', %al\n"
	  "5: outb %al, %dx\n"
	  "movb $'\\n', %al\n"
	  "outb %al, %dx\n"
	  "rsm\n"
	  ".org fw + 0xff0\n"
	  "ljmpw $0xf000, $0xf000\n");

/* The path of a ROM with it. */
static const char *rom_file(void)
{
	static u8 rom[ROM_SIZE];

	memcpy(rom + ROM_SIZE - 0x1000, firmware, firmware_end - firmware);
	return launcher_file(rom, sizeof(rom));
}

static char next_word(int console)
{
	struct pollfd in = { console, POLLIN, 0 };
	char line[2];

	ASSERT_EQ(1, poll(&in, 1, 30000));
	ASSERT_EQ(2, read(console, line, 2));
	return line[0];
}

TEST(apm_watchdog_and_power_button_raise_smis_under_16_bit_code)
{
	struct launcher launcher;
	char c = 0;

	NEED_CAP(KVM_CAP_X86_SMM);
	launcher = launcher_start("--bios", rom_file(), NULL);
	EXPECT_EQ('R', next_word(launcher.console));
	EXPECT_EQ('A', next_word(launcher.console));
	EXPECT_EQ('T', next_word(launcher.console));
	EXPECT_EQ('T', next_word(launcher.console));		/* it starts anew */
	kill(launcher.pid, SIGPWR);
	for (u32 i = 0; i < 10 && c != 'P'; i++) {
		c = next_word(launcher.console);
		EXPECT_TRUE(c == 'P' || c == 'T');
	}
	EXPECT_EQ('P', c);
	EXPECT_EQ('T', next_word(launcher.console));
	launcher_end(&launcher);
}
