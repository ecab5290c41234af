package cgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// rule is a device rule in devices.allow notation: "+c 1:5 rw", "-a *:* rwm".
func rule(s string) specs.LinuxDeviceCgroup {
	var kind, numbers, access string
	if _, err := fmt.Sscanf(s[1:], "%s %s %s", &kind, &numbers, &access); err != nil {
		panic(err)
	}
	d := specs.LinuxDeviceCgroup{Allow: s[0] == '+', Type: kind, Access: access}
	for i, part := range strings.Split(numbers, ":") {
		var n int64
		if _, err := fmt.Sscan(part, &n); err != nil {
			continue // *
		}
		if i == 0 {
			d.Major = &n
		} else {
			d.Minor = &n
		}
	}
	return d
}

func rules(list ...string) (out []specs.LinuxDeviceCgroup) {
	out = []specs.LinuxDeviceCgroup{}
	for _, s := range list {
		out = append(out, rule(s))
	}
	return out
}

// request is what the kernel asks a filter.
type request struct {
	kind         int32
	access       int32
	major, minor uint32
}

// allowed says in the plainest way what the rules mean.
func allowed(rules []specs.LinuxDeviceCgroup, q request) bool {
	kind := map[int32]string{unix.BPF_DEVCG_DEV_BLOCK: "b", unix.BPF_DEVCG_DEV_CHAR: "c"}[q.kind]
	for bit, letter := range map[int32]string{
		unix.BPF_DEVCG_ACC_READ: "r", unix.BPF_DEVCG_ACC_WRITE: "w", unix.BPF_DEVCG_ACC_MKNOD: "m",
	} {
		if q.access&bit == 0 {
			continue
		}
		verdict := false
		for _, r := range rules {
			if (r.Type == "" || r.Type == "a" || r.Type == kind) &&
				(r.Major == nil || *r.Major == -1 || *r.Major == int64(q.major)) &&
				(r.Minor == nil || *r.Minor == -1 || *r.Minor == int64(q.minor)) &&
				strings.Contains(r.Access, letter) {
				verdict = r.Allow
			}
		}
		if !verdict {
			return false
		}
	}
	return true
}

// run is a machine for the instructions that deviceFilter uses.
func run(t testing.TB, prog []insn, q request) bool {
	var reg [11]uint64
	load := map[int16]uint32{ctxAccessType: uint32(q.access)<<16 | uint32(q.kind), ctxMajor: q.major, ctxMinor: q.minor}
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		dst, src := &reg[in.regs&15], reg[in.regs>>4]
		switch in.code {
		case opLoad32:
			*dst = uint64(load[in.off])
		case opMov:
			*dst = uint64(int64(in.imm))
		case opLoad16:
			*dst = uint64(uint16(load[in.off]))
		case opAnd:
			*dst &= uint64(int64(in.imm))
		case opMovReg:
			*dst = src
		case opOrReg:
			*dst |= src
		case opShl:
			*dst <<= in.imm
		case opShr:
			*dst >>= in.imm
		case opJeq32:
			if uint32(*dst) == uint32(in.imm) {
				pc += int(in.off)
			}
		case opJne32:
			if uint32(*dst) != uint32(in.imm) {
				pc += int(in.off)
			}
		case opJset32:
			if uint32(*dst)&uint32(in.imm) != 0 {
				pc += int(in.off)
			}
		case opJump:
			pc += int(in.off)
		case opExit:
			return reg[0] == 1
		default:
			t.Fatalf("instruction %d: unknown code %#x", pc, in.code)
		}
	}
	t.Fatal("ran off the end")
	return false
}

func randomRules(r *rand.Rand) []specs.LinuxDeviceCgroup {
	var list []string
	for range r.IntN(8) {
		number := []string{"*", "0", "1", "4095", "1048575", "4294967295"}
		list = append(list, fmt.Sprintf("%c%c %s:%s %s", "+-"[r.IntN(2)], "abc"[r.IntN(3)],
			number[r.IntN(6)], number[r.IntN(6)], []string{"r", "w", "m", "rw", "rm", "wm", "rwm"}[r.IntN(7)]))
	}
	return rules(list...)
}

