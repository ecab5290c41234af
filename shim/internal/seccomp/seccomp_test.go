package seccomp

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "accept the listings in testdata")

var machines = map[string][]abi{"amd64": amd64, "arm64": arm64}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := decode(t, ar.Files[0].Data)
			for i := range ar.Files[1:] {
				f := &ar.Files[1+i]
				filter, err := compile(p, machines[f.Name])
				if err != nil {
					t.Fatal(err)
				}
				got := fmt.Sprintf("%sflags %#x\n", filter, filter.Flags)
				if *update {
					f.Data = []byte(got)
				} else if got != string(f.Data) {
					t.Errorf("%s: got\n%swant\n%s", f.Name, got, f.Data)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func decode(t *testing.T, b []byte) *specs.LinuxSeccomp {
	t.Helper()
	var p specs.LinuxSeccomp
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	return &p
}

// vm runs filters. The kernel loads words of seccomp_data as they are,
// x/net's machine as big-endian ones.
type vm struct{ *bpf.VM }

func newVM(t testing.TB, f Filter) vm {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(f.Insns))
	for i, in := range f.Insns {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	insns, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatalf("unknown instructions in\n%s", f)
	}
	m, err := bpf.NewVM(insns)
	if err != nil {
		t.Fatal(err)
	}
	return vm{m}
}

func (m vm) run(t testing.TB, c call) uint32 {
	var data [64]byte
	binary.BigEndian.PutUint32(data[dataNr:], c.nr)
	binary.BigEndian.PutUint32(data[dataArch:], c.arch)
	for i, a := range c.args {
		binary.BigEndian.PutUint32(data[dataArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[dataArgs+8*i+4:], uint32(a>>32))
	}
	v, err := m.Run(data[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}

// compare runs a filter and the reference over every number there is, and some
// there are not, with arguments near those that the profile asks for.
func compare(t testing.TB, p *specs.LinuxSeccomp, machine []abi, r *rand.Rand, step int) {
	t.Helper()
	f, err := compile(p, machine)
	if err != nil {
		t.Fatal(err)
	}
	m := newVM(t, f)
	values := interesting(p)
	archs := []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 0}
	withArgs := map[string]bool{"socketcall": true, "ipc": true}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			withArgs[name] = withArgs[name] || len(s.Args) > 0
		}
	}
	for _, arch := range archs {
		for _, nr := range numbersFor(machine, arch, r, step) {
			tries := 1
			for _, a := range machine {
				for _, e := range a.calls {
					if e.number() == nr&^x32Bit && withArgs[nameAt(int(e.name))] {
						tries = 40
					}
				}
			}
			for range tries {
				c := call{nr: nr, arch: arch}
				for i := range c.args {
					c.args[i] = values[r.IntN(len(values))]
				}
				if got, want := m.run(t, c), reference(p, machine, c); got != want {
					js, _ := json.Marshal(p)
					t.Fatalf("profile %s\ncall %+v: got %s, want %s\n%s", js, c, actionName(got), actionName(want), f)
				}
			}
		}
	}
}

func numbersFor(machine []abi, arch uint32, r *rand.Rand, step int) (list []uint32) {
	list = []uint32{0xf0000, 0xf0001, 0xf0005, 0xf0007, 1<<30 - 1, 1 << 31, 0xfffffffe, 0xffffffff, r.Uint32()}
	if !slices.ContainsFunc(machine, func(a abi) bool { return a.audit == arch }) {
		return list
	}
	for nr := uint32(r.IntN(step)); nr < 600; nr += uint32(step) {
		list = append(list, nr, nr|x32Bit)
	}
	return list
}

func interesting(p *specs.LinuxSeccomp) []uint64 {
	list := []uint64{0, 1, 2, 5, 1 << 31, 1 << 32, 1<<32 + 1, 1<<64 - 1}
	for _, s := range p.Syscalls {
		for _, a := range s.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo, a.Value & a.ValueTwo} {
				list = append(list, v, v-1, v+1, v^1<<32, ^v, v<<32|v>>32)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// capSets are what the default profiles depend on.
var capSets = map[string][]string{
	"default": {
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	},
	"none":  nil,
	"admin": {"CAP_SYS_ADMIN"},
	"many": {
		"CAP_DAC_READ_SEARCH", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
		"CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON",
	},
}

func specFor(caps []string) *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Linux:   &specs.Linux{},
	}
}

func profileFor(caps []string) *specs.LinuxSeccomp { return seccomp.DefaultProfile(specFor(caps)) }

func defaultProfile() *specs.LinuxSeccomp { return profileFor(capSets["default"]) }

func TestDefaultProfile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := defaultProfile()
	compare(t, p, amd64, r, 1)
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(f.Insns))
	p.Architectures = []specs.Arch{specs.ArchARM, specs.ArchAARCH64}
	compare(t, p, arm64, r, 3)
	compare(t, p, amd64, r, 7) // native only
	p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX32}
	compare(t, p, amd64, r, 7)
	p.DefaultAction, p.DefaultErrnoRet = specs.ActAllow, nil
	compare(t, p, amd64, r, 7)
}

