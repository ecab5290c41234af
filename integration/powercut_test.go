package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/hack/powercut"
	"github.com/containerd-mini/mini/integration/internal/daemon"
	"github.com/containerd-mini/mini/snapshotter"
)

// cutImages is the number of images of TestPowerCutUnderContainerd.
const cutImages = 4

// A cutDeed imports an image, or removes it.
type cutDeed struct {
	image  int
	remove bool
}

// Images come, go and come again, and have their lowest layer in common.
var cutDeeds = []cutDeed{
	{0, false}, {1, false}, {2, false}, {1, true}, {3, false}, {0, true}, {0, false}, {2, true}, {1, false}, {3, true}, {2, false}, {0, true},
}

func cutName(i int) string { return fmt.Sprintf("mini.test/cut-%d:latest", i) }

// cutLayers are the files of an image: a shell, a layer of many, and one that takes one of them away.
func cutLayers(t *testing.T, i int) (layers []map[string]string) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	shell, err := os.ReadFile(busybox)
	must(t, err)
	many := map[string]string{fmt.Sprintf("d/%d/big", i): strings.Repeat(fmt.Sprint("big ", i, "\n"), 80_000), fmt.Sprintf("d/%d/empty", i): ""}
	for n := range 20 {
		many[fmt.Sprintf("d/%d/small-%d", i, n)] = strings.Repeat(fmt.Sprint(i, " of ", n, "\n"), 500)
	}
	return []map[string]string{
		{"bin/busybox": string(shell), "d/base": "base"},
		many,
		{fmt.Sprintf("d/%d/.wh.small-3", i): "", fmt.Sprintf("d/%d/late", i): strings.Repeat("late", 3000), "d/top": fmt.Sprint("top of ", i)},
	}
}

// cutArchive is an image as a file, and what sha256sum says of its files.
func cutArchive(t *testing.T, i int) (path, sums string) {
	t.Helper()
	var layers [][]byte
	all := make(map[string]string)
	for _, files := range cutLayers(t, i) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(files[name]))}))
			_, err := w.Write([]byte(files[name]))
			must(t, err)
			if hidden := strings.Replace(name, ".wh.", "", 1); hidden != name {
				delete(all, hidden)
			} else {
				all[name] = files[name]
			}
		}
		must(t, w.Close())
		layers = append(layers, b.Bytes())
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sums += fmt.Sprintf("%x  /%s\n", sha256.Sum256([]byte(all[name])), name)
	}
	return imageOf(t, cutName(i), layers), sums
}

// cutLife is what the guest does: containerd and the snapshotter on the disk, and the deeds one by one.
const cutLife = `set -eu
cp /in/bin/* /usr/local/bin/
for disk in /sys/block/vd*; do [ "$(cat $disk/serial)" != cut ] || disk=/dev/${disk##*/}; done
mkdir /cut /run/c
mount -t ext4 "$disk" /cut
mini-snapshotter --config /in/mini.toml --log-level warn &
containerd --config /in/config.toml >/run/c/log 2>&1 &
trap 'tail -n 40 /run/c/log' EXIT
until ctr -a /run/c/c.sock version >/dev/null 2>&1; do sleep 0.2; done
n=0
while read -r deed; do
	ctr -a /run/c/c.sock -n cut images $deed >/dev/null
	n=$((n + 1))
	printf 'done %d\n' $n | dd of="$disk" bs=512 seek="$1" conv=sync,notrunc oflag=direct status=none
done </in/deeds
trap - EXIT
`

// The power of a guest is cut while containerd unpacks images on the snapshotter, commits their layers and
// removes them. Whatever was answered by then is there and whole afterwards, or gone; what was not is one of
// both, and nothing is left of it that nobody knows. MINI_TEST_POWER_CUTS is the number of crash images,
// MINI_TEST_POWER_CUTS_UNDURABLE=1 shows that the test can fail: layers are not synced then.
func TestPowerCutUnderContainerd(t *testing.T) {
	cuts, err := strconv.Atoi(os.Getenv("MINI_TEST_POWER_CUTS"))
	if err != nil || cuts < 1 {
		t.Skipf("%s: boots a guest: set MINI_TEST_POWER_CUTS to a number of crash images; make vm-test does", t.Name())
	}
	const size = 256 * mebi
	dir := t.TempDir()
	base, disk, log := dir+"/base", dir+"/disk", dir+"/log"
	must(t, powercut.Make(base, disk, log, size, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"))

	var archives, sums [cutImages]string
	for i := range archives {
		archives[i], sums[i] = cutArchive(t, i)
	}
	cutInput(t, dir+"/in", archives[:])
	seek := fmt.Sprint(powercut.Answered(size) / powercut.Sector)
	run := exec.Command("../hack/vm/run", "-t", "900", "-r", dir+"/in:/in", "-q", powercut.Args("cut", disk, log), "--", "sh", "/in/live", seek)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	entries, err := powercut.ReadLog(log, size)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2)) // reproducible
	places, err := entries.Cuts(cuts, random)
	must(t, err)
	for _, k := range places {
		t.Run(fmt.Sprintf("entry %d", k), func(t *testing.T) {
			done, err := entries.Image(dir+"/image", base, k, random)
			must(t, err)
			afterCut(t, dir+"/image", done, archives[:], sums[:])
		})
	}
}

