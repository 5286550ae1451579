package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/criu"
	"launch/internal/facts"
	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
	"launch/oci/bundle"
	"launch/settings"
)

// CRIUOptions are what checkpoint and restore are told beside the container.
type CRIUOptions struct {
	// Program is CRIU's path; empty: the one in Search.
	Program, Search string
	Env             []string
	// Images is where the files are, Work where its log goes, Parent the
	// images before these, below Images.
	Images, Work, Parent string
	// CRIU has the options that are CRIU's own.
	CRIU criu.Options
	// PreDump: only the memory is written, and the container runs on.
	PreDump bool
	Warn    func(string)
}

// outsideName is the file among CRIU's that tells what is outside of the
// container; mountsName has its mounts.
const (
	outsideName = "launch-outside.json"
	mountsName  = "launch-mounts.json"
)

// beyond is what an image needs from outside: mounts by keys made of their
// targets, and descriptors. No path of the host's is in it.
type beyond struct {
	Version int      `json:"launch-checkpoint"`
	Mounts  []string `json:"mounts,omitempty"`
	// Stdio names the descriptors 0 to 2, where they come from outside.
	Stdio [3]string `json:"stdio"`
	// Network: its network namespace was not its own.
	Network bool `json:"network,omitempty"`
}

// external is a mount of a bundle whose source is outside of the container.
type external struct {
	key    string
	target string // as the bundle says
	source string
	// attr are the flags that the bundle gives it at least.
	attr uint64
	// slave: the host's mounts may arrive.
	slave bool
	// lenient: where it is missing in the container, it isn't needed.
	lenient bool
	step    plan.Step
	// wide: CRIU needs the whole mount that the source lies on. found is a
	// descriptor of the source.
	wide  bool
	found int
}

// externals gives what a bundle's plan takes from outside.
func externals(p *plan.Plan) (list []external) {
	for _, s := range p.Steps {
		x := external{key: tree.Key(0, path.Clean(s.Target)), target: path.Clean(s.Target), source: s.Source.Path, attr: s.Attr, step: s, slave: true}
		switch {
		case s.Do == plan.Bind && !s.Source.InRoot && !s.Source.Temp:
			x.lenient = s.Optional || s.Lenient
			for _, how := range s.Propagation {
				if how &= unix.MS_PRIVATE | unix.MS_UNBINDABLE; how != 0 {
					x.slave = false
				}
			}
		case s.Do == plan.Hide:
			x.source, x.lenient, x.attr = "/dev/null", true, unix.MOUNT_ATTR_RDONLY
		case s.Do == plan.Node:
			x.source, x.lenient, x.attr = x.target, true, 0
		default:
			continue
		}
		list = append(list, x)
	}
	return list
}

// compiled reads the container's bundle, as it is now or as it was.
func compiled(dir, text, id string, host facts.Host) (settings.Settings, *plan.Plan, error) {
	s, _, err := bundle.Read(dir, text)
	if err != nil {
		return s, nil, err
	}
	s.Machine = id
	p, err := plan.Compile(plan.Input{Settings: s, Facts: facts.Facts{Host: host}, Profile: settings.OCI})
	return s, p, err
}

// start makes CRIU ready, after a look at its version.
func (o *CRIUOptions) start(l sys.Locked, w criu.With) (*criu.CRIU, error) {
	w.Env = o.Env
	// A CRIU serves one request.
	c, err := criu.Start(l, o.Program, criu.With{Env: o.Env})
	if err != nil {
		return nil, err
	}
	version, err := c.Version()
	c.Close()
	if err != nil {
		return nil, fmt.Errorf("%s does not work: %w", o.Program, err)
	}
	if version < criu.Least {
		return nil, fmt.Errorf("%s is version %d.%d, which is too old: 4.0 or newer is needed", o.Program, version/10000, version/100%100)
	}
	return criu.Start(l, o.Program, w)
}