func TestDeviceFilterMeans(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		list := randomRules(r)
		prog, err := deviceFilter(list)
		if err != nil {
			t.Fatal(err)
		}
		for kind := int32(1); kind <= 2; kind++ {
			for access := int32(1); access <= 7; access++ {
				for _, major := range []uint32{0, 1, 2, 1<<majorBits - 1} {
					for _, minor := range []uint32{0, 1, 7, 1<<minorBits - 1} {
						q := request{kind, access, major, minor}
						if got, want := run(t, prog, q), allowed(list, q); got != want {
							t.Fatalf("rules %+v\nrequest %+v: got %v, want %v\n%v", list, q, got, want, prog)
						}
					}
				}
			}
		}
	}
}

// The verifier has the last word on what is a program.
func TestDeviceFilterLoads(t *testing.T) {
	needRoot(t)
	r := rand.New(rand.NewPCG(3, 4))
	lists := [][]specs.LinuxDeviceCgroup{{}, denyAll, rules("+a *:* rwm"), rules("+c 1:3 rwm", "+a *:* rwm", "-b *:* m")}
	for range 200 {
		lists = append(lists, randomRules(r))
	}
	// A privileged pod lists every device of a large host.
	for _, access := range []string{"r", "rwm"} {
		var long []string
		for i := range 2000 {
			long = append(long, fmt.Sprintf("%c%c %d:%d %s", "++-"[i%3], "bc"[i%2], i%256, i, access))
		}
		lists = append(lists, rules(long...))
	}
	for _, list := range lists {
		prog, err := deviceFilter(list)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := bpfLoad(prog, filterName)
		if err != nil {
			t.Fatalf("%d rules, %d instructions: %v", len(list), len(prog), err)
		}
		if name, err := bpfName(fd); err != nil || name != filterName {
			t.Errorf("name %q, %v", name, err)
		}
		unix.Close(fd)
	}
}

