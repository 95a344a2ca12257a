package ipset

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is listed is what is wanted, with whether the kernel has it.
func TestList(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	noError(t, s.Put("KUBE-b", set(ipv4(HashIP), ip("10.0.0.1"), ip("10.0.0.2"))))
	noError(t, s.Put("KUBE-a", set(ipv4(HashNet))))
	spec := func(typ Type) Spec { sp := ipv4(typ); sp.MaxElem = DefaultMaxElem; return sp }
	expect := func(when string, want ...Listed) {
		t.Helper()
		if d := cmp.Diff(want, s.List()); d != "" {
			t.Errorf("%s (-want +got):\n%s", when, d)
		}
	}
	expect("both", Listed{"KUBE-a", spec(HashNet), 0, true}, Listed{"KUBE-b", spec(HashIP), 2, true})
	f.Fail = func(Change) error { return errors.New("no memory") }
	if err := s.Edit("KUBE-b", []Entry{ip("10.0.0.3")}, nil); err == nil {
		t.Fatal("the kernel does not refuse")
	}
	expect("one failed", Listed{"KUBE-a", spec(HashNet), 0, true}, Listed{"KUBE-b", spec(HashIP), 3, false})
	f.Fail = nil
	noError(t, s.Retain(map[string]bool{"KUBE-b": true}))
	if list := s.List(); len(list) != 1 || list[0].Name != "KUBE-b" {
		t.Errorf("retained: %+v", list)
	}
}
