//go:build e2e || dual

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// flow is traffic of one kind that goes on until stop is called, which returns
// what was printed.
type flow struct {
	name string
	stop func() string
}

// round is how many packets one ping sends: its count at the end is exact, for
// it waits for the answers to the last ones.
const round = 2000

// leastRate is how many packets a second are traffic: what guests reach of a
// thousand depends on what else the machine does.
const leastRate = 100

// startFlow sends a thousand packets a second from a Pod on a node to another.
func startFlow(t *testing.T, node int, from, to string) flow {
	ping := fmt.Sprintf("ping -q -i 0.001 -W 3 -c %d %s", round, to)
	return start(t, "packets", node, from, ping)
}

// startRequests fetches a page from a Pod on a node, one request after the
// other, each over a connection of its own. It prints "yes" or "no" for each.
func startRequests(t *testing.T, name string, node int, from, address string, pause string) flow {
	request := fmt.Sprintf(`if timeout 5 bash -c "exec 3<>/dev/tcp/%s/%s && printf \"GET /hostname HTTP/1.0\r\n\r\n\" >&3 && grep -q \"200 OK\" <&3" 2>/dev/null
		then echo yes; else echo no; fi; sleep %s`, address[:strings.LastIndex(address, ":")], address[strings.LastIndex(address, ":")+1:], pause)
	return start(t, name, node, from, request)
}

// start repeats a command of a node in the network of a Pod there.
func start(t *testing.T, name string, node int, from, command string) flow {
	t.Helper()
	end := fmt.Sprintf("/run/e2e-%s.end", name)
	onNode(t, node, "rm -f "+end)
	done := make(chan string, 1)
	go func() {
		out, _ := sh(context.Background(), inPodCommand(node, from, "bash -c "+quote(fmt.Sprintf("while [ ! -e %s ]; do %s\ndone", end, command))))
		done <- out
	}()
	stop := func() string {
		if out, err := sh(context.Background(), fmt.Sprintf("%s exec --node %d 'touch %s'", lab, node, end)); err != nil {
			t.Errorf("%s cannot be ended: %s", name, out)
			return ""
		}
		return <-done
	}
	ended := false
	f := flow{name, func() string { ended = true; return stop() }}
	t.Cleanup(func() {
		if !ended {
			stop()
		}
	})
	return f
}

var pinged = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received.* time (\d+)ms`)

// lostNone ends a flow of packets: not one may be lost.
func (f flow) lostNone(t *testing.T) {
	t.Helper()
	f.lostAtMost(t, 0)
}

// lostAtMost ends a flow of packets, of which so many in a thousand may be lost.
func (f flow) lostAtMost(t *testing.T, perThousand int) {
	t.Helper()
	out := f.stop()
	var sent, received, ms int
	for _, m := range pinged.FindAllStringSubmatch(out, -1) {
		for i, sum := range []*int{&sent, &received, &ms} {
			n, err := strconv.Atoi(m[i+1])
			if err != nil {
				t.Fatal(err)
			}
			*sum += n
		}
	}
	if sent == 0 || ms == 0 {
		t.Fatalf("no packets: %s", out)
	}
	rate := sent * int(time.Second/time.Millisecond) / ms
	t.Logf("%d of %d packets lost, %d packets/s over %s", sent-received, sent, rate, time.Duration(ms)*time.Millisecond)
	if received != sent {
		t.Logf("%s\n%s", out, drops())
	}
	if lost := sent - received; lost*1000 > sent*perThousand {
		t.Errorf("%d of %d packets were lost, %d in 1,000 are allowed", lost, sent, perThousand)
	}
	if rate < leastRate {
		t.Errorf("only %d packets/s", rate)
	}
}

// drops is what the lab's wires and the nodes' kernels say of dropped packets,
// for who has to find out where one was lost.
func drops() string {
	const counters = `ip -s link show vec0; nstat -asz | awk "/Discard|Drop|NoRoutes|InErrors/ && \$2"; conntrack -S; dmesg | tail -n 5`
	var all strings.Builder
	out, _ := sh(context.Background(), "grep -H . /sys/class/net/kr-lab*/statistics/?x_dropped")
	fmt.Fprintln(&all, out)
	for n := 1; n <= 3; n++ {
		out, _ := sh(context.Background(), fmt.Sprintf("%s exec --node %d %s", lab, n, quote(counters)))
		fmt.Fprintf(&all, "node%d:\n%s\n", n, out)
	}
	return all.String()
}

// all ends a flow of requests: every one must have succeeded, or none.
func (f flow) all(t *testing.T, want bool) {
	t.Helper()
	out := f.stop()
	yes, no := strings.Count(out, "yes"), strings.Count(out, "no")
	t.Logf("%s: %d succeeded, %d failed", f.name, yes, no)
	if want && (yes == 0 || no > 0) || !want && (no == 0 || yes > 0) {
		t.Errorf("%s: %d succeeded, %d failed", f.name, yes, no)
	}
}
