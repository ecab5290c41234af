package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/hack/powercut"
)

// What a machine that loses its power leaves on its disk, as package powercut says. A guest lives deeds of
// images; on each crash image the snapshotter has to find what was answered by then.

const cutDeeds = 60

// A cutDisk has a file system, and at its end a sector that says how many deeds are answered.
type cutDisk struct {
	name string
	fs   string
	size int64
	mkfs string
	fsck string // what has to be run before it can be mounted again, with 1 for what it mended
}

// The smallest that each makes.
var cutDisks = []cutDisk{
	{"ext4", "ext4", 128 * mebi, "mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0", ""},
	{"ext4 without journal", "ext4", 128 * mebi, "mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0", "e2fsck -fy"},
	{"btrfs", "btrfs", 128 * mebi, "mkfs.btrfs -q", ""},
	{"xfs", "xfs", 320 * mebi, "mkfs.xfs -q", ""},
}

// A layerDeed is a deed on a layer, with what is there when it is done.
type layerDeed struct {
	deed
	name   string // of the layer
	remove bool
}

// powerDeeds commit a chain of layers, with some that are thrown away between. A deed that prepares is
// part of the one that commits.
func powerDeeds(n int) (all []layerDeed) {
	parent := ""
	for i := range n {
		name, below := fmt.Sprintf("layer-%d", i), parent
		all = append(all, layerDeed{name: name, deed: deed{"commit", func(s *Snapshotter) error {
			key := "key-" + name
			if err := second(s.Prepare(ctx, key, below)); err != nil {
				return err
			}
			id, _, err := s.committable(ctx, name, key)
			if err != nil {
				return err
			}
			if err := writeLayerFiles(s.dirs.fs(id), name); err != nil {
				return err
			}
			return s.Commit(ctx, name, key)
		}}})
		if i%3 == 2 {
			all = append(all, layerDeed{name: name, remove: true, deed: remove(name)})
		} else {
			parent = name
		}
	}
	return all
}

// layerFiles are the files of a layer: small ones, a large one, an empty one, one further down.
func layerFiles(name string) map[string]string {
	return map[string]string{
		"name": name, "empty": "", "etc/deep/down/conf": strings.Repeat(name, 100),
		"usr/big": strings.Repeat(name+"\n", 20000), "usr/small": strings.Repeat("x", 5000),
	}
}

