package shim

import (
	"bytes"
	"errors"
	"net"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/rpc"
)

const (
	forwardTimeout = 5 * time.Second
	firstBackoff   = 50 * time.Millisecond
	lastBackoff    = 5 * time.Second
)

// publisher sends events to containerd, in the order in which they happened.
// It is the only one, and has one queue. While containerd is away events wait.
type publisher struct {
	address   string // containerd's ttrpc socket
	namespace string

	wake chan struct{} // capacity 1
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	queue []*api.Envelope
}

func newPublisher(address, namespace string) *publisher {
	p := &publisher{
		address: address, namespace: namespace,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	go p.run()
	return p
}

// send queues an event, a pointer to one of package api's. It never waits.
func (p *publisher) send(topic string, event any) {
	// As containerd's typeurl names a message: by its name alone.
	name := "containerd.events." + reflect.TypeOf(event).Elem().Name()
	data := &api.Any{TypeURL: name, Value: api.Marshal(event)}
	p.mu.Lock()
	if topic == topicOOM && p.waits(data) {
		p.mu.Unlock()
		return
	}
	p.queue = append(p.queue, &api.Envelope{
		Timestamp: api.Time(time.Now()), Namespace: p.namespace, Topic: topic, Event: data,
	})
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// topicOOM is the only one that a container can have told without end.
const topicOOM = "/tasks/oom"

// waits tells whether the same is queued already and not being sent: while containerd is away a container that is
// killed for want of memory again and again must not fill ours. Precondition: mu is held.
func (p *publisher) waits(data *api.Any) bool {
	for i := len(p.queue) - 1; i > 0; i-- {
		e := p.queue[i]
		if e.Topic == topicOOM && bytes.Equal(e.Event.Value, data.Value) {
			return true
		}
	}
	return false
}

// close sends what is queued, as long as timeout allows, and ends.
func (p *publisher) close(timeout time.Duration) {
	close(p.stop)
	select {
	case <-p.done:
	case <-time.After(timeout):
	}
}

func (p *publisher) run() {
	defer close(p.done)
	var client *rpc.Client
	for {
		if !p.wait() {
			return
		}
		backoff := firstBackoff
		for e := p.first(); e != nil; e = p.first() {
			err := p.forward(&client, e)
			var refused *rpc.Error
			if errors.As(err, &refused) && refused.Code == rpc.InvalidArgument {
				// It will never be taken, and those behind it wait.
				warn(".", "event dropped: containerd refuses it", "topic", e.Topic, "error", err)
				err = nil
			}
			if err == nil {
				p.drop()
				backoff = firstBackoff
				continue
			}
			if client != nil {
				client.Close()
				client = nil
			}
			// containerd is restarting. Nothing is dropped.
			time.Sleep(backoff)
			backoff = min(2*backoff, lastBackoff)
		}
	}
}

// wait returns false when there is nothing left to send, ever.
func (p *publisher) wait() bool {
	select {
	case <-p.wake:
		return true
	default:
	}
	select {
	case <-p.wake:
		return true
	case <-p.stop:
		return p.first() != nil
	}
}

func (p *publisher) first() *api.Envelope {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil
	}
	return p.queue[0]
}

func (p *publisher) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = p.queue[1:]
}

func (p *publisher) forward(client **rpc.Client, e *api.Envelope) error {
	if *client == nil {
		conn, err := net.DialTimeout("unix", strings.TrimPrefix(p.address, "unix://"), forwardTimeout)
		if err != nil {
			return err
		}
		*client = rpc.NewClient(conn)
	}
	return (*client).Call(forwardTimeout, "containerd.services.events.ttrpc.v1.Events", "Forward",
		&api.ForwardRequest{Envelope: e}, &api.Empty{})
}
