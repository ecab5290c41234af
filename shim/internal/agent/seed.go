package agent

// Seed is a mount namespace that processes are cloned out of, instead of the
// host's: clone(2) with CLONE_NEWNS copies the whole mount table of the
// caller, so it costs what the caller's table is long.
type Seed struct{ jobs chan job }

type job struct {
	f    func() error
	done chan error
}

// do runs f on the thread that lives in the seed.
func (s *Seed) do(f func() error) error {
	j := job{f: f, done: make(chan error, 1)}
	s.jobs <- j
	return <-j.done
}
