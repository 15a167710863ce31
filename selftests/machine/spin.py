#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
#
# spin.py DEVICE [once]: hold a VM whose only vCPU runs a loop of one instruction
# at the reset vector; says "up" when all is made.  With "once" it runs nothing
# and ends.  For machine-test.

import ctypes, fcntl, mmap, os, struct, sys

KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_RUN, KVM_SET_USER_MEMORY_REGION = 0xae01, 0xae41, 0xae80, 0x4020ae46

vm = fcntl.ioctl(os.open(sys.argv[1], os.O_RDWR), KVM_CREATE_VM, 0)
memory = mmap.mmap(-1, 4096)
memory[0xff0:0xff2] = b"\xeb\xfe"  # jmp to itself
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, 0xfffff000, 4096, address))
vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
print("up", flush=True)
while len(sys.argv) == 2:
    try:
        fcntl.ioctl(vcpu, KVM_RUN, 0)
    except InterruptedError:
        pass
