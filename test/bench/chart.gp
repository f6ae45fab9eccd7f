# Draws a section of figures.tsv as a bar chart:
#
#   gnuplot -c chart.gp FIGURES SECTION OUTPUT
#
# A row of FIGURES is: section, work, speed as a multiple of the peer's speed, peer.
# The scale is logarithmic, and bars start at 1, the speed of the peer: a bar to the
# right is faster than its peer, a bar to the left is slower.

figures = ARG1
section = ARG2
set output ARG3

# The section's rows, numbered.
rows = sprintf("< awk -F'\\t' -v OFS='\\t' -v section=%s '$1 == section { print ++n, $2, $3, $4 }' '%s'", section, figures)
set datafile separator tab
stats rows using 3 nooutput
n = STATS_records

title = section eq "reading" ? "Reading" \
	: section eq "writing" ? "Writing, with counts alone" \
	: section eq "versions" ? "Counts and history" \
	: section eq "import" ? "Imports and batches" \
	: section eq "datasync" ? "Datasync" \
	: section eq "own" ? "Own tables" : section

height = 120 + 40 * n
set terminal svg noenhanced size 900, height font "sans-serif,12" background "white" name "poser_".section
set title title.": how many times the peer's speed" font ",15"

# One row of the chart for each row of the file, the first one on top.
set yrange [n + 0.6 : 0.4]
set logscale x
low = STATS_min < 0.5 ? STATS_min / 1.2 : 0.4
high = STATS_max > 2 ? STATS_max * 2 : 2.5
set xrange [low : high]
if (high / low < 100) {
	set xtics (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
} else {
	set xtics 10
}
set mxtics 1
set lmargin at screen 0.46
set rmargin at screen 0.97
set tmargin at screen 1 - 50.0 / height
set bmargin at screen 65.0 / height
set border 1 linecolor "#888888"
set tics nomirror textcolor "#222222"
set ytics scale 0 font ",11"
set format x "%g"
set grid xtics linecolor "#dddddd"
set xlabel "left of 1: slower than the peer; right of 1: faster"
set style fill solid noborder
unset key

label(work, peer) = sprintf("%s\nagainst %s", work, peer)
set arrow from 1, 0.4 to 1, n + 0.6 nohead linewidth 2 linecolor "#444444" front

plot rows using (1):1:($3 < 1 ? $3 : 1):($3 < 1 ? 1 : $3):($1 - 0.3):($1 + 0.3):($3 < 1 ? 0xc9793a : 0x3a7ca5):ytic(label(strcol(2), strcol(4))) \
		with boxxyerror linecolor rgb variable, \
	rows using ($3 < 1 ? 1 : $3):1:(strcol(3)) with labels left offset character 0.5, 0 font ",11" textcolor "#222222"
