package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// container makes a bundle whose root says who it is.
func container(t *testing.T, who, script string, users bool) (dir string) {
	t.Helper()
	dir = filepath.Join(tree.Scratch(t), name+"-"+who)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tree.Fresh(t, tree.Tiny(t), filepath.Join(dir, "rootfs"))
	kinds := []map[string]string{{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "network"}, {"type": "uts"}, {"type": "cgroup"}}
	linux := map[string]any{}
	if users {
		kinds = append(kinds, map[string]string{"type": "user"})
		linux["uidMappings"] = []map[string]int{{"containerID": 0, "hostID": 1310720, "size": 65536}}
		linux["gidMappings"] = linux["uidMappings"]
	}
	linux["namespaces"] = kinds
	b, err := json.Marshal(map[string]any{
		"ociVersion": "1.2.0", "hostname": who, "root": map[string]string{"path": "rootfs"}, "linux": linux,
		"process": map[string]any{"cwd": "/", "args": []string{"/bin/busybox", "ash", "-c", script}, "env": []string{"PATH=/bin:/usr/bin"}, "user": map[string]int{"uid": 0, "gid": 0},
			"capabilities": map[string]any{"bounding": caps, "effective": caps, "permitted": caps}},
		"mounts": []map[string]any{{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs"}, {"destination": "/dev/mqueue", "type": "mqueue"}, {"destination": "/mnt", "type": "tmpfs"}},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rootfs", "who"), []byte(who+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestJoin: two containers in one machine have roots, mounts, host names and
// cgroups of their own, share network, ipc and pids, and end one without the
// other, with all that they have started.
func TestJoin(t *testing.T) {
	tree.NeedRoot(t)
	l := stage.Launch(t)
	for kind, args := range map[string][]string{
		"plain": {"--private-network"},
		"users": {"--private-network", "--private-users=1310720:65536", "--private-users-ownership=map"},
	} {
		t.Run(kind, func(t *testing.T) {
			s := stage.New(t, stage.Unified)
			users := kind == "users"
			start := func(who string, args ...string) *stage.Run {
				t.Helper()
				return s.Start(l.Env, append([]string{l.Path, "--quiet", "--machine=" + name + "-" + who, "--register=no", "--keep-unit", "--console=pipe"}, args...)...)
			}
			pod := start("pod", append(append([]string{"--directory=" + tree.Copy(t, tree.Tiny(t)), "--resolv-conf=off", "--timezone=off"}, args...), "/bin/busybox", "ash", "-c",
				"for n in net ipc pid user mnt uts; do readlink /proc/self/ns/$n; done; echo up; while [ ! -e /dev/mqueue/stop ]; do sleep 0.1; done; echo down")...)
			await := func(r *stage.Run, words string) {
				t.Helper()
				if err := r.Await(words, most); err != nil {
					t.Fatalf("%v\n%s", err, r.Out)
				}
			}
			await(pod, "up\n")
			const find = `for p in /proc/[0-9]*; do [ "$(tr '\0' ' ' <$p/cmdline)" = "sleep 1234 " ] && echo sees; done 2>/dev/null; `
			const begin = `for n in net ipc pid user mnt uts; do readlink /proc/self/ns/$n; done; cat /who; hostname; : >/dev/mqueue/WHO; `
			// One has a process of its own that outlives its first one, unless
			// somebody ends it; the other serves it by the network.
			one := container(t, "one", strings.ReplaceAll(begin, "WHO", "one")+`: >/mnt/one; (trap "" TERM HUP; exec sleep 1234) & : >/dev/mqueue/child
				until nc 127.0.0.1 7777 2>/dev/null; do sleep 0.1; done; echo up; while [ ! -e /dev/mqueue/end ]; do sleep 0.1; done; exit 3`, users)
			two := container(t, "two", strings.ReplaceAll(begin, "WHO", "two")+`until [ -e /dev/mqueue/child ]; do sleep 0.1; done; ls /mnt; `+find+`echo up
				echo served | nc -l -p 7777; while [ ! -e /dev/mqueue/over ]; do sleep 0.1; done; `+find+`exit 4`, users)
			r1, r2 := start("one", "--oci-bundle="+one, "--join="+name+"-pod"), start("two", "--oci-bundle="+two, "--join="+name+"-pod")
			await(r2, "up\n")
			await(r1, "up\n")
			lines := func(r *stage.Run) []string { return strings.Split(strings.TrimSpace(r.Out.String()), "\n") }
			p, a, b := lines(pod), lines(r1), lines(r2)
			if len(a) < 10 || len(b) < 10 {
				t.Fatalf("they say\n%s\n%s", r1.Out, r2.Out)
			}
			for i, n := range []string{"net", "ipc", "pid", "user", "mnt", "uts"} {
				if shared := i < 4; (p[i] == a[i]) != shared || (p[i] == b[i]) != shared || (a[i] == b[i]) != shared {
					t.Errorf("%s: %s, %s and %s", n, p[i], a[i], b[i])
				}
			}
			if got := strings.Join(a[6:], " "); got != "one one served up" {
				t.Errorf("the first says %q", got)
			}
			if got := strings.Join(b[6:], " "); got != "two two sees up" {
				t.Errorf("the second says %q", got)
			}
			leader, err := pod.Leader(most)
			if err != nil {
				t.Fatal(err)
			}
			touch := func(file string) {
				t.Helper()
				args := []string{"--target=" + fmt.Sprint(leader), "--mount"}
				if users {
					args = append(args, "--user", "--setuid=0", "--setgid=0")
				}
				if out, err := exec.Command("nsenter", append(args, "/bin/busybox", "touch", "/dev/mqueue/"+file)...).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			end := func(r *stage.Run, want int) {
				t.Helper()
				if code, err := r.Code(most); code != want || err != nil {
					t.Fatalf("status %d, %v, want %d\n%s", code, err, want, r.Out)
				}
			}
			touch("end")
			end(r1, 3)
			touch("over")
			end(r2, 4)
			if out := r2.Out.String(); strings.Count(out, "sees") != 1 {
				t.Errorf("the process that the first container has left is still there:\n%s", out)
			}
			// Not being the first of its pid namespace, who dies of SIGHUP wants no
			// reboot.
			three := start("three", "--oci-bundle="+container(t, "three", "echo up; kill -HUP $$; sleep 60", users), "--join="+name+"-pod")
			if code, err := three.Code(most); code != 1 || err != nil || strings.Count(three.Out.String(), "up\n") != 1 || !strings.Contains(three.Out.String(), "SIGHUP") {
				t.Errorf("status %d, %v\n%s", code, err, three.Out)
			}
			touch("stop")
			end(pod, 0)
			if out := s.Look("ls", "/run/launch"); strings.Contains(out, name) {
				t.Errorf("left in /run/launch: %s", out)
			}
		})
	}
}

// TestJoinRefused: machines that aren't there, and users that don't go together.
func TestJoinRefused(t *testing.T) {
	tree.NeedRoot(t)
	l := stage.Launch(t)
	s := stage.New(t, stage.Unified)
	pod := s.Start(l.Env, l.Path, "--quiet", "--machine="+name+"-pod", "--register=no", "--keep-unit", "--console=pipe", "--directory="+tree.Copy(t, tree.Tiny(t)),
		"--resolv-conf=off", "--timezone=off", "/bin/busybox", "ash", "-c", "echo up; sleep 1000")
	if err := pod.Await("up\n", most); err != nil {
		t.Fatalf("%v\n%s", err, pod.Out)
	}
	defer func() {
		pod.Process.Signal(syscall.SIGTERM)
		pod.Code(most)
	}()
	plain, users := container(t, "plain", "echo it runs", false), container(t, "users", "echo it runs", true)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no such machine is running", []string{"--oci-bundle=" + plain, "--join=" + name + "-other"}},
		{"it has the host's users", []string{"--oci-bundle=" + users, "--join=" + name + "-pod"}},
		{"without a bundle", []string{"--directory=" + plain + "/rootfs", "--join=" + name + "-pod"}},
	} {
		r := s.Start(l.Env, append([]string{l.Path, "--register=no", "--keep-unit", "--console=pipe", "--machine=" + name}, c.args...)...)
		if code, err := r.Code(most); code != 1 || err != nil || !strings.Contains(r.Out.String(), c.want) {
			t.Errorf("status %d, %v, want 1 with %q\n%s", code, err, c.want, r.Out)
		}
	}
}
