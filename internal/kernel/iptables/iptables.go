// Package iptables drives the kernel's packet filter through iptables-save and
// iptables-restore --noflush, in the variant (legacy or nf_tables) that the
// host already uses.
//
// Rules are text in the canonical form of iptables-save, without "-A CHAIN".
// What is written is therefore what is read back, and a restart can tell at a
// glance that nothing has to change.
package iptables

import "context"

// Table is one of iptables' tables.
type Table string

// The tables in use.
const (
	Filter Table = "filter"
	NAT    Table = "nat"
	Mangle Table = "mangle"
)

// Section is all that one owner wants in one address family. A Section is a
// whole: chains of the owner that it does not name are removed.
type Section struct {
	// Owner names the Section: the controller it belongs to.
	Owner string
	// Prefixes are what the owner's chain names begin with. A chain of such a
	// name is the owner's, whoever made it; no other chain is ever changed.
	Prefixes []string
	Tables   map[Table]Content

	// claims says which other chains are the owner's, for removals; nil is none.
	claims func(chain string) bool
}

// Content is what a Section wants in one table.
type Content struct {
	// Chains holds the rules of each of the owner's chains, in order.
	Chains map[string][]string
	// Jumps are the rules in built-in chains.
	Jumps []Jump
}

// Jump is a rule in a built-in chain that leads to one of the owner's chains.
// All Jumps, of all owners, stand at the head of their built-in chain in the
// order of Rank.
type Jump struct {
	Chain string // built-in chain: "FORWARD"
	Rank  int
	Rule  string // "-j KUBE-ROUTER-FORWARD", with matches before it if need be
}

// Ranks of the controllers' Jumps: traffic to a Service's address is let
// through before policies are asked, and pod traffic is accepted after.
const (
	RankServices = 10
	RankPolicy   = 20
	RankRoutes   = 30
)

// AllTables asks for all tables in the place of one.
const AllTables Table = ""

// Interface is iptables in one address family and network namespace.
type Interface interface {
	// Save returns the table as iptables-save prints it, without counters;
	// those of AllTables one after the other, as far as the kernel has them.
	Save(ctx context.Context, table Table) (string, error)
	// Restore applies input, in the form of iptables-restore --noflush, as
	// one transaction a table. On error nothing of a failing table changed.
	Restore(ctx context.Context, input string) error
	// Counters calls fn with each rule of the table, in the order of Save, and
	// how many packets it has matched since it was made.
	Counters(ctx context.Context, table Table, fn func(chain, rule string, packets uint64)) error
}
