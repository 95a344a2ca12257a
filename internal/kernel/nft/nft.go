// Package nft lists tables of nftables, and removes them through the program
// nft(8). It is for what other programs left: kube-router has no tables of its own.
package nft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Table is a table by family ("ip", "ip6") and name.
type Table struct{ Family, Name string }

// String is the form of nft: "ip kube-proxy".
func (t Table) String() string { return t.Family + " " + t.Name }

// Interface is the tables of one network namespace.
type Interface interface {
	// Tables lists all tables.
	Tables(context.Context) ([]Table, error)
	// Delete removes a table with all that is in it, in one transaction.
	Delete(context.Context, Table) error
}

// Kernel is the tables of the calling thread's network namespace.
type Kernel struct{ program string }

// ErrNoProgram means that nft is not installed.
var ErrNoProgram = errors.New("the program nft is missing (package nftables)")

// Open returns the tables of this kernel. Without the program, it is
// ErrNoProgram.
func Open() (*Kernel, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	return &Kernel{path}, nil
}

// find looks for nft where a PATH without the directories for root ends, too.
func find() (string, error) {
	if path, err := exec.LookPath("nft"); err == nil {
		return path, nil
	}
	for _, path := range []string{"/usr/sbin/nft", "/sbin/nft"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", ErrNoProgram
}

// Tables implements Interface. A kernel without nftables has none.
func (k *Kernel) Tables(context.Context) ([]Table, error) {
	tables, err := List()
	if unsupported(err) {
		return nil, nil
	}
	return tables, err
}

// Delete implements Interface.
func (k *Kernel) Delete(ctx context.Context, t Table) error {
	_, err := k.run(ctx, "delete", "table", t.Family, t.Name)
	return err
}

// exitDelay is how long the program may take to end after its context has.
const exitDelay = 2 * time.Second

func (k *Kernel) run(ctx context.Context, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	command := exec.CommandContext(ctx, k.program, args...)
	command.Stdout, command.Stderr, command.WaitDelay = &out, &complaint, exitDelay
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		first, _, _ := strings.Cut(strings.TrimSpace(complaint.String()), "\n")
		return "", fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, first)
	}
	return out.String(), nil
}

// Fake is tables in memory.
type Fake struct{ All []Table }

// Tables implements Interface.
func (f *Fake) Tables(context.Context) ([]Table, error) { return slices.Clone(f.All), nil }

// Delete implements Interface.
func (f *Fake) Delete(_ context.Context, t Table) error {
	if !slices.Contains(f.All, t) {
		return fmt.Errorf("nft delete table %s: No such file or directory", t)
	}
	f.All = slices.DeleteFunc(f.All, func(other Table) bool { return other == t })
	return nil
}
