package snapshotter

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// chain is the chain id of a layer upon another.
func chain(parent, diff string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(parent+" "+diff)))
}

const diff = "sha256:dddd"

// unpack are the deeds of containerd's unpacker for the layer diff upon parent.
func unpack(unique, parent string) (prepared, committed deed, name string) {
	name = "ns/9/" + chain(parent, diff)
	labels := map[string]string{snapshots.LabelSnapshotDiffID: diff}
	key := "ns/8/extract-" + unique + " " + chain(parent, diff)
	return prepare(key, "", labels),
		commit(name, key, snapshots.WithParent(parent), snapshots.WithLabels(labels)), name
}

// sharedLife has two images with a layer in common, of which the first goes.
func sharedLife() []deed {
	prepareA, commitA, a := unpack("a", "base")
	prepareB, commitB, b := unpack("b", "second")
	return []deed{prepareA, commitA, prepareB, commitB, remove(a), prepare("on-b", b, nil), remove("on-b"), remove(b)}
}

func TestLayerIsStoredOnce(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	s := open(t, root)
	layerOf(t, s, "base", "", "f", "x")
	layerOf(t, s, "second", "base", "g", "x")
	prepareA, commitA, a := unpack("a", "base")
	prepareB, commitB, b := unpack("b", "second")
	must(t, prepareA.do(s))
	must(t, commitA.do(s))
	must(t, prepareB.do(s))
	must(t, commitB.do(s))
	if to, err := os.Readlink(s.dirs.snapshot("4")); err != nil || to != "3" {
		t.Fatalf("%q, %v", to, err)
	}
	ofA, err := s.Usage(ctx, a)
	must(t, err)
	if ofB, err := s.Usage(ctx, b); err != nil || ofB != ofA {
		t.Errorf("%v, %v, want %v", ofB, err, ofA)
	}
	must(t, s.Remove(ctx, a))
	must(t, s.Close())
	s = open(t, root)
	if !exists(s.dirs.fs("4") + "/dir") {
		t.Error("the files went with their first owner")
	}
	prepareC, commitC, c := unpack("c", "base") // from the second owner
	must(t, prepareC.do(s))
	must(t, commitC.do(s))
	must(t, s.Remove(ctx, b))
	if !exists(s.dirs.fs("5") + "/dir") {
		t.Error("the files went with their second owner")
	}
	must(t, s.Remove(ctx, c))
	if got := names(t, s.dirs.snapshots()); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("left: %q", got)
	}
}

// A label that does not fit the chain proves nothing.
func TestDiffIDIsProven(t *testing.T) {
	labels := map[string]string{snapshots.LabelSnapshotDiffID: diff}
	if got, ok := diffID("ns/1/"+chain("p", diff), "ns/7/p", labels); !ok || got != diff {
		t.Errorf("%q, %v", got, ok)
	}
	for _, test := range [][2]string{{"ns/1/" + chain("p", "sha256:eeee"), "p"}, {"ns/1/" + diff, ""}, {"x", "p"}} {
		if _, ok := diffID(test[0], test[1], labels); ok {
			t.Errorf("%q", test)
		}
	}
}
