// Package bootstrap is how containerd launches and buries a shim: the actions
// `start` and `delete` of containerd's runtime v2 contract.
//
// containerd runs our binary three times in the life of a container: `start`,
// the daemon that start leaves behind, and `delete`; and waits for the first
// and the last. So this package imports none of ours, nothing of protobuf, and
// of the standard library only what does without unicode and reflect: then
// package shim/early, which runs it, is initialised before all that the daemon
// needs, and what is done here ends before the rest of the program begins. It
// reads flags, two strings of JSON and the few messages by itself for that.
//
// Four dialects of `start`:
//
//	containerd  stdin                          answer
//	1.6         options, an Any                address
//	1.7 - 2.2   options, an Any                {"version":2,...}, as JSON
//	2.3, 2.4    BootstrapParams, protobuf      BootstrapResult, protobuf
//
// Options that may name a group of pods for the shim may be TOML: the rest of the
// program reads them. Flags and environment are the same in all of them. Version 2
// and 3 of the task API are both served on every socket.
package bootstrap
