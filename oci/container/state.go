// Package container keeps containers: their directories, and their life from
// create to delete.
//
// A container has a directory below the root directory (/run/launch-oci), with
// the state, a copy of its config.json, and, until it is started, the FIFO
// that its first process waits at. Who changes a container holds a lock on the
// directory. What was made on the host is written down before it is made, so
// that delete finds it after a kill at any moment.
//
// It guarantees that one of several creates of an id wins, that a process is
// never taken for another one of the same number, and that delete leaves
// nothing. It refuses to know command lines and log formats.
//
// Room: host.
package container

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/cgroup"
	"launch/internal/cgroup/systemd"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/oci/bundle"
)

// Status is where a container is in its life.
type Status string

// The states of the runtime specification, and paused.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// Errors that callers act on. Their words are looked for by engines.
var (
	ErrExists   = errors.New("container with given ID already exists")
	ErrNotExist = errors.New("container does not exist")
	ErrID       = errors.New("invalid container ID format")
)

// State is what is kept of a container.
type State struct {
	ID      string
	Bundle  string
	Rootfs  string
	Created time.Time
	Owner   int // who created it
	PID     int // 0 until there is a first process
	// Began is the start time of the process in the kernel's ticks: another
	// process of the same number has another one.
	Began       uint64
	Annotations [][2]string // sorted
	Group       cgroup.Group
	// Unit is systemd's, if the cgroup is; else its Name is empty.
	Unit systemd.Unit
	RDT  cgroup.RDT
	// Under is the mount that the root's directory is on, if the container has
	// no mount namespace of its own: its mounts lie above that one. Else 0.
	Under uint64
	// Made are cgroups that were made for the container, above its own.
	Made []string
}

const (
	stateName  = "state"
	madeName   = "made"
	configName = "config.json"
	gateName   = "exec.fifo"
	// seatName is the directory that the root of a container of an
	// unprivileged user is put together on.
	seatName = "seat"
	// resourcesName are the limits since an update.
	resourcesName = "resources.json"
	// tracesName is there once a process of the container may trace others.
	tracesName = "traces"
	magic      = "launch-oci-state 1"
	// dirMode is what a container's directory is made with.
	dirMode = 0o711
)

// files may be in a container's directory, in the order in which they go.
var files = [...]string{gateName, tracesName, tracesName + ".new", configName, resourcesName, stateName + ".new", configName + ".new",
	resourcesName + ".new", madeName, stateName}

// CheckID refuses ids that are no file names, or not what engines agree on.
func CheckID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= 1024
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_+-.", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("%w: %q", ErrID, id)
	}
	return nil
}

// text writes the state: one word and its value a line.
func (s *State) text() string {
	var b strings.Builder
	line := func(words ...string) {
		for i, w := range words {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(escape(w))
		}
		b.WriteByte('\n')
	}
	b.WriteString(magic + "\n")
	line("id", s.ID)
	line("bundle", s.Bundle)
	line("rootfs", s.Rootfs)
	line("created", s.Created.UTC().Format(time.RFC3339Nano))
	line("owner", strconv.Itoa(s.Owner))
	line("pid", strconv.Itoa(s.PID), strconv.FormatUint(s.Began, 10))
	for _, a := range s.Annotations {
		line("annotation", a[0], a[1])
	}
	for _, d := range s.Group.Dirs {
		line("cgroup", strconv.Itoa(d.Version), d.Mount, d.Path, strings.Join(d.Controllers, ","))
	}
	if s.Group.Rootless {
		line("rootless")
	}
	if s.Unit.Name != "" {
		line("systemd", s.Unit.Name, s.Unit.Slice, strconv.FormatBool(s.Unit.User))
	}
	if s.Under != 0 {
		line("under", strconv.FormatUint(s.Under, 10))
	}
	if s.RDT != (cgroup.RDT{}) {
		line("rdt", s.RDT.Dir, strconv.FormatBool(s.RDT.Made), s.RDT.Monitor)
	}
	return b.String()
}

// A word has no blank and no line break, whatever it was.
var escaper = strings.NewReplacer("%", "%25", " ", "%20", "\n", "%0a")
var unescaper = strings.NewReplacer("%25", "%", "%20", " ", "%0a", "\n")

func escape(s string) string {
	if s == "" {
		return "%"
	}
	return escaper.Replace(s)
}

func unescape(s string) string {
	if s == "%" {
		return ""
	}
	return unescaper.Replace(s)
}

