// Package compile turns an OCI runtime spec into a Plan. It decides and does
// not act: it opens nothing and asks the kernel nothing, so the same spec and
// Options always give the same Plan, and the golden tests need no root.
//
// One file for each section of the spec:
//
//	compile.go      the order of things: the Programs of a container and of an exec
//	unsupported.go  every field that is refused, by name
//	namespaces.go   linux.namespaces
//	users.go        linux.uidMappings, linux.gidMappings: user namespaces
//	rootfs.go       root, pivot_root(2)
//	hooks.go        hooks
//	netdevices.go   linux.netDevices
//	mounts.go       mounts, and options.go their options; tmpfs.go what a new one gets,
//	                mountpoints.go where they go
//	devices.go      linux.devices and the default devices and links of /dev
//	masks.go        linux.maskedPaths, linux.readonlyPaths, linux.sysctl
//	terminal.go     process.terminal
//	process.go      process: what runs, where, with which limits
//	scheduling.go   process.scheduler and its like, linux.personality, linux.memoryPolicy
//	identity.go     process.user, process.capabilities, seccomp
//	resources.go    linux.resources
//
// All "not supported" errors of the runtime come from here, and begin with the
// name of the field: "linux.intelRdt: not supported".
package compile
