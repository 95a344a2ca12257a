package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kube-router/kube-router/internal/inet"
)

// lockWait is how long iptables-restore waits for the lock that the programs
// of the legacy variant share, in seconds; lockTries how often it is run.
const (
	lockWait  = 5
	lockTries = 3
)

// ErrLocked is returned by Restore where another program held the lock of
// iptables all the time.
var ErrLocked = errors.New("another program holds the lock of iptables")

// Kernel is iptables of one family and variant in the network namespace of
// the calling thread.
type Kernel struct {
	save, restore string // paths
	// loaded lists the tables that the kernel has for the legacy variant, ""
	// for nf_tables.
	loaded string
	wait   int
	// empty says that the kernel has no table of the family and variant; nil
	// where only the program tells.
	empty func() bool
}

// Open returns the driver for a family and variant (see Detect). A missing
// program is an error that names it.
func Open(ctx context.Context, family inet.Family, variant Variant) (*Kernel, error) {
	return newHost().open(ctx, family, variant)
}

func (h host) open(ctx context.Context, family inet.Family, variant Variant) (*Kernel, error) {
	k := &Kernel{wait: lockWait}
	var err, err2 error
	k.save, err = h.tool(ctx, family, variant, "save")
	k.restore, err2 = h.tool(ctx, family, variant, "restore")
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	switch {
	case variant == Legacy:
		k.loaded = loadedTables(family)
	case h.empty != nil:
		k.empty = func() bool { return h.empty(family, variant) }
	}
	return k, nil
}

// loadedTables is the file that lists the legacy variant's tables, those of
// this thread's network namespace.
func loadedTables(family inet.Family) string {
	if family == inet.IPv6 {
		return "/proc/thread-self/net/ip6_tables_names"
	}
	return "/proc/thread-self/net/ip_tables_names"
}

// Save implements Interface.
func (k *Kernel) Save(ctx context.Context, table Table) (string, error) {
	if !k.isLoaded(table) {
		// Asking for it would load it, hooks and connection tracking included.
		return "", nil
	}
	if table == AllTables && k.empty != nil && k.empty() {
		return "", nil // and no program is run
	}
	if table == AllTables {
		return run(ctx, "", k.save)
	}
	return run(ctx, "", k.save, "-t", string(table))
}

// Counters implements Interface.
func (k *Kernel) Counters(ctx context.Context, table Table, fn func(chain, rule string, packets uint64)) error {
	if !k.isLoaded(table) {
		return nil
	}
	text, err := run(ctx, "", k.save, "-c", "-t", string(table))
	if err != nil {
		return err
	}
	return parseCounters(text, table, fn)
}

// isLoaded says whether a legacy table exists, or any. Where that cannot be
// known it says yes.
func (k *Kernel) isLoaded(table Table) bool {
	if k.loaded == "" {
		return true
	}
	names, err := os.ReadFile(k.loaded)
	loaded := strings.Fields(string(names))
	return err != nil || slices.Contains(loaded, string(table)) || table == AllTables && len(loaded) > 0
}

// Restore implements Interface. It waits up to 15 seconds for the lock that
// other programs may hold.
func (k *Kernel) Restore(ctx context.Context, input string) error {
	var err error
	for range lockTries {
		_, err = run(ctx, input, k.restore, "--noflush", "-w", strconv.Itoa(k.wait))
		if err == nil {
			return nil
		}
		if !lockHeld(err) || ctx.Err() != nil {
			return withLine(err, input)
		}
	}
	return fmt.Errorf("%w: %w", ErrLocked, err)
}

func lockHeld(err error) bool {
	var e *toolError
	return errors.As(err, &e) && strings.Contains(e.message, "holding the xtables lock")
}

// lineNumber finds the line that iptables-restore complains of: "Error
// occurred at line: 4", "line 4 failed", "line 4: CHAIN_DEL failed".
var lineNumber = regexp.MustCompile(`line:? (\d+)`)

// withLine adds the line of the input that an error speaks of. Where that is
// COMMIT, the kernel refused the table as a whole.
func withLine(err error, input string) error {
	var e *toolError
	if !errors.As(err, &e) {
		return err
	}
	match := lineNumber.FindStringSubmatch(e.message)
	if match == nil {
		return err
	}
	number, convErr := strconv.Atoi(match[1])
	lines := strings.Split(input, "\n")
	if convErr != nil || number < 1 || number > len(lines) {
		return err
	}
	return fmt.Errorf("%w (the input's line %d is %q)", err, number, lines[number-1])
}
