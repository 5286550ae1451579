package settings

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"launch/internal/origin"
	"launch/mount"
	"launch/userns"
)

// Surroundings are what a settings' meaning may depend on beside the
// assignments.
type Surroundings struct {
	Place
	// Hostname is the host's name, which a machine on `/` gets.
	Hostname string
	// Files says who wins, and what a file may say.
	Files FileMode
	// Images finds the tree of a machine by its name. Without it, a name alone
	// finds nothing.
	Images func(name string) (found Where, ok bool)
	// Versions lists a directory of versions, and Processor is what they are to
	// run on, one of Go's. Without it, a path is always what it says.
	Versions  func(Versions) (Listing, error)
	Processor string
	// Suffix ends the name of a machine that runs on a copy and was given no
	// name, so that many can run at once.
	Suffix string
	// PID2: the stub for --as-pid2 is there.
	PID2 bool
}

// ImageDirs are the directories in which systemd looks for a machine's tree.
var ImageDirs = [...]string{
	"/etc/machines", "/run/machines", "/var/lib/machines", "/var/lib/container", "/usr/local/lib/machines", "/usr/lib/machines",
}

// Vendors tells whether what lies at a path without links came with the host's
// programs, and is read-only if it is found by a machine's name.
func Vendors(path string) bool { return strings.HasPrefix(path, "/usr/") }

// Where is a tree.
type Where struct {
	// Path is absolute. Image: it is that of a disk image, and not of a
	// directory; ReadOnly: nobody may write to it, nor to the directory. MStack: it is that of a
	// mount stack's directory.
	Path            string
	Image, ReadOnly bool
	MStack          bool
	// Picked is how Path was chosen, if it was.
	Picked Picked
	// Missed is what there was instead, where nothing was found.
	Missed string
}

// Locate gives the name and the tree that the assignments speak of. It comes
// before the settings file, whose name and place depend on both: the name is
// that of the tree, without what an ephemeral machine gets added to it.
func Locate(flags []Assignment, around Surroundings) (machine string, at Where, err error) {
	var dir, name, template Assignment
	ephemeral, from, directory, image, mstack := false, "", "", "", ""
	for _, a := range flags {
		if a.Option == nil || a.Origin.Source == origin.File {
			continue
		}
		switch a.Option.Name {
		case "directory":
			dir, directory = a, a.Value.(string)
		case "image":
			dir, image = a, a.Value.(string)
		case "mstack":
			dir, mstack = a, a.Value.(string)
		case "machine":
			name, machine = a, a.Value.(string)
		case "template":
			template, from = a, a.Value.(string)
		case "ephemeral":
			ephemeral = a.Value.(bool)
		}
	}
	switch {
	case directory != "" && image != "":
		return "", at, &Error{What: "cannot run a machine from a directory and a disk image at the same time", Origin: dir.Origin, Value: dir.Text, Hint: "leave out one of the two"}
	case mstack != "" && (directory != "" || image != ""):
		return "", at, &Error{What: "cannot run a machine from a mount stack and a directory or disk image at the same time", Origin: dir.Origin, Value: dir.Text, Hint: "leave out one of the two"}
	case mstack != "" && from != "":
		return "", at, &Error{
			What: "cannot make a mount stack from a template", Origin: template.Origin, Value: template.Text,
			Hint: "make the template a layer of the stack: it is not changed",
		}
	case image != "" && from != "":
		return "", at, &Error{
			What: "cannot make a disk image from a template", Origin: template.Origin, Value: template.Text,
			Hint: "copy the image beforehand, or run on a throw-away copy with --ephemeral",
		}
	case directory != "" || from == "":
	case ephemeral:
		directory, dir = from, template
	case machine != "":
		directory = path.Join(TreeDir, machine)
	default:
		return "", at, &Error{
			What:   "cannot use a template without knowing what to make of it",
			Origin: template.Origin, Value: template.Text,
			Hint: "give the new directory as --directory=PATH, or a name as --machine=NAME",
		}
	}
	at = Where{Path: directory}
	switch {
	case image != "":
		at = Where{Path: image, Image: true}
		at.Picked, err = around.pick(image, true, dir)
	case mstack != "":
		at = Where{Path: mstack, MStack: true}
	case directory != "" && dir.Option == nil: // it has no name but the machine's
	case directory != "":
		at.Picked, err = around.pick(directory, false, dir)
	case machine == "":
		at.Path = around.Cwd
	default:
		found := false
		if around.Images != nil {
			at, found = around.Images(machine)
		}
		if !found {
			what := fmt.Sprintf("cannot find a directory, disk image or mount stack for machine %q", machine)
			if at.Missed != "" {
				what += ": " + at.Missed
			}
			return "", at, &Error{
				What:   what,
				Origin: name.Origin, Value: name.Text,
				Hint: "give the directory as --directory=PATH, the image as --image=PATH, or the stack as --mstack=PATH",
			}
		}
	}
	if err != nil {
		return "", at, err
	}
	if at.Picked.Asked != "" {
		at.Path = at.Picked.Path
	}
	if machine != "" {
		return machine, at, nil
	}
	base := baseOf(at.Path, at.Image)
	if at.Path == "/" {
		// A host that was given no name is called so everywhere else.
		if base = around.Hostname; DeriveName(base) == "" || base == "(none)" {
			base = "localhost"
		}
	}
	if at.MStack {
		base = strings.TrimSuffix(base, ".mstack")
	}
	machine = DeriveName(base)
	if err := CheckName(machine); err != nil {
		return "", at, &Error{
			What:   fmt.Sprintf("cannot make a machine name of %q", base),
			Origin: dir.Origin, Value: dir.Text,
			Hint: "give a name as --machine=NAME",
		}
	}
	return machine, at, nil
}

