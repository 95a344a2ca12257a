//go:build e2e || firewall

package e2e

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

// linkLocal is where a Pod serves its link-local address, as other Pods of its
// bridge write it. They have one in a cluster of IPv4 alone, too.
func linkLocal(t *testing.T, namespace, pod string) (url string) {
	t.Helper()
	for line := range strings.Lines(must(t, "%s", in(namespace, pod, "cat /proc/net/if_inet6"))) {
		fields := strings.Fields(line) // address, number, length, scope, flags, link
		if len(fields) == 6 && fields[5] == "eth0" && strings.HasPrefix(fields[0], "fe80") {
			raw, err := hex.DecodeString(fields[0])
			addr, ok := netip.AddrFromSlice(raw)
			if err != nil || !ok {
				t.Fatalf("%s: %v", line, err)
			}
			return "http://[" + addr.String() + "%25eth0]:8080/hostname"
		}
	}
	t.Fatalf("%s has no link-local address", pod)
	return ""
}
