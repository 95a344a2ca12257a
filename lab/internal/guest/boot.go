package guest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kube-router/kube-router/lab/internal/process"
	"github.com/kube-router/kube-router/lab/internal/xstate"
)

// Kernel is the guest kernel's program.
const Kernel = "linux.uml"

// Machine is the virtual hardware of a guest.
type Machine struct {
	// Channel is the directory shared with the guest.
	Channel string
	// Memory is the guest's, in the kernel's notation ("1G"). It is taken
	// from the host only as it is used.
	Memory string
	// Tap is the host's tap device behind the guest's vec0; none if empty.
	Tap string
	// Number tells guests that run side by side apart: see processor.
	Number int
}

// Prepare creates the channel directory with the specification in it.
func Prepare(channel string, spec Spec) error {
	if err := os.MkdirAll(filepath.Join(channel, requestsDir), 0o700); err != nil {
		return err
	}
	return writeJSON(filepath.Join(channel, specFile), spec)
}

// Command returns the program that boots the guest, ready to start. It leads
// a session of its own: a guest is many host processes, ended as a group.
func Command(m Machine) (*exec.Cmd, error) {
	kernel, err := exec.LookPath(Kernel)
	if err != nil {
		return nil, fmt.Errorf("%s not found: apt-get install user-mode-linux", Kernel)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	console, err := os.OpenFile(filepath.Join(m.Channel, consoleFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	args := []string{
		"mem=" + m.Memory, "umid=guest", directoryArgument(m.Channel),
		"rootfstype=hostfs", "rootflags=/", "ro", "init=" + self,
		"con=null", "con0=null,fd:1", "quiet", "panic=-1",
	}
	if m.Tap != "" {
		args = append(args, "vec0:transport=tap,ifname="+m.Tap+",depth=64,gro=1")
	}
	cpu, err := processor(m.Number)
	if err != nil {
		return nil, err
	}
	args = append([]string{"--cpu-list", cpu, kernel}, args...)
	cmd := exec.Command("taskset", append(args, "--", InitCommand, m.Channel)...)
	if xstate.Needed() {
		library, err := xstate.Build(m.Channel)
		if err != nil {
			return nil, err
		}
		cmd.Env = append(os.Environ(), "LD_PRELOAD="+library)
	}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// processor is the host's processor that a guest runs on: they take turns. A
// guest has one, and its kernel and its programs are processes of the host that
// wait for each other at every system call; to wake one on another processor
// takes eight times as long.
func processor(number int) (string, error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return "", fmt.Errorf("sched_getaffinity: %w", err)
	}
	skip := number % all.Count()
	for i := 0; ; i++ {
		if !all.IsSet(i) {
			continue
		}
		if skip == 0 {
			return strconv.Itoa(i), nil
		}
		skip--
	}
}

// directoryArgument is part of the command line of all host processes of one
// guest, and of no others.
func directoryArgument(channel string) string { return "uml_dir=" + channel + "/" }

// Kill ends all host processes of the guest with this channel.
func Kill(channel string) { process.KillWithArgument(directoryArgument(channel)) }

// Processes lists the host processes of the guest with this channel.
func Processes(channel string) []int { return process.WithArgument(directoryArgument(channel)) }

// Leader is the guest's first host process; without it the guest is dead,
// whatever helpers remain of it.
func Leader(channel string) (pid int, alive bool) {
	for _, pid := range Processes(channel) {
		if sid, err := unix.Getsid(pid); err == nil && sid == pid {
			return pid, true
		}
	}
	return 0, false
}

// Failure returns what a guest reported about its own failure: the error its
// init or a service left, else nil.
func Failure(channel string) error {
	data, err := os.ReadFile(filepath.Join(channel, errorFile))
	if err != nil {
		return nil
	}
	return fmt.Errorf("%s", strings.TrimSpace(string(data)))
}

// Ready tells whether the guest serves requests.
func Ready(channel string) bool {
	_, err := os.Stat(filepath.Join(channel, readyFile))
	return err == nil
}

// ConsolePath is where the guest kernel's messages go.
func ConsolePath(channel string) string { return filepath.Join(channel, consoleFile) }
