package container

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread calls f on a thread that nobody else uses, and that ends with f: f may
// leave the namespaces of this process.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread does not end with its goroutine (mexit in
			// runtime/proc.go), and /proc/self is what it is. As long as
			// it is locked here, f gets another.
			onThread(f)
			runtime.UnlockOSThread()
			return
		}
		f() // never unlocked
	}()
	<-done
}
