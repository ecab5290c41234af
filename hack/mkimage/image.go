package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	_ "crypto/sha256" // go-digest finds it by registration
	"encoding/json"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image is what its archive is made of.
type image struct {
	Name            string
	Layers          []layer
	Env             []string
	Entrypoint, Cmd []string
	User            string
}

// A layer is a list of tar entries.
type layer []entry

type entry struct {
	header tar.Header
	data   string
}

func dir(name string, mode int64) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

func file(name string, mode int64, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data}
}

func symlink(name, target string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

func (e entry) owned(id int) entry {
	e.header.Uid, e.header.Gid = id, id
	return e
}

// write makes the archive: blobs first, and the index that names the image last.
func (i image) write(path string) error {
	var archive layer
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		archive = append(archive, file("blobs/sha256/"+d.Encoded(), 0o644, string(data)))
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}

	config := ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Env: i.Env, Entrypoint: i.Entrypoint, Cmd: i.Cmd, User: i.User},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range i.Layers {
		raw, err := l.tar()
		if err != nil {
			return err
		}
		packed, err := pack(raw)
		if err != nil {
			return err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(raw))
		manifest.Layers = append(manifest.Layers, blob(ocispec.MediaTypeImageLayerGzip, packed))
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	manifest.Config = blob(ocispec.MediaTypeImageConfig, data)
	if data, err = json.Marshal(manifest); err != nil {
		return err
	}
	root := blob(ocispec.MediaTypeImageManifest, data)
	root.Platform = &config.Platform
	root.Annotations = map[string]string{
		"io.containerd.image.name": i.Name, // what ctr image import calls it
		ocispec.AnnotationRefName:  i.Name[strings.LastIndex(i.Name, ":")+1:],
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{root},
	}
	if data, err = json.Marshal(index); err != nil {
		return err
	}
	archive = append(archive,
		file(ocispec.ImageIndexFile, 0o644, string(data)),
		file(ocispec.ImageLayoutFile, 0o644, `{"imageLayoutVersion":"1.0.0"}`))
	if data, err = archive.tar(); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// tar sorts by name, which puts a directory before what is in it.
func (l layer) tar() ([]byte, error) {
	l = slices.Clone(l)
	slices.SortStableFunc(l, func(a, b entry) int { return cmp.Compare(a.header.Name, b.header.Name) })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range l {
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func pack(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
