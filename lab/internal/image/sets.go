package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/kube-router/kube-router/lab/internal/build"
	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/stamp"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

// Names of images that the lab itself refers to.
const (
	Product = "docker.io/cloudnativelabs/kube-router:latest"
	Pause   = "registry.k8s.io/pause:3.10.2"
	CoreDNS = "registry.k8s.io/coredns/coredns:v1.15.0"
)

// e2e is where Kubernetes' end-to-end tests take their images from; names and
// tags are those of test/utils/image/manifest.go in Kubernetes 1.36.3.
const e2e = "registry.k8s.io/e2e-test-images/"

// Names of the images that stand in for Kubernetes' test images.
var (
	agnhostNames = []string{e2e + "agnhost:2.63.0", e2e + "agnhost:2.55"}
	busyboxNames = []string{"docker.io/library/busybox:1.36", e2e + "busybox:1.37.0-1", e2e + "glibc-dns-testing:2.0.0"}
	nginxNames   = []string{"docker.io/library/nginx:alpine", e2e + "nginx:1.27-0", e2e + "nginx:1.15-4"}
)

const plugins = "github.com/containernetworking/plugins/plugins/"

// CNIPlugins are those that the product's image has, and their packages in the
// module lab/addons.
func CNIPlugins() map[string]string {
	return map[string]string{
		"bridge": plugins + "main/bridge", "host-local": plugins + "ipam/host-local",
		"loopback": plugins + "main/loopback", "portmap": plugins + "meta/portmap",
	}
}

// ProductFiles are what the product's image has besides Debian; bin is where a
// program is.
func ProductFiles(bin func(name string) string) []File {
	files := append(iptablesFiles(),
		File{From: bin("kube-router"), To: "/usr/local/bin/kube-router"},
		File{From: bin("gobgp"), To: "/usr/local/bin/gobgp"})
	for _, name := range slices.Sorted(maps.Keys(CNIPlugins())) {
		files = append(files, File{From: bin(name), To: "/opt/cni/bin/" + name})
	}
	return files
}

// ErrNoProduct says that there is no product to build an image of.
var ErrNoProduct = errors.New("cmd/kube-router does not exist in this checkout: there is no product to build an image of (lab up --router none works without)")

// ProductArchive builds the product's image and returns its archive.
func ProductArchive(ctx context.Context, ws workspace.Workspace, log *progress.Log) (string, error) {
	if _, err := os.Stat(ws.Source("cmd", "kube-router")); err != nil {
		return "", ErrNoProduct
	}
	if err := log.Step("building kube-router and gobgp", func() error { return buildProduct(ctx, ws) }); err != nil {
		return "", err
	}
	debian, err := debianRoots(ctx, ws, log)
	if err != nil {
		return "", err
	}
	files := ProductFiles(ws.Bin)
	return pack(ws, log, "kube-router", files, func(top Layer) []Image {
		return []Image{{
			Names: []string{Product}, Layers: []Layer{debian.base, top},
			Entrypoint: []string{"/usr/local/bin/kube-router"},
		}}
	}, debian.base)
}

// buildProduct leaves to the go command what is to be done: it knows the
// sources. VERSION is what the Makefile found, and what the agent will say.
func buildProduct(ctx context.Context, ws workspace.Workspace) error {
	stamp := "-s -w"
	if version := os.Getenv("VERSION"); version != "" {
		stamp += " -X main.version=" + version
	}
	for name, pkg := range map[string]string{
		"kube-router": "./cmd/kube-router",
		"gobgp":       "github.com/osrg/gobgp/v4/cmd/gobgp",
	} {
		if err := build.Go(ctx, ws.Root, "build", "-tags=grpcnotrace", "-ldflags="+stamp, "-o", ws.Bin(name), pkg); err != nil {
			return err
		}
	}
	return nil
}

// ClusterArchives builds what a cluster runs beside the product, and test
// images under the names that Kubernetes' tests and manuals use.
func ClusterArchives(ctx context.Context, ws workspace.Workspace, log *progress.Log) ([]string, error) {
	debian, err := debianRoots(ctx, ws, log)
	if err != nil {
		return nil, err
	}
	system, err := pack(ws, log, "coredns", []File{{From: ws.Bin("coredns"), To: "/coredns"}}, func(top Layer) []Image {
		return []Image{{Names: []string{CoreDNS}, Layers: []Layer{top}, Entrypoint: []string{"/coredns"}}}
	})
	if err != nil {
		return nil, err
	}
	pause, err := pack(ws, log, "pause", []File{{From: ws.Bin("pause"), To: "/pause"}}, func(top Layer) []Image {
		return []Image{{Names: []string{Pause}, Layers: []Layer{top}, Entrypoint: []string{"/pause"}}}
	})
	if err != nil {
		return nil, err
	}
	tests, err := pack(ws, log, "tests", []File{{From: ws.Bin("agnhost"), To: "/agnhost"}}, func(agnhost Layer) []Image {
		tools := []Layer{debian.base, debian.tests}
		return []Image{
			{Names: agnhostNames, Layers: append(tools[:2:2], agnhost), Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}},
			{Names: busyboxNames, Layers: tools, Cmd: []string{"sh"}},
			{Names: nginxNames, Layers: tools, Cmd: []string{"nginx", "-g", "daemon off;"}},
		}
	}, debian.base, debian.tests)
	return []string{pause, system, tests}, err
}

// pack writes the archive .lab/images/NAME.tar unless it is there with the
// same content; files become its own layer, below is what that stands on.
func pack(ws workspace.Workspace, log *progress.Log, name string, files []File, images func(Layer) []Image, below ...Layer) (string, error) {
	archive := ws.Path("images", name+".tar")
	sum := new(stamp.Sum).Text(path)
	for _, img := range images(Layer{}) {
		sum.Text(img.Names...).Text(img.Entrypoint...).Text(img.Cmd...)
	}
	for _, f := range files {
		sum.Text(f.To, f.Text)
		if f.From != "" {
			sum.File(f.From)
		}
	}
	for _, l := range below {
		sum.Text(l.Digest)
	}
	key, err := sum.Key()
	if err != nil {
		return "", fmt.Errorf("%w (run lab build first)", err)
	}
	file := ws.Path("stamps", "image-"+name)
	if stamp.Fresh(file, key, archive) {
		return archive, nil
	}
	err = log.Step("packing images/"+name+".tar", func() error {
		layers := ws.Path("images", "layers")
		if err := os.MkdirAll(layers, 0o755); err != nil {
			return err
		}
		top, err := LayerOfFiles(filepath.Join(layers, name+"-top.tar"), files)
		if err != nil {
			return err
		}
		return WriteArchive(archive, runtime.GOARCH, images(top))
	})
	if err != nil {
		return "", err
	}
	return archive, stamp.Write(file, key)
}
