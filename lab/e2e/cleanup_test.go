//go:build manifests

package e2e

import (
	"strings"
	"testing"
)

// remains prints what of a node's kernel and of its CNI configuration is the
// agent's. Nothing else in the lab has virtual servers, sets, or routes with its
// protocol.
const remains = `(ipvsadm -Sn; ipset list -name
for family in -4 -6; do ip $family route show table all proto 17; ip $family rule show | grep "lookup 7[0-9]"; done
for save in iptables-legacy-save ip6tables-legacy-save; do $save | grep -e KUBE-ROUTER -e KUBE-POD-FW -e KUBE-NWPLCY; done
ip -o link show | grep -e ": kube-" -e ": tun-"; ls -A /etc/cni/net.d | grep kuberouter) 2>/dev/null; true`

// cleanedUp takes kube-router off a node as the manual prints it: nothing of it
// is left there, and there is nothing to do for the next run.
func cleanedUp(t *testing.T, node int) {
	before := onNode(t, node, remains)
	for _, sign := range []string{"-A -t ", "kube-router-svip", " via ", "KUBE-ROUTER-INPUT", "kube-bridge", "10-kuberouter.conflist"} {
		if !strings.Contains(before, sign) {
			t.Errorf("before there is no %q in\n%s", sign, before)
		}
	}
	must(t, "kubectl drain node%d --ignore-daemonsets --force --delete-emptydir-data --timeout=%s", node, patience)
	must(t, "kubectl -n kube-system delete daemonset kube-router")
	eventually(t, func(out string, err error) bool { return err == nil && out == "" },
		"kubectl -n kube-system get pods -l k8s-app=kube-router -o name")

	// Debian 12's runc does not work in the lab's guests.
	command := strings.Replace(commands(t, "cleanup.md", "ctr -n k8s.io run"), "run --rm", "run --rm --runc-binary crun", 1)
	done := onNode(t, node, command)
	t.Logf("$ kube-router --cleanup-config\n%s", done)
	if !strings.Contains(done, "removed bridge kube-bridge") || strings.Contains(done, "not removed") {
		t.Errorf("it says\n%s", done)
	}
	if left := onNode(t, node, remains); left != "" {
		t.Errorf("node %d still has\n%s", node, left)
	}
	if again := onNode(t, node, command); !strings.HasSuffix(again, "nothing to remove") {
		t.Errorf("the next run says\n%s", again)
	}
}
