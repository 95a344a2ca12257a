package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
	"github.com/kube-router/kube-router/internal/kernel/nft"
)

// hints are chains that kubelet makes in the mangle table so that others see
// which variant the host uses (KEP-3178).
var hints = []string{":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "}

// Detect chooses the variant that the host uses already, as Kubernetes' own
// components do: the one with kubelet's hint, else the one with more rules,
// else nf_tables where the kernel has it.
func Detect(ctx context.Context) (Variant, error) { return newHost().detect(ctx) }

// Each look runs programs, so those that cannot change the answer are left out.
func (h host) detect(ctx context.Context) (Variant, error) {
	nft := h.look(ctx, NFT)
	switch {
	case errors.Is(nft.err, ErrHangs):
		return "", nft.err
	case nft.err != nil:
		return h.onlyLegacy(ctx, nft.err)
	case nft.hinted:
		return NFT, ctx.Err()
	}
	legacy := h.look(ctx, Legacy)
	if errors.Is(legacy.err, ErrHangs) {
		return "", legacy.err
	}
	if legacy.err == nil && (legacy.hinted || legacy.rules > nft.rules) {
		return Legacy, ctx.Err()
	}
	if nft.rules == 0 {
		if err := h.probe(ctx); errors.Is(err, ErrHangs) {
			return "", err
		} else if err != nil {
			return h.onlyLegacy(ctx, err)
		}
	}
	return NFT, ctx.Err()
}

// onlyLegacy is the answer where nf_tables cannot be used, and why not.
func (h host) onlyLegacy(ctx context.Context, why error) (Variant, error) {
	if err := h.see(ctx, inet.IPv4, Legacy, &sight{}); err != nil {
		return "", fmt.Errorf("neither variant of iptables can be used here: %w", errors.Join(why, err))
	}
	return Legacy, ctx.Err()
}

// probing makes a chain with a rule of an extension, and takes both away. Of
// a kernel that has nf_tables but no address family in it, or not the layer
// for iptables' extensions, nothing that only reads can tell.
const probing = `*filter
:KUBE-ROUTER-PROBE - [0:0]
-A KUBE-ROUTER-PROBE -m addrtype --dst-type LOCAL -j RETURN
-F KUBE-ROUTER-PROBE
-X KUBE-ROUTER-PROBE
COMMIT
`

// probe says why this kernel cannot take rules of the nf_tables variant. It is
// asked only where there are none yet.
func (h host) probe(ctx context.Context) error {
	path, err := h.tool(ctx, inet.IPv4, NFT, "restore")
	if err == nil {
		_, err = h.ask(ctx, probing, path, "--noflush")
	}
	return err
}

// sight is what a variant shows of the host.
type sight struct {
	hinted bool
	rules  int
	err    error // of IPv4: the variant cannot be used
}

func (h host) look(ctx context.Context, variant Variant) sight {
	var s sight
	s.err = h.see(ctx, inet.IPv4, variant, &s)
	if s.err == nil && !s.hinted {
		// A host need not have it.
		if err := h.see(ctx, inet.IPv6, variant, &s); errors.Is(err, ErrHangs) {
			s.err = err
		}
	}
	return s
}

// see adds what a variant shows in one family. Where the kernel says that there
// is no table, no program is run to be told that.
func (h host) see(ctx context.Context, family inet.Family, variant Variant, s *sight) error {
	path, err := h.tool(ctx, family, variant, "save")
	if err != nil || h.empty != nil && h.empty(family, variant) {
		return err
	}
	text, err := h.ask(ctx, "", path)
	if err != nil && variant == NFT && !errors.Is(err, ErrHangs) {
		if tables := h.readable(ctx, path); tables != "" {
			text, err = tables, nil
		}
	}
	s.count(text)
	return err
}

// readable are the tables that can be read one by one: what nftables has put
// into a single one may be beyond iptables, which says nothing of the host.
func (h host) readable(ctx context.Context, path string) string {
	var all strings.Builder
	for _, table := range Tables() {
		if text, err := h.ask(ctx, "", path, "-t", string(table)); err == nil {
			all.WriteString(text)
		}
	}
	return all.String()
}

// count reads the tables of one family.
func (s *sight) count(text string) {
	table := ""
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "*"):
			table = strings.TrimSpace(line[1:])
		case strings.HasPrefix(line, "-"):
			s.rules++
		case table == string(Mangle):
			for _, hint := range hints {
				s.hinted = s.hinted || strings.HasPrefix(line, hint)
			}
		}
	}
}

// noTable says that the kernel has no table of a variant and family. Where that
// cannot be told it says no.
func noTable(family inet.Family, variant Variant) bool {
	if variant == Legacy {
		names, err := os.ReadFile(loadedTables(family))
		return err == nil && len(strings.Fields(string(names))) == 0
	}
	tables, err := nft.List()
	return err == nil && !slices.ContainsFunc(tables, func(t nft.Table) bool { return t.Family == nftFamily(family) })
}

// nftFamily is an address family as nftables names it.
func nftFamily(family inet.Family) string {
	if family == inet.IPv6 {
		return "ip6"
	}
	return "ip"
}
