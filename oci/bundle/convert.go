package bundle

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/origin"
	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// Read decodes a bundle's config.json and gives the Settings that it stands
// for. Dir is the bundle's directory, absolute.
func Read(dir, text string) (settings.Settings, []settings.Warning, error) {
	spec, warnings, err := Decode(File, text)
	if err != nil {
		return settings.Settings{}, warnings, err
	}
	s, more, err := Settings(spec, dir)
	warnings = append(warnings, more...)
	for i := range warnings {
		warnings[i].Origin = Locate(warnings[i].Origin, text)
	}
	if e, ok := err.(*settings.Error); ok {
		e.Origin = Locate(e.Origin, text)
	}
	return s, warnings, err
}

// Settings gives what a configuration stands for. Dir is the bundle's
// directory, absolute. The error is a *settings.Error, and names the first
// thing that can't be honoured.
func Settings(spec *specs.Spec, dir string) (settings.Settings, []settings.Warning, error) {
	r := reader{rows: Fields[:], spec: spec, linux: spec.Linux, dir: dir, name: File, b: &settings.Bundle{Path: dir}}
	if r.linux == nil {
		r.linux = &specs.Linux{}
	}
	r.s.Bundle = r.b
	for i := range Fields {
		if set := Fields[i].set; set != nil {
			if set(&r); r.err != nil {
				return settings.Settings{}, r.warnings, r.err
			}
		}
	}
	return r.s, r.warnings, nil
}

// ExecOf gives what a process that joins a container runs as. Container is the
// container's configuration, which says what no process says for itself; it may
// be nil. Name and the pointers in errors are those of a file with the process
// alone, or of the process in config.json if name is File.
func ExecOf(name string, p *specs.Process, container *specs.Spec) (settings.Exec, []settings.Warning, error) {
	r := reader{rows: Fields[:], spec: &specs.Spec{Process: p}, linux: &specs.Linux{}, name: name, joins: true}
	if container != nil {
		r.spec.Annotations = container.Annotations
		if container.Linux != nil {
			r.linux = container.Linux
		}
	}
	if name == File {
		r.process("/process")
	} else {
		r.process("")
	}
	if r.err == nil {
		r.personality()
		r.memoryPolicy()
	}
	if r.err != nil {
		return settings.Exec{}, r.warnings, r.err
	}
	return r.s.Exec, r.warnings, nil
}

// reader is one configuration that becomes Settings. What is wrong first is
// kept; the rest is gone through all the same.
type reader struct {
	// rows are Fields, which can't be named below: it names what is below.
	rows []Field
	spec *specs.Spec
	// linux is never nil.
	linux *specs.Linux
	dir   string
	name  string
	// joins: the process joins a container that is there.
	joins bool

	s        settings.Settings
	b        *settings.Bundle
	warnings []settings.Warning
	err      error
}

// at gives the origin of a field. The parts of the pointer are strings and
// numbers.
func (r *reader) at(parts ...any) origin.Origin {
	return origin.Origin{Source: origin.Bundle, Path: r.name, Key: point(parts...)}
}

// point joins the parts of a JSON pointer; strings are taken as they are.
func point(parts ...any) string {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case int:
			b = strconv.AppendInt(append(b, '/'), int64(p), 10)
		}
	}
	return string(b)
}

// problem is what refuse and warn are told; value is written as JSON has it.
type problem struct {
	at    string
	value any
	what  string
	hint  string
}

func (r *reader) tell(p problem) settings.Error {
	value := ""
	switch v := p.value.(type) {
	case nil:
	case string:
		value = snippet(strconv.Quote(v))
	default:
		value = fmt.Sprint(v)
	}
	return settings.Error{What: p.what, Origin: r.at(p.at), Value: value, Hint: p.hint}
}

// refuse ends in an error, if there is none yet.
func (r *reader) refuse(p problem) {
	if r.err == nil {
		e := r.tell(p)
		r.err = &e
	}
}

func (r *reader) warn(p problem) { r.warnings = append(r.warnings, r.tell(p)) }

// clean holds that a text can be told to the kernel.
func (r *reader) clean(at, text string) bool {
	if strings.IndexByte(text, 0) < 0 {
		return true
	}
	r.refuse(problem{at, text, "cannot take a text with a NUL byte", ""})
	return false
}

