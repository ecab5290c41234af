package agent

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfoStatus returns si_code and si_status of a SIGCHLD siginfo_t, whose
// union x/sys/unix leaves opaque: sigaction(2).
func siginfoStatus(info *unix.Siginfo) (code, status int32) {
	type sigchld struct {
		signo, errno, code, _ int32
		pid                   int32
		uid                   uint32
		status                int32
	}
	s := (*sigchld)(unsafe.Pointer(info))
	return s.code, s.status
}
