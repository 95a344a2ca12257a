package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// ErrNoDirectory means that the directory of the file is not there yet: the
// container runtime's package or the kubelet makes it.
var ErrNoDirectory = errors.New("the directory is not there yet")

// File is the configuration file at a path, 10-kuberouter.conflist or the like.
type File struct{ path string }

// NewFile returns the File at a path. Nothing is read yet.
func NewFile(path string) File { return File{path: path} }

// Path is where the file is.
func (f File) Path() string { return f.path }

// Exists says whether there is a file, whatever it says.
func (f File) Exists() bool {
	_, err := os.Lstat(f.path)
	return err == nil
}

// Ensure makes the file say what the agent decides, and says whether it had to
// change. The file is replaced in one step: a reader sees the old one or the
// new one, also after a crash.
func (f File) Ensure(want Network) (changed bool, err error) {
	existing, err := f.read()
	if err != nil {
		return false, err
	}
	text, err := Merge(existing, want)
	if err != nil {
		return false, fmt.Errorf("CNI configuration %s stays as it is: %w", f.path, err)
	}
	if bytes.Equal(text, existing) {
		return false, nil
	}
	if err := f.remember(existing, text); err != nil {
		return false, fmt.Errorf("keeping a copy of the CNI configuration %s before it is changed: %w", f.path, err)
	}
	if err := replace(f.path, text, 0o644); err != nil {
		return false, fmt.Errorf("writing the CNI configuration %s: %w", f.path, err)
	}
	return true, nil
}

// PodCIDRs returns the subnets that the file assigns, none where there is no
// file.
func (f File) PodCIDRs() ([]netip.Prefix, error) {
	existing, err := f.read()
	if errors.Is(err, ErrNoDirectory) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cidrs, err := PodCIDRs(existing)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s: %w", f.path, err)
	}
	return cidrs, nil
}

// Rivals returns the configuration files that container runtimes take before
// ours, because their names sort before it.
func (f File) Rivals() []string {
	entries, _ := os.ReadDir(filepath.Dir(f.path))
	var rivals []string
	for _, e := range entries {
		name := e.Name()
		known := slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(name))
		if known && !e.IsDir() && name < filepath.Base(f.path) {
			rivals = append(rivals, name)
		}
	}
	return rivals
}

// read returns the file's content, of a file that is not there none.
func (f File) read() ([]byte, error) {
	dir := filepath.Dir(f.path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("CNI configuration %s: %w", f.path, ErrNoDirectory)
	}
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the CNI configuration: %w", err)
	}
	return text, nil
}

// replace writes a file beside the one at path and renames it. Its name begins
// with a dot and has no ending that a runtime looks for.
func replace(path string, text []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, ".kuberouter-*.tmp")
	if err != nil {
		return err
	}
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return syncDir(dir)
}

// syncDir makes the rename last through a crash of the host.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
