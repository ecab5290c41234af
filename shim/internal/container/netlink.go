package container

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A few requests of rtnetlink(7), by a socket that belongs to one network namespace
// for good, whoever uses it.

// netns is a network namespace, with such a socket.
type netns struct {
	fd   int // the namespace
	sock int
	seq  uint32
}

// openNetns takes over the namespace's descriptor. A socket belongs to the namespace
// of the thread that makes it: network_namespaces(7).
func openNetns(fd int) (*netns, error) {
	n := &netns{fd: fd, sock: -1}
	runtime.LockOSThread()
	own, err := openNamespace("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, errors.Join(err, n.close())
	}
	defer unix.Close(own)
	//nolint:forbidigo // the thread is locked, and set back below
	if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
		n.sock, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	}
	//nolint:forbidigo // sets the locked thread back
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		// Locked it dies with its goroutine: no other may run on it.
		return nil, errors.Join(err, fmt.Errorf("leave network namespace: %w", back), n.close())
	}
	runtime.UnlockOSThread()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network namespace: %w", err), n.close())
	}
	return n, nil
}

func (n *netns) close() error {
	if n.sock >= 0 {
		unix.Close(n.sock)
	}
	return unix.Close(n.fd)
}

var native = binary.NativeEndian

// attribute is struct rtattr with its payload, padded: rtnetlink(3).
func attribute(kind uint16, payload []byte) []byte {
	b := native.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(payload)))
	b = native.AppendUint16(b, kind)
	b = append(b, payload...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// attributes are those behind the header of a message's payload.
func attributes(b []byte) map[uint16][]byte {
	out := map[uint16][]byte{}
	for len(b) >= unix.SizeofRtAttr {
		size := int(native.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		out[native.Uint16(b[2:])&^unix.NLA_F_NESTED] = b[unix.SizeofRtAttr:size]
		b = b[min((size+3)&^3, len(b)):]
	}
	return out
}

// request sends one and calls each with the payload of every answer of that kind.
func (n *netns) request(kind, flags uint16, payload []byte, each func(payload []byte)) error {
	n.seq++
	msg := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	msg = native.AppendUint16(msg, kind)
	msg = native.AppendUint16(msg, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = native.AppendUint32(msg, n.seq)
	msg = append(native.AppendUint32(msg, 0), payload...)
	if err := unix.Sendto(n.sock, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	buf := make([]byte, 64<<10)
	for {
		got, _, err := unix.Recvfrom(n.sock, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		if done, err := n.answers(buf[:got], each); done || err != nil {
			return err
		}
	}
}

// answers reads the messages of one datagram, until the end of the request.
func (n *netns) answers(b []byte, each func([]byte)) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(native.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return true, errors.New("netlink: a message that is cut off")
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch kind := native.Uint16(b[4:]); {
		case native.Uint32(b[8:]) != n.seq:
			// Of an earlier request.
		case kind == unix.NLMSG_ERROR && len(body) >= 4:
			if errno := -int32(native.Uint32(body)); errno != 0 {
				return true, unix.Errno(errno)
			}
			return true, nil
		case kind == unix.NLMSG_DONE:
			return true, nil
		case each != nil:
			each(body)
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return false, nil
}

// link is a network device.
type link struct {
	index int32
	name  string
	up    bool
}

// linkMessage is struct ifinfomsg.
func linkMessage(index int32, flags, change uint32) []byte {
	b := native.AppendUint32(nil, unix.AF_UNSPEC)
	b = native.AppendUint32(b, uint32(index))
	b = native.AppendUint32(b, flags)
	return native.AppendUint32(b, change)
}

func (n *netns) links() (map[int32]link, error) {
	out := map[int32]link{}
	err := n.request(unix.RTM_GETLINK, unix.NLM_F_DUMP, linkMessage(0, 0, 0), func(b []byte) {
		if len(b) < unix.SizeofIfInfomsg {
			return
		}
		l := link{index: int32(native.Uint32(b[4:])), up: native.Uint32(b[8:])&unix.IFF_UP != 0}
		l.name = strings.TrimRight(string(attributes(b[unix.SizeofIfInfomsg:])[unix.IFLA_IFNAME]), "\x00")
		out[l.index] = l
	})
	return out, err
}

func (n *netns) link(name string) (link, bool, error) {
	all, err := n.links()
	for _, l := range all {
		if l.name == name {
			return l, true, err
		}
	}
	return link{}, false, err
}

// addresses are the messages that would give a device its addresses again: those
// that are permanent and of global scope.
func (n *netns) addresses(index int32) ([][]byte, error) {
	var out [][]byte
	err := n.request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) {
		// struct ifaddrmsg: family, prefix length, flags, scope, index.
		if len(b) < unix.SizeofIfAddrmsg || int32(native.Uint32(b[4:])) != index || b[3] != unix.RT_SCOPE_UNIVERSE {
			return
		}
		attrs := attributes(b[unix.SizeofIfAddrmsg:])
		flags := uint32(b[2])
		if f, ok := attrs[unix.IFA_FLAGS]; ok && len(f) >= 4 {
			flags = native.Uint32(f)
		}
		if flags&unix.IFA_F_PERMANENT == 0 {
			return
		}
		msg := append([]byte{}, b[:unix.SizeofIfAddrmsg]...)
		for _, kind := range []uint16{unix.IFA_ADDRESS, unix.IFA_LOCAL, unix.IFA_BROADCAST} {
			if a, ok := attrs[kind]; ok {
				msg = append(msg, attribute(kind, a)...)
			}
		}
		out = append(out, msg)
	})
	return out, err
}
