package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleTree is where Debian's user-mode-linux package keeps its modules.
const moduleTree = "/usr/lib/uml/modules"

// Path is a PATH that finds system tools whatever the caller's own PATH is.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// RunInit is the first process of a guest. It builds the guest's root,
// starts the agent and collects orphans until the host ends the guest.
// It returns only on failure.
func RunInit(channel string) error {
	os.Setenv("PATH", Path)
	os.Setenv("HOME", "/root")
	spec, err := setUp(channel)
	if err == nil {
		err = prepare(spec)
	}
	if err == nil {
		err = startAgent(channel)
	}
	if err != nil {
		// The channel may not be mounted yet: then only the console can tell.
		fmt.Fprintln(os.Stderr, "guest:", err)
		_ = writeAtomic(filepath.Join(channel, errorFile), []byte(err.Error()))
		powerOff()
		return err
	}
	reap()
	return nil
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// setUp builds the root and makes the channel writable in it. The channel is
// mounted before it is read, since the host's /dev/shm is hidden from a guest.
func setUp(channel string) (*Spec, error) {
	if err := buildRoot(); err != nil {
		return nil, err
	}
	if err := mount("none", channel, "hostfs", 0, channel); err != nil {
		return nil, err
	}
	spec := &Spec{}
	if err := readJSON(filepath.Join(newRoot, channel, specFile), spec); err != nil {
		return nil, fmt.Errorf("read the guest's specification: %w", err)
	}
	for _, dir := range spec.Writable {
		if err := mount("none", dir, "hostfs", 0, dir); err != nil {
			return nil, err
		}
	}
	for _, dir := range spec.ReadOnly {
		if err := mount("none", dir, "hostfs", unix.MS_RDONLY, dir); err != nil {
			return nil, err
		}
	}
	return spec, enterRoot()
}

const newRoot = "/mnt/root"

// buildRoot stacks a file system in memory over the host's root. overlay.ko
// is loaded by path because the kernel cannot find modules by name before
// /lib/modules is in place.
func buildRoot() error {
	if err := errors.Join(
		mountAt("proc", "/proc", "proc", 0, ""),
		mountAt("sysfs", "/sys", "sysfs", 0, ""),
		mountAt("tmpfs", "/mnt", "tmpfs", 0, "size=90%"),
	); err != nil {
		return err
	}
	for _, dir := range []string{"/mnt/upper", "/mnt/work", newRoot} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := loadOverlay(); err != nil {
		return err
	}
	if err := mountAt("overlay", newRoot, "overlay", 0, "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work"); err != nil {
		return err
	}
	tree := modules() // while there is a /proc
	return errors.Join(
		mountAt("/proc", newRoot+"/proc", "", unix.MS_MOVE, ""),
		mountAt("/sys", newRoot+"/sys", "", unix.MS_MOVE, ""),
		mount("devtmpfs", "/dev", "devtmpfs", 0, ""),
		mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620"),
		mount("tmpfs", "/dev/shm", "tmpfs", 0, ""),
		mount("tmpfs", "/run", "tmpfs", 0, ""),
		mount(tree, "/lib/modules", "", unix.MS_BIND, ""),
	)
}

// modules is the module tree that was built for guests, beside the program's
// own directory, if it is for the kernel that runs; else Debian's.
func modules() string {
	self, err := os.Readlink("/proc/self/exe") // os.Executable looked before there was a /proc
	release, err2 := KernelRelease()
	built := filepath.Join(filepath.Dir(filepath.Dir(self)), "guest", "lib", "modules")
	if _, err3 := os.Stat(filepath.Join(built, release, "modules.dep")); errors.Join(err, err2, err3) != nil {
		return moduleTree
	}
	return built
}

// KernelRelease is the version of the guests' kernel, as uname -r prints it.
func KernelRelease() (string, error) {
	trees, _ := filepath.Glob(moduleTree + "/*/modules.dep")
	if len(trees) != 1 {
		return "", fmt.Errorf("%d kernels have modules below %s, and it must be one: reinstall the Debian package user-mode-linux", len(trees), moduleTree)
	}
	return filepath.Base(filepath.Dir(trees[0])), nil
}

func loadOverlay() error {
	found, _ := filepath.Glob(moduleTree + "/*/kernel/fs/overlayfs/overlay.ko")
	if len(found) == 0 {
		return fmt.Errorf("no overlay.ko below %s: install the Debian package user-mode-linux", moduleTree)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", found[0], err)
	}
	return nil
}

// enterRoot uses pivot_root, not chroot: the kernel runs its own modprobe in
// the root of the first process, and must find /lib/modules there.
func enterRoot() error {
	old := newRoot + "/.host"
	if err := os.MkdirAll(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(newRoot, old); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// mount mounts at a place inside the root that is being built.
func mount(source, target, kind string, flags uintptr, data string) error {
	return mountAt(source, filepath.Join(newRoot, target), kind, flags, data)
}

func mountAt(source, target, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// prepare makes the guest an ordinary Linux machine for those inside it.
func prepare(spec *Spec) error {

	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := useLegacyIptables("/etc/alternatives", "/usr/sbin"); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	for _, dir := range spec.Tmpfs {
		if err := mountAt("tmpfs", dir, "tmpfs", 0, "size=90%"); err != nil {
			return err
		}
	}
	if spec.Setup == "" {
		return nil
	}
	out, err := exec.Command("/bin/sh", "-euc", spec.Setup).CombinedOutput()
	if err != nil {
		return fmt.Errorf("the guest's setup script failed: %w\n%s", err, out)
	}
	return nil
}

// useLegacyIptables points the alternatives at the legacy tools: this kernel
// has no nf_tables families. Links are changed directly because
// update-alternatives takes a second in a guest.
func useLegacyIptables(alternatives, sbin string) error {
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, tool := range []string{"", "-save", "-restore"} {
			link := filepath.Join(alternatives, family+tool)
			if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if err := os.Symlink(filepath.Join(sbin, family+"-legacy"+tool), link); err != nil {
				return fmt.Errorf("select legacy iptables: %w", err)
			}
		}
	}
	return nil
}

// modulePatterns are the modules of a router's work; what the kernel has of
// them is loaded up front, so that no test depends on what ran before it.
var modulePatterns = []string{
	"ip_vs*", "ip_set*", "xt_*", "ipt_*", "ip6t_*", "iptable_*", "ip6table_*",
	"nf_conntrack", "nf_conntrack_netlink", "nfnetlink_log",
	"br_netfilter", "bridge", "veth", "dummy", "tun", "vxlan", "ipip", "sit", "ip6_tunnel", "fou", "fou6",
}

func loadModules() error {
	dep, _ := filepath.Glob("/lib/modules/*/modules.dep")
	if len(dep) == 0 {
		return fmt.Errorf("no modules.dep below %s: reinstall the Debian package user-mode-linux", moduleTree)
	}
	data, err := os.ReadFile(dep[0])
	if err != nil {
		return err
	}
	names := matchModules(string(data), modulePatterns)
	out, err := exec.Command("modprobe", append([]string{"-a"}, names...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("modprobe: %w\n%s", err, out)
	}
	return nil
}

// matchModules returns the modules in a modules.dep file that match one of
// the patterns.
func matchModules(dep string, patterns []string) []string {
	var names []string
	for _, line := range strings.Split(dep, "\n") {
		path, _, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(path), ".ko")
		for _, p := range patterns {
			if hit, _ := filepath.Match(p, name); hit {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// startAgent runs the agent as a process of its own, so that collecting
// orphans here cannot steal the exit statuses that the agent waits for.
func startAgent(channel string) error {
	if err := bringUpLoopback(); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", AgentCommand, channel)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the guest's agent: %w", err)
	}
	return nil
}

func bringUpLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// reap collects every process that ends without a living parent.
func reap() {
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(-1, &status, 0, nil); errors.Is(err, unix.ECHILD) {
			powerOff()
			return
		}
	}
}
