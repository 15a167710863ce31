#!/usr/bin/python3 -B
# SPDX-License-Identifier: GPL-2.0
#
# spin.py DEVICE [once]: hold a VM whose only vCPU runs a loop of one instruction
# at the reset vector; says "up" when all is made.  With "once" it runs nothing
# and ends.  For machine-test.
# Read next: kvm.py.

import sys

import kvm

vm = kvm.Vm(sys.argv[1])
vm.add_memory(0xfffff000, 4096)
vm.memory[0xff0:0xff2] = b"\xeb\xfe"  # jmp to itself
vcpu = vm.create_vcpu(0)
print("up", flush=True)
if len(sys.argv) == 2:
    kvm.run_for_ever(vcpu)
