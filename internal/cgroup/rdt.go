package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/tree"
)

// RDT is a container's place in the resctrl file system (shares of caches and
// of memory bandwidth). It is plain data for a state file.
type RDT struct {
	// Dir is the class of service.
	Dir string `json:"dir"`
	// Made says that Dir was made for this container alone and goes with it.
	Made bool `json:"made,omitempty"`
	// Monitor is the monitoring group, if there is one.
	Monitor string `json:"monitor,omitempty"`
}

// ErrNoResctrl is the error for a bundle that asks for intelRdt on a host
// without it.
var ErrNoResctrl = errors.New("linux.intelRdt: this host has no resctrl file system mounted")

// DetectRDT gives where resctrl is mounted.
func DetectRDT() (string, error) {
	mounts, err := sys.ReadFile(unix.AT_FDCWD, "/proc/thread-self/mountinfo", 64<<20)
	if err != nil {
		return "", fmt.Errorf("read the mount table: %w", err)
	}
	if at := resctrl(string(mounts)); at != "" {
		return at, nil
	}
	return "", ErrNoResctrl
}

func resctrl(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if ok && strings.HasPrefix(after, "resctrl ") && len(f) >= 6 && f[3] == "/" {
			return tree.Unescape(f[4])
		}
	}
	return ""
}

// schemata gives the lines to write, in the order that the spec asks for.
func schemata(r *specs.LinuxIntelRdt) ([]string, error) {
	var lines []string
	if r.L3CacheSchema != "" {
		// MB lines have a field of their own; they would be applied twice.
		for line := range strings.SplitSeq(r.L3CacheSchema, "\n") {
			if line != "" && !(strings.HasPrefix(line, "MB:") && r.MemBwSchema != "") {
				lines = append(lines, line)
			}
		}
	}
	if m := r.MemBwSchema; m != "" {
		if !strings.HasPrefix(m, "MB:") || strings.Contains(m, "\n") {
			return nil, fmt.Errorf("linux.intelRdt.memBwSchema: %q is not one line of memory bandwidth (MB:…)", m)
		}
		lines = append(lines, m)
	}
	for _, s := range r.Schemata {
		if s == "" || strings.Contains(s, "\n") {
			return nil, fmt.Errorf("linux.intelRdt.schemata: %q is not one line", s)
		}
		lines = append(lines, s)
	}
	return lines, nil
}

// CreateRDT makes or checks the class of service below mount that r asks for.
func CreateRDT(mount string, r *specs.LinuxIntelRdt, id string) (*RDT, error) {
	class := r.ClosID
	if class == "" {
		class = id
	}
	if class != "/" && (class == "" || class == "." || class == ".." || strings.ContainsAny(class, "/\n\x00") || slices.Contains([]string{"info", "mon_groups", "mon_data"}, class)) {
		return nil, fmt.Errorf("linux.intelRdt.closID: %q can't be the name of a class", class)
	}
	lines, err := schemata(r)
	if err != nil {
		return nil, err
	}
	t := &RDT{Dir: path.Join(mount, class)}
	made := false
	switch err := sys.Mkdirat(unix.AT_FDCWD, t.Dir, 0o755); {
	case class == "/":
	case err == nil:
		made = true
		t.Made = r.ClosID == ""
		if r.ClosID != "" && lines == nil {
			_ = sys.Unlinkat(unix.AT_FDCWD, t.Dir, unix.AT_REMOVEDIR) // only what was just made
			return nil, fmt.Errorf("linux.intelRdt.closID: there is no class %s, and no schema to make it with", t.Dir)
		}
	case err == unix.ENOSPC:
		return nil, fmt.Errorf("make resctrl class %s: %w (the processor has no more of them)", t.Dir, err)
	case err != unix.EEXIST:
		return nil, fmt.Errorf("make resctrl class %s: %w", t.Dir, err)
	}
	err = t.fill(lines, made)
	if err == nil && r.EnableMonitoring {
		t.Monitor = path.Join(t.Dir, "mon_groups", id)
		if err = sys.Mkdirat(unix.AT_FDCWD, t.Monitor, 0o755); err != nil {
			err = fmt.Errorf("make resctrl monitoring group %s: %w", t.Monitor, err)
			t.Monitor = ""
		}
	}
	if err != nil {
		t.Made = made
		_ = t.Delete() // the first error counts
		return nil, err
	}
	return t, nil
}

