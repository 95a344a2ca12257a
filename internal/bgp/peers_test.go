package bgp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/config/oc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestPeersThatCannotBe(t *testing.T) {
	good := peering(70, 1, 2, 64512, Mesh)
	config := testConfig(70, 1)
	fake, err := StartFake(config)
	if err != nil {
		t.Fatal(err)
	}
	speaker := start(t, config)
	for want, change := range map[string]func(*Peer){
		"needs an address":                         func(p *Peer) { p.Addr = netip.IPv4Unspecified() },
		"an autonomous system number":              func(p *Peer) { p.ASN = 0 },
		"is this speaker itself":                   func(p *Peer) { p.Addr = nodeAddr(70, 1) },
		"an address of the other family":           func(p *Peer) { p.Local = netip.IPv6Loopback() },
		"unknown role 4":                           func(p *Peer) { p.Role = 4 },
		"this speaker has no cluster ID":           func(p *Peer) { p.Role = Client },
		"TCP MD5 takes at most 80":                 func(p *Peer) { p.Password = Secret(strings.Repeat("x", 81)) },
		"hold time 1s is not whole seconds":        func(p *Peer) { p.HoldTime = time.Second },
		"hold time 3.5s is not":                    func(p *Peer) { p.HoldTime = 3500 * time.Millisecond },
		"hold time 18h12m16s is not":               func(p *Peer) { p.HoldTime = 65536 * time.Second },
		"BFD is only for neighbours of the link":   func(p *Peer) { p.BFD.Enabled, p.MultihopTTL = true, 2 },
		"BFD multiplier 256 is over 255":           func(p *Peer) { p.BFD.Enabled, p.BFD.Multiplier = true, 256 },
		"BFD intervals -1s and 0s are not between": func(p *Peer) { p.BFD.Enabled, p.BFD.MinTx = true, -time.Second },
	} {
		bad := peering(70, 1, 3, 64512, Mesh)
		change(&bad)
		for name, s := range map[string]interface {
			SetPeers([]Peer) error
			Peers() []PeerState
		}{"speaker": speaker, "fake": fake} {
			err := s.SetPeers([]Peer{bad, good})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", name, err, want)
			}
			if got := s.Peers(); len(got) != 1 || got[0].Peer != good {
				t.Errorf("%s: the good peer is not the only one: %+v", name, got)
			}
		}
	}
	twice := good
	twice.HoldTime = 3 * time.Second
	if err := speaker.SetPeers([]Peer{good, good, twice}); err == nil || !strings.Contains(err.Error(), "is given twice") {
		t.Errorf("error of a peer given twice: %v", err)
	}
	if got := speaker.Peers(); len(got) != 1 || got[0].Peer != good {
		t.Errorf("of the two the first one is kept: %+v", got)
	}
}

// A pair of nodes has a session with a password; then one or both change it.
func TestPasswords(t *testing.T) {
	cases := []struct {
		name         string
		waits, dials Secret // those of the side that waits and of the side that dials
		fails        string // what the side that dials says, if there is no session
		nodes        [3]*Speaker
	}{
		{name: "both change it", waits: "two", dials: "two"},
		{name: "both drop it", waits: "", dials: ""},
		{name: "one changes it", waits: "two", dials: "one", fails: "a password that is not the same on both sides"},
		{name: "the other changes it", waits: "one", dials: "two", fails: "a password that is not the same on both sides"},
		{name: "one drops it", waits: "", dials: "one", fails: "a password that is not the same on both sides"},
		{name: "the other drops it", waits: "one", dials: "", fails: "timeout"},
	}
	for i := range cases {
		for n := byte(1); n <= 2; n++ {
			cases[i].nodes[n] = start(t, testConfig(80+byte(i), n))
		}
	}
	t.Run("all", func(t *testing.T) { // once all are started
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				net := 80 + byte(i)
				a, b := c.nodes[1], c.nodes[2]
				set(t, a, withPassword(peering(net, 1, 2, 64512, Mesh), "one"))
				set(t, b, withPassword(peering(net, 2, 1, 64512, Mesh), "one"))
				up(t, b, nodeAddr(net, 1))
				set(t, a, withPassword(peering(net, 1, 2, 64512, Mesh), c.waits))
				set(t, b, withPassword(peering(net, 2, 1, 64512, Mesh), c.dials))
				if c.fails != "" {
					failing(t, b, nodeAddr(net, 1), c.fails)
					return
				}
				advertise(t, a, own(net, 1)...)
				learns(t, b, "10.244.1.0/24 via ["+nodeAddr(net, 1).String()+"]")
				knows(t, b, nodeAddr(net, 1), "no longer fails", func(p PeerState) bool { return !strings.Contains(p.LastError, "timeout") })
			})
		}
	})
}

