package snapshotter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a machine that loses its power leaves on its disk. A guest lives deeds of images on a disk whose
// every write, and every flush of its cache, QEMU logs (blklogwrites). After each deed that was answered
// the guest writes its number to the disk's last sector, outside the file system. From the log come crash
// images: all that a flush covered, and of what was written since each write or not, or torn. On each the
// snapshotter has to find what was answered by then.

const (
	cutSector = 512
	cutDeeds  = 60
)

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

// answered is where the last sector begins.
func (d cutDisk) answered() uint64 { return uint64(d.size) - cutSector }

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
	sector, err := unix.Mmap(-1, 0, cutSector, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
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
		if _, err := disk.WriteAt(sector, int64(d.answered())); err != nil {
			return err
		}
		// Somebody else writes, and waits for nothing.
		if err := os.WriteFile(fmt.Sprintf("/cut/junk-%d", i%5), bytes.Repeat([]byte{1}, 50000), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// A diskWrite is an entry of the log, whose form is that of dm-log-writes: Documentation/admin-guide/
// device-mapper/log-writes.rst.
type diskWrite struct {
	at, flags uint64
	data      []byte
}

const (
	logFlush   = 1
	logFUA     = 2
	logDiscard = 4
)

func readLog(path string) (all []diskWrite, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var super struct {
		Magic, Version, Entries uint64
		SectorSize              uint32
	}
	if err := binary.Read(f, binary.LittleEndian, &super); err != nil {
		return nil, err
	}
	if super.Magic != 0x6a736677736872 || super.SectorSize != cutSector {
		return nil, fmt.Errorf("%s: not a log of writes: %x", path, super)
	}
	if _, err := f.Seek(cutSector, io.SeekStart); err != nil {
		return nil, err
	}
	for range super.Entries {
		header := make([]byte, cutSector)
		if _, err := io.ReadFull(f, header); err != nil {
			return nil, err
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(header[8*i:]) }
		w := diskWrite{at: word(0) * cutSector, flags: word(2), data: make([]byte, word(1)*cutSector)}
		if w.flags&logDiscard == 0 {
			if _, err := io.ReadFull(f, w.data); err != nil {
				return nil, err
			}
		}
		all = append(all, w)
	}
	return all, nil
}

// done is the number of deeds that an entry says are answered, 0 if it says nothing.
func (d cutDisk) done(w diskWrite) (n int) {
	if w.at == d.answered() && len(w.data) > 0 {
		_, _ = fmt.Sscanf(string(w.data), "done %d\n", &n)
	}
	return n
}

// crashImage writes the disk as it may be when the power goes after the first k entries, and gives how
// many deeds were answered by then.
func (d cutDisk) crashImage(path, base string, log []diskWrite, k int, random *rand.Rand) (done int, err error) {
	if out, err := exec.Command("cp", "--sparse=always", base, path).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("cp: %w: %s", err, out)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	flushed := 0
	for i, w := range log[:k] {
		if w.flags&logFlush != 0 {
			flushed = i
		}
	}
	for i, w := range log[:k] {
		if n := d.done(w); n > 0 {
			done = n
			continue
		}
		data := w.data
		if i > flushed && w.flags&logFUA == 0 {
			switch r := random.IntN(10); {
			case r < 4:
				continue
			case r == 4 && len(data) > cutSector:
				data = data[:(1+random.IntN(len(data)/cutSector-1))*cutSector]
			}
		}
		if _, err := f.WriteAt(data, int64(w.at)); err != nil {
			return 0, err
		}
	}
	return done, nil
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
	for file, size := range map[string]int64{base: d.size - mebi, log: 1 << 30} {
		must(t, os.WriteFile(file, nil, 0o600))
		must(t, os.Truncate(file, size))
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], base)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, os.Truncate(base, d.size)) // the end is no part of the file system
	at := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro", "-t", d.fs, base, at).CombinedOutput(); err != nil {
		t.Skipf("%s: needs loop devices and %s, to look at what is left: %v: %s", t.Name(), d.fs, err, out)
	}
	must(t, unix.Unmount(at, 0))
	self, err := os.Readlink("/proc/self/exe")
	must(t, err)
	for _, command := range [][]string{{"cp", "--sparse=always", base, disk}, {"mkdir", dir + "/in"}, {"cp", self, dir + "/in/test"}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	durable := os.Getenv("MINI_TEST_POWER_CUTS_UNDURABLE") == ""
	run := exec.Command("../hack/vm/run", "-t", "300", "-r", dir+"/in:/in", "-e", envInside+"=1",
		"-q", "-blockdev driver=blklogwrites,node-name=lw,file.driver=file,file.filename="+disk+
			",log.driver=file,log.filename="+log+",log-sector-size=512 -device virtio-blk-pci,drive=lw,serial=cut",
		"--", "sh", "-c", "cp /in/test /tmp/test && exec /tmp/test cut '"+d.name+"' "+fmt.Sprint(durable))
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	entries, err := readLog(log)
	must(t, err)
	first := len(entries)
	for i := len(entries) - 1; i >= 0; i-- {
		if d.done(entries[i]) > 0 {
			first = i + 1
		}
	}
	t.Logf("%d entries, the first deed is answered after %d", len(entries), first)
	if first >= len(entries) {
		t.Fatal("nothing was answered")
	}
	// Reproducible, and not in step with the deeds.
	random := rand.New(rand.NewPCG(1, 2))
	for i := range images {
		k := first + (len(entries)-first)*(i+1)/images - random.IntN(max(1, (len(entries)-first)/images))
		t.Run(fmt.Sprintf("entry %d", k), func(t *testing.T) {
			image := dir + "/image"
			done, err := d.crashImage(image, base, entries, k, random)
			must(t, err)
			if done == 0 {
				t.Fatal("nothing was answered")
			}
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
