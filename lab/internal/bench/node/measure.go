package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/kube-router/kube-router/lab/internal/bench"
	"github.com/kube-router/kube-router/lab/internal/bench/load"
)

// Options say what to measure.
type Options struct {
	Proxy      string
	Command    []string
	Kubeconfig string
	// Services are in the API server already.
	Services int
	// Wait bounds each thing that is waited for.
	Wait time.Duration
	// Sequence also makes the sequence of connections, Few also compares with
	// few Services, which deletes the others.
	Sequence, Few bool
	// Log is where the proxy's output goes, and what it answers at the URL
	// Metrics, at rest after the start and in the end.
	Log, Metrics string
}

// workers is how many changes are asked for at once.
const workers = 10

// run is one measurement under way.
type run struct {
	Options
	client *load.Client
	proxy  *proxy
	row    *bench.Row
	// before is the number of iptables rules that are not the proxy's.
	before int
	note   func(format string, args ...any)
}

// Measure measures one proxy. What was measured before an error is in the
// row, and so is the error.
func Measure(ctx context.Context, o Options, progress io.Writer) bench.Row {
	row := bench.Row{Proxy: o.Proxy, Services: o.Services}
	begin := time.Now()
	m := &run{Options: o, row: &row, note: func(format string, args ...any) {
		fmt.Fprintf(progress, "%s at %d, %3.0fs: %s\n", o.Proxy, o.Services, time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}}
	if err := m.all(ctx); err != nil {
		row.Error = err.Error()
	}
	return row
}

func (m *run) all(ctx context.Context) error {
	var err error
	if m.client, err = load.NewClient(m.Kubeconfig, workers); err != nil {
		return err
	}
	if err := quiet(); err != nil {
		return err
	}
	if err := layOut(); err != nil {
		return err
	}
	if err := answer(); err != nil {
		return err
	}
	if m.before, err = countRules(ctx); err != nil {
		return err
	}
	if err := readProgram(m.Command[0]); err != nil {
		return err
	}
	if m.proxy, err = startProxy(m.Command, m.Log); err != nil {
		return err
	}
	defer m.proxy.stop()
	ctx, cancel := m.proxy.alive(ctx)
	defer cancel()
	err = m.steps(ctx)
	m.keepMetrics(ctx, "at the end")
	return err
}

// keepMetrics adds the proxy's own metrics to its log, for whoever wonders
// where its time went.
func (m *run) keepMetrics(ctx context.Context, when string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Metrics, nil)
	if err != nil {
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if log, err := os.OpenFile(m.Log, os.O_APPEND|os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(log, "# metrics %s\n", when)
		_, _ = io.Copy(log, resp.Body)
		log.Close()
	}
}

func (m *run) steps(ctx context.Context) error {
	steps := []struct {
		name string
		do   func(context.Context) error
		skip bool
	}{
		{name: "cold start", do: m.coldStart},
		{name: "iptables rules", do: m.rules},
		{name: "connecting", do: func(ctx context.Context) (err error) {
			m.row.Connect, err = m.connecting(ctx, m.Services-1)
			return err
		}},
		{name: "a sequence of connections", do: m.sequence, skip: !m.Sequence},
		{name: "new Services", do: m.newServices},
		{name: "memory", do: m.memory},
		{name: "changes of endpoints", do: m.changes},
		{name: "connecting with few Services", do: m.few, skip: !m.Few},
	}
	var failed []error
	for i, s := range steps {
		if s.skip {
			continue
		}
		m.note("%s ...", s.name)
		if err := s.do(ctx); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", s.name, err))
			if i == 0 || ctx.Err() != nil {
				break // what does not start has nothing else to show
			}
		}
	}
	return errors.Join(failed...)
}
