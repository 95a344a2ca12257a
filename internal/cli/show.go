package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/admin"
)

func (c *command) peers(ctx context.Context) error {
	return ask(ctx, c, "peers", "There are no BGP peers.", c.peerTable)
}

func (c *command) peerTable(peers []admin.Peer) table {
	titles := row("PEER", "NODE", "ASN", "STATE", "SINCE", "ROUTES", "LAST ERROR")
	if c.output == asWide {
		titles = row("PEER", "NODE", "ASN", "ROLE", "STATE", "SINCE", "ACCEPTED", "RECEIVED", "ADVERTISED", "BFD", "LAST ERROR")
	}
	t := table{titles}
	for _, p := range peers {
		state := cell{text: p.State, colour: red}
		if p.Established() {
			state.colour = green
		}
		line := row(p.Address.String(), cmp.Or(p.Node, "-"), fmt.Sprint(p.ASN))
		if c.output == asWide {
			line = append(line, cell{text: cmp.Or(p.Role, "-")})
		}
		line = append(append(line, state), row(age(p.Since, c.now), fmt.Sprint(p.Accepted))...)
		if c.output == asWide {
			line = append(line, row(fmt.Sprint(p.Received), fmt.Sprint(p.Advertised))...)
			line = append(line, bfdCell(p))
		}
		t = append(t, append(line, cell{text: p.LastError}))
	}
	return t
}

func bfdCell(p admin.Peer) cell {
	c := cell{text: cmp.Or(p.BFD, "-")}
	if p.BFD != "" && p.BFD != "Up" {
		c.colour = red
	}
	return c
}

// kernelColours are those of the states of what is in the kernel.
var kernelColours = map[string]colour{
	admin.Programmed: green, admin.Waiting: yellow, admin.Failed: red,
}

func (c *command) routes(ctx context.Context) error {
	return ask(ctx, c, "routes", "No peer has sent a route yet: see 'kube-router show peers'.", func(routes []admin.Route) table {
		t := table{row("PREFIX", "NEXT HOPS", "STATE", "REASON")}
		for _, r := range routes {
			var hops []string
			for _, h := range r.NextHops {
				hop := "dev " + h.Link
				if h.Via.IsValid() {
					hop = strings.TrimSuffix("via "+h.Via.String()+" dev "+h.Link, " dev ")
				}
				hops = append(hops, hop)
			}
			line := row(r.Prefix.String(), cmp.Or(strings.Join(hops, ", "), "-"), r.State, r.Reason)
			line[2].colour = kernelColours[r.State]
			t = append(t, line)
		}
		return t
	})
}

func (c *command) services(ctx context.Context) error {
	return ask(ctx, c, "services", "This node serves no Service: there is none, or the agent is not ready; see 'kube-router status'.", func(services []admin.Service) table {
		if c.output == asWide {
			return wideServices(services)
		}
		t := table{row("SERVICE", "ADDRESS", "PORTS", "ENDPOINTS", "STATE", "REASON")}
		for _, s := range services {
			address, ports, endpoints := outline(s)
			line := row(s.Namespace+"/"+s.Name, address, ports, endpoints, s.State, why(s.Reason, s.Refused))
			line[4].colour = kernelColours[s.State]
			t = append(t, line)
		}
		return t
	})
}

// why joins why something is not done with what is left out of it.
func why(reason string, refused []string) string {
	parts := slices.Clone(refused)
	if reason != "" {
		parts = append([]string{reason}, parts...)
	}
	return strings.Join(parts, "; ")
}

// outline is a Service on a line: its first address, and how many it has more;
// its ports; and the endpoints of its ports at that address.
func outline(s admin.Service) (address, ports, endpoints string) {
	if len(s.Servers) == 0 {
		return "-", "-", "0"
	}
	first, others := s.Servers[0].Address, map[string]bool{}
	var numbers []string
	different := map[string]bool{}
	for _, v := range s.Servers {
		if v.Address != first {
			others[v.Address.String()] = true
			continue
		}
		numbers = append(numbers, fmt.Sprintf("%d/%s", v.Port, v.Protocol))
		for _, e := range v.Endpoints {
			different[e.Address.String()] = true
		}
	}
	address = first.String()
	if len(others) > 0 {
		address += fmt.Sprintf(" +%d", len(others))
	}
	return address, strings.Join(numbers, ","), fmt.Sprint(len(different))
}

// wideServices has a line for each virtual server, and for a Service without.
func wideServices(services []admin.Service) table {
	t := table{row("SERVICE", "VIRTUAL SERVER", "SCHEDULER", "ENDPOINTS", "STATE", "REASON")}
	add := func(s admin.Service, server, scheduler, endpoints string) {
		line := row(s.Namespace+"/"+s.Name, server, scheduler, endpoints, s.State, why(s.Reason, s.Refused))
		line[4].colour = kernelColours[s.State]
		t = append(t, line)
	}
	for _, s := range services {
		if len(s.Servers) == 0 { // it may say why
			add(s, "-", "-", "-")
		}
		for _, v := range s.Servers {
			var endpoints []string
			for _, e := range v.Endpoints {
				text := hostPort(e.Address.String(), e.Port)
				if e.Weight != 1 {
					text += fmt.Sprintf(" weight %d", e.Weight)
				}
				endpoints = append(endpoints, text)
			}
			add(s, v.Protocol+" "+hostPort(v.Address.String(), v.Port), cmp.Or(v.Scheduler, "-"), cmp.Or(strings.Join(endpoints, ", "), "none"))
		}
	}
	return t
}

func hostPort(host string, port uint16) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

func (c *command) policies(ctx context.Context) error {
	return ask(ctx, c, "policies", "The cluster has no NetworkPolicies.", func(policies []admin.Policy) table {
		t := table{row("POLICY", "ISOLATES", "PODS HERE", "STATE", "REASON")}
		for _, p := range policies {
			pods := fmt.Sprint(len(p.Pods))
			if c.output == asWide {
				pods = cmp.Or(strings.Join(p.Pods, ", "), "none")
			}
			line := row(p.Namespace+"/"+p.Name, cmp.Or(strings.Join(p.Directions, ","), "-"), pods, p.State, why(p.Reason, p.Refused))
			line[3].colour = kernelColours[p.State]
			t = append(t, line)
		}
		return t
	})
}

func (c *command) sets(ctx context.Context) error {
	return ask(ctx, c, "sets", "There are no IP sets yet.", func(sets []admin.Set) table {
		t := table{row("SET", "TYPE", "ENTRIES", "OF", "STATE")}
		if c.output == asWide {
			t[0] = append(t[0], row("FAMILY", "CONTROLLER")...)
		}
		for _, s := range sets {
			line := row(s.Name, s.Type, fmt.Sprint(s.Entries), fmt.Sprint(s.MaxEntries), s.State)
			line[4].colour = kernelColours[s.State]
			if c.output == asWide {
				line = append(line, row(s.Family, s.Controller)...)
			}
			t = append(t, line)
		}
		return t
	})
}
