package image

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Image is one image of an archive.
type Image struct {
	// Names are full references: docker.io/library/busybox:1.36.
	Names      []string
	Layers     []Layer
	Entrypoint []string
	Cmd        []string
}

// path is what the shells of Debian's images have, and / for agnhost, which
// its own image has there.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"

// config is the part of an image's configuration that the lab uses.
type config struct {
	Architecture string       `json:"architecture"`
	OS           string       `json:"os"`
	Config       runConfig    `json:"config"`
	RootFS       rootFS       `json:"rootfs"`
	History      []historyRow `json:"history"`
}

type runConfig struct {
	Entrypoint []string `json:"Entrypoint,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Env        []string `json:"Env"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type historyRow struct {
	CreatedBy string `json:"created_by"`
}

// manifestRow is an element of a docker archive's manifest.json.
type manifestRow struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// WriteArchive writes images in the form of `docker save`, which docker,
// podman, kind and containerd load. Layers in common are stored once.
func WriteArchive(path, architecture string, images []Image) error {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffered)
	if err := errors.Join(addImages(w, architecture, images), w.Close(), buffered.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write image archive %s: %w", path, err)
	}
	return os.Rename(path+".tmp", path)
}

func addImages(w *tar.Writer, architecture string, images []Image) error {
	var manifest []manifestRow
	have := map[string]bool{}
	for _, img := range images {
		row := manifestRow{RepoTags: img.Names}
		for _, l := range img.Layers {
			name := l.Digest + "/layer.tar"
			row.Layers = append(row.Layers, name)
			if have[name] {
				continue
			}
			have[name] = true
			if err := addFile(w, name, l.Path); err != nil {
				return err
			}
		}
		data, err := json.Marshal(configOf(img, architecture))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		row.Config = hex.EncodeToString(sum[:]) + ".json"
		if !have[row.Config] {
			have[row.Config] = true
			if err := addBytes(w, row.Config, data); err != nil {
				return err
			}
		}
		manifest = append(manifest, row)
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	return addBytes(w, "manifest.json", data)
}

func configOf(img Image, architecture string) config {
	c := config{
		Architecture: architecture, OS: "linux",
		Config: runConfig{Entrypoint: img.Entrypoint, Cmd: img.Cmd, Env: []string{path}},
		RootFS: rootFS{Type: "layers"},
	}
	for _, l := range img.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:"+l.Digest)
		c.History = append(c.History, historyRow{CreatedBy: "kube-router lab image"})
	}
	return c
}

func addFile(w *tar.Writer, name, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	return copyInto(w, from)
}

func addBytes(w *tar.Writer, name string, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
