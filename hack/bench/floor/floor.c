/*
 * floor: what the kernel asks for a container, and nothing else. It makes one COUNT times and prints
 * the milliseconds of each: a cgroup, clone3(2) into it with six new namespaces, proc, pivot_root(2),
 * execve(2) of /bin/true, and the wait for its end.
 *
 *   floor ROOTFS CGROUP COUNT
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void container(const char *rootfs)
{
	char *const argv[] = {"/bin/true", NULL}, *const envp[] = {NULL};

	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount(rootfs, rootfs, NULL, MS_BIND, NULL) ||
	    chdir(rootfs) || mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) ||
	    syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		err(2, "rootfs");
	execve(argv[0], argv, envp);
	err(2, "execve");
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "usage: floor ROOTFS CGROUP COUNT");
	for (int i = atoi(argv[3]); i > 0; i--) {
		double begun = now();
		int status, group;

		if (mkdir(argv[2], 0755) || (group = open(argv[2], O_PATH | O_CLOEXEC)) < 0)
			err(1, "%s", argv[2]);
		struct clone_args args = {
			.flags = CLONE_INTO_CGROUP | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
				 CLONE_NEWUTS | CLONE_NEWCGROUP | CLONE_VFORK,
			.exit_signal = SIGCHLD,
			.cgroup = group,
		};
		pid_t pid = syscall(SYS_clone3, &args, sizeof args);
		if (pid < 0)
			err(1, "clone3");
		if (pid == 0)
			container(argv[1]);
		if (waitpid(pid, &status, 0) < 0 || status)
			errx(1, "/bin/true ended with %d", status);
		close(group);
		if (rmdir(argv[2]))
			err(1, "rmdir %s", argv[2]);
		printf("%.3f\n", now() - begun);
	}
	return 0;
}
