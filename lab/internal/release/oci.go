package release

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/kube-router/kube-router/lab/internal/stamp"
)

// ociImage is an image of one platform.
type ociImage struct {
	Names      []string // full references
	Platform   Platform
	Version    string
	Time       time.Time
	Layers     []string // tar files
	Entrypoint []string
}

// What the OCI image specification calls them.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type object = map[string]any

// writeOCI writes an image as an OCI layout in a tar file, which also has the
// manifest that docker load reads.
func writeOCI(path string, img ociImage) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	a := archive{tar: tar.NewWriter(buffered), time: img.Time, have: map[string]bool{}}
	if err := errors.Join(a.add(img), a.tar.Close(), buffered.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write image %s: %w", path, err)
	}
	return nil
}

type archive struct {
	tar  *tar.Writer
	time time.Time
	have map[string]bool
}

func (a archive) add(img ociImage) error {
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	var layers []object
	var diffs, paths []string
	var history []object
	for _, path := range img.Layers {
		diff, err := stamp.FileDigest(path)
		if err != nil {
			return err
		}
		packed, err := compress(path)
		if err != nil {
			return err
		}
		layer, err := a.blob(typeLayer, packed)
		if err != nil {
			return err
		}
		layers, diffs = append(layers, layer), append(diffs, "sha256:"+diff)
		paths = append(paths, blobPath(packed))
		history = append(history, object{"created": a.stamp(), "created_by": "kube-router release"})
	}
	platform := object{"architecture": img.Platform.Arch, "os": "linux"}
	if img.Platform.Variant != "" {
		platform["variant"] = img.Platform.Variant
	}
	settings := object{
		"created": a.stamp(),
		"config": object{
			"Entrypoint": img.Entrypoint, "Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			"Labels": labels(img),
		},
		"rootfs": object{"type": "layers", "diff_ids": diffs}, "history": history,
	}
	for name, value := range platform {
		settings[name] = value
	}
	text, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	config, err := a.blob(typeConfig, text)
	if err != nil {
		return err
	}
	manifest, err := a.json(typeManifest, object{"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": layers})
	if err != nil {
		return err
	}
	return a.index(img, manifest, platform, blobPath(text), paths)
}

// index writes what tools look at first: OCI's, and docker's.
func (a archive) index(img ociImage, manifest, platform object, config string, layers []string) error {
	var named []object
	for _, name := range img.Names {
		entry := object{"platform": platform, "annotations": object{
			"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name[bytes.LastIndexByte([]byte(name), ':')+1:],
		}}
		for key, value := range manifest {
			entry[key] = value
		}
		named = append(named, entry)
	}
	text, err := json.Marshal(object{"schemaVersion": 2, "mediaType": typeIndex, "manifests": named})
	if err != nil {
		return err
	}
	docker, err := json.Marshal([]object{{"Config": config, "RepoTags": img.Names, "Layers": layers}})
	if err != nil {
		return err
	}
	return errors.Join(a.file("index.json", text), a.file("manifest.json", docker))
}

func labels(img ociImage) object {
	return object{
		"org.opencontainers.image.title":   "kube-router",
		"org.opencontainers.image.version": img.Version,
		"org.opencontainers.image.source":  "https://github.com/kube-router/kube-router",
	}
}

func (a archive) stamp() string { return a.time.UTC().Format(time.RFC3339) }

func (a archive) json(mediaType string, value any) (object, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return a.blob(mediaType, text)
}

// blob adds a blob and returns its descriptor.
func (a archive) blob(mediaType string, data []byte) (object, error) {
	path := blobPath(data)
	d := object{"mediaType": mediaType, "digest": "sha256:" + digest(data), "size": len(data)}
	if a.have[path] {
		return d, nil
	}
	a.have[path] = true
	return d, a.file(path, data)
}

func (a archive) file(name string, data []byte) error {
	if err := a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: a.time}); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}

func blobPath(data []byte) string { return "blobs/sha256/" + digest(data) }

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// compress packs a file. gzip puts neither name nor date into it.
func compress(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, f); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}
