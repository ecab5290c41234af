package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
)

// The size of one curve's panel, in pixels, with what surrounds its axes.
const (
	panelWidth, panelHeight            = 430, 250
	leftMargin, topMargin, rightMargin = 44, 34, 96
	bottomMargin                       = 30
)

// colours are those of contenders, in their order; dashes those of quantities.
var (
	colours = []string{"#0b6e4f", "#b3541e", "#3a5a9b", "#7a4b94", "#555555"}
	dashes  = []string{"", "6 3", "1 3", "9 3 2 3"}
)

// line is one quantity of one contender: its medians, from left to right.
type line struct {
	name, colour, dash string
	points             []float64
}

// lines takes apart the rows of a curve, "QUANTITY, POINT", and names its points.
func (s *section) lines() (all []line, points []string) {
	var quantities []string
	for _, r := range s.rows {
		quantity, point, _ := strings.Cut(r.name, ", ")
		if !slices.Contains(quantities, quantity) {
			quantities = append(quantities, quantity)
		}
		if !slices.Contains(points, point) {
			points = append(points, point)
		}
	}
	for q, quantity := range quantities {
		for n, name := range s.names {
			l := line{name: quantity + ", " + name, colour: colours[n%len(colours)], dash: dashes[q%len(dashes)]}
			for _, point := range points {
				for _, r := range s.rows {
					if r.name == quantity+", "+point && len(r.values[name]) > 0 {
						l.points = append(l.points, percentile(r.values[name], 50))
					}
				}
			}
			if len(l.points) == len(points) {
				all = append(all, l)
			}
		}
	}
	return all, points
}

// writePlot draws the curves, two beside each other, as SVG. The points of an axis are apart by the same
// step, whatever their numbers: a curve that rises here rises.
func (t *table) writePlot(path string) error {
	var panels []string
	for _, s := range t.sections {
		if strings.HasPrefix(s.title, curveTitle) {
			x, y := len(panels)%2*panelWidth, len(panels)/2*panelHeight
			panels = append(panels, fmt.Sprintf("<g transform=\"translate(%d,%d)\">\n%s</g>\n", x, y, s.panel()))
		}
	}
	if len(panels) == 0 {
		return fmt.Errorf("%s: no curve was measured: the part is called flat", path)
	}
	width, height := 2*panelWidth, (len(panels)+1)/2*panelHeight
	svg := fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "+
		"font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n%s</svg>\n",
		width, height, width, height, strings.Join(panels, ""))
	return os.WriteFile(path, []byte(svg), 0o644)
}

func (s *section) panel() string {
	lines, points := s.lines()
	top := 0.0
	for _, l := range lines {
		top = max(top, slices.Max(l.points))
	}
	top = roundUp(top)
	width, height := float64(panelWidth-leftMargin-rightMargin), float64(panelHeight-topMargin-bottomMargin)
	x := func(i int) float64 { return leftMargin + width*float64(i)/float64(max(len(points)-1, 1)) }
	y := func(v float64) float64 { return topMargin + height*(1-v/top) }
	var b strings.Builder
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"18\" font-size=\"12\" font-weight=\"bold\">%s (%s)</text>\n", leftMargin, s.title, s.unit)
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(&b, "<path d=\"M%d %.1fh%.1f\" stroke=\"#dddddd\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
			leftMargin, y(v), width, leftMargin-5, y(v)+4, v)
	}
	for i, point := range points {
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x(i), panelHeight-bottomMargin+16, point)
	}
	for _, l := range lines {
		var d []string
		for i, v := range l.points {
			d = append(d, fmt.Sprintf("%.1f %.1f", x(i), y(v)))
		}
		fmt.Fprintf(&b, "<path d=\"M%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\"/>\n",
			strings.Join(d, "L"), l.colour, l.dash)
	}
	// The names stand at the right ends, and make room for each other.
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.points[len(a.points)-1], b.points[len(b.points)-1]) })
	below := float64(panelHeight)
	for _, l := range lines {
		at := min(y(l.points[len(l.points)-1])+4, below-11)
		below = at
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%.1f\" fill=\"%s\">%s</text>\n", panelWidth-rightMargin+6, at, l.colour, l.name)
	}
	return b.String()
}

// roundUp finds the end of an axis: 1, 2 or 4 times a power of ten.
func roundUp(v float64) float64 {
	for end := 1.0; ; end *= 10 {
		for _, n := range []float64{1, 2, 4, 8} {
			if v <= n*end {
				return n * end
			}
		}
	}
}
