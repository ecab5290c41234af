package compile

import (
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// Cgroup decides where the container's cgroup is, and whether it is a scope of
// systemd's: where the path has the form slice:prefix:name, in which the kubelet
// and nerdctl ask for one, or where a client says so. scope is nil otherwise.
func Cgroup(id string, spec *specs.Spec, systemd bool) (dir string, scope *program.Scope, err error) {
	given := ""
	if spec.Linux != nil {
		given = spec.Linux.CgroupsPath
	}
	parts := strings.Split(given, ":")
	form := len(parts) == 3 && !strings.Contains(given, "/") && (parts[0] == "" || strings.HasSuffix(parts[0], ".slice"))
	switch {
	case form:
	case systemd && given == "":
		parts = []string{"", "mini", id}
	case systemd:
		return "", nil, invalid("linux.cgroupsPath", "%q: want slice:prefix:name, since options.SystemdCgroup is set", given)
	case given == "":
		return path.Join("/", id), nil, nil
	case slices.Contains(strings.Split(given, "/"), ".."):
		return "", nil, invalid("linux.cgroupsPath", "%q: has a .. element", given)
	default:
		return path.Join("/", given), nil, nil
	}

	slice, prefix, name := parts[0], parts[1], parts[2]
	if slice == "" {
		slice = "system.slice"
	}
	parent, err := slicePath(slice)
	if err != nil {
		return "", nil, err
	}
	if prefix != "" {
		name = prefix + "-" + name
	}
	scope = &program.Scope{Unit: name + ".scope", Slice: slice}
	if err := checkUnit(scope.Unit); err != nil {
		return "", nil, err
	}
	if scope.Properties, err = scopeProperties(id, slice, spec); err != nil {
		return "", nil, err
	}
	return path.Join(parent, scope.Unit), scope, nil
}

// slicePath is the cgroup of a slice: its name is its path, systemd.slice(5).
func slicePath(slice string) (string, error) {
	if err := checkUnit(slice); err != nil {
		return "", err
	}
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return "/", nil
	}
	dir, sofar := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", invalid("linux.cgroupsPath", "%q: not the name of a slice", slice)
		}
		sofar += part
		dir = path.Join(dir, sofar+".slice")
		sofar += "-"
	}
	return dir, nil
}

// checkUnit wants what systemd.unit(5) allows in a name, and what is the name of
// a cgroup as it stands: systemd would put an underscore before others.
func checkUnit(name string) error {
	const signs = ":-_.\\"
	ok := len(name) < 256
	for _, c := range []byte(name) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(signs, c) >= 0)
	}
	if !ok || name[0] == '.' || name[0] == '_' || strings.HasPrefix(name, "cgroup.") {
		return invalid("linux.cgroupsPath", "%q: not the name of a unit of systemd", name)
	}
	return nil
}

// PropertyAnnotation begins the names of annotations that are properties of the scope.
const PropertyAnnotation = "org.systemd.property."

// scopeProperties are those that a scope begins with: systemd.scope(5),
// systemd.resource-control(5).
func scopeProperties(id, slice string, spec *specs.Spec) ([]program.Property, error) {
	all := []program.Property{
		{Name: "Description", Value: "container " + id},
		{Name: "Slice", Value: slice},
		// systemd leaves what is below the scope to us, and enables its
		// controllers.
		{Name: "Delegate", Value: true},
		{Name: "MemoryAccounting", Value: true},
		{Name: "CPUAccounting", Value: true},
		{Name: "IOAccounting", Value: true},
		{Name: "TasksAccounting", Value: true},
		// No ordering before shutdown.target: containerd ends containers.
		{Name: "DefaultDependencies", Value: false},
		// One that failed, say for want of memory, goes too.
		{Name: "CollectMode", Value: "inactive-or-failed"},
	}
	for _, key := range slices.Sorted(maps.Keys(spec.Annotations)) {
		name, ok := strings.CutPrefix(key, PropertyAnnotation)
		if !ok {
			continue
		}
		field := "annotations[" + key + "]"
		switch name {
		case "PIDs", "Slice", "Delegate":
			return nil, invalid(field, "a property that makes the container's cgroup what it is")
		}
		p := program.Property{Name: name, Text: spec.Annotations[key], Field: field}
		if i := slices.IndexFunc(all, func(q program.Property) bool { return q.Name == name }); i >= 0 {
			all[i] = p
		} else {
			all = append(all, p)
		}
	}
	return all, nil
}

