# SPDX-License-Identifier: GPL-2.0
#
# monitor.py: what a person at QEMU's monitor does to a running guest.
#
# Read next: lib.py.

from .lib import Qemu, check, test, until


@test
def every_cpu_starts_while_a_monitor_reads_all_registers():
    """QEMU reads and writes back all of a CPU's state for it: report A of Documentation/reports.rst."""
    guest = Qemu(cpus=8)
    reads = 0
    while b'processors.' not in guest.output and reads < 2000:
        guest.monitor('info registers -a')
        guest.read()
        reads += 1
    guest.up(8)
    print(f'# {reads} times')


@test
def a_guest_stands_still_takes_an_nmi_and_starts_anew():
    guest = Qemu(cpus=4, reboot=True)
    guest.up(4)
    for command, words in (('info lapic 1', 'dumping local APIC state for CPU 1'), ('info pic', 'ioapic'),
                           ('info irq', 'IRQ statistics'), ('info mtree', 'address-space')):
        check(words in (said := guest.monitor(command)), f'{command}: {said[:200]!r}')
    guest.command('stop')
    check(guest.status() == 'paused', guest.status())
    guest.command('cont')
    guest.shell('true')
    guest.command('inject-nmi')
    guest.shell('until dmesg | grep -q "NMI received for unknown"; do usleep 50000; done')
    start = len(guest.output)
    guest.command('system_reset')
    guest.wait_for(b'with 4 processors.', start)
    guest.wait_for(b'guest#', start)
    guest.power_off()


@test(long=True)
def the_balloon_and_the_power_button_reach_the_guest():
    guest = Qemu('-device', 'virtio-balloon-pci')
    guest.up()
    guest.shell('modprobe -a virtio_pci virtio_balloon button evdev')
    for size in (160 << 20, 256 << 20):
        guest.command('balloon', value=size)
        until(lambda: guest.command('query-balloon')['actual'] == size, 'the balloon')
        guest.shell('sha256sum /bin/busybox')
    event = guest.shell("grep -A 4 'Power Button' /proc/bus/input/devices | sed -n 's/.*\\(event[0-9]*\\).*/\\1/p'").strip()
    guest.send(f'dd if=/dev/input/{event} bs=24 count=1 > /dev/null 2>&1 && echo "but"ton')
    start = len(guest.output)
    # Not heard before the guest listens: pressed again.
    while b'button\r' not in guest.output[start:]:
        guest.command('system_powerdown')
        for _ in range(10):
            guest.read()
    guest.power_off()
