// Package process starts the lab's daemons and ends them again, and never
// ends a process that is not the lab's.
package process

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// KillGroup kills a process and all of its group at once.
func KillGroup(leader int) {
	if err := syscall.Kill(-leader, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
		_ = syscall.Kill(leader, syscall.SIGKILL)
	}
}

// WithArgument returns the processes that have the given command-line
// argument, whole. The lab gives each daemon an argument that names its own
// state directory: such a process is the lab's, whatever became of the
// process that started it.
func WithArgument(arg string) []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // ended meanwhile
		}
		for _, a := range bytes.Split(data, []byte{0}) {
			if string(a) == arg {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// KillWithArgument kills what WithArgument finds.
func KillWithArgument(arg string) {
	for _, pid := range WithArgument(arg) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
