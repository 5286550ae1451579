package oci

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTimeNamespace: what joins a container, by exec or by the path of its
// namespace, has its clocks.
func TestTimeNamespace(t *testing.T) {
	w := theWorld(t)
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip(err)
	}
	offsets := func(l object) {
		l["namespaces"] = append(l["namespaces"].([]any), object{"type": "time"})
		l["timeOffsets"] = object{"monotonic": object{"secs": 5000}}
	}
	b := w.bundle("t", forever, func(c object) { offsets(c["linux"].(object)) })
	w.ok("run", "-d", "-b", b, "t")
	ns := func(pid int) string {
		s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", pid))
		must(t, err)
		return s
	}
	of := ns(w.pid("t"))
	// And so have its hooks; that they fail is told as always.
	hook := func(name, script string, timeout int) string {
		return w.bundle(name, forever, func(c object) {
			offsets(c["linux"].(object))
			h := object{"path": "/bin/sh", "args": []string{"sh", "-c", script}, "env": []string{"PATH=/bin:/usr/bin"}, "timeout": timeout}
			early := maps.Clone(h)
			early["args"] = []string{"sh", "-c", "readlink /proc/self/ns/time >" + filepath.Join(w.dir, name, "rootfs/tmp/early")}
			c["hooks"] = object{"createContainer": []any{early}, "startContainer": []any{h}}
		})
	}
	hb := hook("th", "{ for n in time pid mnt; do readlink /proc/self/ns/$n; done; echo $PPID; } >/tmp/clocks", 10)
	w.ok("create", "-b", hb, "th")
	early := strings.TrimSpace(w.ok("exec", "th", "readlink", "/proc/self/ns/time"))
	w.ok("start", "th")
	// A start doesn't wait until the payload is executed, which is when the
	// process is in its namespace itself.
	comm := func() string { text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", w.pid("th"))); return string(text) }
	for end := time.Now().Add(time.Minute); comm() != forever[0]+"\n" && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if now := ns(w.pid("th")); early != now {
		t.Errorf("exec before the start ran in %s, the payload does in %s", early, now)
	}
	var inside []string
	for _, n := range []string{"time", "pid", "mnt"} {
		s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", w.pid("th"), n))
		must(t, err)
		inside = append(inside, s)
	}
	if got, want := lines(hb+"/rootfs/tmp/clocks"), append(inside, "0"); !slices.Equal(got, want) {
		t.Errorf("a hook ran in %q, want %q", got, want)
	}
	if got := lines(hb + "/rootfs/tmp/early"); !slices.Equal(got, inside[:1]) {
		t.Errorf("a createContainer hook ran in %q, want %q", got, inside[:1])
	}
	w.ok("delete", "--force", "th")
	for words, b := range map[string]string{"exit status 5: said": hook("th5", "echo said; exit 5", 10), "timeout": hook("th6", "sleep 100", 1)} {
		w.ok("create", "-b", b, "th")
		w.fails(1, words, "start", "th")
		w.ok("delete", "th")
	}
	if s := w.ok("exec", "t", "sh", "-c", "readlink /proc/self/ns/time; cat /proc/self/timens_offsets"); !strings.HasPrefix(s, of+"\n") || !strings.Contains(s, "5000") {
		t.Errorf("exec: %q, want %s", s, of)
	}
	w.fails(6, "", "exec", "t", "sh", "-c", "exit 6")
	w.fails(255, "executable file not found", "exec", "t", "nonesuch")
	// A filter that comes early, and one that the stub installs.
	for _, nnp := range []bool{false, true} {
		name := fmt.Sprint("j", nnp)
		b := w.bundle(name, []string{"sh", "-c", "readlink /proc/self/ns/time; echo $$; mkdir /tmp/x || exit 4"}, func(c object) {
			l := c["linux"].(object)
			l["namespaces"] = append(l["namespaces"].([]any), object{"type": "time", "path": fmt.Sprintf("/proc/%d/ns/time", w.pid("t"))})
			l["seccomp"] = object{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []any{object{"names": []any{"mkdir", "mkdirat"}, "action": "SCMP_ACT_ERRNO"}}}
			c["process"].(object)["noNewPrivileges"] = nnp
		})
		if r := w.do("run", "-b", b, name); r.code != 4 || r.out != of+"\n1\n" {
			t.Errorf("noNewPrivileges=%v: %v, want %s", nnp, r, of)
		}
	}
	// Of a container in whose first process's place another one is born, the
	// number is that one's.
	b = w.bundle("c", forever, func(c object) {
		l := c["linux"].(object)
		l["namespaces"] = append(l["namespaces"].([]any), object{"type": "time", "path": fmt.Sprintf("/proc/%d/ns/time", w.pid("t"))})
	})
	w.ok("create", "-b", b, "c")
	if got := ns(w.pid("c")); got != of {
		t.Errorf("created in %s, want %s", got, of)
	}
	w.ok("start", "c")
	w.ok("exec", "c", "true")
	w.ok("kill", "c", "9")
	w.ok("delete", "-f", "c")
}

