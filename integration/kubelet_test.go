package integration

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// A node is a kubelet without an API server, its containerd and what runs on them: pods are what is in a
// directory.
type node struct {
	t      *testing.T
	d      *daemon.Daemon
	cri    cri.RuntimeServiceClient
	dir    string // manifests, logs, log of the kubelet
	binary string
	cmd    *exec.Cmd
	exited chan struct{}
	api    *http.Client
	driver string // of cgroups
	qos    bool   // pods have cgroups of their own, by what they ask for
}

// startNode starts a kubelet on a containerd whose only runtime is mini, and whose snapshotter is.
func startNode(t *testing.T) *node {
	t.Helper()
	if os.Getenv("MINI_TEST_KUBELET") == "" {
		t.Skipf("%s: MINI_TEST_KUBELET is not set: the kubelet takes minutes to build (make kubelet-test)", t.Name())
	}
	tools := client(t, "kubelet")
	s := newService(t)
	more := s.dropIn("2.4") + "\n[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"mini\"\n"
	driver := "cgroupfs"
	if _, err := os.Stat("/run/systemd/system"); err == nil && os.Getenv("MINI_TEST_GUEST") != "" {
		// containerd tells the kubelet what the handler of runc says, which is there unless it is taken away.
		driver = "systemd"
		more += "[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n" +
			"[plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n"
	}
	c := startCRI(t, "2.4", more)
	s.daemon = c.d
	s.serve()
	t.Cleanup(func() { s.end(syscall.SIGTERM) })
	for _, image := range []string{daemon.Busybox, daemon.Pause} {
		path, err := daemon.Archive(image)
		must(t, err)
		c.d.Ctr("-n", "k8s.io", "images", "import", "--snapshotter", "mini", path)
	}
	c.d.Hide("/var/lib/kubelet", "/var/log/containers")
	// In the guest, which has every controller, the pods have cgroups as on any node; else all are in one.
	n := &node{
		t: t, d: c.d, cri: c.runtime, dir: t.TempDir(), binary: tools + "/kubelet", driver: driver,
		qos: os.Getenv("MINI_TEST_GUEST") != "" && hasController("memory"),
	}
	t.Cleanup(n.removeCgroups)
	n.api = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // of the kubelet that was made here a moment ago
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return n.d.Dial(network, address)
		},
	}}
	must(t, os.Mkdir(n.dir+"/manifests", 0o755))
	must(t, os.WriteFile(n.dir+"/config.yaml", []byte(n.config()), 0o644))
	t.Cleanup(func() { _ = unix.Unmount(n.dir+"/root", unix.MNT_DETACH) }) // its own, to share mounts by
	t.Cleanup(n.stop)
	n.start()
	return n
}

// removeCgroups takes away what the kubelet leaves to the next one: the cgroups above those of pods.
func (n *node) removeCgroups() {
	if !n.qos {
		return
	}
	if n.driver == "systemd" {
		systemctl(n.t, "stop", "kubepods.slice")
		return
	}
	for _, dir := range []string{"besteffort", "burstable", ""} {
		if err := os.Remove(filepath.Join("/sys/fs/cgroup/kubepods", dir)); err != nil {
			n.t.Error(err)
		}
	}
}