// NameOf is what a machine on a tree, or on a disk image, is called if nobody says
// so.
func NameOf(at string, image bool) string { return DeriveName(baseOf(at, image)) }

func baseOf(at string, image bool) string {
	base := path.Base(at)
	if image {
		base = strings.TrimSuffix(base, imageSuffix)
	}
	return base
}

// TreeDir is where a tree is made that is only given a name.
const TreeDir = "/var/lib/machines"

// CopyName is the name of a machine that runs on a copy of the tree that the
// name stands for. Suffix is what makes it unlike others.
func CopyName(machine, suffix string) string {
	const most = 64 // of a host name
	if n := most - len("-") - len(suffix); len(machine) > n {
		machine = strings.TrimRight(machine[:n], "-.")
	}
	return machine + "-" + suffix
}

// CopiesOf is what the names of all copies of a machine begin with, before the
// hyphen and the suffix.
func CopiesOf(machine string) string {
	const suffix = "0123456789abcdef"
	return strings.TrimSuffix(CopyName(machine, suffix), "-"+suffix)
}

// IsCopy tells whether a name is that of a copy, where those of all copies begin
// like that.
func IsCopy(name, beginning string) bool {
	random, ok := strings.CutPrefix(name, beginning+"-")
	return ok && len(random) == 16 && strings.Trim(random, "0123456789abcdef") == ""
}

// resolver is one Resolve under way.
type resolver struct {
	around   Surroundings
	s        Settings
	trace    Trace
	warnings []Warning
	refused  error // the first assignment that counts and can't be had
}

// Resolve turns assignments into settings: those of the environment first, then
// those of the command line, then those of a file, each in its order. It refuses combinations that can't
// work. What it returns beside an error is what was known until then.
//
// Merging goes by groups (see Option.Group). If the command line says anything
// about a group, all that a file says about it is hidden; with --settings=override
// it is the other way round.
func Resolve(assignments []Assignment, around Surroundings) (Settings, Trace, []Warning, error) {
	r := &resolver{around: around}
	for _, a := range assignments {
		r.trace = append(r.trace, Entry{Assignment: a, Fate: Applied})
	}
	r.readFile()
	r.merge()
	r.apply()
	err := r.check(assignments)
	if r.refused != nil {
		err = r.refused
	}
	return r.s, r.trace, r.warnings, err
}

