package snapshotter

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

func TestConfigContainerd(t *testing.T) {
	for version := 1; version <= 5; version++ {
		text, err := ConfigContainerd(version, DefaultConfig())
		if version < 2 || version > 4 {
			if err == nil {
				t.Errorf("version %d is taken", version)
			}
			continue
		}
		must(t, err)
		var parsed struct {
			Version int
			Proxy   map[string]struct {
				Type, Address string
				Capabilities  []string
				Exports       map[string]string
			} `toml:"proxy_plugins"`
			Plugins map[string]struct {
				Unpack []struct{ Platform, Snapshotter string } `toml:"unpack_config"`
			}
		}
		must(t, toml.Unmarshal([]byte(text), &parsed))
		mini := parsed.Proxy["mini"]
		if parsed.Version != version || mini.Type != "snapshot" || mini.Exports["root"] != "/var/lib/mini-snapshotter" ||
			mini.Address != "/run/mini-snapshotter/mini.sock" {
			t.Errorf("%+v", parsed)
		}
		if !detect().UserNS && !slices.Contains(mini.Capabilities, "rebase") {
			t.Errorf("capabilities %q", mini.Capabilities)
		}
		lines := parsed.Plugins["io.containerd.transfer.v1.local"].Unpack
		if len(lines) != 2 || lines[1].Snapshotter != "mini" || lines[1].Platform != "linux/"+runtime.GOARCH {
			t.Errorf("%+v", lines)
		}
		if strings.Contains(text, "max_concurrent_unpacks") == (version == 2) {
			t.Errorf("version %d:\n%s", version, text)
		}
	}
}

func TestReadConfig(t *testing.T) {
	path := t.TempDir() + "/c.toml"
	for text, want := range map[string]string{
		"":                                    "",
		"root = \"/r\"\nvolatile = true\n":    "",
		"rot = \"/r\"\n":                      "unknown key",
		"root = 1\n":                          "cannot decode",
		"mount_options = [\"metacopy=on\"]\n": "",
	} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := ReadConfig(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
