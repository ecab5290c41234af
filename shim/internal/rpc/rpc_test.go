package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// patience bounds what happens at once.
const patience = 30 * time.Second

// testServer echoes, fails, and waits.
func testServer(t testing.TB) (s *Server, path string, waiting, waited chan error) {
	waiting, waited = make(chan error, 1), make(chan error, 1)
	s = &Server{
		Services: map[string]bool{"test": true},
		Methods: map[string]Method{
			"Echo":   func(_ context.Context, b []byte) ([]byte, error) { return b, nil },
			"Double": func(_ context.Context, b []byte) ([]byte, error) { return append(b, b...), nil },
			"Fail":   func(context.Context, []byte) ([]byte, error) { return nil, errors.New("it fails") },
			"Panic":  func(context.Context, []byte) ([]byte, error) { panic("a fault") },
			"Wait": func(ctx context.Context, b []byte) ([]byte, error) {
				waiting <- nil
				<-ctx.Done()
				waited <- ctx.Err()
				return b, ctx.Err()
			},
		},
		Code: func(error) int32 { return int32(codes.NotFound) },
	}
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-served; !errors.Is(err, net.ErrClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return s, path, waiting, waited
}

func connect(t testing.TB, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestServer answers the client of containerd's package.
func TestServer(t *testing.T) {
	_, path, waiting, waited := testServer(t)
	conn := connect(t, path)
	client := ttrpc.NewClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			want := strings.Repeat("x", i*i*i) // to 118 kB
			var got wrapperspb.StringValue
			err := client.Call(ctx, "test", "Echo", wrapperspb.String(want), &got)
			if err != nil || got.Value != want {
				t.Errorf("%d bytes came back as %d: %v", len(want), len(got.Value), err)
			}
		})
	}
	group.Wait()

	for _, c := range []struct {
		service, method string
		code            codes.Code
	}{
		{"test", "Fail", codes.NotFound},
		{"test", "Panic", codes.Internal},
		{"test", "None", codes.Unimplemented},
		{"none", "Echo", codes.Unimplemented},
	} {
		err := client.Call(ctx, c.service, c.method, wrapperspb.String("a"), &wrapperspb.StringValue{})
		if status.Code(err) != c.code {
			t.Errorf("%s.%s: %v, want %s", c.service, c.method, err, c.code)
		}
	}

	// The client's patience is the method's, and so is the client's end.
	short, cancelShort := context.WithTimeout(ctx, time.Millisecond)
	defer cancelShort()
	_ = client.Call(short, "test", "Wait", wrapperspb.String("a"), &wrapperspb.StringValue{})
	select {
	case err := <-waited:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		<-waiting
	case <-ctx.Done():
		t.Fatal("a method outlives its deadline")
	}
	go func() {
		_ = client.Call(context.Background(), "test", "Wait", wrapperspb.String("a"), &wrapperspb.StringValue{})
	}()
	select {
	case <-waiting:
	case <-ctx.Done():
		t.Fatal("a call did not arrive")
	}
	conn.Close()
	select {
	case err := <-waited:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the end of the connection", err)
		}
	case <-ctx.Done():
		t.Fatal("a method outlives its client")
	}
}

// service is one of containerd's package.
type service struct{}

func (service) Echo(_ context.Context, unmarshal func(any) error) (any, error) {
	var s wrapperspb.StringValue
	if err := unmarshal(&s); err != nil {
		return nil, err
	}
	if s.Value == "fail" {
		return nil, status.Error(codes.NotFound, "it fails")
	}
	return &s, nil
}

// text is wrapperspb.StringValue.
type text struct {
	Value string `pb:"1"`
}

// TestClient calls the server of containerd's package.
func TestClient(t *testing.T) {
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	srv.RegisterService("test", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{"Echo": service{}.Echo}})
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(context.Background(), l) }()
	t.Cleanup(func() { srv.Close() })
	c := NewClient(connect(t, path))
	for i := range 50 {
		want, got := text{strings.Repeat("x", i*i)}, text{}
		if err := c.Call(patience, "test", "Echo", &want, &got); err != nil || got != want {
			t.Fatalf("%d bytes came back as %d: %v", len(want.Value), len(got.Value), err)
		}
	}
	var e *Error
	if err := c.Call(patience, "test", "Echo", &text{"fail"}, &text{}); !errors.As(err, &e) || e.Code != int32(codes.NotFound) {
		t.Errorf("%v, want NotFound", err)
	}
	if err := c.Call(patience, "test", "None", &text{}, &text{}); !errors.As(err, &e) || e.Code != int32(codes.Unimplemented) {
		t.Errorf("%v, want Unimplemented", err)
	}
	srv.Close()
	if err := c.Call(patience, "test", "Echo", &text{"a"}, &text{}); err == nil || errors.As(err, new(*Error)) {
		t.Errorf("a server that has ended answers %v", err)
	}
}