// absolute holds that a text is an absolute path, and gives it clean.
func (r *reader) absolute(at, text string) string {
	if !r.clean(at, text) {
		return ""
	}
	if !path.IsAbs(text) {
		if text == "" {
			r.refuse(problem{at, nil, "cannot do without a path", ""})
		} else {
			r.refuse(problem{at, text, "cannot take a path that is not absolute", "write /" + text})
		}
		return ""
	}
	return path.Clean(text)
}

// refuseWord ends in the error about a word that isn't among those known.
func (r *reader) refuseWord(at, kind, word string, known ...string) {
	if word == "" {
		r.refuse(problem{at, nil, "cannot do without a " + kind, knownWords(word, known)})
		return
	}
	r.refuse(problem{at, word, "unknown " + kind, knownWords(word, known)})
}

// knownWords is the hint about a word that isn't among those known.
func knownWords(word string, known []string) string {
	if near := settings.Nearest(word, known...); near != "" && word != "" {
		return "did you mean " + near + "?"
	}
	return "known: " + strings.Join(known, ", ")
}

func (r *reader) version() {
	v := r.spec.Version
	r.b.Version = v
	if v == "" {
		r.refuse(problem{"/ociVersion", nil, "cannot do without the version of the runtime specification", `add "ociVersion": "` + Version + `"`})
		return
	}
	n, ok := semver(v)
	major, minor := n[0], n[1]
	switch {
	case !ok:
		r.refuse(problem{"/ociVersion", v, "cannot read the version: it is not of the form 1.2.3", ""})
	case major != specs.VersionMajor:
		r.refuse(problem{"/ociVersion", v, "cannot run a bundle of another major version of the runtime specification", "versions 1.x are known"})
	case minor > specs.VersionMinor:
		r.warn(problem{"/ociVersion", v, "the version is newer than " + Version + ": what is new in it is not honoured", ""})
	}
}

// semver reads 1.2.3, with -rc1 and +build behind it or not.
func semver(v string) (n [3]int, ok bool) {
	core, build, plus := strings.Cut(v, "+")
	core, pre, dash := strings.Cut(core, "-")
	words := func(s string) bool {
		for w := range strings.SplitSeq(s, ".") {
			if w == "" {
				return false
			}
			for _, c := range []byte(w) {
				if c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
					return false
				}
			}
		}
		return true
	}
	parts := strings.Split(core, ".")
	if len(parts) != 3 || plus && !words(build) || dash && !words(pre) {
		return n, false
	}
	for i, p := range parts {
		m, err := strconv.ParseUint(p, 10, 31)
		if err != nil || len(p) > 1 && p[0] == '0' {
			return n, false
		}
		n[i] = int(m)
	}
	return n, true
}

// until reports whether the text of the runtime specification that a version
// names is that of a release or of one before. What is called 1.0.2-dev was
// written after 1.0.2.
func until(v string, release ...int) bool {
	n, ok := semver(v)
	c := slices.Compare(n[:], release)
	return ok && (c < 0 || c == 0 && !strings.Contains(v, "dev"))
}

func (r *reader) root() {
	root := r.spec.Root
	switch {
	case root == nil:
		r.refuse(problem{"/root", nil, "cannot do without a root file system", `add "root": {"path": "rootfs"}`})
	case root.Path == "":
		r.refuse(problem{"/root/path", nil, "cannot do without the path of the root file system", `add "path": "rootfs"`})
	case !r.clean("/root/path", root.Path):
	default:
		r.s.Image.Directory = r.below(root.Path)
		r.s.Image.ReadOnly = root.Readonly
	}
}

// below gives a path that is relative to the bundle.
func (r *reader) below(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(r.dir, p)
}

func (r *reader) hostname() {
	r.s.Exec.Hostname = r.utsName("/hostname", "host name", r.spec.Hostname)
}

func (r *reader) domainname() {
	r.b.Domainname = r.utsName("/domainname", "domain name", r.spec.Domainname)
}

func (r *reader) utsName(at, what, name string) string {
	const most = 64
	switch {
	case name == "" || !r.clean(at, name):
	case len(name) > most:
		r.refuse(problem{at, name, fmt.Sprintf("cannot set a %s of %d bytes: the kernel takes %d", what, len(name), most), ""})
	case !r.has("uts"):
		r.refuse(problem{at, name, "cannot set the " + what + " without a uts namespace of the container's own", `add {"type": "uts"} to linux.namespaces`})
	}
	return name
}

