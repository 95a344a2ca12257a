//go:build guest

package iptables

import (
	"log/slog"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// TestGuestKernel runs the suite on Linux 6.1, which has no nf_tables here.
func TestGuestKernel(t *testing.T) {
	runSuite(t, inet.IPv4, func(t *testing.T) Interface { return openKernel(t, Legacy, inet.IPv4) })
}

// A kernel without nf_tables is no reason to fail.
func TestGuestDetect(t *testing.T) {
	nstest.New(t)
	if got, err := Detect(t.Context()); got != Legacy || err != nil {
		t.Errorf("Detect = %q, %v; want %q", got, err, Legacy)
	}
}

// TestGuestIPVSMatches writes rules that match what IPVS did to a packet,
// which this host's kernel may lack.
func TestGuestIPVSMatches(t *testing.T) {
	for family, addr := range map[inet.Family]string{inet.IPv4: "10.96.0.1/32", inet.IPv6: "fd00::1/128"} {
		t.Run(family.String(), func(t *testing.T) {
			d := &counting{Interface: openKernel(t, Legacy, family)}
			s := Section{Owner: "services", Prefixes: []string{"KUBE-ROUTER-"}, Tables: map[Table]Content{NAT: {
				Chains: map[string][]string{"KUBE-ROUTER-MASQ": {
					"-m ipvs --ipvs -j MASQUERADE --random-fully",
					"-m ipvs --ipvs --vdir ORIGINAL --vmethod MASQ -j MASQUERADE",
					"-m ipvs --vaddr " + addr + " --vport 80 -j MASQUERADE",
					"-m ipvs ! --ipvs -j RETURN",
				}},
				Jumps: []Jump{{"POSTROUTING", RankServices, "-j KUBE-ROUTER-MASQ"}},
			}}}
			for range 2 {
				r := NewRuleset(d, family, slog.New(slog.DiscardHandler))
				if _, err := r.Apply(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				resync(t, r, d, 0, 0)
			}
			if d.restores != 1 {
				t.Errorf("iptables-restore ran %d times, want once:\n%s", d.restores, tableText(t, d, NAT))
			}
		})
	}
}
