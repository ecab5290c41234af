package main

import (
	"strings"
	"testing"
)

func TestPercentile(t *testing.T) {
	ten := []float64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}
	for _, test := range []struct {
		values []float64
		p      int
		want   float64
	}{
		{nil, 50, 0},
		{[]float64{4}, 50, 4},
		{[]float64{4}, 90, 4},
		{[]float64{4, 2}, 50, 3},
		{[]float64{9, 1, 4}, 50, 4},
		{ten, 50, 5.5},
		{ten, 90, 9},
		{ten, 10, 1},
		{ten[1:], 90, 9},
	} {
		if got := percentile(test.values, test.p); got != test.want {
			t.Errorf("percentile %d of %v: %v, want %v", test.p, test.values, got, test.want)
		}
	}
}

func TestPrint(t *testing.T) {
	mini, runc := contender{name: "mini"}, contender{name: "runc"}
	var all table
	times := all.section("times", "ms")
	rates := all.section("rates", "per second")
	rates.more = true
	for i := range 3 {
		times.add("create", mini, float64(i+1))
		times.add("create", runc, 10*float64(i+1))
		times.add("exit", mini, 0.01)
		times.add("exit", runc, 1)
		rates.add("started", mini, 80)
		rates.add("started", runc, 20)
	}
	for _, test := range []struct {
		markdown bool
		want     string
	}{
		{false, `
cores  2

times (ms)
           mini   p95  runc   p95  n  runc/mini
  create   2.00  3.00  20.0  30.0  3      10.00
  exit     0.01  0.01  1.00  1.00  3          -

rates (per second)
           mini   p95  runc   p95  n  runc/mini
  started  80.0  80.0  20.0  20.0  3       4.00
`},
		{true, `
| machine | |
|---|---|
| cores | 2 |

### times (ms)

|  | mini | p95 | runc | p95 | n | runc/mini |
|---|--:|--:|--:|--:|--:|--:|
| create | 2.00 | 3.00 | 20.0 | 30.0 | 3 | 10.00 |
| exit | 0.01 | 0.01 | 1.00 | 1.00 | 3 | - |

### rates (per second)

|  | mini | p95 | runc | p95 | n | runc/mini |
|---|--:|--:|--:|--:|--:|--:|
| started | 80.0 | 80.0 | 20.0 | 20.0 | 3 | 4.00 |
`},
	} {
		var out strings.Builder
		all.print(&out, []fact{{"cores", "2"}}, []string{"mini", "runc"}, test.markdown)
		before, after, _ := strings.Cut(out.String(), "Under each name")
		_, after, _ = strings.Cut(after, "per second.\n\n")
		if got := "\n" + before + after; got != test.want {
			t.Errorf("markdown %v:\n%s\nwant:\n%s", test.markdown, got, test.want)
		}
	}
}
