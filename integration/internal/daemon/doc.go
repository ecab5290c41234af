// Package daemon gives a test a containerd of its own, and proves afterwards that nothing is left.
//
// # Theory of operation
//
// A test binary that calls [Main] runs as three sets of processes:
//
//	outer    what `go test` started. It builds the shim, runs inner, reaps, and kills what is left.
//	inner    the same binary in a private mount namespace: here the tests run.
//	the rest containerd, shims, containers: all of them descend from outer, which is their
//	         subreaper, prctl(2): a shim that has cut itself loose is still found.
//
// In inner's namespace /sys/fs/cgroup is a cgroup2 mount, also on a machine that boots with cgroup v1, and
// /run/containerd and /run/mini are empty tmpfs, so that the containerd of the machine is not
// disturbed, and a file found there is ours. Nothing that is mounted there is seen by the machine.
//
// Every test gets a containerd namespace of its own ([Shared], [Start]) and ends with
// [Daemon.AssertClean]: no process, mount, cgroup, socket or bundle is left of it. Tests do not run
// in parallel: whatever outer has for descendants beyond the daemons belongs to the running test.
package daemon
