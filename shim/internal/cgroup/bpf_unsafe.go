package cgroup

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// All of bpf(2) that device filters need. Each attribute struct is the head of
// union bpf_attr (linux/bpf.h) for its command; the kernel takes what is left
// out for zero. Pointers are kept as pointers, so that the collector sees them;
// both our architectures are little-endian with 64 bits.

// bpfLicense is what a program that calls no GPL-only helper may say.
const bpfLicense = "Apache-2.0\x00"

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
	runtime.KeepAlive(attr)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func bpfLoad(prog []insn, name string) (int, error) {
	license := []byte(bpfLicense)
	attr := struct {
		progType    uint32
		insnCnt     uint32
		insns       unsafe.Pointer
		license     unsafe.Pointer
		logLevel    uint32
		logSize     uint32
		logBuf      uint64
		kernVersion uint32
		progFlags   uint32
		name        [unix.BPF_OBJ_NAME_LEN]byte
	}{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE,
		insnCnt:  uint32(len(prog)),
		insns:    unsafe.Pointer(unsafe.SliceData(prog)),
		license:  unsafe.Pointer(unsafe.SliceData(license)),
	}
	copy(attr.name[:len(attr.name)-1], name)
	// The verifier answers EAGAIN when a signal interrupts it, and the Go
	// runtime sends signals. Nothing else says EAGAIN here.
	for {
		fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

type bpfAttachAttr struct {
	target, prog, kind, flags, replace uint32
}

// bpfAttach adds prog to those of a cgroup, or swaps it for one of them.
func bpfAttach(dir, prog, replace int) error {
	attr := bpfAttachAttr{
		target: uint32(dir),
		prog:   uint32(prog),
		kind:   unix.BPF_CGROUP_DEVICE,
		flags:  unix.BPF_F_ALLOW_MULTI,
	}
	if replace >= 0 {
		attr.flags |= unix.BPF_F_REPLACE
		attr.replace = uint32(replace)
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func bpfDetach(dir, prog int) error {
	attr := bpfAttachAttr{target: uint32(dir), prog: uint32(prog), kind: unix.BPF_CGROUP_DEVICE}
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// bpfQuery returns the ids of the device filters attached to a cgroup itself.
func bpfQuery(dir int) ([]uint32, error) {
	// BPF_CGROUP_MAX_PROGS is 64: no cgroup has more.
	var ids [64]uint32
	attr := struct {
		target, kind, queryFlags, attachFlags uint32
		ids                                   unsafe.Pointer
		count                                 uint32
		_                                     uint32
	}{
		target: uint32(dir),
		kind:   unix.BPF_CGROUP_DEVICE,
		ids:    unsafe.Pointer(&ids),
		count:  uint32(len(ids)),
	}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, err
	}
	return ids[:attr.count], nil
}

// bpfOpen returns a descriptor of the program with an id.
func bpfOpen(id uint32) (int, error) {
	attr := struct{ id, next, flags uint32 }{id: id}
	return bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// bpfName returns the name that a program was loaded with.
func bpfName(prog int) (string, error) {
	var info struct { // struct bpf_prog_info, as far as the name
		_    [64]byte
		name [unix.BPF_OBJ_NAME_LEN]byte
	}
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{uint32(prog), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return unix.ByteSliceToString(info.name[:]), err
}