// ready finds CRIU and the directory of its log.
func (o *CRIUOptions) ready() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("CRIU needs root's rights")
	}
	if o.Program == "" {
		if o.Program, err = criu.Find(o.Search); err != nil {
			return err
		}
	}
	// CRIU looks into us for descriptors that it was told the numbers of, which
	// root may, and for a container's processes nobody may.
	if err := sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	if o.Work == "" {
		o.Work = o.Images
	}
	if err := sys.Mkdirat(unix.AT_FDCWD, o.Work, 0o700); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make %s: %w", o.Work, err)
	}
	if o.CRIU.WorkFD, err = sys.Openat(unix.AT_FDCWD, o.Work, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return fmt.Errorf("open %s: %w", o.Work, err)
	}
	o.CRIU.Images, o.CRIU.Parent = o.Images, o.Parent
	return nil
}

// pass hands on the descriptor that is told of pages.
func (o *CRIUOptions) pass(w *criu.With) {
	if c := &o.CRIU; c.StatusFD > 0 {
		w.Inherit = append(w.Inherit, c.StatusFD)
		c.StatusFD = criu.Inherited(len(w.Inherit) - 1)
	}
}

// explain adds what CRIU's log says.
func (o *CRIUOptions) explain(err error) error {
	var f *criu.Failed
	if errors.As(err, &f) {
		f.File = path.Join(o.Work, o.CRIU.Log)
		if text, rerr := sys.ReadFile(o.CRIU.WorkFD, o.CRIU.Log, 64<<20); rerr == nil {
			f.Log = criu.FirstError(string(text))
		}
	}
	return err
}

// Checkpoint writes the container's processes into files. Unless they are to
// run on, it has ended then.
func (d *Dir) Checkpoint(o CRIUOptions) error {
	status, err := d.Status()
	if err != nil {
		return err
	}
	if status != Running && status != Paused {
		return fmt.Errorf("cannot checkpoint a container that is %s", status)
	}
	text, err := d.Config()
	if err != nil {
		return err
	}
	host, err := Caller()
	if err != nil {
		return err
	}
	s, p, err := compiled(d.Bundle, text, d.ID, host)
	if err != nil {
		return err
	}
	if p.Bare {
		return errors.New("cannot checkpoint a container without a mount namespace of its own")
	}
	if err := sys.Mkdirat(unix.AT_FDCWD, o.Images, 0o700); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make %s: %w", o.Images, err)
	}
	if err := o.ready(); err != nil {
		return err
	}
	defer sys.Close(o.CRIU.WorkFD)
	f, err := snapshot.Read([]int{d.PID})
	if err != nil {
		return err
	}
	c := &o.CRIU
	c.Log, c.PID, c.Root = "dump.log", d.PID, d.Rootfs
	c.OrphanPtsMaster = true
	out := beyond{Version: 1}
	if err := d.outer(p, f, c, &out); err != nil {
		return err
	}
	if err := d.stdio(c, &out); err != nil {
		return err
	}
	for _, n := range s.Bundle.Namespaces {
		if n.Path == "" {
			continue
		}
		if n.Kind != "network" {
			return fmt.Errorf("cannot checkpoint a container whose %s namespace is somebody else's", n.Kind)
		}
		st, err := sys.Statx(unix.AT_FDCWD, n.Path, unix.STATX_INO)
		if err != nil {
			return fmt.Errorf("look at the network namespace %s: %w", n.Path, err)
		}
		out.Network = true
		c.Others = append(c.Others, fmt.Sprintf("net[%d]:%s", st.Ino, networkKey))
	}
	// CRIU's own way of freezing gives up sometimes, and takes what is frozen.
	if dir, ok := d.Group.Freezer(); ok {
		if c.Freeze = dir; status == Running {
			if err := d.Group.Freeze(); err != nil {
				return err
			}
			defer d.Group.Thaw()
		}
	}
	kind := criu.Dump
	if o.PreDump {
		kind, c.TrackMem, c.Log = criu.PreDump, true, "pre-dump.log"
	} else if err := d.keepTree(o.Images, f, &out); err != nil {
		return err
	}
	err = sys.Elsewhere(func(l sys.Locked) error {
		w := criu.With{Cgroup: -1}
		o.pass(&w)
		r, err := o.start(l, w)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.Do(kind, c, nil)
		return err
	})
	if err != nil {
		return o.explain(err)
	}
	if c.LeaveRunning || o.PreDump {
		return nil
	}
	return d.end(true, o.Warn, nil)
}

