package seccomp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// underDefaultProfile32 makes calls of i386 under the filter that is loaded: by
// programs of a few instructions, which exit with the errno that they got.
func underDefaultProfile32() error {
	if runtime.GOARCH != "amd64" {
		return nil
	}
	for _, c := range []struct {
		name string
		nr   uint32
		want unix.Errno
	}{
		{"sched_yield", 158, 0},
		{"mount", 21, unix.EPERM},
		{"kexec_load", 283, unix.EPERM},
		{"clone3", 435, unix.ENOSYS},
		{"one that is not invented yet", 1000, unix.ENOSYS},
	} {
		status, err := run32(c.nr)
		if errors.Is(err, unix.ENOEXEC) {
			return nil // this kernel runs no programs for i386
		}
		if err != nil {
			return fmt.Errorf("i386: %s: %w", c.name, err)
		}
		if status != int(c.want) {
			return fmt.Errorf("i386: %s: errno %d, want %d", c.name, status, int(c.want))
		}
	}
	return nil
}

func run32(nr uint32) (status int, err error) {
	fd, err := unix.MemfdCreate("i386", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, elf32(nr)); err != nil {
		return 0, err
	}
	err = exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)).Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// elf32 is a program for i386 that makes a call without arguments, and exits with
// its errno: elf(5).
func elf32(nr uint32) []byte {
	code := []byte{0xb8}                                    // mov eax, nr
	code = binary.LittleEndian.AppendUint32(code, nr)       //
	code = append(code, 0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2, // xor ebx, ebx; ecx; edx
		0xcd, 0x80, // int 0x80
		0xf7, 0xd8, // neg eax
		0x89, 0xc3, // mov ebx, eax
		0xb8, 1, 0, 0, 0, // mov eax, exit
		0xcd, 0x80) // int 0x80
	const header, at = 52 + 32, 0x400000
	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01")
	b.Write(make([]byte, 9))
	size := uint32(header + len(code))
	for _, v := range []any{
		uint16(2), uint16(3), uint32(1), uint32(at + header), uint32(52), uint32(0), uint32(0),
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(0), uint32(at), uint32(at), size, size, uint32(5), uint32(0x1000),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(code)
	return b.Bytes()
}
