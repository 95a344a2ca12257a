// Package bench measures Service proxies side by side, each alone on the node
// of a cluster of its own, and judges ours.
package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Row is what was measured of one proxy in a cluster of one size. A nil
// pointer is a figure that was not measured.
type Row struct {
	Proxy    string `json:"proxy"`
	Services int    `json:"services"`
	// ColdStart is in seconds, from the start of the process on a node whose
	// kernel has no trace of it until connections through the last Service,
	// and through others taken at random, succeed.
	ColdStart *Figure `json:"coldStartSeconds,omitempty"`
	// ColdStartLast is the part of it until the last Service works.
	ColdStartLast *Figure `json:"coldStartLastSeconds,omitempty"`
	// New is the time from the API server's answer to a new Service, whose
	// EndpointSlice is there already, until a connection succeeds.
	New *Spread `json:"newServiceMilliseconds,omitempty"`
	// ChangeCPU is the proxy's CPU time, in seconds, for 1,000 changes of
	// endpoints; ChangeTime how long it took until the last had its effect.
	ChangeCPU  *Figure `json:"changeCPUSeconds,omitempty"`
	ChangeTime *Figure `json:"changeSeconds,omitempty"`
	// Memory is of the proxy once it is at rest after its start and after the
	// new Services.
	Memory *Memory `json:"memoryMB,omitempty"`
	// Rules counts the proxy's iptables rules of all tables: those of the
	// node's kubelet, two or three, are not among them.
	Rules *Figure `json:"iptablesRules,omitempty"`
	// Connect is of connections through the last Service, ConnectFew of the
	// same in the same guest after all Services but 100 (load.Few) were deleted.
	Connect    *Connecting `json:"connect,omitempty"`
	ConnectFew *Connecting `json:"connectFew,omitempty"`
	// Sequence is a row of connections from one client through one Service.
	Sequence *Sequence `json:"sequence,omitempty"`
	// Load is the host's load average, of one minute, before the cluster was
	// started. Much more than 1 is somebody else's work, and makes all times
	// longer.
	Load float64 `json:"hostLoad"`
	// Error says why figures are missing.
	Error string `json:"error,omitempty"`
}

// Figure is a measured value. One that is Over is a bound: the real value is
// above it, but was not waited for.
type Figure struct {
	Value float64 `json:"value"`
	Over  bool    `json:"over,omitempty"`
}

func exactly(v float64) *Figure { return &Figure{Value: v} }

// Count is the figure of a number of things.
func Count(n int) *Figure { return exactly(float64(n)) }

// Seconds is the figure of a time.
func Seconds(d time.Duration) *Figure { return exactly(d.Seconds()) }

// Over marks a figure as a bound.
func Over(f *Figure) *Figure { return &Figure{Value: f.Value, Over: true} }

// Spread describes samples of a time.
type Spread struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	Max   float64 `json:"max"`
	// Over says that the last sample was given up, so Max is only a bound.
	Over    bool      `json:"over,omitempty"`
	Samples []float64 `json:"samples"`
}

// SpreadOf returns nil without samples.
func SpreadOf(samples []float64) *Spread {
	if len(samples) == 0 {
		return nil
	}
	return &Spread{
		Count: len(samples), Samples: samples,
		P50: Percentile(samples, 50), P90: Percentile(samples, 90), Max: slices.Max(samples),
	}
}

// Percentile is the smallest sample that p percent of the samples do not
// exceed (nearest rank), 0 without samples.
func Percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Connecting is the median time of connections, in microseconds, and that of as
// many connections straight to an endpoint, made in turns with them.
type Connecting struct {
	Service float64 `json:"serviceMicroseconds"`
	Direct  float64 `json:"directMicroseconds"`
	// Failed are those of both that did not succeed in their time. They count
	// by the time they took, which a median does not show.
	Failed int `json:"failed,omitempty"`
}

// ratio is how many times as long as straight to an endpoint it takes.
func (c Connecting) ratio() float64 { return c.Service / c.Direct }

// Memory is resident memory, in units of 1,000,000 bytes.
type Memory struct {
	Total float64 `json:"total"`
	// Anonymous is the heap and the stacks, File the mapped program.
	Anonymous float64 `json:"anonymous"`
	File      float64 `json:"file"`
	// Peak is the highest Total since the process began.
	Peak float64 `json:"peak"`
}

// Sequence describes connections made one after the other.
type Sequence struct {
	Count int `json:"count"`
	// Slow took a second or more, Failed did not succeed in their time.
	Slow   int     `json:"slow"`
	Failed int     `json:"failed"`
	Max    float64 `json:"maxMilliseconds"`
}

func (s Sequence) String() string {
	return fmt.Sprintf("%d, %d of them in 1 s or more, %d failed, longest %.0f ms", s.Count, s.Slow, s.Failed, s.Max)
}
