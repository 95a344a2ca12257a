package policy

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// More cases: go test ./internal/policy -run RandomClusters -policy.cases=100000
// Other cases: -policy.seed=0 takes a seed at random. One case again, with what
// a failure printed: -policy.seed=1 -policy.case=4711.
var (
	caseCount = flag.Int("policy.cases", 300, "how many random clusters are judged")
	caseSeed  = flag.Uint64("policy.seed", 1, "what the random clusters are drawn from; 0 is a seed at random")
	oneCase   = flag.Int64("policy.case", -1, "judge only this case")
)

// The rules of any cluster decide as the API's documentation does, whatever
// came before and in whatever order the agent learnt of it.
func TestRandomClusters(t *testing.T) {
	seed := *caseSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	if *oneCase >= 0 {
		report(t, seed, uint64(*oneCase), runCase(seed, uint64(*oneCase)))
		return
	}
	var next, failed atomic.Int64
	failed.Store(int64(*caseCount))
	var flows atomic.Int64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for n := next.Add(1) - 1; n < failed.Load(); n = next.Add(1) - 1 {
				if r := runCase(seed, uint64(n)); r.err != nil {
					failed.Store(min(failed.Load(), n))
				} else {
					flows.Add(int64(r.flows))
				}
			}
		})
	}
	workers.Wait()
	if n := failed.Load(); n < int64(*caseCount) {
		report(t, seed, uint64(n), runCase(seed, uint64(n)))
	}
	t.Logf("%d random clusters, seed %d: %d connections judged", *caseCount, seed, flows.Load())
}

// result is how a case ended, with what to tell of it.
type result struct {
	err     error
	cluster *objects
	history []string
	flows   int
}

func report(t *testing.T, seed, number uint64, r result) {
	t.Helper()
	if r.err == nil {
		return
	}
	again := fmt.Sprintf("-policy.seed=%d -policy.case=%d", seed, number)
	if small, err := shrink(r.cluster, configOf(number)); err != nil {
		w := newDualWorldWith(configOf(number))
		w.publish(small)
		_ = w.work()
		t.Fatalf("case %d of seed %d (%s): %v\nThe least cluster that shows it:\n%s\nThe kernel there:\n%s", number, seed, again, err, small.yaml(), w.kernel())
	}
	t.Fatalf("case %d of seed %d (%s): %v\nIt takes its history:\n%s\nThe cluster in the end:\n%s", number, seed, again, r.err, r.history, r.cluster.yaml())
}

// configOf is the configuration of a case: beside our service proxy or another.
func configOf(number uint64) func(*Config) {
	if number%2 == 0 {
		return besideOurProxy
	}
	return nil
}

// runCase plays a cluster's history, and judges it at its end and on the way.
func runCase(seed, number uint64) (r result) {
	d := newDice(seed, number)
	p := &player{dice: d, world: newDualWorldWith(configOf(number)), now: &objects{}}
	defer func() { r.cluster, r.history, r.flows = p.now, p.told, p.flows }()
	next := d.drawCluster()
	for range d.between(1, 3) {
		if err := p.play(next); err != nil {
			r.err = err
			return r
		}
		next = d.changed(next)
	}
	r.err = p.sameAsFresh()
	return r
}

// sameAsFresh holds the kernel to what it is where the present is all there
// ever was; and a restart to changing nothing.
func (p *player) sameAsFresh() error {
	fresh := newDualWorldWith(p.adapt)
	fresh.publish(p.now)
	if err := fresh.work(); err != nil {
		return err
	}
	if p.kernel() != fresh.kernel() {
		return fmt.Errorf("after its history the kernel holds\n%s\nand without it\n%s", p.kernel(), fresh.kernel())
	}
	before := fresh.effort()
	again := fresh.restarted()
	again.publish(p.now)
	if err := again.work(); err != nil {
		return err
	}
	if now := again.effort(); now != before {
		return fmt.Errorf("a restart changed the kernel: restores and set changes were %v, are %v", before, now)
	}
	return nil
}

// effort counts the runs of iptables-restore and the changes of sets.
func (w *world) effort() [3]int {
	_, restores := w.rules.Calls()
	_, restores6 := w.rules6.Calls()
	_, _, changes := w.sets.Calls()
	return [3]int{restores, restores6, changes}
}

// Every order of a cluster's events ends in the same kernel.
func TestEventOrder(t *testing.T) {
	for number := range uint64(8) {
		d := newDice(*caseSeed, number)
		o := d.drawCluster()
		first := newDualWorld()
		first.publish(o)
		first.settle(t)
		for range 64 {
			p := &player{dice: d, world: newDualWorld(), now: &objects{}}
			if err := p.play(o); err != nil {
				t.Fatal(err)
			}
			if p.kernel() != first.kernel() {
				t.Fatalf("after %q:\n%s\nwant\n%s\n%s", p.told, p.kernel(), first.kernel(), o.yaml())
			}
		}
	}
}

// shrink takes parts off a cluster as long as it is judged wrongly without
// its history, and returns the least with its error.
func shrink(o *objects, adapt func(*Config)) (*objects, error) {
	wrong := func(o *objects) error {
		w := newDualWorldWith(adapt)
		w.publish(o)
		return cmp.Or(w.work(), w.check(o, allTargets))
	}
	err := wrong(o)
	if err == nil {
		return nil, nil
	}
	for less := true; less; {
		less = false
		for _, candidate := range smaller(o) {
			if e := wrong(candidate); e != nil {
				o, err, less = candidate, e, true
				break
			}
		}
	}
	return o, errors.Join(err)
}

// smaller are a cluster's neighbours that have one thing less.
func smaller(o *objects) (all []*objects) {
	for i := range o.policies {
		c := o.clone()
		c.policies = slices.Delete(c.policies, i, i+1)
		all = append(all, c)
	}
	for i := range o.namespaces {
		c := o.clone()
		c.namespaces = slices.Delete(c.namespaces, i, i+1)
		all = append(all, c)
	}
	for i := range o.pods {
		c := o.clone()
		c.pods = slices.Delete(c.pods, i, i+1)
		all = append(all, c)
	}
	for i, np := range o.policies {
		for _, np := range smallerPolicies(np) {
			c := o.clone()
			c.policies[i] = np
			all = append(all, c)
		}
	}
	return all
}
