/*
 * ptrace for User-Mode Linux on processors with more register state than it has
 * room for. Its kernel reads the state (PTRACE_GETREGSET, NT_X86_XSTATE), gets
 * as much as fits, and the host refuses it when it is written back: it takes all
 * of it or nothing (arch/x86/kernel/fpu/regset.c, xstateregs_set). So what is
 * missing is added here: tile registers (AMX), which no program of the guest has
 * as its kernel grants none, and which are as they began therefore.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char whole[1 << 16];
static size_t size; /* of the host's state; the kernel that asks has one thread */

static long ask_size(pid_t pid)
{
	struct iovec all = {whole, sizeof whole};
	if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) < 0)
		return -1;
	size = all.iov_len;
	memset(whole, 0, sizeof whole);
	return 0;
}

static long set_state(pid_t pid, const struct iovec *given)
{
	if (size == 0 && ask_size(pid) < 0)
		return -1;
	if (given->iov_len >= size)
		return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
	memcpy(whole, given->iov_base, given->iov_len);
	struct iovec all = {whole, size};
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &all);
}

/* The word is the result, as the C library has it; the system call wants a place for it. */
static long peek(enum __ptrace_request request, pid_t pid, void *addr)
{
	long word;
	if (syscall(SYS_ptrace, request, pid, addr, &word) < 0)
		return -1;
	errno = 0;
	return word;
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list args;
	va_start(args, request);
	pid_t pid = va_arg(args, pid_t);
	void *addr = va_arg(args, void *), *data = va_arg(args, void *);
	va_end(args);
	if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE)
		return set_state(pid, data);
	if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER)
		return peek(request, pid, addr);
	return syscall(SYS_ptrace, request, pid, addr, data);
}