const networkKey = "extRootNetNS"

// outer tells CRIU what of the container's mounts comes from outside.
func (d *Dir) outer(p *plan.Plan, f *tree.File, c *criu.Options, out *beyond) error {
	live := map[string]tree.Mount{}
	external := map[string]bool{}
	for _, s := range f.Sources {
		external[s.ID] = s.External
	}
	targets := f.Namespaces[0].Targets()
	for _, m := range f.Namespaces[0].Mounts {
		live[targets[m.ID]] = m // what covers comes later
	}
	root, err := sys.Openat(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/root", d.PID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	defer sys.Close(root)
	done := map[string]bool{}
	for _, x := range externals(p) {
		at, err := seen(root, x.target)
		m, ok := live[at]
		if err != nil || !ok || !external[m.Source] {
			if !x.lenient {
				// The container took it away itself. It is still asked for, so that
				// today's bundle and the one of then can be compared.
				out.Mounts = append(out.Mounts, x.key)
			}
			continue
		}
		if done[at] {
			continue
		}
		done[at] = true
		if err := speakable(at); err != nil {
			return err
		}
		out.Mounts = append(out.Mounts, x.key)
		c.External = append(c.External, [2]string{at, x.key})
		if !x.step.Recursive || x.step.Do != plan.Bind {
			continue
		}
		for _, m := range f.Namespaces[0].Mounts {
			below, ok := strings.CutPrefix(targets[m.ID], at+"/")
			if !ok || !external[m.Source] || done[targets[m.ID]] {
				continue
			}
			done[targets[m.ID]] = true
			if err := speakable(targets[m.ID]); err != nil {
				return err
			}
			key := tree.Key(0, path.Join(x.target, below))
			out.Mounts = append(out.Mounts, key)
			c.External = append(c.External, [2]string{targets[m.ID], key})
		}
	}
	slices.Sort(out.Mounts)
	return nil
}

// speakable refuses a target that CRIU would take for another one.
func speakable(target string) error {
	if strings.Contains(target, "]:") || strings.ContainsAny(target, "\n\x00") {
		return fmt.Errorf("cannot checkpoint a container with something mounted on %s: CRIU can't tell it from another place", strconv.Quote(target))
	}
	return nil
}

// seen gives the path, in the container, of what a target leads to.
func seen(root int, target string) (string, error) {
	n, err := sys.Openat2(root, target, unix.O_PATH, 0, sys.InRoot)
	if err != nil {
		return "", err
	}
	defer sys.Close(n)
	return sys.PathOf(n)
}

// stdio finds out which of the descriptors 0 to 2 of the first process come
// from outside, and how they are called: numbers only.
func (d *Dir) stdio(c *criu.Options, out *beyond) error {
	proc, err := sys.Openat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(d.PID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("find the first process: %w", err)
	}
	defer sys.Close(proc)
	inside, err := sys.ReadFile(proc, "mountinfo", 64<<20)
	if err != nil {
		return fmt.Errorf("read its mounts: %w", err)
	}
	rows, err := tree.ParseMountinfo(string(inside))
	if err != nil {
		return err
	}
	for n := range out.Stdio {
		fd := "fd/" + strconv.Itoa(n)
		link, err := sys.Readlinkat(proc, fd)
		if err != nil {
			continue // it is closed
		}
		if strings.HasPrefix(link, "pipe:[") || strings.HasPrefix(link, "socket:[") {
			out.Stdio[n] = link
			continue
		}
		info, err := sys.ReadFile(proc, "fdinfo/"+strconv.Itoa(n), 4096)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(info), "mnt_id:")
		line, _, _ := strings.Cut(rest, "\n")
		id, err := strconv.ParseUint(strings.TrimSpace(line), 10, 32)
		if err != nil || slices.ContainsFunc(rows, func(r tree.Row) bool { return r.ID == id }) {
			continue
		}
		at, err := sys.Openat(proc, fd, unix.O_PATH, 0)
		if err != nil {
			continue
		}
		st, err := sys.Statx(at, "", unix.STATX_INO|unix.STATX_TYPE)
		sys.Close(at)
		if err != nil {
			return fmt.Errorf("look at descriptor %d: %w", n, err)
		}
		// CRIU knows it by these numbers in both directions.
		out.Stdio[n] = fmt.Sprintf("file[%x:%x]", id, st.Ino)
		if !slices.Contains(c.Others, out.Stdio[n]) {
			c.Others = append(c.Others, out.Stdio[n])
		}
	}
	return nil
}

