package rpc

import (
	"errors"
	"net"
	"time"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// Client calls a server, one call at a time. After an error that is not an [Error] it is of no more use.
type Client struct {
	conn   reader
	stream uint32
}

// NewClient makes a Client of a connection, which is the Client's from now on.
func NewClient(conn net.Conn) *Client { return &Client{conn: reader{Conn: conn}} }

// Close ends the connection.
func (c *Client) Close() { c.conn.Close() }

// Call has a method of a service answer req with resp, both messages of package api, within timeout.
func (c *Client) Call(timeout time.Duration, service, method string, req, resp any) error {
	if err := c.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	c.stream += 2
	stream := c.stream - 1
	b, err := frame(stream, typeRequest, &api.RPCRequest{
		Service: service, Method: method, Payload: api.Marshal(req), TimeoutNano: timeout.Nanoseconds(),
	})
	if err != nil {
		return err
	}
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	h, message, err := c.conn.next()
	if err != nil {
		return err
	}
	if h.stream != stream || h.kind != typeResponse {
		return errors.New("a reply to what was not asked")
	}
	var r api.RPCResponse
	if err := api.Unmarshal(message, &r); err != nil {
		return err
	}
	if r.Status != nil && r.Status.Code != 0 {
		return &Error{Code: r.Status.Code, Message: r.Status.Message}
	}
	return api.Unmarshal(r.Payload, resp)
}
