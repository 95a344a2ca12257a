//go:build kernel

package iptables

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

// common are rules of the kind that the controllers write, in the canonical
// form of iptables-save. ADDR, NET and REJECT stand for what differs between
// the families.
var common = map[Table][]string{
	Filter: {
		`-m comment --comment "kube-router netpol \"quoted\" it\'s \\ $x ` + "`y`" + ` <ns/pod> #1 -j DROP" -j ACCEPT`,
		`-m comment --comment plain -j RETURN`,
		`-s ADDR -d NET -j DROP`,
		`! -s ADDR -j DROP`,
		`-m set --match-set one src -j ACCEPT`,
		`-m set --match-set one src -m set --match-set two dst,dst -j ACCEPT`,
		`-m set ! --match-set one dst -j DROP`,
		`-m set --match-set three dst,dst,src -j MARK --set-xmark 0x4000/0x4000`,
		`-m mark --mark 0x10000/0x10000 -j RETURN`,
		`-m mark ! --mark 0x10000/0x10000 -j RETURN`,
		`-m mark --mark 0x5 -j RETURN`,
		`-j MARK --set-xmark 0x10000/0x10000`,
		`-j MARK --set-xmark 0x0/0x10000`,
		`-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`,
		`-m conntrack --ctstate INVALID -j DROP`,
		`-d ADDR -m physdev --physdev-is-bridged -m comment --comment "to pod" -j RETURN`,
		`-d ADDR -m addrtype --src-type LOCAL -j ACCEPT`,
		`-m addrtype ! --dst-type LOCAL -j ACCEPT`,
		`-m addrtype ! --src-type LOCAL ! --dst-type LOCAL -j ACCEPT`,
		`-m set --match-set one src -m mark --mark 0x0/0xfffc0000 -j DROP`,
		`-i tunl0 -m mark --mark 0x0/0xfffc0000 -j DROP`,
		`-p tcp -m tcp --dport 80 -j ACCEPT`,
		`-p tcp -m tcp --sport 1024:65535 --dport 80:90 -j ACCEPT`,
		`-p udp -m udp --dport 53 -j ACCEPT`,
		`-p sctp -m sctp --dport 80 -j ACCEPT`,
		`-p sctp -m sctp --dport 80:90 -j ACCEPT`,
		`-p tcp -m addrtype --dst-type LOCAL -m multiport --dports 30000:32767 -j RETURN`,
		`-p udp -m multiport --dports 53,67,8000:8080 -j ACCEPT`,
		`-j REJECT --reject-with REJECT`,
		`-p tcp -j REJECT --reject-with tcp-reset`,
		`-m mark ! --mark 0x10000/0x10000 -m limit --limit 10/min --limit-burst 10 -j NFLOG --nflog-group 100`,
		`-j NFLOG --nflog-prefix "drop ns/pod" --nflog-group 100`,
		`-m limit --limit 10/sec -j ACCEPT`,
		`-i eth0 -j ACCEPT`,
		`-i veth+ ! -o kube-bridge -j ACCEPT`,
		`-g KUBE-POD-FW-B`,
	},
	NAT: {
		`-j MASQUERADE`,
		`-s NET ! -d NET -j MASQUERADE --random-fully`,
		`-j SNAT --to-source BARE`,
		`-m comment --comment "pod egress" -j SNAT --to-source BARE --random-fully`,
	},
	Mangle: {
		`-i kube-bridge -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1440`,
		`-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`,
		`-d ADDR -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x1234/0xffffffff`,
		`-m set --match-set one src -j SET --map-set two dst,dst --map-mark`,
		`-i tunl0 -m comment --comment "direct server return" -j SET --map-set two dst,dst --map-mark`,
		`-p tcp -m tcp --tcp-flags SYN,RST SYN -m set --match-set two src,src -j TCPMSS --set-mss 1400`,
	},
}

// hooks are built-in chains from which all of the rules may be reached.
var hooks = map[Table]string{Filter: "FORWARD", NAT: "POSTROUTING", Mangle: "FORWARD"}

var ofFamily = map[inet.Family]struct {
	words []string
	rules []string
}{
	inet.IPv4: {
		[]string{"ADDR", "10.0.0.1/32", "NET", "10.244.0.0/16", "BARE", "192.0.2.1", "with REJECT", "with icmp-port-unreachable"},
		[]string{"-p icmp -m icmp --icmp-type 8 -j ACCEPT", "-p icmp -m icmp --icmp-type 3 -j ACCEPT",
			"-p icmp -m icmp --icmp-type 3/4 -j ACCEPT", "-j REJECT --reject-with icmp-admin-prohibited"},
	},
	inet.IPv6: {
		[]string{"ADDR", "2001:db8::1/128", "NET", "fd00::/48", "BARE", "2001:db8::9", "with REJECT", "with icmp6-port-unreachable"},
		[]string{"-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j ACCEPT", "-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
			"-p ipv6-icmp -j ACCEPT", "-j REJECT --reject-with icmp6-adm-prohibited"},
	},
}

