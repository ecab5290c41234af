// Package tig stands in for a package of nerdctl's tests, which its command imports without a use of it
// and which its repository replaces by a directory that no module has.
package tig

// T is what its helpers ask of a test.
type T interface {
	FailNow()
	Log(args ...any)
}