// eachFile calls f for each assignment of a file that is still in force.
func (r *resolver) eachFile(f func(e *Entry)) {
	for i := range r.trace {
		if e := &r.trace[i]; e.Origin.Source == origin.File && e.Fate == Applied {
			f(e)
		}
	}
}

func (e *Entry) ignore(why string) { e.Fate, e.Why = Ignored, why }

func (r *resolver) warn(e *Entry, what, hint string) {
	r.warnings = append(r.warnings, Warning{What: what, Origin: e.Origin, Value: e.Text, Hint: hint})
}

// readFile decides what of a file holds before anything is merged.
func (r *resolver) readFile() {
	if r.around.Files == FileNo {
		r.eachFile(func(e *Entry) { e.ignore("--settings=no") })
		return
	}
	var distrusted []string
	var first origin.Origin
	r.eachFile(func(e *Entry) {
		switch {
		case r.untrusted(e) && e.Option.Trusted != Tighten && e.Option.Trusted != Anyone:
			e.ignore("the file is not trusted")
			if first == (origin.Origin{}) {
				first = e.Origin
			}
			distrusted = append(distrusted, fmt.Sprintf("%s= (line %d)", e.Option.Key, e.Origin.Line))
		case e.Reset:
			by := e.Origin
			r.eachFile(func(earlier *Entry) {
				if earlier.Origin.Line < by.Line && earlier.Option.slot() == e.Option.slot() {
					earlier.Fate, earlier.By = Hidden, by
				}
			})
		}
	})
	if distrusted != nil {
		r.warnings = append(r.warnings, Warning{
			What:   fmt.Sprintf("%s is not trusted; ignored: %s", first.Path, strings.Join(distrusted, ", ")),
			Origin: origin.Origin{Source: origin.File, Path: first.Path},
			Hint:   "put the file into /etc/systemd/nspawn, or use --settings=trusted",
		})
	}

	r.samePort()

	// The way to start is settled by the first line that says yes; what speaks
	// against it later is dropped. The words of Parameters= belong to it.
	mode, told := Plain, false
	r.eachFile(func(e *Entry) {
		var m Mode
		switch e.Option.Name {
		case "boot":
			m = Boot
		case "as-pid2":
			m = PID2
		default:
			return
		}
		on := e.Value.(bool)
		if on && mode != Plain && mode != m || !on && mode == m {
			e.ignore("contradicts an earlier line")
			r.warn(e, e.Option.Key+"= contradicts an earlier line, and is ignored", "")
			return
		}
		told = true
		if on {
			mode = m
		}
	})
	if told {
		return
	}
	r.eachFile(func(e *Entry) {
		if e.Option.Name == "words" && !e.Reset {
			e.ignore("neither Boot= nor ProcessTwo= is there")
			r.warn(e, "Parameters= is ignored: the file has neither Boot= nor ProcessTwo=", "add Boot=no to run the words as they are")
		}
	})
}

// untrusted reports whether the entry comes from a file that may not say
// everything.
func (r *resolver) untrusted(e *Entry) bool {
	return e.Untrusted && r.around.Files != FileTrusted
}

// merge lets one side's groups hide the other's.
func (r *resolver) merge() {
	override := r.around.Files == FileOverride
	for i := range r.trace {
		e := &r.trace[i]
		if e.Fate != Applied || e.Option.Group == GroupLauncher || e.Reset || e.layer() == environment {
			continue
		}
		if (e.layer() == file) == override {
			continue // the winner
		}
		if override && e.Option.Group == GroupCapabilities {
			// What a file adds and drops comes on top: a machine doesn't get back
			// what the command line takes from it by being told of other ones.
			continue
		}
		if by, ok := r.teller(e.Option.Group, override); ok {
			e.Fate, e.By = Hidden, by
		}
	}
}

