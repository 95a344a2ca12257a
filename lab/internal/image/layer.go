// Package image builds container images without a registry or a daemon: root
// file systems from Debian packages, archives in the form that `docker save`
// writes, and a containerd store that guests share.
package image

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kube-router/kube-router/lab/internal/stamp"
)

// Layer is a layer of an image: an uncompressed tar file and its digest.
// Uncompressed, because it is written and read once, on one machine.
type Layer struct {
	Path   string
	Digest string
}

// File is a program to put into a layer.
type File struct {
	From string // its path on this machine, or
	Text string // its text, for a script
	To   string // its path in the image, absolute
}

// writeLayer creates a layer by calling fill with a tar writer.
func writeLayer(path string, fill func(*tar.Writer) error) (Layer, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return Layer{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffered)
	if err := errors.Join(fill(w), w.Close(), buffered.Flush(), f.Close()); err != nil {
		return Layer{}, fmt.Errorf("write layer %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return Layer{}, err
	}
	return OpenLayer(path)
}

// OpenLayer returns a layer that was written before.
func OpenLayer(path string) (Layer, error) {
	digest, err := stamp.FileDigest(path)
	return Layer{Path: path, Digest: digest}, err
}

// LayerOfFiles packs single programs, with the directories above them.
func LayerOfFiles(path string, files []File) (Layer, error) {
	return writeLayer(path, func(w *tar.Writer) error {
		made := map[string]bool{"/": true}
		for _, f := range files {
			if err := addParents(w, filepath.Dir(f.To), made); err != nil {
				return err
			}
			if err := addProgram(w, f); err != nil {
				return err
			}
		}
		return nil
	})
}

func addProgram(w *tar.Writer, f File) error {
	h := &tar.Header{Name: f.To[1:], Mode: 0o755, Size: int64(len(f.Text)), Typeflag: tar.TypeReg}
	if f.From != "" {
		info, err := os.Stat(f.From)
		if err != nil {
			return err
		}
		h.Size = info.Size()
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if f.From != "" {
		return copyInto(w, f.From)
	}
	_, err := io.WriteString(w, f.Text)
	return err
}

func addParents(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	made[dir] = true
	if err := addParents(w, filepath.Dir(dir), made); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Name: dir[1:] + "/", Mode: 0o755, Typeflag: tar.TypeDir})
}

func copyInto(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// snapshot maps each path below a root to what a change of it would change.
type snapshot map[string]string

// takeSnapshot lists a directory tree.
func takeSnapshot(root string) (snapshot, error) {
	s := snapshot{}
	err := walk(root, func(rel string, info fs.FileInfo) error {
		s[rel] = fingerprint(info)
		return nil
	})
	return s, err
}

// fingerprint holds the inode's change time: a file that was replaced by one
// of the same size and date differs.
func fingerprint(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprint(info.Mode(), info.Size(), st.Ino, st.Ctim)
}

// layerOfTree packs what a tree has beyond an earlier snapshot of it; all of
// it if the snapshot is nil.
func layerOfTree(path, root string, before snapshot) (Layer, error) {
	return writeLayer(path, func(w *tar.Writer) error {
		return walk(root, func(rel string, info fs.FileInfo) error {
			if was, ok := before[rel]; ok && was == fingerprint(info) {
				return nil
			}
			return addEntry(w, filepath.Join(root, rel), rel, info)
		})
	})
}

func addEntry(w *tar.Writer, path, rel string, info fs.FileInfo) error {
	var link string
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname = rel, "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	return copyInto(w, path)
}

// walk visits all that belongs into an image. Device nodes and sockets do
// not: the runtime makes its own /dev.
func walk(root string, visit func(rel string, info fs.FileInfo) error) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&(fs.ModeDevice|fs.ModeSocket|fs.ModeNamedPipe) != 0 {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return visit(rel, info)
	})
}
