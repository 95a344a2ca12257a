package ipset

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kube-router/kube-router/internal/inet"
)

func set(spec Spec, entries ...Entry) Set {
	s := Set{Spec: spec, Entries: map[Entry]struct{}{}}
	for _, e := range entries {
		s.Entries[e] = struct{}{}
	}
	return s
}

func expect(t *testing.T, f *Fake, want string) {
	t.Helper()
	if diff := cmp.Diff(want, f.Save()); diff != "" {
		t.Errorf("the kernel's sets (-want +got):\n%s", diff)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// applies is how often f.Apply was called.
func applies(f *Fake) int {
	_, n, _ := f.Calls()
	return n
}

// changed is how many changes f was given by what do does.
func changed(t *testing.T, f *Fake, do func() error) int {
	t.Helper()
	_, _, before := f.Calls()
	noError(t, do())
	_, _, after := f.Calls()
	return after - before
}

const size = " family inet maxelem 1048576\n"

func TestPutCreatesAndAppliesOnlyTheDifference(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	a := set(ipv4(HashIP), ip("10.0.0.1"), ip("10.0.0.2"))
	if n := changed(t, f, func() error { return s.Put("KUBE-A", a) }); n != 3 {
		t.Errorf("creating a set of 2 took %d changes, want 3", n)
	}
	if n := changed(t, f, func() error { return s.Put("KUBE-A", a) }); n != 0 {
		t.Errorf("putting it again took %d changes", n)
	}
	b := set(ipv4(HashIP), ip("10.0.0.2"), ip("10.0.0.3"))
	if n := changed(t, f, func() error { return s.Put("KUBE-A", b) }); n != 2 {
		t.Errorf("one entry for another took %d changes, want 2", n)
	}
	expect(t, f, "create KUBE-A hash:ip"+size+"add KUBE-A 10.0.0.2\nadd KUBE-A 10.0.0.3\n")
}

// A restart of a converged node makes no kernel change.
func TestAdoptingWhatIsThereAppliesNothing(t *testing.T) {
	f := NewFake()
	want := map[string]Set{
		"KUBE-A": set(ipv4(HashIP), ip("10.0.0.1")),
		"KUBE-B": set(ipv4(HashNet), net("10.1.2.3/8"), except("10.1.0.0/16")),
	}
	noError(t, NewSets(f, "KUBE-").PutAll(want))
	before := applies(f)

	s := NewSets(f, "KUBE-")
	noError(t, s.Load())
	noError(t, s.PutAll(want))
	noError(t, s.Retain(map[string]bool{"KUBE-A": true, "KUBE-B": true}))
	repaired, err := s.Resync()
	noError(t, err)
	if n := applies(f) - before; n != 0 || repaired != 0 {
		t.Errorf("the second start called Apply %d times and repaired %d sets", n, repaired)
	}
}

func TestPutAllIsOneBatch(t *testing.T) {
	f := NewFake()
	want := map[string]Set{}
	for i := range 100 {
		want[fmt.Sprintf("KUBE-%d", i)] = set(ipv4(HashIP), ip("10.0.0.1"))
	}
	noError(t, NewSets(f, "KUBE-").PutAll(want))
	if n := applies(f); n != 1 {
		t.Errorf("100 sets took %d calls of Apply", n)
	}
}

func TestEdit(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	if err := s.Edit("KUBE-A", []Entry{ip("10.0.0.1")}, nil); !errors.Is(err, ErrNotExist) {
		t.Errorf("editing a set that was not put: error %v", err)
	}
	noError(t, s.Put("KUBE-A", set(ipv4(HashIP), ip("10.0.0.1"), ip("10.0.0.2"))))
	n := changed(t, f, func() error {
		return s.Edit("KUBE-A", []Entry{ip("10.0.0.2"), ip("10.0.0.3")}, []Entry{ip("10.0.0.1"), ip("10.0.0.9")})
	})
	if n != 2 {
		t.Errorf("an edit of 2 entries took %d changes", n)
	}
	expect(t, f, "create KUBE-A hash:ip"+size+"add KUBE-A 10.0.0.2\nadd KUBE-A 10.0.0.3\n")
	if got := s.Stats(); got != (Stats{Sets: 1, Entries: 2}) {
		t.Errorf("Stats() = %+v", got)
	}
}

// A set that needs more room is filled aside with twice as much and swapped in;
// one with a limit of its own is not.
func TestSetsGrowWithNeed(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	s.room = 4
	noError(t, s.Put("KUBE-A", set(ipv4(HashIP), ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3"))))
	expect(t, f, "create KUBE-A hash:ip family inet maxelem 4\nadd KUBE-A 10.0.0.1\nadd KUBE-A 10.0.0.2\nadd KUBE-A 10.0.0.3\n")
	noError(t, s.Edit("KUBE-A", []Entry{ip("10.0.0.4")}, []Entry{ip("10.0.0.1")}))
	expect(t, f, "create KUBE-A hash:ip family inet maxelem 8\nadd KUBE-A 10.0.0.2\nadd KUBE-A 10.0.0.3\nadd KUBE-A 10.0.0.4\n")
	if n := changed(t, f, func() error { return s.Edit("KUBE-A", []Entry{ip("10.0.0.5")}, nil) }); n != 1 {
		t.Errorf("an entry for which there was room took %d changes", n)
	}
	var many []Entry
	for i := range 20 {
		many = append(many, ip(fmt.Sprintf("10.0.1.%d", i)))
	}
	noError(t, s.Put("KUBE-A", set(ipv4(HashIP), many...)))
	if got := f.Save(); !strings.HasPrefix(got, "create KUBE-A hash:ip family inet maxelem 32\n") || strings.Count(got, "add") != 20 {
		t.Errorf("20 entries are in\n%s", got)
	}
	fixed := ipv4(HashIP)
	fixed.MaxElem = 2
	if err := s.Put("KUBE-B", set(fixed, many...)); !errors.Is(err, ErrFull) {
		t.Errorf("20 entries in a set for 2: %v", err)
	}
}

// A net that turns into an exception is never missing in between.
func TestEditOfAnExceptionOnlyAdds(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	noError(t, s.Put("KUBE-A", set(ipv4(HashNet), net("10.0.0.0/8"))))
	n := changed(t, f, func() error {
		return s.Edit("KUBE-A", []Entry{except("10.0.0.0/8")}, []Entry{net("10.0.0.0/8")})
	})
	if n != 1 {
		t.Errorf("it took %d changes", n)
	}
	expect(t, f, "create KUBE-A hash:net"+size+"add KUBE-A 10.0.0.0/8 nomatch\n")
}

func TestBigReplacementIsSwappedIn(t *testing.T) {
	f := NewFake()
	f.InUse = func(name string) bool { return name == "KUBE-A" }
	s := NewSets(f, "KUBE-")
	old := set(ipv4(HashIP))
	for i := range 200 {
		old.Entries[ip(fmt.Sprintf("10.0.1.%d", i+1))] = struct{}{}
	}
	noError(t, s.Put("KUBE-A", old))
	// destroy, create, add, swap, destroy: fewer than 200 deletions.
	if n := changed(t, f, func() error { return s.Put("KUBE-A", set(ipv4(HashIP), ip("10.9.9.9"))) }); n != 5 {
		t.Errorf("replacing the content took %d changes, want 5", n)
	}
	expect(t, f, "create KUBE-A hash:ip"+size+"add KUBE-A 10.9.9.9\n")
}

func TestSetInUseChangesItsSize(t *testing.T) {
	f := NewFake()
	must(t, f, create("KUBE-A", Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 65536}), addTo("KUBE-A", ip("10.0.0.1")))
	f.InUse = func(name string) bool { return name == "KUBE-A" }
	noError(t, NewSets(f, "KUBE-").Put("KUBE-A", set(ipv4(HashIP), ip("10.0.0.1"))))
	expect(t, f, "create KUBE-A hash:ip"+size+"add KUBE-A 10.0.0.1\n")
}

// A set of another type cannot be swapped: it has to wait for its rules to go.
func TestSetInUseCannotChangeItsType(t *testing.T) {
	f := NewFake()
	used := true
	f.InUse = func(name string) bool { return used && name == "KUBE-A" }
	must(t, f, create("KUBE-A", ipv4(HashIP)))
	s := NewSets(f, "KUBE-")
	want := set(ipv4(HashNet), net("10.0.0.0/8"))
	if err := s.Put("KUBE-A", want); !errors.Is(err, ErrInUse) {
		t.Errorf("error %v, want %v", err, ErrInUse)
	}
	used = false
	noError(t, s.Put("KUBE-A", want))
	expect(t, f, "create KUBE-A hash:net"+size+"add KUBE-A 10.0.0.0/8\n")
}

func TestLeftoverOfASwapIsNoObstacle(t *testing.T) {
	const name = "KUBE-A-LONG-NAME-OF-A-SET"
	for _, prefix := range []string{"KUBE-", name} {
		f := NewFake()
		s := NewSets(f, prefix)
		tmp := s.temporary(name)
		must(t, f, create(tmp, ipv4(HashIP)), addTo(tmp, ip("10.6.6.6")),
			create(name, Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 9}))
		noError(t, s.Put(name, set(ipv4(HashIP), ip("10.0.0.1"))))
		expect(t, f, "create "+name+" hash:ip"+size+"add "+name+" 10.0.0.1\n")
	}
}

func TestTemporaryNamesAreOursAndFit(t *testing.T) {
	for _, prefix := range []string{"KUBE-", "inet6:kube-router-", "kube-router-local-pods"} {
		s := NewSets(NewFake(), prefix)
		tmp := s.temporary((prefix + strings.Repeat("x", 31))[:31])
		if len(tmp) > MaxNameLen || len(prefix) <= 18 && !strings.HasPrefix(tmp, prefix) {
			t.Errorf("prefix %q: temporary set %q", prefix, tmp)
		}
	}
}

// One bad entry fails its set, which says so until it is gone, and nothing
// else.
func TestFailureIsOfOneSet(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	err := s.PutAll(map[string]Set{
		"KUBE-A": set(ipv4(HashIP), ip("10.0.0.1"), ip("2001:db8::1")),
		"KUBE-B": set(ipv4(HashIP), ip("10.0.0.2")),
		"other":  set(ipv4(HashIP)),
		"KUBE-C": set(Spec{Type: "list:set", Family: inet.IPv4}),
	})
	failed := SetErrors(err)
	if got := slices.Sorted(maps.Keys(failed)); !slices.Equal(got, []string{"KUBE-A", "KUBE-C", "other"}) {
		t.Errorf("failed sets %q: %v", got, err)
	}
	expect(t, f, "create KUBE-A hash:ip"+size+"add KUBE-A 10.0.0.1\ncreate KUBE-B hash:ip"+size+"add KUBE-B 10.0.0.2\n")
	noError(t, s.Edit("KUBE-A", nil, []Entry{ip("2001:db8::1")}))
}

// Somebody destroyed a set behind our back: the next change of it notices.
func TestChangeOfASetThatVanishedRestoresIt(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	noError(t, s.Put("KUBE-A", set(ipv4(HashIP), ip("10.0.0.1"))))
	must(t, f, destroy("KUBE-A"))
	noError(t, s.Edit("KUBE-A", []Entry{ip("10.0.0.2")}, nil))
	expect(t, f, "create KUBE-A hash:ip"+size+"add KUBE-A 10.0.0.1\nadd KUBE-A 10.0.0.2\n")
}

func TestRetainDestroysWhatIsNotNamed(t *testing.T) {
	f := NewFake()
	must(t, f, create("KUBE-STALE", ipv4(HashIP)), create("KUBE-USED", ipv4(HashIP)), create("other", ipv4(HashIP)))
	used := true
	f.InUse = func(name string) bool { return used && name == "KUBE-USED" }
	s := NewSets(f, "KUBE-")
	noError(t, s.Put("KUBE-A", set(ipv4(HashIP))))
	err := s.Retain(map[string]bool{"KUBE-A": true})
	if failed := SetErrors(err); !errors.Is(failed["KUBE-USED"], ErrInUse) || len(failed) != 1 {
		t.Errorf("Retain: %v", err)
	}
	expect(t, f, "create KUBE-A hash:ip"+size+"create KUBE-USED hash:ip"+size+"create other hash:ip"+size)

	used = false
	repaired, err := s.Resync()
	noError(t, err)
	if repaired != 1 {
		t.Errorf("Resync repaired %d sets, want the one that was in use", repaired)
	}
	expect(t, f, "create KUBE-A hash:ip"+size+"create other hash:ip"+size)
}

func TestRetainKeepsWhatIsNamedButNotPutYet(t *testing.T) {
	f := NewFake()
	must(t, f, create("KUBE-A", ipv4(HashIP)))
	s := NewSets(f, "KUBE-")
	noError(t, s.Retain(map[string]bool{"KUBE-A": true}))
	_, err := s.Resync()
	noError(t, err)
	expect(t, f, "create KUBE-A hash:ip"+size)
}

func TestResyncRepairsDrift(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	noError(t, s.PutAll(map[string]Set{
		"KUBE-A": set(ipv4(HashIP), ip("10.0.0.1"), ip("10.0.0.2")),
		"KUBE-B": set(ipv4(HashIP), ip("10.0.0.1")),
		"KUBE-C": set(ipv4(HashIP), ip("10.0.0.1")),
	}))
	want := f.Save()
	must(t, f, del("KUBE-A", ip("10.0.0.1")), addTo("KUBE-A", ip("10.6.6.6")), destroy("KUBE-B"))
	repaired, err := s.Resync()
	noError(t, err)
	if repaired != 2 {
		t.Errorf("repaired %d sets, want 2", repaired)
	}
	expect(t, f, want)
}

func TestKernelThatCannotBeReadIsReadLater(t *testing.T) {
	f := &brokenList{Fake: NewFake(), broken: true}
	s := NewSets(f, "KUBE-")
	if err := s.Put("KUBE-A", set(ipv4(HashIP))); err == nil {
		t.Error("no error")
	}
	f.broken = false
	noError(t, s.Put("KUBE-A", set(ipv4(HashIP))))
	expect(t, f.Fake, "create KUBE-A hash:ip"+size)
}

type brokenList struct {
	*Fake
	broken bool
}

func (b *brokenList) List(prefixes ...string) (map[string]Set, error) {
	if b.broken {
		return nil, errors.New("no netlink")
	}
	return b.Fake.List(prefixes...)
}

// TestAnyHistoryConverges makes random puts, edits, failures and meddling:
// whatever happened, after one Put of each set, Retain and Resync the kernel
// holds what is wanted.
func TestAnyHistoryConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := NewFake()
		s := NewSets(f, "KUBE-")
		names := []string{"KUBE-A", "KUBE-B", "KUBE-C"}
		name := rapid.SampledFrom(names)
		want := map[string]Set{}
		f.Fail = func(Change) error {
			if rapid.IntRange(0, 9).Draw(rt, "fails") == 0 {
				return errors.New("out of memory")
			}
			return nil
		}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			n := name.Draw(rt, "set")
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0, 1:
				want[n] = drawSet(rt)
				_ = s.Put(n, want[n])
			case 2:
				if w, ok := want[n]; ok {
					add, del := drawEntries(rt, w.Spec), drawEntries(rt, w.Spec)
					add, del = w.effective(add, del)
					w.edit(add, del)
					_ = s.Edit(n, add, del)
				}
			case 3:
				f.Apply([]Change{destroy(n), create(n, drawSpec(rt))})
			case 4:
				delete(want, n)
				_ = s.Retain(namesOf(want))
			}
		}
		f.Fail = nil
		if _, err := s.Resync(); err != nil {
			rt.Fatal(err)
		}
		if err := errors.Join(s.PutAll(want), s.Retain(namesOf(want))); err != nil {
			rt.Fatal(err)
		}
		if _, err := s.Resync(); err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(Save(want), f.Save()); diff != "" {
			rt.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func namesOf(sets map[string]Set) map[string]bool {
	names := map[string]bool{}
	for name := range sets {
		names[name] = true
	}
	return names
}

func drawSpec(rt *rapid.T) Spec {
	return Spec{
		Type:    rapid.SampledFrom([]Type{HashIP, HashNet}).Draw(rt, "type"),
		Family:  inet.IPv4,
		MaxElem: rapid.SampledFrom([]uint32{1 << 16, 1 << 20}).Draw(rt, "maxelem"),
	}
}

func drawSet(rt *rapid.T) Set {
	spec := drawSpec(rt)
	s := set(spec)
	s.edit(s.effective(drawEntries(rt, spec), nil))
	return s
}

func drawEntries(rt *rapid.T, spec Spec) []Entry {
	var entries []Entry
	seen := map[netip.Prefix]bool{}
	for range rapid.IntRange(0, 40).Draw(rt, "entries") {
		e := ip(fmt.Sprintf("10.0.0.%d", rapid.IntRange(1, 60).Draw(rt, "host")))
		e.NoMatch = spec.Type == HashNet && rapid.Bool().Draw(rt, "nomatch")
		if !seen[e.Prefix] {
			entries = append(entries, e)
		}
		seen[e.Prefix] = true
	}
	return entries
}
