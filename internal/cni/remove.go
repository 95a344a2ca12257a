package cni

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
)

// Removal is what Remove did with the file.
type Removal uint8

// The removals. Kept is a file that has content of somebody else.
const (
	Nothing Removal = iota
	Removed
	Restored
	Kept
)

// note is what the file was before the agent changed it, in a file beside it
// that container runtimes do not look at. Like the file itself it lasts through
// a restart of the host.
type note struct {
	// Before is the content, Mode its permissions.
	Before string      `json:"before"`
	Mode   fs.FileMode `json:"mode"`
	// Wrote is the digest of what the agent has made of it.
	Wrote string `json:"wrote"`
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (f File) notePath() string {
	return filepath.Join(filepath.Dir(f.path), "."+filepath.Base(f.path)+".before")
}

// readNote returns the note, and nil where there is none.
func (f File) readNote() (*note, error) {
	text, err := os.ReadFile(f.notePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := &note{}
	if err := json.Unmarshal(text, n); err != nil {
		return nil, fmt.Errorf("%s is not readable (%w): remove it", f.notePath(), err)
	}
	return n, nil
}

// remember notes what somebody else wrote, before text takes its place. What
// the agent wrote itself is no news.
func (f File) remember(existing, text []byte) error {
	if blank(existing) || generated(existing) {
		return nil
	}
	known, err := f.readNote()
	if err != nil {
		return err
	}
	n := note{Before: string(existing), Mode: 0o644, Wrote: digest(text)}
	if info, err := os.Stat(f.path); err == nil {
		n.Mode = info.Mode().Perm()
	}
	if known != nil && known.Wrote == digest(existing) {
		n.Before, n.Mode = known.Before, known.Mode
	}
	body, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	return replace(f.notePath(), append(body, '\n'), 0o600)
}

// Remove takes back what Ensure wrote for a bridge: a file that the agent made
// goes, and one that it changed gets its former content. A file of another
// plugin is Nothing; one that somebody changed since, or that the agent found
// as it should be, is Kept.
func (f File) Remove(bridge string) (Removal, error) {
	existing, err := f.read()
	if errors.Is(err, ErrNoDirectory) {
		return Nothing, nil
	}
	if err != nil {
		return Nothing, err
	}
	before, err := f.readNote()
	if err != nil {
		return Nothing, err
	}
	switch {
	case blank(existing):
		return Nothing, f.forget()
	case generated(existing) && bridgeOf(existing) == bridge:
		return Removed, errors.Join(os.Remove(f.path), f.forget())
	case before != nil && before.Wrote == digest(existing):
		if err := replace(f.path, []byte(before.Before), before.Mode); err != nil {
			return Nothing, fmt.Errorf("putting the former CNI configuration back: %w", err)
		}
		return Restored, f.forget()
	case bridgeOf(existing) == bridge:
		return Kept, nil
	}
	return Nothing, nil
}

func (f File) forget() error {
	err := os.Remove(f.notePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// bridgeOf is the bridge that a file names, or "".
func bridgeOf(text []byte) string {
	config, err := parse(text)
	if err != nil {
		return ""
	}
	plugin, err := bridgePlugin(config)
	if err != nil {
		return ""
	}
	name, _ := plugin["bridge"].(string)
	return name
}

// generated says whether the agent wrote all that is in a file: whether it is
// what an empty file becomes for some Network.
func generated(text []byte) bool {
	config, err := parse(text)
	if err != nil {
		return false
	}
	plugin, err := bridgePlugin(config)
	if err != nil {
		return false
	}
	have, err1 := json.Marshal(config)
	want, err2 := json.Marshal(fresh(networkOf(plugin)))
	return err1 == nil && err2 == nil && bytes.Equal(have, want)
}

// networkOf is the Network that a bridge plugin's configuration is for.
func networkOf(plugin object) Network {
	var n Network
	n.Bridge, _ = plugin["bridge"].(string)
	n.Hairpin, _ = plugin["hairpinMode"].(bool)
	if mtu, ok := plugin["mtu"].(json.Number); ok {
		n.MTU, _ = strconv.Atoi(mtu.String())
	}
	ipam, _ := plugin["ipam"].(object)
	for _, set := range rangeSets(ipam) {
		for _, r := range set {
			if subnet, ok := r["subnet"].(string); ok {
				if prefix, err := netip.ParsePrefix(subnet); err == nil {
					n.PodCIDRs = append(n.PodCIDRs, prefix)
				}
			}
		}
	}
	return n
}
