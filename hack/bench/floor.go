package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
)

// measureFloor asks floor/floor.c what the kernel alone takes.
func (r *run) measureFloor() (err error) {
	c := contender{name: "floor"}
	s := r.table.section("The kernel's own: cgroup, six namespaces, proc, pivot_root, execve, wait, in C", "ms")
	s.names = []string{c.name}
	made, err := r.client.NewContainer(r.ctx, r.id(c), containerd.WithSnapshotter(snapshotter),
		containerd.WithNewSnapshot(r.id(c), r.image), containerd.WithNewSpec())
	if err != nil {
		return err
	}
	defer func() {
		if e := made.Delete(r.ctx, containerd.WithSnapshotCleanup); err == nil {
			err = e
		}
	}()
	info, err := made.Info(r.ctx)
	if err != nil {
		return err
	}
	mounts, err := r.client.SnapshotService(snapshotter).Mounts(r.ctx, info.SnapshotKey)
	if err != nil {
		return err
	}
	rootfs := filepath.Join(r.dir, "floor")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	if err := mount.All(mounts, rootfs); err != nil {
		return err
	}
	defer func() {
		if e := mount.UnmountAll(rootfs, 0); err == nil {
			err = e
		}
	}()
	if err := os.MkdirAll(rootfs+"/proc", 0o755); err != nil {
		return err
	}
	group := filepath.Join(cgroupRoot, r.cgroup())
	if err := os.MkdirAll(group, 0o755); err != nil {
		return err
	}
	out, err := exec.Command(r.floor, rootfs, group+"/floor", strconv.Itoa(r.warmup+r.n)).Output()
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	for i, word := range strings.Fields(string(out)) {
		v, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return err
		}
		if i >= r.warmup {
			s.add("a container of /bin/true", c, v)
		}
	}
	return nil
}
