//go:build kernel

package iptables

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/kube-router/kube-router/internal/inet"
)

// A table of nftables that has the name of one of iptables', and a rule that
// iptables has no words for, hinders only who wants something in it; nor does it
// make the host one of the other variant.
func TestForeignTable(t *testing.T) {
	k := openKernel(t, NFT, inet.IPv4)
	command := exec.Command("nft", "-f", "-")
	command.Stdin = strings.NewReader("add table ip nat\nadd chain ip nat PREROUTING { type nat hook prerouting priority -100; }\n" +
		"add rule ip nat PREROUTING meta iifgroup 3 accept\n")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := k.Save(t.Context(), NAT); err == nil {
		t.Error("iptables has words for it")
	}
	if variant, err := Detect(t.Context()); variant != NFT || err != nil {
		t.Errorf("the variant is %s, %v", variant, err)
	}
	r := newRuleset(k)
	if _, err := r.Apply(t.Context(), policy("-j ACCEPT")); err != nil {
		t.Error(err)
	}
	if text, err := k.Save(t.Context(), Filter); !strings.Contains(text, "-A KUBE-POD-FW-A -j ACCEPT") {
		t.Errorf("the kernel holds\n%s%v", text, err)
	}
	if out, err := exec.Command("nft", "list", "table", "ip", "nat").CombinedOutput(); !strings.Contains(string(out), "iifgroup 3 accept") {
		t.Errorf("the foreign table is\n%s%v", out, err)
	}
}
