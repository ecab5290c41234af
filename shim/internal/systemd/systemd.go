// Package systemd makes the cgroup of a process a scope of systemd's, and
// unmakes it: org.freedesktop.systemd1(5).
//
// # Theory of operation
//
// systemd makes no scope without a process, and mini clones none outside its
// cgroup. So the cgroup is made first, where systemd will look for that of the
// scope; the process is born there; and systemd, told of its pid, takes over
// the directory that it finds: nobody is moved. All before the process's gate
// opens.
//
// A shim has one connection to the system bus at most, and only while it asks
// for something: a bus gives one user 256 (dbus-daemon(1),
// max_connections_per_user), and a node may have as many shims. Of systemd's
// signals it asks for those of one unit, so that no other shim's wake it.
//
// github.com/godbus/dbus costs 150 kB of the binary and nothing at start.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// timeout bounds each request: systemd does one thing after the other, and on a
// node that boots there is much to do.
const timeout = 30 * time.Second

const (
	service = "org.freedesktop.systemd1"
	object  = dbus.ObjectPath("/org/freedesktop/systemd1")
	manager = "org.freedesktop.systemd1.Manager"
)

// Errors of systemd's that are answers.
const (
	errUnitExists = service + ".UnitExists"
	errNoSuchUnit = service + ".NoSuchUnit"
)

// one is held while there is a connection.
var one sync.Mutex

// conn is a connection that waits for the jobs of one unit.
type conn struct {
	*dbus.Conn
	ctx     context.Context
	systemd dbus.BusObject
	unit    string
	jobs    chan *dbus.Signal
	direct  bool // there is no bus between, and so nobody to filter signals
}

// do connects, and calls f with the connection.
func do(ctx context.Context, unit string, f func(*conn) error) error {
	one.Lock()
	defer one.Unlock()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := connected(ctx, unit, f)
	if err != nil && ctx.Err() != nil {
		// What it was waiting for then ended as a closed connection.
		err = fmt.Errorf("no answer in time: %w: %w", ctx.Err(), err)
	}
	if err != nil {
		return fmt.Errorf("systemd: %s: %w", unit, err)
	}
	return nil
}

func connected(ctx context.Context, unit string, f func(*conn) error) error {
	c := &conn{ctx: ctx, unit: unit, jobs: make(chan *dbus.Signal, 64)}
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		if bus, err = direct(ctx); err != nil {
			return fmt.Errorf("there is no system bus; connect to systemd itself: %w", err)
		}
		c.direct = true
	case err != nil:
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	defer bus.Close()
	c.Conn, c.systemd = bus, bus.Object(service, object)
	return f(c)
}

