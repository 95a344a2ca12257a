package bgp

import (
	"testing"
	"time"
)

// A node that becomes a reflector, for its peers, is another node with the same
// session.
func TestTheRoleOfAReflectorChangesNoSession(t *testing.T) {
	a, b := start(t, testConfig(201, 1)), start(t, testConfig(201, 2))
	peers := mesh(201, 1, 1, 2)
	if err := a.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
	if err := b.SetPeers(mesh(201, 2, 1, 2)); err != nil {
		t.Fatal(err)
	}
	var since time.Time
	eventually(t, 20*time.Second, "a session", func() (bool, string) {
		p := a.Peers()[0]
		since = p.Since
		return p.Established(), p.State
	})
	fake, err := StartFake(testConfig(201, 3))
	if err != nil {
		t.Fatal(err)
	}
	if err := fake.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
	peers[0].Role = Reflector
	if err := a.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
	if p := a.Peers()[0]; !p.Established() || !p.Since.Equal(since) || p.Role != Reflector {
		t.Errorf("the peer is now %+v, and its session began at %v", p, since)
	}
	if err := fake.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
	if p := fake.Peers()[0]; fake.Sessions() != 1 || p.Role != Reflector {
		t.Errorf("the fake has had %d sessions, the last with %+v", fake.Sessions(), p)
	}
	client := peers[0]
	client.Role = Client
	if client.sameSession(peers[0]) || peers[0].sameSession(client) {
		t.Error("a client's session is not a reflector's")
	}
}
