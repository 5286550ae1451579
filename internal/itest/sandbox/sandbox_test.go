// Package sandbox tries the profile of that name, stub mount points, and
// throw-away layers: the plan of each bundle is a golden, and so is what its
// payload sees, after it has tried to write everywhere.
//
// Room: test.
package sandbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/remake"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

const (
	most = 60 * time.Second
	name = "launch-test-sandbox"
)

// bundleCase is a bundle that differs in its mounts.
type bundleCase struct {
	name   string
	mounts string // of config.json; $SRC is a directory of the host
	args   string // options, beside --oci-bundle=
	ro     bool   // the root is read-only
	users  bool   // it has users of its own
}

const (
	sandboxed = "--profile=sandbox"
	layered   = "--overlay-all"
)

var cases = []bundleCase{
	// What is mandatory, and what counts as there.
	{name: "nothing", mounts: ``, args: sandboxed},
	{name: "nothing-ro", mounts: ``, args: sandboxed, ro: true},
	{name: "proc-slash", mounts: `{"destination":"/proc/","type":"proc","source":"proc","options":["noexec"]}`, args: sandboxed},
	{name: "sys-dot", mounts: `{"destination":"/./sys","type":"sysfs","source":"sysfs"}`, args: sandboxed},
	{name: "proc-relative", mounts: `{"destination":"proc","type":"proc"}`, args: sandboxed},
	{name: "tmp-dots", mounts: `{"destination":"/etc/../tmp","type":"tmpfs"}`, args: sandboxed},
	{name: "tmp-below", mounts: `{"destination":"/tmp/x","source":"$SRC/dir","options":["bind"]}`, args: sandboxed},
	{name: "tmp-below-ro", mounts: `{"destination":"/tmp/x","source":"$SRC/dir","options":["bind"]}`, args: sandboxed, ro: true},
	{name: "tmp-tmpfs", mounts: `{"destination":"/tmp","type":"tmpfs","options":["mode=0700","size=1m"]}`, args: sandboxed},
	{name: "tmp-tmpfs-ro", mounts: `{"destination":"/tmp","type":"tmpfs","options":["size=1m"]}`, args: sandboxed, ro: true},
	{name: "tmp-bind", mounts: `{"destination":"/tmp/","source":"$SRC/dir","options":["bind"]}`, args: sandboxed},
	{name: "tmp-default-profile", mounts: `{"destination":"/proc","type":"proc"},{"destination":"/tmp","type":"tmpfs"}`},
	{name: "all-there", mounts: `{"destination":"/proc","type":"proc"},{"destination":"/sys","type":"sysfs","options":["ro"]},{"destination":"/tmp","type":"tmpfs"}`, args: sandboxed},
	// Those of /dev.
	{name: "dev-tmpfs", mounts: `{"destination":"/dev","type":"tmpfs","options":["size=64k"]}`, args: sandboxed},
	{name: "dev-bind", mounts: `{"destination":"/dev/","source":"/dev","options":["rbind"]}`, args: sandboxed},
	{name: "dev-devtmpfs", mounts: `{"destination":"/dev","type":"devtmpfs"}`, args: sandboxed},
	{name: "dev-pts", mounts: `{"destination":"/dev/pts","type":"devpts","options":["newinstance","gid=5"]}`, args: sandboxed},
	{name: "dev-null", mounts: `{"destination":"/dev/null","source":"$SRC/file","options":["bind"]},{"destination":"/dev/fd/3","type":"tmpfs"}`, args: sandboxed},
	{name: "dev-shm", mounts: `{"destination":"/dev/shm","type":"tmpfs","options":["size=1m","mode=1777"]},{"destination":"/dev/mqueue","type":"mqueue"}`, args: sandboxed},
	{name: "dev-own", mounts: `{"destination":"/dev/nullx","source":"$SRC/file","options":["bind","ro"]}`, args: sandboxed},
	// Types.
	{name: "none", mounts: `{"destination":"/mnt","type":"none"}`, args: sandboxed},
	{name: "none-dev", mounts: `{"destination":"/mnt","type":"none","source":"/dev"},{"destination":"/mnt/x","type":"tmpfs"}`, args: sandboxed, ro: true},
	{name: "none-bind", mounts: `{"destination":"/mnt","type":"none","source":"$SRC","options":["bind","ro"]}`, args: sandboxed},
	{name: "none-default-profile", mounts: `{"destination":"/mnt","type":"none"}`},
	{name: "devtmpfs", mounts: `{"destination":"/mnt","type":"devtmpfs","source":"devtmpfs","options":["size=1m","what"]}`, args: sandboxed},
	{name: "devtmpfs-ro", mounts: `{"destination":"/mnt/dev","type":"devtmpfs","options":["ro"]}`, args: sandboxed, ro: true},
	{name: "unknown-ext4", mounts: `{"destination":"/mnt","type":"ext4","source":"/dev/sda1"}`, args: sandboxed},
	{name: "unknown-overlay", mounts: `{"destination":"/mnt","type":"overlay","source":"o","options":["lowerdir=/etc,upperdir=$SRC/dir,workdir=$SRC/dir"]}`, args: sandboxed},
	{name: "unknown-word", mounts: `{"destination":"/mnt","type":"nosuchfs"}`, args: sandboxed},
	{name: "mqueue-cgroup", mounts: `{"destination":"/dev/mqueue","type":"mqueue"},{"destination":"/sys/fs/cgroup","type":"cgroup","options":["ro"]}`, args: sandboxed},
	// Options.
	{name: "option-two-equals", mounts: `{"destination":"/mnt","type":"tmpfs","options":["uid=1=2"]}`, args: sandboxed},
	{name: "option-equals-equals", mounts: `{"destination":"/mnt","type":"tmpfs","options":["nosuid","size==1m"]}`, args: sandboxed},
	{name: "option-unknown", mounts: `{"destination":"/mnt","type":"tmpfs","options":["size=1m","color=red","shiny","noatime"]}`, args: sandboxed},
	{name: "option-proc", mounts: `{"destination":"/proc","type":"proc","options":["hidepid=2","size=1m"]}`, args: sandboxed},
	{name: "option-sysfs", mounts: `{"destination":"/sys","type":"sysfs","options":["rw","mode=0700"]}`, args: sandboxed},
	{name: "option-uid", mounts: `{"destination":"/mnt","type":"tmpfs","options":["uid=3","gid=4","mode=0711"]}`, args: sandboxed},
	// Stubs.
	{name: "stub", mounts: `{"destination":"/data","type":"tmpfs"}`, args: sandboxed, ro: true},
	{name: "stub-deep", mounts: `{"destination":"/a/b/c","source":"$SRC/dir","options":["bind"]},{"destination":"/a/b/file","source":"$SRC/file","options":["bind","ro"]}`, args: sandboxed, ro: true},
	{name: "stub-link", mounts: `{"destination":"/lnk/new","type":"tmpfs"},{"destination":"/dangling","type":"tmpfs"}`, args: sandboxed, ro: true},
	{name: "stub-in-bind", mounts: `{"destination":"/mnt","source":"$SRC/dir","options":["bind","ro","nosuid"]},{"destination":"/mnt/new/deep","type":"tmpfs"}`, args: sandboxed},
	{name: "stub-in-bind-in-stub", mounts: `{"destination":"/data","source":"$SRC/dir","options":["rbind","rro"]},{"destination":"/data/x","source":"$SRC/file","options":["bind"]},{"destination":"/data/new","source":"$SRC/file","options":["bind","ro"]},{"destination":"/data/sub","type":"tmpfs"},{"destination":"/data/sub/a","type":"tmpfs"}`, args: sandboxed, ro: true},
	{name: "stub-mounted-source", mounts: `{"destination":"/mnt","source":"$SRC","options":["rbind","ro"]},{"destination":"/mnt/new","type":"tmpfs"}`, args: sandboxed},
	{name: "stub-no-parent", mounts: `{"destination":"/foo","source":"$SRC/dir","options":["bind","ro"]},{"destination":"/foobar","type":"tmpfs"},{"destination":"/foo","source":"$SRC/dir","options":["bind","ro"]}`, args: sandboxed, ro: true},
	{name: "stub-not-needed", mounts: `{"destination":"/srv","type":"tmpfs"}`, args: sandboxed, ro: true},
	{name: "stub-users", mounts: `{"destination":"/data","type":"tmpfs"}`, args: sandboxed, ro: true, users: true},
	{name: "stub-default-profile", mounts: `{"destination":"/proc","type":"proc"},{"destination":"/mnt","source":"$SRC/dir","options":["bind","ro"]},{"destination":"/mnt/new","type":"tmpfs"}`},
	{name: "stub-elsewhere", mounts: `{"destination":"/mnt","source":"$SRC/dir","options":["bind","ro"]},{"destination":"/mnt/out/new","type":"tmpfs"}`, args: sandboxed},
	{name: "writable-root", mounts: `{"destination":"/data","type":"tmpfs"}`, args: sandboxed},
	// Layers.
	{name: "layer", mounts: ``, args: sandboxed + " " + layered},
	{name: "layer-ro", mounts: `{"destination":"/data","source":"$SRC/dir","options":["bind"]}`, args: sandboxed + " " + layered, ro: true},
	{name: "layer-bind", mounts: `{"destination":"/mnt","source":"$SRC/dir","options":["bind","nosuid"]}`, args: sandboxed + " " + layered},
	{name: "layer-file", mounts: `{"destination":"/data/file","source":"$SRC/file","options":["bind","nodev"]}`, args: sandboxed + " " + layered},
	{name: "layer-bind-ro", mounts: `{"destination":"/mnt","source":"$SRC/dir","options":["bind","ro"]},{"destination":"/mnt/new","type":"tmpfs"}`, args: sandboxed + " " + layered},
	{name: "layer-bind-in-bind", mounts: `{"destination":"/mnt","source":"$SRC/dir","options":["bind"]},{"destination":"/mnt/new","source":"$SRC/dir","options":["bind"]},{"destination":"/mnt/f","source":"$SRC/file","options":["bind"]}`, args: sandboxed + " " + layered},
	{name: "layer-mounted-source", mounts: `{"destination":"/mnt","source":"$SRC","options":["rbind"]}`, args: sandboxed + " " + layered},
	{name: "layer-source-ro", mounts: `{"destination":"/mnt","source":"$SRC/rosub","options":["bind"]},{"destination":"/mnt/new","type":"tmpfs"}`, args: sandboxed + " " + layered},
	{name: "layer-disk", mounts: `{"destination":"/mnt","type":"ext4","source":"/dev/nothing"}`, args: layered},
	{name: "layer-overlay", mounts: `{"destination":"/mnt","type":"overlay","source":"o","options":["lowerdir=$SRC/dir,upperdir=$SRC/open,workdir=$SRC/sub"]}`, args: layered},
	{name: "layer-devtmpfs", mounts: `{"destination":"/mnt","type":"devtmpfs"}`, args: layered},
	{name: "layer-devtmpfs-sandbox", mounts: `{"destination":"/mnt","type":"devtmpfs"}`, args: sandboxed + " " + layered},
	{name: "layer-special", mounts: `{"destination":"/mnt/fifo","source":"$SRC/fifo","options":["bind"]},{"destination":"/mnt/null","source":"/dev/null","options":["bind"]},{"destination":"/mnt/proc","source":"/proc/sys/kernel","options":["rbind"]}`, args: sandboxed + " " + layered},
	{name: "layer-users", mounts: `{"destination":"/mnt","source":"$SRC/open","options":["bind"]}`, args: sandboxed + " " + layered, users: true},
	{name: "layer-default-profile", mounts: `{"destination":"/proc","type":"proc"},{"destination":"/mnt","source":"$SRC","options":["rbind"]},{"destination":"/file","source":"$SRC/file","options":["bind"]}`, args: layered},
	{name: "layer-default-profile-ro", mounts: `{"destination":"/proc","type":"proc"},{"destination":"/new/mnt","source":"$SRC","options":["rbind"]}`, args: layered, ro: true},
	{name: "layer-options", mounts: ``, args: sandboxed + " " + layered + " --bind=$SRC/dir:/opt/dir --bind-ro=$SRC/file:/opt/file --tmpfs=/opt/tmp:size=1m,what=1"},
}

