package compile

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/shim/internal/program"
)

func (b *builder) resources() error {
	r, err := Resources(b.spec.Linux.Resources)
	if err != nil {
		return err
	}
	b.plan.Cgroup = r
	return nil
}

// implicitDevices are the devices that a container has whatever its list says:
// the default ones, which runtime-spec config-linux.md#default-devices promises,
// and the terminals of its own devpts. Runc allows the same; mknod of any
// device is harmless without the right to open it.
func implicitDevices() []specs.LinuxDeviceCgroup {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	rules := []specs.LinuxDeviceCgroup{rule("c", -1, -1, "m"), rule("b", -1, -1, "m")}
	for _, d := range defaultDevices {
		rules = append(rules, rule("c", d.Major, d.Minor, "rwm"))
	}
	return append(rules, rule("c", 136, -1, "rwm"), rule("c", 5, 2, "rwm"))
}

// Resources turns linux.resources into files of cgroup v2: the kernel's
// Documentation/admin-guide/cgroup-v2.rst.
func Resources(r *specs.LinuxResources) (program.Resources, error) {
	var w writer
	if r == nil {
		return program.Resources{}, nil
	}
	w.cpu(r.CPU)
	w.memory(r.Memory)
	w.pids(r.Pids)
	w.blockIO(r.BlockIO)
	w.hugepages(r.HugepageLimits)
	for _, dev := range slices.Sorted(maps.Keys(r.Rdma)) {
		w.rdma(dev, r.Rdma[dev])
	}
	if n := r.Network; n != nil && (n.ClassID != nil || len(n.Priorities) > 0) {
		w.err = unsupported("linux.resources.network")
	}
	// unified comes last: it wins.
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		controller, _, ok := strings.Cut(file, ".")
		if !ok || !isFileName(file) {
			return program.Resources{}, invalid("linux.resources.unified", "%q: not a file of a cgroup", file)
		}
		if controller == "cgroup" {
			// cgroup.procs, cgroup.subtree_control: structure, not limits.
			return program.Resources{}, invalid("linux.resources.unified", "%q: not a resource", file)
		}
		w.add(controller, file, r.Unified[file], "unified["+file+"]")
	}
	out := program.Resources{Writes: w.writes}
	if len(r.Devices) > 0 {
		out.Devices = slices.Concat(r.Devices, implicitDevices())
	}
	return out, w.err
}

// isFileName tells whether name is like memory.max: nothing that leads out of
// the cgroup is.
func isFileName(name string) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			return false
		}
		for _, c := range []byte(part) {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
				return false
			}
		}
	}
	return true
}

// writer collects writes, and the first error.
type writer struct {
	writes []program.Write
	err    error
}

func (w *writer) add(controller, file, value, field string) {
	w.writes = append(w.writes, program.Write{
		Controller: controller, File: file, Value: value, Field: "linux.resources." + field,
	})
}

// last is the write that was added last.
func (w *writer) last() *program.Write { return &w.writes[len(w.writes)-1] }

func (w *writer) refuse(field, format string, args ...any) {
	if w.err == nil {
		w.err = invalid("linux.resources."+field, format, args...)
	}
}

func (w *writer) cpu(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 || c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		w.err = unsupported("linux.resources.cpu.realtimeRuntime")
		return
	}
	if c.Idle != nil {
		w.add("cpu", "cpu.idle", strconv.FormatInt(*c.Idle, 10), "cpu.idle")
	}
	// The weight of one that is idle is 0, and the kernel takes no other
	// (sched_group_set_shares).
	if c.Shares != nil && *c.Shares != 0 && (c.Idle == nil || *c.Idle == 0) {
		weight := cpuWeight(*c.Shares)
		w.add("cpu", "cpu.weight", strconv.FormatUint(weight, 10), "cpu.shares")
		// ctr asks for 1024 shares where nobody asked for anything.
		w.last().Default = weight == defaultWeight
	}
	limited := c.Quota != nil && *c.Quota != 0 || c.Period != nil && *c.Period != 0
	if limited && c.Burst != nil {
		// The quota may not be less than the burst that was.
		w.add("cpu", "cpu.max.burst", "0", "cpu.burst")
	}
	if limited {
		value, field := "max", "cpu.quota"
		if c.Quota != nil && *c.Quota > 0 {
			value = strconv.FormatInt(*c.Quota, 10)
		}
		if c.Period != nil && *c.Period != 0 {
			value += " " + strconv.FormatUint(*c.Period, 10)
			if c.Quota == nil {
				field = "cpu.period"
			}
		}
		w.add("cpu", "cpu.max", value, field)
	}
	if c.Burst != nil {
		w.add("cpu", "cpu.max.burst", strconv.FormatUint(*c.Burst, 10), "cpu.burst")
	}
	if c.Cpus != "" {
		w.add("cpuset", "cpuset.cpus", c.Cpus, "cpu.cpus")
	}
	if c.Mems != "" {
		w.add("cpuset", "cpuset.mems", c.Mems, "cpu.mems")
	}
}

const defaultWeight = 100