// pods are the cgroups of pods.
func (n *node) pods() []string {
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup/kubepods*/*pod*", "/sys/fs/cgroup/kubepods*/*/*pod*"} {
		found, _ := filepath.Glob(pattern)
		for _, dir := range found {
			if info, err := os.Stat(dir); err == nil && info.IsDir() && strings.Contains(filepath.Base(dir), "pod") &&
				!slices.Contains([]string{"kubepods-besteffort.slice", "kubepods-burstable.slice"}, filepath.Base(dir)) {
				all = append(all, dir)
			}
		}
	}
	return all
}

func (n *node) config() string {
	root := "/" + n.d.Namespace
	if n.qos {
		root = "/"
	}
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%[1]s
imageServiceEndpoint: unix://%[1]s
staticPodPath: %[2]s/manifests
podLogsDir: %[2]s/pods
address: 127.0.0.1
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: %[5]s
cgroupRoot: %[3]s
cgroupsPerQOS: %[4]t
enforceNodeAllocatable: []
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {"memory.available": "0%%", "nodefs.available": "0%%", "imagefs.available": "0%%"}
imageGCHighThresholdPercent: 100
syncFrequency: 5s
fileCheckFrequency: 1s
`, n.d.Socket(), n.dir, root, n.qos, n.driver)
}

// start starts the kubelet and waits until it says that it is well.
func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(n.t, err)
	defer log.Close()
	n.cmd = exec.Command(n.binary, "--config", n.dir+"/config.yaml", "--root-dir", n.dir+"/root", "--cert-dir", n.dir+"/pki",
		"--hostname-override", "node", "--node-ip", "127.0.0.1", "--v", "2")
	n.cmd.Stdout, n.cmd.Stderr = log, log
	must(n.t, n.d.StartHere(n.cmd))
	exited := make(chan struct{})
	cmd := n.cmd
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	n.exited = exited
	n.eventually("the kubelet is well", func() bool {
		select {
		case <-exited:
			n.t.Fatalf("the kubelet ended at its start: %s\n%s", cmd.ProcessState, n.logTail())
		default:
		}
		text, err := n.get("http://127.0.0.1:10248/healthz")
		return err == nil && text == "ok"
	})
}

func (n *node) stop() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.exited:
	case <-time.After(30 * time.Second):
		_ = n.cmd.Process.Kill()
		<-n.exited
	}
	n.cmd = nil
}

func (n *node) get(url string) (string, error) {
	reply, err := n.api.Get(url)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", reply.Status, text)
	}
	return string(text), err
}

// eventually waits as long as a slow machine may need for a pod.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	n.t.Fatalf("not within four minutes: %s\n%s", what, n.logTail())
}

func (n *node) logTail() string {
	data, _ := os.ReadFile(n.dir + "/log")
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// A pod's status, as far as the tests look at it.
type podStatus struct {
	Phase                                    string
	PodIP                                    string
	InitContainerStatuses, ContainerStatuses []containerStatus
}

type containerStatus struct {
	Name             string
	Ready            bool
	RestartCount     int
	State, LastState struct {
		Running    *struct{}
		Waiting    *struct{ Reason, Message string }
		Terminated *struct {
			ExitCode int
			Reason   string
		}
	}
}

// pod is what the kubelet says of a static pod, which it gives the name of its node.
func (n *node) pod(name string) (podStatus, bool) {
	n.t.Helper()
	text, err := n.get("https://127.0.0.1:10250/pods")
	if err != nil {
		return podStatus{}, false
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   podStatus
		}
	}
	must(n.t, json.Unmarshal([]byte(text), &list))
	for _, item := range list.Items {
		if item.Metadata.Name == name+"-node" {
			return item.Status, true
		}
	}
	return podStatus{}, false
}

// container is what the kubelet says of a container of a static pod.
func (n *node) container(pod, name string) (c containerStatus) {
	n.t.Helper()
	p, _ := n.pod(pod)
	for _, c := range p.ContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	return c
}

// remove takes a static pod away, and waits until nothing is left of it.
func (n *node) remove(name string) {
	n.t.Helper()
	must(n.t, os.Remove(filepath.Join(n.dir, "manifests", name+".yaml")))
	n.eventually("no shim is left", func() bool { return n.d.Shims() == 0 })
	n.eventually("the pod is gone", func() bool {
		_, found := n.pod(name)
		return !found
	})
	n.eventually("its cgroup is gone", func() bool { return len(n.pods()) == 0 })
}

// apply puts a manifest where the kubelet finds it, at once and whole.
func (n *node) apply(name, manifest string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name+".yaml")
	must(n.t, os.WriteFile(path, []byte(manifest), 0o644))
	must(n.t, os.Rename(path, filepath.Join(n.dir, "manifests", name+".yaml")))
}

// A static pod from its manifest to its end: an init container, two containers that share a volume, one of
// which its liveness probe kills, a preStop hook; the kubelet and containerd come back meanwhile.
func TestKubelet(t *testing.T) {
	n := startNode(t)
	seen := t.TempDir()
	n.apply("pod", `apiVersion: v1
kind: Pod
metadata: {name: pod, namespace: default}
spec:
  terminationGracePeriodSeconds: 20
  volumes: [{name: shared, emptyDir: {}}, {name: seen, hostPath: {path: `+seen+`}}]
  initContainers:
  - name: first
    image: `+daemon.Busybox+`
    imagePullPolicy: Never
    command: [sh, -c, "echo from init >/shared/init"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: one
    image: `+daemon.Busybox+`
    imagePullPolicy: Never
    command: [sh, -c, "cat /shared/init; trap 'exit 0' TERM; while :; do sleep 0.05; done"]
    volumeMounts: [{name: shared, mountPath: /shared}, {name: seen, mountPath: /seen}]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo stopping >/seen/stop"]}}}
  - name: two
    image: `+daemon.Busybox+`
    imagePullPolicy: Never
    command: [sh, -c, "trap 'exit 9' TERM; sleep 5; touch /sick; while :; do sleep 0.05; done"]
    livenessProbe: {exec: {command: [test, "!", -e, /sick]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}
`)
	status := func(name string) containerStatus { return n.container("pod", name) }
	n.eventually("one runs", func() bool { return status("one").State.Running != nil })
	n.eventually("its log is there", func() bool {
		logs, _ := filepath.Glob(n.dir + "/pods/*/one/0.log")
		if len(logs) == 0 {
			return false
		}
		text, err := os.ReadFile(logs[0])
		return err == nil && strings.Contains(string(text), "stdout F from init\n")
	})
	n.eventually("two was found sick, and started again", func() bool {
		c := status("two")
		return c.RestartCount > 0 && c.LastState.Terminated != nil && c.LastState.Terminated.ExitCode == 9
	})

	n.stop()
	n.d.Crash()
	n.d.Restart()
	n.start()
	n.eventually("one runs on", func() bool { return status("one").State.Running != nil })
	if c := status("one"); c.RestartCount != 0 {
		t.Errorf("one was started again: %+v", c)
	}

	n.remove("pod")
	if text, err := os.ReadFile(seen + "/stop"); err != nil || string(text) != "stopping\n" {
		t.Errorf("the preStop hook: %q, %v", text, err)
	}
}