// Properties are what systemd is told of limits, so that it does not write its
// own defaults to the files when it is reloaded, or changes something else of
// the unit. What it has no word for, it does not touch.
func Properties(writes []program.Write) ([]program.Property, error) {
	var all []program.Property
	for _, w := range writes {
		p, err := properties(w)
		if err != nil {
			return nil, err
		}
		for i := range p {
			p[i].Field = w.Field
			// The last one wins, as with the files.
			all = slices.DeleteFunc(all, func(q program.Property) bool { return q.Name == p[i].Name })
		}
		all = append(all, p...)
	}
	return all, nil
}

var numberProperties = map[string]string{
	"cpu.weight":      "CPUWeight",
	"memory.min":      "MemoryMin",
	"memory.low":      "MemoryLow",
	"memory.high":     "MemoryHigh",
	"memory.max":      "MemoryMax",
	"memory.swap.max": "MemorySwapMax",
	"pids.max":        "TasksMax",
}

func properties(w program.Write) ([]program.Property, error) {
	number := func(name, text string) ([]program.Property, error) {
		v := uint64(math.MaxUint64) // infinity
		if text != "max" {
			var ok bool
			if v, ok = parseSize(text); !ok {
				return nil, invalid(w.Field, "%q: not a number", text)
			}
		}
		return []program.Property{{Name: name, Value: v}}, nil
	}
	value := strings.TrimSpace(w.Value)
	if name, ok := numberProperties[w.File]; ok {
		return number(name, value)
	}
	switch w.File {
	case "cpu.idle":
		if value == "1" { // CPUWeight=idle, systemd 252
			return []program.Property{{Name: "CPUWeight", Value: uint64(0)}}, nil
		}
	case "cpu.max":
		return quotaProperties(w.Field, value)
	case "cpuset.cpus":
		return setProperty("AllowedCPUs", w.Field, value)
	case "cpuset.mems":
		return setProperty("AllowedMemoryNodes", w.Field, value)
	case "io.weight":
		// A line for a device is kept by systemd as it is.
		if weight, ok := strings.CutPrefix(value, "default "); ok {
			return number("IOWeight", weight)
		}
	case "memory.oom.group":
		// Only at the start; systemd 253.
		if value == "1" {
			return []program.Property{{Name: "OOMPolicy", Value: "kill"}}, nil
		}
	}
	return nil, nil
}

// parseSize reads a number as the kernel's memparse does: 64M is one, too.
func parseSize(text string) (uint64, bool) {
	shift := 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMGTPE", text[n-1]&^0x20); i >= 0 {
			text, shift = text[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseUint(text, 10, 64)
	return v << shift, err == nil && v<<shift>>shift == v
}

// quotaProperties: systemd has the quota by the second.
func quotaProperties(field, value string) ([]program.Property, error) {
	quota, period, ok := strings.Cut(value, " ")
	if !ok {
		period = "100000" // the kernel's default
	}
	p, err := strconv.ParseUint(period, 10, 64)
	if err != nil || p == 0 {
		return nil, invalid(field, "%q: not a quota and a period", value)
	}
	perSecond := uint64(math.MaxUint64)
	if quota != "max" {
		q, err := strconv.ParseUint(quota, 10, 64)
		if err != nil || q > math.MaxUint64/1_000_000 {
			return nil, invalid(field, "%q: not a quota and a period", value)
		}
		// Up, as runc does: rather a microsecond more than one less.
		perSecond = (q*1_000_000 + p - 1) / p
	}
	return []program.Property{
		{Name: "CPUQuotaPerSecUSec", Value: perSecond},
		{Name: "CPUQuotaPeriodUSec", Value: p},
	}, nil
}

// setProperty is a list of CPUs, cpuset(7) "List format", as a bit mask.
func setProperty(name, field, list string) ([]program.Property, error) {
	const most = 8192 // CONFIG_NR_CPUS
	var mask []byte   // the first byte has the first eight
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		z, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || a < 0 || z < a || z >= most {
			return nil, invalid(field, "%q: not a list like 0-3,7", list)
		}
		for i := a; i <= z; i++ {
			for len(mask) <= i/8 {
				mask = append(mask, 0)
			}
			mask[i/8] |= 1 << (i % 8)
		}
	}
	return []program.Property{{Name: name, Value: mask}}, nil
}
