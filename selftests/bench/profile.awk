# SPDX-License-Identifier: GPL-2.0
#
# profile.awk: instructions by function.
#
# Input, sorted by address: symbols ("ADDRESS 0 NAME [MODULE]") and counted
# instructions ("ADDRESS C COUNT BYTES").  Variables: rounds; wanted, the
# functions whose instructions go to detail.NAME in the directory dir.
# Output, all a round: "TOTAL instructions VMRUNs"; "GROUP instructions share
# name" for the kernel, each module, the client and the guest; "FUNC
# instructions share entries name group".
# Read next: profile, which calls this.

BEGIN {
	n = split(wanted, names, " ")
	for (i = 1; i <= n; i++)
		detail[names[i]] = dir "/detail." names[i]
}

# Of several names for one address the first serves.
$2 == "0" {
	if ($1 != start) {
		start = $1
		symbol = $3
		module = $4 == "" ? "kernel" : substr($4, 2, length($4) - 2)
	}
	next
}

{
	if ($1 ~ /^00000000000/) {
		name = "(the guest)"
		group = "guest"
	} else if ($1 ~ /^0000/) {
		name = "(the client and its libraries)"
		group = "client"
	} else {
		name = symbol
		group = module
	}
	# An address is not enough for a name: static functions share names.
	key = group == module ? start : name
	label[key] = name " " group
	count[key] += $3
	total[group] += $3
	all += $3
	if (group == module && $1 == start)
		entries[key] += $3
	if ($4 == "0f01d8")
		vmruns += $3
	if (name in detail)
		print $1, start, $3 / rounds, $4 > detail[name]
}

END {
	printf "TOTAL %.1f %.2f\n", all / rounds, vmruns / rounds
	for (group in total)
		printf "GROUP %.1f %.1f %s\n", total[group] / rounds, 100 * total[group] / all, group
	for (key in count)
		printf "FUNC %.1f %.1f %.2f %s\n", count[key] / rounds, 100 * count[key] / all, entries[key] / rounds, label[key]
}
