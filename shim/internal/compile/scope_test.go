package compile

import (
	"fmt"
	"math"
	"path"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/shim/internal/program"
)

func TestCgroup(t *testing.T) {
	for _, c := range []struct {
		path    string
		systemd bool
		want    string // the directory, and the unit and slice of a scope, or an error
	}{
		{"", false, "/id"},
		{"/a/b", false, "/a/b"},
		{"a/b", false, "/a/b"},
		{"/a:b:c", false, "/a:b:c"},
		{"a:b:c", false, "/a:b:c"},
		{"/a/../b", false, "has a .. element"},
		{"..", false, "has a .. element"},
		{"system.slice:nerdctl:x", false, "/system.slice/nerdctl-x.scope nerdctl-x.scope system.slice"},
		{":nerdctl:x", false, "/system.slice/nerdctl-x.scope nerdctl-x.scope system.slice"},
		{"-.slice::x", false, "/x.scope x.scope -.slice"},
		{"kubepods-burstable-pod1_2.slice:cri-containerd:x", false,
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-x.scope cri-containerd-x.scope kubepods-burstable-pod1_2.slice"},
		{"", true, "/system.slice/mini-id.scope mini-id.scope system.slice"},
		{"/a/b", true, "want slice:prefix:name"},
		{"a.slice:b/../..:c", true, "want slice:prefix:name"},
		{"a--b.slice:p:n", false, "not the name of a slice"},
		{"-a.slice:p:n", false, "not the name of a slice"},
		{"a.slice:p:n m", false, "not the name of a unit"},
		{"a.slice:.p:n", false, "not the name of a unit"},
		{"a.slice::_n", false, "not the name of a unit"},
		{"a.slice:p:" + strings.Repeat("n", 256), false, "not the name of a unit"},
		{"a b.slice:p:n", false, "not the name of a unit"},
	} {
		dir, scope, err := Cgroup("id", &specs.Spec{Linux: &specs.Linux{CgroupsPath: c.path}}, c.systemd)
		got := dir
		if scope != nil {
			got += " " + scope.Unit + " " + scope.Slice
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want) || !strings.HasPrefix(got, "linux.cgroupsPath: ")) {
			t.Errorf("%q, systemd %t: got %s, want %s", c.path, c.systemd, got, c.want)
		}
	}
}

func TestScopeAnnotations(t *testing.T) {
	with := func(key, value string) (string, error) {
		_, scope, err := Cgroup("id", &specs.Spec{
			Annotations: map[string]string{key: value, "other": "x"},
			Linux:       &specs.Linux{CgroupsPath: "system.slice:p:n"},
		}, false)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(scope.Properties), nil
	}
	got, err := with("org.systemd.property.CollectMode", "'inactive'")
	if err != nil || strings.Count(got, "CollectMode = ") != 1 || !strings.Contains(got, "CollectMode = 'inactive'  # annotations[org.systemd.property.CollectMode]") {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := with("org.systemd.property.PIDs", "[1]"); err == nil || !strings.HasPrefix(err.Error(), "annotations[org.systemd.property.PIDs]: ") {
		t.Errorf("PIDs: %v", err)
	}
}

func TestProperties(t *testing.T) {
	const infinity = uint64(math.MaxUint64)
	for _, c := range []struct{ file, value, want string }{
		{"memory.max", "4096", "[MemoryMax = 4096]"},
		{"memory.high", "64M", "[MemoryHigh = 67108864]"},
		{"memory.low", "1k", "[MemoryLow = 1024]"},
		{"memory.max", "16E", "field: \"16E\": not a number"},
		{"memory.max", "M", "field: \"M\": not a number"},
		{"memory.max", "", "field: \"\": not a number"},
		{"memory.max", "max", fmt.Sprintf("[MemoryMax = %d]", infinity)},
		{"memory.swap.max", "0", "[MemorySwapMax = 0]"},
		{"pids.max", "7", "[TasksMax = 7]"},
		{"cpu.weight", "79", "[CPUWeight = 79]"},
		{"cpu.idle", "1", "[CPUWeight = 0]"},
		{"cpu.idle", "0", "[]"},
		{"cpu.max", "20000 100000", "[CPUQuotaPerSecUSec = 200000 CPUQuotaPeriodUSec = 100000]"},
		{"cpu.max", "1 3", "[CPUQuotaPerSecUSec = 333334 CPUQuotaPeriodUSec = 3]"},
		{"cpu.max", "max", fmt.Sprintf("[CPUQuotaPerSecUSec = %d CPUQuotaPeriodUSec = 100000]", infinity)},
		{"cpuset.cpus", "0-2,8", "[AllowedCPUs = [7 1]]"},
		{"cpuset.mems", "0", "[AllowedMemoryNodes = [1]]"},
		{"io.weight", "default 500", "[IOWeight = 500]"},
		{"io.weight", "8:0 500", "[]"},
		{"io.max", "8:0 rbps=1", "[]"},
		{"memory.oom.group", "1", "[OOMPolicy = kill]"},
		{"hugetlb.2MB.max", "1", "[]"},
		{"memory.max", "lots", "field: \"lots\": not a number"},
		{"cpu.max", "1 0", "field: \"1 0\": not a quota and a period"},
		{"cpuset.cpus", "3-1", "field: \"3-1\": not a list"},
		{"cpuset.cpus", "0-99999999", "field: \"0-99999999\": not a list"},
	} {
		got, err := Properties([]program.Write{{File: c.file, Value: c.value, Field: "field"}})
		for i := range got {
			got[i].Field = ""
		}
		if text := fmt.Sprint(got); err == nil && text != c.want || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s = %s: %s, %v; want %s", c.file, c.value, text, err, c.want)
		}
	}
	twice, err := Properties([]program.Write{{File: "memory.max", Value: "1"}, {File: "memory.max", Value: "2", Field: "unified"}})
	if err != nil || fmt.Sprint(twice) != "[MemoryMax = 2  # unified]" {
		t.Errorf("%v, %v", twice, err)
	}
}

// FuzzCgroup: whatever the path is, the cgroup is below the root, and what
// systemd would make of the unit's name is what we take it for.
func FuzzCgroup(f *testing.F) {
	for _, s := range []string{"", "/a/b", "a.slice:b:c", "-.slice::x", ":p:n", "a-b-c.slice:p:n", "../x", "a.slice:../b:c"} {
		f.Add(s, "0-3,7", "10000 100000", true)
	}
	f.Fuzz(func(t *testing.T, given, list, quota string, systemd bool) {
		dir, scope, err := Cgroup("id", &specs.Spec{Linux: &specs.Linux{CgroupsPath: given}}, systemd)
		if err == nil && (!path.IsAbs(dir) || path.Clean(dir) != dir) {
			t.Errorf("%q: %q", given, dir)
		}
		if err == nil && scope != nil && (path.Base(dir) != scope.Unit || scope.Slice != "-.slice" && path.Base(path.Dir(dir)) != scope.Slice) {
			t.Errorf("%q: %q is not of %s in %s", given, dir, scope.Unit, scope.Slice)
		}
		_, _ = Properties([]program.Write{{File: "cpuset.cpus", Value: list}, {File: "cpu.max", Value: quota}, {File: "memory.max", Value: list}})
	})
}
