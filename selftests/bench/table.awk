# SPDX-License-Identifier: GPL-2.0
#
# table.awk: the benchmark's table, and its JSON when json= names a file.
#
# Input: the lines of exits for the kernel's module and then for mkvm, and those of
# boot-pairs; see there for their fields.  Variables: other (the kernel's module), release, emulator, aim, absent
# (why there are no figures of mkvm, or empty), json.
# Read next: bench, which calls this.

function module_of(file)
{
	return file ~ /mkvm\.tsv$/ ? "mkvm" : other
}

FILENAME !~ /boot\.tsv$/ {
	module = module_of(FILENAME)
	if (!($1 in title)) {
		order[++rows] = $1
		title[$1] = $NF
	}
	if ($2 == "ok") {
		median[module, $1] = $3
		mean[module, $1] = $6
		spread = 100 * ($5 - $4) / $3
		if (spread > widest[$1])
			widest[$1] = spread
		drift = 100 * ($8 - $7) / $3
		if (drift > moved[$1])
			moved[$1] = drift
		detail[module, $1] = sprintf("{\"median\": %s, \"p05\": %s, \"p95\": %s, \"mean\": %s, " \
			"\"lowest_median\": %s, \"highest_median\": %s, \"rounds\": %s}", $3, $4, $5, $6, $7, $8, $9)
	} else {
		why[++failures] = title[$1] ", " module ": " $3
		detail[module, $1] = sprintf("{\"missing\": \"%s\"}", escaped($3))
	}
	next
}

{
	if (!($3 in parts))
		part[++nr_parts] = $3
	parts[$3]
	boot[$1, $3, ++boots[$1, $3]] = $2
}

function escaped(s)
{
	gsub(/["\\]/, "\\\\&", s)
	return s
}

# The middle one of list[key, 1..n].
function middle(list, key, n,    i, j, t, sorted)
{
	for (i = 1; i <= n; i++) {
		t = list[key, i]
		for (j = i - 1; j >= 1 && sorted[j] > t; j--)
			sorted[j + 1] = sorted[j]
		sorted[j + 1] = t
	}
	return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

function verdict(ratio, aim)
{
	return ratio <= aim ? "ok" : "miss"
}

# One line of the table; a, b and ratio are "" where there is no figure.
function line(name, a, b, ratio, aim, note,    s)
{
	s = sprintf("%-42s %12s %12s  ", name, a == "" ? "-" : a, b == "" ? "-" : b)
	if (ratio != "")
		s = s sprintf("%6.3f  %5.2f  %s", ratio, aim, verdict(ratio, aim))
	else
		s = s sprintf("%6s  %5.2f", "", aim)
	print s (note == "" ? "" : "  (" note ")")
}

function heading(text)
{
	printf "\n%s\n%-42s %12s %12s  %6s  %5s\n", text, "", other, "mkvm", "ratio", "aim"
}

function exits_table(    i, name, a, b, ratio, note)
{
	heading("Instructions per exit, median (exact), Linux " release ", " emulator)
	for (i = 1; i <= rows; i++) {
		name = order[i]
		a = median[other, name]
		b = median["mkvm", name]
		ratio = a != "" && b != "" ? b / a : ""
		note = moved[name] > 0.1 ? sprintf("passes differ by %.2f %%", moved[name]) : ""
		line(title[name], a, b, ratio, aim, note)
		if (json != "")
			printf("%s\n    {\"name\": \"%s\", \"title\": \"%s\", \"unit\": \"instructions\", \"aim\": %s, " \
				"\"ratio\": %s,\n     \"%s\": %s,\n     \"mkvm\": %s}", i > 1 ? "," : "", name, \
				escaped(title[name]), aim, ratio == "" ? "null" : sprintf("%.4f", ratio), other, \
				json_of(other, name), json_of("mkvm", name)) > json
	}
}

function json_of(module, name)
{
	if ((module, name) in detail)
		return detail[module, name]
	return sprintf("{\"missing\": \"%s\"}", module == "mkvm" && absent != "" ? escaped(absent) : "no figure")
}

function boot_table(    i)
{
	part_title["shell"] = "launch to shell"
	part_title["qemu-shell"] = "QEMU: launch to shell"
	part_title["qemu-load"] = "QEMU: a short load"
	heading("Wall-clock seconds, medians; the ratio is the median of the pairs' ratios")
	if (json != "")
		printf "\n  ],\n  \"boot\": [" > json
	for (i = 1; i <= nr_parts; i++)
		boot_line(part[i], i > 1 ? "," : "")
	if (json != "")
		printf "]" > json
}

function boot_line(what, comma,    i, n, na, nb, a, b, ratio, list)
{
	na = boots[other, what]
	nb = boots["mkvm", what]
	n = nb < na ? nb : na
	a = na ? sprintf("%.2f", middle(boot, other SUBSEP what, na)) : ""
	b = nb ? sprintf("%.2f", middle(boot, "mkvm" SUBSEP what, nb)) : ""
	for (i = 1; i <= n; i++)
		list["r", i] = boot["mkvm", what, i] / boot[other, what, i]
	ratio = n ? middle(list, "r", n) : ""
	line(part_title[what] ", 2 vCPUs, " (n ? n : na) (n ? " pairs" : " boots"), a, b, ratio, 1, "")
	if (json == "")
		return
	printf("%s\n    {\"name\": \"%s\", \"unit\": \"seconds\", \"aim\": 1.0, \"ratio\": %s,\n     \"%s\": [%s],\n" \
		"     \"mkvm\": [%s]}", comma, what, ratio == "" ? "null" : sprintf("%.4f", ratio), \
		other, list_of(other, what), list_of("mkvm", what)) > json
}

function list_of(module, what,    i, s)
{
	for (i = 1; i <= boots[module, what]; i++)
		s = s (i > 1 ? ", " : "") boot[module, what, i]
	return s
}

END {
	if (json != "")
		printf("{\n  \"kernel\": \"%s\",\n  \"qemu\": \"%s\",\n  \"exits\": [", release, escaped(qemu)) > json
	if (rows)
		exits_table()
	if (nr_parts)
		boot_table()
	else if (json != "")
		printf "\n  ]" > json
	if (json != "")
		printf "\n}\n" > json
	print ""
	for (i = 1; i <= rows; i++)
		if (widest[order[i]] > 0.1)
			wide = wide sprintf("  %s: %.1f %%, means %s and %s\n", title[order[i]], widest[order[i]], \
				mean[other, order[i]], ("mkvm", order[i]) in mean ? mean["mkvm", order[i]] : "-")
	if (rows)
		print "Nine in ten rounds of a row lie within 0.1 % of each other" (wide == "" ? "." : ", but for")
	printf("%s", wide)
	for (i = 1; i <= failures; i++)
		print "No figure for " why[i]
	if (absent != "")
		print "No figures of mkvm: " absent
}
