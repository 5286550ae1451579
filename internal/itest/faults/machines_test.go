package faults

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/disks"
)

// A machine is what is started again and again. It is made of nothing but the
// directories below desk/m: a fresh tree each time.
type machine struct {
	name string
	args []string
	// program is the payload; "" lets the launcher find an init.
	program string
	env     []string
	// dirs are made beside the tree, files there, with their text.
	dirs  []string
	files [][2]string
	// pod: it is a bundle that joins a machine that runs. Its errors have the
	// words that callers of runc know, and which of its calls may fail is for the
	// tests of containers to say.
	pod bool
	// grows are names (of things) that a start may leave, beside base
	// directories: mount points in the tree, what an overlay puts into its
	// upper directory.
	grows []string
	// drifts: the calls after the payload's exec are not the same each time.
	drifts bool
	// shifts: a start may give the tree to other users.
	shifts bool
	// makes: the tree is made by the start, and may stay.
	makes bool
	// image: it is of an image, and the store is made anew each time.
	image bool
	// disk: the tree is in a disk image, which is made of it.
	disk bool
	// stack: the tree is a layer of a mount stack.
	stack bool
	// cabled: the world has interfaces, lent0 with an address and below.
	cabled bool
	// many: there may be any number of that name, since it is only a beginning.
	many bool
}

const (
	place = desk + "/m"
	root  = place + "/tree"
	store = place + "/store"
	raw   = place + "/disk.raw"
	stack = place + "/m.mstack"
)

// onDisk gives a machine whose tree is in a disk image.
func onDisk(name string, more ...string) machine {
	m := of(name, more...)
	m.args[0], m.disk = "--image="+raw, true
	return m
}

// run gives a machine from the image, with the options beside those that all
// have.
func run(name string, more ...string) machine {
	m := machine{name: name, program: "/bin/true", image: true}
	m.args = append(append([]string{"run", "--quiet", "--pipe"}, more...), image)
	return m
}

// of gives a machine of that name with the options beside those that all have.
func of(name string, more ...string) machine {
	return machine{
		name:    name,
		program: "/bin/true",
		args: append([]string{"--directory=" + root, "--machine=" + name, "--quiet", "--resolv-conf=off", "--timezone=off",
			"--pipe"}, more...),
	}
}

// plain is the machine that everything is tried with.
var plain = of("faulty")