// look is what the payload says. It tries to write to each mount, and to change
// each file of those that the host has, and says which mounts took it.
const look = `
while read id parent dev root point opts rest; do
	set -- ${rest#*- }
	case $1 in proc|sysfs|tmpfs|devpts|mqueue|overlay|cgroup*) ;; *) set -- host host;; esac
	case $2 in launch-*|proc|sysfs|tmpfs|devtmpfs|devpts|mqueue|none|host|cgroup*) ;; *) set -- host host;; esac
	f=; for o in ro nosuid nodev noexec; do case ,$opts, in *,$o,*) f=$f,$o;; esac; done
	w=-
	case $point in
	/sys*|/proc*|/dev*|*/proc*) ;;
	*)	if [ -d $point ]; then echo w 2>/dev/null >$point/written && w=written
		elif [ -f $point ]; then echo w 2>/dev/null >>$point && w=written
		elif [ -p $point ]; then chmod 1 $point 2>/dev/null && w=written
		fi;;
	esac
	case $point in /sys/fs/cgroup/*) ;; *) echo $point $1 $2 ${f#,} $w;; esac
done </proc/self/mountinfo
for d in / /dev /tmp /mnt /data /a/b /lnk; do [ -d $d ] && echo $d: $(ls -A $d); done
stat -c '%n %a %u:%g' /tmp /mnt
find /mnt /data /srv /etc /file /foo /opt -xdev -type f 2>/dev/null | while read f; do echo more >>$f; chmod 600 $f; rm -f $f; done 2>/dev/null
for d in /etc /mnt /usr /; do mkdir $d/made; done 2>/dev/null
exit 7
`

