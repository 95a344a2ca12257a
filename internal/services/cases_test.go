package services

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/cluster"
)

// compileCase is a cluster, and what an operator sees of it in the kernel.
type compileCase struct {
	name    string
	config  func(*Config)
	node    *cluster.Node // n1 where nil
	objects []any
	want    string
	events  []string
}

// Each case's events are played to a controller at once before it starts, and
// one by one while it runs: forwards, backwards, and shuffled.
func TestCompile(t *testing.T) {
	for _, c := range slices.Concat(compileCases, localCases, optionCases, rangeCases) {
		t.Run(c.name, func(t *testing.T) {
			config := config4()
			if c.config != nil {
				c.config(&config)
			}
			objects := append([]any{n1}, c.objects...)
			if c.node != nil {
				objects[0] = c.node
			}
			play := func(name string, order []any) {
				t.Run(name, func(t *testing.T) {
					bubble(t, func(t *testing.T, w *world) {
						r := w.start(config)
						defer r.stop()
						for _, o := range order {
							r.happen(set(o))
						}
						w.wants(c.want)
						if d := cmp.Diff(c.events, w.events.sorted()); d != "" {
							t.Errorf("events (-want +got):\n%s", d)
						}
					})
				})
			}
			t.Run("at once", func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					defer w.start(config, set(objects...)).stop()
					w.wants(c.want)
				})
			})
			play("forwards", objects)
			order := slices.Clone(objects)
			slices.Reverse(order)
			play("backwards", order)
			random := rand.New(rand.NewPCG(1, 2))
			random.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			play("shuffled", order)
		})
	}
}
