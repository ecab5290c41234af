package container

import "errors"

// cleanup undoes, in reverse, what was done on a way that did not reach its
// end.
type cleanup []func() error

func (c *cleanup) add(f func() error) { *c = append(*c, f) }

// unless runs it all if err is not nil, and returns err with what went wrong
// meanwhile.
func (c *cleanup) unless(err error) error {
	if err == nil {
		return nil
	}
	for i := len(*c) - 1; i >= 0; i-- {
		if uerr := (*c)[i](); uerr != nil {
			err = errors.Join(err, uerr)
		}
	}
	return err
}
