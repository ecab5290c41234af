package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// cond is a condition on one argument.
type cond struct {
	index uint32
	op    specs.LinuxSeccompOperator
	value uint64
	mask  uint64 // of MASKED_EQ: argument & mask == value
}

// cond writes a condition: on at pass if it holds, at fail if not.
func (b *builder) cond(c cond, wide bool, pass, fail addr) addr {
	low := dataArgs + 8*c.index
	high := low + 4
	vl, vh := uint32(c.value), uint32(c.value>>32)
	ml, mh := uint32(c.mask), uint32(c.mask>>32)

	// What a condition on the low half alone comes to, and, in tie, what is
	// still to be asked if the high halves are equal.
	var tie addr
	switch c.op {
	case specs.OpMaskedEqual:
		tie = b.jump(opEq, vl, pass, fail)
		tie = b.then(tie, opAnd, ml)
	case specs.OpEqualTo:
		tie = b.jump(opEq, vl, pass, fail)
	case specs.OpNotEqual:
		tie = b.jump(opEq, vl, fail, pass)
	case specs.OpGreaterThan:
		tie = b.jump(opGt, vl, pass, fail)
	case specs.OpGreaterEqual:
		tie = b.jump(opGe, vl, pass, fail)
	case specs.OpLessThan:
		tie = b.jump(opGe, vl, fail, pass)
	case specs.OpLessEqual:
		tie = b.jump(opGt, vl, fail, pass)
	}
	tie = b.load(low, tie)
	if !wide {
		return tie
	}

	var at addr
	switch c.op {
	case specs.OpMaskedEqual:
		if mh == 0 {
			return tie
		}
		at = b.jump(opEq, vh, tie, fail)
		at = b.then(at, opAnd, mh)
	case specs.OpEqualTo:
		at = b.jump(opEq, vh, tie, fail)
	case specs.OpNotEqual:
		at = b.jump(opEq, vh, tie, pass)
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		at = b.jump(opEq, vh, tie, fail)
		at = b.jump(opGt, vh, pass, at)
	case specs.OpLessThan, specs.OpLessEqual:
		at = b.jump(opEq, vh, tie, pass)
		at = b.jump(opGt, vh, fail, at)
	}
	return b.load(high, at)
}

// known tells that an operator is one.
func known(op specs.LinuxSeccompOperator) bool {
	switch op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		return true
	}
	return false
}
