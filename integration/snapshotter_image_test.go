package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const imageName = "mini.test/whiteouts:latest"

// whiteoutLayers have a whiteout or an opaque directory each, of what is below, of what is not there,
// and of what a later layer brings back. A name that ends in / is a directory.
var whiteoutLayers = []string{
	"a/ a/x a/y a/z b/ b/1 b/2 c d/ d/e/ d/e/f s/ s/.wh.t",
	".wh.c a/ a/.wh.x b/ b/.wh..wh..opq b/3",
	"a/ a/.wh.y a/x n/ n/f n/.wh.none d/ d/.wh.e",
	".wh.b d/ d/e/ d/e/g o/ o/.wh..wh..opq o/1",
	"b/ b/4 a/ a/.wh..wh..opq a/w o/ o/.wh.1 o/2",
	".wh.gone o/ o/3",
}

// whiteoutImage writes an archive of an image with these layers. Its lowest layer has a file more, so
// that images of different kinds have the other layers in common.
func whiteoutImage(t *testing.T, kind string) string {
	t.Helper()
	layers := make([][]byte, len(whiteoutLayers))
	for i, names := range whiteoutLayers {
		if i == 0 {
			names += " kind-" + kind
		}
		layers[i] = tarOf(t, strings.Fields(names), strings.Repeat("x", i+1))
	}
	return imageOf(t, imageName, layers)
}

// tarOf makes a layer of files that all hold text.
func tarOf(t *testing.T, names []string, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}
		switch {
		case strings.HasSuffix(name, "/"):
			h = tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}
		case strings.Contains(name, ".wh."):
			h.Size = 0
		}
		must(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := w.Write([]byte(text))
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

// imageOf writes an OCI archive of an image.
func imageOf(t *testing.T, name string, layers [][]byte) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	file := func(name string, data []byte) {
		must(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}))
		_, err := w.Write(data)
		must(t, err)
	}
	seen := make(map[digest.Digest]bool)
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := digest.FromBytes(data)
		if !seen[d] {
			seen[d] = true
			file("blobs/sha256/"+d.Encoded(), data)
		}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		must(t, err)
		return data
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layer))
		manifest.Layers = append(manifest.Layers, blob(ocispec.MediaTypeImageLayer, layer))
	}
	manifest.Config = blob(ocispec.MediaTypeImageConfig, encode(config))
	root := blob(ocispec.MediaTypeImageManifest, encode(manifest))
	root.Platform = &config.Platform
	root.Annotations = map[string]string{"io.containerd.image.name": name}
	file(ocispec.ImageIndexFile, encode(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{root},
	}))
	file(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	must(t, w.Close())
	archive := t.TempDir() + "/image.tar"
	must(t, os.WriteFile(archive, b.Bytes(), 0o644))
	return archive
}

// registry serves an archive of imageOf as registries do (distribution-spec, "Pulling"), and gives the name
// to pull.
func registry(t *testing.T, archive string) (name string) {
	t.Helper()
	f, err := os.Open(archive)
	must(t, err)
	defer f.Close()
	blobs := make(map[string][]byte)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		data, err := io.ReadAll(r)
		must(t, err)
		blobs[digest.FromBytes(data).String()] = data
		if h.Name == ocispec.ImageIndexFile {
			blobs["latest"] = data
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := blobs[path.Base(r.URL.Path)]
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
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/whiteouts:latest"
}

func chainID(diffs []digest.Digest) string { return identity.ChainID(diffs).String() }
