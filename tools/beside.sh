# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2154 # dir is the caller's
#
# beside.sh: fetches packages of any of Debian's suites and unpacks them beside the system:
# what unpack-kernel and unpack-bochs share. It needs neither root nor a suite of this
# machine's own; mirror, proxies and keys are the system's.
#
# State: $dir/apt, lists and settings of apt's of our own; $work, until the script ends.
# Read next: unpack-kernel, unpack-bochs.

suites="bookworm bookworm-updates bookworm-backports trixie trixie-updates trixie-backports forky sid"

refuse() {
	echo "${0##*/}: $*" >&2
	exit 2
}

# apt PROGRAM ARGUMENT...: with these lists.
apt() {
	local program=$1
	shift
	"$program" -q -o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o Dir::State::lists="$dir/apt/lists" -o Dir::State::status="$dir/apt/status" -o Dir::Cache="$dir/apt" -o APT::Sandbox::User="$(id -un)" "$@"
}

# One script at a time works in $dir.
lock_directory() {
	mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial" || refuse "cannot write to $dir"
	: > "$dir/apt/status"	# what is installed here does not matter
	exec 9> "$dir/lock"
	flock 9
	work=$(mktemp -d "$dir/work.XXXXXX") || exit 1
	trap 'rm -rf "$work"' EXIT
}

update_lists() {
	local mirror suite
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 'Identifier: Packages' | head -n 1)
	[ -n "$mirror" ] || refuse "apt knows no mirror of Debian's; see /etc/apt/sources.list.d and run apt-get update"
	for suite in $suites; do
		echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
	done > "$dir/apt/sources.list"
	apt apt-get update > "$work/log" 2>&1 || refuse "apt-get update failed: $(grep '^E:' "$work/log" | head -n 1)"
}

# fetch [OPTION...] PACKAGE...: downloads them to $work.
fetch() {
	(cd "$work" && apt apt-get download "$@") > "$work/log" 2>&1 ||
		refuse "apt-get could not download $*: $(grep '^E:' "$work/log" | head -n 1)"
}

# unpack DIRECTORY PACKAGE...: files of packages; links of the directory's own stay.
unpack() {
	local root=$1 package
	shift
	mkdir -p "$root"
	for package in "$@"; do
		dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root" || refuse "could not unpack $package"
	done
}
