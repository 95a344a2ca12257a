package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/ipvs"
)

// The annotations of Services, and that of Nodes.
const (
	schedulerAnnotation = "kube-router.io/service.scheduler"
	flagsAnnotation     = "kube-router.io/service.schedflags"
	dsrAnnotation       = "kube-router.io/service.dsr"
	hairpinAnnotation   = "kube-router.io/service.hairpin"
	localAnnotation     = "kube-router.io/service.local"
	skipAnnotation      = "kube-router.io/service.skiplbips"
	weightAnnotation    = "kube-router.io/node.weight"
)

// schedulers are those that a Service may name.
var schedulers = [...]string{"rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"}

// options are a Service's choices with the configuration's defaults.
type options struct {
	config                       ipvs.Config
	internalLocal, externalLocal bool
	dsr, hairpin                 bool
	dsrAsked                     bool // by the Service itself
	skipLoadBalancerIPs          bool
}

func (b *compilation) readOptions() options {
	notes := b.service.Annotations
	o := options{
		internalLocal: b.service.InternalLocal, externalLocal: b.service.ExternalLocal,
		dsr: b.dsr(), dsrAsked: notes[dsrAnnotation] == "tunnel", hairpin: b.compiler.config.Hairpin,
	}
	o.config = ipvs.Config{Scheduler: b.scheduler(), Persistence: uint32(b.service.AffinityTimeout / time.Second)}
	o.config.SchedFlags = b.schedulerFlags(o.config.Scheduler)
	if o.config.Scheduler == "sh" || o.config.Scheduler == "mh" {
		// Their hash may name an endpoint that is to get nothing new.
		o.config.SchedFlags |= ipvs.SchedFallback
	}
	if _, ok := notes[hairpinAnnotation]; ok {
		o.hairpin = true
	}
	_, o.skipLoadBalancerIPs = notes[skipAnnotation]
	if notes[localAnnotation] == "true" {
		o.internalLocal, o.externalLocal = false, true
	}
	return o
}

func (b *compilation) scheduler() string {
	name, ok := b.service.Annotations[schedulerAnnotation]
	if !ok || slices.Contains(schedulers[:], name) {
		if ok {
			return name
		}
		return b.compiler.config.Scheduler
	}
	b.badAnnotation(schedulerAnnotation, "UnknownScheduler", fmt.Sprintf("is not one of %s; %s is used",
		strings.Join(schedulers[:], ", "), b.compiler.config.Scheduler))
	return b.compiler.config.Scheduler
}

// schedulerFlags reads the flags of sh and mh, which give them their meaning:
// the first is to fall back to another server where the chosen one is not
// available, the second to take the client's port in.
func (b *compilation) schedulerFlags(scheduler string) ipvs.SchedFlags {
	text, ok := b.service.Annotations[flagsAnnotation]
	if !ok {
		return 0
	}
	if scheduler != "mh" && scheduler != "sh" {
		b.badAnnotation(flagsAnnotation, "FlagsIgnored", fmt.Sprintf("is ignored: scheduler %s has no flags, mh and sh have", scheduler))
		return 0
	}
	var flags ipvs.SchedFlags
	for name := range strings.SplitSeq(text, ",") {
		i := slices.Index([]string{"flag-1", "flag-2", "flag-3"}, strings.TrimSpace(name))
		if i < 0 {
			b.badAnnotation(flagsAnnotation, "UnknownFlag", "is ignored: allowed are flag-1, flag-2 and flag-3 with commas between")
			return 0
		}
		flags |= 1 << i
	}
	return flags
}

// dsr says that the Service wants direct server return.
func (b *compilation) dsr() bool {
	switch mode, ok := b.service.Annotations[dsrAnnotation]; {
	case !ok:
		return b.compiler.config.DSR
	case mode == "tunnel":
		return true
	case mode == "none":
		return false
	}
	b.badAnnotation(dsrAnnotation, "UnknownMode", "is ignored: allowed are tunnel, and none where the flag --service-proxy-dsr is set")
	return b.compiler.config.DSR
}

func (b *compilation) badAnnotation(name, reason, what string) {
	b.warn(reason, fmt.Sprintf("annotation %s: %q %s", name, b.service.Annotations[name], what))
}

// maxWeight is the largest weight of a real server: the kernel's schedulers
// multiply it with counts of connections.
const maxWeight = 65535

// readWeight reads a Node's annotation. The weight is 1 where there is none.
func readWeight(text string) (uint32, error) {
	if text == "" {
		return 1, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n < 1 || n > maxWeight {
		return 1, fmt.Errorf("annotation %s: %q is not a weight; allowed are 1 to %d; 1 is used", weightAnnotation, text, maxWeight)
	}
	return uint32(n), nil
}

// healthCheck counts the endpoints of this node that a load balancer may send
// to. An endpoint counts once, whatever number of ports and addresses it has:
// the family with the most of them counts.
func (b *compilation) healthCheck() {
	if b.service.HealthCheckNodePort == 0 || !b.options.externalLocal {
		return
	}
	local := map[inet.Family]map[netip.Addr]struct{}{inet.IPv4: {}, inet.IPv6: {}}
	for _, slice := range b.slices {
		for _, e := range slice.Endpoints {
			if e.Ready && e.Node == b.me.name && b.refuse(e.Addr) == "" {
				local[inet.FamilyOf(e.Addr)][e.Addr] = struct{}{}
			}
		}
	}
	most := 0
	for _, f := range b.compiler.config.Families {
		most = max(most, len(local[f]))
	}
	b.out.health = &health{port: b.service.HealthCheckNodePort, local: most}
}