func writeLayerFiles(dir, name string) error {
	for file, text := range layerFiles(name) {
		if err := os.MkdirAll(filepath.Dir(dir+"/"+file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(dir+"/"+file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Symlink("name", dir+"/link")
}

func init() {
	// cut NAME DURABLE: live on the disk whose serial number is "cut".
	helpers["cut"] = func(args []string) {
		d := cutDisks[slices.IndexFunc(cutDisks, func(d cutDisk) bool { return d.name == args[0] })]
		if err := d.live("cut", args[1] == "true"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func (d cutDisk) live(serial string, durable bool) error {
	var device string
	disks, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return err
	}
	for _, disk := range disks {
		if text, err := os.ReadFile(disk); err == nil && strings.TrimSpace(string(text)) == serial {
			device = "/dev/" + filepath.Base(filepath.Dir(disk))
		}
	}
	// Not O_DSYNC: that would flush the cache for all others.
	disk, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	sector, err := unix.Mmap(-1, 0, powercut.Sector, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return err
	}
	if err := os.Mkdir("/cut", 0o700); err != nil {
		return err
	}
	if err := unix.Mount(device, "/cut", d.fs, 0, ""); err != nil {
		return err
	}
	c := DefaultConfig()
	c.Root, c.Durable = "/cut/root", durable
	s, err := Open(c)
	if err != nil {
		return err
	}
	for i, deed := range powerDeeds(cutDeeds) {
		if err := deed.do(s); err != nil {
			return fmt.Errorf("%d: %w", i, err)
		}
		copy(sector, fmt.Sprintf("done %d\n", i+1))
		if _, err := disk.WriteAt(sector, powercut.Answered(d.size)); err != nil {
			return err
		}
		// Somebody else writes, and waits for nothing.
		if err := os.WriteFile(fmt.Sprintf("/cut/junk-%d", i%5), bytes.Repeat([]byte{1}, 50000), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// MINI_TEST_POWER_CUTS is the number of crash images. MINI_TEST_POWER_CUTS_UNDURABLE=1 shows that the test
// can fail: layers are not synced then.
func TestPowerCut(t *testing.T) {
	needRoot(t)
	images, err := strconv.Atoi(os.Getenv("MINI_TEST_POWER_CUTS"))
	if err != nil || images < 1 {
		t.Skipf("%s: boots a guest: set MINI_TEST_POWER_CUTS to a number of crash images; make vm-test does", t.Name())
	}
	for _, d := range cutDisks {
		t.Run(d.name, func(t *testing.T) { d.powerCuts(t, images) })
	}
}

func (d cutDisk) powerCuts(t *testing.T, images int) {
	mkfs := strings.Fields(d.mkfs)
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skipf("%s: needs %s", t.Name(), mkfs[0])
	}
	dir := t.TempDir()
	base, disk, log := dir+"/base", dir+"/disk", dir+"/log"
	must(t, powercut.Make(base, disk, log, d.size, mkfs...))
	at := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro", "-t", d.fs, base, at).CombinedOutput(); err != nil {
		t.Skipf("%s: needs loop devices and %s, to look at what is left: %v: %s", t.Name(), d.fs, err, out)
	}
	must(t, unix.Unmount(at, 0))
	self, err := os.Readlink("/proc/self/exe")
	must(t, err)
	for _, command := range [][]string{{"mkdir", dir + "/in"}, {"cp", self, dir + "/in/test"}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	durable := os.Getenv("MINI_TEST_POWER_CUTS_UNDURABLE") == ""
	run := exec.Command("../hack/vm/run", "-t", "900", "-r", dir+"/in:/in", "-e", envInside+"=1",
		"-q", powercut.Args("cut", disk, log),
		"--", "sh", "-c", "cp /in/test /tmp/test && exec /tmp/test cut '"+d.name+"' "+fmt.Sprint(durable))
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	entries, err := powercut.ReadLog(log, d.size)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2)) // reproducible
	cuts, err := entries.Cuts(images, random)
	must(t, err)
	for _, k := range cuts {
		t.Run(fmt.Sprintf("entry %d", k), func(t *testing.T) {
			image := dir + "/image"
			done, err := entries.Image(image, base, k, random)
			must(t, err)
			if fsck := strings.Fields(d.fsck); len(fsck) > 0 {
				out, err := exec.Command(fsck[0], append(fsck[1:], image)...).CombinedOutput()
				if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			afterCut(t, image, done)
		})
	}
}

// afterCut looks at a crash image after so many deeds.
func afterCut(t *testing.T, image string, done int) {
	mounted := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, mounted).CombinedOutput(); err != nil {
		t.Fatalf("the journal: %v: %s", err, out)
	}
	defer func() { must(t, unix.Unmount(mounted, 0)) }()
	root := mounted + "/root"
	found, err := Fsck(at(root), false)
	must(t, err)
	s := open(t, root)
	defer func() { must(t, s.Close()) }()

	want := make(map[string]bool)
	deeds := powerDeeds(cutDeeds)
	for _, d := range deeds[:done] {
		want[d.name] = !d.remove
	}
	unanswered := ""
	if done < len(deeds) {
		unanswered = deeds[done].name
	}
	inv, err := takeStock(s.dirs, s.store)
	must(t, err)
	there := make(map[string]bool)
	for id, info := range inv.records {
		if !strings.HasPrefix(info.Name, "layer-") {
			continue // active, of the deed that was cut short
		}
		there[info.Name] = true
		for file, text := range layerFiles(info.Name) {
			if got, err := os.ReadFile(s.dirs.fs(id) + "/" + file); err != nil || string(got) != text {
				t.Errorf("%s: %s has %d bytes of %d, %v", info.Name, file, len(got), len(text), err)
			}
		}
		if to, err := os.Readlink(s.dirs.fs(id) + "/link"); err != nil || to != "name" {
			t.Errorf("%s: link: %q, %v", info.Name, to, err)
		}
	}
	for name, is := range want {
		if there[name] != is && name != unanswered {
			t.Errorf("%s: there: %v, want %v", name, there[name], is)
		}
	}
	for name := range there {
		if !want[name] && name != unanswered {
			t.Errorf("%s is there and should not be", name)
		}
	}
	must(t, s.trash.empty())
	if found, broken := check(s.dirs, inv); len(found)+len(broken) > 0 {
		t.Errorf("fsck after the start: %q", found)
	}
	layerOf(t, s, "new", "layer-0", "f", "x")
	t.Logf("%d deeds, %d layers; found before the start: %q", done, len(there), found)
}
