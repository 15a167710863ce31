# SPDX-License-Identifier: GPL-2.0
#
# boots.py: boots of a Linux guest under QEMU: a machine for each place of the interrupt
# controllers, and, in the long form, a table of QEMUs, machines, irqchips, CPU models
# and numbers of vCPUs in which each value meets most others.
#
# State: the table's rows so far.
# Read next: lib.py.

import time

from .lib import Failed, Qemu, Skipped, check, sh, test

OPTIONS = {'microvm': ',rtc=on'}
rows = []


def boots(version, machine, irqchip, cpu, cpus):
    """All processors come up, each with timer interrupts, and the serial port interrupts."""
    guest = Qemu(machine=f'{machine}{OPTIONS.get(machine, "")},kernel-irqchip={irqchip}', cpus=cpus, cpu=cpu,
                 version=version)
    guest.up(cpus)
    apic = '-apic' not in cpu
    line = 'LOC' if apic else '0'
    counts = guest.shell(f"awk '$1 == \"{line}:\" || /ttyS0/' /proc/interrupts").splitlines()
    check(len(counts) == 2, f'/proc/interrupts has {counts}')
    for count in counts:
        numbers = [int(number) for number in count.split()[1:cpus + 1]]
        check(sum(numbers) if 'ttyS0' in count else all(numbers), f'a CPU without interrupts of {count}')
    guest.power_off()


def cell(version, machine, irqchip, cpu, cpus):
    def run():
        begin = time.monotonic()
        result = 'failed'
        try:
            boots(version, machine, irqchip, cpu, cpus)
            result = 'boots'
        except Skipped:
            result = 'skipped'
            raise
        finally:
            rows.append((version, machine, irqchip, cpu, cpus, result, time.monotonic() - begin))
    run.__name__ = f'qemu_{version}_{machine}_{irqchip}_{cpu}_{cpus}_cpus'.replace(',', '_')
    return run


@test
def pc_boots_with_the_kernels_irqchip():
    boots('10.0', 'pc', 'on', 'host', 2)


@test
def q35_boots_with_a_split_irqchip():
    boots('10.0', 'q35', 'split', 'max', 2)


@test
def pc_boots_with_qemus_irqchip():
    """QEMU 10.0 has no APIC of its own for KVM, 7.2 has.  One vCPU: with two 7.2 spins in itself at the first SIPI,
    with its main lock held, on kvm_amd as well."""
    boots('7.2', 'pc', 'off', 'qemu64', 1)


@test(long=True)
def microvm_boots():
    boots('10.0', 'microvm', 'on', 'host', 2)


@test(long=True)
def qemu_10_refuses_an_apic_of_its_own():
    try:
        Qemu(machine='q35,kernel-irqchip=off')
    except Failed as reason:
        check('KVM does not support userspace APIC' in str(reason), str(reason))
        return
    raise Failed('it started')


for row in (
        # QEMU, machine, irqchip, CPU model, vCPUs
        ('10.0', 'pc', 'on', 'max', 1),
        ('10.0', 'pc', 'split', 'qemu64', 4),
        ('10.0', 'pc', 'off', 'qemu64,-apic', 1),
        ('10.0', 'q35', 'on', 'host', 16),
        ('10.0', 'q35', 'on', 'qemu64', 3),
        ('10.0', 'q35', 'split', 'host', 1),
        ('10.0', 'q35', 'off', 'host,-apic,-x2apic', 1),
        ('10.0', 'microvm', 'split', 'max', 8),
        ('10.0', 'microvm', 'on', 'qemu64', 16),
        ('7.2', 'pc', 'on', 'host', 4),
        ('7.2', 'pc', 'off', 'max', 1),
        ('7.2', 'pc', 'split', 'host', 16),
        ('7.2', 'q35', 'on', 'max', 2),
        ('7.2', 'q35', 'split', 'qemu64', 8),
        ('7.2', 'q35', 'off', 'host', 1),
        ('7.2', 'microvm', 'on', 'host', 1),
        ('7.2', 'microvm', 'off', 'qemu64', 1),
        ('10.0-microvm', 'microvm', 'on', 'host', 4),
        ('7.2-microvm', 'microvm', 'split', 'max', 2)):
    test(cell(*row), long=True)


@test(long=True)
def the_table_of_boots_is_full():
    """No test of its own: it prints what the cells above have left."""
    print('# QEMU          machine  irqchip  CPU model           vCPUs  result     s')
    for version, machine, irqchip, cpu, cpus, result, took in rows:
        print(f'# {version:13} {machine:8} {irqchip:8} {cpu:19} {cpus:5}  {result:8} {took:3.0f}')
    check(rows, 'no cells')



SECTOR = r'''
        .macro say words
        mov $\words, %esi
        mov $0x3f8, %edx
1:      lodsb
        out %al, %dx
        test %al, %al
        jnz 1b
        .endm
        .code16
        cli
        xor %ax, %ax
        mov %ax, %ds
        say real
        lgdt table
        mov $0x11, %eax
        mov %eax, %cr0
        ljmp $8, $flat
        .code32
flat:   mov $16, %eax
        mov %eax, %ds
        say protected
        hlt
table:  .word 23                # the null descriptor tells where the table is
        .long table
        .word 0
        .quad 0x00cf9a000000ffff, 0x00cf92000000ffff
real:   .asciz "real mode"
protected: .asciz "protected mode"
        .org 510
        .word 0xaa55
'''


@test(long=True)
def qemu_system_i386_runs_a_boot_sector():
    sh('cd /tmp; as --32 -o sector.o; ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o sector sector.o', input=SECTOR)
    guest = Qemu('-drive', 'format=raw,file=/tmp/sector', version='10.0-i386', machine='pc', boot=None)
    guest.wait_for('real mode')
    guest.wait_for('protected mode')
    guest.quit()
