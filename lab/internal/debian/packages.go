// Package debian makes sure that the Debian packages the lab needs are there.
package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/xstate"
)

// Guest lists what a guest for a single program needs.
var Guest = append(xstate.Packages(), "user-mode-linux", "kmod", "iproute2", "iptables", "ipset", "ipvsadm", "conntrack", "iputils-ping")

// Image lists what building images needs.
var Image = []string{"debootstrap", "containerd"}

// Cluster lists what the cluster's nodes need. crun, because Debian 12's runc
// cannot exec in a User-Mode Linux guest.
var Cluster = append([]string{"containerd", "crun"}, Guest...)

// Missing returns those packages that are not installed.
func Missing(packages []string) ([]string, error) {
	args := append([]string{"-W", "-f", "${db:Status-Status} ${Package}\n"}, packages...)
	// dpkg-query fails when it does not know one of them: that one is missing.
	out, err := exec.Command("dpkg-query", args...).Output()
	if _, failed := err.(*exec.ExitError); err != nil && !failed {
		return nil, fmt.Errorf("the lab installs Debian packages, but dpkg-query cannot run: %w", err)
	}
	return missing(packages, string(out)), nil
}

func missing(packages []string, query string) []string {
	installed := map[string]bool{}
	for _, line := range strings.Split(query, "\n") {
		if name, ok := strings.CutPrefix(line, "installed "); ok {
			installed[name] = true
		}
	}
	var out []string
	for _, p := range packages {
		if !installed[p] {
			out = append(out, p)
			installed[p] = true // name it once
		}
	}
	return out
}

// Require names what is missing, where installing it would be out of place.
func Require(packages []string) error {
	lacking, err := Missing(packages)
	if err == nil && len(lacking) > 0 {
		err = fmt.Errorf("packages are missing: run apt-get install %s", strings.Join(lacking, " "))
	}
	return err
}

// Ensure installs what is missing, after naming it.
func Ensure(ctx context.Context, log *progress.Log, packages []string) error {
	lacking, err := Missing(packages)
	if err != nil || len(lacking) == 0 {
		return err
	}
	names := strings.Join(lacking, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("packages are missing: as root, run apt-get install %s", names)
	}
	return log.Step("installing Debian packages: "+names, func() error {
		if err := apt(ctx, "update", "-q"); err != nil {
			return err
		}
		return apt(ctx, append([]string{"install", "-q", "-y", "--no-install-recommends"}, lacking...)...)
	})
}

// policy is asked by packages whether their services may start.
const policy = "/usr/sbin/policy-rc.d"

// apt installs packages without starting their services: the lab starts what it
// needs itself.
func apt(ctx context.Context, args ...string) error {
	if _, err := os.Lstat(policy); os.IsNotExist(err) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer os.Remove(policy)
	}
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
