package guest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// startAgentHere serves a channel from this process: the protocol needs no
// guest.
func startAgentHere(t *testing.T) string {
	t.Helper()
	channel := t.TempDir()
	if err := Prepare(channel, Spec{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = RunAgent(channel) }()
	t.Cleanup(func() {
		// An agent ends when its channel is gone.
		if err := os.RemoveAll(channel); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return channel
}

func living() error { return nil }

func TestRunHandsBackOutputAndStatus(t *testing.T) {
	channel := startAgentHere(t)
	for _, c := range []struct {
		script      string
		status      int
		out, errOut string
	}{
		{"echo out; echo err >&2; exit 3", 3, "out\n", "err\n"},
		{"printf '%s' \"$GREETING\"; pwd >&2", 0, "hello", "/\n"},
		{"kill -TERM $$", 143, "", ""},
		{"seq 20000", 0, sequence(20000), ""},
	} {
		var out, errOut bytes.Buffer
		req := Request{Command: []string{"sh", "-c", c.script}, Dir: "/", Env: []string{"GREETING=hello", "PATH=" + Path}}
		status, err := Run(t.Context(), channel, req, &out, &errOut, living)
		if err != nil || status != c.status || out.String() != c.out || errOut.String() != c.errOut {
			t.Errorf("%s: status %d, %v, output %.20q, errors %.20q", c.script, status, err, out.String(), errOut.String())
		}
	}
	left, err := os.ReadDir(filepath.Join(channel, requestsDir))
	if err != nil || len(left) != 0 {
		t.Errorf("files are left behind: %v, %v", left, err)
	}
}

func sequence(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		b.WriteString(strconv.Itoa(i))
		b.WriteByte('\n')
	}
	return b.String()
}

// signalWriter closes a channel at the first write.
type signalWriter chan struct{}

func (w signalWriter) Write(p []byte) (int, error) { close(w); return len(p), nil }

func TestInterruptKillsTheCommand(t *testing.T) {
	channel := startAgentHere(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the test")
	begun := make(signalWriter)
	go func() { <-begun; cancel(stop) }()
	mark := filepath.Join(channel, "mark")
	req := Request{Command: []string{"sh", "-c", "echo begun; tail -f /dev/null; touch " + mark}}
	if _, err := Run(ctx, channel, req, begun, &bytes.Buffer{}, living); !errors.Is(err, stop) {
		t.Errorf("Run = %v, want the interrupt's cause", err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the command went on")
	}
}

func TestRunFailsWithTheGuest(t *testing.T) {
	channel := t.TempDir()
	if err := Prepare(channel, Spec{}); err != nil {
		t.Fatal(err)
	}
	dead := errors.New("the guest is dead")
	_, err := Run(t.Context(), channel, Request{Command: []string{"true"}}, nil, nil, func() error { return dead })
	if !errors.Is(err, dead) {
		t.Errorf("Run = %v, want %v", err, dead)
	}
}

func TestMissingProgramIsAnError(t *testing.T) {
	channel := startAgentHere(t)
	_, err := Run(t.Context(), channel, Request{Command: []string{"/nonexistent"}}, &bytes.Buffer{}, &bytes.Buffer{}, living)
	if err == nil || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("Run = %v, want an error that names the program", err)
	}
}

func TestMatchModules(t *testing.T) {
	dep := "kernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/net/netfilter/ipvs/ip_vs.ko\nkernel/net/netfilter/ipvs/ip_vs.ko:\n" +
		"kernel/net/atm/atm.ko:\nkernel/drivers/net/dummy.ko:\n"
	if got, want := matchModules(dep, []string{"ip_vs*", "dummy"}), []string{"ip_vs_rr", "ip_vs", "dummy"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLegacyIptables(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/usr/sbin/iptables-nft", filepath.Join(dir, "iptables")); err != nil {
		t.Fatal(err)
	}
	if err := useLegacyIptables(dir, "/usr/sbin"); err != nil {
		t.Fatal(err)
	}
	for link, want := range map[string]string{
		"iptables": "/usr/sbin/iptables-legacy", "ip6tables-restore": "/usr/sbin/ip6tables-legacy-restore",
	} {
		if got, err := os.Readlink(filepath.Join(dir, link)); got != want {
			t.Errorf("%s leads to %q, %v; want %q", link, got, err, want)
		}
	}
}

func TestGuestsTakeTurns(t *testing.T) {
	dir := t.TempDir()
	var held []func()
	for want := range runtime.NumCPU() {
		number, done := turn(dir)
		if number != want {
			t.Errorf("number %d, want %d: those before are taken", number, want)
		}
		held = append(held, done)
	}
	if number, _ := turn(dir); number != os.Getpid() {
		t.Errorf("with all taken: number %d, want any, that of the process", number)
	}
	held[0]()
	number, done := turn(dir)
	if number != 0 {
		t.Errorf("after 0 was given back: number %d", number)
	}
	for _, d := range append(held[1:], done) {
		d()
	}
}

func TestTheGuestLooksLessOftenWhenNothingIsAskedOfIt(t *testing.T) {
	for idle, want := range map[time.Duration]time.Duration{
		0: pollEvery, 400 * time.Millisecond: pollEvery, time.Second: 50 * time.Millisecond, time.Hour: pollIdle,
	} {
		if got := pollAfter(idle); got != want {
			t.Errorf("after %s: %s, want %s", idle, got, want)
		}
	}
}
