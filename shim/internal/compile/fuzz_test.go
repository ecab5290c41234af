package compile

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"
)

// FuzzContainer: whatever a spec says, it compiles to a Program that is valid
// and ends, or is refused. Nothing panics.
func FuzzContainer(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range ar.Files {
			if part.Name == "config.json" {
				f.Add(part.Data)
			}
		}
	}
	whole, err := os.ReadFile("testdata/whole.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, in []byte) {
		var spec specs.Spec
		if err := json.Unmarshal(in, &spec); err != nil {
			return
		}
		plan, err := Container(&spec, Options{ID: "c1", Bundle: "/bundle", Cgroup: "/c1", Home: "/", SELinux: true})
		if err != nil {
			return // there is no container to exec in
		}
		if _, err := plan.Encode(); err != nil && plan.Validate() != nil {
			t.Errorf("does not encode: %v", err)
		}
		_ = plan.String()
		opt, proc := Options{ID: "c1", Filter: plan.Filter, SELinux: true}, *spec.Process
		exec, err := Exec(&spec, &proc, opt)
		if err == nil {
			if err := exec.Validate(); err != nil {
				t.Errorf("exec: %v", err)
			}
		}
		kept, keptErr := Exec(Keep(&spec), &proc, opt)
		switch {
		case fmt.Sprint(err) != fmt.Sprint(keptErr):
			t.Errorf("with what is kept of the spec: %v, want %v", keptErr, err)
		case err == nil && kept.String() != exec.String():
			t.Errorf("with what is kept of the spec: %s", firstDifference(kept.String(), exec.String()))
		}
	})
}

// FuzzMountOptions: every option is understood, passed on or refused.
func FuzzMountOptions(f *testing.F) {
	f.Add("ro", "rrw")
	f.Add("r", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		o, err := parseOptions("f", []string{a, b})
		if err == nil && (o.attr.set&o.attr.clr)&^0x70 != 0 {
			t.Errorf("%q, %q: set and cleared: %+v", a, b, o)
		}
	})
}
