// Command pause is the first process of a pod in the CRI tests: it sleeps, reaps, and ends at once
// when it is asked to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// A process 1 is only sent the signals that it has a handler for, pid_namespaces(7).
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, syscall.SIGINT, syscall.SIGTERM)
	// With SIGCHLD ignored the kernel reaps the orphans of a shared pid namespace, wait(2).
	signal.Ignore(syscall.SIGCHLD)
	<-ask
}
