package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// entries reads a tar stream back.
func entries(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeSymlink {
			data = []byte("-> " + h.Linkname)
		}
		out[h.Name] = string(data)
	}
}

func digest(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestArchiveReadsBack(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "prog"), "program")
	base, err := LayerOfFiles(filepath.Join(dir, "base.tar"), []File{{From: filepath.Join(dir, "prog"), To: "/opt/cni/bin/prog"}})
	if err != nil {
		t.Fatal(err)
	}
	top, err := LayerOfFiles(filepath.Join(dir, "top.tar"), []File{{From: filepath.Join(dir, "prog"), To: "/pause"}, {Text: "#!/bin/sh\n", To: "/usr/bin/script"}})
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "images.tar")
	if err := WriteArchive(archive, "amd64", []Image{
		{Names: []string{"docker.io/a:1", "docker.io/a:2"}, Layers: []Layer{base}, Cmd: []string{"sh"}},
		{Names: []string{"docker.io/b:1"}, Layers: []Layer{base, top}, Entrypoint: []string{"/pause"}},
	}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	files := entries(t, bytes.NewReader(data))
	var rows []manifestRow
	if err := json.Unmarshal([]byte(files["manifest.json"]), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || !slices.Equal(rows[0].RepoTags, []string{"docker.io/a:1", "docker.io/a:2"}) {
		t.Fatalf("manifest = %+v", rows)
	}
	for _, row := range rows {
		if got := digest(files[row.Config]) + ".json"; got != row.Config {
			t.Errorf("configuration %s has the digest %s", row.Config, got)
		}
		var c config
		if err := json.Unmarshal([]byte(files[row.Config]), &c); err != nil {
			t.Fatal(err)
		}
		for i, l := range row.Layers {
			if got, want := "sha256:"+digest(files[l]), c.RootFS.DiffIDs[i]; got != want {
				t.Errorf("layer %s: digest %s, the configuration says %s", l, got, want)
			}
		}
	}
	layer := entries(t, bytes.NewReader([]byte(files[rows[1].Layers[0]])))
	if layer["opt/cni/bin/prog"] != "program" {
		t.Errorf("the layer holds %v", layer)
	}
	if second := entries(t, bytes.NewReader([]byte(files[rows[1].Layers[1]]))); second["usr/bin/script"] != "#!/bin/sh\n" || second["pause"] != "program" {
		t.Errorf("the second layer holds %v", second)
	}
}

func TestLayerOfTreeHoldsOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write(t, filepath.Join(root, "etc", "kept"), "kept")
	write(t, filepath.Join(root, "etc", "edited"), "old")
	before, err := takeSnapshot(root)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "etc", "edited"), "newer")
	write(t, filepath.Join(root, "srv", "added"), "added")
	if err := os.Symlink("added", filepath.Join(root, "srv", "link")); err != nil {
		t.Fatal(err)
	}
	layer, err := layerOfTree(filepath.Join(dir, "layer.tar"), root, before)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(layer.Path)
	if err != nil {
		t.Fatal(err)
	}
	got := entries(t, bytes.NewReader(data))
	want := map[string]string{"etc/edited": "newer", "srv/": "", "srv/added": "added", "srv/link": "-> added"}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s = %q, want %q", name, got[name], text)
		}
	}
	if _, ok := got["etc/kept"]; ok || len(got) > len(want)+1 {
		t.Errorf("the layer holds more than what changed: %v", got)
	}
}