// TestExecJoinedPID: one process more comes into a container with users of its own in
// another container's pid namespace, which has not those users. The container of that
// pid namespace may trace or not.
func TestExecJoinedPID(t *testing.T) {
	w := theWorld(t)
	for _, edit := range []func(object){nil, traced} {
		w.ok("run", "-d", "-b", w.bundle("first", forever, edit), "first")
		second := w.bundle("second", forever, func(c object) {
			l := c["linux"].(object)
			for _, n := range l["namespaces"].([]any) {
				if n.(object)["type"] == "pid" {
					n.(object)["path"] = fmt.Sprintf("/proc/%d/ns/pid", w.pid("first"))
				}
			}
			l["namespaces"] = append(l["namespaces"].([]any), object{"type": "user"})
			m := []any{object{"containerID": 0, "hostID": 100000, "size": 1000}}
			l["uidMappings"], l["gidMappings"] = m, m
		})
		w.ok("run", "-d", "-b", second, "second")
		for _, in := range []string{"first", "second"} {
			both := w.ok("exec", in, "sh", "-c", "readlink /proc/self/ns/pid; readlink /proc/1/ns/pid; cat /proc/self/uid_map")
			f := strings.Fields(both)
			if len(f) < 4 || in == "first" && f[0] != f[1] || in == "second" && !strings.HasSuffix(strings.Join(f, " "), "0 100000 1000") {
				t.Errorf("exec in the %s one: %q", in, both)
			}
		}
		w.ok("delete", "--force", "second")
		w.ok("delete", "--force", "first")
	}
}

// TestUsersNamespace: maps that are told must be those of the users that are
// joined.
func TestUsersNamespace(t *testing.T) {
	w := theWorld(t)
	maps := func(l object, from int) {
		m := []any{object{"containerID": 0, "hostID": from, "size": 1000}}
		l["uidMappings"], l["gidMappings"] = m, m
	}
	b := w.bundle("u", forever, func(c object) {
		l := c["linux"].(object)
		l["namespaces"] = append(l["namespaces"].([]any), object{"type": "user"})
		maps(l, 100000)
	})
	w.ok("run", "-d", "-b", b, "u")
	for _, from := range []int{0, 100000, 200000} {
		b := w.bundle("v", []string{"cat", "/proc/self/uid_map"}, func(c object) {
			l := c["linux"].(object)
			l["namespaces"] = append(l["namespaces"].([]any), object{"type": "user", "path": fmt.Sprintf("/proc/%d/ns/user", w.pid("u"))})
			if from > 0 {
				maps(l, from)
			}
		})
		if from == 200000 {
			w.fails(1, "non-matching mapping", "run", "-b", b, "v")
		} else if got := strings.Fields(w.ok("run", "-b", b, "v")); strings.Join(got, " ") != "0 100000 1000" {
			t.Errorf("mappings from %d: %q", from, got)
		}
	}
	// A terminal of exec belongs to the user whose it is inside.
	b = w.bundle("v", forever, func(c object) {
		l := c["linux"].(object)
		l["namespaces"] = append(l["namespaces"].([]any), object{"type": "user", "path": fmt.Sprintf("/proc/%d/ns/user", w.pid("u"))})
	})
	w.ok("run", "-d", "-b", b, "v")
	for _, id := range []string{"u", "v"} {
		for _, user := range []string{"0", "7"} {
			if got := w.ok("exec", "-t", "-u", user, id, "stat", "-L", "-c", "%u:%g", "/proc/self/fd/0"); strings.TrimSpace(got) != user+":5" {
				t.Errorf("the terminal of user %s in %s belongs to %q", user, id, got)
			}
		}
	}
	w.ok("delete", "--force", "v") // before the one that made the cgroup above both
}

