// Package api has the messages that containerd and a shim exchange, as plain
// structs: the task API, its events, the options, metrics. A tag gives the number of a
// field on the wire, protobuf.dev/programming-guides/encoding; names are those
// of containerd's generated types.
//
// Those types would do. But for each file of messages that a program links,
// protobuf registers descriptors before main, whether they are used or not, and
// makes tables of them with their first use: together 1 MB of each shim, and
// 2 ms of its first Create. Here a message is read and written by looking at its
// fields. Tests compare each with the generated type, field by field and by
// fuzzing.
package api
