// Package stamp remembers from what a thing was made, so that it is made
// again only when that changed.
package stamp

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Sum identifies the inputs of a thing: strings as they are, files by content.
type Sum struct {
	parts []string
	err   error
}

// Text adds strings.
func (s *Sum) Text(texts ...string) *Sum {
	for _, t := range texts {
		s.parts = append(s.parts, fmt.Sprintf("text %q\n", t))
	}
	return s
}

// File adds the contents of files.
func (s *Sum) File(paths ...string) *Sum {
	for _, p := range paths {
		d, err := FileDigest(p)
		if err != nil && s.err == nil {
			s.err = err
		}
		s.parts = append(s.parts, "file "+d+"\n")
	}
	return s
}

// Key is the sum as text.
func (s *Sum) Key() (string, error) {
	h := sha256.New()
	for _, p := range s.parts {
		io.WriteString(h, p)
	}
	return hex.EncodeToString(h.Sum(nil)), s.err
}

// FileDigest is the SHA-256 of a file's content, in hexadecimal.
func FileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Fresh tells whether the outputs exist and the stamp file holds the key.
func Fresh(stampFile, key string, outputs ...string) bool {
	data, err := os.ReadFile(stampFile)
	if err != nil || string(data) != key {
		return false
	}
	for _, o := range outputs {
		if _, err := os.Stat(o); err != nil {
			return false
		}
	}
	return true
}

// Write records the key, once the outputs are complete.
func Write(stampFile, key string) error {
	if err := os.MkdirAll(filepath.Dir(stampFile), 0o755); err != nil {
		return err
	}
	return os.WriteFile(stampFile, []byte(key), 0o644)
}
