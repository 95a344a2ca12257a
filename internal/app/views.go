package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/admin"
	"github.com/kube-router/kube-router/internal/bgp"
	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/cluster/watch"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/policy"
	"github.com/kube-router/kube-router/internal/reconcile"
	"github.com/kube-router/kube-router/internal/routes"
	"github.com/kube-router/kube-router/internal/services"
)

// mostPending is how much of what is pending a status lists.
const mostPending = 100

// impatient is for how long something may have failed before the status calls
// it wrong: a first attempt may come too early.
const impatient = 5 * time.Second

// show makes the local socket tell about the controllers that run.
func (a *agent) show(client *watch.Client) {
	v := admin.Views{Status: func(ctx context.Context) admin.Status { return a.status(ctx, client) }, Sets: a.listSets}
	if a.router != nil {
		v.Peers, v.Routes = a.listPeers, func() []admin.Route { return convert(a.router.List(), listRoute) }
	}
	if a.proxy != nil {
		v.Services = func() []admin.Service { return convert(a.proxy.List(), listService) }
	}
	if a.firewall != nil {
		v.Policies = func() []admin.Policy { return convert(a.firewall.List(), listPolicy) }
	}
	a.local.Show(v)
}

// convert converts a list; that of nothing is not nil.
func convert[T, U any](list []T, one func(T) U) []U {
	all := make([]U, 0, len(list))
	for _, item := range list {
		all = append(all, one(item))
	}
	return all
}

// nothingYet begins what is wrong while no controller can begin.
const nothingYet = "this run of the agent has programmed nothing yet: "

func (a *agent) blankStatus() admin.Status {
	return admin.Status{Version: a.version, Node: a.cfg.NodeName, Started: a.started, Wrong: []string{}, Peers: []admin.Peer{}}
}

// blankController is one that does not run.
func blankController(name string) admin.Controller {
	return admin.Controller{
		Name: name, State: admin.Off, Reason: "turned off by its flag", Objects: []admin.Objects{}, Pending: []admin.Pending{},
	}
}

// status is the agent on one screen. A controller that hangs is not asked for
// more than what it tells without help.
func (a *agent) status(ctx context.Context, client *watch.Client) admin.Status {
	s := a.blankStatus()
	s.APIServer.URL = client.Server()
	s.APIServer.Lost, s.APIServer.Reason = client.Outage()
	if lost := s.APIServer.Lost; !lost.IsZero() {
		s.Wrong = append(s.Wrong, fmt.Sprintf("the API server %s has not answered for %s: %s; what is programmed stays in force",
			s.APIServer.URL, time.Since(lost).Round(time.Second), s.APIServer.Reason))
	}
	lacking := a.lacking()
	if lacking != "" {
		s.Wrong = append(s.Wrong, nothingYet+lacking)
	}
	for _, name := range controllerNames {
		c, wrong := a.controller(name)
		s.Controllers = append(s.Controllers, c)
		if lacking == "" || c.State == admin.Stuck {
			s.Wrong = append(s.Wrong, wrong...)
		}
		if name == routesName && a.router != nil && c.State != admin.Stuck {
			s.Peers = a.listPeers()
		}
	}
	for _, p := range s.Peers {
		if p.WithoutBFD(time.Now()) {
			s.Wrong = append(s.Wrong, fmt.Sprintf("BFD down with %s (%s): %s; that the peer is gone is only noticed after the hold time",
				p.Address, cmp.Or(p.Node, "no node"), cmp.Or(p.BFDError, "no packet comes, or the peer has it off (UDP 3784)")))
		}
		if !p.Established() {
			s.Wrong = append(s.Wrong, fmt.Sprintf("no BGP session with %s (%s): %s", p.Address, cmp.Or(p.Node, "no node"), cmp.Or(p.LastError, p.State)))
		}
	}
	stuck := slices.ContainsFunc(s.Controllers, func(c admin.Controller) bool { return c.State == admin.Stuck })
	advice, wrong := a.given(ctx, !stuck)
	s.Advice, s.Wrong = advice, append(s.Wrong, wrong...)
	return s
}

// controller is the state of one, and what is wrong with it.
func (a *agent) controller(name string) (c admin.Controller, wrong []string) {
	c = blankController(name)
	i := slices.IndexFunc(a.parts, func(p part) bool { return p.name == name })
	if i < 0 {
		return c, nil
	}
	p := a.parts[i]
	c.Reason = ""
	c.LastSync = p.Progress().Last
	work := p.Work()
	c.PendingCount = len(work)
	for _, w := range work[:min(len(work), mostPending)] {
		c.Pending = append(c.Pending, pending(w))
	}
	if ok, words := a.alive(p); !ok {
		c.State, c.Reason = admin.Stuck, words
		return c, []string{name + " " + words}
	}
	for _, n := range p.Counts() {
		c.Objects = append(c.Objects, admin.Objects(n))
	}
	if !p.ready() {
		c.State, c.Reason = admin.Starting, a.waiting(p)
		return c, []string{name + " has not programmed everything yet: " + c.Reason}
	}
	c.State = admin.Running
	if name == loadBalancerName && !a.balancer.Status().Leading {
		c.Reason = "another agent gives out the addresses"
	}
	return c, failures(name, work)
}

