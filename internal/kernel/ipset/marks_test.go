package ipset

import (
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

// An entry whose mark changes is never missing in between, whether the whole
// set is put or it is edited, and whether the old entry is named or not.
func TestAChangedMarkOnlyAdds(t *testing.T) {
	spec := Spec{Type: HashIPPort, Family: inet.IPv4, SkbInfo: true}
	web, dns := port(inet.TCP, "10.0.0.1:80"), marked(port(inet.UDP, "10.0.0.1:53"), 7, 0xff)
	old, changedMark := marked(web, 1, 0xff), marked(web, 2, 0xff)
	for name, change := range map[string]func(*Sets) error{
		"put":                        func(s *Sets) error { return s.Put("KUBE-A", set(spec, changedMark, dns)) },
		"edited":                     func(s *Sets) error { return s.Edit("KUBE-A", []Entry{changedMark}, nil) },
		"edited, the old one named":  func(s *Sets) error { return s.Edit("KUBE-A", []Entry{changedMark}, []Entry{old}) },
		"edited, a third one named":  func(s *Sets) error { return s.Edit("KUBE-A", []Entry{changedMark}, []Entry{web}) },
		"edited, and put once again": func(s *Sets) error { return twice(s, set(spec, changedMark, dns)) },
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFake()
			s := NewSets(f, "KUBE-")
			noError(t, s.Put("KUBE-A", set(spec, old, dns)))
			if n := changed(t, f, func() error { return change(s) }); n != 1 {
				t.Errorf("it took %d changes, want 1", n)
			}
			expect(t, f, "create KUBE-A hash:ip,port family inet maxelem 1048576 skbinfo\n"+
				"add KUBE-A 10.0.0.1,tcp:80 skbmark 0x2/0xff\nadd KUBE-A 10.0.0.1,udp:53 skbmark 0x7/0xff\n")
			if repaired, err := s.Resync(); repaired != 0 || err != nil {
				t.Errorf("Resync = %d, %v", repaired, err)
			}
		})
	}
}

func twice(s *Sets, want Set) error {
	for e := range want.Entries {
		if err := s.Edit("KUBE-A", []Entry{e}, nil); err != nil {
			return err
		}
	}
	return s.Put("KUBE-A", want)
}

// A set of a former release that had no marks is exchanged for one that has.
func TestMarksComeToASetThatHadNone(t *testing.T) {
	f := NewFake()
	s := NewSets(f, "KUBE-")
	noError(t, s.Put("KUBE-A", set(ipv4(HashIPPort), port(inet.TCP, "10.0.0.1:80"))))
	noError(t, s.Put("KUBE-A", set(Spec{Type: HashIPPort, Family: inet.IPv4, SkbInfo: true}, marked(port(inet.TCP, "10.0.0.1:80"), 1, 1))))
	expect(t, f, "create KUBE-A hash:ip,port family inet maxelem 1048576 skbinfo\nadd KUBE-A 10.0.0.1,tcp:80 skbmark 0x1/0x1\n")
}