// What a pod asks for is in its cgroup and in those of its containers; one that takes more memory than it may is
// killed whole, said to be, and started again; and what the others use is what is told of them.
func TestKubeletLimits(t *testing.T) {
	n := startNode(t)
	if !n.qos {
		t.Skipf("%s: needs a memory controller, and cgroups that are the kubelet's alone: make kubelet-test VM=yes", t.Name())
	}
	crictl := client(t, "crictl") + "/crictl"
	n.apply("limits", `apiVersion: v1
kind: Pod
metadata: {name: limits, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: eats
    image: `+daemon.Busybox+`
    imagePullPolicy: Never
    command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1000"]
    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 500m, memory: 32Mi}}
  - name: holds
    image: `+daemon.Busybox+`
    imagePullPolicy: Never
    command: [sh, -c, "dd if=/dev/zero bs=24M count=1 | sleep 1000"]
    resources: {limits: {cpu: 250m, memory: 64Mi}}
`)
	n.eventually("holds runs", func() bool { return n.container("limits", "holds").State.Running != nil })
	id, pid := n.process("holds")
	dir := "/sys/fs/cgroup" + strings.TrimPrefix(read(t, "/proc", pid, "cgroup"), "0::")
	t.Logf("driver %s: %s", n.driver, dir)
	pod := filepath.Dir(dir)
	if want := map[string]string{"cgroupfs": "/kubepods/burstable/pod", "systemd": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"}[n.driver]; !strings.HasPrefix(pod, "/sys/fs/cgroup"+want) {
		t.Errorf("the pod's cgroup is %s", pod)
	}
	for file, want := range map[string]string{
		dir + "/memory.max": "67108864", dir + "/cpu.max": "25000 100000", dir + "/memory.oom.group": "1",
		pod + "/memory.max": "100663296", pod + "/cpu.max": "75000 100000",
	} {
		if got := read(t, file); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}

	var c containerStatus
	n.eventually("eats was killed, and started again", func() bool {
		c = n.container("limits", "eats")
		return c.RestartCount > 0
	})
	ended := c.LastState.Terminated
	if ended == nil {
		ended = c.State.Terminated
	}
	if ended == nil || ended.Reason != "OOMKilled" || ended.ExitCode != 137 {
		t.Errorf("eats: %+v, want OOMKilled, 137", c)
	}
	if c := n.container("limits", "holds"); c.RestartCount != 0 || c.State.Running == nil {
		t.Errorf("holds suffers: %+v", c)
	}

	out, err := exec.Command(crictl, "--runtime-endpoint", "unix://"+n.d.Socket(), "--timeout", "120s", "stats", "-o", "json", id).Output()
	must(t, err)
	var stats struct {
		Stats []struct {
			Memory struct {
				RSSBytes struct {
					Value int64 `json:",string"`
				}
			}
		}
	}
	must(t, json.Unmarshal(out, &stats))
	if len(stats.Stats) != 1 || stats.Stats[0].Memory.RSSBytes.Value < 24*mebi || stats.Stats[0].Memory.RSSBytes.Value > 26*mebi {
		t.Errorf("crictl stats of one that holds 24 MiB: %s", out)
	}
	// Not of /stats/summary, which needs to know the kubelet's disk, too: cAdvisor does not know those of the guest.
	working := regexp.MustCompile(`(?m)^container_memory_working_set_bytes\{container="holds",[^}]*\} ([0-9.e+]+)`)
	n.eventually("the kubelet says how much holds uses", func() bool {
		text, err := n.get("https://127.0.0.1:10250/metrics/resource")
		found := working.FindStringSubmatch(text)
		if err != nil || found == nil {
			return false
		}
		used, err := strconv.ParseFloat(found[1], 64)
		must(t, err)
		return used >= 24*mebi && used < 40*mebi
	})
	n.remove("limits")
}

// process is the id of a running container, and the number of its first process.
func (n *node) process(name string) (id, pid string) {
	n.t.Helper()
	ctx := n.d.Context()
	list, err := n.cri.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
		State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING},
	}})
	must(n.t, err)
	for _, c := range list.Containers {
		if c.Metadata.Name == name {
			reply, err := n.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id, Verbose: true})
			must(n.t, err)
			return c.Id, between(reply.Info["info"], `"pid":`, ",")
		}
	}
	n.t.Fatalf("%s does not run", name)
	return "", ""
}
