package process

import (
	"os/exec"
	"slices"
	"testing"
)

func TestKillWithArgumentSparesOthers(t *testing.T) {
	dir := t.TempDir()
	start := func(arg string) *exec.Cmd {
		t.Helper()
		// cat waits for its input, and ends with it.
		cmd := exec.Command("sh", "-c", "cat; exit 0", arg)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	mine, longer := start(dir), start(dir+"/other")
	if got := WithArgument(dir); !slices.Equal(got, []int{mine.Process.Pid}) {
		t.Fatalf("WithArgument(%q) = %v, want only %d", dir, got, mine.Process.Pid)
	}
	KillWithArgument(dir)
	if err := mine.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the process with the argument ended with %v, want a kill", err)
	}
	if got := WithArgument(dir + "/other"); !slices.Equal(got, []int{longer.Process.Pid}) {
		t.Errorf("a process with a longer argument was touched: %v", got)
	}
}
