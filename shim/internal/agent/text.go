package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// agent is machine code to be copied, in agent_GOARCH.s. It is not a Go
// function and is never called.
func agent() //nolint:unused // text, in assembly, takes its address

// text is the address of agent.
func text() uintptr

// marker stands behind the last instruction of agent.
const marker = "the agent ends.\x00"

// maxText is far more than agent needs: a bound for the search of marker.
const maxText = 4096

const (
	elfHeader  = 64
	progHeader = 56
	codeOffset = elfHeader + 2*progHeader
	loadAddr   = 0x400000
	// loadAlign is the largest page size of arm64: a segment must be
	// aligned to the page size of the kernel that runs it.
	loadAlign = 0x10000
)

// executable is agent as a static ELF file: elf(5). It has one segment of
// code, and a PT_GNU_STACK so that no kernel makes all memory executable.
func executable(code []byte, goarch string) []byte {
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[goarch]
	size := uint64(codeOffset + len(code))

	var b bytes.Buffer
	le := func(v ...any) {
		for _, x := range v {
			// Writes of fixed-size values to a Buffer do not fail.
			_ = binary.Write(&b, binary.LittleEndian, x)
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	le(uint16(2), machine, uint32(1)) // ET_EXEC, EV_CURRENT
	le(uint64(loadAddr+codeOffset), uint64(elfHeader), uint64(0))
	le(uint32(0), uint16(elfHeader), uint16(progHeader), uint16(2))
	le(uint16(0), uint16(0), uint16(0))

	const ptLoad, ptGNUStack = 1, 0x6474e551
	le(uint32(ptLoad), uint32(5), uint64(0), uint64(loadAddr), uint64(loadAddr))
	le(size, size, uint64(loadAlign))
	le(uint32(ptGNUStack), uint32(6), uint64(0), uint64(0), uint64(0))
	le(uint64(0), uint64(0), uint64(16))
	b.Write(code)
	return b.Bytes()
}

// newMemfd returns a sealed, executable memfd(2) that holds agent. It is born
// with close-on-exec.
func newMemfd(elf []byte) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	// MFD_EXEC says that we mean it; kernels before 6.3 do not know it.
	fd, err := unix.MemfdCreate("mini-agent", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("mini-agent", flags)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if err := seal(fd, elf); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func seal(fd int, elf []byte) error {
	if _, err := unix.Write(fd, elf); err != nil {
		return fmt.Errorf("write memfd: %w", err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal memfd: %w", err)
	}
	return nil
}
