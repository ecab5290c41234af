package program

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Layout of an image in the agent's memory; agent/layout.h says the same.
const (
	Base     = 0x10000000 // where the image is, in the agent
	MaxImage = 0x1000000  // bytes

	slotsAt = 64
	opsAt   = 512
	opSize  = 64
	argsAt  = 16
	flagEOF = 1 << 6
	// flagRetry tries a call again that says EAGAIN, some thousand times in
	// a Program.
	flagRetry = 1 << 7
	numSlots  = (opsAt-slotsAt)/8 - 1 // the last counts retries
)

// Encode lays the Program out for the agent: a header with the slots, the ops,
// then the memory that their pointers point to. It fails on a Program that is
// not valid, on a string with a NUL in it, and if strings and filters exceed
// MaxImage. The image is the Program's, see Free.
func (p *Program) Encode() ([]byte, error) {
	if len(p.Ops) > MaxOps {
		return nil, fmt.Errorf("mounts, devices and masked paths take %d system calls, at most %d", len(p.Ops), MaxOps)
	}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("bug: %w", err)
	}
	for _, op := range p.Ops {
		for _, a := range op.Args {
			if a.hasNUL() {
				return nil, fmt.Errorf("%s: %s contains NUL", op.Step, a)
			}
		}
	}
	e := encoder{buf: p.image(opsAt + opSize*len(p.Ops))}
	for s, v := range p.Preset {
		binary.LittleEndian.PutUint64(e.buf[slotOffset(s):], v)
	}
	for i := range p.Ops {
		e.op(opsAt+opSize*i, &p.Ops[i])
	}
	if len(e.buf) > MaxImage {
		return nil, fmt.Errorf("process: arguments, environment and filters take %d bytes, at most %d", len(e.buf), MaxImage)
	}
	binary.LittleEndian.PutUint64(e.buf, uint64(len(e.buf)))
	if p.memory != nil {
		p.memory.image = e.buf
	}
	return e.buf, nil
}

// image is n bytes of nothing, with room for what pointers will point to.
func (p *Program) image(n int) []byte {
	const strings = 6 << 10 // of a container
	if p.memory == nil || cap(p.memory.image) < n {
		return make([]byte, n, n+strings)
	}
	image := p.memory.image[:n]
	clear(image)
	return image
}

type encoder struct {
	buf     []byte
	buffers map[*Buffer]uint64 // where they are
}

func slotOffset(s Slot) int { return slotsAt + 8*int(s) }

func (e *encoder) op(at int, o *Op) {
	flags := uint16(0)
	if o.EOF {
		flags |= flagEOF
	}
	if o.Nr == unix.SYS_OPENAT2 {
		// Where a rename or a mount, anywhere, comes between, the kernel
		// cannot tell where ".." leads: openat2(2).
		flags |= flagRetry
	}
	for i, a := range o.Args {
		if a.kind == argSlot || a.kind == argLoad {
			flags |= 1 << i
		}
		v := e.arg(a)
		binary.LittleEndian.PutUint64(e.buf[at+argsAt+8*i:], v)
	}
	b := e.buf[at:]
	binary.LittleEndian.PutUint16(b[0:], uint16(o.Nr))
	binary.LittleEndian.PutUint16(b[2:], flags)
	if o.Out != 0 {
		binary.LittleEndian.PutUint32(b[4:], uint32(slotOffset(o.Out)))
	}
	binary.LittleEndian.PutUint16(b[8:], uint16(o.Then))
	binary.LittleEndian.PutUint16(b[10:], uint16(o.Else))
	for i, errno := range o.Answers {
		b[12+i] = byte(errno)
	}
}

// arg returns the word that stands for a, after laying out what it points to.
func (e *encoder) arg(a Arg) uint64 {
	switch a.kind {
	case argSlot, argAddr:
		return Base + uint64(slotOffset(a.slot))
	case argData:
		return e.data(a.at.data)
	case argStr:
		return e.text(a.text)
	case argPtrs:
		words := make([]uint64, len(a.at.strs)+1)
		for i, s := range a.at.strs {
			words[i] = e.text(s)
		}
		return e.words(words)
	case argBuf:
		return e.buffer(a.at.buf)
	case argLoad:
		return e.buffer(a.at.buf) + a.value
	case argVec:
		words := make([]uint64, len(a.at.vec))
		for i, w := range a.at.vec {
			words[i] = e.arg(w)
		}
		return e.words(words)
	default:
		return a.value
	}
}

func (e *encoder) buffer(b *Buffer) uint64 {
	at, ok := e.buffers[b]
	if !ok {
		at = e.data(make([]byte, b.Size))
		if e.buffers == nil {
			e.buffers = map[*Buffer]uint64{}
		}
		e.buffers[b] = at
	}
	return at
}

// data appends b, aligned as any struct of the kernel's interface wants it.
func (e *encoder) data(b []byte) uint64 {
	e.align()
	at := len(e.buf)
	e.buf = append(e.buf, b...)
	return Base + uint64(at)
}

// text appends s and the NUL that ends it.
func (e *encoder) text(s string) uint64 {
	e.align()
	at := len(e.buf)
	e.buf = append(append(e.buf, s...), 0)
	return Base + uint64(at)
}

func (e *encoder) words(words []uint64) uint64 {
	e.align()
	at := len(e.buf)
	for _, w := range words {
		e.buf = binary.LittleEndian.AppendUint64(e.buf, w)
	}
	return Base + uint64(at)
}

var padding [8]byte

func (e *encoder) align() {
	e.buf = append(e.buf, padding[:-len(e.buf)&7]...)
}
