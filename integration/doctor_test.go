package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd-mini/mini/integration/internal/daemon"
	"github.com/containerd-mini/mini/shim"
	"github.com/containerd-mini/mini/snapshotter"
)

// What doctor says about a configuration is what containerd makes of it.
func TestDoctor(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		tools, err := daemon.Tools("containerd-" + version)
		must(t, err)
		t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
		file := filepath.Join(t.TempDir(), "config.toml")
		doctor := func(text string) string {
			must(t, os.WriteFile(file, []byte(text), 0o644))
			var all []string
			for _, f := range shim.Doctor(file) {
				all = append(all, f.What+": "+f.Advice)
			}
			return strings.Join(all, "\n")
		}
		config := func(more string) string {
			return daemon.Config(t.TempDir(), daemon.Options{Version: version, CRI: true}) + more
		}
		expect := func(t *testing.T, text string, want ...string) {
			t.Helper()
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("no %q in\n%s", w, text)
				}
			}
		}
		expect(t, doctor("version = 2\nbroken"), "containerd does not start with "+file)
		expect(t, doctor(config("")), "no handler of the type io.containerd.mini.v2")
		expect(t, doctor("disabled_plugins = [\"cri\"]"), "ctr and nerdctl work")

		table := `plugins."io.containerd.cri.v1.runtime".containerd`
		if version == "1.7" {
			table = `plugins."io.containerd.grpc.v1.cri".containerd`
		}
		expect(t, doctor(config(printedHandler(t, version))), "handler mini", "cgroup driver")

		mini := "\n[" + table + ".runtimes.mini]\nruntime_type = \"io.containerd.mini.v2\"\n"
		if version == "1.7" {
			expect(t, doctor(config(mini)), "CRI plugin does not load", "default_runtime_name = \"mini\" to ["+table+"]")
			_, err := askCRI(t, version, mini).Version(t.Context(), &cri.VersionRequest{})
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("CRI answers without its default handler: %v", err)
			}
			mini = "\n[" + table + "]\ndefault_runtime_name = \"mini\"" + mini
			expect(t, doctor(config(mini)), "handler mini", "what counts is cgroupDriver in the kubelet's")
			_, err = askCRI(t, version, mini).Version(t.Context(), &cri.VersionRequest{})
			must(t, err)
			return
		}
		runc := "[" + table + ".runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n" +
			"[" + table + ".runtimes.runc.options]\nSystemdCgroup = true\n"
		_, err = os.Stat("/run/systemd/system") // sd_booted(3)
		booted := err == nil
		for more, want := range map[string]string{mini: "cgroupfs", mini + runc: "systemd"} {
			text := doctor(config(more))
			expect(t, text, "handler mini", "containerd tells the kubelet the cgroup driver "+want+", by handler runc")
			switch {
			case booted && want == "cgroupfs":
				expect(t, text, "SystemdCgroup = true in ["+table+".runtimes.runc.options]")
			case !booted && want == "systemd":
				expect(t, text, "SystemdCgroup = false in ["+table+".runtimes.runc.options]")
			case strings.Contains(text, "SystemdCgroup"):
				t.Errorf("advice about what fits:\n%s", text)
			}
			answer, err := askCRI(t, version, more).RuntimeConfig(t.Context(), &cri.RuntimeConfigRequest{})
			must(t, err)
			if got := strings.ToLower(answer.Linux.CgroupDriver.String()); got != want {
				t.Errorf("containerd answers %s, want %s", got, want)
			}
		}
	})
}

// askCRI is a client of a containerd that has more of a configuration, for this test alone.
func askCRI(t *testing.T, version, more string) cri.RuntimeServiceClient {
	t.Helper()
	d := daemon.Start(t, daemon.Options{Version: version, CRI: true, Config: more})
	conn, err := grpc.NewClient("unix://"+d.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	return cri.NewRuntimeServiceClient(conn)
}

// printedHandler is the handler that `mini config containerd` prints as a comment.
func printedHandler(t *testing.T, version string) string {
	t.Helper()
	number := map[string]int{"1.7": 2, "2.2": 3, "2.4": 4}[version]
	text, err := snapshotter.ConfigContainerd(number, snapshotter.DefaultConfig())
	must(t, err)
	_, text, found := strings.Cut(text, "# For Kubernetes, a handler")
	if !found {
		t.Fatal("no handler is printed")
	}
	text, _, _ = strings.Cut(text, "\n\n")
	return regexp.MustCompile(`(?m)^# (\[.*|\w+ = .*)$`).ReplaceAllString("#"+text, "$1")
}