// others have what plain has not.
var others = func() []machine {
	boot := of("booted", "--boot", "--notify-ready=yes")
	boot.program, boot.drifts = "", true
	boot.env = []string{"NOTIFY_SOCKET=" + desk + "/notify"}

	service := of("service", "--boot", "--keep-unit", "-U", "--private-network")
	service.program, service.drifts = "", true

	chown := of("chown", "--private-users=pick", "--private-users-ownership=chown")
	chown.shifts = true

	mounts := of("mounts", "--private-network", "--bind=:/var/scratch", "--overlay="+place+"/lower:"+place+"/upper:/data")
	mounts.dirs = []string{"lower", "upper"}
	mounts.grows = []string{root + "/var/scratch", root + "/data"}

	// The upper layer is in memory, and goes with the machine.
	overlay := of("overlay", "--private-users=pick", "--overlay="+place+"/lower::/data")
	overlay.dirs = []string{"lower"}
	overlay.grows = []string{root + "/data"}

	// Without a name, so that it gets one like no other.
	nameless := run("imagev1", "--hostname=imagev1", "--private-users=1310720")
	nameless.many = true

	kept := run("kept", "--name=kept", "--bind="+place+"/given:/given", "--as-pid2")
	kept.dirs = []string{"given"}
	for _, name := range strings.Fields(". hosts hostname resolv.conf image work work/work upper upper/dev upper/given upper/proc upper/sys upper/etc upper/etc/hosts upper/etc/hostname upper/etc/resolv.conf") {
		kept.grows = append(kept.grows, filepath.Join(store, "machines/kept", name))
	}

	ephemeral := of("tree", "--ephemeral")
	ephemeral.many = true
	ephemeral.args = slices.DeleteFunc(ephemeral.args, func(a string) bool { return a == "--machine=tree" })

	template := of("template", "--template="+place+"/from")
	template.dirs = []string{"from"}
	template.makes = true

	again := of("again", "--private-users=pick")
	again.program, again.grows = "/bin/again", []string{root + "/rebooted"}

	// What the host has is put into the tree. Its /etc is part of a name only here.
	files := of("files", "--private-users=pick", "--resolv-conf=copy-host", "--timezone=copy")
	files.grows = []string{root + "/etc/resolv.conf", root + "/etc/localtime"}

	terminal := of("terminal", "--console=read-only")
	terminal.args = slices.DeleteFunc(terminal.args, func(a string) bool { return a == "--pipe" })
	terminal.drifts = true

	// A user of the host's, by a record.
	bound := of("bound", "--private-users=pick", "--bind-user=joe", "--bind-user-shell=yes", "--bind-user-group=wheel")
	bound.dirs = []string{"home", "../../run/userdb"}
	bound.files = [][2]string{
		{"../../run/userdb/joe.user", `{"userName":"joe","uid":4001,"homeDirectory":"` + place + `/home","shell":"/bin/sh"}`},
		{"../../run/userdb/joe.user-privileged", `{"privileged":{"hashedPassword":["x"]}}`},
		{"../../run/userdb/4001.group", `{"groupName":"joe","gid":4001}`},
	}

	ported := of("ported", "--network-veth", "--port=8080:80", "--port=udp:53")
	ported.program, ported.drifts = "/bin/ported", true

	layers := of("layers", "--overlay-all", "--bind="+place+"/lower:/data", "--bind="+place+"/one:/file")
	layers.dirs, layers.files = []string{"lower"}, [][2]string{{"one", "1"}}

	stubs := of("stubs", "--profile=sandbox", "--read-only", "--bind-ro="+place+"/lower:/data", "--tmpfs=/data/deep/in", "--tmpfs=/missing")
	stubs.dirs, stubs.program = []string{"lower"}, "/usr/bin/true"

	saved := of("saved", "--private-users=pick", "--mounts="+place+"/mounts")
	saved.files = [][2]string{{"mounts", `{"launch-mounts": 1, "sources": [{"id": "root", "external": true, "type": "tmpfs"}, {"id": "s1", "type": "tmpfs"}], "groups": [{"id": 1}, {"id": 2}, {"id": 3, "master": 1}],
 "namespaces": [{"mounts": [{"id": 1, "point": "/", "source": "root", "root": "/", "group": 2},
  {"id": 2, "parent": 1, "point": "/etc", "source": "s1", "root": "/", "group": 1}, {"id": 3, "parent": 2, "point": "/in", "source": "s1", "root": "/part", "slave": 1},
  {"id": 4, "parent": 2, "point": "/both", "source": "s1", "root": "/part", "group": 3}, {"id": 5, "parent": 1, "point": "/usr/lib", "source": "root", "root": "/usr/bin", "group": 2}]}]}`}}

	join := machine{name: "join", program: "", pod: true, args: []string{"--oci-bundle=" + place, "--machine=join", "--quiet", "--console=pipe", "--join=pod"},
		files: [][2]string{{"config.json", `{"ociVersion": "1.2.0", "root": {"path": "tree"}, "process": {"cwd": "/", "args": ["/usr/bin/true"], "user": {"uid": 0, "gid": 0}},
 "mounts": [{"destination": "/proc", "type": "proc"}, {"destination": "/dev", "type": "tmpfs", "options": ["mode=755"]}, {"destination": "/dev/mqueue", "type": "mqueue"}],
 "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "network"}, {"type": "uts"}, {"type": "cgroup"}]}}`}}}

	heap := of("heap", "--private-users=pick")
	heap.args[0], heap.stack = "--mstack="+stack, true
	heap.dirs = []string{"m.mstack/layer@2", "m.mstack/rw", "m.mstack/bind@srv-in"}
	for _, name := range strings.Fields("data work work/work data/srv data/srv/in data/dev data/proc data/sys data/run data/tmp data/etc data/root data/var data/bin data/lib data/lib64 data/sbin") {
		heap.grows = append(heap.grows, filepath.Join(stack, "rw", name))
	}

	// What takes its journal is found first in $PATH, and is a small one.
	forwarded := of("forwarded", "--private-users=pick", "--forward-journal="+place+"/kept/web.journal")
	forwarded.dirs, forwarded.drifts, forwarded.env = []string{"kept"}, true, []string{"PATH=" + desk}

	copied := onDisk("copydisk", "--ephemeral", "--private-users=pick")

	lent := of("lent", "--network-interface=lent0:inside")
	lent.cabled = true

	stacked := of("stacked", "--network-macvlan=below")
	stacked.cabled = true

	return []machine{
		onDisk("ondisk"), copied, onDisk("partdisk", "--volatile=yes"), heap,
		boot, service, layers, stubs, saved, join,
		of("picked", "--private-users=pick"),
		chown,
		of("volatile", "--volatile=overlay"),
		mounts, overlay, ephemeral, template, again,
		of("second", "--as-pid2"), files,
		of("limits", "--rlimit=NOFILE=100", "--oom-score-adjust=300", "--cpu-affinity=0", "--ambient-capability=CAP_CHOWN",
			"--restrict-address-families=AF_UNIX"),
		terminal, of("cable", "--network-veth"), bound, ported, forwarded,
		of("zone", "--network-zone=faults", "--network-veth-extra=outside:inside"), lent, stacked,
		run("passing", "--rm", "--name=passing"), nameless, kept,
	}
}()

