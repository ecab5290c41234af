// Compiles profiles with libseccomp: the oracle of libseccomp_test.go.
//
// It reads lines: "resolve NAME", answered by the line "1" or "0"; or a profile,
//
//	profile ACTION
//	arch NAME
//	rule ACTION NAME [INDEX OP VALUE VALUE]...
//	end
//
// answered by the line "BYTES" and so many bytes of a filter, or by a line that
// begins with "error".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static scmp_filter_ctx ctx;
static char failed[256];

static void fail(const char *what, int rc)
{
	if (!failed[0])
		snprintf(failed, sizeof(failed), "error %s: %s", what, strerror(-rc));
}

static uint64_t number(void)
{
	return strtoull(strtok(NULL, " "), NULL, 0);
}

static void profile(void)
{
	ctx = seccomp_init(number());
	failed[0] = 0;
	if (!ctx) {
		fail("init", -EINVAL);
		return;
	}
	seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE);
}

static void rule(void)
{
	uint32_t action = number();
	char *name = strtok(NULL, " "), *word;
	struct scmp_arg_cmp args[6];
	int n = 0, rc, nr = seccomp_syscall_resolve_name(name);

	if (nr == __NR_SCMP_ERROR || !ctx)
		return;
	while ((word = strtok(NULL, " ")) && n < 6) {
		args[n].arg = strtoul(word, NULL, 0);
		args[n].op = number();
		args[n].datum_a = number();
		args[n].datum_b = number();
		n++;
	}
	rc = seccomp_rule_add_array(ctx, action, nr, n, args);
	if (rc && rc != -EEXIST)
		fail(name, rc);
}

static void end(void)
{
	char buf[1 << 16];
	int fd, n = 0, rc;

	if (!ctx || failed[0]) {
		printf("%s\n", failed);
		goto out;
	}
	fd = memfd_create("filter", 0);
	if ((rc = seccomp_export_bpf(ctx, fd))) {
		fail("export", rc);
		printf("%s\n", failed);
	} else {
		lseek(fd, 0, SEEK_SET);
		n = read(fd, buf, sizeof(buf));
		printf("%d\n", n);
		fwrite(buf, 1, n, stdout);
	}
	close(fd);
out:
	fflush(stdout);
	if (ctx)
		seccomp_release(ctx);
	ctx = NULL;
}

int main(void)
{
	char line[1 << 16], *word;

	seccomp_api_set(6);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		word = strtok(line, " ");
		if (!strcmp(word, "resolve")) {
			printf("%d\n", seccomp_syscall_resolve_name(strtok(NULL, " ")) != __NR_SCMP_ERROR);
			fflush(stdout);
		} else if (!strcmp(word, "profile")) {
			profile();
		} else if (!strcmp(word, "arch") && ctx) {
			int rc = seccomp_arch_add(ctx, seccomp_arch_resolve_name(strtok(NULL, " ")));
			if (rc)
				fail("arch", rc);
		} else if (!strcmp(word, "rule")) {
			rule();
		} else if (!strcmp(word, "end")) {
			end();
		}
	}
	return 0;
}
