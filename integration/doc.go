// Package integration tests mini under real containerds. Most tests are scripts in testdata, which
// drive ctr and read as documentation; what a script cannot say is in Go, with containerd's client.
// How they get a containerd, and why nothing of them is left: see internal/daemon.
package integration
