package former

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kube-router/kube-router/internal/kernel/nft"
)

// Tables are those in which earlier releases had the rules of policies where a
// flag asked for nftables. What a rule there drops is dropped, whatever
// iptables' chains say.
func Tables() []nft.Table {
	return []nft.Table{{Family: "ip", Name: "kube-router-filter-ipv4"}, {Family: "ip6", Name: "kube-router-filter-ipv6"}}
}

// SweepTables removes these tables and returns those that are gone.
func SweepTables(ctx context.Context, driver nft.Interface) (removed []string, err error) {
	there, err := driver.Tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the tables of nftables: %w", err)
	}
	var errs []error
	for _, table := range Tables() {
		if !slices.Contains(there, table) {
			continue
		}
		if err := driver.Delete(ctx, table); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, table.String())
	}
	return removed, errors.Join(errs...)
}
