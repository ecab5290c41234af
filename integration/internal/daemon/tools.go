package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The images that hack/build-image makes.
const (
	Busybox = "mini.test/busybox:latest"
	Pause   = "mini.test/pause:latest"
)

// Archive is the file that holds an image of the tests.
func Archive(image string) (string, error) {
	dir, err := build("build-image")
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(filepath.Base(image), ":")
	return filepath.Join(dir, name+".tar"), nil
}

// Tools is the directory of what hack/tools/name pins.
func Tools(name string) (string, error) { return build("build-tool", name) }

// build runs a script of hack that makes something when it is not there yet, and says where it is.
func build(script string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(repository(), "hack", script), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// searchPath is the PATH of containerd: the shim under test first, and no runc unless it is the one
// that is tested.
func searchPath(base, toolDir string) (string, error) {
	path := filepath.Join(base, "bin")
	if Runtime() == "io.containerd.runc.v2" {
		runc, err := Tools("runc")
		if err != nil {
			return "", err
		}
		path += ":" + runc + ":" + toolDir
	}
	return path + ":" + os.Getenv("PATH"), nil
}
