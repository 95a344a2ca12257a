package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kube-router/kube-router/lab/internal/progress"
	"github.com/kube-router/kube-router/lab/internal/stamp"
	"github.com/kube-router/kube-router/lab/internal/workspace"
)

const debianRelease = "bookworm"

// productPackages are what the product's image has of Debian.
var productPackages = []string{"ipvsadm", "iptables", "nftables", "ipset", "iproute2", "conntrack", "kmod"}

// testPackages are added to that for test images. wget, because Debian's
// busybox has one without --timeout, and a static busybox crashes in a
// User-Mode Linux guest when it uses the network.
var testPackages = []string{
	"busybox", "wget", "curl", "nginx-light", "bind9-dnsutils", "netcat-openbsd", "iputils-ping", "iperf3", "procps",
}

// testSetup gives test images what their originals have: every busybox
// applet, one attempt a download, and a web server that logs to its output.
const testSetup = `
for a in $(busybox --list); do command -v "$a" >/dev/null || ln -s /bin/busybox "/usr/local/bin/$a"; done
echo 'tries = 1' >> /etc/wgetrc
ln -sf /dev/stdout /var/log/nginx/access.log
ln -sf /dev/stderr /var/log/nginx/error.log
`

// debianLayers are the layers that come from Debian: one for all images, and
// one more for test images.
type debianLayers struct {
	base, tests Layer
}

// debianRoots returns Debian's layers, and makes them if they are not there
// yet. They do not depend on the product: they are made once.
func debianRoots(ctx context.Context, ws workspace.Workspace, log *progress.Log) (debianLayers, error) {
	dir := ws.Path("images", "layers")
	base, tests := filepath.Join(dir, "debian.tar"), filepath.Join(dir, "debian-tests.tar")
	key, err := new(stamp.Sum).Text(debianRelease, testSetup).Text(productPackages...).Text(testPackages...).Key()
	if err != nil {
		return debianLayers{}, err
	}
	file := ws.Path("stamps", "image-debian")
	if !stamp.Fresh(file, key, base, tests) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return debianLayers{}, err
		}
		if err := makeDebianRoots(ctx, log, base, tests); err != nil {
			return debianLayers{}, err
		}
		if err := stamp.Write(file, key); err != nil {
			return debianLayers{}, err
		}
	}
	b, err := OpenLayer(base)
	if err != nil {
		return debianLayers{}, err
	}
	t, err := OpenLayer(tests)
	return debianLayers{base: b, tests: t}, err
}

func makeDebianRoots(ctx context.Context, log *progress.Log, base, tests string) error {
	root, err := os.MkdirTemp(filepath.Dir(base), "root-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	err = log.Step("installing Debian "+debianRelease+" for the images (debootstrap, once)", func() error {
		if err := run(ctx, "debootstrap", "--variant=minbase", "--include="+strings.Join(productPackages, ","), debianRelease, root); err != nil {
			return fmt.Errorf("%w\nit needs root and a Debian mirror", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return log.Step("installing the tools of the test images", func() error {
		before, err := packBase(root, base)
		if err != nil {
			return err
		}
		return addTests(ctx, root, tests, before)
	})
}

const aptLists = "var/lib/apt/lists"

// packBase packs the first layer. apt's lists stay out of it, and in the
// root: the second layer's packages are installed with them.
func packBase(root, base string) (snapshot, error) {
	if err := trim(root, unwanted); err != nil {
		return nil, err
	}
	skip, err := takeSnapshot(filepath.Join(root, aptLists))
	if err != nil {
		return nil, err
	}
	lists := snapshot{}
	for rel, print := range skip {
		lists[filepath.Join(aptLists, rel)] = print
	}
	if _, err := layerOfTree(base, root, lists); err != nil {
		return nil, err
	}
	return takeSnapshot(root)
}

// addTests installs the test packages and packs what that added.
func addTests(ctx context.Context, root, tests string, before snapshot) error {
	install := "apt-get install -q -y --no-install-recommends " + strings.Join(testPackages, " ")
	// The mirror's name must resolve, and no package may start a daemon.
	script := "export DEBIAN_FRONTEND=noninteractive; printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d\n" +
		install + "\nrm /usr/sbin/policy-rc.d\n" + testSetup
	if data, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		if err := os.WriteFile(filepath.Join(root, "etc/resolv.conf"), data, 0o644); err != nil {
			return err
		}
	}
	if err := run(ctx, "chroot", root, "/bin/sh", "-ec", script); err != nil {
		return err
	}
	if err := trim(root, append([]string{aptLists}, unwanted...)); err != nil {
		return err
	}
	_, err := layerOfTree(tests, root, before)
	return err
}

// unwanted is what nobody reads in an image.
var unwanted = []string{
	"var/cache/apt", "var/cache/debconf", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale",
	"usr/share/info", "usr/share/bash-completion", "usr/share/zoneinfo",
}

// trim empties directories; they themselves stay, with what programs expect
// to be a directory in them.
func trim(root string, dirs []string) error {
	for _, d := range dirs {
		entries, err := os.ReadDir(filepath.Join(root, d))
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() == "nginx" {
				continue
			}
			if err := os.RemoveAll(filepath.Join(root, d, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, lastLines(string(out), 20))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