func corpus(family inet.Family) Section {
	s := Section{Owner: "policy", Prefixes: []string{"KUBE-"}, Tables: map[Table]Content{}}
	fill := strings.NewReplacer(ofFamily[family].words...)
	for table, rules := range common {
		var filled []string
		for _, rule := range rules {
			filled = append(filled, fill.Replace(rule))
		}
		if table == Filter {
			filled = append(filled, ofFamily[family].rules...)
		}
		s.Tables[table] = Content{
			Chains: map[string][]string{"KUBE-POD-FW-A": filled, "KUBE-POD-FW-B": nil},
			Jumps:  []Jump{{hooks[table], RankPolicy, `-m comment --comment "to the pod" -j KUBE-POD-FW-A`}},
		}
	}
	return s
}

// TestCorpusReadsBackAsWritten writes every kind of rule, and holds a second
// start to seeing no difference: in the text, where the rules are canonical,
// and for rules that are not, in what they mean.
func TestCorpusReadsBackAsWritten(t *testing.T) {
	forEach(t, func(t *testing.T, variant Variant, family inet.Family) {
		k := openKernel(t, variant, family)
		makeSets(t, family)
		d := &counting{Interface: k}
		s := corpus(family)
		for range 2 { // the second is a restart
			r := NewRuleset(d, family, slog.New(slog.DiscardHandler))
			for range 2 {
				if _, err := r.Apply(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			resync(t, r, d, 0, 0)
		}
		if d.restores != 1 {
			t.Errorf("iptables-restore ran %d times, want once", d.restores)
		}
		for table, content := range s.Tables {
			text, err := k.Save(t.Context(), table)
			if err != nil {
				t.Fatal(err)
			}
			chains, err := Parse(text, table)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(content.Chains["KUBE-POD-FW-A"], chains["KUBE-POD-FW-A"].Rules); diff != "" {
				t.Errorf("table %s (-written +read back):\n%s", table, diff)
			}
		}
	})
}

// TestOtherSpellingsAreRecognised writes rules as a person would.
func TestOtherSpellingsAreRecognised(t *testing.T) {
	forEach(t, func(t *testing.T, variant Variant, family inet.Family) {
		d := &counting{Interface: openKernel(t, variant, family)}
		fill := strings.NewReplacer(ofFamily[family].words...)
		s := policy(
			fill.Replace("-m addrtype --src-type LOCAL -p tcp -i eth0 ! -d ADDR -j ACCEPT"),
			fill.Replace("-s BARE -p 6 --dport 80 -j REJECT"),
			"-i + -p UDP --dport 53 -m limit --limit 10/minute --limit-burst 5 -j ACCEPT",
			`-m conntrack --ctstate ESTABLISHED,RELATED -m comment --comment "one" -j ACCEPT`,
			"-j MARK --set-xmark 0x5",
		)
		for range 2 {
			if _, err := NewRuleset(d, family, slog.New(slog.DiscardHandler)).Apply(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if d.restores != 1 {
			t.Errorf("iptables-restore ran %d times, want once", d.restores)
		}
	})
}

func makeSets(t *testing.T, family inet.Family) {
	inet6 := map[inet.Family]string{inet.IPv4: "inet", inet.IPv6: "inet6"}[family]
	for name, typ := range map[string]string{"one": "hash:ip", "two": "hash:ip,port", "three": "hash:ip,port,ip"} {
		nstest.Run(t, "ipset", "create", name, typ, "family", inet6)
	}
}

// TestRestoreWaitsForTheLock holds the lock of the legacy programs, under a
// path of its own.
func TestRestoreWaitsForTheLock(t *testing.T) {
	k := openKernel(t, Legacy, inet.IPv4)
	k.wait = 1
	release := holdLock(t)
	err := k.Restore(t.Context(), "*filter\n:A - [0:0]\nCOMMIT\n")
	if !isLocked(err) {
		t.Fatalf("error %v, want %v", err, ErrLocked)
	}
	release()
	if err := k.Restore(t.Context(), "*filter\n:A - [0:0]\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
}

// A table that nobody uses is not loaded by looking at it.
func TestSaveLoadsNoTable(t *testing.T) {
	k := openKernel(t, Legacy, inet.IPv4)
	for range 2 {
		text, err := k.Save(t.Context(), NAT)
		if err != nil || text != "" {
			t.Fatalf("Save = %q, %v", text, err)
		}
	}
}

func TestRestoreErrorShowsTheLine(t *testing.T) {
	forEach(t, func(t *testing.T, variant Variant, family inet.Family) {
		k := openKernel(t, variant, family)
		err := k.Restore(t.Context(), "*filter\n:A - [0:0]\n-A A -p tcp --dprt 80 -j ACCEPT\nCOMMIT\n")
		if err == nil || !strings.Contains(err.Error(), `unknown option "--dprt"`) ||
			!strings.Contains(err.Error(), `line 3 is "-A A -p tcp --dprt 80 -j ACCEPT"`) {
			t.Errorf("error %v", err)
		}
	})
}

// TestDetectLeavesNothing asks a namespace without rules, and one with.
func TestDetectLeavesNothing(t *testing.T) {
	d := openKernel(t, NFT, inet.IPv4)
	if got, err := Detect(t.Context()); got != NFT || err != nil {
		t.Fatalf("Detect = %q, %v; want %q", got, err, NFT)
	}
	expectTable(t, d, Filter, filterTable(""))
	nstest.Run(t, "iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT")
	if got, err := Detect(t.Context()); got != Legacy || err != nil {
		t.Errorf("Detect with rules in legacy = %q, %v", got, err)
	}
}
