//go:build kernel

package cleanup

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/overlay"
)

// thisKernel need not have IPVS, but it has both variants of iptables.
var thisKernel = testKernel{variants: []iptables.Variant{iptables.Legacy, iptables.NFT}}

var withoutIPVS = []features{
	{routes: true, wants: "removed bridge kube-bridge\nremoved route 10.244.2.0/24 via 192.168.66.12 dev eth0 proto 17\n" +
		"restored sysctl net/ipv4/ip_forward = 0 (it was 1)\n"},
	{routes: true, encap: overlay.VXLAN, wants: "removed ip rule 32700: from 10.244.1.0/24 lookup 77\n" +
		"removed route 192.168.66.12 via 192.168.66.12 dev kube-tun-vxlan proto 17 onlink table 77\n" +
		"removed tunnel kube-tun-vxlan\nrestored sysctl net/ipv4/conf/all/rp_filter = 1 (it was 0)\n"},
	{policy: true, wants: "removed IP set kube-router-isolated-pods\n" +
		"restored sysctl net/bridge/bridge-nf-call-ip6tables = 0 (it was 1)\n"},
	{routes: true, policy: true},
}

func TestKernel(t *testing.T) {
	for _, variant := range thisKernel.variants {
		t.Run(string(variant), func(t *testing.T) {
			testFeatures(t, thisKernel, variant, withoutIPVS)
			t.Run("interrupted", func(t *testing.T) {
				testInterrupted(t, thisKernel, variant, features{routes: true, policy: true})
			})
		})
	}
}

// A host may have changed from one variant of iptables to the other.
func TestKernelWithBothVariants(t *testing.T) {
	n := newNode(t, thisKernel, iptables.Legacy)
	n.run(features{routes: true, policy: true})
	n.variant = iptables.NFT
	n.run(features{routes: true, policy: true})
	n.clean()
	n.isAsBefore()
}

