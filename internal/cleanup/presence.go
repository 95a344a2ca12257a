package cleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// presence is the socket that an agent, or a clean-up, holds while it runs. Its
// name is an abstract one (unix(7)), which belongs to a network namespace: as
// what it is about does, whatever files of the host a container sees.
const presence = "@kube-router/presence"

// migration is the socket that a clean-up holds, also one beside an agent.
const migration = "@kube-router/migration"

const (
	// claimRetry is how often an agent tries to hold the socket: its predecessor
	// may still have it.
	claimRetry = 2 * time.Second
	// healthTimeout bounds the question whether an agent answers.
	healthTimeout = 2 * time.Second
)

// ErrRunning means that an agent runs on this node: it would make again what
// is removed.
var ErrRunning = errors.New("kube-router runs on this node and would make everything again: " +
	"delete its DaemonSet (kubectl -n kube-system delete daemonset kube-router), or keep it off this node, and run this again")

// errBusy means that two want to remove things at a time.
var errBusy = errors.New("another kube-router --cleanup-config or migrate runs on this node: wait for it to end")

func claim(name string) (io.Closer, error) { return net.ListenPacket("unixgram", name) }

// claimMigration keeps other clean-ups from running meanwhile.
func claimMigration() (io.Closer, error) {
	held, err := claim(migration)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, errBusy
	}
	return held, err
}

// Announce tells clean-ups until ctx ends that an agent runs on this node.
func Announce(ctx context.Context) { announce(ctx, presence) }

func announce(ctx context.Context, name string) {
	for {
		held, err := claim(name)
		if err == nil {
			<-ctx.Done()
			held.Close()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(claimRetry):
		}
	}
}

// exclude makes sure that no agent runs and returns what keeps another clean-up
// from running meanwhile. An agent that does not announce itself is known by
// its health server; the empty address is that of none.
func exclude(ctx context.Context, name, healthAddress string) (io.Closer, error) {
	held, err := claim(name)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, ErrRunning
	}
	if err != nil {
		return nil, fmt.Errorf("finding out whether kube-router runs: %w", err)
	}
	if answers(ctx, healthAddress) {
		held.Close()
		return nil, fmt.Errorf("%w: its health server answers at %s", ErrRunning, healthAddress)
	}
	return held, nil
}

// answers says whether a health server is there.
func answers(ctx context.Context, address string) bool {
	if address == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return false
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK || response.StatusCode == http.StatusInternalServerError
}
