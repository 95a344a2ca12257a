package main

import (
	"math"
	"slices"
	"time"
)

// Row is what was measured of one thing. What is nil was not measured.
type Row struct {
	What string `json:"what"`
	// Policies is how many there are in the cluster.
	Policies int     `json:"policies"`
	Time     *Spread `json:"time,omitempty"`
	// Operations are those of one sample, on average.
	Operations *Operations `json:"operations,omitempty"`
	Memory     *Memory     `json:"memoryMB,omitempty"`
	// Ratio is Time against what the row is compared with.
	Ratio *float64 `json:"ratio,omitempty"`
	Note  string   `json:"note,omitempty"`
}

// Spread describes samples of a time, in microseconds.
type Spread struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50Microseconds"`
	P90   float64 `json:"p90Microseconds"`
	Max   float64 `json:"maxMicroseconds"`
}

// spreadOf returns nil without samples.
func spreadOf(samples []time.Duration) *Spread {
	if len(samples) == 0 {
		return nil
	}
	return &Spread{
		Count: len(samples), P50: microseconds(percentile(samples, 50)),
		P90: microseconds(percentile(samples, 90)), Max: microseconds(slices.Max(samples)),
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// percentile is the smallest sample that p percent of the samples do not
// exceed (nearest rank).
func percentile[T int | float64 | time.Duration](samples []T, p float64) T {
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Operations are operations of a sample, on average.
type Operations struct {
	Sets      float64 `json:"setOperations"`
	Rules     float64 `json:"rulesWritten"`
	Unchanged float64 `json:"rulesWrittenUnchanged"`
	// Restoring is the time of iptables-restore.
	Restoring float64 `json:"restoreMicroseconds"`
}

func perSample(o operations, samples int) *Operations {
	n := float64(samples)
	return &Operations{
		Sets: float64(o.Sets) / n, Rules: float64(o.Rules) / n, Unchanged: float64(o.Unchanged) / n,
		Restoring: microseconds(o.Restoring) / n,
	}
}

// Memory is resident memory, in units of 1,000,000 bytes.
type Memory struct {
	Now float64 `json:"now"`
	// Anonymous is the heap and the stacks; the rest is the mapped program.
	Anonymous float64 `json:"anonymous"`
	Peak      float64 `json:"peak"`
}
