package former

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/routes"
)

// nodePortComment begins the comment of a rule that accepts all that leaves by
// the node's link. Nothing else of that rule tells whose it is.
const nodePortComment = `--comment "allow outbound node port traffic`

// podRule says whether a rule of a built-in chain is an earlier release's for
// Pods: accepting what is theirs, and masquerading what they send out.
func podRule(table iptables.Table, chain, rule string) bool {
	switch {
	case table == iptables.Filter && chain == "FORWARD":
		ours := strings.HasPrefix(rule, "-i "+routes.Bridge+" ") || strings.HasPrefix(rule, "-o "+routes.Bridge+" ") ||
			strings.HasPrefix(rule, "-o ") && strings.Contains(rule, nodePortComment)
		return ours && onlyAccepts(rule)
	case table == iptables.NAT && chain == "POSTROUTING":
		return strings.Contains(rule, "--match-set "+"kube-router-pod-subnets src") && strings.Contains(rule, " -j MASQUERADE") ||
			strings.Contains(rule, "--match-set "+"inet6:kube-router-pod-subnets src") && strings.Contains(rule, " -j MASQUERADE")
	}
	return false
}

// acceptAll matches a rule with a link, a comment, and nothing else.
var acceptAll = regexp.MustCompile(`^-[io] \S+( -m comment --comment ("[^"]*"|\S+))? -j ACCEPT$`)

func onlyAccepts(rule string) bool { return acceptAll.MatchString(rule) }

// serviceRule says the same of rules for Services: a source address for what
// IPVS sends on, and the segment size of answers that go directly.
func serviceRule(table iptables.Table, chain, rule string) bool {
	switch {
	case table == iptables.NAT && chain == "POSTROUTING":
		return strings.Contains(rule, "--vdir ORIGINAL --vmethod MASQ") &&
			(strings.Contains(rule, " -j SNAT ") || strings.Contains(rule, " -j MASQUERADE"))
	case table == iptables.Mangle && chain == "PREROUTING":
		return strings.Contains(rule, "-i "+routes.Bridge+" ") && strings.Contains(rule, " -j TCPMSS ")
	}
	return false
}

// mostMark is the largest firewall mark of the earlier releases' direct server
// return.
const mostMark = 0x3fff

// markRule is a rule that marks what is for one address and port.
var markRule = regexp.MustCompile(`^-d (\S+) -p (tcp|udp) -m (?:tcp|udp) --dport (\d+) (?:-m comment --comment (?:"[^"]*"|\S+) )?-j MARK --set-xmark 0x([0-9a-f]+)/0xffffffff$`)

// readMark reads such a rule of the table mangle.
func readMark(chain, rule string) (at ipset.Entry, mark uint32, ok bool) {
	if chain != "PREROUTING" && chain != "OUTPUT" {
		return at, 0, false
	}
	m := markRule.FindStringSubmatch(rule)
	if m == nil {
		return at, 0, false
	}
	p, err := netip.ParsePrefix(m[1])
	port, err2 := strconv.ParseUint(m[3], 10, 16)
	number, err3 := strconv.ParseUint(m[4], 16, 32)
	if err != nil || err2 != nil || err3 != nil || !p.IsSingleIP() || number == 0 || number > mostMark {
		return at, 0, false
	}
	protocol := map[string]inet.Protocol{"tcp": inet.TCP, "udp": inet.UDP}[m[2]]
	return ipset.IPPort(protocol, netip.AddrPortFrom(p.Addr(), uint16(port))), uint32(number), true
}
