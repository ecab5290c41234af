// Package fence keeps the floors of this house: which package may import which, and where unsafe may
// be. A package imports only downwards:
//
//	4  doors      cmd/*
//	3  services   shim, snapshotter
//	2  object     shim/internal/container
//	1  wings      decide: compile, seccomp  |  act: agent, cgroup, stdio, systemd
//	0  ground     program  (data only), api, spec
//
// and shim/internal/bootstrap, which runs before the rest is initialised, imports nothing of ours.
// The linter says the same where one writes; this test says it of what is built, transitively.
package fence

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/containerd-mini/mini/"

// floors are the packages of this module that a package may import; a name that ends in / stands for
// all below it. A package that is not listed must be: the fence has no gate for it yet.
var floors = map[string][]string{
	"shim/internal/program":   {},
	"shim/internal/bootstrap": {},
	"shim/internal/spec":      {},
	"shim/internal/api":       {},

	"shim/internal/seccomp": {"shim/internal/program"},
	"shim/internal/compile": {"shim/internal/program", "shim/internal/seccomp"},
	"shim/internal/agent":   {"shim/internal/program"},
	"shim/internal/cgroup":  {"shim/internal/api", "shim/internal/program"},
	"shim/internal/stdio":   {"shim/internal/program"},
	"shim/internal/systemd": {"shim/internal/program"},
	"shim/internal/rpc":     {"shim/internal/api"},

	"shim/internal/container": {
		"shim/internal/agent", "shim/internal/api", "shim/internal/bootstrap", "shim/internal/cgroup", "shim/internal/compile",
		"shim/internal/program", "shim/internal/seccomp", "shim/internal/spec", "shim/internal/stdio",
		"shim/internal/systemd",
	},

	"shim/early":   {"shim/internal/bootstrap"},
	"shim":         {"shim/internal/", "proto/"},
	"snapshotter":  {"snapshotter/", "proto/"},
	"snapshotter/": {"snapshotter/", "proto/"},
	"proto/":       {},
	"cmd/":         {"shim", "shim/early", "snapshotter", "proto/"},
	"hack/":        {"hack/"},
	"integration":  {"integration/internal/"},
	"integration/": {"integration/internal/"},
}

// deciders neither touch the machine nor ask it anything: the same input gives the same output
// everywhere. golang.org/x/sys/unix is allowed for its constants.
var deciders = []string{"shim/internal/program", "shim/internal/api", "shim/internal/spec", "shim/internal/seccomp", "shim/internal/compile"}

// hands are what a decider does not have.
var hands = []string{"net", "os", "os/exec", "os/signal", "syscall"}

// wire is what nothing below shim may know of, even through others: containerd's API and its carriers.
var wire = []string{
	"github.com/containerd/containerd/", "github.com/containerd/ttrpc", "google.golang.org/grpc",
}

// unsafeFiles are the only ones that import unsafe.
var unsafeFiles = []string{"shim/internal/agent/*_unsafe.go", "shim/internal/cgroup/bpf_unsafe.go", "snapshotter/quota_unsafe.go"}

type pkg struct {
	ImportPath, Dir string
	GoFiles         []string
	Imports, Deps   []string
}

func (p pkg) name() string { return strings.TrimPrefix(p.ImportPath, module) }

// packages lists those of this module.
func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// matches tells whether name is in list, or below an entry that ends in /.
func matches(list []string, name string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		return name == strings.TrimSuffix(entry, "/") || strings.HasSuffix(entry, "/") && strings.HasPrefix(name, entry)
	})
}

func TestFloors(t *testing.T) {
	for _, p := range packages(t) {
		allowed, found := floors[p.name()]
		for entry, list := range floors {
			if !found && strings.HasSuffix(entry, "/") && strings.HasPrefix(p.name(), entry) {
				allowed, found = list, true
			}
		}
		if !found {
			t.Errorf("%s: on no floor", p.name())
			continue
		}
		for _, imported := range p.Imports {
			ours, is := strings.CutPrefix(imported, module)
			if is && !matches(allowed, ours) {
				t.Errorf("%s imports %s, which is not below it", p.name(), ours)
			}
		}
	}
}

func TestDecidersHaveNoHands(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(deciders, p.name()) {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(hands, imported) {
				t.Errorf("%s imports %s: it decides, it does not act", p.name(), imported)
			}
		}
	}
}

func TestNoWireBelowShim(t *testing.T) {
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.name(), "shim/internal/") && p.name() != "shim/early" {
			continue
		}
		for _, dep := range p.Deps {
			if slices.ContainsFunc(wire, func(prefix string) bool { return strings.HasPrefix(dep+"/", prefix) }) {
				t.Errorf("%s depends on %s", p.name(), dep)
			}
		}
	}
}

// What runs thrice in the life of each container is small. Go initialises packages in the order of
// their paths, each after what it imports: with unicode (strings, bytes, fmt, reflect) among its
// imports, early would come after the daemon's github.com and google.golang.org.
func TestBootstrapIsLean(t *testing.T) {
	for _, p := range packages(t) {
		if p.name() != "shim/internal/bootstrap" && p.name() != "shim/early" {
			continue
		}
		for _, dep := range p.Deps {
			host, _, _ := strings.Cut(dep, "/")
			foreign := strings.Contains(host, ".") && !strings.HasPrefix(dep, module)
			if foreign || slices.Contains([]string{"net", "reflect", "unicode"}, dep) {
				t.Errorf("%s depends on %s", p.name(), dep)
			}
		}
	}
}

// What each shim holds in memory begins with the tables of the packages that it is linked of: with protobuf's
// registries, and containerd's package for ttrpc with what gRPC brings along, 200 kB more. Package api and
// package rpc are there in their stead.
func TestShimIsLean(t *testing.T) {
	for _, p := range packages(t) {
		if p.name() != "cmd/containerd-shim-mini-v2" {
			continue
		}
		for _, dep := range p.Deps {
			heavy := []string{"github.com/containerd/ttrpc", "google.golang.org/grpc/", "google.golang.org/protobuf/proto"}
			if matches(heavy, dep) {
				t.Errorf("%s depends on %s", p.name(), dep)
			}
		}
	}
}

func TestUnsafeIsNamed(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(p.Imports, "unsafe") || strings.HasPrefix(p.name(), "proto/") {
			continue // generated code is protoc-gen-go's affair
		}
		for _, file := range p.GoFiles {
			path := p.name() + "/" + file
			named := slices.ContainsFunc(unsafeFiles, func(pattern string) bool {
				ok, err := filepath.Match(pattern, path)
				return ok && err == nil
			})
			if !named && importsUnsafe(t, filepath.Join(p.Dir, file)) {
				t.Errorf("%s imports unsafe", path)
			}
		}
	}
}

// importsUnsafe reads the imports of one file.
func importsUnsafe(t *testing.T, path string) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range file.Imports {
		if spec.Path.Value == `"unsafe"` {
			return true
		}
	}
	return false
}
