package release

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// BuildProduct builds kube-router from the sources in a directory. The result
// depends on them, the version, the platform and the Go release, and on nothing
// else: not on where they are, on git, or on the time.
func BuildProduct(ctx context.Context, source string, p Platform, version, out string) error {
	return goBuild(ctx, source, p, []string{"-tags=grpcnotrace"}, " -X main.version="+version, out, "./cmd/kube-router")
}

func goBuild(ctx context.Context, dir string, p Platform, flags []string, ldflags, out, pkg string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w" + ldflags, "-o", out}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), append(p.Env, "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=", "GOEXPERIMENT=")...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s for %s: %w\n%s", pkg, p.Name, err, text)
	}
	return nil
}
