package mounts

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
)

// victim is a tree whose file is changed, and what may be outside of it.
const victim = `
host mkdir /mnt/data/sub
host mkdir /mnt/ro
host mkdir /mnt/secret
host tmpfs /mnt/inner
tmpfs /a size=64k
mkdir /a/x
shared /a
bind /a/x /b
slave /b
bind /ext/data /data
bind /ext/ro /ro
proc /proc
bind /proc/sys /proc/sys
flags /proc/sys ro
touch /a/f
bind /a/f /f
mkdir /a/gone
bind /a/gone /gone
rm /a/gone
tmpfs /data
unbindable /data
umount /ext
`

var allowed = map[string]tree.External{"/data": {Path: "/mnt/data"}, "/ro": {Path: "/mnt/ro", ReadOnly: true}}

// bounds is what a policy allows at most: the oracle. It looks at the mounts
// that are there, and at nothing that restoring knows.
func bounds(before map[uint64]bool, groups map[uint64]bool, rows []tree.Row, host uint64) error {
	for _, r := range rows {
		switch {
		case groups[r.Peers] || groups[r.Master]:
			return fmt.Errorf("the mount on %s hears of the host's", r.Point)
		case r.Dev == host:
			under := func(top string) bool { return r.Root == top || strings.HasPrefix(r.Root, top+"/") }
			switch {
			case under("/data"):
			case under("/ro"):
				if r.Attr&unix.MOUNT_ATTR_RDONLY == 0 {
					return fmt.Errorf("%s of the host can be written to on %s", r.Root, r.Point)
				}
			default:
				return fmt.Errorf("%s of the host is on %s", r.Root, r.Point)
			}
		case before[r.Dev] && r.Type != "sysfs" && r.Type != "mqueue":
			return fmt.Errorf("the host's %s is on %s", r.Type, r.Point)
		case !slices.Contains([]string{"tmpfs", "ramfs", "proc", "sysfs", "devpts", "mqueue"}, r.Type):
			return fmt.Errorf("a %s is on %s", r.Type, r.Point)
		}
	}
	return nil
}

// hostile is the world in which changed files are restored.
type hostile struct {
	*trip
	text   []byte
	before map[uint64]bool
	groups map[uint64]bool
	data   uint64 // the device of what is outside
	table  string
	policy tree.Policy
	// refused by Decode, by the policy, by the kernel; and made.
	count [4]int
}

func newHostile(t *testing.T) *hostile {
	h := &hostile{trip: &trip{t: t, host: newHost(t), ns: -1}, before: map[uint64]bool{}, groups: map[uint64]bool{}}
	var host, lines []string
	for line := range strings.Lines(strings.TrimSpace(victim)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "host "); ok {
			host = append(host, rest)
		} else {
			lines = append(lines, line)
		}
	}
	if err := h.host.do(func(sys.Locked) error { return script(append(host, "shared /mnt")) }); err != nil {
		t.Fatal(err)
	}
	made := grow(t, h.host, append([]string{"private /ext"}, lines...))
	f, text, err := h.save(tids(made)...)
	if err != nil {
		t.Fatal(err)
	}
	h.text, h.policy, h.table = text, policy(f, allowed), h.host.table(t)
	rows, err := tree.ParseMountinfo(h.table)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		h.before[r.Dev] = true
		if r.Peers != 0 {
			h.groups[r.Peers] = true
		}
		if r.Point == "/mnt" {
			h.data = r.Dev
		}
	}
	if len(h.policy.External) != 2 || h.data == 0 || len(h.groups) == 0 {
		t.Fatalf("the world is not as it should be: %v", h.policy)
	}
	return h
}

// try restores a changed file, and holds what is there against the bounds.
func (h *hostile) try(text []byte) error {
	f, err := tree.Decode(text)
	if err != nil {
		h.count[0]++
		return nil
	}
	if h.policy.Check(f, false) != nil {
		h.count[1]++
		return nil
	}
	var spaces []snapshot.Space
	th := h.host.in(h.t)
	err = th.do(func(l sys.Locked) (err error) {
		spaces, err = snapshot.Restore(l, f, snapshot.Options{Policy: h.policy})
		return err
	})
	defer func() {
		for _, s := range spaces {
			s.Close()
		}
	}()
	if now := h.host.table(h.t); now != h.table {
		return fmt.Errorf("the host's mounts changed:\n%s", now)
	}
	if err != nil {
		if len(spaces) > 0 {
			return errors.New("after an error, something is left")
		}
		h.count[2]++
		return nil
	}
	h.count[3]++
	for _, s := range spaces {
		in := newThread(h.t)
		if err := in.do(func(l sys.Locked) error { return s.Enter(l) }); err != nil {
			return err
		}
		rows, err := tree.ParseMountinfo(in.table(h.t))
		if err != nil {
			return err
		}
		if err := bounds(h.before, h.groups, rows, h.data); err != nil {
			return err
		}
	}
	return nil
}

