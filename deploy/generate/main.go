// Command generate writes the manifests and the kustomize bases that are
// shipped, from the one source of them: the Helm chart in deploy/helm.
//
//	go run ./deploy/generate           writes them
//	go run ./deploy/generate -check    says which are not as they would be written
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	check := flag.Bool("check", false, "write nothing, and fail where a file differs")
	root := flag.String("root", ".", "the top of the source tree")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	files, err := generate(os.DirFS(root))
	if err != nil {
		return err
	}
	stray, err := strays(root, files)
	if err != nil {
		return err
	}
	if check {
		return compare(root, files, stray)
	}
	for _, name := range stray {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return write(root, files)
}

func write(root string, files map[string][]byte) error {
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compare fails where the tree is not what would be written.
func compare(root string, files map[string][]byte, stray []string) error {
	differ := stray
	for _, name := range slices.Sorted(maps.Keys(files)) {
		have, err := os.ReadFile(filepath.Join(root, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if !bytes.Equal(have, files[name]) {
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		return fmt.Errorf("not what the chart says: %s: run make manifests", strings.Join(differ, " "))
	}
	return nil
}

// strays are files that were written once and are not any more.
func strays(root string, files map[string][]byte) ([]string, error) {
	var found []string
	for _, dir := range ours {
		err := fs.WalkDir(os.DirFS(root), dir, func(name string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && !d.IsDir() && files[name] == nil {
				found = append(found, name)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
