// Package modules builds kernel modules that Debian's guest kernel lacks.
package modules

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/kube-router/kube-router/lab/internal/debian"
	"github.com/kube-router/kube-router/lab/internal/guest"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/stamp"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

//go:embed build.sh
var script string

// kernelConfig is what Debian built the guest kernel with.
const kernelConfig = "/usr/share/doc/user-mode-linux/config.gz"

// Ensure builds the tree of modules that guests of this workspace use from then
// on, if there is none for the kernel that is installed.
func Ensure(ctx context.Context, ws workspace.Workspace, log *progress.Log) error {
	packages := append([]string{"make", "gcc", "libc6-dev", "flex", "bison", "bc", "xz-utils"}, debian.Guest...)
	if err := debian.Ensure(ctx, log, packages); err != nil {
		return err
	}
	release, err := guest.KernelRelease()
	if err != nil {
		return err
	}
	key, err := new(stamp.Sum).Text(script, release).File(kernelConfig).Key()
	if err != nil {
		return err
	}
	tree, mark := ws.Path("guest"), ws.Path("stamps", "modules")
	if stamp.Fresh(mark, key, filepath.Join(tree, "lib/modules", release, "modules.dep")) {
		return nil
	}
	err = log.Step("building modules for Linux "+release+" (downloads 140 MB of source)", func() error {
		return build(ctx, ws, release, tree)
	})
	if err != nil {
		return err
	}
	return stamp.Write(mark, key)
}

// build lets the tree appear complete, or not at all.
func build(ctx context.Context, ws workspace.Workspace, release, tree string) error {
	work := ws.Path("modules")
	defer os.RemoveAll(work)
	if err := errors.Join(os.RemoveAll(work), os.RemoveAll(tree), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	fresh := filepath.Join(work, "tree")
	cmd := exec.CommandContext(ctx, "sh", "-euc", script, "build.sh", release, fresh)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the modules: %w\n%s", err, out)
	}
	return os.Rename(fresh, tree)
}