// A connection that kube-proxy has translated goes on when its rules go, as does
// everything of the agent's.
func TestMigrateIPTables(t *testing.T) {
	for _, variant := range thisKernel.variants {
		t.Run(string(variant), func(t *testing.T) {
			m := newMigrating(t, thisKernel, variant)
			m.restore(m.program(variant)+"-restore", proxyRules)
			conn := m.dial("10.96.0.10:80")
			m.run(features{routes: true, policy: true})
			m.echo("beside kube-router", conn)
			with := m.state()
			if said := m.migrate(false); !strings.Contains(said, "would remove iptables") || !strings.HasSuffix(said, "run it again with --apply to remove this\n") || m.state() != with {
				t.Errorf("a dry run has changed something, or says\n%s", said)
			}
			t.Log(m.migrate(true))
			m.echo("after the migration", conn)
			m.lacks("KUBE-SERVICES ", "KUBE-SVC-", "KUBE-SEP-", "KUBE-POSTROUTING", "KUBE-PROXY-", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD")
			m.has("KUBE-KUBELET-CANARY", "-A KUBE-MARK-DROP -j MARK", ":KUBE-FIREWALL", ":KUBE-SERVICES-MINE", "KUBE-ROUTER-PODS", "KUBE-ROUTER-FORWARD")
			if again := m.migrate(true); again != "kube-proxy does not run here and has left nothing\n" {
				t.Errorf("again:\n%s", again)
			}
			m.echo("at the end", conn)
		})
	}
}

const proxyTables = `
table ip kube-proxy {
	chain services {
		ip daddr 10.96.0.10 tcp dport 80 dnat to 10.244.1.2:8080
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}
}
table ip6 kube-proxy {
	chain filter-input {
		type filter hook input priority -110; policy accept;
	}
}
table inet mine {
	chain c {
	}
}
`

// The same of the mode nftables.
func TestMigrateNFTables(t *testing.T) {
	m := newMigrating(t, thisKernel, iptables.NFT)
	m.sh("nft -f - <<'END'\n" + proxyTables + "END")
	conn := m.dial("10.96.0.10:80")
	m.run(features{routes: true})
	before := m.state()
	if said := m.migrate(true); said != "removed nftables table ip kube-proxy\nremoved nftables table ip6 kube-proxy\n" {
		t.Errorf("it says\n%s", said)
	}
	m.echo("after the migration", conn)
	if tables := m.sh("nft list tables"); strings.Contains(tables, "kube-proxy") || !strings.Contains(tables, "table inet mine") {
		t.Errorf("tables:\n%s", tables)
	}
	if after := m.state(); after != before {
		t.Errorf("something else has changed:\n%s", cmp.Diff(before, after))
	}
}

// What kube-proxy leaves in the mode ipvs, less its virtual
// servers and its link.
func TestMigrateSets(t *testing.T) {
	n := newNode(t, thisKernel, iptables.NFT)
	n.sh(proxySets)
	var out strings.Builder
	if err := Migrate(t.Context(), n.options(), true, true, &out); err != nil {
		t.Error(err)
	}
	want := "removed IP set KUBE-6-CLUSTER-IP\nremoved IP set KUBE-CLUSTER-IP\nremoved IP set KUBE-LOOP-BACK\nremoved IP set KUBE-NODE-PORT-TCP\n"
	if out.String() != want {
		t.Errorf("it says\n%s", out.String())
	}
	n.isAsBefore()
}

// While kube-proxy runs, a clean-up leaves it everything.
func TestCleanUpBesideKubeProxy(t *testing.T) {
	n := newNode(t, thisKernel, iptables.NFT)
	n.restore("iptables-nft-restore", proxyRules)
	n.before = n.settledState()
	n.run(features{routes: true})
	o := n.options()
	o.KubeProxy = kubeProxy{signs: []string{"process 7"}}
	var out strings.Builder
	if err := Run(t.Context(), o, &out); err != nil || !strings.Contains(out.String(), "kept what is kube-proxy's: it runs on this node (process 7)\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
	n.isAsBefore()
}

// Beside the agent, only what kube-proxy left goes.
func TestCleanUpBesideAgent(t *testing.T) {
	n := newNode(t, thisKernel, iptables.NFT)
	n.run(features{routes: true})
	n.before = n.settledState()
	n.restore("iptables-nft-restore", proxyRules)
	held, err := claim(presence)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	var out strings.Builder
	if err := Run(t.Context(), n.options(), &out); err != nil {
		t.Error(err)
	}
	if said := out.String(); !strings.HasPrefix(said, "removed iptables (nf_tables, IPv4, nat) chains KUBE-MARK-MASQ, ") ||
		!strings.HasSuffix(said, "then run this again on the node\n") || !strings.Contains(said, "\nkept what is kube-router's: it runs on this node") {
		t.Errorf("it says\n%s", said)
	}
	n.lacks("KUBE-SVC-", "KUBE-PROXY-")
	n.isNearlyAsBefore("KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-MARK-DROP")
}

// What an earlier release left is taken over or goes, and its connections go on.
func TestFormerRelease(t *testing.T) {
	for _, variant := range thisKernel.variants {
		t.Run(string(variant), func(t *testing.T) {
			m := newMigrating(t, thisKernel, variant)
			m.sh(formerState)
			m.restore(m.program(variant)+"-restore", formerChains)
			m.run(features{routes: true, policy: true})
			t.Log(m.sweep(features{routes: true, services: true, policy: true}))
			m.lacks(slices.DeleteFunc(slices.Clone(formerNames), func(name string) bool { return name == formerJump })...)
			m.has("KUBE-ROUTER-PODS", "kube-router-pod-subnets")
			if again := m.sweep(features{routes: true, services: true, policy: true}); again != "" {
				t.Errorf("again:\n%s", again)
			}
		})
	}
}

// formerTables are those of an earlier release with --use-nftables-for-netpol:
// they drop what the new one lets through.
const formerTables = `nft -f - <<'END'
table ip kube-router-filter-ipv4 {
	set KUBE-SRC-NPX46M4PTMTKRN6Y {
		type ipv4_addr
		elements = { 10.244.2.2 }
	}
	chain KUBE-POD-FW-NPX46M4PTMTKRN6Y {
		ip saddr @KUBE-SRC-NPX46M4PTMTKRN6Y accept
		drop
	}
	chain kube-router-output {
		type filter hook output priority filter; policy accept;
		ip daddr 127.66.0.1 jump KUBE-POD-FW-NPX46M4PTMTKRN6Y
	}
}
table ip6 kube-router-filter-ipv6 {
	chain kube-router-output {
		type filter hook output priority filter; policy accept;
	}
}
table inet mine {
	chain c {
	}
}
END
`

// Tables of nftables that an earlier release left drop packets until they go:
// by the new agent, or by a clean-up.
func TestFormerTables(t *testing.T) {
	const reaches = "ping -c 1 -W 1 127.66.0.1 >/dev/null 2>&1 && echo yes || echo no"
	for name, remove := range map[string]func(m *migrating){
		"new agent": func(m *migrating) { m.sweep(features{policy: true}) },
		"clean-up": func(m *migrating) {
			var out strings.Builder
			err := Run(t.Context(), m.options(), &out)
			if err != nil || !strings.Contains(out.String(), "removed nftables table ip kube-router-filter-ipv4\nremoved nftables table ip6 kube-router-filter-ipv6\n") {
				t.Errorf("%v\n%s", err, out.String())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMigrating(t, thisKernel, iptables.NFT)
			m.sh(formerTables)
			if got := m.sh(reaches); got != "no\n" {
				t.Fatalf("before, the packet passes: %q", got)
			}
			remove(m)
			if tables := m.sh("nft list tables"); strings.Contains(tables, "kube-router-filter") || !strings.Contains(tables, "table inet mine") {
				t.Errorf("tables:\n%s", tables)
			}
			if got := m.sh(reaches); got != "yes\n" {
				t.Errorf("the packet still does not pass: %q", got)
			}
		})
	}
}
