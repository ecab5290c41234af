package main

import (
	"strings"
	"testing"

	"github.com/containerd-mini/mini/shim"
)

func TestReport(t *testing.T) {
	ok, note := shim.Finding{What: "kernel 7"}, shim.Finding{What: "no AppArmor", Advice: "a profile is refused"}
	fatal := shim.Finding{What: "user 7", Advice: "run it as root", Fatal: true}
	for _, c := range []struct {
		all       []shim.Finding
		text, err string
	}{
		{[]shim.Finding{ok, note}, "ok    kernel 7\nnote  no AppArmor\n        a profile is refused\n", ""},
		{[]shim.Finding{fatal, ok}, "FAIL  user 7\n        run it as root\nok    kernel 7\n", "doctor: one finding keeps containers from running"},
		{[]shim.Finding{fatal, fatal}, strings.Repeat("FAIL  user 7\n        run it as root\n", 2), "doctor: 2 findings keep containers from running"},
	} {
		var b strings.Builder
		err := report(&b, c.all)
		if b.String() != c.text || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%q, %v; want %q, %q", b.String(), err, c.text, c.err)
		}
	}
}

func TestArguments(t *testing.T) {
	for line, want := range map[string]string{
		"explain":             "explain: want the directory of a bundle",
		"explain a b":         "explain: want the directory of a bundle",
		"features now":        `features: unexpected argument "now"`,
		"version 2":           `version: unexpected argument "2"`,
		"doctor who":          `doctor: unexpected argument "who"`,
		"config kubelet 1":    "config: want containerd and the version of its configuration: 2, 3 or 4",
		"config containerd 5": "configuration version 5: containerd 1.7 has 2, later ones have 3 and 4: invalid argument",
		"snapshotter":         "snapshotter: want ls, usage or fsck",
		"snapshotter eat":     `snapshotter: "eat": want ls, usage or fsck`,
		"snapshotter ls all":  `snapshotter ls: unexpected argument "all"`,
	} {
		if err := run(strings.Fields(line)); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}
