# SPDX-License-Identifier: GPL-2.0
#
# others.py: libvirt and libguestfs, which start QEMU in ways of their own, and stress-ng,
# runsc and strace, which know the KVM ABI themselves.
#
# State: libvirt's, under /tmp/libvirt.
# Read next: lib.py; tools/guestfs-appliance.

import contextlib, hashlib, os, re, shutil, subprocess, types

from .lib import KERNEL, LIMIT, Qemu, Skipped, check, connection, initramfs, sh, test, tsc_khz, until

LIBVIRT = '/tmp/libvirt'
APPLIANCE = 'build/guestfs-appliance'
# libvirt's session daemon is one of a user, not of root.  virsh would start another where there is none, which later
# takes the first one's socket with it.
AS_USER = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', 'env', f'HOME={LIBVIRT}',
           f'XDG_RUNTIME_DIR={LIBVIRT}', 'LIBVIRT_AUTOSTART=0']

DOMAIN = '''
<domain type='kvm'>
  <name>guest</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{words}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='{cpu}'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{dir}/disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='unix'><source mode='bind' path='{dir}/serial'/></serial>
  </devices>
</domain>
'''


def need(program, package):
    if not shutil.which(program):
        raise Skipped(f'{program} is not installed (package {package})')


def virsh(*words):
    done = subprocess.run([*AS_USER, 'virsh', '-c', 'qemu:///session', *words], capture_output=True, text=True)
    check(done.returncode == 0, f'virsh {words}: {done.stderr}')
    return done.stdout


class Domain(Qemu):
    """A domain of libvirt's; its serial port is a socket, and there is no QMP but through libvirt."""

    def __init__(self):
        self.output = b''
        Qemu.running.append(self)

    def connect(self):
        link = until(lambda: connection(f'{LIBVIRT}/serial'), 'the serial port')
        link.setblocking(False)
        port = link.makefile('rwb', buffering=0)
        self.process = types.SimpleNamespace(stdin=port, stdout=port, poll=lambda: None)

    def why(self):
        return f'the guest: {self.output[-300:]!r}'

    def monitor(self, line):
        return virsh('qemu-monitor-command', 'guest', '--hmp', line)

    def quit(self):
        with contextlib.suppress(Exception):
            virsh('destroy', 'guest')


