package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/remake"
	"launch/internal/seccomp"
)

// Each attack here returns what it got, "" if nothing. It is tried with the
// runtime as it is, and with one whose defence was taken away by editing its
// sources for one build: that one must fall, or the attack proves nothing.
type attack struct {
	name  string        // begins with the rows of the threat table
	edits []remake.Edit // file, old, new
	try   func(w *world) string
	// peer is an old version of another runtime that falls, "runc 1.1".
	peer string
}

const (
	containerGo = "internal/engine/container.go"
	payloadGo   = "internal/engine/payload.go"
	lowerGo     = "internal/engine/lower.go"
	bundleGo    = "internal/plan/bundle.go"
	resolveGo   = "mount/attach/resolve.go"
	stateGo     = "oci/container/state.go"
	lifeGo      = "oci/container/life.go"
	selfGo      = "cmd/launch-oci/self.go"
	layoutGo    = "internal/cgroup/layout.go"
	attachGo    = "mount/attach/attach.go"
	attach2Go   = "mount/attach/bundle.go"
)

func traced(c object) {
	caps := c["process"].(object)["capabilities"].(object)
	for _, set := range []string{"bounding", "effective", "permitted"} {
		caps[set] = append(caps[set].([]any), "CAP_SYS_PTRACE")
	}
}

// allCalls are the names of the system calls that this computer has.
func allCalls(t testing.TB) (names []string) {
	a, ok := seccomp.Native()
	if !ok {
		t.Skip("no table of calls for this computer")
	}
	for nr := range uint32(600) {
		if name, ok := a.Name(nr); ok {
			names = append(names, name)
		}
	}
	return names
}

// keptProgram makes a container and keeps the program that its process runs then, until
// it doesn't run any more: "" if that can't be written to.
func keptProgram(w *world, bundle string) string {
	const id = "kept"
	w.ok("create", "-b", bundle, id)
	n, err := unix.Open(fmt.Sprintf("/proc/%d/exe", w.pid(id)), unix.O_PATH, 0)
	must(w.t, err)
	defer unix.Close(n)
	w.ok("delete", "--force", id)
	return written(n)
}

