package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// logged is a log to look into.
type logged struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *logged) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buffer.String(), words)
}

// serve runs a server until the test ends.
func serve(t *testing.T, socket string) (*Server, *logged) {
	t.Helper()
	log := &logged{}
	s := NewServer(socket, slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s, log
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20s: %s", what)
		}
	}
}

// answers waits until the server answers, whatever that is.
func answers(t *testing.T, socket string) {
	t.Helper()
	until(t, "the server answers", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func get1(t *testing.T, socket, path string) string {
	t.Helper()
	raw, err := NewClient(socket).Get(t.Context(), path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw))
}

// The file is the guard.
func TestSocketIsForItsOwnerAlone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "made", "agent.sock")
	serve(t, socket)
	answers(t, socket)
	for path, want := range map[string]os.FileMode{socket: os.ModeSocket | 0o600, filepath.Dir(socket): os.ModeDir | 0o755} {
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, want %v, %v", path, info.Mode(), want, err)
		}
	}
}

// A socket that a former run left is replaced, and nothing else is.
func TestWhatIsThereAlready(t *testing.T) {
	t.Run("of a former run", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "agent.sock")
		former, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		former.SetUnlinkOnClose(false)
		former.Close()
		s, _ := serve(t, socket)
		s.Show(Views{Sets: func() []Set { return nil }})
		until(t, "the new server answers", func() bool { return get1(t, socket, "sets") == `{"items":[]}` })
	})
	t.Run("of another agent", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "agent.sock")
		first, _ := serve(t, socket)
		first.Show(Views{Sets: func() []Set { return []Set{{Name: "first"}} }})
		answers(t, socket)
		_, log := serve(t, socket)
		until(t, "the second says that it cannot", func() bool { return log.count(ErrInUse.Error()) == 1 })
		if got := get1(t, socket, "sets"); !strings.Contains(got, `"first"`) {
			t.Errorf("got %s", got)
		}
	})
	t.Run("a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "precious")
		if err := os.WriteFile(file, []byte("data"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, log := serve(t, file)
		until(t, "the server says that it cannot", func() bool { return log.count("is no socket") == 1 })
		if data, err := os.ReadFile(file); string(data) != "data" {
			t.Errorf("the file holds %q, %v", data, err)
		}
	})
}

func TestNoSocket(t *testing.T) {
	if err := NewServer("", slog.New(slog.DiscardHandler)).Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// What is told is JSON with stable names; lists are never null.
func TestAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s, _ := serve(t, socket)
	answers(t, socket)
	expect := func(path, want string) {
		t.Helper()
		if got := get1(t, socket, path); got != want {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
	expect("status", "the agent is starting and cannot tell yet; its log says what it waits for")
	expect("peers", "the agent is starting and cannot tell yet; its log says what it waits for")
	s.Show(Views{Starting: func() string { return "waiting for iptables" }})
	expect("peers", "the agent is starting and has no peers yet: waiting for iptables")
	at := time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)
	s.Show(Views{
		Status: func(context.Context) Status {
			return Status{
				Version: "v3", Node: "node1", Started: at, Wrong: []string{}, APIServer: APIServer{URL: "https://10.0.0.1"},
				Controllers: []Controller{{Name: "routes", State: Running, LastSync: at, Objects: []Objects{{"routes", 2, 1}}, PendingCount: 1,
					Pending: []Pending{{What: "route 10.244.2.0/24", Since: at, Attempts: 3, Reason: "busy", Failed: true}}}},
				Peers: []Peer{}, Advice: []Advice{{"GracefulRestartOff", "note", "set it", at}},
			}
		},
		Peers: func() []Peer {
			return []Peer{{Address: netip.MustParseAddr("10.0.0.2"), Node: "node2", ASN: 64512, State: "Active", LastError: "refused"}}
		},
		Sets: func() []Set { return nil },
	})
	expect("status", `{"version":"v3","node":"node1","started":"2026-11-23T02:00:00Z","wrong":[],"apiServer":{"url":"https://10.0.0.1"},`+
		`"controllers":[{"name":"routes","state":"running","lastSync":"2026-11-23T02:00:00Z","objects":[{"kind":"routes","desired":2,"programmed":1}],`+
		`"pendingCount":1,"pending":[{"what":"route 10.244.2.0/24","since":"2026-11-23T02:00:00Z","attempts":3,"reason":"busy","failed":true}]}],`+
		`"peers":[],"advice":[{"reason":"GracefulRestartOff","severity":"note","message":"set it","since":"2026-11-23T02:00:00Z"}]}`)
	expect("peers", `{"items":[{"address":"10.0.0.2","node":"node2","asn":64512,"state":"Active","received":0,"accepted":0,"advertised":0,"lastError":"refused"}]}`)
	expect("sets", `{"items":[]}`)
	expect("services", "no services here: the services controller is off")
	expect("policies", "no policies here: the policy controller is off")
	expect("secrets", "the agent answers 404 Not Found: is it of another version than this command?")
}

// Nothing can be changed through the socket.
func TestOnlyTells(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s, _ := serve(t, socket)
	s.Show(Views{Sets: func() []Set { return nil }})
	answers(t, socket)
	response, err := NewClient(socket).http.Post("http://kube-router/v1/sets", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 405 {
		t.Errorf("POST: %s", response.Status)
	}
}

// Who asks in vain is told what to do next.
func TestNoAgent(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{
		filepath.Join(dir, "none.sock"): "no kube-router runs here: there is no " + filepath.Join(dir, "none.sock") + ". Look for its pod with 'kubectl",
		dead:                            "kube-router does not run any more: nobody listens on " + dead + ". The log of the former run says why",
	} {
		if got := get1(t, socket, "status"); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAnswerOfAnotherVersion(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	s, _ := serve(t, socket)
	s.Show(Views{Sets: func() []Set { return nil }})
	answers(t, socket)
	var typed *json.UnmarshalTypeError
	if _, _, err := get[[]int](t.Context(), NewClient(socket), "sets"); !errors.As(err, &typed) || !strings.Contains(err.Error(), "another version") {
		t.Errorf("got %v", err)
	}
}

// A peer without BFD, one whose session is new, and one without a session say
// nothing about BFD.
func TestBFDThatIsMissed(t *testing.T) {
	now := time.Now()
	for want, peers := range map[bool][]Peer{
		true: {
			{State: "Established", Since: now.Add(-time.Minute), BFD: "Down"},
			{State: "Established", Since: now.Add(-time.Minute), BFD: "Init"},
		},
		false: {
			{State: "Established", Since: now.Add(-time.Minute)},
			{State: "Established", Since: now.Add(-time.Minute), BFD: "Up"},
			{State: "Established", Since: now.Add(-time.Second), BFD: "Down"},
			{State: "Active", BFD: "Down"},
		},
	} {
		for _, p := range peers {
			if got := p.WithoutBFD(now); got != want {
				t.Errorf("%+v: %t", p, got)
			}
		}
	}
}
