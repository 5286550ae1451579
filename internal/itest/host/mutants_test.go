package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/remake"
	"launch/internal/itest/tree"
)

// mutants are programs without one of the defences against who may talk to them:
// each is made by one edit, for one run of a test that must notice.
var mutants = []struct{ what, file, old, new, pkg, notices string }{
	// What a machine says of itself.
	{"whoever reaches the socket is heard", "internal/engine/engine.go", "notify.NewEar(b.notify, b.proc.PID,", "notify.NewEar(b.notify, 0,", "internal/itest/share", "TestForged"},
	{"the machine's words are passed on", "internal/engine/engine.go", "relay(state notify.State, err error) error {\n", "relay(state notify.State, err error) error {\n\tnotify.Send(s.opt.Notify, \"MAINPID=1\")\n", "internal/itest/share", "TestForged"},
	{"the launcher listens where all can see it", "internal/notify/notify.go", `sys.BindUnix(n, sys.FdPath(dir)+"/"+name)`, `sys.BindUnix(n, "@launch-notify")`, "internal/itest/share", "TestSockets"},
	{"everybody may write to the socket", "internal/notify/notify.go", "sys.Fchmodat(dir, name, 0o200)", "sys.Fchmodat(dir, name, 0o222)", "internal/notify", "TestRelay"},
	{"descriptors that are sent stay open", "internal/notify/notify.go", "		for _, f := range m.Fds {\n			sys.Close(f)\n		}\n", "", "internal/notify", "TestStore"},
	{"half a message is one", "internal/notify/notify.go", "!m.Truncated && ", "", "internal/notify", "TestFlood"},
	// What a bus, systemd and systemd-machined answer.
	{"a message is as long as it says", "internal/bus/bus.go", "body > 1<<26 || fields > 1<<26", "false", "internal/bus", "TestOddMessages"},
	{"a greeting may be endless", "internal/bus/bus.go", "len(c.in) > 4096", "false", "internal/bus", "TestOddMessages"},
	{"a value is where it should be", "internal/bus/bus.go", "r.bad || n < 0 || r.at > len(r.b) || n > len(r.b)-r.at", "false", "internal/bus", "TestOddMessages"},
	{"any number is a process", "internal/machine/machine.go", "	if pid <= 0 {", "	if false {", "internal/machine", "TestOddAnswers"},
	{"any number is a process, by Varlink", "internal/machine/varlink.go", "a.Leader.PID <= 0", "false", "internal/machine", "TestOddAnswers"},
	{"any value is a number", "internal/machine/machine.go", `r.Signature() != "u"`, `r.Signature() == ""`, "internal/machine", "TestOddAnswers"},
	{"an answer may be endless", "internal/varlink/varlink.go", " || len(in) > MostAnswer", "", "internal/machine", "TestOddAnswers"},
	{"any user's bus is ours", "internal/machine/machine.go", "int(peer) != own", "false", "internal/machine", "TestUser"},
	// What a start asks for goes on beside the mounts.
	{"the scope is waited for", "internal/engine/build.go", "	waits := !b.bornFirst()\n", "	waits := !b.bornFirst()\n	if err := b.place(); err != nil {\n		return err\n	}\n", "internal/itest/host", "TestBeside"},
	{"the registration is waited for", "internal/engine/build.go", "b.registered = sync.OnceValue(sys.Go(\"register\", b.register))\n", "b.registered = sync.OnceValue(sys.Go(\"register\", b.register))\n		if err := b.registered(); err != nil {\n			return err\n		}\n", "internal/itest/host", "TestBeside"},
	// Which cgroups are a container's, and which it sees.
	{"any cgroup is the unit's", "internal/cgroup/layout.go", `name != unit && name != "_"+unit`, `name == ""`, "internal/cgroup", "TestUnitGroup"},
	{"any unit is stopped", "internal/cgroup/systemd/systemd.go", "m.Reader().Uint32() == 0", "m.Reader().Uint32() >= 0", "internal/cgroup/systemd", "TestStopEmpty"},
	{"what comes back is among the host's cgroups", "oci/container/restore.go", `Rooted: b.Owns("cgroup")`, "Rooted: false", "internal/itest/checkpoint", "TestCheckpoint"},
	// What somebody names a machine, and where a start makes files.
	{"any name is a machine's", "settings/value.go", "	if bad == \"\" {\n		return nil\n	}\n	return fmt.Errorf(\"%q is not a machine name", "	if bad == \"\" || name != \"\" {\n		return nil\n	}\n	return fmt.Errorf(\"%q is not a machine name", "internal/itest/host", "TestInstances"},
	{"a start makes a file in /tmp", "internal/engine/engine.go", "	if err := notify.Send(s.opt.Notify, lines...); err != nil {", "	sys.Openat(unix.AT_FDCWD, \"/tmp/launch-mutant\", unix.O_CREAT|unix.O_RDWR, 0o600)\n	if err := notify.Send(s.opt.Notify, lines...); err != nil {", "internal/itest/share", "TestPlaces"},
}

// TestHostileMutants: those tests are ones that can fail. Every day, the edits must
// fit; the runs are for: make hostile.
func TestHostileMutants(t *testing.T) {
	whole := os.Getenv("LAUNCH_TEST") == "hostile"
	if whole {
		tree.NeedRoot(t)
	}
	root, err := remake.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.what, func(t *testing.T) {
			over, err := remake.Overlay(t.TempDir(), remake.Edit{m.file, m.old, m.new})
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(root, m.pkg)
			if files, _ := filepath.Glob(filepath.Join(dir, "*_test.go")); !has(t, files, "func "+m.notices+"(t *testing.T)") {
				t.Fatalf("%s has no %s", m.pkg, m.notices)
			}
			if !whole {
				return
			}
			out, err := remake.Test(dir, over, "host", "^"+m.notices+"$")
			switch {
			case err == nil:
				t.Errorf("%s sees no difference:\n%s", m.notices, out)
			case !strings.Contains(out, "--- FAIL: "+m.notices) && !strings.Contains(out, "panic: "):
				t.Errorf("%s was not run: %v\n%s", m.notices, err, out)
			}
		})
	}
}

// has tells whether one of the files has the text.
func has(t *testing.T, files []string, text string) bool {
	t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}
