package flags

import (
	"strings"
	"testing"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// TestExitRefused: a first process whose filter refuses it to end does so all the
// same, when a step fails, and as process 1 when the payload is gone, or when it can't
// hear of that. Else it would try for ever, and the launcher wait for it.
func TestExitRefused(t *testing.T) {
	if stage.Under(t).Name != "launch" {
		t.Skip("the steps are launch's")
	}
	l, s := stage.Launch(t), stage.New(t, stage.Unified)
	for _, k := range []struct{ args, says string }{
		{"--system-call-filter=~exit_group --system-call-filter=~capset", "set the capabilities: operation not permitted"},
		{"--system-call-filter=~exit_group --system-call-filter=~capset --private-users=1310720:65536 --private-users-ownership=map", "set the capabilities: operation not permitted"},
		{"--system-call-filter=~exit_group --system-call-filter=~execve", "operation not permitted"},
		{"--system-call-filter=~exit_group --as-pid2", ""},
		{"--system-call-filter=~wait4 --as-pid2", ""},
	} {
		argv := append([]string{l.Path, "--quiet", "--directory=" + tree.Copy(t, tree.Tiny(t)), "--machine=launch-test-flags",
			"--register=no", "--keep-unit", "--console=pipe"}, strings.Fields(k.args)...)
		r := s.Start(l.Env, append(argv, "/bin/busybox", "true")...)
		code, err := r.Code(most)
		if out := r.Out.String(); err != nil || code == 0 || !strings.Contains(out, k.says) {
			t.Errorf("%s: exit status %d, %v\n%s", k.args, code, err, out)
		}
	}
}
