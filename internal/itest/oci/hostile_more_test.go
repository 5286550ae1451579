package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/remake"
	"launch/internal/itest/tree"
)

func init() { attacks = append(attacks, more...) }

// canary is a directory outside of the container's tree, with a file.
func (w *world) canary() string {
	dir := filepath.Join(w.dir, "canary")
	os.RemoveAll(dir)
	must(w.t, os.MkdirAll(dir, 0o755))
	must(w.t, os.WriteFile(dir+"/file", []byte("outside"), 0o600))
	return dir
}

// changed says what became of a canary.
func changed(dir string) (got string) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if p != dir && p != dir+"/file" {
			got += " " + p
		}
		return err
	})
	st, err := os.Lstat(dir + "/file")
	text, _ := os.ReadFile(dir + "/file")
	if err != nil || string(text) != "outside" || st.Mode().Perm() != 0o600 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		got += fmt.Sprintf(" the file: %q %v", text, st)
	}
	return got
}

// onlyProc leaves a bundle's tree as it is, but for /proc.
func onlyProc(c object) { c["mounts"] = c["mounts"].([]any)[:1] }

var more = []attack{
	{name: "A2 A6 devices, links and the console go through a link that is the tree's /dev", peer: "runc 1.1", edits: []remake.Edit{
		{"internal/sys/file.go", "const InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS", "const InRoot = 0"},
		{resolveGo, "return sys.Openat2(t.root, target, ", `return sys.Openat2(t.root, "."+target, `},
		{resolveGo, `sys.Openat2(t.root, done+"/", `, `sys.Openat2(t.root, "."+done+"/", `},
	}, try: func(w *world) (got string) {
		for _, tty := range []bool{false, true} {
			out := w.canary()
			b := w.bundle("dev", []string{"true"}, func(c object) {
				onlyProc(c)
				c["process"].(object)["terminal"] = tty
			})
			os.RemoveAll(b + "/rootfs/dev")
			must(w.t, os.Symlink(out, b+"/rootfs/dev"))
			w.do("run", "-b", b, "dev")
			w.do("delete", "--force", "dev")
			got += changed(out)
			os.RemoveAll(b + "/rootfs")
		}
		return got
	}},
	{name: "A3 A8 something is made in a read-only source", edits: []remake.Edit{
		{attachGo, "	if s.Attr|s.Clear|s.Rest != 0 {", "	if false {"},
	}, try: func(w *world) string {
		out := w.canary()
		b := w.bundle("ro", []string{"true"}, func(c object) {
			c["mounts"] = append(c["mounts"].([]any),
				object{"destination": "/mnt", "type": "bind", "source": out, "options": []string{"bind", "ro"}},
				object{"destination": "/mnt/missing/deep", "type": "tmpfs", "source": "tmpfs"})
		})
		w.do("run", "-b", b, "ro")
		return changed(out)
	}},
	{name: "A4 a mask shows what the tree's null device is a link to", edits: []remake.Edit{
		{attach2Go, "sys.OpenTree(t.host, \"dev/null\", unix.OPEN_TREE_CLONE|unix.AT_SYMLINK_NOFOLLOW)", "sys.OpenTree(t.root, \"dev/null\", unix.OPEN_TREE_CLONE)"},
		{attach2Go, "if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR", "if false && (st.Mode&unix.S_IFMT != unix.S_IFCHR"},
	}, try: func(w *world) string {
		dev := filepath.Join(w.dir, "devices")
		must(w.t, os.MkdirAll(dev, 0o755))
		os.Remove(dev + "/null")
		must(w.t, os.Symlink("/proc/version", dev+"/null"))
		b := w.bundle("mask", []string{"cat", "/etc/secret"}, func(c object) {
			onlyProc(c)
			c["mounts"] = append(c["mounts"].([]any), object{"destination": "/dev", "type": "bind", "source": dev, "options": []string{"bind"}})
			c["linux"].(object)["maskedPaths"] = []any{"/etc/secret"}
		})
		must(w.t, os.WriteFile(b+"/rootfs/etc/secret", []byte("inside"), 0o644))
		return w.do("run", "-b", b, "mask").out
	}},
	{name: "A5 standard streams are exchanged for a file of the tree's", edits: []remake.Edit{
		{attach2Go, "return errors.New(\"something else is there already\")", "_ = errors.New\n			return nil"},
		{containerGo, "func (b *builder) stdioExact(add func(nr uintptr, args ...uintptr) child.Step) {", "func (b *builder) stdioExact(add func(nr uintptr, args ...uintptr) child.Step) {\n	add(unix.SYS_CLOSE, 1)\n	add(unix.SYS_OPENAT, atFdcwd, b.prog.String(\"/dev/null\"), unix.O_WRONLY)"},
	}, try: func(w *world) string {
		out := w.canary()
		b := w.bundle("std", []string{"echo", "said"}, func(c object) {
			onlyProc(c)
			c["mounts"] = append(c["mounts"].([]any), object{"destination": "/vol", "type": "bind", "source": out, "options": []string{"bind"}})
			c["process"].(object)["user"] = object{"uid": 7, "gid": 7}
		})
		must(w.t, os.MkdirAll(b+"/rootfs/dev", 0o755))
		os.Remove(b + "/rootfs/dev/null")
		must(w.t, os.Symlink("/vol/file", b+"/rootfs/dev/null"))
		c := w.command("run", "-b", b, "std")
		said, err := c.StdoutPipe()
		must(w.t, err)
		must(w.t, c.Start())
		text := make([]byte, 100)
		n, _ := said.Read(text)
		failed := c.Wait()
		w.do("delete", "--force", "std")
		if got := changed(out); got != "" {
			return got
		}
		if failed == nil && string(text[:n]) != "said\n" {
			return fmt.Sprintf("the output is %q", text[:n])
		}
		return ""
	}},
	{name: "A7 kernel parameters are written to a /proc of the bundle's volume", edits: []remake.Edit{
		{containerGo, "sys.WriteFile(b.tree.Host(), name, s.Value)", "sys.WriteFile(b.tree.Root(), name, s.Value)"},
	}, try: func(w *world) string {
		out := w.canary()
		fake := filepath.Join(w.dir, "fake")
		os.RemoveAll(fake)
		must(w.t, os.MkdirAll(fake+"/sys/net/ipv4", 0o755))
		must(w.t, os.Symlink(out+"/file", fake+"/sys/net/ipv4/x"))
		must(w.t, os.WriteFile(fake+"/sys/net/ipv4/ip_forward", []byte("old"), 0o644))
		b := w.bundle("proc", []string{"cat", "/mnt/p/sys/net/ipv4/ip_forward"}, func(c object) {
			c["mounts"] = append([]any{object{"destination": "/mnt/p", "type": "proc", "source": "proc"}, object{"destination": "/proc", "type": "bind", "source": fake, "options": []string{"bind"}}},
				c["mounts"].([]any)[1:]...)
			l := c["linux"].(object)
			l["sysctl"] = object{"net.ipv4.ip_forward": "1"}
			delete(l, "maskedPaths")
			delete(l, "readonlyPaths")
		})
		r := w.do("run", "-b", b, "proc")
		if text, _ := os.ReadFile(fake + "/sys/net/ipv4/ip_forward"); string(text) != "old" {
			return "written to the volume"
		}
		if r.code == 0 && r.out != "1\n" {
			return "it started without: " + r.String()
		}
		return changed(out)
	}},
	{name: "A9 the list of users is a FIFO, or outside", edits: []remake.Edit{
		{containerGo, "passwd, err := sys.ReadIn(root, \"/etc/passwd\", sys.InRoot, 1<<20)", "passwd, err := sys.ReadFile(root, \"etc/passwd\", 1<<20)"},
	}, try: func(w *world) string {
		b := w.bundle("users", []string{"sh", "-c", "echo $HOME"}, nil)
		must(w.t, unix.Mkfifo(b+"/rootfs/etc/passwd", 0o666))
		defer os.Remove(b + "/rootfs/etc/passwd")
		c := w.command("run", "-b", b, "users")
		must(w.t, c.Start())
		done := make(chan error, 1)
		go func() { done <- c.Wait() }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			c.Process.Kill()
			<-done
			w.do("delete", "--force", "users")
			return "it hangs"
		}
		for _, to := range []string{w.canary() + "/file", "../../canary/file", "/dev/zero", "/proc/self/fd/3"} {
			os.WriteFile(w.dir+"/canary/file", []byte("root:x:0:0::/outside:/bin/sh\n"), 0o600)
			os.Remove(b + "/rootfs/etc/passwd")
			must(w.t, os.Symlink(to, b+"/rootfs/etc/passwd"))
			if r := w.do("run", "-b", b, "users"); strings.Contains(r.out, "outside") {
				return r.out
			}
		}
		return ""
	}},
	{name: "B7 capabilities that nobody asked for", edits: []remake.Edit{
		{containerGo, "		caps.Inheritable &= have\n		caps.Ambient &= caps.Permitted & caps.Inheritable", "		caps.Inheritable = caps.Permitted\n		caps.Ambient = caps.Permitted"},
	}, try: func(w *world) (got string) {
		b := w.bundle("caps", forever, nil)
		w.ok("run", "-d", "-b", b, "caps")
		defer w.ok("delete", "--force", "caps")
		for _, args := range [][]string{{}, {"--cap", "CAP_CHOWN"}, {"--user", "1000"}, {"--user", "1000", "--cap", "CAP_CHOWN"}} {
			text := w.ok(append(append([]string{"exec"}, args...), "caps", "cat", "/proc/self/status")...)
			for _, line := range []string{"CapInh:\t0000000000000000", "CapAmb:\t0000000000000000"} {
				if !strings.Contains(text, line) {
					got += fmt.Sprintf(" %q: no %s", args, line)
				}
			}
		}
		return got
	}},
	{name: "B8 the caller's groups", edits: []remake.Edit{
		{lowerGo, "add(unix.SYS_SETGROUPS, uintptr(len(groups)), p.Uint32s(groups))", "add(unix.SYS_GETPID)"},
	}, try: func(w *world) string {
		b := w.bundle("groups", []string{"cat", "/proc/self/status"}, nil)
		c := w.command("run", "-b", b, "groups")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{4242}}}
		if r := w.run(c); r.code != 0 || strings.Contains(r.out, "4242") {
			return r.String()
		}
		return ""
	}},
	{name: "B9 the caller's keys", edits: []remake.Edit{
		{lowerGo, "if b.create0 != nil && b.create0.KeepKeyring {", "if b.create0 != nil {"},
	}, try: func(w *world) (got string) {
		b := w.bundle("keys", []string{"/bin/probe"}, nil)
		probe, err := os.ReadFile(tree.Tiny(w.t) + "/usr/bin/probe")
		must(w.t, err)
		must(w.t, os.WriteFile(b+"/rootfs/bin/probe", probe, 0o755))
		done := make(chan bool)
		go func() {
			// The keyring is the thread's, which ends with this.
			runtime.LockOSThread()
			defer close(done)
			if _, err := unix.KeyctlJoinSessionKeyring("planted"); err != nil {
				return
			}
			if _, err := unix.AddKey("user", "planted-key", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
				return
			}
			if r := w.do("run", "-b", b, "keys"); r.code != 0 || strings.Contains(r.out, "planted") {
				got = r.String()
			}
		}()
		<-done
		return got
	}},
	{name: "B11 lengths around 2^16 and far above", edits: []remake.Edit{
		{"internal/stub/stub.go", "func Image(o Options) []byte {", "func Image(o Options) []byte {\n	for i, e := range o.Env {\n		o.Env[i] = e[:len(e)&0xffff]\n	}"},
	}, try: func(w *world) (got string) {
		for _, n := range []int{1<<16 - 1, 1 << 16, 1<<16 + 1, 100 << 10} {
			b := w.bundle("long", []string{"sh", "-c", "echo ${#X} $#", "sh", strings.Repeat("a", n)}, func(c object) {
				p := c["process"].(object)
				p["env"] = append(p["env"].([]any), "X="+strings.Repeat("x", n-2))
				c["annotations"] = object{"a": strings.Repeat("b", n)}
			})
			if r := w.do("run", "-b", b, "long"); r.out != fmt.Sprintf("%d 1\n", n-2) {
				got += fmt.Sprintf(" %d: %.200s", n, r)
			}
		}
		b := w.bundle("many", []string{"sh", "-c", "echo $#; mount | busybox wc -l"}, func(c object) {
			p := c["process"].(object)
			p["args"] = append([]any{"sh", "-c", "echo $#; busybox wc -l </proc/self/mountinfo"}, make([]any, 0)...)
			for range 20001 {
				p["args"] = append(p["args"].([]any), "a")
			}
			for i := range 300 {
				c["mounts"] = append(c["mounts"].([]any), object{"destination": fmt.Sprintf("/mnt/%d", i), "type": "tmpfs", "source": "tmpfs"})
			}
		})
		if r := w.do("run", "-b", b, "many"); !strings.HasPrefix(r.out, "20000\n3") {
			got += fmt.Sprintf(" many: %.200s", r)
		}
		// What can't be is refused, and nothing is left.
		b = w.bundle("huge", []string{"true"}, func(c object) {
			c["process"].(object)["env"] = []any{"X=" + strings.Repeat("x", 20<<20)}
		})
		if r := w.do("run", "-b", b, "huge"); r.code == 0 {
			got += " 20 MiB of a variable"
		}
		return got
	}},
	{name: "C1 the caller's terminal is the payload's", edits: []remake.Edit{
		{bundleGo, "	op(Setsid, none, 0, 0, 0, \"begin a session\")\n", ""},
	}, try: func(w *world) string {
		if _, err := exec.LookPath("script"); err != nil {
			w.t.Skip(err)
		}
		b := w.bundle("tty", []string{"sh", "-c", "{ echo >/dev/tty; } 2>/dev/null && echo got it"}, nil)
		c := exec.Command("script", "-qec", fmt.Sprintf("%s --root %s run -b %s tty", w.path, w.root, b), "/dev/null")
		if r := w.run(c); strings.Contains(r.out, "got it") {
			return "the caller's terminal"
		}
		return ""
	}},
	{name: "C3 devices that are not allowed", edits: []remake.Edit{
		{"internal/cgroup/apply.go", "func (g Group) setDevices(rules resource.Devices) error {", "func (g Group) setDevices(rules resource.Devices) error {\n	if g.Dirs != nil {\n		return nil\n	}"},
	}, try: func(w *world) string {
		b := w.bundle("nodes", []string{"sh", "-c", "for d in '1 11' '1 1' '10 229' '10 200'; do busybox mknod /tmp/n c $d && head -c 0 </tmp/n && echo $d; rm -f /tmp/n; done; head -c 1 /dev/zero | busybox wc -c"}, func(c object) {
			caps := []any{"CAP_MKNOD", "CAP_DAC_OVERRIDE"}
			c["process"].(object)["capabilities"] = object{"bounding": caps, "effective": caps, "permitted": caps}
		})
		os.Symlink("busybox", b+"/rootfs/bin/rm")
		if r := w.do("run", "-b", b, "nodes"); strings.TrimSpace(r.out) != "1" {
			return r.out
		}
		return ""
	}},
	{name: "C5 a mount inside reaches the host", edits: []remake.Edit{
		{attachGo, "	if t.shared = how.Shared || t.bare; !t.shared {\n		if err := sys.MountSetattr(t.host, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {", "	if t.shared = how.Shared || t.bare; false {\n		if err := error(nil); err != nil {"},
	}, try: func(w *world) (got string) {
		before, err := os.ReadFile("/proc/self/mountinfo")
		must(w.t, err)
		out := w.canary()
		defer func() {
			// What a mutant let out must not be there for the tests to come.
			if got != "" {
				uncover("/run/launch")
				left, _ := filepath.Glob("/run/launch/*")
				for _, dir := range left {
					uncover(dir)
					os.Remove(dir)
				}
			}
		}()
		for _, p := range []string{"", "private", "rslave", "rshared"} {
			b := w.bundle("prop", []string{"sh", "-c", "busybox mount -t tmpfs tmpfs /vol; busybox mount -t tmpfs tmpfs /tmp; exec sleep 1000"}, func(c object) {
				caps := []any{"CAP_SYS_ADMIN"}
				c["process"].(object)["capabilities"] = object{"bounding": caps, "effective": caps, "permitted": caps}
				if p != "" {
					c["linux"].(object)["rootfsPropagation"] = p
				}
				c["mounts"] = append(c["mounts"].([]any), object{"destination": "/vol", "type": "bind", "source": out, "options": []string{"rbind", "rslave"}})
			})
			if r := w.do("run", "-d", "-b", b, "prop"); r.code != 0 {
				return r.String()
			}
			w.soon("it mounted", func() bool {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", w.pid("prop")))
				return strings.Contains(string(text), " /tmp ")
			})
			if now, _ := os.ReadFile("/proc/self/mountinfo"); string(now) != string(before) {
				got += " " + p + ": " + string(now)
			}
			w.do("delete", "--force", "prop")
		}
		return got
	}},
	{name: "C6 masks are taken off in users of the container's", edits: []remake.Edit{
		{bundleGo, "	for _, name := range b.Masked {", "	for _, name := range b.Masked[:0] {"},
		{bundleGo, "	for _, name := range b.ReadOnly {", "	for _, name := range b.ReadOnly[:0] {"},
	}, try: func(w *world) string {
		b := w.bundle("masks", []string{"sh", "-c", "for m in /proc/keys /proc/sys; do busybox umount -l $m; busybox mount -o remount,rw,bind $m; done; busybox mount -t proc proc /tmp; cat /proc/keys /tmp/keys; echo 1 >/proc/sys/net/ipv4/ip_forward && echo wrote"}, func(c object) {
			caps := []any{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"}
			c["process"].(object)["capabilities"] = object{"bounding": caps, "effective": caps, "permitted": caps}
			l := c["linux"].(object)
			l["namespaces"] = append(l["namespaces"].([]any), object{"type": "user"})
			m := []any{object{"containerID": 0, "hostID": 100000, "size": 1000}}
			l["uidMappings"], l["gidMappings"] = m, m
		})
		must(w.t, exec.Command("chown", "-R", "100000:100000", b+"/rootfs").Run())
		return w.do("run", "-b", b, "masks").out
	}},
	{name: "C7 kernel parameters of the host's", edits: []remake.Edit{
		{"oci/bundle/linux.go", "	default:\n		r.refuse(problem{at, value, \"cannot set a kernel parameter that is not in", "	default:\n		return\n		r.refuse(problem{at, value, \"cannot set a kernel parameter that is not in"},
	}, try: func(w *world) (got string) {
		const file = "/proc/sys/vm/oom_dump_tasks"
		old, err := os.ReadFile(file)
		must(w.t, err)
		defer os.WriteFile(file, old, 0)
		other := "1"
		if strings.TrimSpace(string(old)) == "1" {
			other = "0"
		}
		for _, key := range []string{"vm.oom_dump_tasks", "vm/oom_dump_tasks", "net/../vm/oom_dump_tasks", "net...vm.oom_dump_tasks", "net.//.vm.oom_dump_tasks", "net.ipv4.//.//.vm.oom_dump_tasks", "net/ipv4/../../vm/oom_dump_tasks",
			"net.x\nvm.oom_dump_tasks", "kernel.shm_rmid_forced/../../vm/oom_dump_tasks", "/vm/oom_dump_tasks"} {
			b := w.bundle("sysctl", []string{"true"}, func(c object) { c["linux"].(object)["sysctl"] = object{key: other} })
			if r := w.do("run", "-b", b, "sysctl"); r.code == 0 {
				got += fmt.Sprintf(" %q is taken", key)
			}
			if now, _ := os.ReadFile(file); string(now) != string(old) {
				got += fmt.Sprintf(" %q is written", key)
				os.WriteFile(file, old, 0)
			}
		}
		return got
	}},
}

// uncover takes away all that is mounted on a directory.
func uncover(dir string) {
	for unix.Unmount(dir, unix.MNT_DETACH) == nil {
	}
}
