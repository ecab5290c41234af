package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// Method answers a request with a reply, both of them encoded. The context ends with the connection, or when the
// client does not wait any longer.
type Method func(ctx context.Context, request []byte) (reply []byte, err error)

// Server answers calls. A call has a goroutine while it lasts, a connection has one.
type Server struct {
	// Services have all the same Methods.
	Services map[string]bool
	Methods  map[string]Method
	// Code tells which google.rpc.Code an error is.
	Code func(error) int32

	mu    sync.Mutex
	calls int
	idle  chan struct{} // closed with the end of the last call, not nil if somebody waits for it
}

// acceptPause is how long to wait for descriptors or memory to become free.
const acceptPause = 50 * time.Millisecond

// Serve answers those who connect to l, until l is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			go s.serve(c)
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE),
			errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
			time.Sleep(acceptPause)
		case errors.Is(err, syscall.ECONNABORTED): // it is gone again: accept(2)
		default:
			return err
		}
	}
}

// Finish waits until calls have their replies, and no longer than timeout.
func (s *Server) Finish(timeout time.Duration) {
	s.mu.Lock()
	if s.calls == 0 {
		s.mu.Unlock()
		return
	}
	if s.idle == nil {
		s.idle = make(chan struct{})
	}
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(timeout):
	}
}

func (s *Server) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls += n
	if s.calls == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// connection is one with a client.
type connection struct {
	reader
	server *Server
	last   uint32 // stream
	mu     sync.Mutex
}

func (s *Server) serve(conn net.Conn) {
	c := &connection{reader: reader{Conn: conn}, server: s}
	defer c.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		h, message, err := c.next()
		switch {
		case errors.Is(err, errTooLong):
			c.refuse(h.stream, ResourceExhausted, err.Error())
		case err != nil:
			return
		case h.stream%2 != 1:
			c.refuse(h.stream, InvalidArgument, "a client's streams have odd numbers")
		case h.kind == typeData:
			c.refuse(h.stream, InvalidArgument, "no such stream")
		case h.kind != typeRequest: // of a later version
		case h.stream <= c.last:
			c.refuse(h.stream, InvalidArgument, "streams are numbered upwards")
		default:
			c.last = h.stream
			s.count(1)
			go c.answer(ctx, h.stream, message)
		}
	}
}

// answer answers a request. All that needs a stack is done here: that of a connection's goroutine stays small.
func (c *connection) answer(ctx context.Context, stream uint32, message []byte) {
	defer c.server.count(-1)
	var r api.RPCRequest
	if err := api.Unmarshal(message, &r); err != nil {
		c.refuse(stream, InvalidArgument, "request: "+err.Error())
		return
	}
	method := c.server.Methods[r.Method]
	switch {
	case !c.server.Services[r.Service]:
		c.refuse(stream, Unimplemented, "service "+r.Service)
		return
	case method == nil:
		c.refuse(stream, Unimplemented, "method "+r.Method)
		return
	}
	if r.TimeoutNano != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.TimeoutNano))
		defer cancel()
	}
	reply, err := method.call(ctx, r.Payload)
	c.reply(stream, reply, err)
}

// call calls a method. A fault of ours that one container has met is no reason to end the shim, and with it all
// others: whoever asked is told, with the stack.
func (m Method) call(ctx context.Context, request []byte) (reply []byte, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = &Error{Code: Internal, Message: fmt.Sprintf("panic: %v\n%s", fault, debug.Stack())}
		}
	}()
	return m(ctx, request)
}

func (c *connection) refuse(stream uint32, code int32, message string) {
	c.reply(stream, nil, &Error{Code: code, Message: message})
}

func (c *connection) reply(stream uint32, payload []byte, err error) {
	b, ferr := frame(stream, typeResponse, &api.RPCResponse{Status: asError(err, c.server.Code), Payload: payload})
	if ferr != nil {
		c.refuse(stream, ResourceExhausted, fmt.Sprintf("reply: %v", ferr))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.Write(b); err != nil {
		c.Close() // its reader finds out
	}
}