func request(stream uint32, kind uint8, method, value string) []byte {
	b, err := frame(stream, kind, &api.RPCRequest{Service: "test", Method: method, Payload: api.Marshal(&text{value})})
	if err != nil {
		panic(err)
	}
	return b
}

// TestFrames sends what a client of containerd's package never would.
func TestFrames(t *testing.T) {
	long := make([]byte, headerSize+maxMessage+1)
	binary.BigEndian.PutUint32(long, maxMessage+1)
	binary.BigEndian.PutUint32(long[4:], 21)
	long[8] = typeRequest
	malformed := []byte{0, 0, 0, 1, 0, 0, 0, 23, typeRequest, 0, 0xff}

	_, path, _, _ := testServer(t)
	c := reader{Conn: connect(t, path)}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		what   string
		frame  []byte
		stream uint32
		code   codes.Code
	}{
		{"a request", request(3, typeRequest, "Echo", "a"), 3, codes.OK},
		{"an even number", request(4, typeRequest, "Echo", "a"), 4, codes.InvalidArgument},
		{"a number again", request(3, typeRequest, "Echo", "a"), 3, codes.InvalidArgument},
		{"data", request(3, typeData, "Echo", "a"), 3, codes.InvalidArgument},
		{"an unknown type, then a request", append(request(5, 77, "Echo", "a"), request(7, typeRequest, "Echo", "b")...), 7, codes.OK},
		{"more than 4 MB", long, 21, codes.ResourceExhausted},
		{"no request", malformed, 23, codes.InvalidArgument},
		{"almost 4 MB", request(25, typeRequest, "Echo", strings.Repeat("x", maxMessage-100)), 25, codes.OK},
		{"a reply of more than 4 MB", request(27, typeRequest, "Double", strings.Repeat("x", maxMessage/2)), 27, codes.ResourceExhausted},
		{"a request after all that", request(29, typeRequest, "Echo", "a"), 29, codes.OK},
	} {
		if _, err := c.Write(f.frame); err != nil {
			t.Fatalf("%s: %v", f.what, err)
		}
		h, message, err := c.next()
		var r api.RPCResponse
		if err == nil {
			err = api.Unmarshal(message, &r)
		}
		if err != nil {
			t.Fatalf("%s: %v", f.what, err)
		}
		code := codes.OK
		if r.Status != nil {
			code = codes.Code(r.Status.Code)
		}
		if h.stream != f.stream || h.kind != typeResponse || code != f.code {
			t.Errorf("%s: stream %d, type %d, %s", f.what, h.stream, h.kind, code)
		}
	}
}

// TestFinish waits for replies, and for no longer than it may.
func TestFinish(t *testing.T) {
	release := make(chan struct{})
	begun := make(chan struct{})
	s := &Server{Services: map[string]bool{"test": true}, Methods: map[string]Method{
		"Wait": func(context.Context, []byte) ([]byte, error) {
			close(begun)
			<-release
			return nil, nil
		},
	}}
	s.Finish(patience) // of no call
	ours, theirs := net.Pipe()
	go s.serve(theirs)
	if _, err := ours.Write(request(1, typeRequest, "Wait", "")); err != nil {
		t.Fatal(err)
	}
	<-begun
	s.Finish(time.Millisecond)
	finished := make(chan struct{})
	go func() {
		s.Finish(patience)
		close(finished)
	}()
	close(release)
	select {
	case <-finished:
		t.Error("finished before anybody has read the reply") // a pipe has no buffer
	case <-time.After(10 * time.Millisecond):
	}
	c := reader{Conn: ours}
	if h, _, err := c.next(); err != nil || h.stream != 1 {
		t.Errorf("stream %d: %v", h.stream, err)
	}
	select {
	case <-finished:
	case <-time.After(patience):
		t.Error("all have their replies, and it waits")
	}
	ours.Close()
}

// FuzzServer: whatever a client sends, the server reads it to its end, and what it says is frames.
func FuzzServer(f *testing.F) {
	f.Add(request(1, typeRequest, "Echo", "a"))
	f.Add(append(request(1, typeRequest, "Fail", "a"), request(2, typeData, "", "b")...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Server{Services: map[string]bool{"test": true}, Methods: map[string]Method{
			"Echo": func(_ context.Context, b []byte) ([]byte, error) { return b, nil },
			"Fail": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("it fails") },
		}}
		server, client := net.Pipe()
		ended := make(chan struct{})
		go func() {
			s.serve(server)
			close(ended)
		}()
		go func() {
			_, _ = io.Copy(client, bytes.NewReader(b))
			s.Finish(patience)
			client.Close()
		}()
		for c := (reader{Conn: client}); ; {
			h, message, err := c.next()
			if err != nil {
				break
			}
			var r api.RPCResponse
			if err := api.Unmarshal(message, &r); err != nil || h.kind != typeResponse {
				t.Errorf("type %d: %v", h.kind, err)
			}
		}
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the server waits for what will not come")
		}
	})
}