// every are all machines.
func every() []machine { return append([]machine{plain}, others...) }

// fresh makes the machine's directories anew.
func (w *world) fresh(m machine) error {
	// The directory for the locks of ranges is made each time, too, but where
	// another machine has something there.
	dirs := []string{place, "/run/systemd"}
	if m.pod {
		dirs = dirs[:1]
	} else if err := w.endPod(); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	os.Remove("/run/launch") // the last start's, if nothing is in it
	for _, d := range append([]string{"."}, m.dirs...) {
		if err := os.MkdirAll(filepath.Join(place, d), 0o755); err != nil {
			return err
		}
	}
	if m.stack {
		if err := os.Symlink("../tree", stack+"/layer@1"); err != nil {
			return err
		}
	}
	if m.cabled {
		if err := cables(); err != nil {
			return err
		}
	}
	if m.image {
		if out, err := exec.Command("cp", "-a", desk+"/store", store).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	for _, f := range m.files {
		if err := os.WriteFile(filepath.Join(place, f[0]), []byte(f[1]), 0o644); err != nil {
			return err
		}
	}
	if m.pod {
		if err := w.runPod(); err != nil {
			return err
		}
	}
	if m.makes {
		return w.tree(m, place+"/from")
	}
	if err := w.tree(m, root); err != nil || !m.disk {
		return err
	}
	if w.disk == nil {
		b, err := diskOf(root)
		if err != nil {
			return err
		}
		w.disk = b
	}
	return os.WriteFile(raw, w.disk, 0o600)
}

// diskOf makes a disk image of a tree, with a root and a home.
func diskOf(dir string) ([]byte, error) {
	file := desk + "/fs"
	var parts []disks.Part
	for _, p := range [...]struct {
		kind, dir string
		size      int64
	}{{disks.Root, dir, 24 << 20}, {disks.Home, dir + "/etc", 1 << 20}} {
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, p.size)); err != nil {
			return nil, err
		}
		if out, err := exec.Command("mkfs.ext4", "-q", "-d", p.dir, file).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		parts = append(parts, disks.Part{Type: p.kind, Data: b})
	}
	return disks.GPT(disks.Table{Parts: parts}), os.Remove(file)
}

