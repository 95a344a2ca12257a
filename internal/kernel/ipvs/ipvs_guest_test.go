//go:build guest

package ipvs

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/nstest"
)

func fresh(t *testing.T) system {
	nstest.New(t)
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return system{Interface: k, text: func() string { return ipvsadm(t) }}
}

func TestKernel(t *testing.T) { suite(t, fresh) }

// ipvsadm is the output of ipvsadm -Sn, sorted as Text sorts.
func ipvsadm(t testing.TB) string {
	t.Helper()
	var blocks [][]string
	for line := range strings.Lines(nstest.Run(t, "ipvsadm", "-Sn")) {
		line = strings.TrimRight(line, " \n") + "\n"
		if strings.HasPrefix(line, "-A") {
			blocks = append(blocks, []string{line})
		} else {
			blocks[len(blocks)-1] = append(blocks[len(blocks)-1], line)
		}
	}
	var texts []string
	for _, block := range blocks {
		slices.Sort(block[1:])
		texts = append(texts, strings.Join(block, ""))
	}
	slices.Sort(texts)
	return strings.Join(texts, "")
}

func TestLocalRealServer(t *testing.T) {
	s := fresh(t)
	nstest.Run(t, "ip", "address", "add", "10.0.0.5/32", "dev", "lo")
	web := tcp("10.96.0.20:80")
	s.apply(t, addServer(web, rr), real(AddReal, web, "10.0.0.5:80", 1))
	s.want(t, "-A -t 10.96.0.20:80 -s rr\n-a -t 10.96.0.20:80 -r 10.0.0.5:80 -m -w 1\n")
}

// A socket that fails is replaced, and what was under way is an unknown
// outcome, not a success.
func TestLostSocket(t *testing.T) {
	s := fresh(t)
	k := s.Interface.(*Kernel)
	k.socket.Close()
	if err := k.Apply([]Change{addServer(tcp("10.96.0.20:80"), rr)})[0]; err == nil {
		t.Error("a change on a closed socket succeeded")
	}
	s.apply(t, addServer(tcp("10.96.0.20:80"), rr))
	s.want(t, "-A -t 10.96.0.20:80 -s rr\n")
}

// TestFiveThousandServers prints what the first fill and the adoption after a
// restart cost.
func TestFiveThousandServers(t *testing.T) {
	s := fresh(t)
	const n = 5000
	begin := time.Now()
	s.apply(t, manyServers(n)...)
	fill := time.Since(begin)

	begin = time.Now()
	servers := NewServers(s, func(ID) bool { return true })
	if err := servers.Load(); err != nil {
		t.Fatal(err)
	}
	load := time.Since(begin)
	if len(servers.have) != n {
		t.Fatalf("%d servers, want %d", len(servers.have), n)
	}

	changed := servers.have[tcp("10.96.1.1:80")].clone()
	changed.Real[netip.MustParseAddrPort("10.244.9.9:80")] = Real{Weight: 1}
	begin = time.Now()
	mustSet(t, servers, map[ID]*Server{tcp("10.96.1.1:80"): &changed})
	t.Logf("%d servers with 2 real servers each: fill %s, read back %s, one endpoint more %s",
		n, fill.Round(time.Millisecond), load.Round(time.Millisecond), time.Since(begin).Round(10*time.Microsecond))

	begin = time.Now()
	out, err := exec.Command("ipvsadm", "-Sn").Output()
	if err != nil || strings.Count(string(out), "-A ") != n {
		t.Errorf("ipvsadm: %v", err)
	}
	t.Logf("ipvsadm -Sn takes %s for comparison", time.Since(begin).Round(time.Millisecond))
}
