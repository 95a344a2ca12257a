// Package release builds what users download: programs and images for each
// architecture, what is in them (SBOMs), and checksums. The same sources give
// the same bytes; of images, as long as Debian has the same packages.
package release

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kube-router/kube-router/lab/internal/debian"
	"github.com/kube-router/kube-router/lab/internal/image"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/stamp"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// Options say what is built.
type Options struct {
	// Architectures are names of Platforms.
	Architectures []string
	// Version is stamped into programs and images.
	Version string
	// Time is the only date in what is built: that of the commit.
	Time time.Time
	// Out is the directory that gets the files. It is made, or is empty, or has
	// an earlier release, whose files go.
	Out string
}

// Platform is an architecture, as Go, Debian and container runtimes call it.
type Platform struct {
	Name    string // in names of files
	Env     []string
	Debian  string
	Arch    string // of the image
	Variant string // of the image, if any
}

// Platforms are those that can be built for.
func Platforms() []Platform {
	return []Platform{
		{Name: "amd64", Env: []string{"GOARCH=amd64", "GOAMD64=v1"}, Debian: "amd64", Arch: "amd64"},
		{Name: "arm64", Env: []string{"GOARCH=arm64", "GOARM64=v8.0"}, Debian: "arm64", Arch: "arm64"},
		{Name: "arm", Env: []string{"GOARCH=arm", "GOARM=7"}, Debian: "armhf", Arch: "arm", Variant: "v7"},
	}
}

// run is one release being built.
type run struct {
	Options
	ws   workspace.Workspace
	log  *progress.Log
	work string // programs that go into images only
}

// Run builds a release. It builds all programs before the first image, and
// goes on after an image that cannot be built: the error names them all.
func Run(ctx context.Context, ws workspace.Workspace, log *progress.Log, o Options) error {
	platforms, err := choose(o.Architectures)
	if err != nil {
		return err
	}
	if err := clearOut(o.Out); err != nil {
		return err
	}
	if err := debian.Ensure(ctx, log, []string{"mmdebstrap"}); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "kube-router-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r := run{Options: o, ws: ws, log: log, work: work}
	for _, p := range platforms {
		if err := log.Step("building programs for "+p.Name, func() error { return r.programs(ctx, p) }); err != nil {
			return err
		}
	}
	var failed []string
	for _, p := range platforms {
		if err := log.Step("building the image for "+p.Name, func() error { return r.image(ctx, p) }); err != nil {
			if ctx.Err() != nil {
				return err
			}
			log.Printf("%v", err)
			failed = append(failed, p.Name)
		}
	}
	if err := writeSums(o.Out); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("there is no image for %s; everything else is in %s", strings.Join(failed, ", "), o.Out)
	}
	return nil
}

// clearOut makes an empty directory of dir. It removes nothing where something
// is that no release has: dir may be the checkout, or somebody's home.
func clearOut(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !released(e.Name()) {
			return fmt.Errorf("--out: %s is in %s, and of no release: nothing is removed there; name a directory that is empty, or has a release", e.Name(), dir)
		}
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// sums is the file of checksums.
const sums = "SHA256SUMS"

// released says whether a file has a name of a release's.
func released(name string) bool {
	return name == sums || strings.HasPrefix(name, "kube-router-") && strings.Contains(name, "-linux-")
}

func choose(names []string) ([]Platform, error) {
	var chosen []Platform
	for _, name := range names {
		i := slices.IndexFunc(Platforms(), func(p Platform) bool { return p.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("no release is built for %q: there are amd64, arm64 and arm", name)
		}
		chosen = append(chosen, Platforms()[i])
	}
	return chosen, nil
}

// file is the path of a file of the release.
func (r run) file(p Platform, suffix string) string {
	return filepath.Join(r.Out, "kube-router-"+r.Version+"-linux-"+p.Name+suffix)
}

// bin is a program that only the image has.
func (r run) bin(p Platform, name string) string { return filepath.Join(r.work, p.Name, name) }

// programs builds all programs of a platform, and the SBOM of the product's.
func (r run) programs(ctx context.Context, p Platform) error {
	product := r.file(p, "")
	if err := BuildProduct(ctx, r.ws.Root, p, r.Version, product); err != nil {
		return err
	}
	if err := goBuild(ctx, r.ws.Root, p, nil, "", r.bin(p, "gobgp"), "github.com/osrg/gobgp/v4/cmd/gobgp"); err != nil {
		return err
	}
	for name, pkg := range image.CNIPlugins() {
		if err := goBuild(ctx, r.ws.Source("lab", "addons"), p, nil, "", r.bin(p, name), pkg); err != nil {
			return err
		}
	}
	parts, err := modulesOf(product)
	if err != nil {
		return err
	}
	return r.writeSBOM(product, "APPLICATION", parts)
}

// image builds the image of a platform and its SBOM.
func (r run) image(ctx context.Context, p Platform) error {
	debian, packages, err := r.debianLayer(ctx, p)
	if err != nil {
		return err
	}
	programs := map[string]string{"kube-router": r.file(p, ""), "gobgp": r.bin(p, "gobgp")}
	parts := packages
	for name := range image.CNIPlugins() {
		programs[name] = r.bin(p, name)
	}
	for _, path := range programs {
		modules, err := modulesOf(path)
		if err != nil {
			return err
		}
		parts = append(parts, modules...)
	}
	top, err := image.LayerOfFiles(filepath.Join(r.work, p.Name+"-top.tar"), image.ProductFiles(func(name string) string { return programs[name] }))
	if err != nil {
		return err
	}
	archive := r.file(p, "-image.tar")
	if err := writeOCI(archive, ociImage{
		Names: []string{repository + ":" + r.Version, image.Product}, Platform: p, Version: r.Version, Time: r.Time,
		Layers: []string{debian.Path, top.Path}, Entrypoint: []string{"/usr/local/bin/kube-router"},
	}); err != nil {
		return err
	}
	return r.writeSBOM(archive, "CONTAINER", parts)
}

// repository is the image's name without its tag.
const repository = "docker.io/cloudnativelabs/kube-router"

// writeSums writes the checksums, which sha256sum -c reads.
func writeSums(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, e := range entries {
		digest, err := stamp.FileDigest(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s  %s\n", digest, e.Name())
	}
	return os.WriteFile(filepath.Join(dir, sums), []byte(b.String()), 0o644)
}
