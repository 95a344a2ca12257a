// Package workspace knows where the lab keeps its files.
package workspace

import (
	"fmt"
	"os"
	"path/filepath"
)

// Workspace is a checkout of the repository with its .lab directory.
type Workspace struct {
	// Root is the repository's root, absolute.
	Root string
}

// Find looks for the repository from the working directory upwards.
func Find() (Workspace, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Workspace{}, err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "lab", "go.mod")); err == nil {
			return Workspace{Root: d}, nil
		}
		if d == "/" {
			return Workspace{}, fmt.Errorf("%s is not inside the kube-router repository (no lab/go.mod in it or above it): change directory", dir)
		}
	}
}

// Path is a file below .lab, which holds all that the lab builds and runs.
func (w Workspace) Path(parts ...string) string {
	return filepath.Join(append([]string{w.Root, ".lab"}, parts...)...)
}

// Bin is a built program.
func (w Workspace) Bin(name string) string { return w.Path("bin", name) }

// Source is a file of the repository.
func (w Workspace) Source(parts ...string) string {
	return filepath.Join(append([]string{w.Root}, parts...)...)
}