// randomProfile has few names and many rules for each, so that they meet.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap,
		specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	archs := []specs.Arch{specs.ArchX86_64, specs.ArchX32, specs.ArchX86, specs.ArchAARCH64, specs.ArchARM, specs.ArchS390X}
	errno := func() *uint {
		if r.IntN(3) == 0 {
			return nil
		}
		n := r.UintN(5)
		return &n
	}
	value := func() uint64 { return r.Uint64() >> (8 * r.UintN(8)) & (r.Uint64() | r.Uint64()) }
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions)-1)], DefaultErrnoRet: errno(), ListenerPath: "/listener"}
	for _, a := range archs {
		if r.IntN(2) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	some := []string{"socketcall", "ipc", "socket", "accept", "shmget", "semop", "read", "set_tls", "sync_file_range2", "arm_sync_file_range"}
	for range r.IntN(30) {
		some = append(some, nameAt(r.IntN(nNames)))
	}
	for range r.IntN(40) {
		s := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))], ErrnoRet: errno()}
		for range 1 + r.IntN(4) {
			if name := some[r.IntN(len(some))]; name != "write" || s.Action != specs.ActNotify {
				s.Names = append(s.Names, name)
			}
		}
		for range []int{0, 0, 1, 1, 2, 6}[r.IntN(6)] {
			s.Args = append(s.Args, specs.LinuxSeccompArg{
				Index: r.UintN(6), Value: value(), ValueTwo: value(), Op: ops[r.IntN(len(ops))],
			})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func TestRandomProfiles(t *testing.T) {
	n := 50
	if testing.Short() {
		n = 10
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range n {
		p := randomProfile(r)
		compare(t, p, amd64, r, 3)
		compare(t, p, arm64, r, 3)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ profile, want string }{
		{`{"defaultAction": "ALLOW"}`, `linux.seccomp.defaultAction: "ALLOW": unknown`},
		{`{"defaultAction": "SCMP_ACT_NOTIFY"}`,
			`linux.seccomp.defaultAction: SCMP_ACT_NOTIFY: not for every call: who listens hears of it by write(2)`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}]}`,
			`linux.seccomp.syscalls[0].names[1]: write: not with SCMP_ACT_NOTIFY: who listens hears of it by write(2)`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}`,
			`linux.seccomp.listenerPath: missing: SCMP_ACT_NOTIFY needs one`},
		{`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}`, `linux.seccomp.defaultErrnoRet: 4096 out of range`},
		{`{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}`, `linux.seccomp.defaultAction: "": unknown`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "x86"]}`,
			`linux.seccomp.architectures[1]: "x86": unknown`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}`, `linux.seccomp.flags[0]: "X": unknown`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}`,
			`linux.seccomp.flags[1]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: needs SCMP_ACT_NOTIFY`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read", ""], "action": "SCMP_ACT_LOG"}]}`,
			`linux.seccomp.syscalls[0].names[1]: empty`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}, {}]}`, `linux.seccomp.syscalls[0].action: "": unknown`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_ALLOW"}, {"action": "NOTIFY"}]}`,
			`linux.seccomp.syscalls[1].action: "NOTIFY": unknown`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_TRACE", "errnoRet": 65536}]}`,
			`linux.seccomp.syscalls[0].errnoRet: 65536 out of range`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_LOG", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}`,
			`linux.seccomp.syscalls[0].args[0].index: 6 out of range`},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_LOG", "args": [{"op": "SCMP_CMP_EQ"}, {"op": "=="}]}]}`,
			`linux.seccomp.syscalls[0].args[1].op: "==": unknown`},
	} {
		if _, err := Compile(decode(t, []byte(c.profile))); err == nil || err.Error() != c.want {
			t.Errorf("%s\ngot  %v\nwant %s", c.profile, err, c.want)
		}
	}
	for _, p := range []*specs.LinuxSeccomp{nil, {}} {
		if f, err := Compile(p); err != nil || len(f.Insns) > 0 {
			t.Errorf("nothing: %v, %v", f, err)
		}
	}
}

