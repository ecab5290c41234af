package container

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// netDevices are the network devices of a spec on their way into the container:
// runtime-spec config-linux.md#network-devices. When its namespace ends those that
// are real come back by themselves, and the others end with it. So it is held until
// the container has been made, for them to be brought back if it cannot.
type netDevices struct{ host, inside *netns }

func (n *netDevices) close() {
	for _, ns := range []*netns{n.host, n.inside} {
		if ns != nil {
			ns.close()
		}
	}
}

// move moves them into the network namespace of the process.
func (n *netDevices) move(pid int, devices []program.NetDevice, undo *cleanup) (err error) {
	if len(devices) == 0 {
		return nil
	}
	if n.host, err = netnsAt("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if n.inside, err = netnsAt(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
		return err
	}
	for _, d := range devices {
		if err := n.moveIn(d, undo); err != nil {
			return fmt.Errorf("linux.netDevices[%s]: %w", d.Name, err)
		}
	}
	return nil
}

func netnsAt(path string) (*netns, error) {
	fd, err := openNamespace(path)
	if err != nil {
		return nil, err
	}
	return openNetns(fd)
}

func (n *netDevices) moveIn(d program.NetDevice, undo *cleanup) error {
	dev, ok, err := n.host.link(d.Name)
	if err != nil {
		return err
	}
	if !ok {
		return unix.ENODEV
	}
	if _, taken, err := n.inside.link(d.NewName); err != nil || taken {
		return errors.Join(err, fmt.Errorf("%s: %w in the container", d.NewName, unix.EEXIST))
	}
	moved, err := move(n.host, n.inside, dev, d.NewName, true)
	if moved.index == 0 {
		return err
	}
	undo.add(func() error {
		if _, err := move(n.inside, n.host, moved, dev.name, dev.up); err != nil {
			return fmt.Errorf("bring back network device %s: %w", dev.name, err)
		}
		return nil
	})
	return err
}

// move moves a device under a new name, with its addresses. Where it got is returned
// as soon as it is there, whatever goes wrong then.
func move(from, to *netns, dev link, name string, up bool) (link, error) {
	addresses, err := from.addresses(dev.index)
	if err != nil {
		return link{}, err
	}
	before, err := to.links()
	if err != nil {
		return link{}, err
	}
	msg := linkMessage(dev.index, 0, 0)
	msg = append(msg, attribute(unix.IFLA_NET_NS_FD, native.AppendUint32(nil, uint32(to.fd)))...)
	msg = append(msg, attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	err = from.request(unix.RTM_NEWLINK, 0, msg, nil)
	after, lerr := to.links()
	var moved link
	for index, l := range after {
		if _, was := before[index]; !was && (l.name == name || l.name == dev.name || strings.Contains(name, "%")) {
			moved = l
		}
	}
	if err = errors.Join(err, lerr); err != nil {
		return moved, err
	}
	if moved.index == 0 {
		return moved, errors.New("it is nowhere")
	}
	for _, a := range addresses {
		native.PutUint32(a[4:], uint32(moved.index))
		if err := to.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, a, nil); err != nil {
			return moved, fmt.Errorf("address: %w", err)
		}
	}
	if !up {
		return moved, nil
	}
	return moved, to.request(unix.RTM_NEWLINK, 0, linkMessage(moved.index, unix.IFF_UP, unix.IFF_UP), nil)
}
