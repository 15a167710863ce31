# SPDX-License-Identifier: GPL-2.0
#
# devices.py: QEMU's devices under a guest's drivers: disks, whose contents are looked at
# from both sides, network cards, the screen, USB.
#
# Read next: lib.py.

import hashlib, http.server, os, re, threading

from .lib import Qemu, check, test

DISK_SIZE = 4 << 20


def disk_image(name):
    """A file of half random bytes, half nothing; its path."""
    path = f'/tmp/{name}.img'
    with open(path, 'wb') as image:
        image.write(os.urandom(DISK_SIZE // 2) + bytes(DISK_SIZE // 2))
    return path


def half_hash(path, half):
    with open(path, 'rb') as image:
        image.seek(half * DISK_SIZE // 2)
        return hashlib.sha256(image.read(DISK_SIZE // 2)).hexdigest()


def disk_works(guest, place, path):
    """The guest reads what was put there, and writes the other half; that half's hash, as the guest knows it."""
    # By its place in sysfs: Linux looks at SCSI disks in parallel, and /dev/sda is the first to be ready.
    said = guest.shell(f'until for d in /sys/block/*; do readlink -f $d; done | grep {place}; do usleep 50000; done')
    device = '/dev/' + os.path.basename(said.split()[-1])
    guest.shell(f'until [ -b {device} ]; do usleep 50000; done')
    half = f'bs=64k count={DISK_SIZE // 2 // 65536}'
    check(half_hash(path, 0) in guest.shell(f'dd if={device} {half} iflag=direct 2> /dev/null | sha256sum'),
          f'{device} reads wrong')
    guest.shell(f'dd if=/dev/urandom of=/half {half} 2> /dev/null')
    guest.shell(f'dd if=/half of={device} {half} seek={DISK_SIZE // 2 // 65536} 2> /dev/null; sync')
    return guest.shell('sha256sum < /half')[:64]


def network_works(guest, card):
    """A file comes through QEMU's user network from a server of ours."""
    data = os.urandom(300000)

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(('127.0.0.1', 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        guest.shell(f'ip link set {card} up; ip addr add 10.0.2.15/24 dev {card}')
        said = guest.shell(f'wget -q -O - http://10.0.2.2:{server.server_port}/ | sha256sum')
        server.shutdown()
    check(hashlib.sha256(data).hexdigest() in said, f'through {card} came {said}')


def devices_work(machine, modules, disks, network):
    """disks: a part of the path in the guest's sysfs, and QEMU's device; network: QEMU's device."""
    paths = {place: disk_image(place.strip('/')) for place in disks}
    words = ['-netdev', 'user,id=net', '-device', f'{network},netdev=net']
    for number, (place, model) in enumerate(disks.items()):
        words += ['-drive', f'if=none,id=disk{number},format=raw,file={paths[place]}',
                  '-device', f'{model},drive=disk{number}']
    guest = Qemu(*words, machine=machine)
    guest.up()
    guest.shell(f'modprobe -a {modules}')
    hashes = {place: disk_works(guest, place, paths[place]) for place in disks}
    network_works(guest, 'eth0')
    guest.power_off()
    for place, expected in hashes.items():
        check(half_hash(paths[place], 1) == expected, f'outside, {place} has other contents than the guest wrote')


@test
def virtio_and_ahci_disks_and_a_virtio_network_work():
    devices_work('q35', 'virtio_pci virtio_blk virtio_net ahci sd_mod',
                 {'/vda': 'virtio-blk-pci', '/ata1/': 'ide-hd,bus=ide.0'}, 'virtio-net-pci')


@test(long=True)
def ide_disks_and_an_e1000_work():
    devices_work('pc', 'ata_piix sd_mod e1000', {'/ata1/': 'ide-hd,bus=ide.0', '/ata2/': 'ide-hd,bus=ide.1'},
                 'e1000')


def screen(guest):
    guest.command('screendump', filename='/tmp/screen.ppm')
    with open('/tmp/screen.ppm', 'rb') as picture:
        return picture.read()


def light_pixels(picture):
    return picture.count(b'\xff') // 3


@test(long=True)
def the_screen_shows_what_the_guest_has_drawn():
    """QEMU draws anew only the pages that the dirty log names."""
    guest = Qemu('-device', 'VGA', append='vga=0x314 vt.global_cursor_default=0')
    guest.up()
    guest.shell('[ -c /dev/fb0 ]')
    guest.shell('cat /dev/zero > /dev/fb0 2> /dev/null; true')
    check(light_pixels(screen(guest)) == 0, 'the screen is not black')
    for chunk in (3, 50, 90):
        # 800 x 600 with 16 bits: some whole lines.
        guest.shell(f"head -c 8000 /dev/zero | tr '\\000' '\\377' | dd of=/dev/fb0 bs=8000 seek={chunk} 2> /dev/null")
        check(light_pixels(screen(guest)) == 4000, f'{light_pixels(screen(guest))} pixels are light')
        guest.shell(f'dd if=/dev/zero of=/dev/fb0 bs=8000 count=1 seek={chunk} 2> /dev/null')
        check(light_pixels(screen(guest)) == 0, 'the screen is not black again')
    guest.power_off()


@test(long=True)
def a_usb_tablet_tells_where_it_is():
    guest = Qemu('-device', 'qemu-xhci', '-device', 'usb-tablet')
    guest.up()
    guest.shell('modprobe -a xhci_pci usbhid hid_generic evdev')
    guest.shell("until grep -A 4 Tablet /proc/bus/input/devices | grep -q event; do usleep 50000; done")
    event = re.search(r'event\d+', guest.shell('grep -A 4 Tablet /proc/bus/input/devices | grep Handlers'))[0]
    guest.shell(f'(dd if=/dev/input/{event} bs=24 count=2 2> /dev/null | hexdump -C; echo "the" tablet) & usleep 300000')
    start = len(guest.output)
    # The reader may not have the device open yet: again, elsewhere.
    for place in range(1000, 30000, 1000):
        guest.command('input-send-event', events=[
            {'type': 'abs', 'data': {'axis': axis, 'value': place}} for axis in ('x', 'y')])
        guest.read()
        if b'the tablet' in guest.output[start:]:
            break
    guest.wait_for(b'the tablet', start)
    guest.power_off()
