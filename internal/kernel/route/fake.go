package route

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Fake is an Interface in memory that refuses what the kernel refuses. It is
// safe for concurrent use.
//
// A Fake without links takes every next hop. From the first AddLink on it
// knows what is connected, and refuses a next hop that is not.
type Fake struct {
	// Ceding is as in Kernel.
	Ceding []string

	mu       sync.Mutex
	links    map[string][]netip.Prefix
	routes   map[Key]Route
	foreign  map[Key]string
	watchers map[*func()]struct{}
	changes  int
	rules    map[Rule]struct{}
	fail     func(Key) error
}

// NewFake returns a Fake without routes and links.
func NewFake() *Fake {
	return &Fake{
		links: map[string][]netip.Prefix{}, routes: map[Key]Route{},
		foreign: map[Key]string{}, watchers: map[*func()]struct{}{}, rules: map[Rule]struct{}{},
	}
}

// AddLink adds a link that is up, with its addresses, and the connected routes
// that the kernel makes of them.
func (f *Fake) AddLink(name string, addrs ...netip.Prefix) {
	f.mu.Lock()
	f.links[name] = addrs
	for _, addr := range addrs {
		// IPv6's have other priorities than ours and are not in the way.
		if addr.Addr().Is4() {
			f.connect(name, addr)
		}
	}
	f.mu.Unlock()
	f.notify()
}

func (f *Fake) connect(name string, addr netip.Prefix) {
	host := netip.PrefixFrom(addr.Addr(), 32)
	f.foreign[Key{Local, host}] = fmt.Sprintf("local %s dev %s proto kernel", host.Addr(), name)
	if net := addr.Masked(); net != host {
		f.foreign[Key{Main, net}] = fmt.Sprintf("%s dev %s proto kernel", net, name)
	}
}

// DelLink removes a link, and the routes over it.
func (f *Fake) DelLink(name string) {
	f.mu.Lock()
	delete(f.links, name)
	for key, r := range f.routes {
		if slices.ContainsFunc(r.NextHops, func(h NextHop) bool { return h.Link == name }) {
			delete(f.routes, key)
		}
	}
	for key, text := range f.foreign {
		if strings.Contains(text, " dev "+name+" ") {
			delete(f.foreign, key)
		}
	}
	f.mu.Unlock()
	f.notify()
}

// AddForeign adds another owner's route, in place of ours if there is one, as
// "ip route replace" of an administrator does.
func (f *Fake) AddForeign(key Key, text string) {
	f.mu.Lock()
	delete(f.routes, key)
	f.foreign[key] = text
	f.mu.Unlock()
	f.notify()
}

// Flush removes our routes of a table behind the driver's back.
func (f *Fake) Flush(table int) {
	f.mu.Lock()
	maps.DeleteFunc(f.routes, func(k Key, _ Route) bool { return k.Table == table })
	f.mu.Unlock()
	f.notify()
}

// FailWith makes fn decide, before each Replace and Delete, whether it fails
// and with which error. nil ends that.
func (f *Fake) FailWith(fn func(Key) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fn
}

// Changes is the number of calls of Replace and Delete that took effect.
func (f *Fake) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Text is our routes of a table in the form of ip route, sorted.
func (f *Fake) Text(table int) string {
	routes, _ := f.List(table)
	return Text(routes)
}

// Text is routes in the form of ip route, a line each, sorted.
func Text(routes map[Key]Route) string {
	var lines []string
	for _, r := range routes {
		r.NextHops = sortedHops(r.NextHops)
		lines = append(lines, r.String()+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// List implements Interface.
func (f *Fake) List(table int) (map[Key]Route, error) {
	return f.list(func(k Key) bool { return k.Table == table })
}

// ListAll implements Interface.
func (f *Fake) ListAll() (map[Key]Route, error) {
	return f.list(func(Key) bool { return true })
}

func (f *Fake) list(wanted func(Key) bool) (map[Key]Route, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	routes := map[Key]Route{}
	for key, r := range f.routes {
		if wanted(key) {
			r.NextHops = slices.Clone(r.NextHops)
			routes[key] = r
		}
	}
	return routes, nil
}

// Apply implements Interface.
func (f *Fake) Apply(changes []Change) []error {
	errs := make([]error, len(changes))
	for i, c := range changes {
		if c.Route == nil {
			errs[i] = f.Delete(c.Key)
		} else {
			errs[i] = f.Replace(*c.Route)
		}
	}
	return errs
}

// Replace adds or changes one route.
func (f *Fake) Replace(r Route) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return replaceError(r, f.replace(r))
}

func (f *Fake) replace(r Route) error {
	if err := f.failure(r.Key); err != nil {
		return err
	}
	if err := check(r); err != nil {
		return err
	}
	if theirs, ok := f.foreign[r.Key]; ok && !f.cedes(r, theirs) {
		return foreignError(theirs)
	}
	hops, err := f.resolve(r)
	if err != nil {
		return err
	}
	r.NextHops = hops
	f.routes[r.Key] = r
	f.changes++
	return nil
}

func (f *Fake) cedes(r Route, theirs string) bool {
	return r.Type == LocalType && slices.ContainsFunc(f.Ceding, func(link string) bool {
		return strings.HasPrefix(theirs, "local ") && strings.Contains(theirs, " dev "+link+" ")
	})
}

func foreignError(theirs string) error {
	return fmt.Errorf("%w: %q stays; remove it if the cluster is to route there", ErrForeign, theirs)
}

// resolve finds the link of each next hop, as the kernel does.
func (f *Fake) resolve(r Route) ([]NextHop, error) {
	hops := sortedHops(r.NextHops)
	if len(f.links) == 0 {
		return hops, nil
	}
	for i, hop := range hops {
		if _, ok := f.links[hop.Link]; !ok && hop.Link != "" && hop.Link != "lo" {
			return nil, fmt.Errorf("link %s: %w", hop.Link, syscall.ENODEV)
		}
		if !hop.Via.IsValid() || hop.OnLink {
			continue
		}
		link, ok := f.linkTo(hop)
		if !ok {
			return nil, fmt.Errorf("next hop %s is not on a connected network: %w", hop.Via, syscall.ENETUNREACH)
		}
		hops[i].Link = link
	}
	return hops, nil
}

func (f *Fake) linkTo(hop NextHop) (string, bool) {
	for _, name := range slices.SortedFunc(maps.Keys(f.links), cmp.Compare) {
		if hop.Link != "" && hop.Link != name {
			continue
		}
		for _, addr := range f.links[name] {
			if addr.Contains(hop.Via) {
				return name, true
			}
		}
	}
	return "", false
}

// Delete removes one route of ours.
func (f *Fake) Delete(key Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.failure(key)
	if err == nil {
		_, err = checkKey(key)
	}
	if err != nil {
		return deleteError(key, err)
	}
	if _, ok := f.routes[key]; ok {
		delete(f.routes, key)
		f.changes++
	}
	return nil
}

func (f *Fake) failure(key Key) error {
	if f.fail == nil {
		return nil
	}
	return f.fail(key)
}

// Watch implements Interface.
func (f *Fake) Watch(ctx context.Context, fn func()) error {
	f.mu.Lock()
	f.watchers[&fn] = struct{}{}
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	delete(f.watchers, &fn)
	f.mu.Unlock()
	return nil
}

// Watched says that somebody would be told of a change.
func (f *Fake) Watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.watchers) > 0
}

func (f *Fake) notify() {
	f.mu.Lock()
	fns := slices.Collect(maps.Keys(f.watchers))
	f.mu.Unlock()
	for _, fn := range fns {
		(*fn)()
	}
}