// values are what a field may become.
var values = []any{nil, false, true, 0, 1, 2, 3, 5, -1, 1 << 40, "", "/", "/a", "/secret", "/..", "/data", "/ro", "/a/../../secret", "root", "s1", "s2",
	"proc", "tmpfs", "sysfs", "ext4", "debugfs", "cgroup2", "file", "dir", "ro", "size=1", "uid=0", "x=y", "g-0123456789abcdef", "m-0123456789abcdef", []any{}, map[string]any{}}

// spots lists the places of all values below v, as functions that set them.
func spots(v any, list *[]func(any)) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(keys(v)) {
			*list = append(*list, func(n any) {
				if n == nil {
					delete(v, k)
				} else {
					v[k] = n
				}
			})
			spots(v[k], list)
		}
		// What the file has nowhere else.
		for _, k := range []string{"group", "slave", "deleted", "users", "unbindable", "master", "outside", "external", "read-only", "options"} {
			if _, ok := v[k]; !ok {
				*list = append(*list, func(n any) {
					if n != nil {
						v[k] = n
					}
				})
			}
		}
	case []any:
		for i := range v {
			*list = append(*list, func(n any) { v[i] = n })
			spots(v[i], list)
		}
	}
}

func keys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// changed gives the file with some values replaced: each pair is a place and a
// value.
func (h *hostile) changed(at ...[2]int) []byte {
	var v any
	if err := json.Unmarshal(h.text, &v); err != nil {
		h.t.Fatal(err)
	}
	var list []func(any)
	spots(v, &list)
	for _, p := range at {
		list[p[0]%len(list)](values[p[1]%len(values)])
	}
	text, err := json.Marshal(v)
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}

