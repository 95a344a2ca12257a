package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/policy"
)

// measureCompile is the process that compiles 100,000 Pods and 75,000
// policies, all Pods as if they were of this node. It prints its row.
func measureCompile(ctx context.Context, out io.Writer) error {
	feeds := cluster.NewFeeds()
	quiet := slog.New(slog.DiscardHandler)
	c := policy.New(policy.Config{NodeName: localNode, Families: []inet.Family{inet.IPv4}}, feeds, policy.Drivers{
		Sets: nowhere{}, Bridges: func() ([]link.Bridge, error) { return nil, nil },
		Rules: map[inet.Family]*iptables.Ruleset{inet.IPv4: iptables.NewRuleset(nowhere{}, inet.IPv4, quiet)},
	}, quiet)
	if err := fillMany(feeds); err != nil {
		return err
	}
	before, err := memoryOf("self")
	if err != nil {
		return err
	}
	began := time.Now()
	made := c.Compile()
	took := time.Since(began)
	after, err := memoryOf("self")
	if err != nil {
		return err
	}
	runtime.KeepAlive(c)
	return json.NewEncoder(out).Encode([]Row{{
		What: compileName, Policies: made.Policies, Time: spreadOf([]time.Duration{took}), Memory: after,
		Note: fmt.Sprintf("the cluster's objects alone are %.0f MB; %d chains with %d rules, %d sets with %d entries",
			before.Now, made.Chains, made.Rules, made.Sets, made.Entries),
	}})
}

// fillMany publishes the many Pods and policies.
func fillMany(feeds *cluster.Feeds) error {
	w := many()
	for i := range w.pods {
		w.pods[i].node = localNode
	}
	return fill(feeds, w)
}

// nowhere is a kernel that takes everything and keeps nothing.
type nowhere struct{}

func (nowhere) List(...string) (map[string]ipset.Set, error)         { return nil, nil }
func (nowhere) Apply(changes []ipset.Change) []error                 { return make([]error, len(changes)) }
func (nowhere) Save(context.Context, iptables.Table) (string, error) { return "", nil }
func (nowhere) Counters(context.Context, iptables.Table, func(string, string, uint64)) error {
	return nil
}
func (nowhere) Restore(ctx context.Context, input string) error { return nil }
