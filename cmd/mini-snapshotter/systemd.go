package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen takes the socket that systemd has made, or makes one.
func listen(address string) (net.Listener, error) {
	l, err := inherited()
	if l != nil || err != nil {
		return l, err
	}
	// Who can connect is root of the host: 0600, in a directory of 0700, so that there is no
	// moment at which the socket has another mode.
	dir := filepath.Dir(address)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if conn, err := net.Dial("unix", address); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s: another process listens there", address)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		if err := os.Remove(address); err != nil {
			return nil, err
		}
	}
	old := syscall.Umask(0o177)
	l, err = net.Listen("unix", address)
	syscall.Umask(old)
	return l, err
}

// inherited is the listening socket that systemd passes, sd_listen_fds(3); nil if there is none.
func inherited() (net.Listener, error) {
	defer func() { // not for children
		for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			_ = os.Unsetenv(name)
		}
	}()
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if n := os.Getenv("LISTEN_FDS"); n != "1" {
		return nil, fmt.Errorf("LISTEN_FDS=%s: want one socket", n)
	}
	const first = 3 // SD_LISTEN_FDS_START
	syscall.CloseOnExec(first)
	f := os.NewFile(first, "LISTEN_FDS")
	defer f.Close() // FileListener duplicates it
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS: %w", err)
	}
	return l, nil
}

// notify tells systemd how it stands, sd_notify(3). Without systemd it does nothing.
func notify(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	if strings.HasPrefix(address, "@") {
		address = "\x00" + address[1:] // abstract, unix(7)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		slog.Warn("cannot tell systemd", "state", state, "error", err)
	}
}
