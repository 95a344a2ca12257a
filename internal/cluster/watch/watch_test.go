package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/kube-router/kube-router/internal/cluster"
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

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// logger logs without times, as "level=WARN msg=... key=value".
func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// followed is a feed of Services that a Client fills from an apiServer.
type followed struct {
	*apiServer
	feeds *cluster.Feeds
	log   *logged

	mu       sync.Mutex
	services map[cluster.Key]*cluster.Service
	changes  []string
}

func follow(t *testing.T, streams bool, prepare func(*apiServer)) *followed {
	t.Helper()
	f := &followed{
		apiServer: newAPIServer(t, streams), feeds: cluster.NewFeeds(), log: &logged{},
		services: map[cluster.Key]*cluster.Service{},
	}
	prepare(f.apiServer)
	f.feeds.Services.Subscribe(f.note)
	f.run(t)
	return f
}

// run runs a Client until the test ends.
func (f *followed) run(t *testing.T) { f.runWith(t, &rest.Config{Host: "http://" + f.address}) }

func (f *followed) runWith(t *testing.T, cfg *rest.Config) {
	client, err := newClient(cfg, Options{NodeName: "node-1", Log: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- client.Run(ctx, f.feeds) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", f.log)
		}
	})
}

// note takes down a change as "name old>new", by cluster IPs.
func (f *followed) note(c cluster.Change[cluster.Service]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ips := func(s *cluster.Service) string {
		if s == nil {
			return ""
		}
		return strings.Trim(fmt.Sprint(s.ClusterIPs), "[]")
	}
	object := c.New
	if object == nil {
		object = c.Old
		delete(f.services, object.Key)
	} else {
		f.services[object.Key] = object
	}
	f.changes = append(f.changes, fmt.Sprintf("%s %s>%s", object.Name, ips(c.Old), ips(c.New)))
}

