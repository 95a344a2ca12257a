package services

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kube-router/kube-router/internal/cluster"
	"github.com/kube-router/kube-router/internal/healthcheck"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// staleFlows are the flows of datagrams that lead nowhere once virtual servers,
// old, are the others: those to endpoints that are gone, as
// another proxy may have translated them, and those that were sent before there
// was a virtual server and went elsewhere. IPVS itself ends the rest: see
// package conntrack.
func staleFlows(old, now map[ipvs.ID]*ipvs.Server) []conntrack.Flow {
	var list []conntrack.Flow
	for id, before := range old {
		for addr, real := range before.Real {
			stays := false
			if now[id] != nil {
				_, stays = now[id].Real[addr]
			}
			if !stays && real.Method == ipvs.Masquerade {
				list = append(list, conntrack.Flow{Protocol: id.Protocol, Virtual: id.Addr, Endpoint: addr})
			}
		}
	}
	for id, server := range now {
		if old[id] == nil && !tunnels(server) {
			list = append(list, conntrack.Flow{Protocol: id.Protocol, Virtual: id.Addr})
		}
	}
	return list
}

// tunnels says that packets go through the virtual server untranslated, and
// their flows look as if they led nowhere.
func tunnels(s *ipvs.Server) bool {
	for _, real := range s.Real {
		if real.Method != ipvs.Masquerade {
			return true
		}
	}
	return false
}

// noteFlows marks flows to be deleted.
func (c *Controller) noteFlows(list []conntrack.Flow) {
	for _, f := range list {
		c.stale[f] = struct{}{}
	}
	if len(list) > 0 {
		c.queue.Mark(key{step: stepFlows})
	}
}

// dropFlows deletes the flows that were noted, once the virtual servers are as
// they should be.
func (c *Controller) dropFlows() error {
	if len(c.stale) == 0 {
		return nil
	}
	deleted, err := c.drivers.Flows.Delete(slices.Collect(maps.Keys(c.stale)))
	if deleted > 0 {
		c.log.Info("services: flows of datagrams that led nowhere were ended", "count", deleted)
	}
	if err != nil {
		return fmt.Errorf("ending flows of datagrams: %w", err)
	}
	clear(c.stale)
	return nil
}

// tellHealth tells load balancers what a Service has here.
func (c *Controller) tellHealth(k cluster.Key, service *cluster.Service, want *desired) {
	var check *healthcheck.Check
	if want != nil && want.health != nil {
		check = &healthcheck.Check{Port: want.health.port, Local: want.health.local, Service: &service.Meta}
	}
	if old := c.plan.services[k]; check != nil || old != nil && old.health != nil {
		c.drivers.Health.Set(map[cluster.Key]*healthcheck.Check{k: check})
	}
}
