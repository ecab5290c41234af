package agent

import (
	"bytes"
	"debug/elf"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// TestARM64 runs the tests of the agent with that of arm64, under QEMU: its machine
// code, in its ELF file, out of the test binary for that machine. The rest is
// native: QEMU's emulation of a process has no clone3, no pidfds and, in Debian 12, no
// openat2.
func TestARM64(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers of system calls are translated from those of amd64")
	}
	emulator, err := exec.LookPath("qemu-aarch64")
	if err != nil {
		t.Skip("needs Debian's qemu-user")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs go, to build for arm64")
	}
	code := codeARM64(t, goTool)
	newAgent = func() (*Agent, error) {
		fd, err := newMemfd(executable(code, "arm64"))
		return &Agent{memfd: fd, emulator: emulator}, err
	}
	t.Cleanup(func() { newAgent = New })
	tests := map[string]func(*testing.T){
		"GateAndExec": TestGateAndExec, "StepFails": TestStepFails, "JumpsAndSlots": TestJumpsAndSlots,
		"ShimGone": TestShimGone, "BigImage": TestBigImage,
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.Run(name, tests[name])
	}
}

// codeARM64 is what machineCode returns in a program for arm64.
func codeARM64(t *testing.T, goTool string) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "arm64")
	build := exec.Command(goTool, "test", "-c", "-o", bin, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(symbols, func(s elf.Symbol) bool {
		return s.Name == "github.com/containerd-mini/mini/shim/internal/agent.agent.abi0"
	})
	if i < 0 {
		t.Fatal("no agent in the program for arm64")
	}
	section := f.Sections[symbols[i].Section]
	mem := make([]byte, maxText)
	if _, err := section.ReadAt(mem, int64(symbols[i].Value-section.Addr)); err != nil {
		t.Fatal(err)
	}
	n := bytes.Index(mem, []byte(marker))
	if n < 0 {
		t.Fatal("the agent for arm64 has no end")
	}
	return mem[:n]
}

// forARM64 gives the calls that the tests make the numbers that they have there.
func forARM64(p *program.Program) *program.Program {
	numbers := map[int]int{
		unix.SYS_READ: 63, unix.SYS_WRITE: 64, unix.SYS_CLOSE: 57, unix.SYS_FCHDIR: 50, unix.SYS_EXECVE: 221,
		unix.SYS_CLOSE_RANGE: unix.SYS_CLOSE_RANGE, program.Let: program.Let,
	}
	q := &program.Program{Ops: slices.Clone(p.Ops), Preset: p.Preset}
	for i := range q.Ops {
		nr, ok := numbers[q.Ops[i].Nr]
		if !ok {
			panic("a call that is not in the list: " + q.Ops[i].String())
		}
		q.Ops[i].Nr = nr
	}
	return q
}
