// Package container is the object that the shim's requests are about: a
// Container with its state, made of a Group (cgroup), a Process (agent) and
// its stdio, from a Plan (compile). It knows nothing of containerd, ttrpc or
// gRPC.
//
// For each process one goroutine waits on its pidfd. It alone ends the
// process's life here: it reads the OOM count and drains the streams before it
// says how the process ended, sets the state, and reports.
//
// What is allowed in which state is one table: state.go.
package container