// expect waits for the changes since the last time, in any order where they
// come from a list.
func (f *followed) expect(t *testing.T, want ...string) {
	t.Helper()
	sorted := func() []string {
		f.mu.Lock()
		defer f.mu.Unlock()
		return slices.Sorted(slices.Values(f.changes))
	}
	slices.Sort(want)
	eventually(t, fmt.Sprintf("changes %q, they are %q", want, sorted()), func() bool { return slices.Equal(sorted(), want) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes = nil
}

func clusterIP(ip string) corev1.ServiceSpec {
	return corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}
}

// bothLists runs a test against a server that streams its lists and one that
// does not.
func bothLists(t *testing.T, test func(t *testing.T, streams bool)) {
	for _, streams := range []bool{true, false} {
		t.Run(fmt.Sprintf("streams=%v", streams), func(t *testing.T) {
			t.Parallel()
			test(t, streams)
		})
	}
}

func TestFeedFollowsTheServer(t *testing.T) {
	bothLists(t, func(t *testing.T, streams bool) {
		f := follow(t, streams, func(a *apiServer) {
			a.put("a", clusterIP("10.96.0.1"))
			a.put("headless", clusterIP("None"))
		})
		if err := f.feeds.WaitSynced(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.expect(t, "a >10.96.0.1")
		f.put("b", clusterIP("10.96.0.2"))
		f.expect(t, "b >10.96.0.2")
		f.put("b", clusterIP("10.96.0.3"))
		f.expect(t, "b 10.96.0.2>10.96.0.3")
		// An update of what the model does not keep is no change.
		same := clusterIP("10.96.0.3")
		same.Selector = map[string]string{"app": "other"}
		f.put("b", same)
		f.remove("a")
		f.expect(t, "a 10.96.0.1>")
		// A Service that is no longer served is gone.
		f.put("b", clusterIP("None"))
		f.expect(t, "b 10.96.0.3>")
		// Nobody wants the other feeds.
		if got := f.asked(); !slices.Equal(got, []string{"/api/v1/services"}) {
			t.Errorf("requested %q", got)
		}
	})
}

func TestRunWithoutSubscribersAsksNothing(t *testing.T) {
	f := &followed{apiServer: newAPIServer(t, true), feeds: cluster.NewFeeds(), log: &logged{}}
	client, err := newClient(&rest.Config{Host: "http://" + f.address}, Options{Log: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Run(ctx, f.feeds); err != nil || len(client.wanted(f.feeds)) != 0 || len(f.asked()) != 0 {
		t.Errorf("error %v, requested %q", err, f.asked())
	}
}

// A lost connection is one line when it goes and one when it comes back. What
// happened meanwhile arrives as changes, not as a new list.
func TestConnectionLost(t *testing.T) {
	bothLists(t, func(t *testing.T, streams bool) {
		f := follow(t, streams, func(a *apiServer) { a.put("a", clusterIP("10.96.0.1")); a.put("b", clusterIP("10.96.0.2")) })
		f.expect(t, "a >10.96.0.1", "b >10.96.0.2")
		f.put("b", clusterIP("10.96.0.5"))
		f.expect(t, "b 10.96.0.2>10.96.0.5")
		f.stop()
		f.put("a", clusterIP("10.96.0.9"))
		f.remove("b")
		f.put("c", clusterIP("10.96.0.3"))
		eventually(t, "the loss is logged", func() bool { return f.log.count("API server does not answer") == 1 })
		f.start()
		f.expect(t, "a 10.96.0.1>10.96.0.9", "b 10.96.0.5>", "c >10.96.0.3")
		eventually(t, "the return is logged", func() bool { return f.log.count("API server answers again") == 1 })
		if n := f.listed(); n != 1 {
			t.Errorf("%d lists, want the first only", n)
		}
		if n := f.log.count("level="); n != 2 {
			t.Errorf("%d lines of log, want 2:\n%s", n, f.log)
		}
	})
}

func TestServerAwayAtTheStart(t *testing.T) {
	f := follow(t, true, func(a *apiServer) { a.put("a", clusterIP("10.96.0.1")); a.stop() })
	eventually(t, "the loss is logged", func() bool { return f.log.count("API server does not answer") == 1 })
	if got := f.feeds.Waiting(); !slices.Equal(got, []string{"services"}) {
		t.Errorf("waiting for %q", got)
	}
	f.start()
	f.expect(t, "a >10.96.0.1")
}

// When the server has forgotten what happened since (410 Gone), the list is
// taken anew, and what went meanwhile is published as gone.
func TestHistoryForgotten(t *testing.T) {
	bothLists(t, func(t *testing.T, streams bool) {
		f := follow(t, streams, func(a *apiServer) {
			a.put("a", clusterIP("10.96.0.1"))
			a.put("b", clusterIP("10.96.0.2"))
			a.put("same", clusterIP("10.96.0.7"))
		})
		f.expect(t, "a >10.96.0.1", "b >10.96.0.2", "same >10.96.0.7")
		f.stop()
		f.remove("a")
		f.put("b", clusterIP("10.96.0.3"))
		f.put("c", clusterIP("10.96.0.4"))
		f.forget()
		f.start()
		f.expect(t, "a 10.96.0.1>", "b 10.96.0.2>10.96.0.3", "c >10.96.0.4")
		f.put("c", clusterIP("10.96.0.5"))
		f.expect(t, "c 10.96.0.4>10.96.0.5")
	})
}

func TestForbidden(t *testing.T) {
	f := follow(t, true, func(a *apiServer) { a.put("a", clusterIP("10.96.0.1")); a.forbid(true) })
	eventually(t, "it is logged", func() bool {
		return f.log.count("cannot watch services: let the ClusterRole of this agent list and watch it") == 1
	})
	f.forbid(false)
	f.expect(t, "a >10.96.0.1")
	eventually(t, "its end is logged", func() bool { return f.log.count("can watch services now") == 1 })
	if n := f.log.count("level="); n != 2 {
		t.Errorf("%d lines of log, want 2:\n%s", n, f.log)
	}
}

// A malformed object gets one Event; the rest of it, and the others, go on.
func TestMalformedObject(t *testing.T) {
	bothLists(t, func(t *testing.T, streams bool) {
		bad := clusterIP("10.96.0.1")
		bad.ExternalIPs = []string{"localhost"}
		f := follow(t, streams, func(a *apiServer) { a.put("bad", bad); a.put("good", clusterIP("10.96.0.2")) })
		f.expect(t, "bad >10.96.0.1", "good >10.96.0.2")
		eventually(t, "an Event", func() bool { return len(f.taken()) == 1 })
		event := f.taken()[0]
		got := fmt.Sprintf("%s %s in %s on %s %s/%s %s by %s on %s: %s", event.Type, event.Reason, event.Namespace,
			event.InvolvedObject.Kind, event.InvolvedObject.Namespace, event.InvolvedObject.Name, event.InvolvedObject.UID,
			event.Source.Component, event.Source.Host, event.Message)
		want := `Warning PartIgnored in default on Service default/bad uid-bad by kube-router on node-1: spec.externalIPs[0]: "localhost" is not an IP address; it is left out`
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}

		// Another fault is another Event; a change of something else is none.
		bad.ClusterIP = "10.96.0.3"
		f.put("bad", bad)
		f.expect(t, "bad 10.96.0.1>10.96.0.3")
		bad.ExternalIPs = []string{"nowhere"}
		f.put("bad", bad)
		eventually(t, "a second Event", func() bool { return len(f.taken()) == 2 })
		if m := f.taken()[1].Message; !strings.Contains(m, "nowhere") {
			t.Errorf("the second Event says %q", m)
		}
	})
}

// The agents of two nodes make one Event of the same fault.
func TestOneEventForAllNodes(t *testing.T) {
	bad := clusterIP("10.96.0.1")
	bad.ExternalIPs = []string{"localhost"}
	f := follow(t, true, func(a *apiServer) { a.put("bad", bad) })
	eventually(t, "an Event", func() bool { return len(f.taken()) == 1 })

	second, err := newClient(&rest.Config{Host: "http://" + f.address}, Options{NodeName: "node-2", Log: f.log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	event := newEvent("node-2", "Service", &cluster.Meta{Key: cluster.Key{Namespace: "default", Name: "bad"}, UID: "uid-bad"},
		"PartIgnored", f.taken()[0].Message, f.taken()[0].FirstTimestamp.Time)
	if failure, err := second.recorder.postOne(t.Context(), event); failure != "" {
		t.Errorf("the second node's post failed: %v", err)
	}
	if n := len(f.taken()); n != 1 {
		t.Errorf("%d Events", n)
	}
}

func TestIsAnswer(t *testing.T) {
	for code, want := range map[int]bool{
		http.StatusGone: true, http.StatusForbidden: true, http.StatusInternalServerError: true, http.StatusGatewayTimeout: true,
		http.StatusServiceUnavailable: false, http.StatusTooManyRequests: false, http.StatusBadGateway: false,
	} {
		if got := isAnswer(statusError(code)); got != want {
			t.Errorf("%d: %v", code, got)
		}
	}
	if isAnswer(fmt.Errorf("connection refused")) || !isAnswer(nil) {
		t.Error("errors of the connection are no answers, success is one")
	}
}

// While lists are missing, what is missing and why is said every ten seconds.
func TestWaitingIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feeds, log := cluster.NewFeeds(), &logged{}
		feeds.Pods.Subscribe(func(cluster.Change[cluster.Pod]) {})
		feeds.Nodes.Subscribe(func(cluster.Change[cluster.Node]) {})
		c := &Client{log: log.logger(), link: newLink("https://10.0.0.1:6443", log.logger())}
		go c.awaitLists(t.Context(), feeds)
		time.Sleep(waitingPeriod + time.Second)
		c.link.failed(&url.Error{Op: "Get", URL: "https://10.0.0.1:6443/api/v1/pods", Err: errors.New("connect: connection refused")})
		c.link.failed(errors.New("connect: no route to host"))
		feeds.Nodes.Replace(nil)
		time.Sleep(waitingPeriod)
		c.link.answered()
		feeds.Pods.Replace(nil)
		time.Sleep(time.Hour)
		want := `level=INFO msg="waiting for the API server's list of nodes, pods" server=https://10.0.0.1:6443 because="it has not answered yet"
level=WARN msg="API server does not answer, trying until it does; what is programmed stays" server=https://10.0.0.1:6443 err="connect: connection refused"
level=INFO msg="waiting for the API server's list of pods" server=https://10.0.0.1:6443 because="connect: no route to host"
level=INFO msg="API server answers again" server=https://10.0.0.1:6443 after=10s
`
		if diff := cmp.Diff(want, log.String()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