func withPassword(p Peer, password Secret) Peer {
	p.Password = password
	return p
}

// A wrong system number is told on both sides, and nobody else suffers.
func TestWrongASN(t *testing.T) {
	const net = 72
	a, b, c := start(t, testConfig(net, 1)), start(t, testConfig(net, 2)), start(t, testConfig(net, 3))
	advertise(t, c, own(net, 3)...)
	set(t, a, peering(net, 1, 2, 65001, External), peering(net, 1, 3, 64512, Mesh))
	set(t, b, peering(net, 2, 1, 64512, External))
	set(t, c, peering(net, 3, 1, 64512, Mesh))
	learns(t, a, "10.244.3.0/24 via [127.0.72.3]")
	failing(t, a, nodeAddr(net, 2), "the peer's autonomous system is not the configured one")
	failing(t, b, nodeAddr(net, 1), "the peer refused the session: does it expect AS 64512 and router ID 127.0.72.2?")
	// Who dials finds out, too.
	set(t, a, peering(net, 1, 2, 64512, External), peering(net, 1, 3, 64512, Mesh))
	set(t, b, peering(net, 2, 1, 65002, External))
	failing(t, b, nodeAddr(net, 1), "the peer's autonomous system is not the configured one")
	set(t, b, peering(net, 2, 1, 64512, External))
	up(t, b, nodeAddr(net, 1))
	if state := up(t, a, nodeAddr(net, 3)); state.LastError != "" {
		t.Errorf("the other session was touched: %+v", state)
	}
}

// A peer that sends more than it may is cut off, its routes are withdrawn, and
// it is tried again after a while.
func TestTooManyPrefixes(t *testing.T) {
	const net = 73
	config, told := testConfig(net, 1), make(chan string, 10)
	config.OnLimit = func(_ netip.Addr, message string) { told <- message }
	a, b, c := start(t, config), start(t, testConfig(net, 2)), start(t, testConfig(net, 3))
	a.limitRetry = 2 * time.Second
	limited := peering(net, 1, 2, 64512, External)
	limited.MaxPrefixes = 10
	set(t, a, limited, peering(net, 1, 3, 64512, Mesh))
	set(t, b, peering(net, 2, 1, 64512, External))
	set(t, c, peering(net, 3, 1, 64512, Mesh))
	advertise(t, c, own(net, 3)...)
	var routes []Route
	var lines []string
	for i := range byte(11) {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, i, 0, 0}), 16)
		routes = append(routes, Route{Prefix: prefix, NextHop: nodeAddr(net, 2), To: ToExternal})
		lines = append(lines, fmt.Sprintf("%s via [127.0.73.2]", prefix))
	}
	advertise(t, b, routes[:10]...)
	eventually(t, waiting, "10 of 10 learned", func() (bool, string) {
		got := table(a)
		return sameLines(got, append([]string{"10.244.3.0/24 via [127.0.73.3]"}, lines[:10]...)), got
	})
	advertise(t, b, routes...)
	state := failing(t, a, nodeAddr(net, 2), "the peer sent more than 10 prefixes of a family; the next try is in 2s")
	if state.Established() {
		t.Error("the session goes on")
	}
	if message := <-told; !strings.Contains(message, "127.0.73.2: the peer sent more than 10 prefixes") {
		t.Errorf("told is %q", message)
	}
	failing(t, b, nodeAddr(net, 1), "maximum number of prefixes reached")
	learns(t, a, "10.244.3.0/24 via [127.0.73.3]")
	advertise(t, b, routes[:1]...)
	learns(t, a, "10.0.0.0/16 via [127.0.73.2]", "10.244.3.0/24 via [127.0.73.3]")
	if state := up(t, a, nodeAddr(net, 3)); state.LastError != "" {
		t.Errorf("the other session was touched: %+v", state)
	}
}

