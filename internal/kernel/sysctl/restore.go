package sysctl

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

// entryPrefix begins the names of a record's entries that are parameters.
const entryPrefix = "sysctl "

// effect is what the kernel does to other parameters when one is set.
type effect struct {
	pattern string   // of their names
	not     []string // those of them that it spares
	value   func(set string) string
	// unsure says that some may stay as they are: nobody can ask which.
	unsure bool
}

func equal(set string) string { return set }

func opposite(set string) string {
	if set == "0" {
		return "1"
	}
	return "0"
}

// effectsOf are those of a parameter (kernel source net/ipv4/devinet.c,
// inet_forward_change and devinet_copy_dflt_conf; net/ipv6/addrconf.c,
// addrconf_fixup_forwarding). To put back the one without the others would leave
// a host changed.
func effectsOf(name string) []effect {
	switch name {
	case "net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding":
		return []effect{
			{pattern: "net/ipv4/ip_forward", value: equal},
			{pattern: "net/ipv4/conf/*/forwarding", value: equal},
			{pattern: "net/ipv4/conf/all/accept_redirects", value: opposite},
		}
	case "net/ipv6/conf/all/forwarding":
		return []effect{{pattern: "net/ipv6/conf/*/forwarding", value: equal}}
	}
	if parameter, ok := strings.CutPrefix(name, "net/ipv4/conf/default/"); ok {
		// It is copied to the links for which nobody ever set their own.
		return []effect{{
			pattern: "net/ipv4/conf/*/" + parameter, value: equal, unsure: true,
			not: []string{name, "net/ipv4/conf/all/" + parameter},
		}}
	}
	return nil
}

// on says whether there is an effect on a parameter.
func (e effect) on(name string) bool {
	ok, _ := path.Match(e.pattern, name)
	return ok && !slices.Contains(e.not, name)
}

// twin is another name of a parameter, or "".
func twin(name string) string {
	return map[string]string{
		"net/ipv4/ip_forward":          "net/ipv4/conf/all/forwarding",
		"net/ipv4/conf/all/forwarding": "net/ipv4/ip_forward",
	}[name]
}

// Recording is an Interface that records what a parameter was before it is
// changed for the first time, for Restore.
type Recording struct {
	Interface
	Record *record.File
}

var _ Interface = Recording{}

// Set implements Interface.
func (r Recording) Set(name, value string) (changed bool, err error) {
	before, err := r.Get(name)
	if err == nil && !same(before, value) {
		r.Record.Note(r.changes(name, before, value))
	}
	return r.Interface.Set(name, value)
}

// changes are those that setting a parameter makes. Of those that are unsure the
// record says that they were made: Restore sees where that is not so, because
// the value is not the one that was set.
func (r Recording) changes(name, before, value string) map[string]record.Entry {
	changes := map[string]record.Entry{}
	for _, e := range effectsOf(name) {
		for _, other := range r.Names(e.pattern) {
			if have, err := r.Get(other); err == nil && e.on(other) && other != twin(name) {
				changes[entryPrefix+other] = record.Entry{Before: have, Set: e.value(value)}
			}
		}
	}
	changes[entryPrefix+name] = record.Entry{Before: before, Set: value}
	return changes
}

// Restored is a parameter that was put back.
type Restored struct{ Name, Value, From string }

// String is "net/ipv4/ip_forward = 0 (it was 1)".
func (r Restored) String() string { return fmt.Sprintf("%s = %s (it was %s)", r.Name, r.Value, r.From) }

// Restore puts back the parameters that a record tells about, if they still
// are as the agent set them; whoever set them to something else meant it. It
// forgets what is done.
func Restore(s Interface, r *record.File) ([]Restored, error) {
	return restore(s, r, func(string) bool { return true })
}

// Restore puts back, as the function of that name does, those parameters that
// are not needed any more while the agent goes on.
func (r Recording) Restore(which func(name string) bool) ([]Restored, error) {
	return restore(r.Interface, r.Record, which)
}

func restore(s Interface, r *record.File, which func(name string) bool) ([]Restored, error) {
	entries, err := r.Entries(entryPrefix)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(entries, func(entry string, _ record.Entry) bool { return !which(entry[len(entryPrefix):]) })
	p := restoration{system: s, want: map[string]string{}, from: map[string]string{}}
	for name, e := range entries {
		p.consider(name[len(entryPrefix):], e)
	}
	if err := r.Undo(p.undo...); err != nil {
		return nil, err
	}
	failed := p.run()
	var done []string
	for entry := range entries {
		if !touched(entry[len(entryPrefix):], failed) {
			done = append(done, entry)
		}
	}
	err = r.Forget(done...)
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		err = errors.Join(err, failed[name])
	}
	return p.restored(failed), err
}

// restoration is parameters on their way back.
type restoration struct {
	system Interface
	want   map[string]string // what to put back
	from   map[string]string // what they were at the beginning
	undo   []string          // the entries of the record that are put back
}

// consider takes note of a parameter. One that is gone, as with its link, needs
// nothing.
func (p *restoration) consider(name string, e record.Entry) {
	have, err := p.system.Get(name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	p.from[name] = have
	switch {
	case err != nil || e.Undo || same(have, e.Set):
		p.want[name] = e.Before
		p.undo = append(p.undo, entryPrefix+name)
	default:
		p.want[name] = have // what somebody else chose, also after the others are back
	}
}

// run writes first what has effects on others.
func (p *restoration) run() map[string]error {
	failed := map[string]error{}
	names := slices.SortedFunc(maps.Keys(p.want), func(a, b string) int {
		return cmp.Or(len(effectsOf(b))-len(effectsOf(a)), cmp.Compare(a, b))
	})
	for _, name := range names {
		if _, err := p.system.Set(name, p.want[name]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed[name] = err
		}
	}
	return failed
}

// touched says that a parameter could not be put back, or will change when
// another one is that could not.
func touched(name string, failed map[string]error) bool {
	for other := range failed {
		if other == name || slices.ContainsFunc(effectsOf(other), func(e effect) bool { return e.on(name) }) {
			return true
		}
	}
	return false
}

// restored are those that were not before as they are now.
func (p *restoration) restored(failed map[string]error) []Restored {
	var list []Restored
	for _, name := range slices.Sorted(maps.Keys(p.want)) {
		if from := p.from[name]; failed[name] == nil && !same(from, p.want[name]) {
			list = append(list, Restored{Name: name, Value: p.want[name], From: from})
		}
	}
	return list
}
