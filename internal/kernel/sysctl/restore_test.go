package sysctl

import (
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/kernel/record"
)

// host is parameters of an imaginary host, where forwarding is off but on eth1,
// and the record of what is changed there.
type host struct {
	*Fake
	t    *testing.T
	path string
}

func newHost(t *testing.T) host {
	return host{t: t, path: filepath.Join(t.TempDir(), "before.json"), Fake: NewFake(map[string]string{
		"net/ipv4/ip_forward":                "0",
		"net/ipv4/conf/all/accept_redirects": "0",
		"net/ipv4/conf/all/forwarding":       "0",
		"net/ipv4/conf/all/rp_filter":        "2",
		"net/ipv4/conf/default/forwarding":   "0",
		"net/ipv4/conf/eth0/forwarding":      "0",
		"net/ipv4/conf/eth1/forwarding":      "1",
		"net/ipv6/conf/all/forwarding":       "0",
		"net/ipv6/conf/eth0/forwarding":      "0",
		"net/ipv6/conf/eth1/forwarding":      "1",
	})}
}

// agent sets parameters as an agent does that starts now.
func (h host) agent(settings ...string) {
	h.t.Helper()
	r := Recording{h.Fake, record.Open(h.path, slog.New(slog.DiscardHandler))}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		if _, err := r.Set(name, value); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h host) text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h.values)) {
		fmt.Fprintf(&b, "%s = %s\n", name, h.values[name])
	}
	return b.String()
}

func (h host) restore(want ...string) {
	h.t.Helper()
	restored, err := Restore(h.Fake, record.Open(h.path, slog.New(slog.DiscardHandler)))
	var got []string
	for _, r := range restored {
		got = append(got, r.String())
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		h.t.Errorf("%v; restored, -want +got:\n%s", err, diff)
	}
}

var forwarding = []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv4/conf/all/rp_filter=0"}

// The kernel changes other parameters along with forwarding; they are put back
// as well.
func TestRestore(t *testing.T) {
	h := newHost(t)
	before := h.text()
	h.agent(forwarding...)
	if h.text() == before {
		t.Fatal("nothing was set")
	}
	h.agent(forwarding...) // a restart
	h.restore(
		"net/ipv4/conf/all/rp_filter = 2 (it was 0)",
		"net/ipv4/conf/default/forwarding = 0 (it was 1)",
		"net/ipv4/conf/eth0/forwarding = 0 (it was 1)",
		"net/ipv4/ip_forward = 0 (it was 1)",
		"net/ipv6/conf/all/forwarding = 0 (it was 1)",
		"net/ipv6/conf/eth0/forwarding = 0 (it was 1)",
	)
	if diff := cmp.Diff(before, h.text()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
	h.restore()
}

// What somebody else set since stays, and what the agent found as it wanted it
// was never its own.
func TestRestoreLeavesOthersAlone(t *testing.T) {
	h := newHost(t)
	h.values["net/ipv4/ip_forward"], h.values["net/ipv4/conf/all/forwarding"] = "1", "1"
	h.agent(forwarding...)
	h.values["net/ipv4/conf/all/rp_filter"] = "1"
	h.values["net/ipv6/conf/eth1/forwarding"] = "0"
	delete(h.values, "net/ipv6/conf/eth0/forwarding") // with its link
	h.restore("net/ipv6/conf/all/forwarding = 0 (it was 1)")
	for name, want := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "1", "net/ipv6/conf/eth1/forwarding": "0",
	} {
		if got := h.values[name]; got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// The first half of a restoration changes what the second half looks at.
func TestRestoreGoesOnAfterAnInterruption(t *testing.T) {
	h := newHost(t)
	before := h.text()
	h.agent(forwarding...)
	r := record.Open(h.path, slog.New(slog.DiscardHandler))
	entries, err := r.Entries("")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Undo(slices.Collect(maps.Keys(entries))...); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Set("net/ipv4/ip_forward", "0"); err != nil { // and then the power was lost
		t.Fatal(err)
	}
	_, _ = Restore(h.Fake, record.Open(h.path, slog.New(slog.DiscardHandler)))
	if diff := cmp.Diff(before, h.text()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}

// What cannot be put back is tried again by the next run.
func TestRestoreFails(t *testing.T) {
	h := newHost(t)
	before := h.text()
	h.agent(forwarding...)
	h.SetReadOnly(true)
	_, err := Restore(h.Fake, record.Open(h.path, slog.New(slog.DiscardHandler)))
	if err == nil || !strings.Contains(err.Error(), "net/ipv4/ip_forward") || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("error %v", err)
	}
	h.SetReadOnly(false)
	_, _ = Restore(h.Fake, record.Open(h.path, slog.New(slog.DiscardHandler)))
	if diff := cmp.Diff(before, h.text()); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}
