package app

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/advice"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/reconcile"
)

// What the status says of a controller, and what of it is wrong.
func TestControllerState(t *testing.T) {
	long, now := time.Now().Add(-time.Minute), time.Now()
	busy := errors.New("busy")
	for _, c := range []struct {
		name  string
		stub  *stub
		state string
		wrong string
	}{
		{"at rest", (&stub{}).finish(), admin.Running, ""},
		{"starts", &stub{}, admin.Starting, "policy has not programmed everything yet: programming the kernel"},
		{"hangs", (&stub{progress: reconcile.Progress{Busy: now.Add(-time.Hour)}}).finish(), admin.Stuck, "policy hangs: has worked for 1h0m0s"},
		{"a first attempt failed", (&stub{work: []reconcile.Work{{What: "iptables", Since: now, Err: busy}}}).finish(), admin.Running, ""},
		{"keeps failing", (&stub{work: []reconcile.Work{{What: "iptables", Since: long, Err: busy}}}).finish(), admin.Running, "policy cannot do: iptables: busy"},
		{"waits", (&stub{work: []reconcile.Work{{What: "sweep", Since: long, Err: reconcile.ErrWaiting}}}).finish(), admin.Running, ""},
		{"much fails", (&stub{work: []reconcile.Work{{What: "pod a/b", Since: long, Err: busy}, {What: "pod a/c", Since: long, Err: busy}}}).finish(),
			admin.Running, "policy cannot do 2 things, the first: pod a/b: busy"},
	} {
		a := testAgent(t)
		a.parts = []part{{"policy", c.stub}}
		got, wrong := a.controller("policy")
		if text := strings.Join(wrong, "; "); got.State != c.state || !strings.HasPrefix(text, c.wrong) || (text == "") != (c.wrong == "") {
			t.Errorf("%s: %s, %q; want %s, %q", c.name, got.State, text, c.state, c.wrong)
		}
	}
	if got, wrong := testAgent(t).controller("policy"); got.State != admin.Off || wrong != nil {
		t.Errorf("off: %+v, %q", got, wrong)
	}
}

// However much is pending, a status stays small.
func TestStatusIsBounded(t *testing.T) {
	s := (&stub{}).finish()
	for range 5000 {
		s.work = append(s.work, reconcile.Work{What: "service default/web"})
	}
	a := testAgent(t)
	a.parts = []part{{"services", s}}
	if got, _ := a.controller("services"); got.PendingCount != 5000 || len(got.Pending) != mostPending {
		t.Errorf("%d pending, %d listed", got.PendingCount, len(got.Pending))
	}
}

// The whole status: who is off, what is wrong, and advice.
func TestStatus(t *testing.T) {
	a := testAgent(t, "--run-firewall=false")
	client, err := a.openClient()
	if err != nil {
		t.Fatal(err)
	}
	a.build(drivers{}, client)
	a.advisor = advice.NewAdvisor(func(context.Context) advice.Facts {
		return advice.Facts{ServiceProxy: true, NoIPVS: true, Router: true, NoGracefulRestart: true}
	}, func() *cluster.Meta { return nil }, nil, a.log)
	s := a.status(t.Context(), client)
	want := []string{
		"this run of the agent has programmed nothing yet: waiting for the API server's list of nodes, services, endpointslices",
		"IPVSMissing: see the advice below",
	}
	if d := cmp.Diff(want, s.Wrong); d != "" {
		t.Error(d)
	}
	var states []string
	for _, c := range s.Controllers {
		states = append(states, c.Name+" "+c.State)
	}
	if got := strings.Join(states, ", "); got != "routes starting, services starting, policy off, loadbalancer off" {
		t.Errorf("controllers: %s", got)
	}
	if len(s.Advice) != 2 || s.Advice[0].Severity != "warning" || s.Advice[1].Reason != "GracefulRestartOff" {
		t.Errorf("advice: %+v", s.Advice)
	}
	if s.Node != "node1" || s.APIServer.URL != "https://127.0.0.1:1" || s.Peers == nil {
		t.Errorf("%+v", s)
	}
}
