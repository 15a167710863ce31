# SPDX-License-Identifier: GPL-2.0
#
# debugger.py: gdb on QEMU's stub, which uses KVM_SET_GUEST_DEBUG.
#
# Read next: lib.py; selftests/kvm/debug.c, the same without QEMU.

import re, shutil, subprocess

from .lib import LIMIT, Qemu, Skipped, check, module_is, test


def debugged(commands, trigger='hostname guest'):
    """Runs gdb's commands, in which {sethostname} and {jiffies} are the kernel's addresses, and the trigger in the
    guest meanwhile; what gdb said, and where sethostname is."""
    if not shutil.which('gdb'):
        raise Skipped('gdb is not installed')
    guest = Qemu('-gdb', 'unix:/tmp/gdb.sock,server=on,wait=off', cpus=2)
    guest.up(2)
    symbols = guest.shell("awk '$3 ~ /^(__x64_sys_sethostname|jiffies)$/' /proc/kallsyms")
    where = {name: '0x' + re.search(rf'([0-9a-f]+) . {symbol}', symbols)[1]
             for name, symbol in (('sethostname', '__x64_sys_sethostname'), ('jiffies', 'jiffies'))}
    with open('/tmp/gdb.script', 'w') as script:
        script.write('set pagination off\nset confirm off\nset architecture i386:x86-64\n'
                     'target remote /tmp/gdb.sock\n' + commands.format(**where) + '\ndelete\ndetach\n')
    gdb = subprocess.Popen(['gdb', '-nx', '-batch', '-x', '/tmp/gdb.script'], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    said = ''
    while 'Continuing.' not in said and (line := gdb.stdout.readline()):
        said += line
    guest.send(trigger)
    said += gdb.communicate(timeout=LIMIT)[0]
    guest.shell('hostname again')
    guest.power_off()
    return said, int(where['sethostname'], 16)


def check_stops(said, address):
    """gdb stopped at the address, then three steps each went on to another."""
    at = [int(word, 16) for word in re.findall(r'rip is (0x[0-9a-f]+)', said)]
    check(len(at) == 4 and at[0] == address and len(set(at)) == 4, f'{address:#x}: {said}')


STEPS = 'echo Continuing.\\n\ncontinue\n' + 'printf "rip is %#lx\\n", $rip\nstepi\n' * 3 + 'printf "rip is %#lx\\n", $rip'


@test
def gdb_stops_at_a_hardware_breakpoint_and_steps():
    check_stops(*debugged('hbreak *{sethostname}\n' + STEPS))


@test(long=True)
def gdb_sees_a_write_to_a_watched_variable():
    said, _ = debugged('watch *(long *){jiffies}\necho Continuing.\\n\ncontinue', 'true')
    check('Old value' in said and 'New value' in said, said)


@test(long=True)
def gdb_stops_at_a_software_breakpoint_and_steps():
    with open('/proc/cpuinfo') as cpuinfo:
        if 'QEMU TCG' in cpuinfo.read() and not module_is('mkvm'):
            raise Skipped('QEMU\'s TCG does not intercept #BP of INT3, and Linux KVM relies on that')
    check_stops(*debugged('break *{sethostname}\n' + STEPS))
