package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"
)

// table holds all that was measured.
type table struct{ sections []*section }

// section is a group of rows with one unit.
type section struct {
	title, unit string
	more        bool // more is better
	rows        []*row
	names       []string // of its contenders, if they are not those of the table
}

// row has the values of one quantity, by contender.
type row struct {
	name   string
	values map[string][]float64
}

func (t *table) section(title, unit string) *section {
	s := &section{title: title, unit: unit}
	t.sections = append(t.sections, s)
	return s
}

func (s *section) add(name string, c contender, value float64) {
	i := slices.IndexFunc(s.rows, func(r *row) bool { return r.name == name })
	if i < 0 {
		i = len(s.rows)
		s.rows = append(s.rows, &row{name: name, values: make(map[string][]float64)})
	}
	s.rows[i].values[c.name] = append(s.rows[i].values[c.name], value)
}

// percentile is the smallest value that at least p of 100 values do not exceed; of an even number of
// values, the median is the mean of the two in the middle.
func percentile(values []float64, p int) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); p == 50 && n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	i := (len(sorted)*p + 99) / 100
	return sorted[max(i, 1)-1]
}

// noise is what nobody divides by, in any unit.
const noise = 0.1

// header is that of a section's columns: for each contender median and p95, then the ratios.
func header(names []string) []string {
	cells := []string{""}
	for _, name := range names {
		cells = append(cells, name, "p95")
	}
	cells = append(cells, "n")
	for _, name := range names[1:] {
		cells = append(cells, name+"/"+names[0])
	}
	return cells
}

// cells are the columns of a row. A ratio says how many times better the first contender is.
func (s *section) cells(r *row, names []string) []string {
	cells := []string{r.name}
	for _, name := range names {
		if len(r.values[name]) == 0 {
			cells = append(cells, "-", "-")
			continue
		}
		p95 := percentile(r.values[name], 95)
		if s.more {
			p95 = percentile(r.values[name], 5) // the bad end
		}
		cells = append(cells, digits(percentile(r.values[name], 50)), digits(p95))
	}
	first := r.values[names[0]]
	cells = append(cells, fmt.Sprint(len(first)))
	for _, name := range names[1:] {
		over, under := percentile(r.values[name], 50), percentile(first, 50)
		if s.more {
			over, under = under, over
		}
		if min(over, under) < noise {
			cells = append(cells, "-")
			continue
		}
		cells = append(cells, fmt.Sprintf("%.2f", over/under))
	}
	return cells
}

// digits prints three or more significant digits.
func digits(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

const legend = "Under each name its median, then the 95th percentile (where more is better, the 5th).\n" +
	"The last columns say how many times better %s is: above 1, it takes less, or does more per second."

// print writes facts and sections.
func (t *table) print(w io.Writer, m []fact, names []string, markdown bool) {
	line := plain
	if markdown {
		line = markdownRow
		fmt.Fprint(w, "| machine | |\n|---|---|\n")
	}
	name := slices.MaxFunc(m, func(a, b fact) int { return cmp.Compare(len(a.name), len(b.name)) }).name
	for _, f := range m {
		if markdown {
			fmt.Fprintf(w, "| %s | %s |\n", f.name, f.value)
		} else {
			fmt.Fprintf(w, "%-*s  %s\n", len(name), f.name, f.value)
		}
	}
	fmt.Fprintf(w, "\n"+legend+"\n", names[0])
	width := t.widths(names)
	for _, s := range t.sections {
		names, width := names, width
		if s.names != nil {
			names, width = s.names, (&table{sections: []*section{s}}).widths(s.names)
		}
		if markdown {
			fmt.Fprintf(w, "\n### %s (%s)\n\n%s\n|---%s|\n", s.title, s.unit,
				line(header(names), width), strings.Repeat("|--:", len(width)-1))
		} else {
			fmt.Fprintf(w, "\n%s (%s)\n%s\n", s.title, s.unit, line(header(names), width))
		}
		for _, r := range s.rows {
			fmt.Fprintln(w, line(s.cells(r, names), width))
		}
	}
}

// widths are those of the columns of all sections that have the contenders of the table.
func (t *table) widths(names []string) []int {
	all := [][]string{header(names)}
	for _, s := range t.sections {
		if s.names != nil && !slices.Equal(s.names, names) {
			continue
		}
		for _, r := range s.rows {
			all = append(all, s.cells(r, names))
		}
	}
	width := make([]int, len(all[0]))
	for _, cells := range all {
		for i, cell := range cells {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	return width
}

func plain(cells []string, width []int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  %-*s", width[0], cells[0])
	for i, cell := range cells[1:] {
		fmt.Fprintf(&b, "  %*s", width[i+1], cell)
	}
	return strings.TrimRight(b.String(), " ")
}

func markdownRow(cells []string, _ []int) string { return "| " + strings.Join(cells, " | ") + " |" }

// writeJSON writes facts and sections, with every value in the order in which it was measured.
func (t *table) writeJSON(path string, m []fact) error {
	type jsonRow struct {
		Name   string               `json:"name"`
		Median map[string]float64   `json:"median"`
		P95    map[string]float64   `json:"p95"`
		Values map[string][]float64 `json:"values"`
	}
	type jsonSection struct {
		Title        string    `json:"title"`
		Unit         string    `json:"unit"`
		MoreIsBetter bool      `json:"moreIsBetter"`
		Rows         []jsonRow `json:"rows"`
	}
	out := struct {
		Facts    map[string]string `json:"facts"`
		Sections []jsonSection     `json:"sections"`
	}{Facts: map[string]string{}}
	for _, f := range m {
		out.Facts[f.name] = f.value
	}
	for _, s := range t.sections {
		section := jsonSection{Title: s.title, Unit: s.unit, MoreIsBetter: s.more}
		for _, r := range s.rows {
			row := jsonRow{Name: r.name, Median: map[string]float64{}, P95: map[string]float64{}, Values: r.values}
			for name, values := range r.values {
				row.Median[name] = percentile(values, 50)
				row.P95[name] = percentile(values, 95)
				if s.more {
					row.P95[name] = percentile(values, 5)
				}
			}
			section.Rows = append(section.Rows, row)
		}
		out.Sections = append(out.Sections, section)
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