// parse reads what text wrote. Words that it doesn't know are left out: a
// newer launch-oci wrote them.
func parse(text string) (*State, error) {
	first, rest, ok := strings.Cut(text, "\n")
	if !ok || !strings.HasPrefix(first, "launch-oci-state ") {
		return nil, errors.New("it is no state of a container")
	}
	if first != magic {
		return nil, fmt.Errorf("a newer launch-oci wrote it (%q)", first)
	}
	s := &State{}
	for rest != "" {
		var line string
		line, rest, ok = strings.Cut(rest, "\n")
		if !ok {
			return nil, errors.New("its last line is torn")
		}
		var f [5]string
		n := 0
		for w := range strings.SplitSeq(line, " ") {
			if n < len(f) {
				f[n] = unescape(w)
				n++
			}
		}
		var err error
		switch f[0] {
		case "id":
			s.ID = f[1]
		case "bundle":
			s.Bundle = f[1]
		case "rootfs":
			s.Rootfs = f[1]
		case "created":
			s.Created, err = time.Parse(time.RFC3339Nano, f[1])
		case "owner":
			s.Owner, err = strconv.Atoi(f[1])
		case "pid":
			if s.PID, err = strconv.Atoi(f[1]); err == nil {
				s.Began, err = strconv.ParseUint(f[2], 10, 64)
			}
		case "annotation":
			s.Annotations = append(s.Annotations, [2]string{f[1], f[2]})
		case "cgroup":
			d := cgroup.Dir{Mount: f[2], Path: f[3]}
			d.Version, err = strconv.Atoi(f[1])
			if f[4] != "" {
				d.Controllers = strings.Split(f[4], ",")
			}
			s.Group.Dirs = append(s.Group.Dirs, d)
		case "rootless":
			s.Group.Rootless = true
		case "under":
			s.Under, err = strconv.ParseUint(f[1], 10, 64)
		case "systemd":
			s.Unit = systemd.Unit{Name: f[1], Slice: f[2]}
			s.Unit.User, err = strconv.ParseBool(f[3])
		case "rdt":
			s.RDT = cgroup.RDT{Dir: f[1], Monitor: f[3]}
			s.RDT.Made, err = strconv.ParseBool(f[2])
		}
		if err != nil {
			return nil, fmt.Errorf("the line %q: %w", line, err)
		}
	}
	return s, nil
}

// Dir is an open directory of a container.
type Dir struct {
	*State
	root, name string
	fd         int
	locked     bool
	// unasked: nobody asked systemd for the container's unit so far.
	unasked bool
}

// claim makes the directory of a new container, and locks it.
func claim(root, id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if err := sys.Mkdirat(unix.AT_FDCWD, root, 0o700); err != nil && err != unix.EEXIST {
		if err != unix.ENOENT {
			return nil, fmt.Errorf("make %s: %w", root, err)
		}
		if err := mkdirs(root); err != nil {
			return nil, err
		}
	}
	d := &Dir{State: &State{ID: id}, root: root, name: path.Join(root, id), fd: -1}
	if err := sys.Mkdirat(unix.AT_FDCWD, d.name, dirMode); err == unix.EEXIST {
		return nil, ErrExists
	} else if err != nil {
		return nil, fmt.Errorf("make %s: %w", d.name, err)
	}
	err := d.open()
	if err == nil {
		err = d.Lock()
	}
	if err != nil {
		if err != ErrNotExist { // else somebody deleted it already
			_ = sys.Unlinkat(unix.AT_FDCWD, d.name, unix.AT_REMOVEDIR) // it is empty
		}
		d.Close()
		return nil, err
	}
	return d, nil
}

func mkdirs(dir string) error {
	for i := 1; i <= len(dir); i++ {
		if i == len(dir) || dir[i] == '/' {
			if err := sys.Mkdirat(unix.AT_FDCWD, dir[:i], 0o700); err != nil && err != unix.EEXIST {
				return fmt.Errorf("make %s: %w", dir[:i], err)
			}
		}
	}
	return nil
}

func (d *Dir) open() (err error) {
	d.fd, err = sys.Openat(unix.AT_FDCWD, d.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", d.name, err)
	}
	return nil
}

