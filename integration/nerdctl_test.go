package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// TestNerdctl runs testdata/nerdctl/*.txtar, as TestScripts does its own, with nerdctl in the PATH: on the
// runtime under test and mini's snapshotter, in a network that is not the machine's. ARCHIVE is the image as
// a file.
func TestNerdctl(t *testing.T) {
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skipf("%s: CNI's bridge needs iptables", t.Name())
	}
	tools := client(t, "nerdctl")
	plugins, err := daemon.Tools("cni")
	must(t, err)
	s := newService(t)
	d := daemon.Start(t, daemon.Options{Version: "2.4", Network: true, Config: s.dropIn("2.4")})
	d.Hide("/var/lib/cni", "/run/cni", "/run/nerdctl")
	s.daemon = d
	s.serve()
	t.Cleanup(func() { s.end(syscall.SIGTERM) })
	runScripts(t, "testdata/nerdctl/*.txtar", func(e *testscript.Env) error {
		lent := d.Lend(e.T().(script).T)
		if err := setup(e, lent); err != nil {
			return err
		}
		lent.Ctr("images", "import", "--snapshotter", "mini", archive(t))
		e.Setenv("ARCHIVE", archive(t))
		e.Setenv("NETNS", d.Network())
		e.Setenv("NERDCTL_TOML", e.WorkDir+"/.nerdctl.toml")
		// Short, since nerdctl makes sockets below it; gone with the daemon's.
		config := fmt.Sprintf("address = %q\nnamespace = %q\nsnapshotter = \"mini\"\ncgroup_manager = \"cgroupfs\"\n"+
			"data_root = %q\ncni_path = %q\ncni_netconfpath = %q\n",
			lent.Socket(), lent.Namespace, d.Dir+"/nerdctl", plugins, d.Dir+"/net.d")
		if err := os.WriteFile(e.Getenv("NERDCTL_TOML"), []byte(config), 0o644); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(e.WorkDir, ".bin", "nerdctl"), fmt.Appendf(nil, `#!/bin/sh
case $1 in
run | create) verb=$1; shift; set -- "$verb" --runtime %s "$@" ;;
esac
exec nsenter --net=%s -- %s/nerdctl "$@"
`, daemon.Runtime(), d.Network(), tools), 0o755)
	})
}

// client is the directory of a client of containerd. That its source cannot be had here is no fault of what it
// is to test; that it does not build is one.
func client(t *testing.T, name string) string {
	t.Helper()
	tools, err := daemon.Tools(name)
	if err == nil {
		return tools
	}
	if out, derr := exec.Command("go", "-C", "../hack/tools/"+name, "mod", "download").CombinedOutput(); derr != nil {
		t.Skipf("%s: the modules of %s cannot be had: %v: %s", t.Name(), name, derr, out)
	}
	t.Fatal(err)
	return ""
}