// failures says what keeps failing, in one line.
func failures(name string, work []reconcile.Work) []string {
	var failed []reconcile.Work
	for _, w := range work {
		if w.Failed() && time.Since(w.Since) > impatient {
			failed = append(failed, w)
		}
	}
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return []string{fmt.Sprintf("%s cannot do: %s", name, failed[0])}
	}
	return []string{fmt.Sprintf("%s cannot do %d things, the first: %s", name, len(failed), failed[0])}
}

func pending(w reconcile.Work) admin.Pending {
	return admin.Pending{What: w.What, Since: w.Since, Attempts: w.Attempts, Reason: w.Reason(), Failed: w.Failed()}
}

// inKernel is the state of an object of which something may be pending.
func inKernel(w *reconcile.Work) (state, reason string) {
	switch {
	case w == nil:
		return admin.Programmed, ""
	case w.Failed():
		return admin.Failed, w.Reason()
	}
	return admin.Waiting, w.Reason()
}

func (a *agent) listPeers() []admin.Peer {
	names := a.router.NodeNames()
	return convert(a.router.Status().Peers, func(p bgp.PeerState) admin.Peer {
		return admin.Peer{
			Address: p.Addr, Node: names[p.Addr], ASN: p.ASN, Role: p.Role.String(), State: p.State, Since: p.Since,
			Received: p.Received, Accepted: p.Accepted, Advertised: p.Advertised, LastError: p.LastError,
			BFD: p.BFDState, BFDError: p.BFDError,
		}
	})
}

func listRoute(l routes.Listed) admin.Route {
	r := admin.Route{Prefix: l.Prefix, NextHops: []admin.NextHop{}}
	r.State, r.Reason = inKernel(l.Pending)
	if l.Route == nil && l.Pending == nil {
		r.State = admin.Unused
	}
	r.Reason = cmp.Or(r.Reason, l.Reason)
	if l.Route != nil {
		for _, hop := range l.Route.NextHops {
			r.NextHops = append(r.NextHops, admin.NextHop{Via: hop.Via, Link: hop.Link})
		}
	}
	return r
}

func listService(l services.Listed) admin.Service {
	s := admin.Service{Namespace: l.Namespace, Name: l.Name, Refused: append([]string{}, l.Refused...)}
	s.State, s.Reason = inKernel(l.Pending)
	s.Servers = convert(l.Servers, func(v services.ListedServer) admin.VirtualServer {
		server := admin.VirtualServer{
			Protocol: v.ID.Protocol.String(), Address: v.ID.Addr.Addr(), Port: v.ID.Addr.Port(),
			Scheduler: v.Scheduler, Endpoints: []admin.Endpoint{},
		}
		for _, e := range v.Endpoints() {
			server.Endpoints = append(server.Endpoints, admin.Endpoint{Address: e.Addr(), Port: e.Port(), Weight: v.Real[e].Weight})
		}
		return server
	})
	return s
}

func listPolicy(l policy.Listed) admin.Policy {
	p := admin.Policy{Namespace: l.Namespace, Name: l.Name, Directions: []string{}, Refused: append([]string{}, l.Refused...)}
	if l.Ingress {
		p.Directions = append(p.Directions, "ingress")
	}
	if l.Egress {
		p.Directions = append(p.Directions, "egress")
	}
	p.Pods = convert(l.Pods, func(k cluster.Key) string { return k.Name })
	p.State, p.Reason = inKernel(l.Pending)
	if len(l.Pods) == 0 && l.Pending == nil {
		p.State = admin.Unused
	}
	return p
}

func (a *agent) listSets() []admin.Set {
	var list []admin.Set
	add := func(controller string, sets []ipset.Listed) {
		for _, s := range sets {
			state := admin.Programmed
			if !s.Programmed {
				state = admin.Failed
			}
			list = append(list, admin.Set{
				Controller: controller, Name: s.Name, Type: string(s.Type), Family: s.Family.String(),
				Entries: s.Entries, MaxEntries: s.MaxElem, State: state,
			})
		}
	}
	if a.router != nil {
		add(routesName, a.router.Sets())
	}
	if a.proxy != nil {
		add(servicesName, a.proxy.Sets())
	}
	if a.firewall != nil {
		add(policyName, a.firewall.Sets())
	}
	return list
}
