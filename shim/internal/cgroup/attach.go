package cgroup

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filterName tells our filters from those of others (systemd's DeviceAllow=)
// on the same cgroup, which stay. BPF_OBJ_NAME_LEN is 16.
const filterName = "mini_devices"

// setDevices makes rules the device filter of the cgroup. There is no moment
// without a filter: the kernel swaps the old one for the new one
// (BPF_F_REPLACE, Linux 5.6).
func (g *Group) setDevices(rules []specs.LinuxDeviceCgroup) error {
	prog, err := deviceFilter(rules)
	if err != nil {
		return err
	}
	dir, err := g.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	old, err := filtersOn(dir)
	defer func() {
		for _, fd := range old {
			unix.Close(fd)
		}
	}()
	if err == nil {
		err = swapFilter(dir, old, prog, allowsAll(rules))
	}
	if err != nil {
		return fmt.Errorf("linux.resources.devices: %w", err)
	}
	return nil
}

func swapFilter(dir int, old []int, prog []insn, none bool) error {
	if !none {
		fd, err := bpfLoad(prog, filterName)
		if err != nil {
			return os.NewSyscallError("bpf prog_load", err)
		}
		defer unix.Close(fd)
		if len(old) > 0 {
			err = bpfAttach(dir, fd, old[0])
			old = old[1:]
		} else {
			err = bpfAttach(dir, fd, -1)
		}
		if err != nil {
			// EPERM: an ancestor has a filter that admits none below it.
			return os.NewSyscallError("bpf prog_attach", err)
		}
	}
	for _, fd := range old {
		if err := bpfDetach(dir, fd); err != nil {
			return os.NewSyscallError("bpf prog_detach", err)
		}
	}
	return nil
}

// filtersOn returns descriptors of our filters on a cgroup: none or one,
// unless a shim was killed at an unlucky moment.
func filtersOn(dir int) (fds []int, err error) {
	ids, err := bpfQuery(dir)
	if err != nil {
		return nil, os.NewSyscallError("bpf prog_query", err)
	}
	for _, id := range ids {
		fd, err := bpfOpen(id)
		if errors.Is(err, unix.ENOENT) {
			continue // detached since
		}
		if err != nil {
			return fds, os.NewSyscallError("bpf prog_get_fd_by_id", err)
		}
		name, err := bpfName(fd)
		if err != nil {
			unix.Close(fd)
			return fds, os.NewSyscallError("bpf obj_get_info_by_fd", err)
		}
		if name != filterName {
			unix.Close(fd)
			continue
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
