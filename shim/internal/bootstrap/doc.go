// Package bootstrap is how containerd launches and buries a shim: the actions
// `start` and `delete` of containerd's runtime v2 contract.
//
// containerd runs our binary three times in the life of a container: `start`,
// the daemon that start leaves behind, and `delete`; and waits for the first
// and the last. So this package imports none of ours and nothing of protobuf,
// and package shim/early runs it before main. It is not as early as it could be:
// fmt, flag and encoding/json, which it imports, are initialised only after
// packages of the daemon that need less.
//
// Four dialects of `start`:
//
//	containerd  stdin                          answer
//	1.6         options, an Any                address
//	1.7 - 2.2   options, an Any                {"version":2,...}, as JSON
//	2.3, 2.4    BootstrapParams, protobuf      BootstrapResult, protobuf
//
// Flags and environment are the same in all of them. Version 2 and 3 of the
// task API are both served on every socket.
package bootstrap
