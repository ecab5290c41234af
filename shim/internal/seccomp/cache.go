package seccomp

import (
	"reflect"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Cache remembers the filter of the last profile: the containers of a pod have
// the same one. A profile that it was given must not be changed. The zero Cache
// is ready.
type Cache struct {
	mu      sync.Mutex
	profile *specs.LinuxSeccomp
	filter  Filter
}

// Compile is [Compile].
func (c *Cache) Compile(p *specs.LinuxSeccomp) (Filter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.profile != nil && reflect.DeepEqual(c.profile, p) {
		return c.filter, nil
	}
	f, err := Compile(p)
	if err == nil {
		c.profile, c.filter = p, f
	}
	return f, err
}
