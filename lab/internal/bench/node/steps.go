package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/kube-router/kube-router/lab/internal/bench"
	"github.com/kube-router/kube-router/lab/internal/bench/load"
)

// chosen is how many Services are tried besides the last.
const chosen = 20

// coldStart waits for the last Service, and then for others, which usually
// work by then: the time until all do is the cold start.
func (m *run) coldStart(ctx context.Context) error {
	// The same choice for every proxy.
	random := rand.New(rand.NewPCG(1, uint64(m.Services)))
	numbers := []int{m.Services - 1}
	for range chosen {
		numbers = append(numbers, random.IntN(m.Services))
	}
	var worked time.Time
	for i, n := range numbers {
		when, err := awaitAnswer(ctx, load.Service{Number: n}.VIP(), anybody, m.Wait)
		if errors.Is(err, errWaited) {
			m.row.ColdStart = bench.Over(bench.Seconds(time.Since(m.proxy.begin)))
		}
		if err != nil {
			return err
		}
		if worked = when; i == 0 {
			m.row.ColdStartLast = bench.Seconds(when.Sub(m.proxy.begin))
		}
	}
	m.row.ColdStart = bench.Seconds(worked.Sub(m.proxy.begin))
	m.note("cold start took %s s", m.row.ColdStart)
	return nil
}

// rules counts the proxy's iptables rules once it is at rest.
func (m *run) rules(ctx context.Context) error {
	if _, err := m.proxy.rest(ctx, m.Wait); err != nil {
		return err
	}
	rules, err := countRules(ctx)
	m.row.Rules = bench.Count(rules - m.before)
	return err
}

// memory comes after the new Services: half a minute after the start, a
// runtime has given back what only the start needed.
func (m *run) memory(ctx context.Context) error {
	if _, err := m.proxy.rest(ctx, m.Wait); err != nil {
		return err
	}
	var err error
	m.row.Memory, err = m.proxy.memory()
	m.keepMetrics(ctx, "at rest")
	m.note("memory %s MB", m.row.Memory)
	return err
}

// The connections that a median is of come in rounds with a pause between: what
// else a host does lasts longer than one round. The first few of each do not
// count, as caches are cold.
const (
	rounds       = 20
	connects     = 100 // of a round
	connectsCold = 10
	roundPause   = 150 * time.Millisecond
	mostFailed   = 5 // more, and there is no figure
)

// connecting is the median of connections through one Service, each followed by
// one straight to an endpoint, of another Service: both have the same share of
// the host, and no port of the one can be the other's.
func (m *run) connecting(ctx context.Context, number int) (*bench.Connecting, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := load.Service{Number: number}
	ways := [2]netip.AddrPort{s.VIP(), netip.AddrPortFrom(s.Elsewhere(), load.Port)}
	var times [len(ways)][]float64
	result := &bench.Connecting{}
	for range rounds {
		for i := range connectsCold + connects {
			for way, to := range ways {
				took, err := timeConnect(to)
				if err != nil {
					if result.Failed++; result.Failed > mostFailed {
						return nil, err
					}
					m.note("a connection failed: %v", err)
				}
				if i >= connectsCold {
					times[way] = append(times[way], float64(took)/float64(time.Microsecond))
				}
			}
		}
		if err := sleep(ctx, roundPause); err != nil {
			return nil, err
		}
	}
	result.Service, result.Direct = bench.Percentile(times[0], 50), bench.Percentile(times[1], 50)
	return result, nil
}

// ephemeral is so small a range of client ports that a sequence uses each of
// them several times, while the connection before is still in the tables.
const ephemeral = "40000 41999"

func (m *run) sequence(ctx context.Context) error {
	const file = "/proc/sys/net/ipv4/ip_local_port_range"
	before, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(ephemeral), 0o644); err != nil {
		return err
	}
	defer func() { _ = os.WriteFile(file, before, 0o644) }()
	s := &bench.Sequence{}
	vip := load.Service{Number: m.Services / 2}.VIP()
	for deadline := time.Now().Add(m.Wait); s.Count < bench.SequenceLength && time.Now().Before(deadline); s.Count++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		took, err := timeConnect(vip)
		if err != nil {
			s.Failed++
		}
		if took >= time.Second {
			s.Slow++
		}
		s.Max = max(s.Max, took.Seconds()*1000)
	}
	m.row.Sequence = s
	return nil
}

