package container

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

func TestKernel(t *testing.T) {
	for release, old := range map[string]bool{
		"4.19.0-27-amd64": true, "5.4.0-216-generic": true, "5.10.0-35-cloud-amd64": true, "5.13.19": true,
		"5.14.0-570.el9.x86_64": false, "5.15.0-139-generic": false, "6.1.0-40-amd64": false, "6.18.3+": false, "7.0.0-rc1": false,
	} {
		k, err := parseKernel(release)
		if err != nil {
			t.Fatal(err)
		}
		if err := k.tooOld(); errors.Is(err, errdefs.ErrNotImplemented) != old || !old && err != nil {
			t.Errorf("%s: %v", release, err)
		}
	}
	if _, err := parseKernel("x"); err == nil {
		t.Error("no error")
	}
	if err := Kernel(); err != nil {
		t.Error(err)
	}
}