// cpuWeight maps cgroup v1's shares, 2 to 262144 with default 1024, to v2's
// weight, 1 to 10000 with default 100, so that both defaults meet: the formula
// that runc and crun agreed on, 10^((l^2 + 125 l) / 612 - 7/34), l = log2(shares).
func cpuWeight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (w *writer) memory(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	switch {
	case m.Kernel != nil && *m.Kernel > 0: //nolint:staticcheck // SA1019: deprecated in the spec, refused by name
		w.err = unsupported("linux.resources.memory.kernel")
	case m.KernelTCP != nil && *m.KernelTCP > 0:
		w.err = unsupported("linux.resources.memory.kernelTCP")
	case m.Swappiness != nil:
		w.err = unsupported("linux.resources.memory.swappiness")
	case m.DisableOOMKiller != nil && *m.DisableOOMKiller:
		w.err = unsupported("linux.resources.memory.disableOOMKiller")
	case m.UseHierarchy != nil && !*m.UseHierarchy:
		w.err = unsupported("linux.resources.memory.useHierarchy")
	}
	check := m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate
	if m.Reservation != nil && *m.Reservation != 0 {
		w.add("memory", "memory.low", memoryText(*m.Reservation), "memory.reservation")
	}
	if m.Limit != nil && *m.Limit != 0 {
		w.add("memory", "memory.max", memoryText(*m.Limit), "memory.limit")
		if check {
			w.last().AtLeast = "memory.current"
		}
	}
	w.swap(m, check)
}

// swap: the spec's swap is memory and swap together, memory.swap.max is swap
// alone.
func (w *writer) swap(m *specs.LinuxMemory, check bool) {
	if m.Swap == nil || *m.Swap == 0 {
		return
	}
	swap := *m.Swap
	if swap > 0 {
		if m.Limit == nil || *m.Limit <= 0 {
			w.refuse("memory.swap", "%d: needs a memory limit", swap)
			return
		}
		if swap < *m.Limit {
			w.refuse("memory.swap", "%d: below the memory limit %d", swap, *m.Limit)
			return
		}
		swap -= *m.Limit
	}
	w.add("memory", "memory.swap.max", memoryText(swap), "memory.swap")
	// A kernel without swap keeps both promises.
	w.last().Optional = swap <= 0
	if check {
		w.last().AtLeast = "memory.swap.current"
	}
}

func memoryText(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

func (w *writer) pids(p *specs.LinuxPids) {
	if p == nil || p.Limit == nil {
		return
	}
	value := "max"
	if *p.Limit >= 0 {
		value = strconv.FormatInt(*p.Limit, 10)
	}
	w.add("pids", "pids.max", value, "pids.limit")
}

func (w *writer) blockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	if b.LeafWeight != nil {
		w.err = unsupported("linux.resources.blockIO.leafWeight")
	}
	if b.Weight != nil && *b.Weight != 0 {
		w.weight("default", *b.Weight, "blockIO.weight")
	}
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		if d.LeafWeight != nil {
			w.err = unsupported("linux.resources." + field + ".leafWeight")
		}
		if d.Weight != nil {
			w.weight(fmt.Sprintf("%d:%d", d.Major, d.Minor), *d.Weight, field+".weight")
		}
	}
	for _, t := range []struct {
		field, key string
		devices    []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "wiops", b.ThrottleWriteIOPSDevice},
	} {
		for i, d := range t.devices {
			rate := "max"
			if d.Rate > 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			w.add("io", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.key, rate), fmt.Sprintf("blockIO.%s[%d]", t.field, i))
		}
	}
}

// weight is kept by the io.cost controller, which counts from 1 to 10000, or by
// the BFQ scheduler, which counts as the spec does.
func (w *writer) weight(key string, weight uint16, field string) {
	if weight < 10 || weight > 1000 {
		w.refuse(field, "%d: want 10 to 1000", weight)
		return
	}
	w.add("io", "io.weight", fmt.Sprintf("%s %d", key, 1+(uint64(weight)-10)*9999/990), field)
	w.add("io", "io.bfq.weight", fmt.Sprintf("%s %d", key, weight), field)
	w.last().Or = true
}

func (w *writer) hugepages(limits []specs.LinuxHugepageLimit) {
	for i, h := range limits {
		field := fmt.Sprintf("hugepageLimits[%d]", i)
		if !isFileName(h.Pagesize) {
			w.refuse(field+".pageSize", "%q: want one like 2MB", h.Pagesize)
		}
		limit := strconv.FormatUint(h.Limit, 10)
		w.add("hugetlb", "hugetlb."+h.Pagesize+".max", limit, field)
		// What is reserved by mmap(2), and may not be used yet: Linux 5.7.
		w.add("hugetlb", "hugetlb."+h.Pagesize+".rsvd.max", limit, field)
		w.last().Optional = true
	}
}

func (w *writer) rdma(dev string, r specs.LinuxRdma) {
	value := dev
	if r.HcaHandles != nil {
		value += " hca_handle=" + strconv.FormatUint(uint64(*r.HcaHandles), 10)
	}
	if r.HcaObjects != nil {
		value += " hca_object=" + strconv.FormatUint(uint64(*r.HcaObjects), 10)
	}
	w.add("rdma", "rdma.max", value, "rdma["+dev+"]")
}
