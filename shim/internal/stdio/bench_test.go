package stdio

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what this process has used: the shim's and the client's share, not the writer's.
func cpuTime() time.Duration {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &ru)
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// cat reads the FIFO in a process of its own, so that its cost is not counted.
func cat(b *testing.B, path string) *exec.Cmd {
	b.Helper()
	cmd := exec.Command("/bin/sh", "-c", "exec cat >/dev/null <"+path)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return cmd
}

// BenchmarkStdout moves what a process writes to a client's FIFO: by the pump, and as
// containerd-shim-runc-v2 does, by io.CopyBuffer with 4 KiB, and with 32 KiB. cpu/GB is this
// process's, the copier.
func BenchmarkStdout(b *testing.B) {
	const size = 1 << 30
	report := func(b *testing.B, cpu time.Duration, size int) {
		b.SetBytes(int64(size))
		b.ReportMetric(float64(cpu.Milliseconds())/float64(b.N)*1e9/float64(size), "cpu-ms/GB")
	}
	for _, bs := range []int{512, 4 << 10, 64 << 10} {
		count := size / bs
		if bs == 512 {
			count /= 16 // slow for the writer
		}
		args := []string{"dd", "if=/dev/zero", "status=none", fmt.Sprintf("bs=%d", bs), fmt.Sprintf("count=%d", count)}
		b.Run(fmt.Sprintf("pump/%d", bs), func(b *testing.B) {
			cpu := cpuTime()
			for range b.N {
				path := fifoPath(b, "out")
				reader := cat(b, path)
				s := mustOpen(b, Config{Stdout: path})
				p := start(b, s, args...)
				<-p.done
				mustDrain(b, s)
				_ = reader.Wait()
				mustClose(b, s)
			}
			report(b, cpuTime()-cpu, bs*count)
		})
		for _, buf := range []int{4 << 10, 32 << 10} {
			b.Run(fmt.Sprintf("copy%d/%d", buf>>10, bs), func(b *testing.B) {
				cpu := cpuTime()
				for range b.N {
					path := fifoPath(b, "out")
					reader := cat(b, path)
					w, err := os.OpenFile(path, os.O_WRONLY, 0)
					if err != nil {
						b.Fatal(err)
					}
					r, cw, err := os.Pipe()
					if err != nil {
						b.Fatal(err)
					}
					cmd := exec.Command(args[0], args[1:]...)
					cmd.Stdout = cw
					if err := cmd.Start(); err != nil {
						b.Fatal(err)
					}
					_ = cw.Close()
					// Without ReadFrom and WriteTo, which containerd's wrappers do not have either.
					_, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, buf))
					_ = cmd.Wait()
					_, _ = r.Close(), w.Close()
					_ = reader.Wait()
				}
				report(b, cpuTime()-cpu, bs*count)
			})
		}
	}
}

// BenchmarkLife is all that an exec with three FIFOs costs here, without the process.
func BenchmarkLife(b *testing.B) {
	paths := [3]string{fifoPath(b, "in"), fifoPath(b, "out"), fifoPath(b, "err")}
	var readers [2]int
	for i := range readers {
		fd, err := unix.Open(paths[i+1], unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		readers[i] = fd
	}
	b.ReportAllocs()
	for b.Loop() {
		s, err := Open(b.Context(), Config{Stdin: paths[0], Stdout: paths[1], Stderr: paths[2]})
		if err != nil {
			b.Fatal(err)
		}
		s.Started()
		_ = s.OpenInput()
		if err := s.Drain(time.Second); err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
	for _, fd := range readers {
		_ = unix.Close(fd)
	}
}

// BenchmarkLine is one line from the process to the client: its latency.
func BenchmarkLine(b *testing.B) {
	path := fifoPath(b, "out")
	ch := openAsync(path, os.O_RDONLY)
	s := mustOpen(b, Config{Stdout: path})
	out := s.Child()[1]
	raw, _ := out.SyscallConn()
	dup := -1
	_ = raw.Control(func(fd uintptr) { dup, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	s.Started()
	_ = s.OpenInput()
	f := <-ch
	line, buf := []byte("a line of a log, of some length, as they are\n"), make([]byte, 4096)
	for b.Loop() {
		if _, err := syscall.Write(dup, line); err != nil {
			b.Fatal(err)
		}
		if _, err := f.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = unix.Close(dup)
	mustDrain(b, s)
	_, _ = s.Close(), f.Close()
}

// BenchmarkIdle reports the memory of an IO whose process is silent.
func BenchmarkIdle(b *testing.B) {
	const n = 1000
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	if limit.Cur < 12*n {
		b.Skip("too few descriptors")
	}
	for range b.N {
		var before, after runtime.MemStats
		var all []*IO
		var fds []int
		paths := [3]string{fifoPath(b, "in"), fifoPath(b, "out"), fifoPath(b, "err")}
		for _, p := range paths[1:] {
			fd, _ := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			fds = append(fds, fd)
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range n {
			s := mustOpen(b, Config{Stdin: paths[0], Stdout: paths[1], Stderr: paths[2]})
			for _, f := range s.Child() {
				raw, _ := f.SyscallConn()
				_ = raw.Control(func(fd uintptr) {
					dup, _ := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
					fds = append(fds, dup)
				})
			}
			s.Started()
			_ = s.OpenInput()
			all = append(all, s)
		}
		time.Sleep(200 * time.Millisecond)
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "heap-B/IO")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/n, "stack-B/IO")
		for _, s := range all {
			_ = s.Close()
		}
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
}
