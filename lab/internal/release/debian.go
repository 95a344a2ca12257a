package release

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/image"
)

const debianRelease = "bookworm"

// debianPackages are what the image has of Debian, and what the people who
// look into it need. Nothing of them is run to build it: that is how it is built
// for other architectures.
var debianPackages = []string{
	"libc6", "dash", "coreutils", "grep", "sed", "mawk", "tar", // kubectl cp
	"ipvsadm", "iptables", "nftables", "ipset", "iproute2", "conntrack", "kmod",
}

// packageList is the file in the root that tells what was unpacked, in the form
// of dpkg's status: scanners of images find it there.
const packageList = "packages"

const listPackages = `for p in "$1"/var/cache/apt/archives/*.deb; do
	dpkg-deb -f "$p" | sed '1a Status: install ok installed'
	echo
done > "$1/` + packageList + `"`

// complaints are the errors in what apt and mmdebstrap print, or all of it.
func complaints(out []byte) string {
	var list strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "E: ") {
			list.WriteString(line)
		}
	}
	if list.Len() == 0 {
		return string(out)
	}
	return list.String()
}

// debianLayer unpacks Debian's packages into a layer, and says which.
func (r run) debianLayer(ctx context.Context, p Platform) (image.Layer, []part, error) {
	raw := filepath.Join(r.work, p.Name+"-debian.tar")
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--mode=root", "--variant=extract", "--format=tar",
		"--architectures="+p.Debian, "--include="+strings.Join(debianPackages, ","),
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--extract-hook="+listPackages, debianRelease, raw)
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.Time.Unix()))
	if out, err := cmd.CombinedOutput(); err != nil {
		return image.Layer{}, nil, fmt.Errorf("mmdebstrap for %s, which needs root and a Debian mirror: %w\n%s", p.Debian, err, complaints(out))
	}
	in, err := os.Open(raw)
	if err != nil {
		return image.Layer{}, nil, err
	}
	defer in.Close()
	path := filepath.Join(r.work, p.Name+"-debian-layer.tar")
	status, err := slim(path, in, r.Time)
	if err != nil {
		return image.Layer{}, nil, err
	}
	packages, err := parseStatus(status)
	if err != nil {
		return image.Layer{}, nil, err
	}
	layer, err := image.OpenLayer(path)
	return layer, packages, err
}

// unwanted is what nobody needs in the image: texts but for licences, what apt
// left, device nodes.
func unwanted(name string) bool {
	if rest, ok := strings.CutPrefix(name, "usr/share/doc/"); ok {
		_, file, _ := strings.Cut(rest, "/")
		return file != "" && file != "copyright"
	}
	for _, dir := range []string{"dev/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/", "usr/share/bash-completion/",
		"etc/apt/", "var/lib/apt/", "var/lib/dpkg/", "var/cache/", "var/log/"} {
		if strings.HasPrefix(name, dir) && name != dir {
			return true
		}
	}
	return strings.Contains(name, "/gconv/")
}

// slim writes a layer with what is wanted of a root, without dates. It returns
// the list of packages, which becomes dpkg's status.
func slim(path string, root io.Reader, at time.Time) (status string, err error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffered)
	r := tar.NewReader(root)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", err
		}
		name := strings.TrimPrefix(h.Name, "./")
		if name == packageList {
			text, err := io.ReadAll(r)
			if err != nil {
				return "", err
			}
			status = string(text)
			continue
		}
		if name == "" || unwanted(name) {
			continue
		}
		if err := copyEntry(w, r, h, name, at); err != nil {
			return "", err
		}
	}
	h := &tar.Header{Name: "var/lib/dpkg/status", Mode: 0o644, Size: int64(len(status)), ModTime: at, Typeflag: tar.TypeReg}
	if err := w.WriteHeader(h); err != nil {
		return "", err
	}
	_, err = io.WriteString(w, status)
	return status, errors.Join(err, w.Close(), buffered.Flush(), f.Close())
}

func copyEntry(w *tar.Writer, r io.Reader, h *tar.Header, name string, at time.Time) error {
	header := &tar.Header{
		Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, ModTime: at,
	}
	if h.Typeflag == tar.TypeLink {
		header.Linkname = strings.TrimPrefix(h.Linkname, "./")
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(w, r)
	return err
}

// parseStatus reads the packages in dpkg's status.
func parseStatus(status string) ([]part, error) {
	var parts []part
	for paragraph := range strings.SplitSeq(status, "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(paragraph) {
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
				fields[name] = strings.TrimSpace(value)
			}
		}
		name, version := fields["Package"], fields["Version"]
		if name == "" || version == "" {
			continue
		}
		purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s&distro=debian-12", url.PathEscape(name), url.QueryEscape(version), fields["Architecture"])
		if source, _, _ := strings.Cut(fields["Source"], " "); source != "" && source != name {
			purl += "&upstream=" + url.QueryEscape(source)
		}
		parts = append(parts, part{name: name, version: version, purl: purl, supplier: "Organization: Debian"})
	}
	if len(parts) == 0 {
		return nil, errors.New("the root of Debian's packages does not say which they are")
	}
	return parts, nil
}