func TestTooLong(t *testing.T) {
	var s specs.LinuxSyscall
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64}}
	for i := range 2600 {
		s = specs.LinuxSyscall{Names: []string{"personality"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Value: uint64(i) << 31, Op: specs.OpEqualTo}}}
		p.Syscalls = append(p.Syscalls, s)
	}
	_, err := compile(p, amd64)
	if err == nil || !strings.HasSuffix(err.Error(), "instructions, the kernel takes 4096") {
		t.Error(err)
	}
	p.Syscalls = p.Syscalls[:1300]
	compare(t, p, amd64, rand.New(rand.NewPCG(5, 6)), 1)
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_X86","SCMP_ARCH_ARM"],"syscalls":[{"names":["socket","ipc"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_GE"}]}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["clone"],"action":"SCMP_ACT_TRACE","errnoRet":9,"args":[{"index":1,"value":4294967296,"valueTwo":4294967296,"op":"SCMP_CMP_MASKED_EQ"},{"index":5,"value":7,"op":"SCMP_CMP_NE"}]}]}`,
		`{"defaultAction":"SCMP_ACT_KILL_PROCESS","architectures":["SCMP_ARCH_X32"],"syscalls":[{"names":["read","set_tls"],"action":"SCMP_ACT_LOG"}]}`,
		`{}`,
	} {
		f.Add([]byte(s), uint64(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(b, &p) != nil {
			t.Skip()
		}
		for _, machine := range machines {
			filter, err := compile(&p, machine)
			if err != nil || len(filter.Insns) == 0 {
				continue
			}
			compare(t, &p, machine, rand.New(rand.NewPCG(seed, 0)), 40)
		}
	})
}

func BenchmarkCompileDefault(b *testing.B) {
	p := defaultProfile()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCache(t *testing.T) {
	var c Cache
	one, two := defaultProfile(), defaultProfile()
	two.Syscalls[0].Args = []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo}}
	for _, p := range []*specs.LinuxSeccomp{one, one, defaultProfile(), two, one} {
		got, err := c.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Compile(p)
		if err != nil || got.String() != want.String() || got.Flags != want.Flags {
			t.Fatalf("another filter, %v", err)
		}
	}
	if _, err := c.Compile(&specs.LinuxSeccomp{DefaultAction: "x"}); err == nil {
		t.Fatal("no error")
	}
}

func BenchmarkCacheDefault(b *testing.B) {
	var c Cache
	p, q := defaultProfile(), defaultProfile()
	b.ReportAllocs()
	for b.Loop() {
		p, q = q, p
		if _, err := c.Compile(p); err != nil {
			b.Fatal(err)
		}
	}
}
