package snapshotter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

func TestMountsArePure(t *testing.T) {
	base := description{
		upper: "/s/9/fs", work: "/s/9/work", empty: "/e", options: []string{"volatile", "index=off"},
	}
	with := func(change func(*description)) description {
		d := base
		change(&d)
		return d
	}
	for _, test := range []struct {
		name string
		d    description
		want string
	}{
		{"active without parent", with(func(d *description) { d.kind = snapshots.KindActive }),
			"bind /s/9/fs rw,rbind"},
		{"view without parent", with(func(d *description) { d.kind = snapshots.KindView }),
			"bind /s/9/fs ro,rbind"},
		{"view of one", with(func(d *description) { d.kind, d.lowers = snapshots.KindView, []string{"/s/1/fs"} }),
			"bind /s/1/fs ro,rbind"},
		{"view of two", with(func(d *description) { d.kind, d.lowers = snapshots.KindView, []string{"/s/2/fs", "/s/1/fs"} }),
			"overlay overlay lowerdir=/s/2/fs:/s/1/fs,index=off"},
		{"active of one", with(func(d *description) { d.kind, d.lowers = snapshots.KindActive, []string{"/s/1/fs"} }),
			"overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/1/fs,volatile,index=off"},
		{"extract", with(func(d *description) { d.kind, d.extract = snapshots.KindActive, true }),
			"overlay overlay workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/e,index=off"},
		{"staged", with(func(d *description) { d.kind, d.extract, d.staged = snapshots.KindActive, true, true }),
			"bind /s/9/fs ro,rbind"},
		{"in a user namespace", with(func(d *description) {
			d.kind, d.lowers, d.uidmap, d.gidmap = snapshots.KindActive, []string{"/s/1/fs"}, "0:1:2", "0:3:4"
		}), "overlay overlay uidmap=0:1:2,gidmap=0:3:4,workdir=/s/9/work,upperdir=/s/9/fs,lowerdir=/s/1/fs,volatile,index=off"},
	} {
		m := test.d.mount()
		if got := fmt.Sprintf("%s %s %s", m.Type, m.Source, strings.Join(m.Options, ",")); got != test.want {
			t.Errorf("%s:\nhave %s\nwant %s", test.name, got, test.want)
		}
	}
}

func TestOverlayExtract(t *testing.T) {
	labels := map[string]string{snapshots.LabelSnapshotDiffID: "sha256:aa"}
	for _, test := range []struct {
		info snapshots.Info
		want bool
	}{
		{snapshots.Info{Name: "k8s.io/12/extract-123-_-- sha256:bb", Labels: labels}, true},
		{snapshots.Info{Name: "k8s.io/12/extract-123-AbCd sha256:bb"}, true},
		{snapshots.Info{Name: "extract-123 sha256:bb"}, true},
		{snapshots.Info{Name: "k8s.io/12/extract-123 sha256:aa", Labels: labels}, false}, // the lowest layer
		{snapshots.Info{Name: "k8s.io/12/extract-123 sha256:bb", Parent: "p"}, false},
		{snapshots.Info{Name: "k8s.io/12/extractor sha256:bb"}, false},
		{snapshots.Info{Name: "k8s.io/12/box"}, false},
	} {
		test.info.Kind = snapshots.KindActive
		if got := overlayExtract(test.info); got != test.want {
			t.Errorf("%+v: %v", test.info, got)
		}
	}
}

func TestChooseOptions(t *testing.T) {
	kernel := map[string]string{"index": "N", "metacopy": "Y", "redirect_dir": "Y"}
	lookup := func(name string) string { return kernel[name] }
	if got := fmt.Sprint(chooseOptions(false, lookup)); got != "[index=off metacopy=off redirect_dir=off]" {
		t.Error(got)
	}
	if got := fmt.Sprint(chooseOptions(true, lookup)); got != "[index=off userxattr]" {
		t.Error(got)
	}
	if got := chooseOptions(false, func(string) string { return "" }); len(got) != 0 {
		t.Error(got)
	}
	f := Features{options: []string{"index=off", "redirect_dir=off"}}
	if got := fmt.Sprint(f.overlayOptions([]string{"volatile", "index=on"})); got != "[volatile index=on redirect_dir=off]" {
		t.Error(got)
	}
}