// written opens what a descriptor names for writing, once nobody runs it.
func written(n int) string {
	var err error
	for range 200 {
		var f int
		if f, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", n), unix.O_WRONLY, 0); err == nil {
			unix.Close(f)
			return "the runtime can be written to"
		}
		if err != unix.ETXTBSY {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return ""
}

var attacks = []attack{
	{name: "B1 the program is overwritten through a waiting process", edits: []remake.Edit{
		{selfGo, "func guard() error {", "func guard() error {\n	if self != \"\" {\n		return nil\n	}"},
	}, try: func(w *world) string {
		// What a process inside may do that may trace: keep the program open by
		// its process, until it doesn't run any more.
		return keptProgram(w, w.bundle("self", forever, traced))
	}},
	{name: "B1 the program is overwritten from another container of the same pid namespace", edits: []remake.Edit{
		{lifeGo, "return traces(s) || slices", "return traces(s) || false && slices"},
	}, try: func(w *world) (got string) {
		w.ok("run", "-d", "-b", w.bundle("first", forever, traced), "first")
		defer w.ok("delete", "--force", "first")
		second := w.bundle("second", forever, func(c object) {
			for _, n := range c["linux"].(object)["namespaces"].([]any) {
				if n.(object)["type"] == "pid" {
					n.(object)["path"] = fmt.Sprintf("/proc/%d/ns/pid", w.pid("first"))
				}
			}
		})
		return keptProgram(w, second)
	}},
	{name: "B3 a process that enters is seen with the runtime's rights by those that may trace it", edits: []remake.Edit{
		{lifeGo, "Exposed: tracing}", "Exposed: tracing && false}"},
	}, try: func(w *world) string {
		// Whoever sees such a process, and may trace, has it do what he likes, with its
		// rights and in its memory.
		spy := []string{"sh", "-c", `own=$(grep CapEff /proc/self/status)
			while :; do
				for f in /proc/[0-9]*/status; do
					while read -r k v; do
						case $k in CapEff:) [ "CapEff:	$v" = "$own" ] || echo "$k $v" >>/tmp/seen ;; esac
					done <$f
				done
			done 2>/dev/null`}
		// With a filter that comes while there are still rights, as engines have it, and
		// without.
		got := ""
		for name, edit := range map[string]func(object){"spy": traced, "filtered": func(c object) {
			traced(c)
			c["process"].(object)["noNewPrivileges"] = false
			c["linux"].(object)["seccomp"] = object{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []object{
				{"names": []string{"clone"}, "action": "SCMP_ACT_ALLOW", "args": []object{{"index": 0, "value": 0x7e020000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}}},
				{"names": []string{"clone3"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
				{"names": slices.DeleteFunc(allCalls(w.t), func(n string) bool { return n == "clone" || n == "clone3" }), "action": "SCMP_ACT_ALLOW"},
			}}
		}} {
			b := w.bundle(name, spy, edit)
			w.ok("run", "-d", "-b", b, name)
			for range 100 {
				w.ok("exec", name, "true")
			}
			w.ok("delete", "--force", name)
			seen, _ := os.ReadFile(b + "/rootfs/tmp/seen")
			got += string(seen)
		}
		return got
	}},
	{name: "B3 the waiting process is looked into", edits: []remake.Edit{
		{containerGo, "	if err := sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0); err != nil {\n		return nil, fmt.Errorf(\"become undumpable", "	if err := error(nil); err != nil {\n		return nil, fmt.Errorf(\"become undumpable"},
	}, try: func(w *world) string {
		w.ok("create", "-b", w.bundle("look", forever, nil), "look")
		defer w.ok("delete", "--force", "look")
		return w.do("exec", "look", "sh", "-c", "readlink /proc/1/exe; head -c 10 /proc/1/environ; readlink /proc/1/fd/*; ls /proc/1/root/; readlink /proc/1/cwd").out
	}},
	{name: "A12 the working directory is a descriptor of the runtime's", edits: []remake.Edit{
		{bundleGo, "	op(CloseRest, none, 0, 0, 0, \"close all other descriptors\")\n", ""},
		{bundleGo, "	mask := uint64(0o022)", "	op(CloseRest, none, 0, 0, 0, \"close all other descriptors\")\n	mask := uint64(0o022)"},
		{bundleGo, "	op(TryChdir, c.bundle(\"/process/cwd\"), 0, 0, 0, \"change to %s as this user\", path.Clean(c.Plan.Payload.Dir))\n", ""},
		{containerGo, "	if err != nil {\n		return &settings.Error{What: fmt.Sprintf(\"cannot change to the working directory", "	if err != nil && len(p.Dir) < 9 {\n		return &settings.Error{What: fmt.Sprintf(\"cannot change to the working directory"},
	}, try: func(w *world) string {
		w.ok("run", "-d", "-b", w.bundle("in", forever, nil), "in")
		defer w.ok("delete", "--force", "in")
		got := ""
		for n := 3; n < 100; n += 1 {
			if !whole() && n > 12 && n < 60 {
				continue
			}
			dir := fmt.Sprintf("/proc/self/fd/%d", n)
			if r := w.do("exec", "--cwd", dir, "in", "true"); r.code == 0 {
				got += " exec " + dir
			}
			if n%8 != 0 && !whole() {
				continue
			}
			b := w.bundle("cwd", []string{"true"}, func(c object) { c["process"].(object)["cwd"] = dir })
			if r := w.do("run", "-b", b, "cwd"); r.code == 0 {
				got += " run " + dir
			}
			os.Remove(b + "/rootfs/link")
			must(w.t, os.Symlink(dir, b+"/rootfs/link"))
			b = w.bundle("cwd", []string{"true"}, func(c object) { c["process"].(object)["cwd"] = "/link" })
			if r := w.do("run", "-b", b, "cwd"); r.code == 0 {
				got += " link to " + dir
			}
		}
		return got
	}},
	{name: "B2 descriptors of the caller are inherited", edits: []remake.Edit{
		{lowerGo, "add(unix.SYS_CLOSE_RANGE, first, ^uintptr(0)>>32, 0)", "add(unix.SYS_GETPID)\n		_ = first"},
	}, try: func(w *world) string {
		b := w.bundle("fds", []string{"ls", "-l", "/proc/self/fd"}, nil)
		c := w.command("run", "-b", b, "fds")
		f, err := os.Open("/")
		must(w.t, err)
		defer f.Close()
		for range 100 {
			c.ExtraFiles = append(c.ExtraFiles, f)
		}
		r := w.run(c)
		if r.code != 0 {
			w.t.Fatal(r)
		}
		if strings.Count(r.out, "->") > 4 {
			return r.out
		}
		return ""
	}},
	{name: "A1 a mount goes through a link of the tree", edits: []remake.Edit{
		{"internal/sys/file.go", "const InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS", "const InRoot = 0"},
		{resolveGo, "return sys.Openat2(t.root, target, ", `return sys.Openat2(t.root, "."+target, `},
		{resolveGo, `sys.Openat2(t.root, done+"/", `, `sys.Openat2(t.root, "."+done+"/", `},
	}, try: func(w *world) string {
		out := filepath.Join(w.dir, "canary")
		got := ""
		for _, link := range []string{out, "../../canary", "/../../../" + out} {
			must(w.t, os.MkdirAll(out, 0o755))
			b := w.bundle("link", []string{"true"}, func(c object) {
				c["mounts"] = c["mounts"].([]any)[:1] // /proc
				for _, m := range []object{
					{"destination": "/evil/made", "type": "tmpfs", "source": "tmpfs"},
					{"destination": "/evil/file", "type": "bind", "source": "/etc/hostname", "options": []string{"bind", "ro"}},
				} {
					c["mounts"] = append(c["mounts"].([]any), m)
				}
			})
			os.Remove(b + "/rootfs/evil")
			must(w.t, os.Symlink(link, b+"/rootfs/evil"))
			w.do("run", "-b", b, "link")
			es, _ := os.ReadDir(out)
			for _, e := range es {
				got += " " + e.Name()
			}
			os.RemoveAll(out)
			os.RemoveAll(b + "/rootfs")
		}
		return got
	}},
	{name: "B4 the state names another process", edits: []remake.Edit{
		{stateGo, "return ok && ticks == d.Began", "_ = ticks\n	return ok"},
	}, try: func(w *world) string {
		w.ok("run", "-d", "-b", w.bundle("pid", forever, nil), "pid")
		// A process is known by its number and the hundredth of a second in which
		// it began: the victim must not be as old as the container.
		time.Sleep(30 * time.Millisecond)
		victim := w.command("--help")
		victim.Path, victim.Args = "/bin/sleep", []string{"sleep", "100"}
		must(w.t, victim.Start())
		ended := make(chan bool)
		go func() { victim.Wait(); close(ended) }()
		file := w.root + "/pid/state"
		text, err := os.ReadFile(file)
		must(w.t, err)
		real := fmt.Sprintf("\npid %d ", w.pid("pid"))
		if !strings.Contains(string(text), real) {
			w.t.Fatalf("the state has no %q: %s", real, text)
		}
		must(w.t, os.WriteFile(file, []byte(strings.Replace(string(text), real, fmt.Sprintf("\npid %d ", victim.Process.Pid), 1)), 0o600))
		w.do("kill", "pid", "KILL")
		w.do("delete", "--force", "pid")
		got := ""
		select {
		case <-ended:
			got = "another process was killed"
		case <-time.After(200 * time.Millisecond):
			victim.Process.Kill()
			<-ended
		}
		return got
	}},
	{name: "B1 B3 one process more gives the next a way to the runtime", edits: []remake.Edit{
		{lifeGo, "	if !tracing && traces(&s) {", "	if false {"},
		{lifeGo, "	if tracing {", "	if false {"},
	}, try: func(w *world) string {
		w.ok("run", "-d", "-b", w.bundle("more", forever, nil), "more")
		defer w.ok("delete", "--force", "more")
		w.ok("exec", "--cap", "CAP_SYS_PTRACE", "more", "true")
		// An exec that waits in a frozen container can be looked at.
		w.ok("pause", "more")
		c := w.command("exec", "--ignore-paused", "more", "true")
		must(w.t, c.Start())
		defer c.Wait()
		defer w.ok("resume", "more")
		n := -1
		w.soon("the runtime runs", func() bool {
			time.Sleep(100 * time.Millisecond)
			var err error
			n, err = unix.Open(fmt.Sprintf("/proc/%d/exe", c.Process.Pid), unix.O_PATH, 0)
			return err == nil
		})
		defer unix.Close(n)
		exe, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n))
		must(w.t, err)
		if exe != "/" && !strings.HasPrefix(exe, "/memfd:") {
			return "exec runs " + exe
		}
		return ""
	}},
	{name: "C4 a cgroup outside", edits: []remake.Edit{
		{layoutGo, "clean := path.Clean(\"/\" + cgroupsPath)", "clean := cgroupsPath"},
	}, try: func(w *world) (got string) {
		// The runtime is in a cgroup, and the bundle wants one above it.
		var script string
		tops, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		for _, top := range append(tops, "/sys/fs/cgroup/cgroup.procs") {
			own := filepath.Dir(top) + w.cgroups + "/own"
			if _, err := os.Stat(top); err != nil || os.MkdirAll(own, 0o755) != nil {
				continue
			}
			defer os.Remove(filepath.Dir(own))
			defer os.Remove(own)
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				if all, err := os.ReadFile(filepath.Dir(top) + "/" + f); err == nil {
					os.WriteFile(filepath.Dir(own)+"/"+f, all, 0)
					os.WriteFile(own+"/"+f, all, 0)
				}
			}
			script += "echo 0 >" + own + "/cgroup.procs || exit 9; "
		}
		name := "escaped" + w.cgroups[1:]
		b := w.bundle("cg", forever, func(c object) { c["linux"].(object)["cgroupsPath"] = "../../../" + name })
		if r := w.run(exec.Command("sh", "-c", script+fmt.Sprintf("exec %s --root %s run -d -b %s cg", w.path, w.root, b))); r.code == 9 {
			w.t.Fatal(r)
		}
		found, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
		if _, err := os.Stat("/sys/fs/cgroup/" + name); err == nil {
			found = append(found, name)
		}
		w.do("delete", "--force", "cg")
		return strings.Join(found, " ")
	}},
}

