// Package module makes the kernel's modules available.
package module

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Load loads the modules that are neither loaded nor built in, with modprobe
// (8), which finds them under /lib/modules of the running kernel. The error
// names those that are still missing.
func Load(names ...string) error { return thisHost().load(names) }

// Present says whether a module is loaded or built in, without loading it.
func Present(name string) bool { return thisHost().present(name) }

func thisHost() host {
	return host{proc: "/proc", sys: "/sys", modules: "/lib/modules", release: release(), modprobe: modprobe}
}

// host is where the kernel tells about modules.
type host struct {
	proc, sys, modules string
	release            string // uname -r
	modprobe           func(name string) error
}

func (h host) load(names []string) error {
	var missing []string
	for _, name := range names {
		if h.present(name) {
			continue
		}
		if err := h.modprobe(name); err != nil && !h.present(name) {
			missing = append(missing, fmt.Sprintf("%s (%v)", name, err))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing kernel modules: %s: load them on the host with modprobe, or mount /lib/modules",
		strings.Join(missing, ", "))
}

// present says that a module is loaded or built in. /sys/module has loaded
// ones and those built-in ones with a parameter; modules.builtin has the rest.
func (h host) present(name string) bool {
	name = canonical(name)
	if _, err := os.Stat(filepath.Join(h.sys, "module", name)); err == nil {
		return true
	}
	loaded := h.anyLine(filepath.Join(h.proc, "modules"), func(line string) bool {
		first, _, _ := strings.Cut(line, " ")
		return canonical(first) == name
	})
	return loaded || h.anyLine(filepath.Join(h.modules, h.release, "modules.builtin"), func(line string) bool {
		return canonical(strings.TrimSuffix(filepath.Base(line), ".ko")) == name
	})
}

// canonical is a module's name as /proc/modules writes it: the kernel holds
// "-" and "_" for the same.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func (h host) anyLine(path string, match func(string) bool) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if match(lines.Text()) {
			return true
		}
	}
	return false
}

func modprobe(name string) error {
	out, err := exec.Command("modprobe", "-q", "--", name).CombinedOutput()
	if text := strings.TrimSpace(string(out)); err != nil && text != "" {
		return fmt.Errorf("modprobe: %w: %s", err, text)
	}
	if err != nil {
		return fmt.Errorf("modprobe: %w", err)
	}
	return nil
}

func release() string {
	var uts syscall.Utsname
	if err := syscall.Uname(&uts); err != nil {
		return ""
	}
	var b strings.Builder
	for _, c := range uts.Release {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
