package xstate

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// traced does with a child what the guest's kernel does with its programs: it
// writes back as much of the state as it has room for, and changes a register of
// it. What it prints is what the child has then.
const traced = `
#include <elf.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	char state[2696];
	struct iovec room = {state, sizeof state};
	struct user_fpregs_struct seen;
	int status, pid = fork();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	if (ptrace(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &room) < 0)
		return perror("get"), 1;
	memset(state + 160, 0x5a, 16); /* xmm0 */
	state[512] |= 2; /* is in use */
	if (ptrace(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &room) < 0)
		return perror("set"), 1;
	if (ptrace(PTRACE_GETFPREGS, pid, NULL, &seen) < 0)
		return perror("fpregs"), 1;
	long counter = ptrace(PTRACE_PEEKUSER, pid, (void *)(16 * sizeof(long)), NULL);
	printf("xmm0 %x, stopped at an address: %d\n", seen.xmm_space[0], counter > 0x1000);
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	waitpid(pid, &status, 0);
	return status;
}
`

// Registers that a tracer with too little room writes back reach the program.
func TestARoomThatIsTooSmall(t *testing.T) {
	dir := t.TempDir()
	library, err := Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	code, program := filepath.Join(dir, "traced.c"), filepath.Join(dir, "traced")
	if err := os.WriteFile(code, []byte(traced), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-o", program, code).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+library)
	out, err := cmd.CombinedOutput()
	if want := "xmm0 5a5a5a5a, stopped at an address: 1\n"; err != nil || string(out) != want {
		t.Errorf("%q (%v), want %q", out, err, want)
	}
	if without, err := exec.Command(program).CombinedOutput(); Needed() && err == nil {
		t.Errorf("without the library the host takes it, too: %s", without)
	}
}
