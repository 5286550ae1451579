package plan

import (
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	"launch/mount"
)

// Print writes the plan for people: a line per step, with who asked for it.
func (p *Plan) Print(w io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "machine %-12s root %s    users %s\n", p.Machine, p.Directory, p.usersWord())
	for _, v := range p.Picked {
		fmt.Fprintf(b, "version %s for %s: %s\n", v.Path, v.Asked, v.Why)
	}
	var own []string
	for _, n := range p.Namespaces {
		word := n.Name
		if n.Path != "" {
			word += "=" + n.Path
		}
		own = append(own, word)
	}
	fmt.Fprintf(b, "own     %s    console %s\n", strings.Join(own, " "), p.Console)
	if len(p.Terminal.Stdio) > 0 {
		fmt.Fprintf(b, "pty     %s\n", p.Terminal)
	}
	for _, e := range p.Effects {
		fmt.Fprintf(b, "host    %-26s %-44s %-40s %s\n", e.What, e.Path, e.Undo, e.Origin)
	}
	if p.Scope != nil {
		for _, o := range p.Scope.Properties {
			fmt.Fprintf(b, "scope   %s=%v\n", o.Name, o.Value)
		}
		for _, o := range p.Scope.Newer {
			fmt.Fprintf(b, "scope   %s=%v, where systemd knows it\n", o.Name, o.Value)
		}
	}
	for i, s := range p.Steps {
		fmt.Fprintf(b, "%s %02d  %-8s %-34s %-44s %s\n", s.World, i+1, s.Do, s.what(), s.how(), s.Origin)
		for _, e := range s.Content {
			if s.Do == Node { // the step is about nothing else
				fmt.Fprintf(b, "          %-8s %-34s %s\n", "", s.Target, e.how())
				continue
			}
			fmt.Fprintf(b, "          %-8s %-34s %s\n", "", strings.TrimSuffix(s.Target, "/")+"/"+e.Path, e.how())
		}
	}
	for _, s := range p.Sysctl {
		fmt.Fprintf(b, "sysctl  %s=%s %s\n", s.Name, s.Value, s.Origin)
	}
	for i, op := range p.Program {
		fmt.Fprintf(b, "child %02d  %-19s %-68q %s\n", i+1, op.Call, op.Text, op.Origin)
	}
	for i, op := range p.Second {
		fmt.Fprintf(b, "second %02d %-19s %-68q %s\n", i+1, op.Call, op.Text, op.Origin)
	}
	for i, f := range p.Filters {
		for _, line := range f.Describe() {
			fmt.Fprintf(b, "filter %d %s\n", i+1, line)
		}
	}
	// What a file says must not look like another line of the plan.
	line := func(word, text string) { fmt.Fprintf(b, "%s %s\n", word, strings.ReplaceAll(text, "\n", `\n`)) }
	line("payload", strings.Join(p.Payload.Args, " "))
	for _, e := range p.Payload.Env {
		line("env    ", e)
	}
	for _, e := range p.Payload.StubEnv {
		line("env of process 1", e)
	}
	for _, n := range p.Ports {
		fmt.Fprintf(b, "port    %s\n", n)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(b, "note    %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String gives what the terminal is joined with.
func (t TTY) String() string {
	w := "no input"
	if t.Input != NoInput {
		w = string(t.Input) + " from descriptor 0"
	}
	if t.Output < 0 {
		w += ", nobody looks"
	} else {
		w += fmt.Sprintf(", shown on descriptor %d", t.Output)
	}
	w += fmt.Sprintf(", %dx%d unless that has a size", t.Columns, t.Lines)
	if t.Title != "" {
		w += fmt.Sprintf(", title %q", t.Title)
	}
	return w
}

// String gives the name and what is special about it.
func (i Interface) String() string {
	w := i.Name
	if i.Alias != "" {
		w += " (" + i.Alias + ")"
	}
	if i.MAC != "" {
		w += " " + i.MAC
	}
	if i.Up {
		w += " up"
	}
	return w
}

func (p *Plan) usersWord() string {
	u := p.Users
	switch {
	case !u.Private():
		return "the host's"
	case u.Range.Start == 0 && u.Mode == "pick":
		return fmt.Sprintf("a free range of %d, ownership %s", u.Range.Size, u.Ownership)
	}
	return fmt.Sprintf("0:%s, ownership %s", u.Range, u.Ownership)
}

func (s Step) what() string {
	w := s.Target
	if w == "" {
		w = s.Path
	}
	if s.Type != "" {
		w = strings.TrimSpace(s.Type + " " + w)
	}
	if s.Credential != "" {
		w = s.Credential + " from " + w
	}
	switch {
	case s.Do == Symlink, s.Do == Link:
		w += " -> " + s.Source.Path
	case len(s.Lower) > 0:
		var l []string
		for _, p := range s.Lower {
			l = append(l, pathWord(p))
		}
		w += " from " + strings.Join(append(l, pathWord(s.Source)), ":")
	case s.Source != (mount.Path{}) && s.Source.Path != s.Target:
		w += " from " + pathWord(s.Source)
	}
	return strings.TrimSpace(w)
}

func pathWord(p mount.Path) string {
	switch {
	case p.Temp:
		return "(a fresh directory)"
	case p.InRoot:
		return "+" + p.Path
	}
	return p.Path
}

func (s Step) how() string {
	var w []string
	if s.Clear&unix.MOUNT_ATTR_RDONLY != 0 {
		w = append(w, "rw")
	}
	w = append(w, AttrWords(s.Attr)...)
	if s.Do == Lock && s.Shared {
		w = append(w, "shared")
	} else if s.Do == Lock {
		w = append(w, "exclusive")
	}
	if s.Brief {
		w = append(w, "until it is copied")
	}
	if s.Owned {
		w = append(w, "owned")
	}
	if s.Do == Receive {
		w = append(w, strings.Join(s.Args, " "))
	}
	if s.Stays {
		w = append(w, "stays")
	}
	if s.Recursive && s.Do != Attr {
		w = append(w, "rbind")
	}
	if s.IDMap != "" {
		w = append(w, string(s.IDMap))
	}
	if s.Do == Disk || s.Do == Take && s.Type != "" {
		w = append(w, fmt.Sprintf("%d bytes at %d", s.Size, s.Start))
	}
	if s.Counted {
		w = append(w, fmt.Sprintf("%d:%d as %d of the machine", s.UIDs[0].Inside, s.GIDs[0].Inside, s.UIDs[0].Outside))
	}
	for _, o := range s.Options {
		if o.Value == "" {
			w = append(w, o.Key)
		} else {
			w = append(w, o.Key+"="+o.Value)
		}
	}
	if s.Do == Mkdir || s.Do == Make {
		w = append(w, fmt.Sprintf("mode=%04o", s.Mode))
	}
	if s.Lenient || s.Optional {
		w = append(w, "if there")
	}
	if s.Soft {
		w = append(w, "if possible")
	}
	if len(s.Over) > 0 {
		w = append(w, "under a layer")
	}
	if s.Do == Stubs {
		w = append(w, "unless it can be written to")
	}
	if s.Fallback != "" {
		w = append(w, "else "+string(s.Fallback))
	}
	return strings.Join(w, ",")
}

func (e Entry) how() string {
	optional := ""
	if e.Optional {
		optional = ", if possible"
	}
	switch e.Mode & unix.S_IFMT {
	case 0:
		return "as " + pathWord(e.Kind)
	case unix.S_IFLNK:
		return "-> " + e.Data + optional
	case unix.S_IFCHR, unix.S_IFBLK:
		return fmt.Sprintf("node %d:%d mode=%04o%s", unix.Major(e.Dev), unix.Minor(e.Dev), e.Mode&0o7777, optional)
	case unix.S_IFDIR:
		return fmt.Sprintf("dir mode=%04o%s", e.Mode&0o7777, optional)
	case unix.S_IFIFO:
		return fmt.Sprintf("fifo mode=%04o%s", e.Mode&0o7777, optional)
	case unix.S_IFSOCK:
		return fmt.Sprintf("socket mode=%04o%s", e.Mode&0o7777, optional)
	}
	if e.Credential {
		return fmt.Sprintf("credential mode=%04o%s", e.Mode&0o7777, optional)
	}
	if e.Hidden != "" {
		return fmt.Sprintf("file mode=%04o, its content is not shown%s", e.Mode&0o7777, optional)
	}
	return fmt.Sprintf("file mode=%04o%s", e.Mode&0o7777, optional)
}

var attrWords = [...]struct {
	flag uint64
	word string
}{
	{unix.MOUNT_ATTR_RDONLY, "ro"},
	{unix.MOUNT_ATTR_NOSUID, "nosuid"},
	{unix.MOUNT_ATTR_NODEV, "nodev"},
	{unix.MOUNT_ATTR_NOEXEC, "noexec"},
	{unix.MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"},
	{unix.MOUNT_ATTR_NODIRATIME, "nodiratime"},
}

// AttrWords gives MOUNT_ATTR_ flags in mount(8)'s words.
func AttrWords(attr uint64) []string {
	var w []string
	for _, a := range attrWords {
		if attr&a.flag != 0 {
			w = append(w, a.word)
		}
	}
	switch attr & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		w = append(w, "noatime")
	case unix.MOUNT_ATTR_STRICTATIME:
		w = append(w, "strictatime")
	}
	return w
}