// kinds are the namespaces: as the specification spells them, and the kernel.
var kinds = [...]struct{ spec, kernel string }{
	{"pid", "pid"}, {"network", "net"}, {"mount", "mnt"}, {"ipc", "ipc"},
	{"uts", "uts"}, {"user", "user"}, {"cgroup", "cgroup"}, {"time", "time"},
}

func kindOf(spec specs.LinuxNamespaceType) string {
	for _, k := range kinds {
		if k.spec == string(spec) {
			return k.kernel
		}
	}
	return ""
}

// find gives a namespace of the container; nil if it shares the caller's.
func (r *reader) find(kind string) *specs.LinuxNamespace {
	for i := range r.linux.Namespaces {
		if n := &r.linux.Namespaces[i]; kindOf(n.Type) == kind {
			return n
		}
	}
	return nil
}

func (r *reader) has(kind string) bool { return r.find(kind) != nil }

// makes reports whether a namespace is made for the container.
func (r *reader) makes(kind string) bool {
	n := r.find(kind)
	return n != nil && n.Path == ""
}

func (r *reader) namespaces() {
	for i, n := range r.linux.Namespaces {
		at := point("/linux/namespaces", i)
		kind := kindOf(n.Type)
		if kind == "" {
			var known []string
			for _, k := range kinds {
				known = append(known, k.spec)
			}
			r.refuseWord(at+"/type", "type of namespace", string(n.Type), known...)
			return
		}
		for _, before := range r.b.Namespaces {
			if before.Kind == kind {
				r.refuse(problem{at, string(n.Type), "cannot have two namespaces of one type", "leave one of them out"})
			}
		}
		ns := settings.Namespace{Kind: kind, Origin: r.at(at)}
		if n.Path != "" {
			ns.Path = r.absolute(at+"/path", n.Path)
		}
		r.b.Namespaces = append(r.b.Namespaces, ns)
	}
	r.s.Network.Private = r.makes("net")
}

func (r *reader) users() {
	uids, gids := r.linux.UIDMappings, r.linux.GIDMappings
	if !r.has("user") {
		if at, told := firstOf("/linux/uidMappings", len(uids), "/linux/gidMappings", len(gids)); told {
			r.warn(problem{at, nil, "ignored: the container has no user namespace", `add {"type": "user"} to linux.namespaces`})
		}
		return
	}
	if r.makes("user") && (len(uids) == 0 || len(gids) == 0) {
		at := "/linux/uidMappings"
		if len(uids) > 0 {
			at = "/linux/gidMappings"
		}
		r.refuse(problem{at, nil, "cannot make a user namespace without mappings of users and of groups", ""})
		return
	}
	r.b.UIDs = r.idMap("/linux/uidMappings", uids)
}

func (r *reader) groups() { r.b.GIDs = r.idMap("/linux/gidMappings", r.linux.GIDMappings) }

func firstOf(a string, n int, b string, m int) (string, bool) {
	if n > 0 {
		return a, true
	}
	return b, m > 0
}

// idMap holds that the kernel can take a map.
func (r *reader) idMap(at string, list []specs.LinuxIDMapping) userns.Map {
	const most = 340
	if len(list) > most {
		r.refuse(problem{at, nil, fmt.Sprintf("cannot have %d mappings: the kernel takes %d", len(list), most), ""})
		return nil
	}
	var m userns.Map
	for i, e := range list {
		at := point(at, i)
		switch end := uint64(1<<32 - 1); {
		case e.Size == 0:
			r.refuse(problem{at + "/size", e.Size, "cannot map no ids at all", ""})
		case uint64(e.ContainerID)+uint64(e.Size) > end, uint64(e.HostID)+uint64(e.Size) > end:
			r.refuse(problem{at, nil, "cannot map ids beyond 4294967294", ""})
		}
		for j, f := range m {
			if overlap(e.ContainerID, f.Inside, e.Size, f.Size) || overlap(e.HostID, f.Outside, e.Size, f.Size) {
				r.refuse(problem{at, nil, fmt.Sprintf("cannot map an id twice: this mapping overlaps mapping %d", j), ""})
				return nil
			}
		}
		m = append(m, userns.Extent{Inside: e.ContainerID, Outside: e.HostID, Size: e.Size})
	}
	return m
}

func overlap(a, b, n, m uint32) bool {
	return uint64(a) < uint64(b)+uint64(m) && uint64(b) < uint64(a)+uint64(n)
}