// bundle makes the case's bundle in a directory, beside a directory of the
// host's.
func (c *bundleCase) bundle(t *testing.T, dir string) {
	t.Helper()
	rootfs := filepath.Join(dir, "rootfs")
	tree.Fresh(t, tree.Tiny(t), rootfs)
	src := filepath.Join(dir, "src")
	script := `set -e; cd ` + rootfs + `; echo kept >tmp/kept; ln -s srv lnk; ln -s /not/there dangling; echo x >etc/x; mkdir mnt/image
		mkdir -p ` + src + `/dir ` + src + `/open ` + src + `/sub; cd ` + src + `; echo file >file; echo x >dir/x; ln -s x dir/l; ln -s /srv dir/out; chmod 711 dir; mkdir rosub; echo o >open/o; chmod -R a+rwX open; mkfifo fifo`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config := map[string]any{
		"ociVersion": "1.2.0",
		"root":       map[string]any{"path": "rootfs", "readonly": c.ro},
		"hostname":   name,
		"process": map[string]any{
			"cwd": "/", "args": []string{"/bin/busybox", "ash", "-c", look}, "env": []string{"PATH=/bin:/usr/bin"}, "user": map[string]int{"uid": 0, "gid": 0},
			"capabilities": map[string]any{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"linux": map[string]any{"namespaces": []map[string]string{{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "network"}, {"type": "uts"}, {"type": "cgroup"}}},
	}
	if c.users {
		l := config["linux"].(map[string]any)
		l["namespaces"] = append(l["namespaces"].([]map[string]string), map[string]string{"type": "user"})
		l["uidMappings"] = []map[string]int{{"containerID": 0, "hostID": 1310720, "size": 65536}}
		l["gidMappings"] = l["uidMappings"]
	}
	var mounts any
	if err := json.Unmarshal([]byte("["+strings.ReplaceAll(c.mounts, "$SRC", src)+"]"), &mounts); err != nil {
		t.Fatal(err)
	}
	config["mounts"] = mounts
	b, err := json.MarshalIndent(config, "", " ")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

var caps = []string{"CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_CHOWN", "CAP_MKNOD", "CAP_SYS_ADMIN"}

// record is all there is to know about the files below a directory.
func record(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprint(info.Mode(), st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim, st.Ino, st.Rdev)
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(b))
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			line += " " + to
		}
		rel, _ := filepath.Rel(dir, path)
		all[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// changed names what differs, without times of directories, which follow.
func changed(before, after map[string]string) (names []string) {
	for n, line := range after {
		if before[n] != line {
			names = append(names, n)
		}
	}
	for n := range before {
		if _, there := after[n]; !there {
			names = append(names, n+" gone")
		}
	}
	slices.Sort(names)
	return names
}

func TestBundles(t *testing.T) {
	tree.NeedRoot(t)
	l := stage.Launch(t)
	s := stage.New(t, stage.Unified)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got, bad := c.try(t, l, s)
			for _, n := range bad {
				t.Errorf("changed: %s", n)
			}
			golden(t, c.name, got)
		})
	}
	if len(cases) < 40 {
		t.Errorf("only %d bundles", len(cases))
	}
}