// Open opens a container. One whose creation was cut off early has a State
// with nothing but its ID; another directory of that name is none.
func Open(root, id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	d := &Dir{root: root, name: path.Join(root, id), fd: -1}
	if err := d.open(); err != nil {
		return nil, err
	}
	if err := d.Load(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Load reads the state again.
func (d *Dir) Load() error {
	id := path.Base(d.name)
	// A bundle may be as large as that, and have nothing but annotations, of
	// which each byte is three in the state.
	const most = 4 * bundle.Limit
	text, err := sys.ReadFile(d.fd, stateName, most)
	switch {
	case err == unix.ENOENT:
		if err := d.half(); err != nil {
			return err
		}
		d.State = &State{ID: id}
	case err != nil:
		return fmt.Errorf("read the state of container %s: %w", id, err)
	default:
		if d.State, err = parse(string(text)); err != nil {
			return fmt.Errorf("read the state of container %s: %w", id, err)
		}
	}
	made, err := sys.ReadFile(d.fd, madeName, 1<<20)
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("read what container %s made: %w", id, err)
	}
	d.Made = nil
	for line := range strings.SplitAfterSeq(string(made), "\n") {
		if name, whole := strings.CutSuffix(line, "\n"); whole && name != "" {
			d.Made = append(d.Made, unescape(name))
		}
	}
	return nil
}

// half makes sure that a directory without a state is what a create made that
// was cut off. Any other is no container, or a root directory named by mistake
// would lose what is called as our files are.
func (d *Dir) half() error {
	st, err := sys.Statx(d.fd, "", unix.STATX_MODE)
	if err == nil && st.Mode&0o777&^dirMode != 0 {
		return ErrNotExist
	}
	var n int
	if err == nil {
		n, err = sys.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", d.name, err)
	}
	defer sys.Close(n)
	names, err := sys.Names(n)
	if err != nil {
		return fmt.Errorf("list %s: %w", d.name, err)
	}
	for _, name := range names {
		if name != notifyDir && name != seatName && !slices.Contains(files[:], name) {
			return ErrNotExist
		}
	}
	return nil
}

// Lock waits until nobody else changes the container.
func (d *Dir) Lock() error {
	if err := sys.Flock(d.fd, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", d.name, err)
	}
	d.locked = true
	// Who had it may have deleted it.
	st, err := sys.Statx(d.fd, "", unix.STATX_NLINK)
	if err != nil {
		return fmt.Errorf("look at %s: %w", d.name, err)
	}
	if st.Nlink == 0 {
		return ErrNotExist
	}
	return nil
}

// Unlock lets others change the container.
func (d *Dir) Unlock() {
	_ = sys.Flock(d.fd, unix.LOCK_UN)
	d.locked = false
}

// Reload locks the container and reads its state again.
func (d *Dir) Reload() error {
	if err := d.Lock(); err != nil {
		return err
	}
	return d.Load()
}

// Close gives the lock back.
func (d *Dir) Close() {
	if d.fd >= 0 {
		sys.Close(d.fd)
		d.fd = -1
	}
}

// save writes the state: either the old one is there or the new one.
func (d *Dir) save() error {
	if err := d.write(stateName, d.text()); err != nil {
		return fmt.Errorf("write the state of container %s: %w", d.ID, err)
	}
	return nil
}

func (d *Dir) write(name, text string) error {
	n, err := sys.Openat(d.fd, name+".new", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = sys.WriteString(n, text)
	sys.Close(n)
	if err != nil {
		return err
	}
	return sys.Renameat2(d.fd, name+".new", d.fd, name, 0)
}

// record writes down a path that is about to be made.
func (d *Dir) record(made string) error {
	n, err := sys.Openat(d.fd, madeName, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = sys.WriteString(n, escape(made)+"\n")
		sys.Close(n)
		d.Made = append(d.Made, made)
	}
	if err != nil {
		return fmt.Errorf("note that container %s makes %s: %w", d.ID, made, err)
	}
	return nil
}

// remove removes the directory with what is in it. It goes first out of its
// name, so that nobody finds half of it.
func (d *Dir) remove() error {
	for _, name := range []string{notifyDir + "/" + notifySocket, notifyDir, seatName} {
		flags := unix.AT_REMOVEDIR
		if path.Base(name) == notifySocket {
			flags = 0
		}
		if err := sys.Unlinkat(d.fd, name, flags); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s/%s: %w", d.name, name, err)
		}
	}
	for _, name := range files {
		if err := sys.Unlinkat(d.fd, name, 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s/%s: %w", d.name, name, err)
		}
	}
	if err := sys.Unlinkat(unix.AT_FDCWD, d.name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", d.name, err)
	}
	return nil
}

// Config reads the copy of the container's config.json.
func (d *Dir) Config() (string, error) {
	text, err := sys.ReadFile(d.fd, configName, bundle.Limit)
	if err != nil {
		return "", fmt.Errorf("read the config.json of container %s: %w", d.ID, err)
	}
	return string(text), nil
}

// Alive reports whether the first process is there.
func (d *Dir) Alive() bool {
	if d.PID == 0 {
		return false
	}
	ticks, ok := state.Began(d.PID)
	return ok && ticks == d.Began
}

// Status looks at the container.
func (d *Dir) Status() (Status, error) {
	if !d.Alive() {
		if d.PID == 0 && !d.locked && d.busy() {
			return Creating, nil
		}
		return Stopped, nil
	}
	waits, err := d.waits()
	if err != nil {
		return "", err
	}
	switch frozen, err := d.Group.Frozen(); {
	case err != nil:
		return "", err
	case frozen:
		return Paused, nil
	case waits:
		return Created, nil
	}
	return Running, nil
}

// waits reports whether the first process waits to be started.
func (d *Dir) waits() (bool, error) {
	_, err := sys.Statx(d.fd, gateName, unix.STATX_TYPE)
	if err != nil && err != unix.ENOENT {
		return false, fmt.Errorf("look at %s/%s: %w", d.name, gateName, err)
	}
	return err == nil, nil
}

// busy reports whether somebody holds the lock.
func (d *Dir) busy() bool {
	if sys.Flock(d.fd, unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK {
		return true
	}
	_ = sys.Flock(d.fd, unix.LOCK_UN)
	return false
}

// List gives the ids of all containers, sorted.
func List(root string) ([]string, error) {
	n, err := sys.Openat(unix.AT_FDCWD, root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", root, err)
	}
	defer sys.Close(n)
	names, err := sys.Names(n)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", root, err)
	}
	ids := names[:0]
	for _, name := range names {
		if CheckID(name) == nil {
			ids = append(ids, name)
		}
	}
	slices.Sort(ids)
	return ids, nil
}