func (r *reader) timeOffsets() {
	for _, clock := range sortedKeys(r.linux.TimeOffsets) {
		o := r.linux.TimeOffsets[clock]
		at := "/linux/timeOffsets/" + escape(clock)
		switch {
		case clock != "monotonic" && clock != "boottime":
			r.refuseWord(at, "clock", clock, "boottime", "monotonic")
		case !r.has("time"):
			r.refuse(problem{at, nil, "cannot move a clock without a time namespace", `add {"type": "time"} to linux.namespaces`})
		case !r.makes("time"):
			r.refuse(problem{at, nil, "cannot move a clock of a time namespace that is there already", "leave out the path of the time namespace, or timeOffsets"})
		case o.Nanosecs > 999_999_999:
			r.refuse(problem{at + "/nanosecs", o.Nanosecs, "cannot take a second or more for nanoseconds", "add the seconds to secs"})
		}
		r.b.TimeOffsets = append(r.b.TimeOffsets, settings.TimeOffset{Clock: clock, Secs: o.Secs, Nanos: o.Nanosecs})
	}
}

func sortedKeys[T any](m map[string]T) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *reader) rootPropagation() {
	word := r.linux.RootfsPropagation
	if word == "" {
		return
	}
	o, ok := mount.FindOption(word)
	if !ok || o.Effect != mount.Propagation {
		r.refuseWord("/linux/rootfsPropagation", "propagation", word,
			"private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable")
		return
	}
	r.b.Propagation = propagation(o)
}

func propagation(o mount.Option) uint64 {
	if o.Recursive {
		return o.Set | unix.MS_REC
	}
	return o.Set
}

func (r *reader) paths(at string, list []string) []string {
	var out []string
	for i, p := range list {
		p = r.absolute(point(at, i), p)
		if p == "/" {
			r.refuse(problem{point(at, i), p, "cannot do this to the root itself", ""})
		}
		out = append(out, p)
	}
	return out
}

func (r *reader) maskedPaths() { r.b.Masked = r.paths("/linux/maskedPaths", r.linux.MaskedPaths) }
func (r *reader) readonlyPaths() {
	r.b.ReadOnly = r.paths("/linux/readonlyPaths", r.linux.ReadonlyPaths)
}

func (r *reader) mountLabel() {
	r.b.MountLabel = r.label("/linux", "/mountLabel", "/linux/mountLabel", r.linux.MountLabel)
}

func (r *reader) hooks() {
	h := r.spec.Hooks
	if h == nil {
		return
	}
	r.b.Hooks = settings.Hooks{
		Prestart:        r.hookList("/hooks/prestart", h.Prestart), //lint:ignore SA1019 bundles have it
		CreateRuntime:   r.hookList("/hooks/createRuntime", h.CreateRuntime),
		CreateContainer: r.hookList("/hooks/createContainer", h.CreateContainer),
		StartContainer:  r.hookList("/hooks/startContainer", h.StartContainer),
		Poststart:       r.hookList("/hooks/poststart", h.Poststart),
		Poststop:        r.hookList("/hooks/poststop", h.Poststop),
	}
	// Up to 1.2.0 the container was to live on, since 1.2.1 it must not.
	r.b.Hooks.PoststartWarns = len(h.Poststart) > 0 && until(r.spec.Version, 1, 2, 0)
}

func (r *reader) hookList(at string, list []specs.Hook) []settings.Hook {
	var out []settings.Hook
	for i, h := range list {
		at := point(at, i)
		hook := settings.Hook{Path: r.absolute(at+"/path", h.Path), Args: h.Args, Env: h.Env, Origin: r.at(at),
			Stdout: r.hookFile(hooksStdout), Stderr: r.hookFile(hooksStderr)}
		r.cleanAll(at+"/args", h.Args)
		r.cleanAll(at+"/env", h.Env)
		if h.Timeout != nil {
			if hook.Timeout = *h.Timeout; *h.Timeout <= 0 {
				r.refuse(problem{at + "/timeout", *h.Timeout, "cannot give a hook less than a second", "leave the timeout out if it may take any time"})
			}
		}
		out = append(out, hook)
	}
	return out
}

func (r *reader) cleanAll(at string, list []string) {
	for i, s := range list {
		if strings.IndexByte(s, 0) >= 0 {
			r.clean(point(at, i), s)
			return
		}
	}
}
