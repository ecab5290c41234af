// Package seccomp compiles the seccomp profile of an OCI spec to the classic
// BPF that seccomp(2) takes. It is pure: it makes no system call, and tells
// nothing of the kernel that it runs on.
//
// # What a profile means
//
// The runtime-spec leaves much open, and what profiles rely on is what runc
// does with libseccomp. So do we, unless said otherwise here:
//
//   - The native architecture is always in; those that this machine cannot run
//     are passed over. A call by an architecture that is not in kills the
//     thread (libseccomp's SCMP_FLTATR_ACT_BADARCH).
//   - A name that we do not know is passed over, one that an architecture does
//     not have is passed over there.
//   - A rule whose action is the default one is passed over.
//   - The first rule for a call that has no args decides, even over earlier
//     rules with args. Otherwise the first one decides whose args all match
//     (libseccomp has an order of its own here, and refuses some conflicts).
//   - If two args of a rule have the same index, each is a rule of its own
//     (runc issue 2735).
//   - 32-bit architectures, x32 too, have 32-bit arguments: what is above that
//     in a value is dropped.
//   - x32 calls by numbers that only x86_64 has are taken for those of x86_64
//     (libseccomp: default action). The kernel has ENOSYS for them.
//   - On i386 a rule for socket(2) and its like, or shmget(2) and its like, is
//     also one for socketcall(2) or ipc(2). Their arguments are in memory and
//     cannot be seen: a rule with args that allows is left out there (libseccomp
//     lets the call through), one that refuses is taken without its args.
//   - If the default action is not one that lets calls through, calls with
//     numbers beyond the highest one named get ENOSYS, so that a libc newer than
//     the profile falls back (runc's patchbpf, runc issue 2151). Of arm's
//     private calls, far up, we take no notice for that; runc does, and so has
//     no ENOSYS there.
//   - SCMP_ACT_NOTIFY cannot be the default, nor be for write(2), as in runc: by
//     that call whoever listens is told of it.
//   - Without flags, and only then, SPEC_ALLOW is set: since Linux 5.16 it is
//     what the kernel does anyway.
//
// # How the filter looks
//
// It tells architectures apart, then searches for the number by halves in the
// list of ranges that share an outcome. What it costs is loading: the kernel
// compiles every instruction, and it runs the filter for each number to find
// those that are always allowed, which then never come to the filter (Linux
// 5.11). So it is to be short first and shallow second: single numbers are
// picked out rather than searched for, x32 shares what it has in common with
// x86_64, and rules that differ in a value load the argument once.
package seccomp
