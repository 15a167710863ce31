# SPDX-License-Identifier: GPL-2.0
#
# memory.py: the host takes a working guest's memory away, shares it and moves it, and
# the guest does not notice (see guest).
#
# State: a swap device in the lab's memory (zram) and a cgroup, made once.
# Read next: lib.py; kmod/mem/tdp.c, whose MMU notifier is asked for the pages.

import functools, os, re

from .lib import Qemu, check, sh, test, until
from .migration import moved

CGROUP = '/tmp/cgroup'
KSM = '/sys/kernel/mm/ksm'
THP = '/sys/kernel/mm/transparent_hugepage'


def write(path, words):
    with open(path, 'w') as file:
        file.write(str(words))


def number(path):
    with open(path) as file:
        return int(file.read())


def kilobytes(guest, file, name):
    """What a file of QEMU's /proc directory says."""
    with open(f'/proc/{guest.process.pid}/{file}') as words:
        return int(re.search(rf'{name}:\s+(\d+)', words.read())[1])


@functools.cache
def swap_and_cgroup():
    sh(f'''
        modprobe zram
        echo 1G > /sys/block/zram0/disksize
        mkswap /dev/zram0 > /dev/null
        swapon /dev/zram0
        mkdir -p {CGROUP}
        mount -t cgroup2 cgroup2 {CGROUP}
        echo +memory > {CGROUP}/cgroup.subtree_control
        mkdir {CGROUP}/guest
    ''')


def busy_guest():
    guest = Qemu(cpus=2)
    guest.up(2)
    guest.load()
    guest.go_on()
    return guest


def intact(guest):
    guest.go_on(5)
    guest.check_beats()


@test(long=True)
def a_guest_whose_memory_is_swapped_out_goes_on():
    swap_and_cgroup()
    # QEMU starts in the cgroup, so that the guest's memory is charged there.
    write(f'{CGROUP}/guest/cgroup.procs', os.getpid())
    try:
        guest = busy_guest()
    finally:
        write(f'{CGROUP}/cgroup.procs', os.getpid())
    # Little at a time: what the guest works with is wanted back at once.
    for _ in range(5):
        try:
            write(f'{CGROUP}/guest/memory.reclaim', '16M')
        except OSError:
            pass    # less was reclaimed than asked for
        guest.go_on(1)
    swapped = kilobytes(guest, 'status', 'VmSwap')
    check(swapped > 10000, f'only {swapped} KB were swapped out')
    intact(guest)


@test(long=True)
def a_guest_whose_pages_are_merged_goes_on():
    write(f'{KSM}/pages_to_scan', 10000)
    write(f'{KSM}/sleep_millisecs', 10)
    guest = busy_guest()
    # Two guests with the same kernel.
    other = busy_guest()
    write(f'{KSM}/run', 1)
    until(lambda: number(f'{KSM}/pages_sharing') > 2000, 'merging')
    intact(guest)
    intact(other)
    write(f'{KSM}/run', 2)
    intact(guest)
    intact(other)


@test(long=True)
def a_guest_in_huge_pages_goes_on_when_they_are_made_and_split():
    write(f'{THP}/enabled', 'always')
    write(f'{THP}/khugepaged/scan_sleep_millisecs', 10)
    guest = busy_guest()

    def huge():
        return kilobytes(guest, 'smaps_rollup', 'AnonHugePages')
    check(huge() > 20000, f'{huge()} KB are in huge pages')
    for _ in range(3):
        write('/sys/kernel/debug/split_huge_pages', 1)
        guest.go_on(2)
        write('/proc/sys/vm/compact_memory', 1)
        guest.go_on(2)
    until(lambda: huge() > 20000, 'huge pages are made again')
    intact(guest)
    write(f'{THP}/enabled', 'never')
    intact(busy_guest())
    write(f'{THP}/enabled', 'always')


@test(long=True)
def a_guest_in_hugetlbfs_goes_on_and_moves():
    """While it is moved, the dirty log wants its pages one by one."""
    sh('''
        echo 1 > /proc/sys/vm/compact_memory
        echo 300 > /proc/sys/vm/nr_hugepages
        mkdir -p /tmp/huge
        mountpoint -q /tmp/huge || mount -t hugetlbfs hugetlbfs /tmp/huge
    ''')
    check(number('/proc/sys/vm/nr_hugepages') >= 256, 'no memory for two guests in huge pages')
    guest = moved(2, '-mem-path', '/tmp/huge', '-mem-prealloc')
    check(kilobytes(guest, 'status', 'HugetlbPages') >= 256 << 10, 'not in huge pages')
    intact(guest)
    guest.quit()
    write('/proc/sys/vm/nr_hugepages', 0)
