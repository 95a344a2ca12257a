package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kube-router/kube-router/internal/kernel/ipset"
	"github.com/kube-router/kube-router/internal/kernel/iptables"
)

// operations is what was asked of the kernel.
type operations struct {
	// Sets counts entries added and deleted, and sets created, destroyed and
	// swapped.
	Sets int `json:"setOperations"`
	// Rules counts the rules that were written, and those that were deleted one
	// by one. Unchanged of them stood in the same chain before.
	Rules     int `json:"ruleOperations"`
	Unchanged int `json:"unchangedRules"`
	// Restores counts the runs of iptables-restore, Restoring is their time.
	Restores  int           `json:"restores"`
	Restoring time.Duration `json:"restoringNanoseconds"`
}

func (o operations) minus(before operations) operations {
	return operations{
		Sets: o.Sets - before.Sets, Rules: o.Rules - before.Rules, Unchanged: o.Unchanged - before.Unchanged,
		Restores: o.Restores - before.Restores, Restoring: o.Restoring - before.Restoring,
	}
}

// counter counts the operations of the drivers that it wraps.
type counter struct {
	mu    sync.Mutex
	total operations
}

func (c *counter) now() operations {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

func (c *counter) add(o operations) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total.Sets += o.Sets
	c.total.Rules += o.Rules
	c.total.Unchanged += o.Unchanged
	c.total.Restores += o.Restores
	c.total.Restoring += o.Restoring
}

// countedSets are IP sets whose operations are counted.
type countedSets struct {
	ipset.Interface
	counter *counter
}

func (s countedSets) Apply(changes []ipset.Change) []error {
	s.counter.add(operations{Sets: len(changes)})
	return s.Interface.Apply(changes)
}

// countedRules are iptables whose operations are counted.
type countedRules struct {
	iptables.Interface
	counter *counter
	// chains are the rules of each chain of a table, as the inputs left them.
	chains map[string][]string
}

func (r *countedRules) Restore(ctx context.Context, input string) error {
	began := time.Now()
	err := r.Interface.Restore(ctx, input)
	took := time.Since(began)
	o := follow(r.chains, input)
	o.Restores, o.Restoring = 1, took
	r.counter.add(o)
	return err
}

// follow applies input of iptables-restore --noflush to chains, and counts the
// rules in it.
func follow(chains map[string][]string, input string) operations {
	var o operations
	old := map[string][]string{} // of the chains that the input empties
	table := ""
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name + " "
			continue
		}
		if rest, ok := strings.CutPrefix(line, ":"); ok {
			name, _, _ := strings.Cut(rest, " ")
			old[table+name] = chains[table+name]
			chains[table+name] = nil
			continue
		}
		command, rest, _ := strings.Cut(line, " ")
		chain, rule, _ := strings.Cut(rest, " ")
		chain = table + chain
		switch command {
		case "-X":
			delete(chains, chain)
			delete(old, chain)
		case "-A", "-I", "-R", "-D":
			o.Rules++
			if edit(chains, chain, command, rule) || command == "-A" && take(old, chain, rule) {
				o.Unchanged++
			}
		}
	}
	return o
}

// edit changes one rule of a chain. It says whether the rule was replaced by
// itself.
func edit(chains map[string][]string, chain, command, rule string) bool {
	rules, at := chains[chain], 0
	if command != "-A" {
		number, rest, _ := strings.Cut(rule, " ")
		if n, err := strconv.Atoi(number); err == nil {
			at, rule = n-1, rest
		} else if command == "-D" {
			at = slices.Index(rules, rule)
		}
		if at < 0 || at > len(rules) || at == len(rules) && command != "-I" {
			return false // the kernel refuses it
		}
	}
	switch command {
	case "-A":
		chains[chain] = append(rules, rule)
	case "-I":
		chains[chain] = slices.Insert(rules, at, rule)
	case "-D":
		chains[chain] = slices.Delete(rules, at, at+1)
	case "-R":
		same := rules[at] == rule
		rules[at] = rule
		return same
	}
	return false
}

// take removes a rule of a chain, if it is there.
func take(chains map[string][]string, chain, rule string) bool {
	at := slices.Index(chains[chain], rule)
	if at < 0 {
		return false
	}
	chains[chain] = slices.Delete(chains[chain], at, at+1)
	return true
}
