// Command mkimage writes the two images of the tests and the demo as OCI archives, from files that
// are on the machine: no registry is asked.
//
//	busybox.tar  mini.test/busybox:latest  a busybox in three layers, the third with a whiteout
//	pause.tar    mini.test/pause:latest    a sandbox image for the CRI tests
//
// The same input gives the same bytes: entries are sorted, times are zero.
package main

import (
	"flag"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("mkimage: ")
	out := flag.String("o", ".", "write the archives into `directory`")
	busybox := flag.String("busybox", "/bin/busybox", "a static busybox")
	pause := flag.String("pause", "", "a static pause `program`")
	flag.Parse()

	layers, err := busyboxLayers(*busybox)
	if err != nil {
		log.Fatal(err)
	}
	program, err := os.ReadFile(*pause)
	if err != nil {
		log.Fatal(err)
	}
	images := map[string]image{
		"busybox.tar": {
			Name:   "mini.test/busybox:latest",
			Layers: layers,
			Env:    []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd:    []string{"/bin/sh"},
		},
		"pause.tar": {
			Name:       "mini.test/pause:latest",
			Layers:     []layer{{file("pause", 0o755, string(program))}},
			Entrypoint: []string{"/pause"},
			User:       "65535:65535",
		},
	}
	for name, image := range images {
		if err := image.write(filepath.Join(*out, name)); err != nil {
			log.Fatal(err)
		}
	}
}

// busyboxLayers has one thing of each kind that an unpacking has to get right: a layer that adds, one
// that replaces a file and hides a directory's old content, and one that takes a file away.
func busyboxLayers(path string) ([]layer, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, err
	}
	base := layer{
		dir("bin", 0o755), dir("dev", 0o755), dir("etc", 0o755), dir("home", 0o755), dir("opt", 0o755),
		dir("opt/old", 0o755), dir("proc", 0o555), dir("root", 0o700), dir("run", 0o755), dir("sbin", 0o755),
		dir("sys", 0o555), dir("tmp", 0o1777), dir("usr", 0o755), dir("usr/bin", 0o755),
		dir("usr/sbin", 0o755), dir("var", 0o755), dir("var/tmp", 0o1777),
		dir("home/nonroot", 0o750).owned(1000),
		file("bin/busybox", 0o755, string(program)),
		file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"+
			"nobody:x:65534:65534:nobody:/:/bin/false\n"+
			"nonroot:x:1000:1000:nonroot:/home/nonroot:/bin/sh\n"),
		file("etc/group", 0o644, "root:x:0:\ntty:x:5:\nstaff:x:50:nonroot\nnogroup:x:65534:\nnonroot:x:1000:\n"),
		file("etc/motd", 0o644, "layer 1\n"),
		file("opt/gone", 0o644, "layer 1\n"),
		file("opt/old/one", 0o644, "layer 1\n"),
		symlink("var/run", "/run"),
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			base = append(base, symlink("bin/"+applet, "busybox"))
		}
	}
	return []layer{
		base,
		{
			dir("opt/old", 0o755),
			file("opt/old/.wh..wh..opq", 0o644, ""), // image-spec layer.md, opaque whiteout
			file("opt/old/two", 0o644, "layer 2\n"),
			file("etc/motd", 0o644, "layer 2\n"),
		},
		{
			file("opt/.wh.gone", 0o644, ""), // image-spec layer.md, whiteout
			file("etc/os-release", 0o644, "ID=mini\nPRETTY_NAME=\"busybox of the mini tests\"\n"),
		},
	}, nil
}
