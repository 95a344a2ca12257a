package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/kube-router/kube-router/internal/cluster"
)

func statusError(code int) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Code: int32(code), Reason: "Test", Message: fmt.Sprint("status ", code)}}
}

// posted is a Recorder whose posts are kept, or fail.
type posted struct {
	*Recorder
	log  *logged
	mu   sync.Mutex
	all  []*corev1.Event
	fail error
}

func newPosted(t *testing.T) *posted {
	p := &posted{log: &logged{}}
	p.Recorder = newRecorder("node-1", func(_ context.Context, e *corev1.Event) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.fail == nil {
			p.all = append(p.all, e)
		}
		return p.fail
	}, p.log.logger())
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go p.run(ctx)
	return p
}

func web(name string) *cluster.Meta {
	return &cluster.Meta{Key: cluster.Key{Namespace: "default", Name: name}, UID: "uid-" + name}
}

func TestReportsAreDeduplicated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosted(t)
		expect := func(events, lines int) {
			t.Helper()
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.all) != events || p.log.count("level=WARN") != lines {
				t.Errorf("%d Events and %d lines, want %d and %d", len(p.all), p.log.count("level=WARN"), events, lines)
			}
		}
		for range 5 {
			p.Warn("Service", web("a"), "PartIgnored", "a port is wrong")
		}
		expect(1, 1)
		p.Warn("Service", web("b"), "PartIgnored", "a port is wrong")
		p.Warn("Service", web("a"), "Rejected", "a port is wrong")
		p.Warn("Service", web("a"), "PartIgnored", "an address is wrong")
		expect(4, 4)
		time.Sleep(quietPeriod)
		p.Warn("Service", web("a"), "PartIgnored", "a port is wrong")
		expect(5, 5)
		p.Warn("Service", web("a"), "Rejected", "a port is wrong")
		expect(6, 6)
		p.Mended("Service", web("a"), "Rejected")
		p.Warn("Service", web("a"), "PartIgnored", "a port is wrong")
		p.Warn("Service", web("a"), "Rejected", "a port is wrong")
		expect(7, 7) // the one that was mended in between
	})
}

// after are the Events that were posted until some time from now.
func (p *posted) after(d time.Duration) []*corev1.Event {
	time.Sleep(d)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

// size is how many reports wait, and how many are remembered.
func (p *posted) size() (queue, seen int) {
	p.Recorder.mu.Lock()
	defer p.Recorder.mu.Unlock()
	return len(p.queue), len(p.seen)
}

// The callers report once what they find, so a burst that is faster than Events
// may be posted loses none, and makes none twice. The oldest come first.
func TestBurstOfReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosted(t)
		const n = 500
		burst := func() {
			for i := range n {
				p.Warn("Service", web(fmt.Sprint(i)), "PartIgnored", "a port is wrong")
			}
		}
		burst()
		time.Sleep(time.Minute)
		burst() // most wait
		p.after((n-postBurst)/postsPerSecond*time.Second - time.Minute)
		burst() // all were posted a while ago
		events := p.after(time.Minute)
		if lines := p.log.count("reason=PartIgnored"); len(events) != n || lines != n {
			t.Errorf("%d Events and %d lines, want %d of each", len(events), lines, n)
		}
		for i, e := range events {
			if e.InvolvedObject.Name != fmt.Sprint(i) {
				t.Fatalf("Event %d is on Service %s", i, e.InvolvedObject.Name)
			}
		}
	})
}

// Whatever users do to their objects, the API server and the log get a
// trickle, memory stays bounded, and the caller never waits.
func TestFloodOfReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosted(t)
		begin := time.Now()
		for i := range 20000 {
			p.Warn("Service", web("a"), "PartIgnored", fmt.Sprint("fault ", i))
		}
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("the caller waited %v", waited)
		}
		if n := p.log.count("level=WARN"); n > lineBurst+1 {
			t.Errorf("%d lines", n)
		}
		if n := len(p.after(time.Minute)); n > postBurst+60*postsPerSecond+1 {
			t.Errorf("%d Events in a minute", n)
		}
		if n := p.log.count("some are forgotten"); n != 1 {
			t.Errorf("the loss is %d lines", n)
		}
		if queue, seen := p.size(); queue > mostWaiting || seen > manyRemembered {
			t.Errorf("%d wait, %d are remembered", queue, seen)
		}
		p.after(time.Hour)
		p.Warn("Service", web("a"), "PartIgnored", "after the flood")
		events := p.after(0)
		if e := events[len(events)-1]; e.Message != "after the flood" {
			t.Errorf("the last Event says %q", e.Message)
		}
	})
}

// For hours on end there are more reports than can be posted.
func TestSteadyFloodOfReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, most := newPosted(t), 0
		for i := range 4 * 3600 * postsPerSecond {
			time.Sleep(time.Second / (2 * postsPerSecond))
			p.Warn("Service", web("a"), "PartIgnored", fmt.Sprint("fault ", i))
			_, seen := p.size()
			most = max(most, seen)
		}
		if most > manyRemembered {
			t.Errorf("%d are remembered", most)
		}
	})
}

// What is over before its turn came is no Event.
func TestMendedInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosted(t)
		for i := range 2 * postBurst {
			p.Warn("Service", web(fmt.Sprint(i)), "PartIgnored", "a port is wrong")
		}
		synctest.Wait()
		for i := range 2 * postBurst {
			p.Mended("Service", web(fmt.Sprint(i)), "PartIgnored")
		}
		if n := len(p.after(time.Hour)); n != postBurst {
			t.Errorf("%d Events, want the %d of the burst", n, postBurst)
		}
	})
}

func TestFailureToPostIsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPosted(t)
		p.fail = errors.New("connection refused")
		for i := range 5 {
			p.Warn("Service", web(fmt.Sprint(i)), "PartIgnored", "a port is wrong")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := p.log.count("cannot post Events"); n != 1 {
			t.Errorf("%d lines, want 1:\n%s", n, p.log)
		}
	})
}

func TestEventIsValid(t *testing.T) {
	for _, object := range []*cluster.Meta{
		web("a"),
		{Key: cluster.Key{Name: "node-1"}, UID: "u"},
		{Key: cluster.Key{Namespace: "n", Name: strings.Repeat("a.", 126) + "b"}, UID: "u"},
	} {
		e := newEvent("node-1", "Service", object, "R", "m", time.Unix(0, 0))
		if problems := validation.IsDNS1123Subdomain(e.Name); len(problems) > 0 || e.Namespace == "" {
			t.Errorf("name %q in namespace %q: %v", e.Name, e.Namespace, problems)
		}
	}
	names := map[string]bool{}
	for _, minute := range []int{1, 59, 61} {
		names[newEvent("node-1", "Node", web("a"), "R", "m", time.Unix(0, 0).Add(time.Duration(minute)*time.Minute)).Name] = true
	}
	if len(names) != 2 {
		t.Errorf("%d Events in two hours, want one in each", len(names))
	}
	if m := truncate(strings.Repeat("ä", 600), longestMessage); len(m) > longestMessage || strings.ContainsRune(m, '�') {
		t.Errorf("%d bytes", len(m))
	}
	for kind, want := range map[string]string{"Pod": "v1", "EndpointSlice": "discovery.k8s.io/v1", "NetworkPolicy": "networking.k8s.io/v1"} {
		if got := apiVersion(kind); got != want {
			t.Errorf("%s: %s", kind, got)
		}
	}
}

func kubeconfig(t *testing.T, server string) string {
	path := filepath.Join(t.TempDir(), "kubelet.conf")
	text := `apiVersion: v1
kind: Config
current-context: default
contexts: [{name: default, context: {cluster: c, user: kubelet}}]
clusters: [{name: c, cluster: {server: "` + server + `"}}]
users: [{name: kubelet, user: {token: of-the-kubelet}}]
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRestConfig(t *testing.T) {
	inPod := func() (*rest.Config, error) {
		return &rest.Config{Host: "https://10.96.0.1:443", BearerToken: "of-the-pod"}, nil
	}
	noPod := func() (*rest.Config, error) { return nil, rest.ErrNotInCluster }
	kubelet := kubeconfig(t, "https://192.168.1.10:6443")
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tc := range []struct {
		name      string
		options   Options
		inCluster func() (*rest.Config, error)
		want      string // host and token, or the error
	}{
		{"in a Pod, the kubelet's server", Options{KubeletKubeconfig: kubelet}, inPod, "https://192.168.1.10:6443 of-the-pod"},
		{"in a Pod, no kubelet's file", Options{KubeletKubeconfig: missing}, inPod, "https://10.96.0.1:443 of-the-pod"},
		{"in a Pod, a kubelet's file of no use", Options{KubeletKubeconfig: kubeconfig(t, "")}, inPod, "https://10.96.0.1:443 of-the-pod"},
		{"in a Pod, master", Options{KubeletKubeconfig: kubelet, Master: "https://m:6443"}, inPod, "https://m:6443 of-the-pod"},
		{"kubeconfig", Options{Kubeconfig: kubelet}, inPod, "https://192.168.1.10:6443 of-the-kubelet"},
		{"kubeconfig and master", Options{Kubeconfig: kubelet, Master: "https://m:6443"}, noPod, "https://m:6443 of-the-kubelet"},
		{"master alone", Options{Master: "http://127.0.0.1:8080"}, noPod, "http://127.0.0.1:8080 "},
		{"kubeconfig missing", Options{Kubeconfig: missing}, inPod, "--kubeconfig: stat " + missing + ": no such file or directory; set it to an existing file, or leave it out in a Pod to use its service account"},
		{"nothing", Options{}, noPod, "no --kubeconfig and not in a Pod (" + rest.ErrNotInCluster.Error() + "): set --kubeconfig to the kubeconfig of a user who may list and watch"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			log := &logged{}
			tc.options.Log = log.logger()
			cfg, err := restConfig(tc.options, tc.inCluster)
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = cfg.Host + " " + cfg.BearerToken
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestClientGoIsQuiet(t *testing.T) {
	l := &logged{}
	logger := quietLogger(l.logger())
	logger.Info("Starting reflector")
	logger.V(2).Info("Caches populated")
	logger.V(6).Info("inner life")
	logger.Error(errors.New("x"), "Unexpected watch event object type")
	if got, want := l.String(), "level=WARN msg=\"Unexpected watch event object type\" err=x\n"; got != want {
		t.Errorf("got  %swant %s", got, want)
	}

	debug := &logged{}
	logger = quietLogger(slog.New(slog.NewTextHandler(debug, &slog.HandlerOptions{Level: slog.LevelDebug})))
	logger.V(2).WithName("pods").Info("Caches populated")
	logger.V(4).Info("inner life")
	if debug.count("level=DEBUG") != 1 || debug.count("inner life") != 0 {
		t.Errorf("got %s", debug)
	}
}