// fill writes the lines, or, into a class that others made, looks whether they
// are there.
func (t *RDT) fill(lines []string, made bool) error {
	if len(lines) == 0 {
		return nil
	}
	if !made {
		have, err := sys.ReadFile(unix.AT_FDCWD, t.Dir+"/schemata", 64<<10)
		if err != nil {
			return fmt.Errorf("read schemata of resctrl class %s: %w", t.Dir, err)
		}
		for _, l := range lines {
			if !hasSchema(string(have), l) {
				return fmt.Errorf("linux.intelRdt: the class %s is there already and its schemata differ from %q", t.Dir, l)
			}
		}
		return nil
	}
	return t.write(lines)
}

func (t *RDT) write(lines []string) error {
	for _, l := range lines {
		if err := sys.WriteFile(unix.AT_FDCWD, t.Dir+"/schemata", l+"\n"); err != nil {
			why, _ := sys.ReadFile(unix.AT_FDCWD, path.Join(t.mount(), "info/last_cmd_status"), 4096)
			return fmt.Errorf("set schema %q of resctrl class %s: %w: %s", l, t.Dir, err, strings.TrimSpace(string(why)))
		}
	}
	return nil
}

func (t *RDT) mount() string {
	if _, err := sys.Statx(unix.AT_FDCWD, t.Dir+"/info", 0); err == nil {
		return t.Dir
	}
	return path.Dir(t.Dir)
}

// hasSchema tells whether the schemata text says what line says. The kernel
// pads names, and writes masks without leading zeros.
func hasSchema(text, line string) bool {
	name, want, _ := strings.Cut(strings.TrimSpace(line), ":")
	for l := range strings.Lines(text) {
		n, have, _ := strings.Cut(strings.TrimSpace(l), ":")
		if n != name {
			continue
		}
		for part := range strings.SplitSeq(want, ";") {
			if !slices.ContainsFunc(strings.Split(have, ";"), func(h string) bool { return sameSchema(h, part) }) {
				return false
			}
		}
		return true
	}
	return false
}

func sameSchema(a, b string) bool {
	an, av, _ := strings.Cut(strings.TrimSpace(a), "=")
	bn, bv, _ := strings.Cut(strings.TrimSpace(b), "=")
	zero := func(s string) string {
		if t := strings.TrimLeft(strings.ToLower(strings.TrimSpace(s)), "0"); t != "" {
			return t
		}
		return "0"
	}
	return zero(an) == zero(bn) && zero(av) == zero(bv)
}

// Update sets new schemata for a class.
func (t *RDT) Update(r *specs.LinuxIntelRdt) error {
	lines, err := schemata(r)
	if err != nil {
		return err
	}
	return t.write(lines)
}

// Join puts a process into the class, before it has children or threads.
func (t *RDT) Join(pid int) error {
	for _, dir := range [...]string{t.Dir, t.Monitor} {
		if dir == "" {
			continue
		}
		if err := sys.WriteFile(unix.AT_FDCWD, dir+"/tasks", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("put process %d into resctrl class %s: %w", pid, dir, err)
		}
	}
	return nil
}

// Delete removes what was made for the container alone.
func (t *RDT) Delete() error {
	for _, dir := range [...]string{t.Monitor, t.Dir} {
		if dir == "" || dir == t.Dir && !t.Made {
			continue
		}
		if err := sys.Unlinkat(unix.AT_FDCWD, dir, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove resctrl class %s: %w", dir, err)
		}
	}
	return nil
}

// RDTStats is what a class may use.
type RDTStats struct {
	L3CacheSchemaRoot string `json:"l3_cache_schema_root,omitempty"`
	L3CacheSchema     string `json:"l3_cache_schema,omitempty"`
	MemBwSchemaRoot   string `json:"mem_bw_schema_root,omitempty"`
	MemBwSchema       string `json:"mem_bw_schema,omitempty"`
}

// Stats reads the schemata of the class and of the whole host.
func (t *RDT) Stats() (*RDTStats, error) {
	s := &RDTStats{}
	for _, o := range [...]struct {
		dir    string
		l3, mb *string
	}{{t.mount(), &s.L3CacheSchemaRoot, &s.MemBwSchemaRoot}, {t.Dir, &s.L3CacheSchema, &s.MemBwSchema}} {
		text, err := sys.ReadFile(unix.AT_FDCWD, o.dir+"/schemata", 64<<10)
		if err != nil {
			return nil, fmt.Errorf("read schemata of resctrl class %s: %w", o.dir, err)
		}
		for line := range strings.Lines(string(text)) {
			switch line = strings.TrimSpace(line); {
			case strings.HasPrefix(line, "L3:"):
				*o.l3 = line
			case strings.HasPrefix(line, "MB:"):
				*o.mb = line
			}
		}
	}
	return s, nil
}