// direct connects to systemd without a bus, as systemctl does: a machine need
// not have one.
func direct(ctx context.Context) (*dbus.Conn, error) {
	c, err := dbus.Dial("unix:path=/run/systemd/private", dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := c.Auth(nil); err != nil {
		c.Close()
		return nil, err
	}
	if err := hear(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// hear calls until there is an answer. What systemd reads together with the BEGIN of the authentication stays in
// its buffer until more comes: sd-bus then waits for the socket, and not for what it has. Seen with 257: a first
// call that is sent at once, as it has to be since BEGIN has no answer, is at times not heard without a second.
func hear(ctx context.Context, c *dbus.Conn) error {
	answers := make(chan *dbus.Call, 1)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		call := c.Object(service, object).GoWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0, make(chan *dbus.Call, 1))
		go func() {
			select {
			case answers <- <-call.Done:
			default:
			}
		}()
		select {
		case call := <-answers:
			return call.Err
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// call calls a method of the manager.
func (c *conn) call(method string, ret any, args ...any) error {
	call := c.systemd.CallWithContext(c.ctx, manager+"."+method, 0, args...)
	if call.Err != nil {
		return fmt.Errorf("%s: %w", method, call.Err)
	}
	if ret == nil {
		return nil
	}
	return call.Store(ret)
}

// watch begins to listen to the ends of the unit's jobs.
func (c *conn) watch() error {
	if c.direct {
		c.Signal(c.jobs)
		return c.call("Subscribe", nil)
	}
	err := c.AddMatchSignalContext(c.ctx, dbus.WithMatchObjectPath(object), dbus.WithMatchInterface(manager),
		dbus.WithMatchMember("JobRemoved"), dbus.WithMatchArg(2, c.unit))
	if err != nil {
		return err
	}
	c.Signal(c.jobs)
	return c.call("Subscribe", nil) // systemd sends nothing as long as nobody listens
}

// job calls a method that begins a job, and waits for the job's end.
func (c *conn) job(method string, args ...any) error {
	var path dbus.ObjectPath
	if err := c.call(method, &path, args...); err != nil {
		return err
	}
	for {
		select {
		case s, open := <-c.jobs:
			if !open {
				return errors.New(method + ": the bus has closed the connection")
			}
			var id uint32
			var job dbus.ObjectPath
			var unit, result string
			if s.Name != manager+".JobRemoved" || dbus.Store(s.Body, &id, &job, &unit, &result) != nil || job != path {
				continue
			}
			if result != "done" {
				return fmt.Errorf("%s: the job ended as %q: see journalctl -u %s", method, result, c.unit)
			}
			return nil
		case <-c.ctx.Done():
			return errors.New(method + ": the job does not end")
		}
	}
}

func is(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// property is one of a unit, in the form that systemd takes.
type property struct {
	Name  string
	Value dbus.Variant
}

func convert(all []program.Property) ([]property, error) {
	out := make([]property, 0, len(all)+1)
	for _, p := range all {
		if p.Value != nil {
			out = append(out, property{p.Name, dbus.MakeVariant(p.Value)})
			continue
		}
		v, err := parseText(p.Text)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: not a value in GVariant's text format: %w", p.Field, p.Text, err)
		}
		if out, err = appendText(out, p, v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendText knows that systemd's manual writes TimeoutStopSec where its bus
// has TimeoutStopUSec.
func appendText(out []property, p program.Property, v dbus.Variant) ([]property, error) {
	name, inSeconds := strings.CutSuffix(p.Name, "Sec")
	if !inSeconds || name == "" || strings.HasSuffix(name, "U") {
		return append(out, property{p.Name, v}), nil
	}
	const second = 1_000_000
	var usec uint64
	switch n := v.Value().(type) {
	case byte:
		usec = uint64(n) * second
	case int16:
		usec = uint64(n) * second
	case uint16:
		usec = uint64(n) * second
	case int32:
		usec = uint64(n) * second
	case uint32:
		usec = uint64(n) * second
	case int64:
		usec = uint64(n) * second
	case uint64:
		usec = n * second
	case float64:
		usec = uint64(n * second)
	default:
		return nil, fmt.Errorf("%s: %q: not a number", p.Field, p.Text)
	}
	return append(out, property{name + "USec", dbus.MakeVariant(usec)}), nil
}

// Booted tells whether there is a systemd that could manage cgroups: sd_booted(3).
func Booted() error {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return errors.New("systemd: this machine was not booted by it")
	}
	return nil
}

// EnsureSlice has systemd start a slice, so that its cgroup is there, and is
// systemd's.
func EnsureSlice(ctx context.Context, slice string) error {
	return do(ctx, slice, func(c *conn) error {
		if err := c.watch(); err != nil {
			return err
		}
		return c.job("StartUnit", slice, "fail")
	})
}

// Start makes a scope of the process pid, which is already where the scope's
// cgroup is going to be.
func Start(ctx context.Context, s *program.Scope, pid int) error {
	properties, err := convert(s.Properties)
	if err != nil {
		return err
	}
	properties = append(properties, property{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})})
	return do(ctx, s.Unit, func(c *conn) error {
		if err := c.watch(); err != nil {
			return err
		}
		start := func() error {
			return c.job("StartTransientUnit", s.Unit, "fail", properties, []struct {
				Name       string
				Properties []property
			}{})
		}
		err := start()
		if is(err, errUnitExists) && c.call("ResetFailedUnit", nil, s.Unit) == nil {
			// One that had failed was kept for people to look at.
			err = start()
		}
		return err
	})
}

// Set changes properties until the unit ends: all or none.
func Set(ctx context.Context, unit string, all []program.Property) error {
	properties, err := convert(all)
	if err != nil || len(properties) == 0 {
		return err
	}
	return do(ctx, unit, func(c *conn) error {
		return c.call("SetUnitProperties", nil, unit, true, properties)
	})
}

// Stop ends a unit, and returns when systemd has let go of it. One that is not
// there any more is no error: systemd notices by itself when a scope has become
// empty.
func Stop(ctx context.Context, unit string) error {
	return do(ctx, unit, func(c *conn) error {
		if err := c.watch(); err != nil {
			return err
		}
		err := c.job("StopUnit", unit, "replace")
		if is(err, errNoSuchUnit) {
			return nil
		}
		return err
	})
}