// TestUsersJoin: users of the container's own, and namespaces of others.
func TestUsersJoin(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("host", forever, nil)
	w.ok("run", "-d", "-b", b, "host")
	pid := w.pid("host")
	kinds := map[string]string{"network": "net", "pid": "pid", "uts": "uts", "ipc": "ipc"}
	for name, joined := range map[string][]string{"one": {"network"}, "pids": {"pid"}, "all": {"network", "pid", "uts", "ipc"}} {
		b := w.bundle(name, []string{"sh", "-c", "id -u; for n in net pid uts ipc; do readlink /proc/self/ns/$n; done; exit 5"}, func(c object) {
			list := []any{object{"type": "mount"}, object{"type": "user"}}
			for kind, file := range kinds {
				n := object{"type": kind}
				if slices.Contains(joined, kind) {
					n["path"] = fmt.Sprintf("/proc/%d/ns/%s", pid, file)
				}
				list = append(list, n)
			}
			m := []any{object{"containerID": 0, "hostID": 100000, "size": 1000}}
			l := c["linux"].(object)
			l["namespaces"], l["uidMappings"], l["gidMappings"] = list, m, m
			delete(c, "hostname")
			// A sysfs is to be had for a network of these users only.
			c["mounts"] = c["mounts"].([]any)[:1]
			delete(l, "maskedPaths")
			delete(l, "readonlyPaths")
		})
		must(t, exec.Command("chown", "-R", "100000:100000", b+"/rootfs").Run())
		r := w.do("run", "-b", b, name)
		got := strings.Fields(r.out)
		if r.code != 5 || len(got) != 5 || got[0] != "0" {
			t.Errorf("%s: %v", name, r)
			continue
		}
		for i, kind := range []string{"network", "pid", "uts", "ipc"} {
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kinds[kind]))
			must(t, err)
			if (got[i+1] == theirs) != slices.Contains(joined, kind) {
				t.Errorf("%s: the %s namespace is %s, theirs %s", name, kind, got[i+1], theirs)
			}
		}
	}
}

// TestQueues: the directory of the message queues belongs to the container's
// root, and that of somebody else's namespace stays whose it is.
func TestQueues(t *testing.T) {
	w := theWorld(t)
	const look = "stat -c %u:%g /dev/mqueue"
	w.ok("run", "-d", "-b", w.bundle("q", forever, nil), "q")
	for _, c := range []struct{ name, path, want string }{{"own", "", "0:0"}, {"joined", fmt.Sprintf("/proc/%d/ns/ipc", w.pid("q")), "65534:65534"}} {
		b := w.bundle(c.name, []string{"sh", "-c", look}, func(config object) {
			l := config["linux"].(object)
			ipc := object{"type": "ipc"}
			if c.path != "" {
				ipc["path"] = c.path
			}
			maps := []any{object{"containerID": 0, "hostID": 100000, "size": 1000}}
			l["namespaces"], l["uidMappings"], l["gidMappings"] = []any{object{"type": "mount"}, object{"type": "user"}, object{"type": "pid"}, ipc}, maps, maps
			delete(config, "hostname")
			config["mounts"] = slices.DeleteFunc(config["mounts"].([]any), func(m any) bool {
				to := m.(object)["destination"].(string)
				return strings.HasPrefix(to, "/sys") || to == "/dev/pts" // its group has no place in these users
			})
			delete(l, "maskedPaths")
			delete(l, "readonlyPaths")
		})
		must(t, exec.Command("chown", "-R", "100000:100000", b+"/rootfs").Run())
		if got := strings.TrimSpace(w.ok("run", "-b", b, c.name)); got != c.want {
			t.Errorf("%s: the queues belong to %s, want %s", c.name, got, c.want)
		}
	}
	if got := strings.TrimSpace(w.ok("exec", "q", "sh", "-c", look)); got != "0:0" {
		t.Errorf("the other's queues belong to %s now", got)
	}
}

// TestForeignCgroup: a cgroup with processes is somebody else's, and stays
// alive when a create that wanted it fails.
func TestForeignCgroup(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("a", forever, nil)
	w.ok("run", "-d", "-b", b, "a")
	w.fails(1, "container's cgroup is not empty", "run", "-b", b, "b")
	w.fails(1, "container's cgroup is not empty", "create", "-b", b, "b")
	w.ok("delete", "--force", "b")
	if s := w.state("a"); s != "running" {
		t.Errorf("the container whose cgroup it is: %q", s)
	}
	w.ok("exec", "a", "true")
}

// TestCgroupGone: a container whose processes somebody has moved to other
// cgroups, and whose own are gone, still runs, takes another process, and can be
// deleted.
func TestCgroupGone(t *testing.T) {
	w := theWorld(t)
	w.ok("run", "-d", "-b", w.bundle("a", forever, nil), "a")
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + w.cgroups + "/a")
	must(t, err)
	if len(dirs) == 0 {
		dirs = []string{"/sys/fs/cgroup" + w.cgroups + "/a"}
	}
	pid := w.pid("a")
	for _, dir := range dirs {
		// A group without limits, which the kernel lets have processes.
		must(t, os.MkdirAll(filepath.Dir(dir)+"/other", 0o755))
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if b, err := os.ReadFile(dir + "/" + f); err == nil && strings.Contains(dir, "/cpuset/") {
				must(t, os.WriteFile(filepath.Dir(dir)+"/other/"+f, b, 0o644))
			}
		}
		must(t, os.WriteFile(filepath.Dir(dir)+"/other/cgroup.procs", []byte(itoa(pid)), 0o644))
		w.soon("the cgroup is empty", func() bool { return os.Remove(dir) == nil })
	}
	if s := w.state("a"); s != "running" {
		t.Errorf("without its cgroup it is %q", s)
	}
	if r := w.ok("ps", "-f", "json", "a"); strings.TrimSpace(r) != "["+itoa(pid)+"]" {
		t.Errorf("its processes are %s", r)
	}
	w.ok("exec", "a", "true")
	w.fails(255, "executable file not found", "exec", "a", "nosuch")
	w.ok("delete", "--force", "a")
	for _, dir := range dirs {
		w.soon("the other group is empty", func() bool { return os.Remove(filepath.Dir(dir)+"/other") == nil })
		os.Remove(filepath.Dir(dir))
	}
}