// TestHostileFile changes each field of a file to each of the values, and $PAIRS
// (2,000) pairs of fields. Whatever is made of it stays within the policy.
func TestHostileFile(t *testing.T) {
	h := newHostile(t)
	var v any
	if err := json.Unmarshal(h.text, &v); err != nil {
		t.Fatal(err)
	}
	var list []func(any)
	spots(v, &list)
	every := 1
	if testing.Short() {
		every = 20
	}
	tried := 0
	for i := range list {
		for j := range values {
			if tried++; tried%every != 0 {
				continue
			}
			if text := h.changed([2]int{i, j}); h.try(text) != nil {
				t.Fatalf("%v\n%s", h.try(text), text)
			}
		}
	}
	r := rand.New(rand.NewPCG(6, 1))
	pairs := number("PAIRS", 2000) / every
	for range pairs {
		text := h.changed([2]int{r.IntN(len(list)), r.IntN(len(values))}, [2]int{r.IntN(len(list)), r.IntN(len(values))})
		if err := h.try(text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	t.Logf("%d files: %d are no trees, %d not allowed, %d impossible, %d made", tried/every+pairs, h.count[0], h.count[1], h.count[2], h.count[3])
	for i, n := range h.count[:2] {
		if n == 0 {
			t.Errorf("nothing was refused in stage %d", i)
		}
	}
	if h.count[3] < 50/every {
		t.Errorf("only %d trees were made", h.count[3])
	}
}

// TestHostileMachine changes each field of a machine's file to each of the
// values, of which a part is tried ($EVERY, 10; 1: all). Whatever is added to the
// machine stays within its settings.
func TestHostileMachine(t *testing.T) {
	every := number("EVERY", 10)
	var text []byte
	settings := []string{"flags /b ro"}
	world := func(t *testing.T, private bool) (*trip, *thread) {
		p := &trip{t: t, host: newHost(t), ns: -1}
		if private {
			p.private()
		}
		if err := p.host.do(func(sys.Locked) error { return script([]string{"mkdir /mnt/in/x", "mkdir /mnt/secret", "shared /mnt"}) }); err != nil {
			t.Fatal(err)
		}
		return p, p.host
	}
	p, host := world(t, false)
	_, before, pid := p.started(host, false, settings...)
	before.Close()
	in := host.in(t)
	if err := in.do(func(l sys.Locked) error {
		ns, err := sys.Openat(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer sys.Close(ns)
		if err := sys.Setns(l, ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		return script([]string{"bind /b/x /base/one", "tmpfs /base/new", "bind /base/new /base/same", "slave /base/same", "bind /base/one /base/again", "unbindable /base/again"})
	}); err != nil {
		t.Fatal(err)
	}
	var err error
	if _, text, err = p.save(pid); err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var list []func(any)
	spots(v, &list)
	refused, impossible, made := 0, 0, 0
	for i := range list {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			p, host := world(t, i%2 == 1)
			h := &hostile{trip: p, text: text}
			rows, err := tree.ParseMountinfo(host.table(t))
			if err != nil {
				t.Fatal(err)
			}
			data, groups := uint64(0), map[uint64]bool{}
			for _, r := range rows {
				if groups[r.Peers] = true; r.Point == "/mnt" {
					data = r.Dev
				}
			}
			delete(groups, 0)
			for j := range values {
				if (i*len(values)+j)%every != 0 {
					continue
				}
				f, err := tree.Decode(h.changed([2]int{i, j}))
				if err != nil {
					refused++
					continue
				}
				launcher, before, pid := p.started(host, false, settings...)
				table := host.table(t)
				root := -1
				err = launcher.do(func(l sys.Locked) error {
					root, err = snapshot.Add(l, before, pid, f, p.users)
					return err
				})
				before.Close()
				if now := host.table(t); now != table {
					t.Errorf("the host's mounts changed:\n%s", now)
				}
				if err != nil {
					impossible++
					continue
				}
				sys.Close(root)
				made++
				now, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
				if err != nil {
					t.Fatal(err)
				}
				rows, err := tree.ParseMountinfo(string(now))
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rows {
					switch {
					case groups[r.Peers] || groups[r.Master]:
						t.Errorf("the mount on %s hears of the host's\n%s", r.Point, h.changed([2]int{i, j}))
					case r.Dev == data && (!tree.Within(r.Root, "/in") || r.Attr&unix.MOUNT_ATTR_RDONLY == 0):
						t.Errorf("%s of the host is on %s with the flags %#x\n%s", r.Root, r.Point, r.Attr, h.changed([2]int{i, j}))
					case r.Dev != data && r.Type != "tmpfs" && r.Type != "ramfs" && r.Point != "/proc" && r.Point != "/proc/sys":
						t.Errorf("a %s is on %s\n%s", r.Type, r.Point, h.changed([2]int{i, j}))
					}
				}
			}
		})
	}
	t.Logf("%d are no trees, %d refused or impossible, %d made", refused, impossible, made)
	if made < 10 || impossible < 3 {
		t.Errorf("only %d were made, and %d refused", made, impossible)
	}
}

// TestHostileBounds: the oracle sees each kind of breach, in trees that are made
// with a policy that is wrong.
func TestHostileBounds(t *testing.T) {
	h := newHostile(t)
	if err := h.try(h.text); err != nil || h.count[3] != 1 {
		t.Fatalf("the file as it was: %v, %v", err, h.count)
	}
	f, err := tree.Decode(h.text)
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range map[string]map[string]tree.External{
		"writable":       {"/data": {Path: "/mnt/data"}, "/ro": {Path: "/mnt/ro"}},
		"something else": {"/data": {Path: "/mnt/secret"}, "/ro": {Path: "/mnt/ro", ReadOnly: true}},
		"more of it":     {"/data": {Path: "/mnt"}, "/ro": {Path: "/mnt/ro", ReadOnly: true}},
		"the host's":     {"/data": {Path: "/proc"}, "/ro": {Path: "/mnt/ro", ReadOnly: true}},
	} {
		good := h.policy
		h.policy = policy(f, by)
		if h.try(h.text) == nil {
			t.Errorf("%s: not seen", name)
		}
		h.policy = good
	}
	// A group of the host's.
	var v map[string]any
	json.Unmarshal(h.text, &v)
	groups := v["groups"].([]any)
	v["groups"] = append(groups, map[string]any{"id": 77, "outside": "g-77"})
	for _, m := range v["namespaces"].([]any)[0].(map[string]any)["mounts"].([]any) {
		if m := m.(map[string]any); m["point"] == "/ro" {
			m["slave"] = 77
		}
	}
	text, _ := json.Marshal(v)
	h.policy.External["g-77"] = tree.External{Path: "/mnt"}
	if err := h.try(text); err == nil || !strings.Contains(err.Error(), "hears of") {
		t.Errorf("a group of the host's: %v, %v", err, h.count)
	}
}

// TestHostileTargets: names that other formats would take for something, links
// that changed in between, and files of them.
func TestHostileTargets(t *testing.T) {
	h := newHostile(t)
	for _, name := range []string{"]:", "a]:/etc", "a,b", "a:b", `a\040b`, "a\nb", "mnt[/]:x", "\x1b[2J", "m-0123456789abcdef", strings.Repeat("x", 255)} {
		var v map[string]any
		json.Unmarshal(h.text, &v)
		mounts := v["namespaces"].([]any)[0].(map[string]any)["mounts"].([]any)
		point := ""
		for _, c := range []byte(name) {
			if c < ' ' || c > '~' || c == '\\' {
				point += fmt.Sprintf(`\%03o`, c)
			} else {
				point += string(c)
			}
		}
		for _, m := range mounts {
			// The new file system /a, which has no external to be mistaken for.
			if m := m.(map[string]any); m["point"] == "/b" {
				m["point"] = "/" + point
			}
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.try(text); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	if h.count[3] != 10 {
		t.Errorf("%d trees with odd names were made of 10", h.count[3])
	}
	// The sources become links to what is secret.
	if err := h.host.do(func(sys.Locked) error {
		for _, d := range []string{"/mnt/data", "/mnt/ro"} {
			if err := unix.Rename(d, d+".was"); err != nil {
				return err
			}
			if err := unix.Symlink("secret", d); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	made := h.count[3]
	if err := h.try(h.text); err != nil {
		t.Error(err)
	}
	if h.count[3] != made {
		t.Error("a tree was made of links")
	}
}

// TestHostileWindow: while trees are restored, one in two of which fails at the
// last moment, an observer on the host never sees one of their mounts, and
// whoever gets a tree finds all of it.
func TestHostileWindow(t *testing.T) {
	h := newHostile(t)
	f, err := tree.Decode(h.text)
	if err != nil {
		t.Fatal(err)
	}
	rounds := number("ROUNDS", 200)
	seen := make(chan string)
	end := make(chan bool)
	eye := h.host.in(t)
	looks := 0
	go eye.do(func(l sys.Locked) error {
		ids := make([]uint64, 4096)
		n, err := sys.Listmount(l, 0, ids)
		if err != nil {
			seen <- err.Error()
			return nil
		}
		first := slices.Clone(ids[:n])
		for {
			select {
			case <-end:
				seen <- ""
				return nil
			default:
			}
			looks++
			if n, err = sys.Listmount(l, 0, ids); err != nil || !slices.Equal(ids[:n], first) {
				seen <- fmt.Sprintf("there are %d mounts instead of %d (%v)", n, len(first), err)
				return nil
			}
		}
	})
	stop := errors.New("stop")
	last := 0
	for _, n := range f.Namespaces {
		last += len(n.Mounts)
	}
	open := descriptors()
	for i := range rounds {
		count := 0
		o := snapshot.Options{Policy: h.policy}
		if i%2 == 1 {
			o.Reach = func(*tree.Mount, int, int) error {
				if count++; count == last {
					return stop
				}
				return nil
			}
		}
		var spaces []snapshot.Space
		th := h.host.in(t)
		err := th.do(func(l sys.Locked) (err error) {
			spaces, err = snapshot.Restore(l, f, o)
			return err
		})
		if i%2 == 1 {
			if !errors.Is(err, stop) || spaces != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range spaces {
			in := newThread(t)
			if err := in.do(func(l sys.Locked) error { return s.Enter(l) }); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(in.table(t), "\n"); n != last {
				t.Fatalf("round %d: the tree has %d mounts of %d", i, n, last)
			}
			s.Close()
		}
	}
	if now := descriptors(); now > open+4 {
		t.Errorf("%d descriptors are open, and %d were", now, open)
	}
	close(end)
	if what := <-seen; what != "" {
		t.Error(what)
	}
	t.Logf("%d restores, %d looks", rounds, looks)
	if now := h.host.table(t); now != h.table {
		t.Errorf("the host's mounts changed:\n%s", now)
	}
}

func descriptors() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}
