package cgroup

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// Stats measures the cgroup. A section whose files are not there, for want of
// the controller, is empty and not nil: that of containerd's own runtime never
// is, and its clients do not ask (nerdctl stats panics).
func (g *Group) Stats() (*api.Metrics, error) {
	r := reader{g: g, buf: make([]byte, 0, 4096)}
	m := &api.Metrics{
		Pids: &api.PidsStat{}, Memory: &api.MemoryStat{}, MemoryEvents: &api.MemoryEvents{},
		Io: &api.IOStat{}, Rdma: &api.RdmaStat{},
	}
	// cpu.stat is in every cgroup, controller or not: without it there is
	// no cgroup.
	b, err := g.read("cpu.stat", r.buf)
	if err != nil {
		return nil, g.err("read cpu.stat", err)
	}
	m.CPU = parseCPU(b)
	m.CPU.PSI = r.psi("cpu.pressure")

	if b := r.file("pids.current"); b != nil {
		m.Pids = &api.PidsStat{Current: parseSingle(b), Limit: r.single("pids.max")}
	}
	if b := r.file("memory.stat"); b != nil {
		m.Memory = parseMemory(b)
		m.Memory.Usage = r.single("memory.current")
		m.Memory.UsageLimit = r.single("memory.max")
		m.Memory.MaxUsage = r.single("memory.peak")
		m.Memory.SwapUsage = r.single("memory.swap.current")
		m.Memory.SwapLimit = r.single("memory.swap.max")
		m.Memory.SwapMaxUsage = r.single("memory.swap.peak")
	}
	m.Memory.PSI = r.psi("memory.pressure") // in every cgroup
	if b := r.file("memory.events"); b != nil {
		m.MemoryEvents = parseMemoryEvents(b)
	}
	if b := r.file("io.stat"); b != nil {
		m.Io.Usage = parseIO(b)
	}
	m.Io.PSI = r.psi("io.pressure")
	if b := r.file("rdma.current"); b != nil {
		m.Rdma = &api.RdmaStat{Current: parseRdma(b), Limit: parseRdma(r.file("rdma.max"))}
	}
	for _, size := range r.hugepages() {
		h := &api.HugeTlbStat{
			Pagesize: size,
			Current:  r.single("hugetlb." + size + ".current"),
			Max:      r.single("hugetlb." + size + ".max"),
		}
		eachPair(r.file("hugetlb."+size+".events"), func(key string, v uint64) {
			if key == "max" {
				h.Failcnt = v
			}
		})
		m.Hugetlb = append(m.Hugetlb, h)
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// reader reads many files into one buffer and keeps the first error.
type reader struct {
	g   *Group
	buf []byte
	err error
}

// file returns a file's content until the next call, nil if it is not there.
func (r *reader) file(name string) []byte {
	b, err := r.g.read(name, r.buf)
	switch {
	case err == nil:
		r.buf = b
		return b
	case gone(err), errors.Is(err, unix.EOPNOTSUPP):
		// EOPNOTSUPP: pressure is switched off, psi=0 (cgroup.pressure).
		return nil
	case r.err == nil:
		r.err = r.g.err("read "+name, err)
	}
	return nil
}

func (r *reader) single(name string) uint64 { return parseSingle(r.file(name)) }

// psi returns nil where the kernel does not measure pressure.
func (r *reader) psi(name string) *api.PSIStats {
	b := r.file(name)
	if b == nil {
		return nil
	}
	return parsePSI(b)
}

// hugepages are the page sizes that the cgroup counts, as in its file names.
func (r *reader) hugepages() (sizes []string) {
	if !bytes.Contains(r.file("cgroup.controllers"), []byte("hugetlb")) {
		return nil
	}
	fd, err := r.g.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(fd), "cgroup")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	for _, name := range names {
		// Not hugetlb.2MB.rsvd.current.
		size, ok := strings.CutPrefix(name, "hugetlb.")
		if size, isCurrent := strings.CutSuffix(size, ".current"); ok && isCurrent && !strings.Contains(size, ".") {
			sizes = append(sizes, size)
		}
	}
	slices.Sort(sizes)
	return sizes
}
