package demo

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReadyNodesAreCounted(t *testing.T) {
	const out = `NAME    STATUS     ROLES    AGE   VERSION
node1   Ready      <none>   52s   v1.36.3
node2   NotReady   <none>   52s   v1.36.3
node3   Ready,SchedulingDisabled   <none>   52s   v1.36.3
`
	if ready, all := countReady(out); ready != 1 || all != 3 {
		t.Errorf("%d of %d ready, want 1 of 3", ready, all)
	}
	if _, all := countReady("No resources found\n"); all != 1 {
		t.Errorf("a message must not look like no node at all: %d", all)
	}
}

func TestMissingRoutesAreNamed(t *testing.T) {
	nodes := []node{
		{"node1", "192.168.66.11", "10.244.0.0/24"},
		{"node2", "192.168.66.12", "10.244.1.0/24"},
		{"node3", "192.168.66.13", "10.244.2.0/24"},
	}
	const out = `10.244.1.0/24 via 192.168.66.12 dev vec0
10.244.2.0/24 via 192.168.66.99 dev vec0
`
	if got := missingRoutes(out, "node1", nodes); !slices.Equal(got, []string{"node1 to node3"}) {
		t.Errorf("missing %q", got)
	}
	if got := missingRoutes("", "node1", nodes); len(got) != 2 {
		t.Errorf("missing %q", got)
	}
}

func TestRealServersOfTheRightVirtualServer(t *testing.T) {
	const out = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.1:443 rr
  -> 192.168.66.1:6443            Masq    1      3          0
TCP  10.96.7.7:80 rr
  -> 10.244.0.3:80                Masq    1      0          0
  -> 10.244.1.4:80                Masq    1      0          0
UDP  10.96.0.10:53 rr
  -> 10.244.0.2:53                Masq    1      0          0
`
	got := realServers(out, "10.96.7.7:80")
	if !slices.Equal(got, []string{"10.244.0.3:80", "10.244.1.4:80"}) {
		t.Errorf("real servers %q", got)
	}
	for pods, want := range map[string]bool{
		"10.244.0.3 10.244.1.4":            true,
		"10.244.1.4 10.244.0.3":            true,
		"10.244.0.3":                       false,
		"10.244.0.3 10.244.1.5":            false,
		"10.244.0.3 10.244.1.4 10.244.2.2": false,
	} {
		if sameServers(got, strings.Fields(pods), ":80") != want {
			t.Errorf("same servers as %q: want %v", pods, want)
		}
	}
	if got := realServers(out, "10.96.9.9:80"); got != nil {
		t.Errorf("a virtual server that is not there has %q", got)
	}
}

func TestAWgetThatCouldNotTryIsNoEvidence(t *testing.T) {
	for out, want := range map[string]bool{
		"wget: download timed out": true,
		"wget: can't connect to remote host (10.96.7.7): Connection refused": true,
		"wget: bad address 'web'":                                 false,
		"error: unable to upgrade connection: pod does not exist": false,
		"sh: wget: not found":                                     false,
	} {
		if wgetRan(out) != want {
			t.Errorf("%q: want %v", out, want)
		}
	}
}

func TestResidentMemory(t *testing.T) {
	if got := residentKiB("Name:\tkube-router\nVmRSS:\t   31234 kB\n"); got != 31234 {
		t.Errorf("read %d", got)
	}
	if got := residentKiB("no such file"); got != 0 {
		t.Errorf("read %d from nothing", got)
	}
}

func TestOnlyAllSevenIsSuccess(t *testing.T) {
	for held, want := range map[int]error{7: nil, 6: ErrFailed, 0: ErrFailed} {
		var out bytes.Buffer
		w := &walk{ctx: context.Background(), out: &out, start: time.Now(), results: map[string]result{}}
		w.judge(critMemory, true, "node1 30.0 MB")
		w.judge(critStatus, true, "exit status 0")
		for i, criterion := range criteria {
			if i < held {
				w.judge(criterion, true, "seen")
			}
		}
		if err := w.table(); !errors.Is(err, want) {
			t.Errorf("%d held: %v", held, err)
		}
		if !strings.Contains(out.String(), "of 7 criteria hold") {
			t.Errorf("no verdict in %s", out.String())
		}
	}
}

// The status comes last, and its exit status counts.
func TestTheStatusIsJudgedAndPrintedLast(t *testing.T) {
	for printed, want := range map[string]error{
		"all is well\nexit status 0\n":       nil,
		"wrong: no route\nexit status 1\n":   ErrFailed,
		"exit status 0, one hopes\nKilled\n": ErrFailed,
	} {
		var out bytes.Buffer
		w := &walk{ctx: t.Context(), out: &out, start: time.Now(), results: map[string]result{}}
		for _, criterion := range append([]string{critMemory}, criteria...) {
			w.judge(criterion, true, "seen")
		}
		w.judgeExit("kube-router status", printed)
		if err := w.table(); !errors.Is(err, want) {
			t.Errorf("%q: %v", printed, err)
		}
		_, end, found := strings.Cut(out.String(), "7 of 7 criteria hold")
		if !found || !strings.HasSuffix(end, "$ kube-router status\n"+indent(printed)) {
			t.Errorf("it ends with %q", end)
		}
	}
}

func TestNothingIsJudgedAfterAFailure(t *testing.T) {
	var out bytes.Buffer
	w := &walk{ctx: context.Background(), out: &out, start: time.Now(), results: map[string]result{}}
	w.must("echo broken; false")
	w.judge(critNodes, true, "stale")
	if err := w.table(); !errors.Is(err, ErrFailed) || strings.Contains(out.String(), "stale") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
