// Package program is the vocabulary in which containers are described: plain
// data that a compiler writes, a person reads and a very small agent carries
// out. It decides nothing and calls nothing.
//
// A [Program] is a list of system calls. A [Plan] is a Program together with
// what the shim itself must do around it: the namespaces to clone, the
// descriptors to hand over, the cgroup files to write.
//
// A Program prints like strace(1), one line a step, and that text is what the
// golden tests compare and `mini explain` shows.
package program
