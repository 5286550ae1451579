package mounts

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
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
	most int
	next int
	done []string
}

func (g *grower) grow(steps int) {
	for range steps {
		g.step()
	}
}

func (g *grower) pick() string { return g.dirs[g.r.IntN(len(g.dirs))] }

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
		line = []string{"flags", g.pick(), []string{"ro", "nosuid", "noexec,nodev", "noatime", "strictatime"}[g.r.IntN(4)]}
	case n < 19:
		g.next++
		line = []string{"move", g.pick(), fmt.Sprintf("/m%d", g.next)}
		dir = line[2]
	default:
		if line = []string{"umount", g.pick()}; line[1] == "/" || line[1] == "/ext" {
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