// keepTree writes down what CRIU's images don't say.
func (d *Dir) keepTree(images string, f *tree.File, out *beyond) error {
	dir, err := sys.Openat(unix.AT_FDCWD, images, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", images, err)
	}
	defer sys.Close(dir)
	mounts, err := f.Encode()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		text []byte
	}{{mountsName, mounts}, {outsideName, append(text, '\n')}} {
		n, err := sys.Openat(dir, file.name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			err = sys.WriteString(n, string(file.text))
			sys.Close(n)
		}
		if err != nil {
			return fmt.Errorf("write %s/%s: %w", images, file.name, err)
		}
	}
	return nil
}

// readTree reads that again. It is input that nobody vouches for.
func readTree(images string) (*tree.File, *beyond, error) {
	dir, err := sys.Openat(unix.AT_FDCWD, images, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", images, err)
	}
	defer sys.Close(dir)
	read := func(name string, most int) ([]byte, error) {
		text, err := sys.ReadIn(dir, name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS, most)
		if err == unix.ENOENT {
			err = errors.New("launch-oci didn't make these images")
		}
		if err != nil {
			err = fmt.Errorf("read %s/%s: %w", images, name, err)
		}
		return text, err
	}
	text, err := read(mountsName, tree.Limit)
	if err != nil {
		return nil, nil, err
	}
	f, err := tree.Decode(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s/%s: %w", images, mountsName, err)
	}
	if text, err = read(outsideName, 1<<20); err != nil {
		return nil, nil, err
	}
	o, err := parseBeyond(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s/%s: %w", images, outsideName, err)
	}
	return f, o, nil
}

func parseBeyond(text []byte) (*beyond, error) {
	var o beyond
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return nil, err
	}
	if o.Version != 1 {
		return nil, fmt.Errorf("it has format %d, known is 1", o.Version)
	}
	for _, k := range o.Mounts {
		if len(k) < 3 || len(k) > 32 || k[:2] != "m-" || strings.Trim(k[2:], "0123456789abcdef") != "" {
			return nil, fmt.Errorf("bad key %q", k)
		}
	}
	for _, s := range o.Stdio {
		kind, rest, _ := strings.Cut(s, "[")
		number, ok := strings.CutSuffix(rest, "]")
		switch kind {
		case "":
			ok = s == ""
		case "pipe:", "socket:":
			ok = ok && len(number) < 21 && strings.Trim(number, "0123456789") == ""
		case "file":
			ok = ok && len(number) < 42 && strings.Trim(number, "0123456789abcdef:") == ""
		default:
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("bad descriptor %q", s)
		}
	}
	return &o, nil
}
