// Package rpc is what a shim needs of ttrpc, the protocol between containerd and its shims:
// github.com/containerd/ttrpc, PROTOCOL.md. A frame is a header of ten bytes (length, stream, type, flags) and a
// message. A request begins a stream, the response to it ends it. Streams of more messages are not in the task
// API, and not here.
//
// containerd's own package would do, and tests compare this one with it, in both directions. But it keeps for
// each connection two goroutines and two buffers of 4 kB, brings along protobuf's and gRPC's tables, and hands
// each reply through three goroutines; and containerd has one connection for each container of a pod. Here an
// idle connection is one goroutine without a buffer. Figures are in docs/benchmarks.md.
package rpc
