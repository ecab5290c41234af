package cgroup

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// The kernel writes these files, so the parsers are lenient: what they do not
// understand, they pass over. A newer kernel adds keys.

// parseUint reads a number; "max" is math.MaxUint64.
func parseUint(s string) (uint64, bool) {
	if s == "max" {
		return math.MaxUint64, true
	}
	v, err := strconv.ParseUint(s, 10, 64)
	return v, err == nil
}

// parseSingle reads a file that holds one number.
func parseSingle(b []byte) uint64 {
	v, _ := parseUint(string(bytes.TrimSpace(b)))
	return v
}

// eachPair calls f for each line "KEY NUMBER".
func eachPair(b []byte, f func(key string, v uint64)) {
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, ok := parseUint(value); ok {
			f(key, v)
		}
	}
}

// eachNested calls f for each line "NAME KEY=VALUE KEY=VALUE...".
func eachNested(b []byte, line func(name string) func(key, value string)) {
	for l := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(strings.TrimSpace(l), " ")
		if name == "" {
			continue
		}
		f := line(name)
		if f == nil {
			continue
		}
		for pair := range strings.FieldsSeq(rest) {
			if key, value, ok := strings.Cut(pair, "="); ok {
				f(key, value)
			}
		}
	}
}

// parsePSI reads cpu.pressure and its like (Documentation/accounting/psi.rst).
func parsePSI(b []byte) *api.PSIStats {
	psi := &api.PSIStats{}
	eachNested(b, func(name string) func(key, value string) {
		d := &api.PSIData{}
		switch name {
		case "some":
			psi.Some = d
		case "full":
			psi.Full = d
		default:
			return nil
		}
		return func(key, value string) {
			switch key {
			case "avg10":
				d.Avg10, _ = strconv.ParseFloat(value, 64)
			case "avg60":
				d.Avg60, _ = strconv.ParseFloat(value, 64)
			case "avg300":
				d.Avg300, _ = strconv.ParseFloat(value, 64)
			case "total":
				d.Total, _ = parseUint(value)
			}
		}
	})
	return psi
}

func parseIO(b []byte) (entries []*api.IOEntry) {
	eachNested(b, func(name string) func(key, value string) {
		major, minor, _ := strings.Cut(name, ":")
		maj, ok1 := parseUint(major)
		mnr, ok2 := parseUint(minor)
		if !ok1 || !ok2 {
			return nil
		}
		e := &api.IOEntry{Major: maj, Minor: mnr}
		entries = append(entries, e)
		return func(key, value string) {
			v, _ := parseUint(value)
			switch key {
			case "rbytes":
				e.Rbytes = v
			case "wbytes":
				e.Wbytes = v
			case "rios":
				e.Rios = v
			case "wios":
				e.Wios = v
			}
		}
	})
	return entries
}

func parseRdma(b []byte) (entries []*api.RdmaEntry) {
	eachNested(b, func(name string) func(key, value string) {
		e := &api.RdmaEntry{Device: name}
		entries = append(entries, e)
		return func(key, value string) {
			// The message has 32 bits where the kernel has an int.
			v, _ := parseUint(value)
			n := uint32(min(v, math.MaxUint32))
			switch key {
			case "hca_handle":
				e.HcaHandles = n
			case "hca_object":
				e.HcaObjects = n
			}
		}
	})
	return entries
}

func parseCPU(b []byte) *api.CPUStat {
	c := &api.CPUStat{}
	eachPair(b, func(key string, v uint64) {
		switch key {
		case "usage_usec":
			c.UsageUsec = v
		case "user_usec":
			c.UserUsec = v
		case "system_usec":
			c.SystemUsec = v
		case "nr_periods":
			c.NrPeriods = v
		case "nr_throttled":
			c.NrThrottled = v
		case "throttled_usec":
			c.ThrottledUsec = v
		case "nr_bursts":
			c.NrBursts = v
		case "burst_usec":
			c.BurstUsec = v
		}
	})
	return c
}

func parseMemoryEvents(b []byte) *api.MemoryEvents {
	m := &api.MemoryEvents{}
	eachPair(b, func(key string, v uint64) {
		switch key {
		case "low":
			m.Low = v
		case "high":
			m.High = v
		case "max":
			m.Max = v
		case "oom":
			m.Oom = v
		case "oom_kill":
			m.OomKill = v
		case "oom_group_kill":
			m.OomGroupKill = v
		}
	})
	return m
}

// parseMemory reads memory.stat. Linux 5.9 split the workingset counters into
// _anon and _file: the message has the sum.
func parseMemory(b []byte) *api.MemoryStat {
	m := &api.MemoryStat{}
	field := map[string]*uint64{
		"anon":                   &m.Anon,
		"file":                   &m.File,
		"kernel_stack":           &m.KernelStack,
		"slab":                   &m.Slab,
		"sock":                   &m.Sock,
		"shmem":                  &m.Shmem,
		"file_mapped":            &m.FileMapped,
		"file_dirty":             &m.FileDirty,
		"file_writeback":         &m.FileWriteback,
		"anon_thp":               &m.AnonThp,
		"inactive_anon":          &m.InactiveAnon,
		"active_anon":            &m.ActiveAnon,
		"inactive_file":          &m.InactiveFile,
		"active_file":            &m.ActiveFile,
		"unevictable":            &m.Unevictable,
		"slab_reclaimable":       &m.SlabReclaimable,
		"slab_unreclaimable":     &m.SlabUnreclaimable,
		"pgfault":                &m.Pgfault,
		"pgmajfault":             &m.Pgmajfault,
		"workingset_refault":     &m.WorkingsetRefault,
		"workingset_activate":    &m.WorkingsetActivate,
		"workingset_nodereclaim": &m.WorkingsetNodereclaim,
		"pgrefill":               &m.Pgrefill,
		"pgscan":                 &m.Pgscan,
		"pgsteal":                &m.Pgsteal,
		"pgactivate":             &m.Pgactivate,
		"pgdeactivate":           &m.Pgdeactivate,
		"pglazyfree":             &m.Pglazyfree,
		"pglazyfreed":            &m.Pglazyfreed,
		"thp_fault_alloc":        &m.ThpFaultAlloc,
		"thp_collapse_alloc":     &m.ThpCollapseAlloc,
	}
	eachPair(b, func(key string, v uint64) {
		switch key {
		case "workingset_refault_anon", "workingset_refault_file":
			m.WorkingsetRefault += v
		case "workingset_activate_anon", "workingset_activate_file":
			m.WorkingsetActivate += v
		default:
			if p := field[key]; p != nil {
				*p = v
			}
		}
	})
	return m
}
