package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// The connections: rounds in which each layout and pair has its turn, so that
// what else the machine does meets all alike.
const (
	rounds        = 30
	perRound      = 150
	warmUp        = 200
	roundsMinimum = 5
)

// timing is the connections of one pair in one layout, round by round.
type timing struct {
	all     []time.Duration
	medians []time.Duration
}

// ratio is the median of the rounds' ratios to another's median of the same
// round.
func (t timing) ratio(to timing) *float64 {
	if len(t.medians) != len(to.medians) || len(t.medians) < roundsMinimum {
		return nil
	}
	var ratios []float64
	for i := range t.medians {
		ratios = append(ratios, float64(t.medians[i])/float64(to.medians[i]))
	}
	median := percentile(ratios, 50)
	return &median
}

// node is a connecting process.
type node struct {
	layout  layout
	orders  *json.Encoder
	answers *json.Decoder
	took    time.Duration // to program
}

func (n *node) connect(pair string, count int) ([]time.Duration, error) {
	if err := n.orders.Encode(order{pair, count}); err != nil {
		return nil, fmt.Errorf("%s: %w", n.layout.name, err)
	}
	var times []time.Duration
	if err := n.answers.Decode(&times); err != nil || len(times) == 0 {
		return nil, fmt.Errorf("%s: no connections to the %s pod: %w", n.layout.name, pair, err)
	}
	return times, nil
}

type turn struct{ layout, pair string }

// connectRounds makes all connections.
func connectRounds(nodes []*node) (map[turn]timing, error) {
	timings := map[turn]timing{}
	for round := -1; round < rounds; round++ {
		for i := range nodes {
			n := nodes[(i+round+1)%len(nodes)] // each begins in its turn
			for _, pair := range []string{unaffected, affected} {
				count := perRound
				if round < 0 {
					count = warmUp
				}
				times, err := n.connect(pair, count)
				if err != nil {
					return nil, err
				}
				if round < 0 {
					continue
				}
				t := timings[turn{n.layout.name, pair}]
				t.all = append(t.all, times...)
				t.medians = append(t.medians, percentile(times, 50))
				timings[turn{n.layout.name, pair}] = t
			}
		}
	}
	return timings, nil
}

// measureConnections has a process for each layout, and returns a row for each
// of its pairs.
func measureConnections(ctx context.Context, progress func(string)) (rows []Row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var nodes []*node
	for _, l := range layouts() {
		progress("preparing a node: " + l.name)
		in, out, stop, err := startChild(ctx, connectChild, l.name)
		if err != nil {
			return nil, err
		}
		defer stop()
		n := &node{layout: l, orders: json.NewEncoder(in), answers: json.NewDecoder(out)}
		if err := n.answers.Decode(&n.took); err != nil {
			return nil, fmt.Errorf("%s: the process ended before the network was there: %w", l.name, err)
		}
		nodes = append(nodes, n)
	}
	progress("connecting")
	timings, err := connectRounds(nodes)
	if err != nil {
		return nil, err
	}
	for _, pair := range []string{unaffected, affected} {
		for _, n := range nodes {
			t := timings[turn{n.layout.name, pair}]
			rows = append(rows, Row{
				What: connectName(pair, n.layout.name), Policies: n.layout.policies,
				Time: spreadOf(t.all), Ratio: t.ratio(timings[turn{none, pair}]),
			})
		}
	}
	for _, n := range nodes {
		if n.layout.name == flatRules {
			rows = append(rows, Row{
				What: "first programming: " + flatRules, Policies: n.layout.policies,
				Time: spreadOf([]time.Duration{n.took}), Note: n.layout.note(),
			})
		}
	}
	return rows, nil
}

func connectName(pair, layout string) string { return "connect, " + pair + ": " + layout }
