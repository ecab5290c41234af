// Command bench measures what a container costs under mini, and under containerd's own shim with runc
// and with crun; and what a snapshot costs in mini-snapshotter and in the snapshotter that is built
// into containerd. hack/bench/run builds all it needs and starts it; docs/benchmarks.md says what the
// figures mean.
//
// # Theory of operation
//
//	run      the script; it leaves itself for
//	keeper   this program in a private mount namespace, where /sys/fs/cgroup is cgroup v2 and /run is
//	         empty. It makes and removes all that outlives processes: a directory, cgroups.
//	init     process 1 of a pid namespace below it. It reaps.
//	bench    starts containerd, measures, prints.
//
// containerd, shims and containers are processes of that pid namespace, and their mounts are those of
// its mount namespace. So there is one way to clean up, after the last figure as after a failure or a
// signal: process 1 ends, by itself or killed, and the kernel takes along every process and every
// mount; then keeper removes cgroups and files. A killed keeper takes init along, prctl(2)
// PR_SET_PDEATHSIG.
//
// What is compared is interleaved: each round does the same once for every contender, in an order of
// its own, so that what the machine does meanwhile, and what one leaves it to do, hits all alike.
package main
