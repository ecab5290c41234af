package seccomp

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// libseccomp is what runc and crun compile profiles with: testdata/libseccomp.c.
type libseccomp struct {
	in    io.Writer
	out   *bufio.Reader
	known [nNames]bool // to this version of it
}

func newLibseccomp(t *testing.T) *libseccomp {
	t.Helper()
	if _, err := os.Stat("/usr/include/seccomp.h"); err != nil {
		t.Skip("needs Debian's libseccomp-dev")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc")
	}
	bin := filepath.Join(t.TempDir(), "libseccomp")
	if out, err := exec.Command("gcc", "-o", bin, "testdata/libseccomp.c", "-lseccomp").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(bin)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	l := &libseccomp{in: in, out: bufio.NewReader(out)}
	for i := range l.known {
		l.known[i] = l.ask(t, "resolve "+nameAt(i)+"\n") == "1"
	}
	return l
}

func (l *libseccomp) ask(t *testing.T, text string) string {
	t.Helper()
	if _, err := io.WriteString(l.in, text); err != nil {
		t.Fatal(err)
	}
	line, err := l.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

var scmpOps = map[specs.LinuxSeccompOperator]int{
	specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4,
	specs.OpGreaterEqual: 5, specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
}

var scmpArchs = map[specs.Arch]string{
	specs.ArchX86_64: "x86_64", specs.ArchX32: "x32", specs.ArchX86: "x86", specs.ArchAARCH64: "aarch64", specs.ArchARM: "arm",
}

// compile does with a profile what runc does (libcontainer/seccomp), its
// -ENOSYS stub apart. It may refuse one: some rules it cannot combine.
func (l *libseccomp) compile(t *testing.T, p *specs.LinuxSeccomp, machine []abi) (Filter, error) {
	t.Helper()
	var b strings.Builder
	def := refAction(p.DefaultAction, p.DefaultErrnoRet)
	fmt.Fprintf(&b, "profile %d\n", def)
	for i, a := range machine {
		if i == 0 || slices.Contains(p.Architectures, a.name) {
			fmt.Fprintf(&b, "arch %s\n", scmpArchs[a.name])
		}
	}
	for _, s := range p.Syscalls {
		action := refAction(s.Action, s.ErrnoRet)
		if action == def {
			continue
		}
		var args []string
		var seen [6]int
		for _, a := range s.Args {
			args = append(args, fmt.Sprintf(" %d %d %d %d", a.Index, scmpOps[a.Op], a.Value, a.ValueTwo))
			seen[a.Index]++
		}
		if slices.Max(seen[:]) <= 1 {
			args = []string{strings.Join(args, "")}
		}
		for _, name := range s.Names {
			for _, a := range args {
				fmt.Fprintf(&b, "rule %d %s%s\n", action, name, a)
			}
		}
	}
	b.WriteString("end\n")
	answer := l.ask(t, b.String())
	n, err := strconv.Atoi(answer)
	if err != nil {
		return Filter{}, errors.New(answer)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(l.out, data); err != nil {
		t.Fatal(err)
	}
	var f Filter
	for ; len(data) > 0; data = data[8:] {
		f.Insns = append(f.Insns, unix.SockFilter{
			Code: binary.LittleEndian.Uint16(data), Jt: data[2], Jf: data[3], K: binary.LittleEndian.Uint32(data[4:]),
		})
	}
	return f, nil
}

// forgets tells that a filter of libseccomp's goes from the architecture straight
// on to numbers of calls without loading one: where there are few rules 2.5.4 does.
func forgets(f Filter) bool {
	for i, in := range f.Insns {
		if in.Code != opEq || in.K>>16 != 0xc000 && in.K>>16 != 0x4000 || in.K&0xffff > 0xff {
			continue
		}
		if to := f.Insns[i+1+int(in.Jt)].Code; to != opLoad && to != opRet && to != opJump {
			return true
		}
	}
	return false
}

// forget takes out the names that this version of libseccomp does not know.
func (l *libseccomp) forget(p *specs.LinuxSeccomp) {
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(p.Syscalls[i].Names), func(name string) bool {
			n := lookup(name, -1)
			return n < 0 || !l.known[n]
		})
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(s specs.LinuxSyscall) bool { return len(s.Names) == 0 })
}

// otherwise tells that a call is one for which we answer on purpose as
// libseccomp does not: doc.go has the list.
func otherwise(p *specs.LinuxSeccomp, c call, ours, theirs uint32) bool {
	if ours == enosys && theirs == refAction(p.DefaultAction, p.DefaultErrnoRet) {
		return true // runc's stub, which is not libseccomp's
	}
	if c.arch == unix.AUDIT_ARCH_X86_64 && c.nr >= x32Bit && c.nr != ^uint32(0) {
		x32 := slices.Contains(p.Architectures, specs.ArchX32)
		return x32 && c.nr&^x32Bit < firstX32 && !refHas(amd64[1], c.nr&^x32Bit)
	}
	if c.arch != unix.AUDIT_ARCH_I386 {
		return false
	}
	for _, s := range p.Syscalls {
		if len(s.Args) == 0 {
			continue
		}
		for _, name := range s.Names {
			by, _ := multiplex(name)
			if nr, ok := refNumber(amd64[2], by); ok && nr == c.nr {
				return true
			}
		}
	}
	return false
}

