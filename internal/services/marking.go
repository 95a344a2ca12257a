package services

import (
	"fmt"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// marking is what a batch does with marks.
type marking struct {
	servers    map[ipvs.ID]*ipvs.Server
	set, unset [roles][]ipset.Entry
	// left are the marks that markers have no longer.
	left map[marker][]uint32
	// behind are the addresses of a mark's virtual server: its error is theirs.
	behind map[ipvs.ID][]ipvs.ID
}

// program makes the virtual servers: those with marks first, then the marks, and
// those of addresses, so that no client of the node is sent into a tunnel. The
// way back is the other way round.
func (b *batch) program() {
	want := b.wantedServers()
	m := marking{servers: map[ipvs.ID]*ipvs.Server{}, left: map[marker][]uint32{}, behind: map[ipvs.ID][]ipvs.ID{}}
	for id := range b.resources.virtuals {
		for r := range roles {
			b.markOne(marker{id, r}, want, &m)
		}
	}
	b.setServers(m.servers, m.behind)
	for r, name := range markSets {
		b.edit(name, m.set[r], nil, b.portFailed)
	}
	for id, server := range want {
		if server != nil && b.failedVirtuals[id] != nil && tunnels(server) {
			delete(want, id)
		}
	}
	b.setServers(want, nil)
	for r, name := range markSets {
		b.edit(name, nil, m.unset[r], b.portFailed)
	}
	b.leaveMarks(&m)
}

func (b *batch) setServers(want map[ipvs.ID]*ipvs.Server, behind map[ipvs.ID][]ipvs.ID) {
	for id, err := range b.servers.Set(want) {
		if id.Mark == 0 {
			b.failedVirtuals[id] = err
		}
		for _, addr := range behind[id] {
			b.failedVirtuals[addr] = err
		}
	}
}

// markOne adds what one marker needs: the virtual server, and the entry with
// its mark.
func (b *batch) markOne(k marker, want map[ipvs.ID]*ipvs.Server, m *marking) {
	mark := uint32(0)
	if g, server := b.marked(k); server != nil {
		if id, ok := b.marks.join(g, k); ok {
			mark = id.Mark
			m.servers[id], m.behind[id] = server, append(m.behind[id], k.id)
			m.set[k.role] = append(m.set[k.role], markEntry(k, mark))
		} else {
			b.starve(g, k, server, want)
		}
	}
	for _, old := range b.marks.at[k] {
		if old == mark {
			continue
		}
		m.left[k] = append(m.left[k], old)
		if mark == 0 {
			m.unset[k.role] = append(m.unset[k.role], markEntry(k, old))
		}
	}
}

// marked is the virtual server of a marker, nil for none, and its group.
func (c *Controller) marked(k marker) (group, *ipvs.Server) {
	claims := c.plan.virtuals[k.id]
	if len(claims) == 0 {
		return group{}, nil
	}
	v := claims[0].value
	server := v.marked(k.role)
	if server == nil {
		return group{}, nil
	}
	return group{claims[0].by, k.id.Protocol, v.special.port, familyOf(k.id), k.role}, server
}

// starve does without a mark. Clients of the node must not be sent through a
// tunnel, where their egress policies do not see the endpoint: then nobody is.
func (b *batch) starve(g group, k marker, server *ipvs.Server, want map[ipvs.ID]*ipvs.Server) {
	b.starved[g.service] = true
	what := "what other nodes send here for direct server return is dropped"
	if v, _ := b.plan.virtuals.granted(k.id); k.role == inside && tunnels(v.server) {
		what = "it is served without direct server return"
		want[k.id] = &ipvs.Server{Config: v.server.Config, Real: server.Real}
	} else if k.role == inside {
		what = "its traffic policy Local holds for pods of the node as well"
	}
	if service, _ := b.state.get(g.service); service != nil {
		b.events.Warn("Service", &service.Meta, "NoMarkLeft", fmt.Sprintf("on node %s %s: all firewall marks are in use; "+
			"fewer Services can have direct server return, or a traffic policy Local with endpoints on other nodes", b.me.name, what))
	}
}

// leaveMarks removes the virtual servers of marks that nobody has any more. A
// Service that has to do without one gets one then.
func (b *batch) leaveMarks(m *marking) {
	leaving, gone, behind := map[ipvs.ID]int{}, map[ipvs.ID]*ipvs.Server{}, map[ipvs.ID][]ipvs.ID{}
	for k, left := range m.left {
		for _, mark := range left {
			if id := markedID(k, mark); b.failedVirtuals[k.id] == nil {
				behind[id] = append(behind[id], k.id)
				if leaving[id]++; leaving[id] == b.marks.users[id] {
					gone[id] = nil
				}
			}
		}
	}
	b.setServers(gone, behind)
	for k, left := range m.left {
		for _, mark := range left {
			if b.failedVirtuals[k.id] == nil && b.marks.leave(k, mark) {
				b.feed()
			}
		}
	}
}

// feed compiles a Service again that has to do without a mark.
func (c *Controller) feed() {
	for service := range c.starved {
		delete(c.starved, service)
		c.fed[service] = c.marks.count(service)
		c.markServices(service)
		return
	}
}

// passOn feeds the next where one did not take what it was fed: it has gone or
// changed meanwhile.
func (c *Controller) passOn(keys []cluster.Key) {
	left := 0
	for _, k := range keys {
		had, fed := c.fed[k]
		delete(c.fed, k)
		if fed && !c.starved[k] && c.marks.count(k) <= had {
			left++
		}
	}
	for range left {
		c.feed()
	}
}

// wantedMark says that an entry is to be.
func (c *Controller) wantedMark(e ipset.Entry, r role) bool {
	g, server := c.marked(marker{entryID(e), r})
	return server != nil && c.marks.of[g].Mark == e.Mark
}

// forgetMarks frees the marks of a former run that nobody wants.
func (c *Controller) forgetMarks() {
	for k, list := range c.marks.at {
		g, server := c.marked(k)
		for _, mark := range slices.Clone(list) {
			if c.formerMarks[mark] && (server == nil || c.marks.of[g].Mark != mark) && c.marks.leave(k, mark) {
				c.feed()
			}
		}
	}
}
