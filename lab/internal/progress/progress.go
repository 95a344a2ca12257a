// Package progress tells whoever waits what is being done, and for how long.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// heartbeat is how long a step may stay silent: CI systems and people take
// silence for a hang.
const heartbeat = 15 * time.Second

// Log prints one line for each thing that happens, with the elapsed time.
type Log struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

// New starts the clock.
func New(out io.Writer) *Log { return &Log{out: out, start: time.Now()} }

// Elapsed is the time since New.
func (l *Log) Elapsed() time.Duration { return time.Since(l.start) }

// Printf prints one line.
func (l *Log) Printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "[%4.0fs] %s\n", l.Elapsed().Seconds(), fmt.Sprintf(format, args...))
}

// Step runs one step: it prints the step's name, a line now and then while it
// takes long, and how long it took.
func (l *Log) Step(name string, work func() error) error {
	l.Printf("%s ...", name)
	begin := time.Now()
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				l.Printf("%s ... still at it after %.0fs", name, time.Since(begin).Seconds())
			}
		}
	}()
	err := work()
	close(done)
	<-stopped
	if err != nil {
		l.Printf("%s: failed after %.1fs", name, time.Since(begin).Seconds())
		return err
	}
	l.Printf("%s: done in %.1fs", name, time.Since(begin).Seconds())
	return nil
}
