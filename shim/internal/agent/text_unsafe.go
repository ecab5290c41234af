package agent

import (
	"bytes"
	"errors"
	"unsafe"
)

// machineCode copies agent out of this program's text. The linker keeps
// maxText bytes behind agent readable: text is followed by more text.
func machineCode() ([]byte, error) {
	p := text()
	mem := unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), maxText)
	n := bytes.Index(mem, []byte(marker))
	if n < 0 {
		return nil, errors.New("bug: the agent's code has no end")
	}
	return bytes.Clone(mem[:n]), nil
}
