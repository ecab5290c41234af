package cgroup

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

var denyAll = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}

func TestMissingController(t *testing.T) {
	g := newTestGroup(t)
	err := g.Apply(program.Resources{Writes: []program.Write{
		{File: "cgroup.max.depth", Value: "7", Field: "linux.resources.unified"},
		{Controller: "nonesuch", File: "nonesuch.max", Value: "1", Field: "linux.resources.nonesuch"},
	}})
	var missing *MissingControllerError
	if !errors.As(err, &missing) || missing.Controller != "nonesuch" || missing.Field != "linux.resources.nonesuch" {
		t.Errorf("got %v", err)
	}
	if b, _ := g.read("cgroup.max.depth", nil); string(b) != "max\n" {
		t.Errorf("written all the same: %q", b)
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	g := newTestGroup(t)
	ok := []program.Write{
		{File: "cgroup.max.depth", Value: "7", Field: "linux.resources.unified"},
		{File: "cgroup.max.descendants", Value: "9", Field: "linux.resources.unified"},
	}
	check := func(depth, descendants string) {
		t.Helper()
		a, _ := g.read("cgroup.max.depth", nil)
		b, _ := g.read("cgroup.max.descendants", nil)
		if string(a) != depth || string(b) != descendants {
			t.Errorf("depth %q, descendants %q", a, b)
		}
	}
	fails := []struct {
		r    program.Resources
		want string
	}{
		{program.Resources{Writes: append(ok[:2:2], program.Write{File: "cgroup.max.depth", Value: "x", Field: "linux.a"})},
			": linux.a: write cgroup.max.depth: invalid argument"},
		{program.Resources{Writes: append(ok[:2:2], program.Write{File: "nonesuch", Field: "linux.b"})},
			": linux.b: write nonesuch: no such file or directory"},
		{program.Resources{Writes: append(ok[:2:2], program.Write{File: "../cgroup.procs", Field: "linux.c"})},
			": linux.c: write ../cgroup.procs: invalid argument"},
		{program.Resources{Writes: ok, Devices: []specs.LinuxDeviceCgroup{{Access: "x"}}},
			`: linux.resources.devices[0].access: "x" is not made of r, w, m`},
	}
	for _, f := range fails {
		if err := g.Apply(f.r); err == nil || !strings.HasSuffix(err.Error(), f.want) {
			t.Errorf("got  %v\nwant %s", err, f.want)
		}
		check("max\n", "max\n")
	}
	if err := g.Apply(program.Resources{Writes: ok}); err != nil {
		t.Error(err)
	}
	check("7\n", "9\n")

	// Write-only files are written.
	kill := program.Write{File: "cgroup.kill", Value: "1", Field: "linux.resources.unified"}
	if err := g.Apply(program.Resources{Writes: []program.Write{kill}}); err != nil {
		t.Error(err)
	}
}

func TestUndoOf(t *testing.T) {
	const iomax = "8:0 rbps=1 wbps=max riops=max wiops=max\n8:16 rbps=2 wbps=max riops=max wiops=max\n"
	for _, c := range []struct {
		file, value, old string
		want             []undo
	}{
		{"memory.max", "1024", "max\n", []undo{{"memory.max", "max\n"}}},
		{"cpuset.cpus", "0-1", "\n", []undo{{"cpuset.cpus", "\n"}}},
		{"io.max", "8:16 rbps=9", iomax, []undo{{"io.max", "8:16 rbps=2 wbps=max riops=max wiops=max"}}},
		{"io.max", "8:32 rbps=9", iomax, []undo{{"io.max", "8:32 rbps=max wbps=max riops=max wiops=max"}}},
		{"io.weight", "50", "default 100\n8:0 20\n", []undo{{"io.weight", "default 100"}}},
		{"io.weight", "default 50", "default 100\n", []undo{{"io.weight", "default 100"}}},
		{"io.weight", "8:16 50", "default 100\n8:0 20\n", []undo{{"io.weight", "8:16 default"}}},
		{"rdma.max", "mlx hca_handle=1", "mlx hca_handle=max hca_object=max\n", []undo{{"rdma.max", "mlx hca_handle=max hca_object=max"}}},
		{"rdma.max", "gone hca_handle=1", "", nil},
	} {
		if got := undoOf(c.file, c.value, []byte(c.old)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: got %v, want %v", c.file, c.value, got, c.want)
		}
	}
	if undoOf("memory.reclaim", "1", nil) != nil {
		t.Error("undo of a file that cannot be read")
	}
}

// TestControllers needs a host whose cgroup v2 has controllers.
func TestControllers(t *testing.T) {
	needRoot(t)
	g, err := Create(testRoot, testPath(t, "a", "b"), []string{"memory", "pids", "memory", ""})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, g)
	has, err := g.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	if len(has) == 0 {
		t.Skip("TestControllers: cgroup v2 has no controllers here")
	}
	if strings.Join(has, " ") != "memory pids" {
		t.Errorf("controllers %q, want those needed", has)
	}
	limit := func(v string) program.Resources {
		return program.Resources{Writes: []program.Write{
			{Controller: "memory", File: "memory.max", Value: v, Field: "linux.resources.memory.limit"},
			{Controller: "pids", File: "pids.max", Value: "20", Field: "linux.resources.pids.limit"},
		}}
	}
	if err := g.Apply(limit("67108864")); err != nil {
		t.Fatal(err)
	}
	m, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if m.Memory.UsageLimit != 67108864 || m.Pids.Limit != 20 || m.MemoryEvents == nil {
		t.Errorf("stats %v", m)
	}
	kills := make(chan OOMKills, 1)
	ctx := soon(t)
	go func() { _ = g.OOMEvents(ctx, func(n OOMKills) { kills <- n }) }()
	if err := g.Apply(program.Resources{Writes: []program.Write{
		{Controller: "memory", File: "memory.swap.max", Value: "0", Field: "linux.resources.memory.swap"},
	}}); err != nil && !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	if out, err := inside(t, g, "head -c 200m /dev/zero | tail -c 200m >/dev/null"); err == nil {
		t.Logf("no OOM: %s", out)
	}
	select {
	case n := <-kills:
		if n.Own == 0 {
			t.Error("told of no kill")
		}
	case <-ctx.Done():
		t.Error("no OOM event")
	}
	if n, err := g.OOMKills(); err != nil || n.Own == 0 || n.Others != 0 {
		t.Errorf("OOMKills %+v, %v", n, err)
	}
}

