package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// hints are chains that kubelet makes in the mangle table so that others see
// which variant the host uses (KEP-3178).
var hints = []string{":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY "}

// Detect chooses the variant that the host uses already, as Kubernetes' own
// components do: the one with kubelet's hint, else the one with more rules,
// else nf_tables where the kernel has it.
func Detect(ctx context.Context) (Variant, error) { return newHost().detect(ctx) }

func (h host) detect(ctx context.Context) (Variant, error) {
	nft, legacy := h.look(ctx, NFT), h.look(ctx, Legacy)
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if nft.err == nil && !nft.hinted && nft.rules == 0 {
		nft.err = h.probe(ctx)
	}
	switch {
	case nft.err != nil && legacy.err != nil:
		return "", fmt.Errorf("neither variant of iptables can be used here: %w", errors.Join(nft.err, legacy.err))
	case nft.err != nil:
		return Legacy, nil
	case legacy.err != nil, nft.hinted:
		return NFT, nil
	case legacy.hinted, legacy.rules > nft.rules:
		return Legacy, nil
	}
	return NFT, nil
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
		_, err = run(ctx, probing, path, "--noflush")
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
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		path, err := h.tool(ctx, family, variant, "save")
		var text string
		if err == nil {
			text, err = run(ctx, "", path)
		}
		if err != nil {
			if family == inet.IPv4 {
				s.err = err
			}
			continue
		}
		s.count(text)
	}
	return s
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