@contextlib.contextmanager
def libvirt(cpu):
    """libvirt's daemon of a user who may use /dev/kvm, with the domain above defined."""
    need('virsh', 'libvirt-clients')
    need('libvirtd', 'libvirt-daemon-system')
    sh(f'chmod 666 /dev/kvm; rm -rf {LIBVIRT}; mkdir -p {LIBVIRT}/.config/libvirt; truncate -s 4M {LIBVIRT}/disk')
    with open(f'{LIBVIRT}/.config/libvirt/qemu.conf', 'w') as settings:
        settings.write('stdio_handler = "file"\n')
    with open(f'{LIBVIRT}/domain.xml', 'w') as xml:
        xml.write(DOMAIN.format(kernel=KERNEL, initrd=initramfs(), words=Qemu.kernel_line(), dir=LIBVIRT, cpu=cpu))
    sh(f'chown -R 65534:65534 {LIBVIRT}')
    with subprocess.Popen([*AS_USER, 'libvirtd'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            until(lambda: connection(f'{LIBVIRT}/libvirt/libvirt-sock'), 'libvirtd')
            virsh('define', f'{LIBVIRT}/domain.xml')
            yield
        finally:
            for guest in Qemu.running:
                guest.quit()
            Qemu.running.clear()
            daemon.terminate()


def a_domain_runs(cpu):
    """It starts, is suspended and resumed, and is saved and restored while it works."""
    with libvirt(cpu):
        virsh('start', '--paused', 'guest')
        guest = Domain()
        guest.connect()
        virsh('resume', 'guest')
        guest.up(2)
        check('enabled' in (said := guest.monitor('info kvm')), said)
        guest.shell('modprobe -a virtio_pci virtio_blk; until [ -b /dev/vda ]; do usleep 50000; done')
        guest.load('/dev/vda')
        guest.go_on()
        virsh('suspend', 'guest')
        check('paused' in (said := virsh('domstate', 'guest')), said)
        virsh('resume', 'guest')
        guest.go_on()
        virsh('save', '--paused', 'guest', f'{LIBVIRT}/state')
        while words := guest.process.stdout.read():
            guest.output += words
        virsh('restore', '--paused', f'{LIBVIRT}/state')
        guest.connect()
        virsh('resume', 'guest')
        guest.go_on()
        guest.check_beats()


@test(long=True)
def libvirt_runs_suspends_and_restores_a_domain():
    a_domain_runs('host-passthrough')


@test(long=True)
def libvirt_finds_a_cpu_model_for_a_domain():
    a_domain_runs('host-model')


@test(long=True)
def libvirt_finds_the_host_fit():
    need('virt-host-validate', 'libvirt-clients')
    said = subprocess.run(['virt-host-validate', 'qemu'], capture_output=True, text=True).stdout
    for line in ('hardware virtualization', '/dev/kvm exists', '/dev/kvm is accessible'):
        check(any(line in words and 'PASS' in words for words in said.splitlines()), said)


@test(long=True)
def guestfish_makes_a_file_system_and_writes_a_file():
    """The file has the right hash inside, and is in the image outside."""
    need('guestfish', 'libguestfs-tools')
    if not os.path.exists(f'{APPLIANCE}/root'):
        raise Skipped(f'{APPLIANCE} is not there: tools/guestfs-appliance makes it')
    data = os.urandom(1 << 20)
    with open('/tmp/data', 'wb') as file:
        file.write(data)
    said = sh(r'''
        rm -f /tmp/guestfs.img; truncate -s 64M /tmp/guestfs.img
        guestfish -a /tmp/guestfs.img run : mkfs ext4 /dev/sda : mount /dev/sda / : mkdir /dir : \
            upload /tmp/data /dir/file : checksum sha256 /dir/file : ls /dir
        debugfs -R 'dump /dir/file /tmp/data.back' /tmp/guestfs.img 2> /dev/null
        cmp /tmp/data /tmp/data.back
    ''', env=os.environ | {
        'LIBGUESTFS_BACKEND': 'direct', 'LIBGUESTFS_BACKEND_SETTINGS': 'force_kvm',
        'LIBGUESTFS_PATH': os.path.realpath(APPLIANCE), 'LIBGUESTFS_APPEND': f'tsc_early_khz={tsc_khz()} tsc=reliable'})
    check(said.split() == [hashlib.sha256(data).hexdigest(), 'file'], said)


@test(long=True)
def stress_ng_starts_and_runs_small_guests():
    need('stress-ng', 'stress-ng')
    done = subprocess.run(['stress-ng', '--kvm', '2', '--kvm-ops', '200', '--verify', '--metrics', '--temp-path', '/tmp'],
                          capture_output=True, text=True, timeout=LIMIT)
    said = done.stdout + done.stderr
    print('# ' + '\n# '.join(said.splitlines()))
    check(done.returncode == 0 and 'skip' not in said, said)


@test(long=True)
def runsc_runs_programs_in_its_sandbox():
    need('runsc', 'runsc')
    # A lab's root is no mount of its own, in which user namespaces cannot be made.
    run = 'runsc --rootless=false --TESTONLY-unsafe-nonroot=true --network=none --ignore-cgroups --platform=kvm do '
    sums = sh(run + "/bin/sh -c 'for i in 1 2 3; do /bin/true || exit; done; sha256sum /bin/bash'")
    check(sums.split()[0] == hashlib.sha256(open('/bin/bash', 'rb').read()).hexdigest(), sums)


@test(long=True)
def strace_names_the_exits_of_a_vcpu():
    need('strace', 'strace')
    sh('strace -f -e trace=ioctl -e kvm=vcpu -o /tmp/strace build/selftests/run '
       'out_of_ mmio_writes hlt_without triple_fault > /tmp/strace.run')
    with open('/tmp/strace') as trace:
        exits = re.findall(r'KVM_RUN.*\b(KVM_EXIT_[A-Z_]+)', trace.read())
    check({'KVM_EXIT_IO', 'KVM_EXIT_MMIO', 'KVM_EXIT_HLT', 'KVM_EXIT_SHUTDOWN'} <= set(exits), f'{set(exits)}')
