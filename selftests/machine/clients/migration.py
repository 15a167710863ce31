# SPDX-License-Identifier: GPL-2.0
#
# migration.py: guests that are saved, restored and moved while they work: none of their
# beats is lost, no hash is wrong, no clock goes back (see guest).
#
# Read next: lib.py.

import os, shutil

from .lib import Qemu, Skipped, check, module_is, sh, test, until

CPUS = 4
DISK = ('-drive', 'if=none,id=disk,format={},file=/tmp/migration.disk', '-device', 'virtio-blk-pci,drive=disk')
# No paravirtual features, which kvm_amd would add.
PLAIN_CPU = 'qemu64,kvm=off,+x2apic,+tsc-deadline'


def disk(kind):
    if kind != 'raw' and not shutil.which('qemu-img'):
        raise Skipped('qemu-img is not installed (package qemu-utils)')
    sh('rm -f /tmp/migration.disk; ' +
       ('truncate -s 4M /tmp/migration.disk' if kind == 'raw' else f'qemu-img create -q -f {kind} /tmp/migration.disk 4M'))
    return [word.format(kind) for word in DISK]


def working_guest(*words, **options):
    guest = Qemu(*words, cpus=CPUS, **options)
    guest.up(CPUS)
    guest.shell('modprobe -a virtio_pci virtio_blk; until [ -b /dev/vda ]; do usleep 50000; done')
    guest.load('/dev/vda')
    guest.go_on()
    return guest


def transfer(guest, uri):
    """All of the guest's state goes to uri, at the end of which it stands still."""
    guest.command('migrate-set-parameters', **{'max-bandwidth': 1 << 33, 'downtime-limit': 2000})
    guest.command('migrate', uri=uri)
    status = until(lambda: (s := guest.command('query-migrate').get('status')) in ('completed', 'failed') and s,
                   'the migration')
    check(status == 'completed', f'the migration {status}: {guest.command("query-migrate")}')
    guest.read()


def taken_over(guest, heir):
    """heir goes on where guest has stopped."""
    heir.output = guest.output
    guest.quit()
    until(lambda: heir.status() == 'running', 'the guest runs again')
    heir.go_on()
    heir.check_beats()
    # What is checked need not be looked at in each round again.
    heir.output = heir.output[heir.output.rfind(b'beat', 0, -100):]
    return heir


def saved_and_restored(guest, words, between=lambda: None, **options):
    guest.command('stop')
    transfer(guest, 'exec:cat > /tmp/state')
    guest.quit()
    between()
    heir = Qemu(*words, '-incoming', 'exec:cat /tmp/state', cpus=CPUS, **options)
    until(lambda: heir.status() != 'inmigrate', 'the state is read')
    heir.command('cont')
    return taken_over(guest, heir)


def moved(rounds, *more):
    words = [*disk('raw'), *more]
    guest = working_guest(*words)
    for number in range(rounds):
        path = f'/tmp/migration.{number}'
        heir = Qemu(*words, '-incoming', f'unix:{path}', cpus=CPUS)
        transfer(guest, f'unix:{path}')
        guest = taken_over(guest, heir)
        if number % 10 == 9:
            print(f'# moved {number + 1} times', flush=True)
    return guest


@test
def a_saved_machine_goes_on_in_another_qemu():
    words = disk('raw')
    guest = working_guest(*words)
    for _ in range(2):
        guest = saved_and_restored(guest, words)


@test
def a_busy_guest_moves_to_another_qemu():
    moved(2)


@test(long=True)
def a_busy_guest_moves_fifty_times():
    moved(50)


@test(long=True)
def a_snapshot_is_made_and_gone_back_to():
    guest = working_guest(*disk('qcow2'))
    for _ in range(3):
        guest.command('stop')
        check('rror' not in (said := guest.monitor('savevm one')), said)
        guest.read()
        last = guest.beats()[-1][0]
        guest.command('cont')
        guest.go_on(5)
        guest.command('stop')
        guest.read()
        guest.output = b''
        check('rror' not in (said := guest.monitor('loadvm one')), said)
        guest.command('cont')
        guest.wait_for(b'beat ')
        guest.wait_for(b'.\r\n')
        check(guest.beats()[0][0] in (last + 1, last + 2), f'after beat {last} came {guest.beats()[0][0]}')
        guest.go_on()
        guest.check_beats()


def load_module(name):
    """The other hypervisor's turn."""
    if module_is('mkvm'):
        sh('rmmod mkvm')
    if module_is('kvm_amd'):
        sh('rmmod kvm_amd')
    if name == 'mkvm':
        sh(f'modprobe irqbypass; insmod build/{os.uname().release}/kmod/mkvm.ko devname=kvm')
    else:
        sh(f'modprobe {name}')


@test(long=True)
def a_saved_machine_goes_on_under_the_kernels_kvm_and_comes_back():
    here, there = ('mkvm', 'kvm_amd') if module_is('mkvm') else ('kvm_amd', 'mkvm')
    words = disk('raw')
    guest = working_guest(*words, cpu=PLAIN_CPU)
    try:
        for name in (there, here):
            guest = saved_and_restored(guest, words, lambda: load_module(name), cpu=PLAIN_CPU)
    finally:
        guest.quit()
        if not module_is(here):
            load_module(here)
