package watch

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kube-router/kube-router/internal/cluster"
)

// leases is an API server that has one lease, and knows who leads.
type leases struct {
	t  *testing.T
	mu sync.Mutex

	lease     *coordinationv1.Lease
	version   int
	forbidden bool
	leading   []string
}

const leasePath = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"

func (l *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	named := r.URL.Path == leasePath+"/lballoc"
	switch {
	case l.forbidden:
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "leases is forbidden")
	case r.Method == http.MethodPost && r.URL.Path == leasePath && l.lease != nil:
		refuse(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, "it exists")
	case r.Method == http.MethodPost && r.URL.Path == leasePath:
		l.take(w, r)
	case !named || l.lease == nil:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "no such lease")
	case r.Method == http.MethodPut:
		l.take(w, r)
	default:
		l.answer(w, http.StatusOK)
	}
}

// take takes the lease of a request, which arrives as protobuf.
func (l *leases) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	decoded, _, err := newCodecs().UniversalDeserializer().Decode(body, nil, nil)
	lease, ok := decoded.(*coordinationv1.Lease)
	if err != nil || !ok || lease.Name != "lballoc" || lease.Spec.RenewTime == nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "not a lease")
		return
	}
	if l.lease != nil && lease.ResourceVersion != l.lease.ResourceVersion {
		refuse(w, http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified")
		return
	}
	l.store(lease)
	l.answer(w, http.StatusOK)
}

func (l *leases) store(lease *coordinationv1.Lease) {
	l.version++
	lease.TypeMeta = metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	lease.ResourceVersion, lease.UID = strconv.Itoa(l.version), "uid"
	l.lease = lease
}

func (l *leases) answer(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(l.lease)
}

// holder is who holds the lease, and how often it changed hands.
func (l *leases) holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.lease.Spec.HolderIdentity + " " + strconv.Itoa(int(*l.lease.Spec.LeaseTransitions))
}

func (l *leases) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// leads says who leads.
func (l *leases) leads() string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.leading, " ")
}

// candidate is an agent that stands for election, on a line of its own.
type candidate struct {
	*leases
	name string
	log  *logged
	stop func()

	mu       sync.Mutex
	requests int
	line     string // "" is up, "down" fails at once, "hangs" gives no answer
}

// RoundTrip is the line to the server.
func (c *candidate) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.requests++
	line := c.line
	c.mu.Unlock()
	switch line {
	case "down":
		return nil, errors.New("connection refused")
	case "hangs":
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	answer := httptest.NewRecorder()
	c.ServeHTTP(answer, r)
	return answer.Result(), nil
}

func (c *candidate) cut(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line = line
}

// stand starts a candidate. Its work takes a moment to end, in which nobody
// else may lead.
func (l *leases) stand(name string) *candidate {
	l.t.Helper()
	c := &candidate{leases: l, name: name, log: &logged{}}
	client, err := newClient(&rest.Config{Host: "http://server", Transport: c}, Options{NodeName: name, Log: c.log.logger()})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		client.Lead(ctx, cluster.Key{Namespace: "kube-system", Name: "lballoc"}, name, c.lead)
	}()
	c.stop = sync.OnceFunc(func() { cancel(); <-done })
	return c
}

func (c *candidate) lead(ctx context.Context) {
	c.set(func() {
		c.leading = append(c.leading, c.name)
		if len(c.leading) > 1 {
			c.t.Errorf("several lead: %q", c.leading)
		}
	})
	<-ctx.Done()
	time.Sleep(time.Second)
	c.set(func() { c.leading = nil })
}

func elections(t *testing.T, test func(t *testing.T, l *leases)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, &leases{t: t}) })
}

// One leads, and the next one as soon as that one stops.
func TestOneLeads(t *testing.T) {
	elections(t, func(t *testing.T, l *leases) {
		a := l.stand("a")
		if got := l.leads(); got != "a" {
			t.Fatalf("leads: %q", got)
		}
		b := l.stand("b")
		defer b.stop()
		time.Sleep(10 * time.Minute)
		if got, holder := l.leads(), l.holder(); got != "a" || holder != "a 0" {
			t.Fatalf("leads: %q, holder %s", got, holder)
		}
		a.stop()
		if got, holder := l.leads(), l.holder(); got != "" || holder != " 0" {
			t.Fatalf("leads: %q, holder %s; the lease is not given up", got, holder)
		}
		time.Sleep(12 * time.Second)
		if got, holder := l.leads(), l.holder(); got != "b" || holder != "b 1" {
			t.Errorf("leads: %q, holder %s", got, holder)
		}
		if text := a.log.String() + b.log.String(); text != "" {
			t.Errorf("said:\n%s", text)
		}
	})
}