// TestHostile: with LAUNCH_TEST=faults also against the runtimes without a
// defence, each of which has to be built.
func TestHostile(t *testing.T) {
	for i, a := range attacks {
		t.Run(strings.ReplaceAll(a.name, "/", "|"), func(t *testing.T) {
			w := theWorld(t)
			if got := a.try(w); got != "" {
				t.Errorf("got %s", got)
			}
			if _, err := remake.Overlay(t.TempDir(), a.edits...); err != nil {
				t.Error(err)
			}
			if t.Failed() || !whole() {
				return
			}
			defer func() {
				// Who falls leaves things behind.
				left, _ := filepath.Glob("/sys/fs/cgroup/*" + w.cgroups)
				for _, dir := range append(left, "/sys/fs/cgroup"+w.cgroups) {
					os.Remove(dir)
				}
			}()
			if len(a.edits) > 0 {
				w.path = w.build(fmt.Sprint("without-", i), "", a.edits...)
				if a.try(w) == "" {
					t.Error("a runtime without the defence withstands it, too: the attack proves nothing")
				}
			}
			if name, _, ok := strings.Cut(a.peer, " "); ok {
				old := ""
				if path, err := exec.LookPath(name); err == nil {
					old = path
				}
				if old == "" || !strings.Contains(Named(t, old).Version, strings.Fields(a.peer)[1]) {
					t.Logf("no %s here, which falls", a.peer)
					return
				}
				w.path = old
				if a.try(w) == "" {
					t.Errorf("%s withstands it", a.peer)
				}
			}
		})
	}
}
