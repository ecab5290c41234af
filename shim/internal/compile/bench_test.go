package compile

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/tools/txtar"
)

// BenchmarkContainer compiles and encodes containerd's default spec. What it leaves to be collected is most of
// what a container leaves in its shim.
func BenchmarkContainer(b *testing.B) {
	ar, err := txtar.ParseFile("testdata/default.txtar")
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	for _, f := range ar.Files {
		if f.Name == "config.json" {
			err = json.Unmarshal(f.Data, &spec)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	env := spec.Process.Env
	for _, kib := range []int{0, 64} {
		spec.Process.Env = env[:len(env):len(env)]
		for i := range kib {
			spec.Process.Env = append(spec.Process.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 1018)))
		}
		b.Run(fmt.Sprintf("env=%dKiB", kib), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				plan, err := Container(&spec, Options{ID: "bench", Bundle: "/bundle", Cgroup: "/bench", Seed: true})
				if err == nil {
					_, err = plan.Encode()
				}
				if err != nil {
					b.Fatal(err)
				}
				plan.Free()
			}
		})
	}
}
