// Package sysctl reads and writes the kernel's parameters under /proc/sys
// (sysctl(8), Documentation/admin-guide/sysctl).
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Interface is the parameters of the kernel. Names are paths below /proc/sys,
// such as "net/ipv4/ip_forward": the dotted form would be ambiguous for links
// with a dot in their name.
type Interface interface {
	// Get returns a value without the white space around it. A parameter that
	// does not exist is an fs.ErrNotExist.
	Get(name string) (string, error)
	// Set writes a value if it is another one, and says whether it was.
	Set(name, value string) (changed bool, err error)
	// Names returns the parameters whose names match a pattern of path.Match,
	// such as "net/ipv4/conf/*/forwarding".
	Names(pattern string) []string
}

// Kernel is the parameters in a directory.
type Kernel struct{ root, writable string }

// Writable is where a container that is not privileged, whose /proc/sys is
// read-only, has the host's /proc/sys/net mounted below.
const Writable = "/host/proc/sys"

var _ Interface = Kernel{}

// New returns the parameters below root; the empty root is /proc/sys, or
// Writable where that is read-only.
func New(root string) Kernel {
	if root == "" {
		return Kernel{root: "/proc/sys", writable: Writable}
	}
	return Kernel{root: root}
}

// Get implements Interface.
func (k Kernel) Get(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fmt.Errorf("sysctl name %q is not of the form net/ipv4/ip_forward", name)
	}
	value, err := os.ReadFile(filepath.Join(k.root, name))
	if err != nil {
		return "", getError(name, err)
	}
	return strings.TrimSpace(string(value)), nil
}

// Set implements Interface.
func (k Kernel) Set(name, value string) (changed bool, err error) {
	have, err := k.Get(name)
	if err != nil {
		return false, fmt.Errorf("cannot set it to %q: %w", value, err)
	}
	if same(have, value) {
		return false, nil
	}
	if err := k.write(name, value); err != nil {
		return false, setError(name, have, value, err)
	}
	return true, nil
}

// Names implements Interface.
func (k Kernel) Names(pattern string) []string {
	if !fs.ValidPath(pattern) {
		return nil
	}
	names, _ := fs.Glob(os.DirFS(k.root), pattern)
	return names
}

// write writes a value, where the container's own /proc/sys may not be written
// to by way of the host's.
func (k Kernel) write(name, value string) error {
	file, err := os.OpenFile(filepath.Join(k.root, name), os.O_WRONLY, 0)
	if err != nil && isReadOnly(err) && k.writable != "" {
		other, otherErr := os.OpenFile(filepath.Join(k.writable, name), os.O_WRONLY, 0)
		if otherErr == nil || !errors.Is(otherErr, fs.ErrNotExist) {
			file, err = other, otherErr
		}
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// isReadOnly says that a file is kept from being written: by its mount, or by
// AppArmor's profile for containers.
func isReadOnly(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

// same compares values, lists of values with any white space between them.
func same(a, b string) bool {
	return strings.Join(strings.Fields(a), " ") == strings.Join(strings.Fields(b), " ")
}

func getError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sysctl %s does not exist in this kernel%s: %w", name, moduleHint(name), err)
	}
	return fmt.Errorf("cannot read sysctl %s: %w", name, err)
}

// moduleHint names the module that brings a parameter along.
func moduleHint(name string) string {
	for _, m := range []struct{ prefix, module string }{
		{"net/bridge/", "br_netfilter"},
		{"net/ipv4/vs/", "ip_vs"},
		{"net/netfilter/nf_conntrack", "nf_conntrack"},
		{"net/ipv6/", "ipv6"},
	} {
		if strings.HasPrefix(name, m.prefix) {
			return ": load the module " + m.module + " (modprobe " + m.module + ")"
		}
	}
	return ""
}

func setError(name, have, value string, err error) error {
	advice := ""
	if isReadOnly(err) {
		advice = ": /proc/sys is read-only here; mount the host's /proc/sys/net at " + Writable + "/net, " +
			"set it on the host, or run the container privileged"
	}
	return fmt.Errorf("sysctl %s is %q and must be %q%s: %w", name, have, value, advice, err)
}

// Fake is an Interface in memory. It is safe for concurrent use.
type Fake struct {
	mu       sync.Mutex
	values   map[string]string
	readOnly bool
	changes  int
}

var _ Interface = (*Fake)(nil)

// NewFake returns a Fake in which only the given parameters exist.
func NewFake(values map[string]string) *Fake {
	f := &Fake{values: map[string]string{}}
	for name, value := range values {
		f.values[name] = value
	}
	return f
}

// SetReadOnly makes every write fail, as in an unprivileged container.
func (f *Fake) SetReadOnly(readOnly bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readOnly = readOnly
}

// Changes is the number of writes.
func (f *Fake) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Get implements Interface.
func (f *Fake) Get(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	value, ok := f.values[name]
	if !ok {
		return "", getError(name, fs.ErrNotExist)
	}
	return value, nil
}

// Names implements Interface.
func (f *Fake) Names(pattern string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.values {
		if ok, _ := path.Match(pattern, name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Set implements Interface.
func (f *Fake) Set(name, value string) (changed bool, err error) {
	have, err := f.Get(name)
	if err != nil {
		return false, fmt.Errorf("cannot set it to %q: %w", value, err)
	}
	if same(have, value) {
		return false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readOnly {
		return false, setError(name, have, value, syscall.EROFS)
	}
	f.values[name] = value
	for _, e := range effectsOf(name) {
		for n := range f.values {
			if e.on(n) && !e.unsure {
				f.values[n] = e.value(value)
			}
		}
	}
	f.changes++
	return true, nil
}
