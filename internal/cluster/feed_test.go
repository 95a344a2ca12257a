package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"pgregory.net/rapid"
)

func pod(name, ip string) (Key, *Pod) {
	key := Key{"default", name}
	return key, &Pod{Meta: Meta{Key: key, UID: "uid-" + name}, Labels: labels.Set{"app": "web"}, IPs: []netip.Addr{netip.MustParseAddr(ip)}}
}

// describe is a change as "name old-address>new-address".
func describe(c Change[Pod]) string {
	side := func(p *Pod) string {
		if p == nil {
			return "none"
		}
		return p.IPs[0].String()
	}
	object := c.New
	if object == nil {
		object = c.Old
	}
	return fmt.Sprintf("%s %s>%s", object.Name, side(c.Old), side(c.New))
}

// recorded is a Feed of pods and what it published since the last take.
type recorded struct {
	Feed[Pod]
	changes []string
}

func newRecorded() *recorded {
	r := &recorded{Feed: newFeed[Pod]()}
	r.Subscribe(func(c Change[Pod]) { r.changes = append(r.changes, describe(c)) })
	return r
}

func (r *recorded) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(r.changes, want) {
		t.Errorf("published %q, want %q", r.changes, want)
	}
	r.changes = nil
}

func TestFeedPublishesChanges(t *testing.T) {
	f := newRecorded()
	f.Set(pod("a", "10.0.0.1"))
	f.expect(t, "a none>10.0.0.1")
	f.Set(pod("a", "10.0.0.2"))
	f.expect(t, "a 10.0.0.1>10.0.0.2")
	f.Delete(Key{"default", "a"})
	f.expect(t, "a 10.0.0.2>none")
	f.Delete(Key{"default", "a"})
	f.expect(t)
}

func TestFeedKeepsQuietAboutWhatIsTheSame(t *testing.T) {
	f := newRecorded()
	f.Set(pod("a", "10.0.0.1"))
	f.expect(t, "a none>10.0.0.1")
	key, same := pod("a", "10.0.0.1")
	f.Set(key, same)
	f.Replace(map[Key]*Pod{key: same})
	f.expect(t)

	_, labelled := pod("a", "10.0.0.1")
	labelled.Labels = labels.Set{"app": "db"}
	f.Set(key, labelled)
	f.expect(t, "a 10.0.0.1>10.0.0.1")

	_, reborn := pod("a", "10.0.0.1")
	reborn.Labels, reborn.UID = labelled.Labels, "another"
	f.Set(key, reborn)
	f.expect(t, "a 10.0.0.1>10.0.0.1")
}

// An address that moves from a pod which is gone to a new one is free before
// it is taken.
func TestReplacePublishesWhatIsGoneFirst(t *testing.T) {
	for range 20 {
		f := newRecorded()
		f.Set(pod("old", "10.0.0.1"))
		f.expect(t, "old none>10.0.0.1")
		key, moved := pod("new", "10.0.0.1")
		f.Replace(map[Key]*Pod{key: moved})
		f.expect(t, "old 10.0.0.1>none", "new none>10.0.0.1")
	}
}

// Whatever the history, a subscriber who applies the changes holds exactly
// the Feed's objects, and each change begins where the last one ended.
func TestSubscriberFollowsTheFeed(t *testing.T) {
	names := []string{"a", "b", "c"}
	addresses := []string{"10.0.0.1", "10.0.0.2"}
	rapid.Check(t, func(t *rapid.T) {
		f := newFeed[Pod]()
		have := map[Key]*Pod{}
		f.Subscribe(func(c Change[Pod]) {
			identity := c.New
			if c.New == nil {
				identity = c.Old
			}
			key := identity.Identity().Key
			if have[key] != c.Old {
				t.Fatalf("%s: the change begins at %v, the last one ended at %v", key, c.Old, have[key])
			}
			if have[key] = c.New; c.New == nil {
				delete(have, key)
			}
		})
		want := map[Key]string{}
		draw := func(i int) (Key, *Pod) {
			return pod(rapid.SampledFrom(names).Draw(t, fmt.Sprint("name", i)), rapid.SampledFrom(addresses).Draw(t, fmt.Sprint("ip", i)))
		}
		for i := range rapid.IntRange(1, 20).Draw(t, "steps") {
			key, object := draw(i)
			switch rapid.IntRange(0, 2).Draw(t, "step") {
			case 0:
				f.Set(key, object)
				want[key] = object.IPs[0].String()
			case 1:
				f.Delete(key)
				delete(want, key)
			case 2:
				f.Replace(map[Key]*Pod{key: object})
				want = map[Key]string{key: object.IPs[0].String()}
			}
			got := map[Key]string{}
			for key, object := range have {
				got[key] = object.IPs[0].String()
			}
			if !maps.Equal(got, want) {
				t.Fatalf("the subscriber holds %v, the truth is %v", got, want)
			}
		}
	})
}

func TestWaitSyncedWaitsForWantedFeedsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feeds := NewFeeds()
		feeds.Pods.Subscribe(func(Change[Pod]) {})
		feeds.Nodes.Subscribe(func(Change[Node]) {})
		if feeds.Services.Wanted() || !feeds.Pods.Wanted() {
			t.Error("Wanted is wrong")
		}
		if got := feeds.Waiting(); !slices.Equal(got, []string{"nodes", "pods"}) {
			t.Errorf("waiting for %q", got)
		}
		feeds.Nodes.Replace(nil)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := feeds.WaitSynced(ctx)
		if want := "no list yet of pods: context deadline exceeded"; err == nil || err.Error() != want || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got  %v\nwant %s", err, want)
		}

		go func() {
			time.Sleep(time.Minute)
			feeds.Pods.Replace(map[Key]*Pod{})
			feeds.Pods.Replace(map[Key]*Pod{})
		}()
		if err := feeds.WaitSynced(t.Context()); err != nil {
			t.Error(err)
		}
		if got := feeds.Waiting(); len(got) != 0 {
			t.Errorf("waiting for %q", got)
		}
	})
}

func TestNodeIP(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	n := &Node{InternalIPs: addrs("10.0.0.1", "10.0.0.2"), ExternalIPs: addrs("192.0.2.1", "2001:db8::1")}
	if got := n.IP(4).String(); got != "10.0.0.1" {
		t.Errorf("IPv4: %s", got)
	}
	if got := n.IP(6).String(); got != "2001:db8::1" {
		t.Errorf("IPv6: %s, want the external one", got)
	}
	if (&Node{}).IP(4).IsValid() {
		t.Error("a node without addresses has one")
	}
}
