package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// The image that is unpacked: 10 layers of 20 MB in 5,000 files each, not compressed, since
// decompressing is not the snapshotter's.
const (
	layers     = 10
	layerFiles = 5000
	fileSize   = 4000
)

// An exhibit is an image behind a registry.
type exhibit struct {
	blobs map[string][]byte // by digest; the manifest also as "latest"
	diffs []digest.Digest
}

func newExhibit() (*exhibit, error) {
	e := &exhibit{blobs: make(map[string][]byte)}
	config := ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	random := rand.NewChaCha8([32]byte{})
	for i := range layers {
		data, err := layer(i, random)
		if err != nil {
			return nil, err
		}
		d := e.blob(ocispec.MediaTypeImageLayer, data)
		manifest.Layers = append(manifest.Layers, d)
		e.diffs = append(e.diffs, d.Digest)
	}
	config.RootFS.DiffIDs = e.diffs
	data, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	manifest.Config = e.blob(ocispec.MediaTypeImageConfig, data)
	if data, err = json.Marshal(manifest); err != nil {
		return nil, err
	}
	e.blob(ocispec.MediaTypeImageManifest, data)
	e.blobs["latest"] = data
	return e, nil
}

func (e *exhibit) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	e.blobs[d.String()] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// layer writes the archive of a layer: directories of 100 files, some of which are also in the next
// layer.
func layer(i int, random *rand.ChaCha8) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := make([]byte, fileSize)
	for j := range layerFiles {
		dir := fmt.Sprintf("usr/lib/part%d/", (i*40 + j/100))
		if j%100 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		if _, err := random.Read(text); err != nil {
			return nil, err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: dir + fmt.Sprint(j), Mode: 0o644, Size: fileSize}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// ServeHTTP is what a registry answers to a pull: distribution-spec, "Pulling".
func (e *exhibit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	data, ok := e.blobs[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	var kind struct{ MediaType string }
	if strings.Contains(r.URL.Path, "/manifests/") && json.Unmarshal(data, &kind) == nil {
		w.Header().Set("Content-Type", kind.MediaType)
	}
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(data).String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// measureUnpack pulls an image whose content containerd has already, so that unpacking is what takes
// the time.
func (s *stage) measureUnpack() error {
	e, err := newExhibit()
	if err != nil {
		return err
	}
	server := httptest.NewServer(e)
	defer server.Close()
	name := strings.TrimPrefix(server.URL, "http://") + "/exhibit:latest"
	if err := s.pull(name); err != nil { // the content alone
		return err
	}
	t := s.section(fmt.Sprintf("An image of %d layers, %d MB, %d files, through containerd",
		layers, layers*layerFiles*fileSize/1000000, layers*layerFiles), "ms")
	return s.turns(s.real(), func(c contender) error {
		if err := s.quieten(); err != nil {
			return err
		}
		begun := time.Now()
		err := s.pull(name, transferimage.WithUnpack(platforms.DefaultSpec(), c.name))
		if err != nil {
			return err
		}
		t.add("unpack, 4 layers at a time", c, milliseconds(time.Since(begun)))
		unix.Sync()
		t.add("unpack, until all is on disk", c, milliseconds(time.Since(begun)))
		sn := s.stores[c.name].through
		if err := s.whole(sn, e); err != nil {
			return err
		}
		begun = time.Now()
		for i := layers; i > 0; i-- {
			// Without the top nothing refers to those below: containerd's collector, which runs again
			// some time after it has run, may come first.
			if err := sn.Remove(s.ctx, chain(e.diffs[:i])); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		if err := s.collect(); err != nil {
			return err
		}
		t.add("remove, with containerd's collector", c, milliseconds(time.Since(begun)))
		if err := s.quieten(); err != nil {
			return err
		}
		t.add("until its space is free and all is on disk", c, milliseconds(time.Since(begun)))
		return nil
	})
}

func (s *stage) pull(name string, opts ...transferimage.StoreOpt) error {
	// The record of the image, with the content that it refers to, stays.
	from, err := registry.NewOCIRegistry(s.ctx, name, registry.WithDefaultScheme("http"))
	if err != nil {
		return err
	}
	opts = append(opts, transferimage.WithPlatforms(platforms.DefaultSpec()))
	return s.client.Transfer(s.ctx, from, transferimage.NewStore(name, opts...))
}

// whole looks whether all is there.
func (s *stage) whole(sn snapshots.Snapshotter, e *exhibit) error {
	files := int64(0)
	for i := range layers {
		u, err := sn.Usage(s.ctx, chain(e.diffs[:i+1]))
		if err != nil {
			return fmt.Errorf("layer %d: %w; containerd has %q", i, err, s.snapshots(sn))
		}
		files += u.Inodes
	}
	if files < layers*layerFiles {
		return fmt.Errorf("%d files were unpacked", files)
	}
	return nil
}

// snapshots are the names that containerd has.
func (s *stage) snapshots(sn snapshots.Snapshotter) (all []string) {
	_ = sn.Walk(s.ctx, func(_ context.Context, info snapshots.Info) error {
		all = append(all, info.Kind.String()+" "+info.Name)
		return nil
	})
	return all
}

func chain(diffs []digest.Digest) string { return identity.ChainID(diffs).String() }