func TestAPeerThatIsAway(t *testing.T) {
	const net = 74
	a := start(t, testConfig(net, 2))
	set(t, a, peering(net, 2, 1, 64512, Mesh))
	failing(t, a, nodeAddr(net, 1), "connection refused")
	b := start(t, testConfig(net, 1))
	set(t, b, peering(net, 1, 2, 64512, Mesh))
	if state := up(t, a, nodeAddr(net, 1)); state.LastError != "" {
		t.Errorf("a session that never ended has the error %q", state.LastError)
	}
	// Both have said all that they have to: what came to b while it closes would
	// have the kernel reset the connection, and its last word be lost.
	settled := func(p PeerState) bool { return p.Settled }
	knows(t, a, nodeAddr(net, 1), "has settled", settled)
	knows(t, b, nodeAddr(net, 2), "has settled", settled)
	b.Stop()
	failing(t, a, nodeAddr(net, 1), "peer deconfigured")
}

// The password is nowhere: not in what is logged, at any level, nor in what is
// printed or encoded, nor in the answers of the API.
func TestPasswordsAreNotShown(t *testing.T) {
	const net = 75
	const secret = "hunter2hunter2"
	var log safeBuffer
	config := testConfig(net, 2)
	config.AdminAddr = nodeAddr(net, 2).String() + ":50051"
	s, err := Start(config, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	peer := withPassword(peering(net, 2, 1, 64512, External), secret)
	set(t, s, peer)
	state := failing(t, s, peer.Addr, "timeout") // a refusal is not signed, and so ignored
	encoded, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	tooLong := withPassword(peer, Secret(strings.Repeat(secret, 9)))
	shown := map[string]string{
		"the state": fmt.Sprintf("%v %+v %#v %s %q", state, state, state, state.Password, state.Password),
		"the JSON":  string(encoded),
		"the error": fmt.Sprint(s.SetPeers([]Peer{tooLong, peer})),
		"the API":   ask(t, config.AdminAddr),
		"the log":   log.String(),
	}
	for what, text := range shown {
		if strings.Contains(text, secret) || text == "" {
			t.Errorf("%s tells the password, or nothing:\n%s", what, text)
		}
	}
	if !strings.Contains(shown["the API"], peer.Addr.String()) || !strings.Contains(shown["the API"], "***") {
		t.Errorf("the API does not list the peer and that it has a password:\n%s", shown["the API"])
	}
}

// ask is what the gobgp command gets to see of the peers.
func ask(t *testing.T, addr string) string {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), waiting)
	defer cancel()
	stream, err := api.NewGoBgpServiceClient(conn).ListPeer(ctx, &api.ListPeerRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return answer.String()
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A peer of which the listeners have no password is refused, and one whose BFD
// cannot start: either is added when that is over.
func TestAPeerThatIsOnlyHalfAddedIsRefused(t *testing.T) {
	const net = 83
	a, b := start(t, testConfig(net, 1)), start(t, testConfig(net, 2))
	set(t, b, peering(net, 2, 1, 64512, Mesh))
	want := peering(net, 1, 2, 64512, Mesh)
	a.goLog.Warn("failed to set md5", "Topic", "Peer", "Key", want.Addr.String(), "Err", "cannot allocate memory")
	refused := func(p Peer, why string) {
		t.Helper()
		if err := a.SetPeers([]Peer{p}); err == nil || !strings.Contains(err.Error(), why) || len(a.Peers()) != 0 {
			t.Errorf("error %v with peers %v, want %q", err, a.Peers(), why)
		}
	}
	refused(want, "its password is not in force (TCP MD5, RFC 2385): cannot allocate memory")
	watched := want
	watched.BFD.Enabled = true
	a.bfd = noBFD{}
	refused(watched, "no BFD")
	a.bfd = nil
	set(t, a, want)
	up(t, a, want.Addr)
}

type noBFD struct{}

func (noBFD) Start(context.Context, oc.BfdConfig) error { return nil }
func (noBFD) AddPeer(context.Context, netip.Addr, oc.BfdConfig, string) error {
	return errors.New("no BFD")
}
func (noBFD) DeletePeer(context.Context, netip.Addr) error { return nil }
func (noBFD) Stop()                                        {}
