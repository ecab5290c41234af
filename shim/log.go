package shim

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// warn writes a line to the FIFO that containerd keeps in a container's bundle, and copies to its own log. The FIFO
// is opened for each line: most shims never write one, and a shim may outlive any of its containers.
func warn(bundle, msg string, args ...any) {
	f, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return // without a reader there is nobody to tell
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		return // somebody else's: "." is / in a shim that lingers
	}
	slog.New(slog.NewTextHandler(f, nil)).Log(context.Background(), slog.LevelWarn, msg, args...)
}
