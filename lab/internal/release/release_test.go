package release

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var commit = time.Unix(1700000000, 0)

// files reads a tar stream back: texts by name, links as "-> target".
func files(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	all := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(commit) {
			t.Errorf("%s is of %s", h.Name, h.ModTime)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all[h.Name] = string(text)
		if h.Linkname != "" {
			all[h.Name] = "-> " + h.Linkname
		}
	}
}

func root(t *testing.T, entries ...tar.Header) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.Uname // the text, for want of a better place
		h.Uname, h.Size, h.ModTime = "", int64(len(text)), time.Now()
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

const status = `Package: libc6
Status: install ok installed
Source: glibc (2.36)
Architecture: arm64
Version: 2.36-9+deb12u14
Description: GNU C Library
 Version: none of the fields

Package: kmod
Status: install ok installed
Architecture: arm64
Version: 1:30
`

// Programs and licences stay, texts and what apt and dpkg left go; what was
// unpacked is where scanners look.
func TestSlim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layer.tar")
	if _, err := slim(path, root(t,
		tar.Header{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar},
		tar.Header{Name: "./packages", Uname: status},
		tar.Header{Name: "./usr/bin/cp", Uname: "program", Mode: 0o755},
		tar.Header{Name: "./usr/bin/install", Typeflag: tar.TypeLink, Linkname: "./usr/bin/cp"},
		tar.Header{Name: "./usr/share/doc/kmod/copyright", Uname: "licence"},
		tar.Header{Name: "./usr/share/doc/kmod/changelog.gz", Uname: "news"},
		tar.Header{Name: "./usr/share/doc/kmod/examples/copyright", Uname: "example"},
		tar.Header{Name: "./usr/share/man/man1/cp.1.gz", Uname: "manual"},
		tar.Header{Name: "./var/lib/dpkg/status", Uname: "usr-is-merged"},
	), commit); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, want := files(t, f), map[string]string{
		"bin": "-> usr/bin", "usr/bin/cp": "program", "usr/bin/install": "-> usr/bin/cp",
		"usr/share/doc/kmod/copyright": "licence", "var/lib/dpkg/status": status,
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s is %q, want %q", name, got[name], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("the layer has %v", got)
	}
}

