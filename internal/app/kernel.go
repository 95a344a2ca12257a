package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"github.com/kube-router/kube-router/internal/config"
	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/conntrack"
	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
	"github.com/kube-router/kube-router/internal/kernel/link"
	"github.com/kube-router/kube-router/internal/kernel/record"
	"github.com/kube-router/kube-router/internal/kernel/route"
	"github.com/kube-router/kube-router/internal/kernel/sysctl"
)

// drivers are the kernel facilities that more than one controller uses.
type drivers struct {
	rules  map[inet.Family]*iptables.Ruleset
	tables map[inet.Family]*iptables.Deferred // below rules
	sets   ipset.Interface
	routes route.Interface
	links  link.Interface
	sysctl sysctl.Interface
	flows  conntrack.Interface
	// foreign is where other owners' routes are seen.
	foreign *route.Kernel
}

// filtered are the families in which packets are filtered: those of the
// cluster, and with policies IPv6 wherever the kernel has it, as Pods of a
// bridge reach each other by it without having an address of it.
func filtered(cfg config.Config) []inet.Family {
	families := cfg.Families()
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil && cfg.RunFirewall && !slices.Contains(families, inet.IPv6) {
		families = append(families, inet.IPv6)
	}
	return families
}

// openDrivers opens what is there on every kernel that can run Kubernetes, but
// for iptables, which openRules opens.
func openDrivers(families []inet.Family, before *record.File, log *slog.Logger) (drivers, error) {
	d := drivers{
		rules: map[inet.Family]*iptables.Ruleset{}, tables: map[inet.Family]*iptables.Deferred{},
		sysctl: sysctl.Recording{Interface: sysctl.New(""), Record: before},
	}
	for _, family := range families {
		d.tables[family] = &iptables.Deferred{}
		d.rules[family] = iptables.NewRuleset(d.tables[family], family, log)
	}
	var setsErr, routesErr, flowsErr error
	d.sets, setsErr = ipset.Open()
	d.foreign, routesErr = route.Open()
	d.routes = d.foreign
	if routesErr == nil {
		d.foreign.Ceding = predecessors
	}
	links, linksErr := link.Open()
	d.flows, flowsErr = conntrack.Open()
	if err := errors.Join(setsErr, routesErr, linksErr, flowsErr); err != nil {
		return d, fmt.Errorf("netlink: %w", err)
	}
	links.Record = before
	d.links = links
	return d, nil
}

// openRules finds the variant of iptables that the host uses and opens it for
// all families. It runs programs, which takes longer than all the rest.
func (d drivers) openRules(ctx context.Context) (iptables.Variant, error) {
	variant, err := iptables.Detect(ctx)
	if err != nil {
		return "", err
	}
	for family, deferred := range d.tables {
		tables, err := iptables.Open(ctx, family, variant)
		if err != nil {
			return "", fmt.Errorf("for %s: %w", family, err)
		}
		deferred.Open(tables)
	}
	return variant, nil
}
