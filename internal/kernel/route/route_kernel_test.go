//go:build kernel

package route

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

func TestKernel(t *testing.T) {
	suite(t, func(t *testing.T) system {
		ns := nstest.New(t)
		k, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		return system{
			Interface: k,
			text:      func(table int) string { return ipRoute(t, table) },
			addLink:   func(name string, addrs ...string) { addLink(t, name, addrs...) },
			delLink:   func(name string) { nstest.Run(t, "ip", "link", "delete", name) },
			foreign: func(key Key, via string) {
				nstest.Run(t, "ip", "route", "replace", key.Dst.String(), "via", via, "proto", "static")
			},
			spawn: func(fn func()) { ns.Go(t, fn) },
		}
	})
}

func addLink(t *testing.T, name string, addrs ...string) {
	t.Helper()
	peer := name + "p"
	nstest.Run(t, "ip", "link", "add", name, "type", "veth", "peer", "name", peer)
	nstest.Run(t, "ip", "link", "set", peer, "up")
	nstest.Run(t, "ip", "link", "set", name, "up")
	for _, addr := range addrs {
		args := []string{"address", "add", addr, "dev", name}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		}
		nstest.Run(t, "ip", args...)
	}
}

// The kernel drops IPv4 routes with their link without a notification of the
// routes; Resync finds them gone.
func TestRoutesComeBackAfterALinkWasDown(t *testing.T) {
	nstest.New(t)
	addLink(t, "v0", "192.168.66.11/24")
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	routes := NewRoutes(k, Main)
	want := via("10.244.2.0/24", "192.168.66.12")
	mustSet(t, routes, map[Key]*Route{want.Key: &want})
	nstest.Run(t, "ip", "link", "set", "v0", "down")
	if got := ipRoute(t, Main); got != "" {
		t.Fatalf("routes of a link that is down: %q", got)
	}
	nstest.Run(t, "ip", "link", "set", "v0", "up")
	if n, err := routes.Resync(); n != 1 || err != nil {
		t.Errorf("Resync = %d, %v", n, err)
	}
	if got, want := ipRoute(t, Main), "10.244.2.0/24 via 192.168.66.12 dev v0 proto 17\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A subscription that fails counts as a change, since notifications may be
// lost, and is followed by another one.
func TestWatchSubscribesAgain(t *testing.T) {
	ns := nstest.New(t)
	socket, err := subscribe()
	if err != nil {
		t.Fatal(err)
	}
	socket.Close()
	ctx, cancel := context.WithCancel(t.Context())
	changed, done := make(chan struct{}, 1), make(chan struct{})
	ns.Go(t, func() {
		defer close(done)
		watchAll(ctx, socket, changed)
	})
	wait := func(what string, ch <-chan struct{}) {
		t.Helper()
		select {
		case <-ch:
		case <-time.After(10 * time.Second):
			t.Fatalf("%s did not come within 10 s", what)
		}
	}
	wait("the change that a failed socket stands for", changed)
	deadline := time.After(10 * time.Second)
	for noticed := false; !noticed; {
		addLink(t, "v0", "192.168.66.11/24")
		nstest.Run(t, "ip", "link", "delete", "v0")
		select {
		case <-changed:
			noticed = true
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatal("the second subscription notices nothing")
		}
	}
	cancel()
	wait("the end", done)
}

// Routes of others are seen, with who made them, and ours are not among them.
func TestForeign(t *testing.T) {
	nstest.New(t)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	addLink(t, "eth0", "192.168.66.11/24")
	nstest.Run(t, "ip", "route", "add", "10.244.2.0/24", "via", "192.168.66.12", "proto", "bird")
	nstest.Run(t, "ip", "route", "add", "10.244.3.0/24", "via", "192.168.66.13", "proto", "17")
	list, err := k.Foreign(Main)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		if f.Dst.Addr().Is4() {
			got = append(got, f.Link+": "+f.Text)
		}
	}
	slices.Sort(got)
	want := []string{"eth0: 10.244.2.0/24 via 192.168.66.12 dev eth0 proto bird", "eth0: 192.168.66.0/24 dev eth0 proto kernel"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
