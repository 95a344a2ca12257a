package link

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

// What begins the names of a record's entries: links that were set up, and
// ports of bridges that were put into hairpin mode.
const (
	upEntry      = "link up "
	hairpinEntry = "link hairpin "
)

// Exists implements Interface.
func (k *Kernel) Exists(name, kind string) (bool, error) {
	link, err := k.byName(name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && link.Type() == kind, err
}

// Delete implements Interface.
func (k *Kernel) Delete(name, kind string) (deleted bool, err error) {
	link, err := k.byName(name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if link.Type() != kind {
		return false, nil
	}
	ports, err := k.ports(link.Attrs().Index)
	if err != nil {
		return false, err
	}
	if len(ports) > 0 {
		return false, inUse(name, ports)
	}
	if err := k.handle.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
		return false, fmt.Errorf("ip link delete %s: %w", name, err)
	}
	return true, nil
}

// ports are the links that belong to another one.
func (k *Kernel) ports(index int) ([]string, error) {
	links, err := dump(k.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("ip link show: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Attrs().MasterIndex == index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

func inUse(name string, ports []string) error {
	return fmt.Errorf("link %s: %w: %s", name, ErrInUse, strings.Join(ports, " "))
}

// Restore implements Interface. A link that is gone, or was changed back, needs
// nothing.
func (k *Kernel) Restore(r *record.File) (done []string, err error) {
	return restore(r, k.setDown, k.setHairpinOff)
}

func (k *Kernel) setDown(name string) (changed bool, err error) {
	link, err := k.byName(name)
	if err != nil || link.Attrs().Flags&net.FlagUp == 0 {
		return false, err
	}
	if err := k.handle.LinkSetDown(link); err != nil {
		return false, fmt.Errorf("ip link set %s down: %w", name, err)
	}
	return true, nil
}

func (k *Kernel) setHairpinOff(name string) (changed bool, err error) {
	link, err := k.byName(name)
	if err != nil || link.Attrs().MasterIndex == 0 {
		return false, err
	}
	info, err := k.handle.LinkGetProtinfo(link)
	if err != nil || !info.Hairpin {
		return false, nil // it left its bridge
	}
	if err := k.handle.LinkSetHairpin(link, false); err != nil {
		return false, fmt.Errorf("bridge link set dev %s hairpin off: %w", name, err)
	}
	return true, nil
}

// restore puts back what a record tells of links.
func restore(r *record.File, down, hairpinOff func(string) (bool, error)) (done []string, err error) {
	var errs []error
	for _, way := range []struct {
		prefix, text string
		put          func(string) (bool, error)
	}{{upEntry, "down", down}, {hairpinEntry, "hairpin off", hairpinOff}} {
		entries, err := r.Entries(way.prefix)
		if err != nil {
			return done, err
		}
		for _, entry := range slices.Sorted(maps.Keys(entries)) {
			name := strings.TrimPrefix(entry, way.prefix)
			changed, err := way.put(name)
			if err != nil && !errors.Is(err, ErrNotFound) {
				errs = append(errs, err)
				continue
			}
			if changed {
				done = append(done, name+" "+way.text)
			}
			errs = append(errs, r.Forget(entry))
		}
	}
	return done, errors.Join(errs...)
}

// Exists implements Interface.
func (f *Fake) Exists(name, kind string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(name)
	return l != nil && l.kind == kind, nil
}

// Delete implements Interface.
func (f *Fake) Delete(name, kind string) (deleted bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.byName(name)
	if l == nil || l.kind != kind {
		return false, nil
	}
	var ports []string
	for _, port := range f.links {
		if port.bridge == name {
			ports = append(ports, port.Name)
		}
	}
	if len(ports) > 0 {
		return false, inUse(name, ports)
	}
	f.links = slices.DeleteFunc(f.links, func(other *fakeLink) bool { return other == l })
	f.changes++
	return true, nil
}

// Restore implements Interface.
func (f *Fake) Restore(r *record.File) (done []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	put := func(is func(*fakeLink) *bool) func(string) (bool, error) {
		return func(name string) (bool, error) {
			l := f.byName(name)
			if l == nil || !*is(l) {
				return false, nil
			}
			*is(l) = false
			f.changes++
			return true, nil
		}
	}
	return restore(r, put(func(l *fakeLink) *bool { return &l.up }), put(func(l *fakeLink) *bool { return &l.hairpin }))
}
