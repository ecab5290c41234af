package shim

import (
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// logger writes to the fifo that containerd keeps in the first bundle's
// directory, and copies to its own log. It is opened with the first line: most
// shims never write one.
type logger struct {
	path  string
	debug bool

	mu  sync.Mutex
	log *slog.Logger
}

func (l *logger) warn(msg string, args ...any) { l.write(slog.LevelWarn, msg, args...) }

func (l *logger) write(level slog.Level, msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.log == nil {
		// Without a reader there is nobody to tell.
		f, err := os.OpenFile(l.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return
		}
		l.log = slog.New(slog.NewTextHandler(f, nil))
	}
	l.log.Log(nil, level, msg, args...) //nolint:staticcheck // SA1012: no context here
}
