package program

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Limits of the encoded form: a Program that exceeds them does not run.
const (
	MaxAnswers = 4      // errnos in Op.Answers
	MaxSkip    = 0xffff // Op.Then and Op.Else
	MaxOps     = 0xffff
)

// Let is not a system call: its result is its first argument. It sets a slot
// to a constant, jumps (Then), or, given a negative errno, fails on purpose.
const Let = 0xffff

// A Slot is a 64-bit cell that an Op writes its result to and later Ops read
// arguments from. The zero Slot means "none".
type Slot uint8

// Op is one system call, and what its result means. Jumps only go forward, as
// in classic BPF: every Program ends.
type Op struct {
	// Nr is the number of the system call on this architecture, or [Let].
	Nr   int
	Args []Arg

	// Answers are the errnos that are answers rather than failures.
	Answers []unix.Errno

	// Then is how many Ops to skip after success, Else how many after one
	// of Answers.
	Then, Else int

	// Out is where the result goes, on success only.
	Out Slot

	// EOF ends the agent, quietly, when the result is zero: the peer of a
	// gate has gone.
	EOF bool

	// Step says what this call is for, in the words an error will use:
	// "mount proc on /proc".
	Step string
}

// Program is a list of system calls, carried out in order.
type Program struct {
	Ops []Op

	// Preset are the slots that hold a value before the first Op.
	Preset map[Slot]uint64

	memory *memory // nil before the first Add or Call
}

// firstOps is for how many Ops there is room at first: a container's Program has up to that many.
const firstOps = 341 // 32 kB

// Add appends ops and returns the index of the first.
func (p *Program) Add(ops ...Op) int {
	if p.Ops == nil {
		p.begin()
	}
	p.Ops = append(p.Ops, ops...)
	return len(p.Ops) - len(ops)
}

// Call appends an op without slots, answers or jumps. It holds until the next one. args stay the caller's, which
// need not put them on its heap.
func (p *Program) Call(step string, nr int, args ...Arg) *Op {
	i := p.Add(Op{Nr: nr, Step: step})
	op := &p.Ops[i]
	op.Args = p.memory.keep(args)
	return op
}

func (p *Program) begin() {
	p.memory = takeMemory()
	if p.Ops = p.memory.ops; cap(p.Ops) == 0 {
		p.Ops = make([]Op, 0, firstOps)
	}
}

// Step returns what op i was for. The agent reports failures by index.
func (p *Program) Step(i int) string {
	if i < 0 || i >= len(p.Ops) {
		return fmt.Sprintf("op %d", i)
	}
	if s := p.Ops[i].Step; s != "" {
		return s
	}
	return p.Ops[i].String()
}

// Validate reports the first Op that cannot be encoded, or that jumps out of
// the Program. It finds our own mistakes: no spec makes it fail.
func (p *Program) Validate() error {
	if len(p.Ops) == 0 || len(p.Ops) > MaxOps {
		return fmt.Errorf("program has %d ops, want 1 to %d", len(p.Ops), MaxOps)
	}
	for i, op := range p.Ops {
		if err := op.validate(len(p.Ops) - i - 1); err != nil {
			return fmt.Errorf("op %d, %s: %w", i, op.Step, err)
		}
	}
	return nil
}

// validate is given the number of ops that follow.
func (o *Op) validate(left int) error {
	switch {
	case o.Nr < 0 || o.Nr > Let:
		return fmt.Errorf("system call %d out of range", o.Nr)
	case len(o.Args) > 6:
		return fmt.Errorf("%d arguments, a system call has 6", len(o.Args))
	case len(o.Answers) > MaxAnswers:
		return fmt.Errorf("%d answers, at most %d", len(o.Answers), MaxAnswers)
	case o.Out >= numSlots:
		return fmt.Errorf("slot %d: there are %d", o.Out, numSlots)
	case o.Then < 0 || o.Else < 0 || o.Then > MaxSkip || o.Else > MaxSkip:
		return errors.New("jump out of range")
	case o.Then > left || (len(o.Answers) > 0 && o.Else > left):
		return errors.New("jump out of the program")
	case o.Else > 0 && len(o.Answers) == 0:
		return errors.New("else without answers")
	}
	for _, e := range o.Answers {
		if e == 0 || e > 0xff {
			return fmt.Errorf("errno %d cannot be an answer", int(e))
		}
	}
	return nil
}
