package ipset

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nlsock"
)

// reply is a message of a dump as the kernel sends it.
func reply(name string, spec *Spec, entries ...Entry) []byte {
	e := header(name)
	if spec != nil {
		e.PutString(attrTypeName, string(spec.Type))
		e.Put(attrFamily, familyNumber(spec.Family))
		e.Put(attrRevision, 6)
		e.Nest(attrData, func() { e.putOptions(*spec) })
	}
	e.Nest(attrADT, func() {
		for _, entry := range entries {
			e.Nest(attrData, func() { e.putEntry(entry) })
		}
	})
	return e.B
}

func read(messages ...[]byte) (map[string]Set, error) {
	l := &listing{want: func(string) bool { return true }, sets: map[string]Set{}}
	for _, m := range messages {
		if err := l.message(m); err != nil {
			return nil, err
		}
	}
	return l.sets, nil
}

func TestListingJoinsTheMessagesOfASet(t *testing.T) {
	sets, err := read(
		reply("a", &Spec{Type: HashNet, Family: inet.IPv6, MaxElem: 77}, net("2001:db8::/32")),
		reply("a", nil, except("2001:db8:1::/48")),
		reply("b", &Spec{Type: HashIPPortIP, Family: inet.IPv4, MaxElem: 5}, portIP(inet.TCP, "10.0.0.1:80", "10.0.0.2")),
		reply("c", &Spec{Type: "list:set", Family: inet.IPv4, MaxElem: 8}),
	)
	noError(t, err)
	want := `create a hash:net family inet6 maxelem 77
add a 2001:db8:1::/48 nomatch
add a 2001:db8::/32
create b hash:ip,port,ip family inet maxelem 5
add b 10.0.0.1,tcp:80,10.0.0.2
create c list:set family inet maxelem 8
`
	if diff := cmp.Diff(want, Save(sets)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A reply that ends early is an error wherever it ends, unless it ends between
// two attributes.
func TestTruncatedRepliesAreErrors(t *testing.T) {
	whole := reply("a", &Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 77}, ip("10.0.0.1"))
	ends := map[int]bool{}
	at := 4
	noError(t, nlsock.Attributes(whole[at:], func(_ uint16, data []byte) error {
		end := at + 4 + len(data)
		for at = end; at%4 != 0; at++ {
			ends[at] = true // padding need not be there
		}
		ends[end], ends[at] = true, true
		return nil
	}))
	for n := range whole {
		if _, err := read(whole[:n]); err == nil && !ends[n] {
			t.Errorf("the first %d of %d bytes of a reply were accepted", n, len(whole))
		}
	}
}

func TestEntriesBeforeTheTypeAreAnError(t *testing.T) {
	if _, err := read(reply("a", nil, ip("10.0.0.1"))); err == nil || !strings.Contains(err.Error(), "before the type") {
		t.Errorf("error %v", err)
	}
}

func FuzzListing(f *testing.F) {
	f.Add(reply("a", &Spec{Type: HashIP, Family: inet.IPv4, MaxElem: 77}, ip("10.0.0.1")))
	f.Add(reply("a", &Spec{Type: HashNet, Family: inet.IPv6, MaxElem: 1}, except("2001:db8::/32")))
	f.Add(reply("a", &Spec{Type: HashIPPortIP, Family: inet.IPv4}, portIP(inet.UDP, "10.0.0.1:80", "10.0.0.2")))
	f.Add(reply("a", &Spec{Type: HashIPPortNet, Family: inet.IPv4}, portNet(inet.UDP, "10.0.0.1:80", "10.0.0.0/8")))
	f.Add(reply("a", &Spec{Type: HashIPPort, Family: inet.IPv4, SkbInfo: true}, marked(port(inet.UDP, "10.0.0.1:80"), 1, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		sets, err := read(b)
		if err != nil {
			return
		}
		// What is read can be sent back, and reads the same.
		for name, s := range sets {
			if !s.Type.known() || name == "" {
				continue
			}
			for e := range s.Entries {
				again, err := read(reply(name, &s.Spec, e))
				if err != nil {
					t.Fatalf("%s: %v", e, err)
				}
				if _, ok := again[name].Entries[e]; !ok {
					t.Fatalf("%v reads back as %v", e, again[name].Entries)
				}
			}
		}
	})
}
