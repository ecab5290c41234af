package options

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFresh generates the code anew and compares: `make proto` was not
// forgotten.
func TestFresh(t *testing.T) {
	if _, err := exec.LookPath("protoc"); err != nil {
		t.Skip("needs protoc: Debian's protobuf-compiler")
	}
	dir := t.TempDir()
	cmd := exec.Command("../../hack/proto", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := generated(t, filepath.Join(dir, "proto/options/options.pb.go"))
	if got := generated(t, "options.pb.go"); !bytes.Equal(got, want) {
		t.Error("options.pb.go is not what options.proto makes: run `make proto`")
	}
}

// generated is a file without the comment that names protoc's version, which
// is the machine's.
func generated(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(line, []byte("// \tprotoc")) {
			out = append(out, line...)
		}
	}
	return out
}
