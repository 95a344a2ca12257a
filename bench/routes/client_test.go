package main

import (
	"net/netip"
	"testing"
)

// FuzzPrefixesOf: no update makes a client panic, and what it reads are
// prefixes.
func FuzzPrefixesOf(f *testing.F) {
	c := &client{local: netip.MustParseAddr("127.9.0.3"), prefix: netip.MustParsePrefix("10.100.7.0/24")}
	f.Add(c.update()[19:])
	f.Add([]byte{0, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		prefixes, err := prefixesOf(body)
		for _, p := range prefixes {
			if !p.IsValid() {
				t.Errorf("%v is not a prefix", p)
			}
		}
		if err != nil && err != errUpdate {
			t.Error(err)
		}
	})
}

func TestClientReadsWhatItTells(t *testing.T) {
	c := &client{local: netip.MustParseAddr("127.9.0.3"), prefix: netip.MustParsePrefix("10.100.7.0/24")}
	prefixes, err := prefixesOf(c.update()[19:])
	if err != nil || len(prefixes) != 1 || prefixes[0] != c.prefix {
		t.Errorf("read %v, %v; want %s", prefixes, err, c.prefix)
	}
}