// cutInput is the directory that the guest finds at /in.
func cutInput(t *testing.T, in string, archives []string) {
	t.Helper()
	must(t, os.MkdirAll(in+"/bin", 0o755))
	tools, err := daemon.Tools("containerd-2.4")
	must(t, err)
	s := newService(t)
	built := s.binary
	if _, err := os.Stat(built); err != nil {
		t.Fatal(err)
	}
	for to, from := range map[string]string{"containerd": tools + "/containerd", "ctr": tools + "/ctr", "mini-snapshotter": built} {
		run := exec.Command("cp", from, in+"/bin/"+to)
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	var deeds strings.Builder
	for _, d := range cutDeeds {
		if d.remove {
			fmt.Fprintf(&deeds, "rm --sync %s\n", cutName(d.image))
		} else {
			fmt.Fprintf(&deeds, "import --snapshotter mini /in/image-%d.tar\n", d.image)
		}
	}
	s.config.Root, s.config.Address = "/cut/mini", "/run/mini/s.sock"
	durable := os.Getenv("MINI_TEST_POWER_CUTS_UNDURABLE") == ""
	for name, text := range map[string]string{
		"live": cutLife, "deeds": deeds.String(),
		"config.toml": daemon.Config("/run/c", daemon.Options{Version: "2.4", Root: "/cut/containerd", Config: s.dropIn("2.4")}),
		"mini.toml":   fmt.Sprintf("root = %q\naddress = %q\ndurable = %t\n", s.config.Root, s.config.Address, durable),
	} {
		must(t, os.WriteFile(in+"/"+name, []byte(text), 0o644))
	}
	for i, archive := range archives {
		must(t, os.Rename(archive, fmt.Sprintf("%s/image-%d.tar", in, i)))
		archives[i] = fmt.Sprintf("%s/image-%d.tar", in, i)
	}
}

// afterCut starts the snapshotter and containerd on a crash image, after so many deeds.
func afterCut(t *testing.T, image string, done int, archives, sums []string) {
	at := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Fatalf("the journal: %v: %s", err, out)
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	s := newService(t)
	s.config.Root = at + "/mini"
	found, err := snapshotter.Fsck(s.config, false)
	must(t, err)
	t.Logf("%d deeds; found before the start: %q", done, found)
	t.Cleanup(func() { // when both have ended
		if found, err := snapshotter.Fsck(s.config, false); err != nil || len(found) > 0 {
			t.Errorf("fsck: %v: %q", err, found)
		}
	})
	s.serve()
	t.Cleanup(func() { s.end(syscall.SIGTERM) })
	d := daemon.Start(t, daemon.Options{Version: "2.4", Root: at + "/containerd", Config: s.dropIn("2.4")})
	t.Cleanup(func() { _ = os.Remove("/sys/fs/cgroup/cut") })
	ctr := func(args ...string) string {
		t.Helper()
		return d.Ctr(append([]string{"-n", "cut"}, args...)...)
	}
	runs := func(i int) {
		t.Helper()
		got := ctr("run", "--rm", "--snapshotter", "mini", "--runtime", daemon.Runtime(), cutName(i), fmt.Sprint("box-", i),
			"/bin/busybox", "sh", "-c", "busybox find /bin /d -type f | busybox sort | busybox xargs busybox sha256sum")
		if got != sums[i] {
			t.Errorf("%s holds\n%swant\n%s", cutName(i), got, sums[i])
		}
	}

	there := make(map[int]bool)
	for _, deed := range cutDeeds[:done] {
		there[deed.image] = !deed.remove
	}
	unanswered := -1
	if done < len(cutDeeds) {
		unanswered = cutDeeds[done].image
	}
	names := strings.Fields(ctr("images", "ls", "-q"))
	for i := range archives {
		switch is := slices.Contains(names, cutName(i)); {
		case i == unanswered:
		case is != there[i]:
			t.Errorf("%s: there: %t, want %t", cutName(i), is, there[i])
		case is:
			runs(i)
		}
	}
	// Layers that are there are not unpacked again: a half one would show now.
	for i, archive := range archives {
		ctr("images", "import", "--snapshotter", "mini", archive)
		runs(i)
	}

	snapshots := func() (ours, theirs int) {
		var table strings.Builder
		must(t, snapshotter.List(context.Background(), s.config.Address, &table))
		return strings.Count(table.String(), "\n") - 1, strings.Count(ctr("snapshots", "--snapshotter", "mini", "ls"), "\n") - 1
	}
	eventually(t, "what containerd does not know is gone", func() bool {
		ours, theirs := snapshots()
		return ours == theirs
	})
	// Nor is there anything that cannot be removed. What was unpacked when the power went has a lease for a day.
	for _, lease := range strings.Fields(ctr("leases", "ls", "-q")) {
		ctr("leases", "rm", lease)
	}
	for i := range archives {
		ctr("images", "rm", "--sync", cutName(i))
	}
	eventually(t, "all is deleted", func() bool {
		left, _ := filepath.Glob(s.config.Root + "/[st][nr]a*/*")
		return len(left) == 0
	})
}
