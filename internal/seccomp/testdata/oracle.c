/* Builds a filter with libseccomp from lines on standard input and writes its
 * BPF program to standard output:
 *   init DEFAULT BADARCH | arch TOKEN | rule ACTION NAME N (ARG OP A B)*N
 * A line "names" instead resolves "NAME TOKEN" lines to numbers.
 * Exits 3 with the library's answer when it refuses the filter. */
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>

static void need(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "%s: %d\n", what, rc);
		exit(3);
	}
}

int main(void)
{
	char word[64], name[64];
	scmp_filter_ctx ctx = NULL;
	int first = 1;

	while (scanf("%63s", word) == 1) {
		if (!strcmp(word, "names")) {
			uint32_t token;
			while (scanf("%63s %" SCNu32, name, &token) == 2)
				printf("%d\n", seccomp_syscall_resolve_name_arch(token, name));
			return 0;
		} else if (!strcmp(word, "init")) {
			uint32_t def, bad;
			if (scanf("%" SCNu32 " %" SCNu32, &def, &bad) != 2)
				return 2;
			ctx = seccomp_init(def);
			if (!ctx)
				return 3;
			need(seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, bad), "badarch");
		} else if (!strcmp(word, "arch")) {
			uint32_t token;
			if (scanf("%" SCNu32, &token) != 1)
				return 2;
			if (first)
				need(seccomp_arch_remove(ctx, SCMP_ARCH_NATIVE), "remove");
			first = 0;
			need(seccomp_arch_add(ctx, token), "arch");
		} else if (!strcmp(word, "rule")) {
			uint32_t action;
			unsigned n, i;
			struct scmp_arg_cmp cmp[6];
			if (scanf("%" SCNu32 " %63s %u", &action, name, &n) != 3 || n > 6)
				return 2;
			for (i = 0; i < n; i++) {
				unsigned arg, op;
				uint64_t a, b;
				if (scanf("%u %u %" SCNu64 " %" SCNu64, &arg, &op, &a, &b) != 4)
					return 2;
				cmp[i].arg = arg;
				cmp[i].op = op;
				cmp[i].datum_a = a;
				cmp[i].datum_b = b;
			}
			need(seccomp_rule_add_array(ctx, action, seccomp_syscall_resolve_name(name), n, cmp), name);
		} else
			return 2;
	}
	need(seccomp_export_bpf(ctx, 1), "export");
	return 0;
}
