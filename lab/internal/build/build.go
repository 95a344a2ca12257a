// Package build compiles the programs of a cluster from Go modules.
package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/stamp"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// target is one program and where it comes from.
type target struct {
	name   string
	module string // directory below lab/ whose go.mod selects the versions
	pkg    string
	source string // file below the module that is part of it, if ours
	test   bool   // a test binary
}

var always = []target{
	{name: "etcd", pkg: "go.etcd.io/etcd/server/v3"},
	{name: "kube-apiserver", pkg: "k8s.io/kubernetes/cmd/kube-apiserver"},
	{name: "kube-controller-manager", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{name: "kube-scheduler", pkg: "k8s.io/kubernetes/cmd/kube-scheduler"},
	{name: "kubelet", pkg: "k8s.io/kubernetes/cmd/kubelet"},
	{name: "kubectl", pkg: "k8s.io/kubernetes/cmd/kubectl"},
	{name: "agnhost", pkg: "k8s.io/kubernetes/test/images/agnhost"},
	{name: "coredns", module: "addons", pkg: "./coredns", source: "coredns/main.go"},
	{name: "pause", module: "addons", pkg: "./pause", source: "pause/main.go"},
	{name: "bridge", module: "addons", pkg: "github.com/containernetworking/plugins/plugins/main/bridge"},
	{name: "host-local", module: "addons", pkg: "github.com/containernetworking/plugins/plugins/ipam/host-local"},
	{name: "loopback", module: "addons", pkg: "github.com/containernetworking/plugins/plugins/main/loopback"},
	{name: "portmap", module: "addons", pkg: "github.com/containernetworking/plugins/plugins/meta/portmap"},
}

// onDemand are programs that few need and that take long.
var onDemand = []target{
	{name: "kube-proxy", pkg: "k8s.io/kubernetes/cmd/kube-proxy"},
	{name: "e2e.test", pkg: "k8s.io/kubernetes/test/e2e", test: true},
}

// ldflags strips the programs, and gives Kubernetes' the version that its
// release process would: clients and tests go by it.
func (t target) ldflags(ws workspace.Workspace) (string, error) {
	if t.module != "" {
		return "-ldflags=-s -w", nil
	}
	data, err := os.ReadFile(filepath.Join(t.dir(ws), "go.mod"))
	if err != nil {
		return "", err
	}
	version, err := kubernetesVersion(string(data))
	if err != nil {
		return "", err
	}
	part := strings.Split(strings.TrimPrefix(version, "v"), ".")
	flags := "-ldflags=-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s", pkg, version, part[0], part[1])
	}
	return flags, nil
}

// kubernetesVersion reads the version of Kubernetes from a go.mod file.
func kubernetesVersion(mod string) (string, error) {
	for _, line := range strings.Split(mod, "\n") {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == "k8s.io/kubernetes" && strings.Count(f[1], ".") == 2 {
			return f[1], nil
		}
	}
	return "", errors.New("lab/go.mod names no version of k8s.io/kubernetes")
}

// Run builds all programs, and those on demand that are named in extra.
func Run(ctx context.Context, ws workspace.Workspace, log *progress.Log, extra []string) error {
	targets := always
	for _, name := range extra {
		t, err := demand(name)
		if err != nil {
			return err
		}
		targets = append(targets[:len(targets):len(targets)], t)
	}
	var stale []target
	for _, t := range targets {
		if key, err := t.key(ws); err != nil {
			return err
		} else if !stamp.Fresh(t.stampFile(ws), key, ws.Bin(t.name)) {
			stale = append(stale, t)
		}
	}
	for _, g := range groups(stale) {
		if err := log.Step("building "+g.String(), func() error { return g.build(ctx, ws) }); err != nil {
			return err
		}
	}
	return nil
}

// group are programs that one go command builds: it links one while it compiles
// another. A test binary is alone.
type group []target

func groups(targets []target) []group {
	var list []group
	for _, t := range targets {
		i := slices.IndexFunc(list, func(g group) bool { return g[0].module == t.module && !g[0].test && !t.test })
		if i < 0 {
			list, i = append(list, nil), len(list)
		}
		list[i] = append(list[i], t)
	}
	return list
}

// String is "etcd, kubelet and kubectl".
func (g group) String() string {
	last := len(g) - 1
	names := make([]string, len(g))
	for i, t := range g {
		names[i] = t.name
	}
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

func demand(name string) (target, error) {
	var names []string
	for _, t := range onDemand {
		if t.name == name {
			return t, nil
		}
		names = append(names, t.name)
	}
	return target{}, fmt.Errorf("unknown program %q: on demand there are %s", name, strings.Join(names, ", "))
}

func (t target) dir(ws workspace.Workspace) string { return ws.Source("lab", t.module) }

func (t target) stampFile(ws workspace.Workspace) string { return ws.Path("stamps", "build-"+t.name) }

// key covers what selects the sources; what is in them follows from go.sum.
func (t target) key(ws workspace.Workspace) (string, error) {
	flags, err := t.ldflags(ws)
	if err != nil {
		return "", err
	}
	sum := new(stamp.Sum).Text(t.pkg, flags)
	sum.File(filepath.Join(t.dir(ws), "go.mod"), filepath.Join(t.dir(ws), "go.sum"))
	if t.source != "" {
		sum.File(filepath.Join(t.dir(ws), t.source))
	}
	return sum.Key()
}

// build puts each program in its place once all of the group are there.
func (g group) build(ctx context.Context, ws workspace.Workspace) error {
	flags, err := g[0].ldflags(ws)
	if err != nil {
		return err
	}
	fresh := ws.Path("build")
	defer os.RemoveAll(fresh)
	if err := os.MkdirAll(fresh, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-buildvcs=false", flags, "-o", fresh + "/"}
	if g[0].test {
		args = []string{"test", "-c", flags, "-o", filepath.Join(fresh, g[0].program())}
	}
	for _, t := range g {
		args = append(args, t.pkg)
	}
	if err := Go(ctx, g[0].dir(ws), args...); err != nil {
		return fmt.Errorf("build %s: %w", g, err)
	}
	for _, t := range g {
		if err := t.install(ws, filepath.Join(fresh, t.program())); err != nil {
			return err
		}
	}
	return nil
}

// program is what the go command calls it: the last part of the path that is
// no version.
func (t target) program() string {
	if t.test {
		return t.name
	}
	if dir, last := path.Split(t.pkg); majorVersion.MatchString(last) {
		return path.Base(dir)
	}
	return path.Base(t.pkg)
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

func (t target) install(ws workspace.Workspace, program string) error {
	key, err := t.key(ws)
	if err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(ws.Bin(t.name)), 0o755), os.Rename(program, ws.Bin(t.name))); err != nil {
		return err
	}
	return stamp.Write(t.stampFile(ws), key)
}

// Go runs the go command in a module's directory, without cgo: the programs
// run in images with another C library, or none.
func Go(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