// teller gives the first place that says something about the group: in the
// file, or on the command line.
func (r *resolver) teller(g Group, inFile bool) (origin.Origin, bool) {
	for i := range r.trace {
		e := &r.trace[i]
		if e.Option.Group != g || e.Fate != Applied || e.Reset || e.layer() == environment || (e.layer() == file) != inFile {
			continue
		}
		// What an untrusted file may only tighten comes on top, and never
		// takes the place of what the command line says.
		if inFile && r.untrusted(e) && e.Option.Trusted == Tighten {
			continue
		}
		return e.Origin, true
	}
	return origin.Origin{}, false
}

// layer is where an assignment comes from, as far as that decides who wins. A
// later layer is set after an earlier one. The environment, or what is usual for
// an image, says what holds if nobody else says anything.
type layer uint8

const (
	environment layer = iota
	commandLine
	file
)

func (e *Entry) layer() layer {
	switch e.Origin.Source {
	case origin.Environment, origin.Image:
		return environment
	case origin.File:
		return file
	}
	return commandLine
}

// apply sets what is left, and hides what a later assignment replaces.
func (r *resolver) apply() {
	for _, l := range [...]layer{environment, commandLine, file} {
		said := r.s // what an untrusted file is measured against
		for i := range r.trace {
			e := &r.trace[i]
			if e.Fate != Applied || e.Reset || e.layer() != l {
				continue
			}
			if e.Option.Later || e.Err != nil {
				r.refuse(e)
				continue
			}
			if e.Option.Set == nil {
				continue
			}
			if r.untrusted(e) && e.Option.Trusted == Tighten && e.Option.Weaker(said, e.Assignment) {
				e.ignore("an untrusted file can't weaken the machine")
				r.warn(e, e.Option.Key+"= is ignored: the file is not trusted, and the machine would become weaker", "")
				continue
			}
			if !e.Option.Repeat {
				r.hideEarlier(i)
			}
			e.Option.Set(&r.s, e.Assignment)
		}
	}
	r.impliedUsers()
	for i := range r.trace {
		e := &r.trace[i]
		if e.Fate != Applied || e.Reset || e.Option.Notice == nil {
			continue
		}
		if what := e.Option.Notice(e.Value); what != "" {
			r.warn(e, what, "")
		}
	}
}

// impliedUsers: whoever says on the command line whose the files are, and not for
// which users, means users of the machine's own. A file that says so means none
// (as with systemd-nspawn 262; before, both meant none).
func (r *resolver) impliedUsers() {
	said := false
	for i := range r.trace {
		e := &r.trace[i]
		if e.Fate != Applied || e.Reset {
			continue
		}
		switch e.Option.slot() {
		case "private-users":
			return
		case "private-users-ownership":
			said = said || e.layer() == commandLine
		}
	}
	if said {
		r.s.Users.Mode = userns.Pick
	}
}

// refuse keeps in mind that a file asks for what can't be had. To go on without
// it could mean less protection (a network of one's own, users) than the file
// was written for.
func (r *resolver) refuse(e *Entry) {
	e.ignore("can't be had")
	if r.refused != nil {
		return
	}
	refused := &Error{What: e.Option.Key + "= is not supported yet", Origin: e.Origin, Value: e.Text, Hint: "leave the line out, or use --settings=no"}
	if e.Err != nil {
		refused.What, refused.Hint = e.Option.Key+"= can't be had: "+e.Err.Error(), ""
		var why *Refusal
		if errors.As(e.Err, &why) {
			refused.Hint = why.Hint
		}
	}
	r.refused = refused
}

