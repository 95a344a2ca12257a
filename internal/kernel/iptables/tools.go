package iptables

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/kube-router/kube-router/internal/inet"
)

// Variant is which of the kernel's two packet filters iptables drives. Rules
// of both apply to each packet; mixing them is how rules get lost.
type Variant string

// The variants, as "iptables --version" names them.
const (
	Legacy Variant = "legacy"
	NFT    Variant = "nf_tables"
)

// ErrTool is returned where a program of iptables is missing.
var ErrTool = errors.New("install Debian's package iptables")

// exitDelay is how long a program that was cancelled may take to end.
const exitDelay = 2 * time.Second

// ErrHangs is returned where a program that only looks did not end in time.
var ErrHangs = errors.New("it did not end")

// askTime is how long such a program may take. Where there are very many rules
// it is seconds.
const askTime = time.Minute

// host is where the programs are.
type host struct {
	dirs    []string      // searched after $PATH, which a container may not have
	askTime time.Duration // 0: the constant
	// empty says that the kernel has no table; nil where only programs tell.
	empty func(inet.Family, Variant) bool
}

func newHost() host {
	return host{dirs: []string{"/usr/sbin", "/sbin", "/usr/local/sbin"}, empty: noTable}
}

// ask runs a program that tells of the host. One that hangs is ended, and its
// error is ErrHangs: it has told nothing, for or against its variant.
func (h host) ask(ctx context.Context, input, path string, args ...string) (string, error) {
	most := cmp.Or(h.askTime, askTime)
	bounded, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	out, err := run(bounded, input, path, args...)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = &toolError{filepath.Base(path), "", fmt.Errorf("%w within %s", ErrHangs, most)}
	}
	return out, err
}

// find is the path of a program, or "".
func (h host) find(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range h.dirs {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// tool is the path of iptables' program ("save" or "restore") of a variant:
// iptables-nft-save, or iptables-save where that is of this variant.
func (h host) tool(ctx context.Context, family inet.Family, variant Variant, program string) (string, error) {
	name := command(family) + "-" + variant.infix() + "-" + program
	if path := h.find(name); path != "" {
		return path, nil
	}
	plain := command(family) + "-" + program
	if path := h.find(plain); path != "" {
		switch has, err := h.variantOf(ctx, path); {
		case err != nil:
			return "", err
		case has == variant:
			return path, nil
		}
	}
	return "", fmt.Errorf("neither %s nor a %s of variant %s was found: %w", name, plain, variant, ErrTool)
}

func command(family inet.Family) string {
	if family == inet.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

func (v Variant) infix() string {
	if v == NFT {
		return "nft"
	}
	return "legacy"
}

// variantOf reads "iptables-save v1.8.9 (nf_tables)". Before 1.8 there was
// only what is called legacy now, and no word of it.
func (h host) variantOf(ctx context.Context, path string) (Variant, error) {
	out, err := h.ask(ctx, "", path, "--version")
	switch {
	case errors.Is(err, ErrHangs):
		return "", err
	case err == nil && strings.Contains(out, "("+string(NFT)+")"):
		return NFT, nil
	}
	return Legacy, nil
}

// toolError is what a program said when it failed.
type toolError struct {
	program string
	message string
	err     error
}

func (e *toolError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("%s: %v: %s", e.program, e.err, e.message), ": ")
}

func (e *toolError) Unwrap() error { return e.err }

// run runs a program in the network namespace of the calling thread and
// returns what it prints.
func run(ctx context.Context, input, path string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
	cmd.WaitDelay = exitDelay
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.String(), &toolError{filepath.Base(path), firstLines(complaint.String()), err}
	}
	return out.String(), nil
}

// firstLines is a complaint in one line, without the advice to ask for --help.
func firstLines(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Try `") && !strings.HasPrefix(line, "# Warning:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "; ")
}
