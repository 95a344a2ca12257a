package advice

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/inet"
)

// Two clusters on one network, each with the AS number that is the default, and
// a node of one that speaks with a node of the other as with its own: what it
// learns shows whose they are.
func TestTwoClustersWithOneASN(t *testing.T) {
	const ours, theirs = "127.0.201.1", "127.0.201.2"
	node, stranger := speaker(t, ours), speaker(t, theirs)
	peer := func(s *bgp.Speaker, local, remote string, passive bool) {
		t.Helper()
		err := s.SetPeers([]bgp.Peer{{Addr: addr(remote), ASN: 64512, Port: 17900, Local: addr(local), Passive: passive}})
		if err != nil {
			t.Fatal(err)
		}
	}
	peer(node, ours, theirs, true)
	peer(stranger, theirs, ours, false)
	if err := stranger.Advertise([]bgp.Route{{Prefix: prefix("10.244.1.0/24"), NextHop: addr(theirs), To: bgp.ToNodes}}); err != nil {
		t.Fatal(err)
	}
	names, pods := map[netip.Addr]string{addr(ours): "node1"}, map[string][]netip.Prefix{"node1": {prefix("10.244.1.0/24")}}
	deadline := time.After(20 * time.Second)
	for {
		f := right()
		f.Strangers = Strangers(node.Learned(), names, pods, nil)
		found := Check(f)
		if len(found) == 1 && found[0].Reason == "ClustersShareASN" && strings.Contains(found[0].Message, "10.244.1.0/24, pods of node node1, is also announced by "+theirs) &&
			strings.Contains(found[0].Message, "--cluster-asn") {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("learned %v\nsaid %v", node.Learned(), found)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func speaker(t *testing.T, ip string) *bgp.Speaker {
	t.Helper()
	s, err := bgp.Start(bgp.Config{ASN: 64512, RouterID: addr(ip), Listen: []netip.Addr{addr(ip)}, Port: 17900, Families: []inet.Family{inet.IPv4}},
		slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}