// hideEarlier marks what entry i replaces.
func (r *resolver) hideEarlier(i int) {
	e := &r.trace[i]
	for j := range r.trace {
		old := &r.trace[j]
		before := j < i && old.layer() == e.layer() || old.layer() < e.layer()
		if before && old.Fate == Applied && !old.Reset && old.Option.slot() == e.Option.slot() {
			old.Fate, old.By = Hidden, e.Origin
		}
	}
}

// blame makes an error about the row of that name.
func (r *resolver) blame(name, what, hint string) error {
	o, text := r.trace.origin(name)
	return &Error{What: what, Origin: o, Value: text, Hint: hint}
}

// checkForward refuses limits of files that nobody writes.
func (r *resolver) checkForward() error {
	f := r.s.Host.Forward
	if f.To != "" {
		return nil
	}
	for _, limit := range [...]struct{ name, value string }{
		{"max-use", f.MaxUse}, {"keep-free", f.KeepFree}, {"max-file-size", f.MaxFileSize}, {"max-files", f.MaxFiles},
	} {
		if limit.value != "" {
			return r.blame("forward-journal-"+limit.name, "cannot limit the files of a journal that is not forwarded", "add --forward-journal=, which says where they are")
		}
	}
	return nil
}

// check finds the name and the tree, and refuses what can't work together.
func (r *resolver) check(assignments []Assignment) error {
	s := &r.s
	machine, at, err := Locate(assignments, r.around)
	if err != nil {
		return err
	}
	s.Machine, s.Image.Directory, s.Image.File, s.Image.MStack = machine, at.Path, "", ""
	if at.MStack {
		s.Image.Directory, s.Image.MStack = "", at.Path
	}
	if at.Image {
		s.Image.Directory, s.Image.File = "", at.Path
		s.Image.ReadOnly = s.Image.ReadOnly || at.ReadOnly
	} else if at.ReadOnly && !s.Image.Ephemeral && !slices.ContainsFunc(r.trace, func(e Entry) bool {
		return e.Fate == Applied && !e.Reset && !r.untrusted(&e) && e.Option.Name == "read-only"
	}) {
		// A copy can be written to, and a trusted file may say that this one can.
		s.Image.ReadOnly = true
	}
	if err := r.versions(at.Picked); err != nil {
		return err
	}

	named, placed := false, false
	for _, e := range r.trace {
		named = named || e.Fate == Applied && e.Option.Name == "machine" && e.Text != ""
		placed = placed || e.Fate == Applied && e.Option.Name == "directory" && e.Text != ""
	}
	if !placed && s.Image.Directory == s.Image.Template {
		s.Image.Template = "" // it is the directory itself
	}
	if s.Image.Ephemeral && !named && r.around.Suffix != "" {
		s.Machine = CopyName(s.Machine, r.around.Suffix)
	}

	var boot, pid2 bool
	for _, e := range r.trace {
		on, _ := e.Value.(bool)
		boot = boot || e.Fate == Applied && on && e.Option.Name == "boot"
		pid2 = pid2 || e.Fate == Applied && on && e.Option.Name == "as-pid2"
	}
	env := s.Environment
	if env.SharePID || env.ShareUTS {
		// Nobody could be told who the machine is by its first process, or
		// its host name.
		s.Life.Register = Never
	}
	if err := r.network(); err != nil {
		return err
	}
	volatile, readOnly := s.Image.Volatile != VolatileNo, s.Image.ReadOnly
	switch {
	case boot && pid2:
		return r.blame("as-pid2", "cannot boot and run a command as process 2 at the same time", "use --boot or --as-pid2")
	case pid2 && !r.around.PID2:
		return r.blame("as-pid2", "--as-pid2 is not supported yet", "")
	case (boot || pid2) && (env.SharePID || env.ShareUTS):
		name := "boot"
		if pid2 {
			name = "as-pid2"
		}
		return r.blame(name, "cannot run an init in a machine that shares the host's pid or uts namespace", "leave out "+strings.Join(r.sharing(), ", "))
	case s.Users.Mode != userns.No && env.API == APINetwork && !s.Network.Private:
		return r.blame("api-vfs-writable", "cannot let a machine with users of its own write to the host's network settings", "add --private-network, or unset the variable")
	case s.Users.Mode != userns.No && env.API == APIWritable:
		return r.blame("api-vfs-writable", "cannot let a machine with users of its own write to /proc/sys and /sys", "leave out --private-users=, or unset the variable")
	case boot && s.Exec.AmbientCaps != 0:
		return r.blame("ambient-capability", "cannot give ambient capabilities to an init: it has all of the machine's already", "leave out --ambient-capability=, or --boot")
	case s.Image.Ephemeral && s.Image.MStack != "":
		return r.blame("ephemeral", "cannot run on a copy of a mount stack", "use --volatile=overlay or --overlay-all: both leave the stack as it is")
	case s.Image.Ephemeral && s.Image.Template != "":
		return r.blame("template", "cannot run on a copy and make a directory from a template at the same time", "leave out --ephemeral, or run on a copy of the template with --ephemeral --directory="+s.Image.Template)
	case s.Image.Ephemeral && (s.Host.LinkJournal == "host" || s.Host.LinkJournal == "guest"):
		return r.blame("link-journal", "cannot link the journal of a machine that runs on a throw-away copy", "use --link-journal=try-"+s.Host.LinkJournal+", or leave out --ephemeral")
	case s.Join != "" && s.Bundle == nil:
		return r.blame("join", "cannot join a machine without a bundle", "add --oci-bundle=; launch convert --to=oci makes a bundle of a tree")
	case s.Image.OverlayAll && (s.Host.LinkJournal == "host" || s.Host.LinkJournal == "guest"):
		return r.blame("link-journal", "cannot link the journal of a machine with --overlay-all: nothing that it writes stays", "use --link-journal=try-"+s.Host.LinkJournal+", or leave out --overlay-all")
	case s.Host.LinkJournal == "guest" && volatile:
		return r.blame("link-journal", "cannot link the host's journal to that of a machine with --volatile: it is gone with the machine", "use --link-journal=host, which keeps it on the host")
	case s.Image.File == "" && (s.Image.RootHash != "" || s.Image.RootHashSig != "" || s.Image.VerityData != "" || s.Image.Policy != "" && s.Image.MStack == ""): // a stack may have images
		name := ""
		for _, n := range [...]string{"image-policy", "verity-data", "root-hash-sig", "root-hash"} {
			if o, _ := r.trace.origin(n); o != (origin.Origin{}) {
				name = n
			}
		}
		return r.blame(name, "cannot check a tree that is not in a disk image", "give the image as --image=PATH, or leave the option out")
	case s.Image.RootHash != "" || s.Image.RootHashSig != "" || s.Image.VerityData != "":
		name := ""
		for _, n := range [...]string{"verity-data", "root-hash-sig", "root-hash"} {
			if o, _ := r.trace.origin(n); o != (origin.Origin{}) {
				name = n
			}
		}
		return r.blame(name, "cannot check a disk image against a hash: launch does not set up Verity", "systemd-nspawn does; leave the option out to run the image as it is")
	case s.Host.LinkJournal == "guest" && s.Image.File != "":
		return r.blame("link-journal", "cannot link the host's journal to that of a machine on a disk image: the host does not see its files", "use --link-journal=host, which keeps it on the host")
	case s.Host.LinkJournal == "guest" && s.Image.MStack != "":
		return r.blame("link-journal", "cannot link the host's journal to that of a machine on a mount stack: the host does not see its files", "use --link-journal=host, which keeps it on the host")
	case s.Users.Ownership == userns.Chown && s.Image.MStack != "":
		return r.blame("private-users-ownership", "cannot change the owners of a mount stack's files: other machines may have the same layers", "use --private-users-ownership=map")
	case s.Users.Ownership == userns.Chown && readOnly && !at.Image && at.ReadOnly:
		return r.blame("private-users-ownership", "cannot change the owners of a tree that nobody can change", "use --private-users-ownership=map, or copy the tree: it lies below /usr, or chattr +i has closed it")
	case s.Users.Ownership == userns.Chown && readOnly:
		return r.blame("private-users-ownership", "cannot change the owners of a tree that is read-only", "use --private-users-ownership=map, or leave out --read-only")
	case s.Users.Ownership == userns.Chown && volatile:
		return r.blame("private-users-ownership", "cannot change the owners of a tree that is run with --volatile", "use --private-users-ownership=map, or leave out --volatile")
	case s.Image.Directory == "/" && !s.Image.Ephemeral && s.Image.Volatile != VolatileYes && s.Image.Volatile != VolatileState:
		return r.blame("directory", "cannot run a machine on the host's own root", "use --ephemeral, --volatile=yes or --volatile=state")
	}
	if err := r.checkForward(); err != nil {
		return err
	}
	if err := r.sameCredential(); err != nil {
		return err
	}
	if err := r.checkBound(); err != nil {
		return err
	}
	if err := r.checkPorts(); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		// Whose the files of another root are, nobody could tell beforehand.
		u := s.Users
		if m.Target == "/" && (u.Mode == userns.Pick || u.Mode == userns.Owner || u.Mode != userns.No && u.Ownership != "" && u.Ownership != userns.Off) {
			return &Error{
				What:   "cannot mount on / of a machine whose users are picked for its tree, or own it by a map or chown",
				Origin: m.Origin, Value: r.text(m),
				Hint: "give the range that the files belong to as --private-users=START, with --private-users-ownership=off",
			}
		}
		if m.IDMap == mount.FullIDMap && s.Users.Mode == userns.No {
			return &Error{
				What:   fmt.Sprintf("cannot map the owners of %s: the machine has no users of its own", m.Target),
				Origin: m.Origin, Value: r.text(m),
				Hint: "add --private-users=, or leave out the bind option " + string(m.IDMap),
			}
		}
	}
	return nil
}

