// Package shim is containerd's task API for containers made by mini.
//
// # Theory of operation
//
// containerd executes our binary, containerd-shim-mini-v2, for each container
// or pod:
//
//	containerd ---exec---> shim start         binds the socket, answers with its
//	     |                     |              address and is gone in milliseconds
//	     |                     +--exec---> the shim, a daemon: root, all capabilities
//	     |                                    |
//	     +---ttrpc: Create, Start, ... ------>+---clone---> agent ---execve---> container
//	     |<--ttrpc: events -------------------+             (package agent)
//	     |
//	     +---exec---> shim delete             after every end: what a killed shim left
//
// The shim is the parent of all processes it made, and waits for each by its
// pidfd: one goroutine for each process, and nobody else reaps. Orphans inside
// a container belong to its first process, by the kernel's rule
// (pid_namespaces(7)); those of a container without a pid namespace of its own
// to the host's.
//
// A process's streams are pipes between it and the shim, or a terminal made
// inside the container, and pumps that copy from there to the FIFOs of
// containerd's client: package stdio.
//
// If the shim is killed its containers run on until containerd notices and
// executes `delete`, which kills them by their cgroup. An agent that still
// waits at its gate ends by itself. All mounts are inside the containers, so
// they end with them.
//
// One thing outlives them, once for a node: /run/mini/seed, a mount namespace
// with next to nothing in it, of which containers take their copy, so that what
// they cost does not depend on what is mounted on the host. A shim that finds
// none makes it; `umount -R /run/mini/seed` removes it, at any time.
//
// Hooks are the only other programs that a shim runs, besides log binaries. With
// them, and only then, the root is mounted on the host, too, where hooks look for
// it; `delete` knows of that mount, and runs the hooks that come after the end.
//
// The reply to Shutdown is the last thing a shim does. One that containerd has
// forgotten ends by itself when it has had no container for a while; so does one
// that many pods share (option shim_group), for which the Shutdown of one pod may
// be the moment before the Create of another.
package shim
