package program

import (
	"sync"
	"weak"
)

// memory is what Programs are written to, one after the other: some 100 kB, which each container would leave to
// be collected otherwise. A collection that comes between two Programs takes it.
type memory struct {
	ops   []Op
	args  [][]Arg // of which the first used are full, and the next is begun
	used  int
	image []byte
}

var spare struct {
	mu sync.Mutex
	of weak.Pointer[memory]
}

// argsBlock is how many Args are allocated at once. That of a container has a thousand.
const argsBlock = 256

func takeMemory() *memory {
	spare.mu.Lock()
	defer spare.mu.Unlock()
	m := spare.of.Value()
	spare.of = weak.Pointer[memory]{}
	if m == nil {
		m = &memory{}
	}
	return m
}

// keep copies args.
func (m *memory) keep(args []Arg) []Arg {
	if len(args) > argsBlock {
		return append([]Arg(nil), args...)
	}
	if m.used < len(m.args) && len(m.args[m.used])+len(args) > argsBlock {
		m.used++
	}
	if m.used == len(m.args) {
		m.args = append(m.args, make([]Arg, 0, argsBlock))
	}
	block := &m.args[m.used]
	n := len(*block)
	*block = append(*block, args...)
	return (*block)[n:len(*block):len(*block)]
}

// Free gives the memory of a Program to the next one. There is no Program after it, nor what Encode gave.
func (p *Program) Free() {
	m := p.memory
	if m == nil {
		return
	}
	m.ops = p.Ops
	clear(m.ops)
	m.ops = m.ops[:0]
	for i := range m.args {
		clear(m.args[i])
		m.args[i] = m.args[i][:0]
	}
	m.used = 0
	*p = Program{}
	spare.mu.Lock()
	defer spare.mu.Unlock()
	spare.of = weak.Make(m)
}