// One that cannot renew its lease stops before another takes it, and stands
// again when it can.
func TestLeaderIsCutOff(t *testing.T) {
	for _, line := range []string{"down", "hangs"} {
		t.Run(line, func(t *testing.T) {
			elections(t, func(t *testing.T, l *leases) {
				a := l.stand("a")
				synctest.Wait()
				b := l.stand("b")
				time.Sleep(time.Minute)
				a.cut(line)
				time.Sleep(7 * time.Second)
				if got := l.leads(); got != "a" {
					t.Fatalf("leads: %q, while it could still renew", got)
				}
				time.Sleep(4500 * time.Millisecond) // 10s from the last renewal, and 1s to end the work
				if got := l.leads(); got != "" {
					t.Fatalf("leads: %q, after the time to renew", got)
				}
				// b may see the last renewal 11.25s late (three quarters of a lease), waits
				// for 15s from then, and looks up to 3s after that: 30s from the cut.
				time.Sleep(18500 * time.Millisecond)
				if got := l.leads(); got != "b" {
					t.Fatalf("leads: %q", got)
				}
				a.cut("")
				time.Sleep(time.Minute)
				b.stop()
				time.Sleep(12 * time.Second)
				if got, holder := l.leads(), l.holder(); got != "a" || holder != "a 2" {
					t.Errorf("leads: %q, holder %s", got, holder)
				}
				a.stop()
				for _, words := range []string{"lost the lease", "cannot take part in the election", "can be had again"} {
					if n := a.log.count(words); n != 1 {
						t.Errorf("%q is said %d times:\n%s", words, n, a.log)
					}
				}
			})
		})
	}
}

// A short outage of the server changes nothing.
func TestShortOutage(t *testing.T) {
	elections(t, func(t *testing.T, l *leases) {
		a := l.stand("a")
		synctest.Wait()
		b := l.stand("b")
		time.Sleep(time.Minute)
		a.cut("down")
		b.cut("down")
		time.Sleep(7 * time.Second)
		a.cut("")
		b.cut("")
		time.Sleep(time.Minute)
		if got, holder := l.leads(), l.holder(); got != "a" || holder != "a 0" {
			t.Errorf("leads: %q, holder %s", got, holder)
		}
		b.stop()
		a.stop()
	})
}

// The lease of a holder that is gone is waited out by this node's own clock:
// what it says of the time may come from a clock that is wrong.
func TestAbandonedLease(t *testing.T) {
	elections(t, func(t *testing.T, l *leases) {
		gone, seconds, transitions, then := "gone", int32(15), int32(4), metav1.NewMicroTime(time.Now().Add(-time.Hour))
		l.store(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "lballoc"},
			Spec: coordinationv1.LeaseSpec{
				HolderIdentity: &gone, LeaseDurationSeconds: &seconds, LeaseTransitions: &transitions, RenewTime: &then, AcquireTime: &then,
			},
		})
		a := l.stand("a")
		defer a.stop()
		time.Sleep(14 * time.Second)
		if got := l.leads(); got != "" {
			t.Fatalf("leads: %q, too early", got)
		}
		time.Sleep(5 * time.Second)
		if got, holder := l.leads(), l.holder(); got != "a" || holder != "a 5" {
			t.Errorf("leads: %q, holder %s", got, holder)
		}
	})
}

// A lease that was taken away is not fought for.
func TestLeaseTakenAway(t *testing.T) {
	elections(t, func(t *testing.T, l *leases) {
		a := l.stand("a")
		defer a.stop()
		synctest.Wait()
		l.set(func() {
			lease, other := l.lease.DeepCopy(), "operator"
			lease.Spec.HolderIdentity = &other
			l.store(lease)
		})
		time.Sleep(5 * time.Second)
		if got, holder := l.leads(), l.holder(); got != "" || holder != "operator 0" {
			t.Errorf("leads: %q, holder %s", got, holder)
		}
	})
}

// Without the right to, it says what to do, once.
func TestElectionForbidden(t *testing.T) {
	elections(t, func(t *testing.T, l *leases) {
		l.forbidden = true
		a := l.stand("a")
		time.Sleep(10 * time.Minute)
		if n := a.log.count("let a Role of this agent get, create and update leases"); n != 1 || l.leads() != "" {
			t.Errorf("said %d times, leads: %q\n%s", n, l.leads(), a.log)
		}
		l.set(func() { l.forbidden = false })
		time.Sleep(5 * time.Second)
		if got := l.leads(); got != "a" {
			t.Errorf("leads: %q", got)
		}
		a.stop()
	})
}

// Waiting for another holder costs the API server little, for there may be
// thousands of nodes that wait.
func TestWaitingIsCheap(t *testing.T) {
	elections(t, func(t *testing.T, l *leases) {
		a := l.stand("a")
		defer a.stop()
		synctest.Wait()
		b := l.stand("b")
		defer b.stop()
		time.Sleep(time.Hour)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.requests > 700 { // one in 6 seconds and a bit
			t.Errorf("%d requests in an hour", b.requests)
		}
	})
}
