//go:build e2e || dual || overlay

package e2e

import (
	"context"
	"fmt"
	"os"
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

// round is how many answers one ping waits for, and roundTime how long in
// seconds. With a time to end at (-w) ping goes on to send until it has them, so
// that what is lost at the end of a round is followed by an answer, and counted.
const (
	round     = 2000
	roundTime = 60
)

// unheard is how many answers may be missing after the last one of a whole
// round: those on their way when it came, which are some where a guest stood
// still. Of a round that is not whole none may be missing.
const unheard = 100

// leastRate is how many packets a second are traffic: what guests reach of the
// thousand that they try depends on what else the machine does, and is logged.
const leastRate = 100

// sumUp makes of ping's output a line for each gap, with the times of the
// answers around it, and one for the round, which has so many answers as want
// says if it is whole.
const sumUp = `
/bytes from/ { match($0, /icmp_seq=[0-9]+/); n = substr($0, RSTART + 9, RLENGTH - 9) + 0; at[n] = $1; if (n > last) last = n; got++ }
/transmitted/ { sent = $1; match($0, /time [0-9]+ms/); ms = substr($0, RSTART + 5) + 0 }
END {
	for (i = 1; i <= last; i++) {
		if (!(i in at)) { lost++; gap++; continue }
		if (gap) print gap, "lost before packet", i, "between", before, "and", at[i]
		gap = 0; before = at[i]
	}
	tail = sent - last
	if (got < want && tail > 0) { print tail, "lost after packet", last, "at", before; lost += tail; tail = 0 }
	print "round: sent", sent + 0, "lost", lost + 0, "unheard", tail + 0, "ms", ms + 0
}`

func TestSumUp(t *testing.T) {
	const answer = "[%d.5] 64 bytes from 10.244.0.3: icmp_seq=%d ttl=62 time=0.1 ms\n"
	var ping strings.Builder
	for i := 1; i <= 20; i++ {
		switch i {
		case 1, 7, 8, 20:
		case 6:
			ping.WriteString("[6.5] From 10.244.0.1 icmp_seq=6 Destination Host Unreachable\n")
		default:
			fmt.Fprintf(&ping, answer, i, i)
		}
	}
	ping.WriteString("20 packets transmitted, 15 received, +1 errors, 25% packet loss, time 3175ms\n")
	const gaps = "1 lost before packet 2 between  and [2.5]\n3 lost before packet 9 between [5.5] and [9.5]\n"
	for answers, want := range map[int]string{
		15: gaps + "round: sent 20 lost 4 unheard 1 ms 3175",
		20: gaps + "1 lost after packet 19 at [19.5]\nround: sent 20 lost 5 unheard 0 ms 3175", // given up, or ended by an error
	} {
		if got := must(t, "printf %%s %s | awk -v want=%d %s", quote(ping.String()), answers, quote(sumUp)); got != want {
			t.Errorf("of %d answers: got\n%s\nwant\n%s", answers, got, want)
		}
	}
}

// startFlow sends up to a thousand packets a second from a Pod on a node to
// another.
func startFlow(t *testing.T, node int, from, to string) flow {
	const file = "/run/e2e-packets.round"
	ping := fmt.Sprintf("ping -D -i 0.001 -c %d -w %d %s > %s; awk -v want=%d %s %s", round, roundTime, to, file, round, quote(sumUp), file)
	return start(t, "packets", node, from, ping)
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
		if out, err := sh(context.Background(), fmt.Sprintf("%s exec --node %d 'touch %s'", os.Getenv("LAB"), node, end)); err != nil {
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

var pinged = regexp.MustCompile(`round: sent (\d+) lost (\d+) unheard (\d+) ms (\d+)`)

// lostNone ends a flow of packets: not one may be lost.
func (f flow) lostNone(t *testing.T) {
	t.Helper()
	f.lostAtMost(t, 0)
}

// lostAtMost ends a flow of packets, of which so many in a thousand may be lost.
func (f flow) lostAtMost(t *testing.T, perThousand int) {
	t.Helper()
	out := f.stop()
	var sent, lost, ms int
	for _, m := range pinged.FindAllStringSubmatch(out, -1) {
		var n [4]int
		for i := range n {
			var err error
			if n[i], err = strconv.Atoi(m[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		sent, lost, ms = sent+n[0], lost+n[1], ms+n[3]
		if n[2] > unheard {
			lost += n[2]
		}
	}
	if sent == 0 || ms == 0 {
		t.Fatalf("no packets: %s", out)
	}
	rate := sent * int(time.Second/time.Millisecond) / ms
	t.Logf("%d of %d packets lost, %d packets/s over %s", lost, sent, rate, time.Duration(ms)*time.Millisecond)
	if lost > 0 {
		t.Logf("%s\n%s", out, drops())
	}
	if lost*1000 > sent*perThousand {
		t.Errorf("%d of %d packets were lost, %d in 1,000 are allowed", lost, sent, perThousand)
	}
	if rate < leastRate {
		t.Errorf("only %d packets/s", rate)
	}
}

// drops is what the lab's wires and the nodes' kernels say of dropped packets,
// for who has to find out where one was lost.
func drops() string {
	const counters = `ip -s link show vec0; nstat -asz | awk "/Discard|Drop|NoRoutes|Errors|Filter/ && \$2"; conntrack -S; dmesg | tail -n 5`
	var all strings.Builder
	out, _ := sh(context.Background(), "grep -H . /sys/class/net/kr-lab*/statistics/?x_dropped")
	fmt.Fprintln(&all, out)
	for n := 1; n <= 3; n++ {
		out, _ := sh(context.Background(), fmt.Sprintf("%s exec --node %d %s", os.Getenv("LAB"), n, quote(counters)))
		fmt.Fprintf(&all, "node%d:\n%s\n", n, out)
	}
	return all.String()
}