func TestDeviceRuleErrors(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		d    specs.LinuxDeviceCgroup
		want string
	}{
		{specs.LinuxDeviceCgroup{Type: "p", Access: "r"}, `linux.resources.devices[1].type: "p" is none of a, b, c`},
		{specs.LinuxDeviceCgroup{Type: "c"}, `linux.resources.devices[1].access: empty`},
		{specs.LinuxDeviceCgroup{Type: "c", Access: "rx"}, `linux.resources.devices[1].access: "rx" is not made of r, w, m`},
		{specs.LinuxDeviceCgroup{Major: n(-2), Access: "r"}, `linux.resources.devices[1].major: -2 out of range`},
		{specs.LinuxDeviceCgroup{Minor: n(1 << 32), Access: "r"}, `linux.resources.devices[1].minor: 4294967296 out of range`},
	} {
		_, err := deviceFilter([]specs.LinuxDeviceCgroup{rule("-a *:* rwm"), c.d})
		if err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// TestDevices opens real devices under real filters.
func TestDevices(t *testing.T) {
	g := newTestGroup(t)
	dir := t.TempDir()
	probe := func(script string, want bool) {
		t.Helper()
		out, err := inside(t, g, script)
		if (err == nil) != want {
			t.Errorf("%s: %v %s", script, err, out)
		}
		if err != nil && !strings.Contains(out, "Operation not permitted") && !strings.Contains(out, "Permission denied") {
			t.Errorf("%s: %s", script, out)
		}
	}
	set := func(list ...string) {
		t.Helper()
		if err := g.Apply(program.Resources{Devices: rules(list...)}); err != nil {
			t.Fatal(err)
		}
		fds, err := filtersOn(g.FD())
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
		if len(fds) > 1 {
			t.Errorf("%d filters on the cgroup", len(fds))
		}
	}
	readZero, readRandom := "true <&0; exec 9</dev/zero", "exec 9</dev/urandom"
	writeZero, mknod := "exec 9>/dev/zero", "mknod "+dir+"/n c 1 5 && rm "+dir+"/n"

	// What containerd gives a container, in short.
	set("-a *:* rwm", "+c *:* m", "+b *:* m", "+c 1:3 rwm", "+c 1:5 rw")
	probe(readZero, true)
	probe(writeZero, true)
	probe(readRandom, false)
	probe(mknod, true)

	// Read is not write.
	set("-a *:* rwm", "+c 1:3 rwm", "+c 1:5 r")
	probe(readZero, true)
	probe(writeZero, false)
	probe("exec 9<>/dev/zero", false)
	probe(mknod, false)

	// The last rule wins.
	set("+a *:* rwm", "-c 1:9 rwm")
	probe(readZero, true)
	probe(readRandom, false)
	set("-c 1:9 rwm", "+a *:* rwm")
	probe(readRandom, true)
	set("-a *:* rwm", "+c 1:3 rwm")
	probe(readZero, false)

	// No rules allow nothing, nil changes nothing.
	set()
	probe("exec 9</dev/null", false)
	if err := g.Apply(program.Resources{}); err != nil {
		t.Error(err)
	}
	probe(readZero, false)
}

// TestDeviceFilterOfAncestor: theirs and ours must both allow.
func TestDeviceFilterOfAncestor(t *testing.T) {
	top := newTestGroup(t)
	if err := top.Apply(program.Resources{Devices: rules("+a *:* rwm", "-c 1:9 rwm")}); err != nil {
		t.Fatal(err)
	}
	g := newTestGroup(t, "below")
	if err := g.Apply(program.Resources{Devices: rules("+a *:* rwm", "-c 1:5 rwm")}); err != nil {
		t.Fatal(err)
	}
	for _, dev := range []string{"/dev/zero", "/dev/urandom"} {
		if _, err := inside(t, g, "exec 9<"+dev); err == nil {
			t.Errorf("%s is open to all", dev)
		}
	}
}

// TestForeignFilter: a filter of systemd's on our own cgroup stays.
func TestForeignFilter(t *testing.T) {
	g := newTestGroup(t)
	prog, err := deviceFilter(rules("+a *:* rwm", "-c 1:9 rwm"))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := bpfLoad(prog, "sd_devices")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := bpfAttach(g.FD(), fd, -1); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := g.Apply(program.Resources{Devices: rules("+a *:* rwm", "-c 1:5 rwm")}); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := bpfQuery(g.FD()); err != nil || len(ids) != 2 {
		t.Errorf("filters %v, %v", ids, err)
	}
	if _, err := inside(t, g, "exec 9</dev/urandom"); err == nil {
		t.Error("their filter is gone")
	}
}

// TestDeviceFilterSwap changes the filter while a process keeps trying what
// both the old and the new one refuse.
func TestDeviceFilterSwap(t *testing.T) {
	g := newTestGroup(t)
	set := func(list ...string) {
		if err := g.Apply(program.Resources{Devices: rules(list...)}); err != nil {
			t.Error(err)
		}
	}
	set("-a *:* rwm", "+c 1:3 rwm")
	cmd := start(t, g, "sh", "-c", "exec 2>/dev/null; while ! (exec 9</dev/zero); do :; done; exit 0")
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for i := range 300 {
		set("-a *:* rwm", "+c 1:3 rwm", fmt.Sprintf("+c 200:%d rwm", i))
	}
	select {
	case err := <-done:
		t.Errorf("the process got through, or died: %v", err)
	default:
	}
	_ = cmd.Process.Kill()
	<-done
}

func TestDeviceFilterNeedsFD(t *testing.T) {
	g := &Group{fd: -1}
	if err := g.setDevices(denyAll); err == nil {
		t.Error("no error")
	}
	if _, err := filtersOn(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkDeviceFilter(b *testing.B) {
	g := newTestGroup(b)
	list := rules("-a *:* rwm", "+c *:* m", "+b *:* m", "+c 1:3 rwm", "+c 1:8 rwm", "+c 1:7 rwm", "+c 5:0 rwm",
		"+c 1:5 rwm", "+c 1:9 rwm", "+c 5:1 rwm", "+c 136:* rwm", "+c 5:2 rwm")
	for b.Loop() {
		if err := g.Apply(program.Resources{Devices: list}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateDelete(b *testing.B) {
	newTestGroup(b, "keep")
	for b.Loop() {
		g, err := Create(testRoot, testPath(b, "id"), []string{"cpu", "memory", "pids"})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		g.Close()
	}
}
