// Package agent makes processes: it clones one out of the shim, straight into
// its namespaces and its cgroup, and has it carry out a [program.Program].
//
// What runs there between the clone and the container's own execve(2) is the
// agent: some five hundred bytes of machine code without a stack, without a
// runtime and without a file of the host behind it. They are copied, once per
// shim, out of this program's own text (agent_amd64.s, agent_arm64.s) behind a
// hand-made ELF header into a sealed memfd(2). So there is nothing to install,
// nothing in the container whose /proc/self/exe leads back to the host
// (CVE-2019-5736), and no page table or heap of the shim to copy.
//
//	shim                                 agent
//	----                                 -----
//	socketpair, clone3, exec memfd
//	image           ------------------>  reads it to a fixed address
//	                                     runs the Program: namespaces,
//	                                     mounts, identity, ...
//	"at the gate"   <------------------  one byte (and the pty's master)
//	open the gate   ------------------>  goes on
//	end of file     <------------------  execve(2) closed the socket
//
// On the way to its gate the agent may ask for a mount point that takes more than
// system calls to make, and waits for a byte: program.SaysMissing.
//
// At any time the agent may instead report {op, errno} in eight bytes: that op
// failed, and the agent has exited. If the shim dies, the agent reads end of
// file at its gate and exits too.
//
// Into a user namespace a process cannot be cloned by Go, and the other namespaces
// are to belong to that one. So there the agent joins it, forks with CLONE_PARENT,
// sends its child's pidfd and ends; the child goes on: fork.go.
//
// All of the project's assembly, and its unsafe code for processes, is here.
package agent
