// Package powercut makes, for tests, what a machine that loses its power leaves on its disk. A guest lives
// on a disk whose every write, and every flush of its cache, QEMU logs (Args). After each deed that was
// answered the guest writes "done N\n", N being its number, to the disk's last sector, outside the file
// system. From the log come crash images: all that a flush covered, and of what was written since each write or
// not, or torn. On each there has to be what was answered by then.
package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
)

// Sector is the unit of a disk, and the size of what is outside of the file system.
const Sector = 512

const mebi = 1 << 20

// Args are QEMU's: a virtio disk with a serial number, on a file, with a log in another. Not NVMe: what that
// emulates may lose a write that was to be durable by itself.
func Args(serial, disk, log string) string {
	return "-blockdev driver=blklogwrites,node-name=" + serial + ",file.driver=file,file.filename=" + disk +
		",log.driver=file,log.filename=" + log + ",log-sector-size=512 -device virtio-blk-pci,drive=" + serial + ",serial=" + serial
}

// Make makes a disk of a size, with a file system made by mkfs, as it is when nothing has been done: base, which
// stays so, its copy disk, and an empty log.
func Make(base, disk, log string, size int64, mkfs ...string) error {
	for file, size := range map[string]int64{base: size - mebi, log: 1 << 30} {
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
			return err
		}
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], base)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", mkfs[0], err, out)
	}
	if err := os.Truncate(base, size); err != nil { // the end is no part of the file system
		return err
	}
	return clone(base, disk)
}

func clone(from, to string) error {
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return nil
}

// A Log is what a disk of a size was told, in order.
type Log struct {
	size   int64
	writes []write
}

// A write is an entry of the log, whose form is that of dm-log-writes: Documentation/admin-guide/
// device-mapper/log-writes.rst.
type write struct {
	at, flags uint64
	data      []byte
}

const (
	flush   = 1
	fua     = 2
	discard = 4
)

// ReadLog reads the log of a disk.
func ReadLog(path string, size int64) (*Log, error) {
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
	if super.Magic != 0x6a736677736872 || super.SectorSize != Sector {
		return nil, fmt.Errorf("%s: not a log of writes: %x", path, super)
	}
	if _, err := f.Seek(Sector, io.SeekStart); err != nil {
		return nil, err
	}
	l := &Log{size: size}
	for range super.Entries {
		header := make([]byte, Sector)
		if _, err := io.ReadFull(f, header); err != nil {
			return nil, err
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(header[8*i:]) }
		w := write{at: word(0) * Sector, flags: word(2), data: make([]byte, word(1)*Sector)}
		if w.flags&discard == 0 {
			if _, err := io.ReadFull(f, w.data); err != nil {
				return nil, err
			}
		}
		l.writes = append(l.writes, w)
	}
	return l, nil
}

// Answered is where the last sector of a disk of a size begins.
func Answered(size int64) int64 { return size - Sector }

// done is the number of deeds that an entry says are answered, 0 if it says nothing.
func (l *Log) done(w write) (n int) {
	if int64(w.at) == Answered(l.size) && len(w.data) > 0 {
		_, _ = fmt.Sscanf(string(w.data), "done %d\n", &n)
	}
	return n
}

// Cuts are n places in the log, spread over it and not in step with the deeds, all of them after the first
// answer.
func (l *Log) Cuts(n int, random *rand.Rand) ([]int, error) {
	all := len(l.writes)
	first := all
	for i := all - 1; i >= 0; i-- {
		if l.done(l.writes[i]) > 0 {
			first = i + 1
		}
	}
	if first >= all {
		return nil, errors.New("nothing was answered")
	}
	cuts := make([]int, n)
	for i := range cuts {
		cuts[i] = first + (all-first)*(i+1)/n - random.IntN(max(1, (all-first)/n))
	}
	return cuts, nil
}

// Image writes the disk as it may be when the power goes after the first k entries, and gives how many deeds
// were answered by then.
func (l *Log) Image(path, base string, k int, random *rand.Rand) (done int, err error) {
	if err := clone(base, path); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	flushed := 0
	for i, w := range l.writes[:k] {
		if w.flags&flush != 0 {
			flushed = i
		}
	}
	for i, w := range l.writes[:k] {
		if n := l.done(w); n > 0 {
			done = n
			continue
		}
		data := w.data
		if i > flushed && w.flags&fua == 0 {
			switch r := random.IntN(10); {
			case r < 4:
				continue
			case r == 4 && len(data) > Sector:
				data = data[:(1+random.IntN(len(data)/Sector-1))*Sector]
			}
		}
		if _, err := f.WriteAt(data, int64(w.at)); err != nil {
			return 0, err
		}
	}
	if done == 0 {
		return 0, errors.New("nothing was answered")
	}
	return done, nil
}