// cables makes the interfaces that a machine may be lent, unless they are there.
func cables() error {
	for _, name := range []string{"lent0", "below"} {
		if _, err := net.InterfaceByName(name); err == nil {
			continue
		}
		script := "ip link del far-" + name + " 2>/dev/null; ip link add " + name + " address 02:00:00:00:05:00 type veth peer name far-" + name + " && ip link set far-" + name + " up && ip link set " + name + " up"
		if name == "lent0" {
			script += " && ip addr add 192.0.2.7/24 dev lent0"
		}
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// runPod starts the machine that others join, unless it runs.
func (w *world) runPod() error {
	if _, err := os.Stat("/run/launch/pod"); err == nil && w.pod > 0 && unix.Kill(w.pod, 0) == nil {
		return nil
	}
	if err := errors.Join(os.RemoveAll(desk+"/pod"), w.tree(machine{}, desk+"/pod")); err != nil {
		return err
	}
	box, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(box, desk+"/pod/usr/bin/busybox"); err != nil {
		return err
	}
	c := exec.Command(w.launch, "--directory="+desk+"/pod", "--machine=pod", "--private-network", "--resolv-conf=off", "--timezone=off",
		"--register=no", "--keep-unit", "--quiet", "--pipe", "/usr/bin/busybox", "sh", "-c", "echo up; exec busybox sleep 100000")
	// As a child of the test's parent, so that it is none of those that a launcher
	// leaves behind.
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_PARENT}
	r, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		return err
	}
	w.pod = c.Process.Pid
	if _, err = io.ReadFull(r, make([]byte, len("up\n"))); err != nil {
		return err
	}
	for range 1000 {
		// Then it can be joined.
		if st, err := os.Stat("/run/launch/pod/lock"); err == nil && st.Size() > 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the machine to be joined doesn't come up")
}

// endPod ends it.
func (w *world) endPod() error {
	if w.pod <= 0 {
		return nil
	}
	unix.Kill(w.pod, unix.SIGTERM)
	for range 1000 {
		if _, err := os.Stat("/run/launch/pod"); err != nil {
			w.pod = 0
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the machine that was joined doesn't end")
}

// tree makes a tree in which the probe and the init are all there is.
func (w *world) tree(m machine, root string) error {
	for _, d := range []string{"usr/bin", "usr/lib", "usr/sbin", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	place := os.Link
	if m.shifts {
		// Names outside of the tree would keep a file from being given away.
		place = copyFile
	}
	for _, f := range [...]struct{ name, from string }{{"usr/bin/true", w.probe}, {"usr/bin/again", w.init}, {"usr/bin/ported", w.init}, {"usr/sbin/init", w.init}} {
		if err := place(f.from, filepath.Join(root, f.name)); err != nil {
			return err
		}
	}
	if err := os.WriteFile(root+"/usr/lib/os-release", []byte("ID=tiny\n"), 0o644); err != nil {
		return err
	}
	if m.shifts {
		return variety(root+"/srv", 2)
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// variety makes n directories in each other, each with all that has an owner.
func variety(dir string, n int) error {
	if n == 0 {
		return nil
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	// CAP_NET_RAW, permitted and effective, of any user namespace's root.
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	// user::rw- user:1000:rw- group::r-- mask::rw- other::---
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	for _, err := range []error{
		os.MkdirAll(dir, 0o755),
		os.WriteFile(at("setuid"), []byte("x"), 0o600),
		os.Chown(at("setuid"), 10, 20),
		os.Chmod(at("setuid"), 0o755|fs.ModeSetuid|fs.ModeSetgid),
		os.WriteFile(at("capable"), []byte("x"), 0o755),
		unix.Lsetxattr(at("capable"), "security.capability", capability, 0),
		os.WriteFile(at("shared"), []byte("x"), 0o640),
		unix.Lsetxattr(at("shared"), "system.posix_acl_access", []byte(acl), 0),
		os.Link(at("shared"), at("second-name")),
		os.Symlink("/nowhere", at("link")),
		os.Lchown(at("link"), 1000, 1000),
		unix.Mkfifo(at("fifo"), 0o600),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.Mkdir(at("sticky"), 0o700),
		os.Chmod(at("sticky"), 0o777|fs.ModeSticky),
		os.Chown(at("sticky"), 65534, 65534),
	} {
		if err != nil {
			return err
		}
	}
	return variety(at("deeper"), n-1)
}

// owners tells of every file of a tree whose it is, and all that goes with it:
// one line each.
func owners(root string) (list []string, err error) {
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d device %d names %d", strings.TrimPrefix(p, root), st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink)
		for _, x := range []string{"security.capability", "system.posix_acl_access", "system.posix_acl_default", "trusted.launch.shift"} {
			b := make([]byte, 1000)
			if n, err := unix.Lgetxattr(p, x, b); err == nil {
				line += fmt.Sprintf(" %s %x", x, b[:n])
			}
		}
		list = append(list, line)
		return nil
	})
	return list, err
}
