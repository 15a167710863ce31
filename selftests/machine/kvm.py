# SPDX-License-Identifier: GPL-2.0
#
# kvm.py: a VM for the tests in Python, through the KVM ABI of <linux/kvm.h>.
#
# State: the VM's file descriptor, its memory and its vCPUs' descriptors.
# Read next: spin.py and top-test, which use it.

import ctypes
import fcntl
import mmap
import os
import struct


class Vm:
    """A VM of a device. A call that is refused raises OSError."""

    def __init__(self, device):
        self.fd = fcntl.ioctl(os.open(device, os.O_RDWR | os.O_CLOEXEC), 0xae01, 0)     # KVM_CREATE_VM
        self.memory = None

    def create_irqchip(self):
        fcntl.ioctl(self.fd, 0xae60, 0)                                     # KVM_CREATE_IRQCHIP

    def add_memory(self, gpa, size):
        """Slot 0; the memory is there as bytes in self.memory."""
        self.memory = mmap.mmap(-1, size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        fcntl.ioctl(self.fd, 0x4020ae46, struct.pack('IIQQQ', 0, 0, gpa, size, address))    # KVM_SET_USER_MEMORY_REGION

    def create_vcpu(self, number):
        return fcntl.ioctl(self.fd, 0xae41, number)                         # KVM_CREATE_VCPU

    def signal_msi(self, vector):
        """Fixed, by edge, to APIC id 0; how many CPUs took it."""
        return fcntl.ioctl(self.fd, 0x4020aea5, struct.pack('IIII16x', 0xfee00000, 0, vector, 0))   # KVM_SIGNAL_MSI

    def route_msi(self, gsi, vector):
        """The GSI's route, instead of all others."""
        fcntl.ioctl(self.fd, 0x4008ae6a,                                    # KVM_SET_GSI_ROUTING
                    struct.pack('II', 1, 0) + struct.pack('IIII4I16x', gsi, 2, 0, 0, 0xfee00000, 0, vector, 0))


def set_start(vcpu, rip, rsp, ds_base=0):
    """Real mode: CS is 0, the other registers are 0."""
    sregs = bytearray(fcntl.ioctl(vcpu, 0x8138ae83, bytes(312)))            # KVM_GET_SREGS
    struct.pack_into('QIH', sregs, 0, 0, 0xffff, 0)                         # CS
    struct.pack_into('Q', sregs, 24, ds_base)                               # DS
    fcntl.ioctl(vcpu, 0x4138ae84, bytes(sregs))                             # KVM_SET_SREGS
    fcntl.ioctl(vcpu, 0x4090ae82, struct.pack('18Q', *[0] * 6, rsp, *[0] * 9, rip, 2))  # KVM_SET_REGS


def run_for_ever(vcpu):
    while True:
        try:
            fcntl.ioctl(vcpu, 0xae80, 0)                                    # KVM_RUN
        except InterruptedError:
            pass