// versions notes which version of the tree was chosen, and chooses that of the
// template.
func (r *resolver) versions(tree Picked) error {
	image := &r.s.Image
	note := func(p Picked) Picked {
		var by *Entry
		for i := range r.trace {
			e := &r.trace[i]
			if said, _ := e.Value.(string); e.Fate == Applied && (said == p.Asked || by == nil && e.Option.Name == "machine") {
				by = e
			}
		}
		if by != nil {
			by.Why = p.Why
		}
		return p
	}
	image.Version, image.TemplateVersion = Picked{}, Picked{}
	if tree.Asked != "" {
		image.Version = note(tree)
	}
	if image.Template == "" {
		return nil
	}
	var told Assignment
	told.Origin, told.Text = r.trace.origin("template")
	p, err := r.around.pick(image.Template, false, told)
	if err != nil {
		return err
	}
	if image.Template = p.Path; p.Asked != "" && p != tree {
		image.TemplateVersion = note(p)
	}
	return nil
}

// sharing names what makes the machine share namespaces with the host.
func (r *resolver) sharing() (names []string) {
	for _, e := range r.trace {
		if on, _ := e.Value.(bool); !on || e.Fate != Applied || e.Option.Group != GroupNamespaces {
			continue
		}
		if e.layer() == environment {
			names = append(names, e.Origin.String())
		} else {
			names = append(names, e.Origin.Path)
		}
	}
	return names
}

// text gives what a mount was read from.
func (r *resolver) text(m mount.Mount) string {
	for _, e := range r.trace {
		if v, ok := e.Value.(mount.Mount); ok && e.Origin == m.Origin && v.Target == m.Target {
			return e.Text
		}
	}
	return ""
}