// TestDeleteWaits: when a container without cgroups is deleted, its processes
// are gone, too; what takes cgroups says that there are none.
func TestDeleteWaits(t *testing.T) {
	w := theWorld(t)
	// The first process of a pid namespace has to collect all others.
	b := w.bundle("a", []string{"sh", "-c", "i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; echo >/tmp/ready; wait"}, nil)
	w.ok("--cgroup-manager=disabled", "run", "-d", "-b", b, "a")
	w.soon("all are there", func() bool { _, err := os.Stat(b + "/rootfs/tmp/ready"); return err == nil })
	// What takes a cgroup says whose is missing.
	w.fails(1, "linux.resources.pids.limit needs a cgroup of the container's own", "update", "--pids-limit", "7", "a")
	w.fails(1, "the container has no cgroup of its own", "pause", "a")
	w.fails(1, "linux.resources.pids.limit needs a cgroup of the container's own", "--cgroup-manager=disabled", "create", "-b",
		w.bundle("b", forever, func(c object) { c["linux"].(object)["resources"] = object{"pids": object{"limit": 7}} }), "b")
	pidfd, err := unix.PidfdOpen(w.pid("a"), 0)
	must(t, err)
	defer unix.Close(pidfd)
	w.ok("delete", "--force", "a")
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 0); n != 1 {
		t.Errorf("delete is done, and the first process isn't: %v", err)
	}
}

// TestCgroupOwner: the cgroup is the payload's where it can write to it.
func TestCgroupOwner(t *testing.T) {
	w := theWorld(t)
	// The directories of version 2, wherever that is mounted.
	owner := func(name string) (owners []uint32) {
		for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var st unix.Stat_t
			var fs unix.Statfs_t
			p := filepath.Join(top, w.cgroups, name)
			if unix.Statfs(p, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC && unix.Stat(p, &st) == nil {
				owners = append(owners, st.Uid)
			}
		}
		return owners
	}
	for i, c := range []struct {
		options []any
		ns      bool
		want    uint32
	}{{[]any{"ro"}, true, 0}, {[]any{"rw"}, true, 100005}, {[]any{"rw"}, false, 0}} {
		name := fmt.Sprint("o", i)
		b := w.bundle(name, forever, func(config object) {
			l := config["linux"].(object)
			var ns []any
			for _, n := range append(l["namespaces"].([]any), object{"type": "user"}) {
				if c.ns || n.(object)["type"] != "cgroup" {
					ns = append(ns, n)
				}
			}
			m := []any{object{"containerID": 0, "hostID": 100000, "size": 1000}}
			l["namespaces"], l["uidMappings"], l["gidMappings"] = ns, m, m
			config["process"].(object)["user"] = object{"uid": 5, "gid": 6}
			for _, m := range config["mounts"].([]any) {
				if m := m.(object); m["destination"] == "/sys/fs/cgroup" {
					m["options"] = c.options
				}
			}
		})
		must(t, exec.Command("chown", "-R", "100000:100000", b+"/rootfs").Run())
		w.ok("run", "-d", "-b", b, name)
		got := owner(name)
		w.ok("delete", "--force", name)
		if len(got) == 0 {
			t.Skip("no cgroup of version 2 here")
		}
		for _, uid := range got {
			if uid != c.want {
				t.Errorf("%v with a cgroup namespace %v: user %d owns it, want %d", c.options, c.ns, uid, c.want)
			}
		}
	}
}

// TestEndBeforeStart: what would end a payload ends who waits in its place.
func TestEndBeforeStart(t *testing.T) {
	w := theWorld(t)
	for _, sig := range []string{"TERM", "INT", "HUP", "QUIT", "KILL"} {
		b := w.bundle("e", forever, nil)
		w.ok("create", "-b", b, "e")
		w.ok("kill", "e", "USR1")
		if s := w.state("e"); s != "created" {
			t.Errorf("after SIGUSR1: %q", s)
		}
		w.ok("kill", "e", sig)
		w.soon("stopped after "+sig, func() bool { return w.state("e") == "stopped" })
		w.ok("delete", "e")
	}
}