// compareLib runs our filter and libseccomp's over every number there is, and
// some there are not. It tells how many calls were made and how many of them are
// answered otherwise on purpose.
func compareLib(t *testing.T, l *libseccomp, p *specs.LinuxSeccomp, machine []abi, r *rand.Rand) (calls, others int, err error) {
	t.Helper()
	l.forget(p)
	lib, err := l.compile(t, p, machine)
	if err != nil {
		return 0, 0, err
	}
	if forgets(lib) {
		return 0, 0, errors.New("libseccomp compares what it has not loaded")
	}
	f, err := compile(p, machine)
	if err != nil {
		t.Fatal(err)
	}
	our, their := newVM(t, f), newVM(t, lib)
	values := interesting(p)
	for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, 0} {
		for _, nr := range numbersFor(machine, arch, r, 1) {
			for range 12 {
				c := call{nr: nr, arch: arch}
				for i := range c.args {
					c.args[i] = values[r.IntN(len(values))]
				}
				calls++
				got, want := our.run(t, c), their.run(t, c)
				if got == want {
					continue
				}
				if otherwise(p, c, got, want) {
					others++
					continue
				}
				js, _ := json.Marshal(only(p, machine, nr))
				t.Fatalf("call %+v: %s, libseccomp's says %s; of the profile %s", c, actionName(got), actionName(want), js)
			}
		}
	}
	return calls, others, nil
}

// only is what a profile says of the calls with a number.
func only(p *specs.LinuxSeccomp, machine []abi, nr uint32) *specs.LinuxSeccomp {
	q := *p
	q.Syscalls = nil
	for _, s := range p.Syscalls {
		s.Names = slices.DeleteFunc(slices.Clone(s.Names), func(name string) bool {
			return !slices.ContainsFunc(machine, func(a abi) bool {
				n, ok := refNumber(a, name)
				return ok && n == nr&^x32Bit
			})
		})
		if len(s.Names) > 0 {
			q.Syscalls = append(q.Syscalls, s)
		}
	}
	return &q
}

// TestLibseccomp: for the default profiles of containerd and moby, with several
// sets of capabilities, and for random ones our filter says the same as
// libseccomp's.
func TestLibseccomp(t *testing.T) {
	l := newLibseccomp(t)
	r := rand.New(rand.NewPCG(7, 8))
	check := func(t *testing.T, p *specs.LinuxSeccomp, machine []abi) {
		t.Helper()
		calls, others, err := compareLib(t, l, p, machine, r)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d calls, %d answered otherwise on purpose", calls, others)
	}
	x86 := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	for name, caps := range capSets {
		t.Run("containerd/"+name, func(t *testing.T) {
			p := profileFor(caps)
			check(t, p, amd64)
			p.Architectures = []specs.Arch{specs.ArchARM, specs.ArchAARCH64}
			check(t, p, arm64)
		})
		t.Run("moby/"+name, func(t *testing.T) {
			p, err := moby.GetDefaultProfile(specFor(caps))
			if err != nil {
				t.Fatal(err)
			}
			p.Architectures = x86
			check(t, p, amd64)
			p.Architectures = []specs.Arch{specs.ArchARM, specs.ArchAARCH64}
			check(t, p, arm64)
		})
	}
	t.Run("random", func(t *testing.T) {
		n := 60
		if testing.Short() {
			n = 10
		}
		same, refused := 0, 0
		for range n {
			p := randomProfile(r)
			plain(p)
			for _, machine := range [][]abi{amd64, arm64} {
				switch _, _, err := compareLib(t, l, p, machine, r); {
				case err != nil:
					refused++
				default:
					same++
				}
			}
		}
		t.Logf("%d profiles compared, %d that libseccomp refuses", same, refused)
		if same == 0 {
			t.Error("libseccomp refused them all")
		}
	})
}

// plain leaves one rule for each name, and one condition for each argument. Of
// several rules with conditions libseccomp makes one tree, and does not always
// find the one that holds (2.5.4); there reference_test.go is the oracle. Several
// that ask one argument for values stay together, as profiles have them for
// personality(2).
func plain(p *specs.LinuxSeccomp) {
	first := map[string]specs.LinuxSyscall{}
	var out []specs.LinuxSyscall
	for _, s := range p.Syscalls {
		var seen [6]bool
		s.Args = slices.DeleteFunc(slices.Clone(s.Args), func(a specs.LinuxSeccompArg) bool {
			again := seen[a.Index]
			seen[a.Index] = true
			return again
		})
		for _, name := range s.Names {
			if name == "sync_file_range2" {
				continue // arm's second name for a call, to us but not to libseccomp
			}
			one := s
			one.Names = []string{name}
			// Of the multiplexed calls of i386, and what multiplexes.
			key := name
			if by, _ := multiplex(name); by != "" {
				key = by
			}
			f, again := first[key]
			switch {
			case !again:
				first[key] = one
			case len(f.Args) == 1 && f.Args[0].Op == specs.OpEqualTo && key == name:
				one.Action, one.ErrnoRet = f.Action, f.ErrnoRet
				one.Args = []specs.LinuxSeccompArg{{Index: f.Args[0].Index, Op: specs.OpEqualTo, Value: f.Args[0].Value ^ 1<<(len(out)%40)}}
			default:
				continue
			}
			out = append(out, one)
		}
	}
	p.Syscalls = out
}
