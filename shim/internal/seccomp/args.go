package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// cond is a condition on one argument.
type cond struct {
	index uint32
	op    specs.LinuxSeccompOperator
	value uint64
	mask  uint64 // of MASKED_EQ: argument & mask == value
}

// rules writes a list: the first rule that holds ends with its action, and if
// none does, it goes on at otherwise.
func (b *builder) rules(list []rule, wide bool, otherwise addr) addr {
	for n := len(list); n > 0; {
		first := n - 1
		for first > 0 && alike(list[first-1], list[first], wide) {
			first--
		}
		if n-first > 1 {
			otherwise = b.anyOf(list[first:n], wide, otherwise)
		} else {
			otherwise = b.rule(list[first], wide, otherwise)
		}
		n = first
	}
	return otherwise
}

func (b *builder) rule(r rule, wide bool, otherwise addr) addr {
	at := b.ret(r.action)
	for _, c := range slices.Backward(r.conds) {
		at = b.cond(c, wide, at, otherwise)
	}
	return at
}

// alike tells that two rules ask the same argument for a value, and differ but
// in its low half.
func alike(a, b rule, wide bool) bool {
	if len(a.conds) != 1 || len(b.conds) != 1 || a.action != b.action {
		return false
	}
	x, y := a.conds[0], b.conds[0]
	return x.op == specs.OpEqualTo && y.op == x.op && x.index == y.index && (!wide || x.value>>32 == y.value>>32)
}

// anyOf writes rules that are alike: the argument is loaded once.
func (b *builder) anyOf(list []rule, wide bool, otherwise addr) addr {
	c := list[0].conds[0]
	pass, at := b.ret(list[0].action), otherwise
	for _, r := range slices.Backward(list) {
		at = b.jump(opEq, uint32(r.conds[0].value), pass, at)
	}
	at = b.load(dataArgs+8*c.index, at)
	if wide {
		at = b.jump(opEq, uint32(c.value>>32), at, otherwise)
		at = b.load(dataArgs+8*c.index+4, at)
	}
	return at
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
