package mounts

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
)

// TestRandom makes random trees: $TREES of them (200) of up to 200 mounts, from
// the seed $SEED (1) on. One in four has private users.
func TestRandom(t *testing.T) {
	count, seed := number("TREES", 200), number("SEED", 1)
	if testing.Short() {
		count = min(count, 20)
	}
	mounts, probes := 0, 0
	for i := range count {
		t.Run(strconv.Itoa(seed+i), func(t *testing.T) {
			m, n := random(t, uint64(seed+i))
			mounts, probes = mounts+m, probes+n
		})
		if t.Failed() {
			break
		}
	}
	t.Logf("%d trees with %d mounts, %d probes", count, mounts, probes)
	if probes < count/2 {
		t.Errorf("only %d probes in %d trees", probes, count)
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// random makes one tree, and takes it for a trip.
func random(t *testing.T, seed uint64) (mounts, probes int) {
	host := newHost(t)
	r := rand.New(rand.NewPCG(seed, 6))
	p := &trip{t: t, host: host, ns: -1}
	if r.IntN(4) == 0 {
		p.private()
	}
	shared := r.IntN(2) == 0
	if shared {
		if err := host.do(func(sys.Locked) error { return script([]string{"shared /mnt"}) }); err != nil {
			t.Fatal(err)
		}
	}
	made := grow(t, host, nil)
	if err := made[0].do(func(sys.Locked) error { return script([]string{"slave /ext"}) }); err != nil {
		t.Fatal(err)
	}
	most := 1 + r.IntN(200)
	if r.IntN(2) == 0 {
		most = 1 + r.IntN(20)
	}
	g := &grower{r: r, dirs: []string{"/", "/ext"}, most: most}
	spaces := 1 + r.IntN(3)
	for len(made) > 0 {
		th := made[len(made)-1]
		if err := th.do(func(sys.Locked) error { g.grow(r.IntN(2 * most)); return nil }); err != nil {
			t.Fatal(err)
		}
		if spaces--; spaces <= 0 {
			break
		}
		next := th.in(t)
		if err := next.do(func(l sys.Locked) error { return sys.Unshare(l, unix.CLONE_NEWNS) }); err != nil {
			t.Fatal(err)
		}
		made = append(made, next)
	}
	_, text, err := p.save(tids(made)...)
	if err != nil {
		t.Fatalf("save: %v\n%s", err, g.done)
	}
	f, err := tree.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, n := range f.Namespaces {
		count += len(n.Mounts)
	}
	if count > 400 {
		// Mounts on shared ones multiply across namespaces.
		return 0, 1
	}
	before := host.table(t)
	made2, err := p.restore(f, snapshot.Options{Policy: policy(f, everywhere(t, made))})
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, text, g.done)
	}
	if after := host.table(t); after != before {
		t.Errorf("the host's mounts changed:\n%s\n%s", before, after)
	}
	_, again, err := p.save(made2.pids...)
	if err != nil {
		t.Fatal(err)
	}
	if err := differ(text, again); err != nil {
		t.Fatalf("saved again, it is another tree: %v\n%s", err, g.done)
	}
	if err := p.probe(made, made2, f, 1+count/3); err != nil {
		t.Fatalf("%v\n%s", err, g.done)
	}
	return count, p.probes
}

