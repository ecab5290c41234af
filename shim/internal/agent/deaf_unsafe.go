package agent

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// handler is the address of a signal handler that does nothing, and of what it
// returns to; in deaf_GOARCH.s.
func handler() (nothing, back uintptr)

// Deafen makes signals do nothing to this process. What it executes hears them:
// execve(2) resets a signal that is caught, while one that is ignored would stay
// so in every container, hook and log binary. os/signal catches them as well, at
// the price of three threads.
func Deafen(signals ...unix.Signal) error {
	// struct kernel_sigaction of amd64 and arm64: sigaction(2), C
	// library/kernel differences.
	type sigaction struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	const restart, onStack, hasRestorer = 0x10000000, 0x08000000, 0x04000000
	nothing, back := handler()
	// The stack of a goroutine has no room for a signal's frame.
	action := sigaction{handler: nothing, flags: restart | onStack | hasRestorer, restorer: back}
	for _, s := range signals {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s),
			uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
		if errno != 0 {
			return fmt.Errorf("sigaction %v: %w", s, errno)
		}
	}
	runtime.KeepAlive(&action)
	return nil
}