// try gives the bundle's plan and what is seen of it when it is started, and
// what of the host's it has changed though it must not.
func (c *bundleCase) try(t *testing.T, l stage.Launcher, s *stage.Stage) (seen string, bad []string) {
	t.Helper()
	dir := filepath.Join(tree.Scratch(t), name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c.bundle(t, dir)
	before := record(t, dir)
	args := append([]string{"--oci-bundle=" + dir, "--register=no", "--keep-unit", "--console=pipe"},
		strings.Fields(strings.ReplaceAll(c.args, "$SRC", dir+"/src"))...)
	var got bytes.Buffer
	plan, _ := exec.Command(l.Path, append([]string{"--plan"}, args...)...).CombinedOutput()
	payload := false
	for line := range strings.Lines(string(plan)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		payload = payload || f[0] == "payload"
		switch word := f[0]; {
		case word == "note", word == "launch:", word == "from:", word == "hint:":
		case payload, word != "inner" && word[0] != '/':
			continue
		case len(f) > 2 && (f[2] == "node" || f[2] == "symlink"), strings.HasPrefix(word, "/dev/") && f[1] == "node":
			continue // as in every machine
		}
		got.WriteString(strings.Join(f, " ") + "\n")
	}
	// Something is mounted in what may be bound.
	script := `cd ` + dir + `/src && mount -t tmpfs -o mode=0755 sub sub && echo inside >sub/inside && mount -t tmpfs -o ro,mode=0755 rosub rosub &&
		mount --bind file dir/x && cd / && exec "$@"`
	r := s.Start(nil, append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", l.Path}, args...)...)
	code, err := r.Code(most)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	fmt.Fprintf(&got, "== status %d\n%s", code, r.Out)
	for _, n := range changed(before, record(t, dir)) {
		got.WriteString("== changed " + n + "\n")
		if strings.Contains(c.args, layered) || c.ro && strings.HasPrefix(n, "rootfs") {
			bad = append(bad, n)
		}
	}
	return strings.ReplaceAll(got.String(), dir, "/BUNDLE"), bad
}

// mutants are launchers without one of their defences, made by one edit, each
// with a case that must notice.
var mutants = []struct{ what, notices, file, old, new string }{
	{"a source below a layer can be written to", "layer-bind", layerGo, "setattr(n, unix.MOUNT_ATTR_RDONLY, true)", "error(nil)"},
	{"a source that is read-only gets a layer", "layer-source-ro", layerGo, "holds = holds && flags&unix.MOUNT_ATTR_RDONLY == 0", ""},
	{"a file has no layer", "layer-file", layerGo, "if kind == unix.S_IFREG && holds {", "if false {"},
	{"stubs lie over the target", "stub-in-bind", layerGo, "[]int{tmp, top}", "[]int{top, tmp}"},
	{"stubs lose the target's flags", "stub-in-bind", layerGo, "[]int{tmp, top}, -1, -1, flags", "[]int{tmp, top}, -1, -1, 0"},
	{"stubs hide what is mounted", "stub-mounted-source", layerGo, "return t.withParts(top, lay, func(to, from int) error { return cover(to, from, 0, 0) })", "_, err = lay()\n	return err"},
	{"stubs are made where nothing needs them", "writable-root", layerGo, "err != nil || flags&unix.MOUNT_ATTR_RDONLY == 0 {", "err != nil {"},
	{"stubs are made in the wrong mount", "stub-elsewhere", layerGo, "		if !in {\n			return errStop\n		}\n", "		_ = in\n"},
	{"binds have no layer", "layer-bind", sandboxGo, "if !img.OverlayAll || s.Source.Temp {", "if img.OverlayAll {"},
	{"a tmpfs hides /tmp", "tmp-tmpfs", sandboxGo, "if c.Profile.KeepTmp && s.Do == Mount", "if false && s.Do == Mount"},
	{"the bundle has a /dev of its own", "dev-tmpfs", sandboxGo, "return m.Target == dir || dir", "return dir"},
	{"an option may be anything", "option-two-equals", sandboxGo, "case strings.Contains(o.Value, \"=\"):", "case false:"},
	{"a path lies in itself", "stub-no-parent", "mount/order.go", "return path != dir && Below(path, dir)", "return Below(path, dir)"},
}

const (
	layerGo   = "mount/attach/layer.go"
	sandboxGo = "internal/plan/sandbox.go"
)

// TestHostileMutants: the cases above are ones that can fail. Every day, the
// edits must fit; the builds are for: make hostile.
func TestHostileMutants(t *testing.T) {
	whole := os.Getenv("LAUNCH_TEST") == "hostile"
	if whole {
		tree.NeedRoot(t)
	}
	for _, m := range mutants {
		t.Run(m.what, func(t *testing.T) {
			dir := t.TempDir()
			over, err := remake.Overlay(dir, remake.Edit{m.file, m.old, m.new})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(cases, func(c bundleCase) bool { return c.name == m.notices })
			if i < 0 {
				t.Fatalf("there is no case %q", m.notices)
			}
			if !whole {
				return
			}
			bin := filepath.Join(dir, "launch")
			build := exec.Command("go", "build", "-overlay", over, "-o", bin, "launch/cmd/launch")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			got, bad := cases[i].try(t, stage.Launcher{Name: "launch", Path: bin}, stage.New(t, stage.Unified))
			want, err := os.ReadFile(filepath.Join("testdata", m.notices+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			if got == string(want) && len(bad) == 0 {
				t.Errorf("%s sees no difference", m.notices)
			}
		})
	}
}

// trees are machines from a tree, with what their payload says.
var trees = []struct{ name, args, say string }{
	{"ro", sandboxed + " --read-only --bind=$SRC/dir:/new/dir --bind-ro=$SRC/file:/new/file", "/new/dir/x\n/new/file\n/opt/data/file\n/tmp/kept\n"},
	{"ro-in-ro", sandboxed + " --read-only --bind-ro=$SRC/dir:/mnt --tmpfs=/mnt/a/b --bind=$SRC/file:/mnt/a/c", "/mnt/a/c\n/mnt/x\n/opt/data/file\n/tmp/kept\n"},
	{"ro-users", sandboxed + " --read-only --private-users=1310720:65536 --private-users-ownership=map --bind-ro=$SRC/open:/new/dir:idmap --tmpfs=/new/dir/a", "/new/dir/o\n/opt/data/file\n/tmp/kept\n"},
	{"state", sandboxed + " --volatile=state --bind=$SRC/dir:/new/dir --tmpfs=/var/x", "/new/dir/x\n/opt/data/file\n/tmp/kept\n"},
	{"layer", layered + " --bind=$SRC/dir:/mnt --bind=$SRC/file:/opt/file --overlay=$SRC/dir:$SRC/open:/opt/both", "/mnt/x\n/opt/both/o\n/opt/both/x\n/opt/data/file\n/opt/file\n"},
	{"layer-users", layered + " --private-users=1310720:65536 --private-users-ownership=map --bind=$SRC/open:/mnt:idmap", "/mnt/o\n/opt/data/file\n"},
	{"layer-pick", layered + " -U --bind=$SRC/open:/mnt:idmap", "/mnt/o\n/opt/data/file\n"},
	{"layer-ro", layered + " --read-only --bind=$SRC/dir:/new/dir", "/new/dir/x\n/opt/data/file\n"},
}

// TestTrees: what can be read is there, and nothing on the host is changed but
// what a bind mount without a layer lets through.
func TestTrees(t *testing.T) {
	tree.NeedRoot(t)
	l := stage.Launch(t)
	s := stage.New(t, stage.Unified)
	for _, c := range trees {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(tree.Scratch(t), name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			(&bundleCase{}).bundle(t, dir)
			before := record(t, dir)
			args := append([]string{"--directory=" + dir + "/rootfs", "--machine=" + name, "--register=no", "--keep-unit", "--console=pipe", "--quiet"},
				strings.Fields(strings.ReplaceAll(c.args, "$SRC", dir+"/src"))...)
			script := `find /tmp /new /mnt /opt -type f 2>/dev/null | sort
				for d in / /etc /usr /var /tmp /mnt /opt /opt/both /new; do echo w >$d/written; mkdir $d/made; rm -rf $d/x $d/o; done 2>/dev/null
				for f in /opt/file /mnt/x /etc/hostname; do echo w >>$f; chmod 600 $f; done 2>/dev/null
				touch /etc/mine && [ $(stat -c %u /etc/mine) = 0 ] && rm /etc/mine && echo writable; exit 7`
			r := s.Start(nil, append(append([]string{l.Path}, args...), "/bin/busybox", "ash", "-c", script)...)
			code, err := r.Code(most)
			if err != nil {
				t.Fatalf("%v\n%s", err, r.Out)
			}
			want := c.say
			if strings.Contains(c.args, layered) && !strings.Contains(c.args, "--read-only") {
				want += "writable\n"
			}
			if got := strings.ReplaceAll(r.Out.String(), "touch: /etc/mine: Read-only file system\n", ""); code != 7 || got != want {
				t.Errorf("status %d, it says\n%s\nwant\n%s", code, got, want)
			}
			for _, n := range changed(before, record(t, dir)) {
				if n != "." && (strings.Contains(c.args, layered) || !strings.HasPrefix(n, "src/")) { // the lock lies there
					t.Errorf("changed: %s", n)
				}
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (UPDATE=1 writes it anew; read the difference):\n%s\nwant\n%s", file, got, want)
	}
}
