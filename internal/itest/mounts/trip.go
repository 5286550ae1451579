package mounts

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
	"launch/userns"
)

// trip is one tree on its way.
type trip struct {
	t    testing.TB
	host *thread
	// users are those of the restored tree; nothing: the host's.
	users userns.Map
	ns    int // a namespace with them
	// probes counts what was mounted in both trees.
	probes int
}

// private gives the trip users of its own.
func (p *trip) private() {
	p.users = userns.Map{{Inside: 0, Outside: 300000, Size: 65536}}
	c := exec.Command("sleep", "infinity")
	id := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 300000, Size: 65536}}
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: id, GidMappings: id}
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
	var err error
	if p.ns, err = sys.Openat(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid), unix.O_RDONLY, 0); err != nil {
		p.t.Fatal(err)
	}
	c.Process.Kill()
	c.Wait()
	p.t.Cleanup(func() { sys.Close(p.ns) })
}

// save gives the file of some namespaces.
func (p *trip) save(pids ...int) (f *tree.File, text []byte, err error) {
	err = p.host.do(func(sys.Locked) error {
		if f, err = snapshot.Read(pids); err != nil {
			return err
		}
		text, err = f.Encode()
		return err
	})
	return f, text, err
}

// policy gives meanings to what a file has from outside, by the target.
func policy(f *tree.File, by map[string]tree.External) tree.Policy {
	p := tree.Policy{External: map[string]tree.External{}}
	give := func(id string, targets ...string) {
		for _, t := range targets {
			if x, ok := by[t]; ok {
				p.External[id] = x
				return
			}
		}
	}
	for _, n := range f.Namespaces {
		at := n.Targets()
		for _, m := range n.Mounts {
			for _, s := range f.Sources {
				// The id stands for the widest part.
				if _, ok := p.External[s.ID]; s.External && s.ID == m.Source && !ok && m.Root == "/" {
					give(s.ID, at[m.ID])
				}
			}
			for _, g := range f.Groups {
				if _, ok := p.External[g.Outside]; g.Outside != "" && !ok && (g.ID == m.Group || g.ID == m.Slave) {
					give(g.Outside, "group "+at[m.ID])
				}
			}
			for at := max(m.Group, m.Slave); at != 0; {
				g := f.Groups[at-1]
				if _, ok := p.External[g.Outside]; g.Outside != "" && !ok {
					give(g.Outside, "group "+n.Targets()[m.ID])
				}
				at = g.Master
			}
		}
	}
	return p
}

// restored is a tree that was made again.
type restored struct {
	spaces []snapshot.Space
	pids   []int
	// threads are in the tree's namespaces.
	threads []*thread
}

// restore makes the file's tree, and enters it.
func (p *trip) restore(f *tree.File, o snapshot.Options) (*restored, error) {
	o.Users, o.UserNS = p.users, p.ns
	th := p.host.in(p.t)
	r := &restored{}
	if err := th.do(func(l sys.Locked) (err error) {
		r.spaces, err = snapshot.Restore(l, f, o)
		return err
	}); err != nil {
		return nil, err
	}
	p.t.Cleanup(func() {
		for _, n := range r.spaces {
			n.Close()
		}
	})
	for _, n := range r.spaces {
		in := newThread(p.t)
		if err := in.do(func(l sys.Locked) error { return n.Enter(l) }); err != nil {
			return nil, fmt.Errorf("enter the tree: %w", err)
		}
		r.threads = append(r.threads, in)
		if len(p.users) == 0 {
			r.pids = append(r.pids, in.tid)
			continue
		}
		if err := p.host.do(func(l sys.Locked) error {
			r.pids = append(r.pids, inside(p.t, l, p.ns, n))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func tids(list []*thread) (pids []int) {
	for _, th := range list {
		pids = append(pids, th.tid)
	}
	return pids
}

// differ tells in which lines two texts differ first.
func differ(a, b []byte) error {
	if bytes.Equal(a, b) {
		return nil
	}
	x, y := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range min(len(x), len(y)) {
		if !bytes.Equal(x[i], y[i]) {
			return fmt.Errorf("line %d:\n-%s\n+%s\n(before)\n%s\n(after)\n%s", i+1, x[i], y[i],
				bytes.Join(x[max(0, i-12):min(len(x), i+6)], []byte("\n")), bytes.Join(y[max(0, i-12):min(len(y), i+6)], []byte("\n")))
		}
	}
	return errors.New("one has more lines")
}

// probe mounts something in each place of both trees, and compares where it
// arrives, in the trees and on the host.
func (p *trip) probe(made []*thread, r *restored, f *tree.File, every int) error {
	n := 0
	for i, space := range f.Namespaces {
		targets := space.Targets()
		for _, m := range space.Mounts {
			if n++; m.Kind != tree.Dir || n%every != 0 {
				continue
			}
			at := targets[m.ID]
			var before, after [2]string
			var text [2][]byte
			for j, th := range []*thread{made[i], r.threads[i]} {
				before[j] = p.host.table(p.t)
				where, err := probed(th, at)
				if err != nil {
					return fmt.Errorf("probe %s: %w", at, err)
				}
				if where == "" {
					continue
				}
				after[j] = p.host.table(p.t)
				pids := tids(made)
				if j == 1 {
					pids = r.pids
				}
				_, text[j], err = p.save(pids...)
				if uerr := th.do(func(sys.Locked) error { return unix.Unmount(where, unix.MNT_DETACH) }); uerr != nil {
					return fmt.Errorf("end the probe on %s: %w", at, uerr)
				}
				if err != nil {
					return err
				}
			}
			if text[0] == nil || text[1] == nil {
				continue // it is read-only, and has no place for a probe
			}
			p.probes++
			if err := differ(text[0], text[1]); err != nil {
				return fmt.Errorf("what is mounted in %s arrives elsewhere: %w", at, err)
			}
			if x, y := bytes.Count([]byte(after[0]), []byte("\n"))-bytes.Count([]byte(before[0]), []byte("\n")), bytes.Count([]byte(after[1]), []byte("\n"))-bytes.Count([]byte(before[1]), []byte("\n")); x != y {
				return fmt.Errorf("what is mounted in %s arrives %d times on the host, and %d times of the restored one", at, x, y)
			}
		}
	}
	return nil
}

// probed mounts something in a directory of the mount on at, which is made
// there; "": it can't be.
func probed(th *thread, at string) (where string, err error) {
	err = th.do(func(sys.Locked) error {
		where = at + "/probe"
		if err := unix.Mkdir(where, 0o755); err != nil && err != unix.EEXIST {
			where = ""
			return nil
		}
		return unix.Mount("probe", where, "tmpfs", 0, "")
	})
	return where, err
}
