package cgroup

import (
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd-mini/mini/shim/internal/api"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"cpu.stat",
			parseCPU([]byte("usage_usec 10\nuser_usec 6\nsystem_usec 4\nnice_usec 0\ncore_sched.force_idle_usec 0\n" +
				"nr_periods 3\nnr_throttled 2\nthrottled_usec 1\nnr_bursts 8\nburst_usec 9\n")),
			&api.CPUStat{UsageUsec: 10, UserUsec: 6, SystemUsec: 4, NrPeriods: 3, NrThrottled: 2, ThrottledUsec: 1, NrBursts: 8, BurstUsec: 9}},
		{"cpu.pressure",
			parsePSI([]byte("some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.00 avg60=0.00 avg300=2.00 total=4\n")),
			&api.PSIStats{Some: &api.PSIData{Avg10: 1.5, Avg60: 0.25, Total: 123}, Full: &api.PSIData{Avg300: 2, Total: 4}}},
		{"io.stat",
			&api.IOStat{Usage: parseIO([]byte("8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n7:0 \nnonsense\n254:0 rbytes=1\n"))},
			&api.IOStat{Usage: []*api.IOEntry{
				{Major: 8, Minor: 16, Rbytes: 1459200, Wbytes: 314773504, Rios: 192, Wios: 353}, {Major: 7}, {Major: 254, Rbytes: 1}}}},
		{"rdma.max",
			&api.RdmaStat{Limit: parseRdma([]byte("mlx4_0 hca_handle=2 hca_object=2000\nocrdma1 hca_handle=3 hca_object=max\n"))},
			&api.RdmaStat{Limit: []*api.RdmaEntry{
				{Device: "mlx4_0", HcaHandles: 2, HcaObjects: 2000}, {Device: "ocrdma1", HcaHandles: 3, HcaObjects: math.MaxUint32}}}},
		{"memory.events",
			parseMemoryEvents([]byte("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\nsock_throttled 7\n")),
			&api.MemoryEvents{Low: 1, High: 2, Max: 3, Oom: 4, OomKill: 5, OomGroupKill: 6}},
		{"memory.stat",
			parseMemory([]byte("anon 1\nfile 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\nworkingset_activate_anon 5\n" +
				"workingset_activate_file 6\nworkingset_nodereclaim 7\nthp_collapse_alloc 8\nvmalloc 9\n")),
			&api.MemoryStat{Anon: 1, File: 2, WorkingsetRefault: 7, WorkingsetActivate: 11, WorkingsetNodereclaim: 7, ThpCollapseAlloc: 8}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", c.name, c.got, c.want)
		}
	}
	if v := parseSingle([]byte("max\n")); v != math.MaxUint64 {
		t.Errorf("max is %d", v)
	}
}

// Every field of the message that memory.stat has is filled from it: the keys
// are named as the fields.
func TestParseMemoryIsComplete(t *testing.T) {
	elsewhere := []string{"Usage", "UsageLimit", "SwapUsage", "SwapLimit", "MaxUsage", "SwapMaxUsage", "PSI"}
	capital := regexp.MustCompile("(.)([A-Z])")
	for _, f := range reflect.VisibleFields(reflect.TypeFor[api.MemoryStat]()) {
		if slices.Contains(elsewhere, f.Name) {
			continue
		}
		key := strings.ToLower(capital.ReplaceAllString(f.Name, "${1}_$2"))
		m := parseMemory([]byte(key + " 42\n"))
		if reflect.ValueOf(m).Elem().FieldByIndex(f.Index).Uint() != 42 {
			t.Errorf("%s is not read from %s", f.Name, key)
		}
	}
}

func TestStats(t *testing.T) {
	g := newTestGroup(t)
	if _, err := inside(t, g, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"); err != nil {
		t.Fatal(err)
	}
	m, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if m.CPU.UsageUsec == 0 {
		t.Errorf("no time was used: %v", m.CPU)
	}
	has, err := g.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	if m.Pids == nil || m.Memory == nil || m.MemoryEvents == nil || m.Io == nil || m.Rdma == nil {
		t.Errorf("a section is missing: %v", m)
	}
	if len(has) == 0 && (m.Pids.Current != 0 || m.Memory.Usage != 0 || len(m.Io.Usage) != 0 || m.Hugetlb != nil) {
		t.Errorf("sections without a controller: %v", m)
	}
}

func BenchmarkStats(b *testing.B) {
	g := newTestGroup(b)
	for b.Loop() {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "\n", "usage_usec 10\nuser_usec\n", "some avg10=0.00 avg60=x total=18446744073709551616\n",
		"8:16 rbytes=1 =\n:\n", "mlx hca_handle=max hca_object=-1\n", "populated 1\nfrozen 0\n", "oom_kill max\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parseEvents(b)
		parseSingle(b)
		parsePSI(b)
		parseIO(b)
		parseRdma(b)
		parseCPU(b)
		parseMemory(b)
		parseMemoryEvents(b)
		undoOf("io.max", string(b), b)
	})
}