// TestRandomMachine does the same with the mounts of a machine: what a payload
// made by chance is added to the same machine, started anew, which then is like
// the first one. One in two has users of its own.
func TestRandomMachine(t *testing.T) {
	count, seed := number("TREES", 200), number("SEED", 1)
	if testing.Short() {
		count = min(count, 20)
	}
	mounts, refused := 0, map[string]int{}
	for i := range count {
		t.Run(strconv.Itoa(seed+i), func(t *testing.T) {
			n, err := randomMachine(t, uint64(seed+i))
			mounts += n
			for _, known := range []string{"would show what the machine's mount", "is hidden", "bind nothing of the host's"} {
				if err != nil && strings.Contains(err.Error(), known) {
					refused[known]++
					return
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
		if t.Failed() {
			break
		}
	}
	none := 0
	for _, n := range refused {
		none += n
	}
	t.Logf("%d machines with %d mounts, of which %d were refused: %v", count, mounts, none, refused)
	if none > count/4 {
		t.Errorf("%d of %d were refused", none, count)
	}
}

// started is a machine's tree, with what its settings mount, and a process in its
// mount namespace.
func (p *trip) started(host *thread, hears bool, more ...string) (launcher *thread, before *snapshot.Before, pid int) {
	launcher = host.in(p.t)
	var err error
	if err = launcher.do(func(l sys.Locked) error {
		if before, err = snapshot.Look(); err != nil {
			return err
		}
		if err := bare(l); err != nil {
			return err
		}
		how := "private"
		if hears {
			how = "slave"
		}
		return script(append([]string{"private /ext", "tmpfs /base", "mkdir /base/one/two", "bind /ext/in /b", how + " /b", "umount /ext", "proc /proc", "bind /proc/sys /proc/sys", "flags /proc/sys ro"}, more...))
	}); err != nil {
		p.t.Fatal(err)
	}
	if p.ns < 0 {
		if err := launcher.do(func(sys.Locked) error { return script([]string{"rshared /"}) }); err != nil {
			p.t.Fatal(err)
		}
		return launcher, before, launcher.in(p.t).tid
	}
	if err := launcher.do(func(l sys.Locked) error { pid = copied(p.t, l, p.ns); return nil }); err != nil {
		p.t.Fatal(err)
	}
	return launcher, before, pid
}

func randomMachine(t *testing.T, seed uint64) (mounts int, err error) {
	host := newHost(t)
	r := rand.New(rand.NewPCG(seed, 7))
	p := &trip{t: t, host: host, ns: -1}
	if r.IntN(2) == 0 {
		p.private()
	}
	hears := r.IntN(2) == 0
	lines := []string{"mkdir /mnt/in/x/y"}
	if hears {
		lines = append(lines, "shared /mnt")
	}
	if err := host.do(func(sys.Locked) error { return script(lines) }); err != nil {
		t.Fatal(err)
	}
	_, b, pid := p.started(host, hears)
	defer b.Close()
	inside := host.in(t)
	g := &grower{r: r, dirs: []string{"/base", "/b", "/base/one", "/b/x"}, fixed: 4, most: 1 + r.IntN(100)}
	if err := inside.do(func(l sys.Locked) error {
		ns, err := sys.Openat(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer sys.Close(ns)
		if err := sys.Setns(l, ns, unix.CLONE_NEWNS); err != nil {
			return err
		}
		g.grow(r.IntN(2 * g.most))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, text, err := p.save(pid)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tree.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	mounts = len(f.Namespaces[0].Mounts)
	launcher, before, next := p.started(host, hears)
	defer before.Close()
	table := host.table(t)
	root := -1
	err = launcher.do(func(l sys.Locked) error {
		root, err = snapshot.Add(l, before, next, f, p.users)
		return err
	})
	if now := host.table(t); now != table {
		t.Errorf("the host's mounts changed:\n%s\n%s", table, now)
	}
	if err != nil {
		return mounts, fmt.Errorf("%w\n%s\n%s", err, text, g.done)
	}
	sys.Close(root)
	_, again, err := p.save(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := differ(text, again); err != nil {
		t.Fatalf("saved again, it is another tree (users %v, hears %v): %v\n%s", p.ns >= 0, hears, err, g.done)
	}
	return mounts, nil
}

// everywhere: all that comes from outside is of the host's /mnt, or a part of it.
func everywhere(t *testing.T, made []*thread) map[string]tree.External {
	by := map[string]tree.External{}
	for _, th := range made {
		rows, err := tree.ParseMountinfo(th.table(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			// Of several on one target, the id stands for the widest.
			if have, ok := by[r.Point]; r.Device == "host" && (!ok || len(path.Join("/mnt", r.Root)) < len(have.Path)) {
				by[r.Point] = tree.External{Path: path.Join("/mnt", r.Root)}
			}
			by["group "+r.Point] = tree.External{Path: "/mnt", Shared: true}
		}
	}
	return by
}

// grower does random things to the mounts of its thread.
type grower struct {
	r    *rand.Rand
	dirs []string
	// fixed are how many of dirs stay where they are, with the flags they have.
	fixed int
	most  int
	next  int
	done  []string
}

func (g *grower) grow(steps int) {
	for range steps {
		g.step()
	}
}

func (g *grower) pick() string { return g.dirs[g.r.IntN(len(g.dirs))] }

// loose is one that may go.
func (g *grower) loose() string {
	if len(g.dirs) == g.fixed {
		return "/none"
	}
	return g.dirs[g.fixed+g.r.IntN(len(g.dirs)-g.fixed)]
}

// fresh is a new directory, mostly in one that is there.
func (g *grower) fresh() string {
	g.next++
	at := g.pick()
	if at == "/" {
		at = ""
	}
	return fmt.Sprintf("%s/d%d", at, g.next)
}

func (g *grower) step() {
	var line []string
	dir := ""
	switch n := g.r.IntN(20); {
	case n < 3 && g.next < g.most:
		dir = g.fresh()
		line = []string{"tmpfs", dir}
	case n < 8 && g.next < g.most:
		dir = g.fresh()
		line = []string{"bind", g.pick(), dir}
	case n < 9 && g.next < g.most:
		dir = g.fresh()
		line = []string{"rbind", g.pick(), dir}
	case n < 10 && g.next < g.most:
		dir = g.fresh()
		line = []string{"mkdir", dir}
	case n < 11:
		line = []string{"tmpfs", g.pick()} // over what is there
	case n < 14:
		line = []string{"shared", g.pick()}
	case n < 16:
		line = []string{"slave", g.pick()}
	case n < 17:
		line = []string{[]string{"private", "unbindable", "rshared", "rslave"}[g.r.IntN(4)], g.pick()}
	case n < 18:
		line = []string{"flags", g.loose(), []string{"ro", "nosuid", "noexec,nodev", "noatime", "strictatime"}[g.r.IntN(4)]}
	case n < 19:
		g.next++
		line = []string{"move", g.loose(), fmt.Sprintf("/m%d", g.next)}
		dir = line[2]
	default:
		if line = []string{"umount", g.loose()}; line[1] == "/" || line[1] == "/ext" {
			return
		}
	}
	if slices.Contains([]string{"rbind", "tmpfs", "bind"}, line[0]) && g.full() {
		return
	}
	if (line[0] == "tmpfs" || line[0] == "move") && line[1] == "/" {
		return // the thread would stay below it
	}
	if word(line) == nil { // what can't be done isn't
		g.done = append(g.done, fmt.Sprint(line, "\n"))
		if dir != "" {
			g.dirs = append(g.dirs, dir)
		}
	}
}

// full: binds of binds of shared mounts multiply.
func (g *grower) full() bool {
	ids := make([]uint64, g.most+2)
	n, err := sys.Listmount(sys.Locked{}, 0, ids)
	return err != nil || n > g.most
}
