package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/containerd-mini/mini/shim/internal/api"
)

const (
	headerSize = 10
	// maxMessage is ttrpc's: 4 MB.
	maxMessage = 4 << 20

	typeRequest  = 1
	typeResponse = 2
	typeData     = 3
)

// header begins a frame.
type header struct {
	size   uint32
	stream uint32
	kind   uint8
}

var errTooLong = fmt.Errorf("a message of more than %d bytes", maxMessage)

// reader reads frames. While it waits for one it has no buffer: most connections never get another.
type reader struct {
	net.Conn
	head [headerSize]byte
}

// next returns the next frame. After errTooLong there may be one more.
func (r *reader) next() (h header, message []byte, err error) {
	if _, err := io.ReadFull(r.Conn, r.head[:]); err != nil {
		return header{}, nil, err
	}
	h = header{
		size: binary.BigEndian.Uint32(r.head[:]), stream: binary.BigEndian.Uint32(r.head[4:]), kind: r.head[8],
	}
	if h.size > maxMessage {
		if _, err := io.CopyN(io.Discard, r.Conn, int64(h.size)); err != nil {
			return header{}, nil, err
		}
		return h, nil, errTooLong
	}
	message = make([]byte, h.size)
	_, err = io.ReadFull(r.Conn, message)
	return h, message, err
}

// frame is m, a message of package api, behind its header.
func frame(stream uint32, kind uint8, m any) ([]byte, error) {
	b := api.Append(make([]byte, headerSize, 128), m)
	size := len(b) - headerSize
	if size > maxMessage {
		return nil, errTooLong
	}
	binary.BigEndian.PutUint32(b, uint32(size))
	binary.BigEndian.PutUint32(b[4:], stream)
	b[8] = kind
	return b, nil
}

// Error is what a server says of a call that failed: a google.rpc.Code, and a text.
type Error struct {
	Code    int32
	Message string
}

func (e *Error) Error() string { return e.Message }

// Codes of google/rpc/code.proto.
const (
	InvalidArgument   = 3
	ResourceExhausted = 8
	Unimplemented     = 12
	Internal          = 13
	unknown           = 2
)

func asError(err error, code func(error) int32) *api.RPCStatus {
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return &api.RPCStatus{Code: e.Code, Message: e.Message}
	case code == nil:
		return &api.RPCStatus{Code: unknown, Message: err.Error()}
	}
	return &api.RPCStatus{Code: code(err), Message: err.Error()}
}
