package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/inet"
)

const benchPort = 1790

// speakerAddr is that of a speaker in this process: 127.9.x.y.
func speakerAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 9, byte(i >> 8), byte(i)}) }

func podCIDR(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), 0}), 24)
}

func startSpeaker(i int, cluster netip.Addr) (*bgp.Speaker, error) {
	return bgp.Start(bgp.Config{
		ASN: asn, RouterID: speakerAddr(i), Listen: []netip.Addr{speakerAddr(i)}, Port: benchPort,
		Families: []inet.Family{inet.IPv4}, ClusterID: cluster,
	}, quiet())
}

func peerOf(i, other int, role bgp.Role) bgp.Peer {
	return bgp.Peer{Addr: speakerAddr(other), ASN: asn, Port: benchPort, Local: speakerAddr(i), Passive: i < other, Role: role}
}

// measureMesh has n speakers, each with a prefix, in a full mesh.
func measureMesh(ctx context.Context, n int) ([]Row, error) {
	before, err := resident()
	if err != nil {
		return nil, err
	}
	speakers := make([]*bgp.Speaker, n)
	for i := range speakers {
		if speakers[i], err = startSpeaker(i+1, netip.Addr{}); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	for i, s := range speakers {
		var peers []bgp.Peer
		for other := range n {
			if other != i {
				peers = append(peers, peerOf(i+1, other+1, bgp.Mesh))
			}
		}
		if err := s.Advertise([]bgp.Route{{Prefix: podCIDR(i), NextHop: speakerAddr(i + 1), To: bgp.ToNodes}}); err != nil {
			return nil, err
		}
		if err := s.SetPeers(peers); err != nil {
			return nil, err
		}
	}
	err = until(ctx, func() error {
		for i, s := range speakers {
			if got := len(s.Learned()); got != n-1 {
				return fmt.Errorf("speaker %d learned %d of %d prefixes: %w", i+1, got, n-1, errLate)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	after, err := resident()
	each := (after - before) / float64(n)
	return []Row{{What: meshName(n), Time: spreadOf(took), Sessions: figure(n * (n - 1) / 2), Memory: &each}}, err
}

// measureReflectors has n clients, each with a prefix, of two reflectors that
// are each other's clients, too. Clients only count what they are told, so that
// it is the reflectors that are measured.
func measureReflectors(ctx context.Context, by string, n int) ([]Row, error) {
	reflect := ourReflectors
	if by == bird {
		reflect = birdReflectors
	}
	began := time.Now()
	memory, stop, err := reflect(ctx, n)
	if err != nil {
		return nil, err
	}
	defer stop()
	clients := make([]*client, 0, 2*n)
	for c := range n {
		for i := range 2 {
			clients = append(clients, dial(ctx, speakerAddr(3+c), speakerAddr(i+1), podCIDR(c), n-1))
		}
	}
	for _, c := range clients {
		select {
		case <-c.done:
			if c.err != nil {
				return nil, fmt.Errorf("client %s of %s: %w", c.local, c.reflector, c.err)
			}
		case <-time.After(within):
			return nil, fmt.Errorf("client %s of %s was told %d of %d prefixes: %w", c.local, c.reflector, c.told.Load(), n-1, errLate)
		}
	}
	took := time.Since(began)
	row := Row{What: reflectorName(n), Time: spreadOf(took), Sessions: figure(2*n + 1)}
	if by == ours {
		row.Note = "memory is that of a reflector, with what the clients in its process have"
	}
	each, err := memory()
	row.Memory = &each
	return []Row{row}, err
}

// ourReflectors are two speakers of this process with n clients each, and each
// other. The memory is that of one.
func ourReflectors(_ context.Context, n int) (memory func() (float64, error), stop func(), err error) {
	before, err := resident()
	if err != nil {
		return nil, nil, err
	}
	var speakers []*bgp.Speaker
	for i := range 2 {
		s, err := startSpeaker(i+1, speakerAddr(i+1))
		if err != nil {
			return nil, nil, err
		}
		speakers = append(speakers, s)
	}
	for i, s := range speakers {
		peers := []bgp.Peer{peerOf(i+1, 2-i, bgp.Client)}
		for c := range n {
			peers = append(peers, peerOf(i+1, 3+c, bgp.Client))
		}
		if err := s.SetPeers(peers); err != nil {
			return nil, nil, err
		}
	}
	memory = func() (float64, error) {
		after, err := resident()
		return (after - before) / 2, err
	}
	return memory, func() {}, nil // they end with the process
}

func until(ctx context.Context, done func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := done()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// resident is this process's memory without garbage.
func resident() (float64, error) {
	debug.FreeOSMemory()
	return residentOf(strconv.Itoa(os.Getpid()))
}
