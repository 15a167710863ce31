# SPDX-License-Identifier: GPL-2.0
#
# firmware.py: OVMF, UEFI firmware in flash: its code is a read-only slot whose writes
# are exits, its variables' flash changes between memory and device; and its Secure Boot
# build, which keeps the variables behind system management mode.
#
# Read next: lib.py.

import os

from .lib import Qemu, Skipped, check, sh, test

OVMF = '/usr/share/OVMF'
VARIABLE = '/sys/firmware/efi/efivars/MkvmTest-12345678-1234-1234-1234-123456789abc'
SECURE_BOOT = '/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c'


def uefi_guest(code, variables, *words, cpus=2, online=2, **options):
    if not os.path.exists(f'{OVMF}/{code}'):
        raise Skipped(f'{OVMF}/{code} is not there (package ovmf)')
    sh(f'cp {OVMF}/{variables} /tmp/vars.fd')
    guest = Qemu('-drive', f'if=pflash,unit=0,format=raw,readonly=on,file={OVMF}/{code}',
                 '-drive', 'if=pflash,unit=1,format=raw,file=/tmp/vars.fd', *words, cpus=cpus, **options)
    guest.up(online)
    mount_variables(guest)
    return guest


def mount_variables(guest):
    guest.shell('modprobe efivarfs; mount -t efivarfs efivarfs /sys/firmware/efi/efivars')


def a_variable_lasts(guest):
    """Written by the guest, it is there after a reset."""
    guest.shell(f"printf '\\007\\000\\000\\000lasting' > {VARIABLE}")
    start = len(guest.output)
    guest.send('reboot -f')
    guest.wait_for(b'with 2 processors.', start)
    guest.wait_for(b'guest#', start)
    mount_variables(guest)
    said = guest.shell(f'cat {VARIABLE}')
    check('lasting' in said, f'after the reset the variable is {said!r}')


@test(long=True)
def ovmf_boots_linux_and_keeps_a_variable():
    a_variable_lasts(uefi_guest('OVMF_CODE_4M.fd', 'OVMF_VARS_4M.fd', reboot=True))


def smm_guest(**options):
    return uefi_guest('OVMF_CODE_4M.secboot.fd', 'OVMF_VARS_4M.ms.fd',
                      '-global', 'driver=cfi.pflash01,property=secure,value=on', machine='q35,smm=on', **options)


@test(long=True)
def ovmf_with_smm_takes_a_cpu_that_is_plugged_in():
    """The firmware sends it an SMI, then starts it by INIT and SIPI: it must come to the SMI handler first.

    All processors wait there for it, so a lost SMI stops the guest.
    """
    guest = smm_guest(cpus='1,maxcpus=3,sockets=3,cores=1,threads=1', online=1)
    for nr in (1, 2):
        guest.command('device_add', driver='host-x86_64-cpu', id=f'cpu{nr}', **{'socket-id': nr, 'core-id': 0,
                                                                               'thread-id': 0})
        guest.shell(f'until [ -e /sys/devices/system/cpu/cpu{nr}/online ]; do sleep 1; done; '
                    f'echo 1 > /sys/devices/system/cpu/cpu{nr}/online')
        said = guest.shell('cat /sys/devices/system/cpu/online')
        check(said.strip() == f'0-{nr}', f'online are {said!r}')


@test(long=True)
def ovmf_with_secure_boot_and_smm_keeps_a_variable():
    guest = smm_guest(reboot=True)
    said = guest.shell(f'hexdump -C {SECURE_BOOT}')
    check('06 00 00 00 01' in said, f'Secure Boot is not on: {said}')
    a_variable_lasts(guest)
