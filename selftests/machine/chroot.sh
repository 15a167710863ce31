# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# chroot.sh: a fresh Debian of one release in a directory, to be sourced by tests that want a machine
# where nothing is installed. Needs root and debootstrap.
#
# State: chroot_dir, a directory under /var/tmp with /proc, /sys and /dev of this machine mounted in
# it. It is unmounted and removed when the script ends, in whichever way.
# Read next: deb-test.

chroot_dir=

# Unmounts and removes the chroot. Nothing is removed while something is mounted there.
chroot_remove() {
	local mount
	[ -n "$chroot_dir" ] || return 0
	rm -f "$chroot_dir.log"
	for mount in dev sys proc; do
		! mountpoint -q "$chroot_dir/$mount" || umount -R -l "$chroot_dir/$mount"
	done
	if grep -q " $chroot_dir/" /proc/self/mounts; then
		echo "# $chroot_dir still has mounts and was left there" >&2
	else
		rm -rf --one-file-system "$chroot_dir"
	fi
	chroot_dir=
}

# chroot_create SUITE: makes $chroot_dir. The mirror, its key, and a proxy if there is one are this
# system's own. Prints one line that says what failed.
chroot_create() {
	local suite=$1 mirror
	[ "$(id -u)" -eq 0 ] || { echo "# a chroot needs root"; return 1; }
	command -v debootstrap > /dev/null || { echo "# debootstrap is not installed"; return 1; }
	# shellcheck disable=SC2016 # apt's own variables
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 'Identifier: Packages' | head -n 1)
	[ -n "$mirror" ] || { echo "# apt knows no mirror of Debian's; run apt-get update"; return 1; }
	chroot_dir=$(mktemp -d /var/tmp/mkvm-chroot.XXXXXX) || return 1
	trap chroot_remove EXIT
	trap 'exit 130' INT TERM HUP
	debootstrap --variant=minbase "$suite" "$chroot_dir" "$mirror" > "$chroot_dir.log" 2>&1 ||
		{ echo "# debootstrap failed: $(tail -n 1 "$chroot_dir.log")"; rm -f "$chroot_dir.log"; return 1; }
	rm -f "$chroot_dir.log"
	echo force-unsafe-io > "$chroot_dir/etc/dpkg/dpkg.cfg.d/unsafe-io"
	echo "deb $mirror $suite main" > "$chroot_dir/etc/apt/sources.list"
	# shellcheck disable=SC2046 # words
	cp $(grep -lsi 'proxy' /etc/apt/apt.conf.d/* /etc/apt/apt.conf 2> /dev/null) "$chroot_dir/etc/apt/apt.conf.d/" 2> /dev/null
	cp -L /etc/resolv.conf "$chroot_dir/etc/" 2> /dev/null
	chmod 755 "$chroot_dir"
	mount -t proc proc "$chroot_dir/proc" && mount --rbind /sys "$chroot_dir/sys" &&
		mount --make-rslave "$chroot_dir/sys" && mount --rbind /dev "$chroot_dir/dev" &&
		mount --make-rslave "$chroot_dir/dev" || { echo "# mounting /proc, /sys or /dev failed"; return 1; }
}

# in_chroot COMMAND...: runs it there, as root, in /.
in_chroot() {
	chroot "$chroot_dir" env HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
		PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" < /dev/null
}
