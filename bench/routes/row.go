package main

import (
	"math"
	"slices"
	"time"
)

// Row is what was measured of one thing. What is nil was not measured.
type Row struct {
	What string `json:"what"`
	// By is who was measured: ours, or a peer.
	By string `json:"by"`
	// Time is that of one thing, or of several alike, in microseconds.
	Time *Spread `json:"time,omitempty"`
	// Sessions are those that were up at the end.
	Sessions *float64 `json:"sessions,omitempty"`
	// Operations are changes of the kernel's routes, Repeated those of them
	// that had nothing to do with what happened, or came twice.
	Operations *float64 `json:"kernelOperations,omitempty"`
	Repeated   *float64 `json:"repeatedOperations,omitempty"`
	// Memory is in units of 1,000,000 bytes: of the agent, or of each speaker.
	Memory *float64 `json:"memoryMB,omitempty"`
	Note   string   `json:"note,omitempty"`
}

// Spread describes samples of a time, in microseconds.
type Spread struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50Microseconds"`
	Max   float64 `json:"maxMicroseconds"`
}

// spreadOf returns nil without samples.
func spreadOf(samples ...time.Duration) *Spread {
	if len(samples) == 0 {
		return nil
	}
	return &Spread{Count: len(samples), P50: microseconds(percentile(samples, 50)), Max: microseconds(slices.Max(samples))}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// percentile is the smallest sample that p percent of the samples do not
// exceed (nearest rank).
func percentile(samples []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func figure(n int) *float64 {
	f := float64(n)
	return &f
}