func TestPackagesOfDebian(t *testing.T) {
	got, err := parseStatus(status)
	if err != nil {
		t.Fatal(err)
	}
	want := []part{
		{"libc6", "2.36-9+deb12u14", "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=arm64&distro=debian-12&upstream=glibc", "Organization: Debian", ""},
		{"kmod", "1:30", "pkg:deb/debian/kmod@1%3A30?arch=arm64&distro=debian-12", "Organization: Debian", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := parseStatus("\n"); err == nil {
		t.Error("a root without packages passes")
	}
}

// What is written twice is the same, everything is where its digest says, and
// all tools' indexes lead to it.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer.tar")
	if err := os.WriteFile(layer, []byte("a layer"), 0o644); err != nil {
		t.Fatal(err)
	}
	img := ociImage{
		Names: []string{"docker.io/a/b:v1"}, Platform: Platforms()[2], Version: "v1", Time: commit,
		Layers: []string{layer}, Entrypoint: []string{"/program"},
	}
	var twice [2][]byte
	for i := range twice {
		path := filepath.Join(dir, "image.tar")
		if err := writeOCI(path, img); err != nil {
			t.Fatal(err)
		}
		var err error
		if twice[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(twice[0], twice[1]) {
		t.Error("two images of the same differ")
	}
	all := files(t, bytes.NewReader(twice[0]))
	for name, text := range all {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && sum != digest([]byte(text)) {
			t.Errorf("%s has another digest", name)
		}
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Platform    struct{ Architecture, OS, Variant string }
			Annotations map[string]string
		}
	}
	decode(t, all["index.json"], &index)
	m := index.Manifests[0]
	if m.Platform.Architecture != "arm" || m.Platform.Variant != "v7" || m.Annotations["io.containerd.image.name"] != "docker.io/a/b:v1" || m.Annotations["org.opencontainers.image.ref.name"] != "v1" {
		t.Errorf("index: %+v", m)
	}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	decode(t, all[at(m.Digest)], &manifest)
	var config struct {
		Architecture string
		Created      time.Time
		Config       struct{ Entrypoint []string }
		RootFS       struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, all[at(manifest.Config.Digest)], &config)
	if config.Architecture != "arm" || !config.Created.Equal(commit) || config.Config.Entrypoint[0] != "/program" {
		t.Errorf("configuration: %+v", config)
	}
	r, err := gzip.NewReader(strings.NewReader(all[at(manifest.Layers[0].Digest)]))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || string(text) != "a layer" || config.RootFS.DiffIDs[0] != "sha256:"+digest(text) {
		t.Errorf("the layer is %q, %v, and the configuration says %v", text, err, config.RootFS.DiffIDs)
	}
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, all["manifest.json"], &docker)
	if docker[0].Config != at(manifest.Config.Digest) || docker[0].Layers[0] != at(manifest.Layers[0].Digest) || docker[0].RepoTags[0] != "docker.io/a/b:v1" {
		t.Errorf("docker's manifest: %+v", docker)
	}
}

func at(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

// This very test says what it was built from.
func TestModules(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parts, err := modulesOf(self)
	if err != nil {
		t.Fatal(err)
	}
	if parts[0].name != "stdlib" || !strings.HasPrefix(parts[0].purl, "pkg:golang/stdlib@1.") {
		t.Errorf("Go is %v", parts[0])
	}
	for _, p := range parts[1:] {
		if len(p.sha256) != 64 {
			t.Errorf("%s has the checksum %q", p.name, p.sha256)
		}
	}
	if _, err := modulesOf("/etc/hostname"); err == nil {
		t.Error("a file that is no program passes")
	}
}

func TestModuleSum(t *testing.T) {
	const want = "f28eb408c52c5036d8e6966d8a2c2f4d9e1c0d5e8f3b7a6c9d0e1f2a3b4c5d6e"
	raw, err := hex.DecodeString(want)
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString(raw)
	if got, err := moduleSum("h1:" + encoded); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := moduleSum(""); err != nil || got != "" {
		t.Errorf("of a directory: %q, %v", got, err)
	}
	for _, bad := range []string{encoded, "h2:" + encoded, "h1:", "h1:AAAA", "h1:?"} {
		if got, err := moduleSum(bad); err == nil {
			t.Errorf("%q passes as %q", bad, got)
		}
	}
}

// Every part is in the SBOM once, and leads to the file.
func TestSBOM(t *testing.T) {
	a, b := part{"a", "v1", "pkg:golang/a@v1", "", "c0ffee"}, part{"b", "1", "pkg:deb/debian/b@1", "Organization: Debian", ""}
	d := sbom("kube-router-v1-linux-arm", "v1", "abc", "APPLICATION", commit, []part{a, b, a})
	var names, contained []string
	for _, p := range d.Packages {
		names = append(names, fmt.Sprint(p.ID, " ", p.Name, " ", p.Version, " ", p.Checksums))
	}
	for _, r := range d.Relationships {
		contained = append(contained, r.From+" "+r.Type+" "+r.To)
	}
	if got, want := strings.Join(names, "; "), "SPDXRef-Package-0 kube-router v1 [{SHA256 abc}]; SPDXRef-Package-1 b 1 []; SPDXRef-Package-2 a v1 [{SHA256 c0ffee}]"; got != want {
		t.Errorf("packages %s, want %s", got, want)
	}
	if got, want := strings.Join(contained, "; "), "SPDXRef-DOCUMENT DESCRIBES SPDXRef-Package-0; SPDXRef-Package-0 CONTAINS SPDXRef-Package-1; SPDXRef-Package-0 CONTAINS SPDXRef-Package-2"; got != want {
		t.Errorf("relationships %s, want %s", got, want)
	}
	if d.Creation.Created != "2023-11-14T22:13:20Z" || !strings.HasSuffix(d.Namespace, "-abc") {
		t.Errorf("document %+v", d.Creation)
	}
}

// Of what apt prints, the errors tell why there is no image.
func TestComplaints(t *testing.T) {
	const out = "Get:1 http://deb.debian.org/debian bookworm InRelease\nE: Failed to fetch it: File has unexpected size\nReading package lists...\nE: mmdebstrap failed to run\n"
	if got, want := complaints([]byte(out)), "E: Failed to fetch it: File has unexpected size\nE: mmdebstrap failed to run\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := complaints([]byte("killed\n")); got != "killed\n" {
		t.Errorf("got %q", got)
	}
}

// An earlier release goes, and nothing where anything else is.
func TestOut(t *testing.T) {
	const ours = "kube-router-v1-linux-arm"
	for refused, lists := range map[bool][][]string{
		false: {nil, {ours}, {ours + "-image.tar", ours + "-image.tar.spdx.json", "SHA256SUMS"}},
		true:  {{ours, "go.mod"}, {ours, ".git/config"}, {ours + "/text"}, {"kube-router-notes"}},
	} {
		for _, names := range lists {
			dir := t.TempDir()
			for _, name := range names {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			if err := clearOut(dir); (err != nil) != refused {
				t.Errorf("%q: %v", names, err)
			}
			left, err := os.ReadDir(dir)
			if want := len(names); err != nil || refused && len(left) != want || !refused && len(left) > 0 {
				t.Errorf("%q: left are %v, %v", names, left, err)
			}
		}
	}
	made := filepath.Join(t.TempDir(), "a", "b")
	if err := clearOut(made); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(made); err != nil {
		t.Error(err)
	}
}

func TestPlatforms(t *testing.T) {
	if _, err := choose([]string{"amd64", "mips"}); err == nil || !strings.Contains(err.Error(), "mips") {
		t.Errorf("got %v", err)
	}
	if got, err := choose([]string{"arm"}); err != nil || got[0].Debian != "armhf" {
		t.Errorf("got %v, %v", got, err)
	}
}