// TestHugetlb tests with hugetlb what it can: on hybrid hosts it is often the
// one controller that version 1 has not taken.
func TestHugetlb(t *testing.T) {
	needRoot(t)
	g, err := Create(testRoot, testPath(t, "a", "b"), []string{"hugetlb", "nonesuch"})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, g)
	const field = "linux.resources.hugepageLimits[0]"
	err = g.Apply(program.Resources{Writes: []program.Write{
		{Controller: "hugetlb", File: "hugetlb.2MB.max", Value: "4194304", Field: field},
	}})
	var missing *MissingControllerError
	if errors.As(err, &missing) {
		t.Skipf("TestHugetlb: %v", err)
	}
	if errors.Is(err, unix.ENOENT) {
		t.Skip("TestHugetlb: no huge pages of 2 MB here")
	}
	if err != nil {
		t.Fatal(err)
	}
	m, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range m.Hugetlb {
		if h.Pagesize == "2MB" && h.Max == 4194304 {
			return
		}
	}
	t.Errorf("stats: %v", m.Hugetlb)
}

// TestApplyPlaces: what a kernel may lack, and what it may have elsewhere. The
// files are such as every cgroup has, with any controller.
func TestApplyPlaces(t *testing.T) {
	g := newTestGroup(t)
	depth := func(v string) program.Write { return program.Write{File: "cgroup.max.depth", Value: v, Field: "depth"} }
	none := func(file string) program.Write { return program.Write{File: file, Value: "1", Field: "none"} }
	or := func(w program.Write) program.Write { w.Or = true; return w }
	optional := func(w program.Write) program.Write { w.Optional = true; return w }
	inUse := func(w program.Write) program.Write { w.AtLeast = "cgroup.max.descendants"; return w }
	for _, c := range []struct {
		name   string
		writes []program.Write
		want   string // the error has it
	}{
		{"optional", []program.Write{optional(none("cgroup.a")), depth("7")}, ""},
		{"in the second place", []program.Write{none("cgroup.a"), or(depth("8"))}, ""},
		{"in the first place", []program.Write{depth("9"), or(none("cgroup.a"))}, ""},
		{"in no place", []program.Write{depth("10"), none("cgroup.a"), or(none("cgroup.b"))}, "none: write cgroup.a or cgroup.b: no such file"},
		{"not there", []program.Write{depth("11"), none("cgroup.a")}, "none: write cgroup.a: no such file"},
		{"less than in use", []program.Write{depth("12"), inUse(depth("12"))}, "depth: 12 is below the 18446744073709551615 bytes in use"},
		{"no less than in use", []program.Write{inUse(depth("max"))}, ""},
	} {
		before, _ := g.read("cgroup.max.depth", nil)
		err := g.Apply(program.Resources{Writes: c.writes})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if after, _ := g.read("cgroup.max.depth", nil); err != nil && string(after) != string(before) {
			t.Errorf("%s: changed from %q to %q in spite of an error", c.name, before, after)
		}
	}
	failed := errors.New("no")
	if err := g.ApplyThen(program.Resources{Writes: []program.Write{depth("3")}}, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("last step: %v", err)
	}
	if after, _ := g.read("cgroup.max.depth", nil); string(after) != "max\n" {
		t.Errorf("the last step failed, and left %q", after)
	}
}
