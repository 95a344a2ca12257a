package link

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

func TestFake(t *testing.T) {
	suite(t, freshFake)
	testTunnels(t, freshFake)
	t.Run("a tunnel is put back", func(t *testing.T) { testRestoreTunnel(t, freshFake(t)) })
	testTunnelLinks(t, freshFake)
}

func freshFake(*testing.T) system {
	f := NewFake()
	return system{
		Interface: f,
		addLink: func(name string, mtu int, addrs ...string) {
			var prefixes []netip.Prefix
			for _, a := range addrs {
				prefixes = append(prefixes, netip.MustParsePrefix(a))
			}
			f.AddLink(name, mtu, prefixes...)
		},
		setDown:  f.SetDown,
		addVeth:  f.AddVeth,
		addOther: func(name string) { f.AddDummy(name) },
		addPort:  f.AddPort,
		hairpin:  f.Hairpin,
		record:   func(r *record.File) { f.Record = r },
		tunnel:   f.TunnelText,
		state: func(name string) string {
			for line := range strings.Lines(f.String()) {
				if _, rest, _ := strings.Cut(line, ": "); strings.HasPrefix(rest, name+" ") {
					return strings.TrimSpace(rest)
				}
			}
			return ""
		},
	}
}
