// Package record keeps what was on a host before the agent changed it, in a
// small file that outlives the agent, so that clean-up can put it back.
//
// The file belongs under /run: what it tells about lasts until the host is
// restarted, and so does /run.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Entry is one thing that the agent changed.
type Entry struct {
	// Before is what was there when the agent changed it for the first time.
	Before string `json:"before"`
	// Set is what the agent has made of it.
	Set string `json:"set"`
	// Undo says that it is being put back: where that was interrupted, what is
	// there now is neither of the two for certain, and is put back all the same.
	Undo bool `json:"undo,omitempty"`
}

// File is the record at a path. It is safe for concurrent use within one
// process. A nil *File records nothing.
type File struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	entries map[string]Entry // nil until the file was read
	said    string           // the last failure that was logged
}

// Open returns the record at a path. Nothing is read yet, and the file and its
// directory are made with the first entry.
func Open(path string, log *slog.Logger) *File { return &File{path: path, log: log} }

// Note records changes that are about to be made. Of what is recorded already,
// Before stays: a later start of the agent finds what an earlier one has set.
//
// What cannot be recorded is changed all the same, since the node needs it;
// that is one line in the log.
func (f *File) Note(changes map[string]Entry) {
	if f == nil || len(changes) == 0 {
		return
	}
	f.complain(f.update(func(entries map[string]Entry) {
		for name, change := range changes {
			if known, ok := entries[name]; ok {
				change.Before = known.Before
			}
			entries[name] = Entry{Before: change.Before, Set: change.Set}
		}
	}))
}

// Forget removes entries: that is put back, or there is nothing to put back.
func (f *File) Forget(names ...string) error {
	if f == nil || len(names) == 0 {
		return nil
	}
	return f.update(func(entries map[string]Entry) {
		for _, name := range names {
			delete(entries, name)
		}
	})
}

// Undo marks entries as being put back.
func (f *File) Undo(names ...string) error {
	if f == nil || len(names) == 0 {
		return nil
	}
	return f.update(func(entries map[string]Entry) {
		for _, name := range names {
			if e, ok := entries[name]; ok {
				e.Undo = true
				entries[name] = e
			}
		}
	})
}

// Entries returns the entries whose names begin with prefix.
func (f *File) Entries(prefix string) (map[string]Entry, error) {
	found := map[string]Entry{}
	if f == nil {
		return found, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return nil, err
	}
	for name, e := range f.entries {
		if strings.HasPrefix(name, prefix) {
			found[name] = e
		}
	}
	return found, nil
}

// update changes the entries, and the file if they are others then. On error
// they stay as they are.
func (f *File) update(change func(map[string]Entry)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.load(); err != nil {
		return err
	}
	entries := maps.Clone(f.entries)
	change(entries)
	if maps.Equal(entries, f.entries) {
		return nil
	}
	if err := f.write(entries); err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	f.entries = entries
	return nil
}

// load reads the file, unless that was done. One that cannot be understood is
// not overwritten: somebody may still need it.
func (f *File) load() error {
	if f.entries != nil {
		return nil
	}
	text, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading what was on this host before: %w", err)
	}
	entries := map[string]Entry{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &entries); err != nil {
			return fmt.Errorf("%s is no record of what was on this host before (%w): remove it", f.path, err)
		}
	}
	f.entries = entries
	return nil
}

// write replaces the file in one step; without entries there is none.
func (f *File) write(entries map[string]Entry) error {
	if len(entries) == 0 {
		err := os.Remove(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	text, err := json.MarshalIndent(entries, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, ".record-*.tmp")
	if err != nil {
		return err
	}
	_, err = temp.Write(append(text, '\n'))
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

// complain logs a failure when it begins.
func (f *File) complain(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != "" && said != f.said {
		f.log.Warn("what was on this host before cannot be recorded; --cleanup-config will not put it back", "err", err)
	}
	f.said = said
}
