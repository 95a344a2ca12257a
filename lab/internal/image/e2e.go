package image

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// CheckE2E compares the names of the lab's test images with those that
// Kubernetes' end-to-end tests use. No node can pull an image: after an update
// of Kubernetes, a name that differs would show only as pods that never start.
func CheckE2E(ctx context.Context, ws workspace.Workspace) error {
	out, err := exec.CommandContext(ctx, ws.Bin("e2e.test"), "--list-images").Output()
	if err != nil {
		return fmt.Errorf("e2e.test --list-images: %w", err)
	}
	if lacking := notListed(strings.Fields(string(out))); len(lacking) > 0 {
		return fmt.Errorf("the end-to-end tests have no use for %s: give the images in lab/internal/image/sets.go the names that .lab/bin/e2e.test --list-images prints", strings.Join(lacking, " "))
	}
	return nil
}

// notListed returns the names of ours that the tests do not use.
func notListed(used []string) []string {
	var lacking []string
	for _, name := range slices.Concat([]string{Pause}, agnhostNames, busyboxNames, nginxNames) {
		if strings.HasPrefix(name, "registry.k8s.io/") && !slices.Contains(used, name) {
			lacking = append(lacking, name)
		}
	}
	return lacking
}
