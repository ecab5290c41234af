// Package cgroup is a handle on one cgroup v2 directory: it makes it, writes
// its limits, installs its device filter, freezes, kills, measures and removes
// it. It knows nothing of containers.
//
// # Theory of operation
//
// A [Group] holds one descriptor, that of its directory, and reaches every
// file through it. A cgroup that has been removed and made anew under the same
// name is therefore never mistaken for ours: reading the old one is
// fs.ErrNotExist, and where the cgroup was to go anyway, success.
//
// Nothing sleeps or polls by time. The kernel wakes a poll(2) for POLLPRI when
// cgroup.events or memory.events change (Documentation/admin-guide/cgroup-v2.rst,
// "[un]populated notification"); we wait for that in the Go runtime's own
// poller, so that a wait costs a goroutine and no thread. inotify(7) would do
// too, but a node has 128 instances of it for each user by default, and a shim
// for every pod.
//
// Directories that Create makes bear an extended attribute, so that whoever
// comes last may remove an empty parent that mini made (/namespace), be it
// another process, and leaves alone those that others made (kubelet's pod
// cgroups carry limits of their own).
package cgroup
