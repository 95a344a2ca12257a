//go:build kernel

package sysctl

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
	"github.com/kube-router/kube-router/internal/kernel/record"
)

// The kernel does to other parameters what effectsOf says, and nothing else.
func TestRestoreOnTheKernel(t *testing.T) {
	nstest.New(t)
	nstest.Run(t, "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	k := New("")
	for name, value := range map[string]string{
		"net/ipv4/ip_forward": "0", "net/ipv6/conf/all/forwarding": "0", "net/ipv4/conf/all/accept_redirects": "0",
		"net/ipv4/conf/default/rp_filter": "0", "net/ipv4/conf/v1/rp_filter": "1", // and v0 follows the default
		"net/ipv4/conf/v0/forwarding": "1", "net/ipv6/conf/v1/forwarding": "1", "net/ipv4/conf/all/rp_filter": "1",
	} {
		if _, err := k.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	all := func() string {
		var lines []string
		for line := range strings.Lines(nstest.Run(t, "sysctl", "-a", "-r", `^net\.ipv[46]\.(conf|ip_forward)`)) {
			if !strings.Contains(line, "stable_secret") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	before, path := all(), filepath.Join(t.TempDir(), "before.json")
	r := Recording{k, record.Open(path, slog.New(slog.DiscardHandler))}
	for name, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv4/conf/default/rp_filter": "2", "net/ipv4/conf/all/rp_filter": "0",
	} {
		if changed, err := r.Set(name, value); !changed || err != nil {
			t.Fatalf("%s: changed %t, %v", name, changed, err)
		}
	}
	if got, err := k.Get("net/ipv4/conf/v0/rp_filter"); got != "2" || err != nil {
		t.Fatalf("the default was not copied: %q, %v", got, err)
	}
	if _, err := Restore(k, record.Open(path, slog.New(slog.DiscardHandler))); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, all()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}
