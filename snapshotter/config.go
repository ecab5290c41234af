package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/pelletier/go-toml/v2"
)

// Config is the configuration file of mini-snapshotter.
type Config struct {
	Root     string `toml:"root"`      // directory of all it keeps
	Address  string `toml:"address"`   // socket that containerd connects to
	LogLevel string `toml:"log_level"` // debug, info, warn or error

	// MetricsAddress is where Prometheus reads /metrics, "unix:PATH" or "HOST:PORT"; nowhere if empty.
	MetricsAddress string `toml:"metrics_address"`

	// Durable brings a layer to the disk before Commit answers.
	Durable bool `toml:"durable"`
	// Volatile spares containers the wait for the disk, on fsync and at their end: what a container
	// wrote is lost if the machine goes down. Layers are not concerned.
	Volatile bool `toml:"volatile"`
	// MaxSize is how many bytes a container may write that says nothing else by the label
	// containerd.io/snapshot/max-size; 0 is no limit.
	MaxSize int64 `toml:"max_size"`
	// IgnoreQuota makes a snapshot without limit where one is asked for and the file system has no
	// project quota, instead of refusing it.
	IgnoreQuota bool `toml:"ignore_quota"`
	// FirstProject is where the numbers of projects begin. Nobody else may use the ones from there on in
	// the same file system.
	FirstProject uint32 `toml:"first_project"`
	// MountOptions go to every overlay mount. Of index, userxattr, metacopy and redirect_dir the
	// right ones are found by themselves.
	MountOptions []string `toml:"mount_options"`
	// UpperdirLabel adds the label containerd.io/snapshot/overlay.upperdir to what Stat and List say.
	UpperdirLabel bool `toml:"upperdir_label"`

	// Log is where messages go; slog.Default() if nil.
	Log *slog.Logger `toml:"-"`
}

// DefaultConfig is what holds where nothing is configured.
func DefaultConfig() Config {
	return Config{
		Root:     "/var/lib/mini-snapshotter",
		Address:  "/run/mini-snapshotter/mini.sock",
		LogLevel: "info",
		Durable:  true,

		FirstProject: 1 << 30,
	}
}

// ReadConfig reads a configuration file over the defaults. A key that does not exist is an error: a
// misspelt one would be silently without effect.
func ReadConfig(path string) (Config, error) {
	c := DefaultConfig()
	text, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	err = toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&c)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		return c, fmt.Errorf("%s: unknown key:\n%s", path, strict.String())
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c Config) logger() *slog.Logger {
	if c.Log != nil {
		return c.Log
	}
	return slog.Default()
}
