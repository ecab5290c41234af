package shim

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// What an operator writes is done, or said to be wrong by its name.
func TestOptionsOfOperator(t *testing.T) {
	file := t.TempDir() + "/mini.toml"
	if err := os.WriteFile(file, []byte("missing_controllers = \"ignore\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		given api.RuntimeOptions
		want  options
		wrong string
	}{
		{given: api.RuntimeOptions{ConfigPath: file}, want: options{ignoreControllers: true}},
		{given: api.RuntimeOptions{ConfigPath: file + ".not"}, wrong: "options.ConfigPath"},
		{given: api.RuntimeOptions{ConfigBody: []byte("")}},
		{given: api.RuntimeOptions{ConfigBody: []byte("SystemdCgroup = true")}, want: options{systemdCgroup: true}},
		{
			given: api.RuntimeOptions{ConfigBody: []byte("SystemdCgroup = true\nmissing_controllers = 'ignore'")},
			want:  options{systemdCgroup: true, ignoreControllers: true},
		},
		{given: api.RuntimeOptions{ConfigBody: []byte("missing_controllers = 'never'")}, wrong: "options.ConfigBody: missing_controllers"},
		{given: api.RuntimeOptions{ConfigBody: []byte("NoSuchThing = 1")}, wrong: "options.ConfigBody"},
	} {
		got, err := parseConfig(&c.given)
		if c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%+v: %v, want an error that names %s", c.given, err, c.wrong)
		} else if c.wrong == "" && (err != nil || got != c.want) {
			t.Errorf("%+v: %+v, %v, want %+v", c.given, got, err, c.want)
		}
	}
}
