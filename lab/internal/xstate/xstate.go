// Package xstate lets guests run on processors whose register state is larger
// than Debian's User-Mode Linux has room for: those with tile registers (AMX).
// There the guest's first program would end in "ptrace set fp regs failed".
package xstate

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/cpu"
)

//go:embed preload/ptrace.c
var source string

// Needed says whether this machine's processor is such a one.
func Needed() bool { return cpu.X86.HasAMXTile }

// Packages lists the Debian packages that Build needs, none where there is
// nothing to build.
func Packages() []string {
	if !Needed() {
		return nil
	}
	return []string{"gcc", "libc6-dev"}
}

// Build makes the library that the guest's kernel is started with, by
// LD_PRELOAD, in a directory.
func Build(dir string) (library string, err error) {
	code, library := filepath.Join(dir, "ptrace.c"), filepath.Join(dir, "ptrace.so")
	if err := os.WriteFile(code, []byte(source), 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, code).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("gcc: %w: %s (install Debian's packages gcc and libc6-dev)", err, out)
	}
	return library, nil
}