const (
	// newSamples is how many new Services are measured.
	newSamples = 20
	// newBudget is the time for all of them: a proxy that needs half a minute
	// for one is not asked twenty times. fewestSamples are taken all the same.
	newBudget     = 90 * time.Second
	fewestSamples = 3
)

// newServices creates Services one by one and waits until each works. It
// pauses between them for an irregular time, so as not to march in step with
// a proxy that works at intervals.
func (m *run) newServices(ctx context.Context) error {
	var samples []float64
	defer func() {
		if m.row.New == nil {
			m.row.New = bench.SpreadOf(samples)
		}
	}()
	random := rand.New(rand.NewPCG(2, 2))
	begin := time.Now()
	for i := range newSamples {
		if len(samples) >= fewestSamples && time.Since(begin) > newBudget {
			m.note("only %d new Services, for want of time", len(samples))
			return nil
		}
		if err := sleep(ctx, 500*time.Millisecond+time.Duration(random.IntN(1000))*time.Millisecond); err != nil {
			return err
		}
		s := load.Service{Number: m.Services + i}
		if err := m.client.CreateService(ctx, s); err != nil {
			return err
		}
		answered := time.Now()
		when, err := awaitAnswer(ctx, s.VIP(), anybody, m.Wait)
		if errors.Is(err, errWaited) {
			m.row.New = bench.SpreadOf(append(samples, milliseconds(m.Wait)))
			m.row.New.Over = true
		}
		if err != nil {
			return err
		}
		samples = append(samples, milliseconds(when.Sub(answered)))
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// changed is how many changes of endpoints CPU time is measured for.
const changed = 1000

// changes replaces the endpoints of one Service after the other, as fast as
// the API server takes it, and waits until the last changes have their effect.
func (m *run) changes(ctx context.Context) error {
	before, err := m.proxy.rest(ctx, m.Wait)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := load.Each(ctx, workers, 0, changed, func(ctx context.Context, i int) error {
		return m.client.ChangeEndpoints(ctx, m.change(i))
	}); err != nil {
		return err
	}
	worked := begin
	for i := changed - workers; i < changed; i++ {
		s := m.change(i)
		endpoints := s.Endpoints()
		when, err := awaitAnswer(ctx, s.VIP(), func(a netip.Addr) bool { return slices.Contains(endpoints[:], a) }, m.Wait)
		if errors.Is(err, errWaited) {
			m.row.ChangeTime = bench.Over(bench.Seconds(time.Since(begin)))
		}
		if err != nil {
			return err
		}
		if when.After(worked) {
			worked = when
		}
	}
	m.row.ChangeTime = bench.Seconds(worked.Sub(begin))
	after, err := m.proxy.rest(ctx, m.Wait)
	m.row.ChangeCPU = bench.Seconds(after - before)
	return err
}

// change is the Service and its endpoints after the change of a number: with
// fewer Services than changes, each has its turn again.
func (m *run) change(i int) load.Service {
	return load.Service{Number: i % m.Services, Variant: (i/m.Services + 1) % 2}
}

// few deletes all but a few Services, waits until the proxy has followed and
// connects again: in the same guest, because two are never equally fast.
func (m *run) few(ctx context.Context) error {
	if m.Services <= load.Few {
		return nil
	}
	if err := m.client.Shrink(ctx); err != nil {
		return err
	}
	if err := m.awaitGone(ctx, m.Services-1); err != nil {
		return err
	}
	if _, err := m.proxy.rest(ctx, m.Wait); err != nil {
		return err
	}
	var err error
	m.row.ConnectFew, err = m.connecting(ctx, load.Few-1)
	return err
}

// awaitGone waits until a Service answers no more.
func (m *run) awaitGone(ctx context.Context, number int) error {
	vip := load.Service{Number: number}.VIP()
	for deadline := time.Now().Add(m.Wait); time.Now().Before(deadline); {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		_, err := connect(attempt, vip)
		cancel()
		if err != nil {
			return context.Cause(ctx)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w for %s: a deleted Service still answers at %s", errWaited, m.Wait, vip)
}
