package engine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/settings"
	"launch/userns"
	"launch/userns/record"
)

// user is what the finished tree says about the payload.
type user struct {
	uid, gid uint32
	groups   []uint32
	home     string
	program  string
	args     []string
	env      []string
}

// payload looks up user and program. Nothing of the tree is run for it.
func (b *builder) payload() error {
	p := b.plan.Payload
	u := &b.user
	u.home = "/root"
	u.env = append([]string(nil), p.Env...)
	if p.User != "" && p.User != "root" && p.User != "0" || p.Group != "" {
		if err := b.account(p); err != nil {
			return &settings.Error{What: err.Error(), Origin: p.UserOrigin, Value: p.User}
		}
	}
	if b.pty.Slave > 0 && u.uid != 0 {
		// The payload can open its own terminal again.
		if err := sys.Fchownat(b.pty.Slave, "", b.root()+u.uid, b.root()+u.gid); err != nil {
			return fmt.Errorf("give the terminal to user %d: %w", u.uid, err)
		}
	}
	look := looker{b.treeRoot(), b.dir()}
	found, text, err := look.find(p.Candidates, plan.Getenv(u.env, "PATH"))
	if err != nil {
		return err
	}
	if text && p.Shell != "" {
		if _, _, err := look.find([]string{p.Shell}, ""); err != nil {
			return &settings.Error{What: fmt.Sprintf("cannot run %s: its first line names no interpreter, and the tree has no %s to run it with", found, p.Shell),
				Hint: "begin it with a line like #!/usr/bin/python3, or run another command"}
		}
		if !strings.Contains(found, "/") {
			found = "./" + found // a shell would look for it in PATH
		}
		u.program = p.Shell
		u.args = append([]string{p.Shell, found}, p.Args[1:]...)
		return nil
	}
	u.program = found
	u.args = append([]string(nil), p.Args...)
	switch u.args[0] {
	case "":
		u.args[0] = found
	case "-":
		u.args[0] = "-" + path.Base(found)
	}
	return nil
}

// account looks the user up in the tree's own files.
func (b *builder) account(p plan.Payload) error {
	name := p.User
	if name == "" {
		name = "0"
	}
	id, notID := userns.ParseID(name)
	for _, g := range b.plan.Bound {
		if g.Name == name || notID == nil && g.ID == id {
			return b.bound(g)
		}
	}
	number := notID == nil && p.AnyID
	passwd, err := sys.ReadIn(b.treeRoot(), "/etc/passwd", sys.InRoot, 1<<20)
	if err != nil && !(number && err == unix.ENOENT) {
		return fmt.Errorf("cannot look up the user %q: read /etc/passwd of the tree: %w", name, err)
	}
	a, err := userns.ParsePasswd(passwd, name)
	if number && errors.Is(err, userns.ErrNoUser) {
		a, err = userns.Account{UID: id, Home: "/"}, nil
	}
	if err != nil {
		return fmt.Errorf("cannot find the user %q in /etc/passwd of the tree: %w", name, err)
	}
	groups, err := b.groupFile(name)
	if err != nil {
		return err
	}
	u := &b.user
	u.uid, u.gid, u.home = a.UID, a.GID, a.Home
	b.named(a.Name)
	if p.Group != "" {
		if u.gid, err = userns.ParseGroup(groups, p.Group); err != nil {
			return fmt.Errorf("cannot find the group %q in /etc/group of the tree: %w", p.Group, err)
		}
		u.groups = []uint32{u.gid}
	} else if u.groups, err = userns.Groups(groups, a.Name, a.GID); err != nil {
		return fmt.Errorf("cannot look up the groups of %q in /etc/group of the tree: %w", name, err)
	}
	return nil
}

// groupFile reads the tree's /etc/group, if there is one, for a user's groups.
func (b *builder) groupFile(user string) ([]byte, error) {
	text, err := sys.ReadIn(b.treeRoot(), "/etc/group", sys.InRoot, 1<<20)
	if err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("cannot look up the groups of %q: read /etc/group of the tree: %w", user, err)
	}
	return text, nil
}

// bound makes a user of the host's the payload's, whom the tree's files don't know.
func (b *builder) bound(g record.Bound) error {
	text, err := b.groupFile(g.Name)
	if err != nil {
		return err
	}
	u := &b.user
	u.uid, u.gid, u.home, u.groups = g.ID, g.ID, g.HomeDir(), []uint32{g.ID}
	b.named(g.Name)
	for _, name := range g.Groups {
		// What the machine doesn't have, nobody can be in.
		if gid, err := userns.ParseGroup(text, name); err == nil && !slices.Contains(u.groups, gid) {
			u.groups = append(u.groups, gid)
		}
	}
	return nil
}

// named tells the payload who it is.
func (b *builder) named(name string) {
	u := &b.user
	if u.home == "" {
		u.home = "/"
	}
	for _, e := range []string{"HOME=" + u.home, "USER=" + name, "LOGNAME=" + name} {
		name, _, _ := strings.Cut(e, "=")
		// Only the defaults: what the user set stays.
		if plan.Getenv(u.env, name) == map[string]string{"HOME": "/root", "USER": "root", "LOGNAME": "root"}[name] {
			u.env = plan.SetEnv(u.env, e)
		}
	}
}

// looker looks for programs below a root, as seen from a directory there.
type looker struct {
	root int
	dir  string
}

// find gives the first candidate that the tree has and that may be executed, and
// whether it is a text that the kernel wouldn't know what to do with.
func (k looker) find(candidates []string, search string) (file string, text bool, err error) {
	var denied, cure string
	for _, c := range candidates {
		if c == "" {
			return "", false, &settings.Error{What: `cannot run "", a command without a name`, Hint: "give a command, or leave the word out for a shell"}
		}
		list := []string{c}
		if !strings.Contains(c, "/") {
			list = nil
			for dir := range strings.SplitSeq(search, ":") {
				if dir == "" {
					dir = "."
				}
				list = append(list, path.Join(dir, c))
			}
		}
		for _, file = range list {
			at := file
			if !strings.HasPrefix(at, "/") {
				at = path.Join(k.dir, at)
			}
			n, err := sys.Openat2(k.root, at, unix.O_PATH, 0, sys.InRoot)
			switch err {
			case nil:
			case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.ENAMETOOLONG:
				continue
			default:
				return "", false, fmt.Errorf("look for %s in the tree: %w", at, err)
			}
			st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_MODE)
			sys.Close(n)
			if err != nil {
				return "", false, fmt.Errorf("look at %s of the tree: %w", at, err)
			}
			if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
				denied, cure = at+" is no executable file", "give the path of a program in the tree, or make the file one (chmod +x)"
				continue
			}
			head, read := k.head(at)
			if why := k.interpreters(at, head); why != "" {
				denied, cure = why, "put the interpreter into the tree, or run another command"
				continue
			}
			return file, read && plain(head), nil
		}
	}
	word := strings.Join(candidates, ", ")
	if denied != "" {
		return "", false, &settings.Error{What: fmt.Sprintf("cannot run %s: %s", word, denied), Hint: cure}
	}
	hint := "give the command's path inside the tree, or set PATH with --setenv="
	switch {
	case len(candidates) > 1:
		hint = "the tree has none of them: run a command that it has"
	case strings.Contains(word, "/"):
		hint = "the path is one inside the tree, where it leads nowhere"
	}
	return "", false, &settings.Error{What: fmt.Sprintf("cannot run %s: executable file not found in the tree", word), Hint: hint}
}

// interpreters tells why a script can't run, where its interpreter, or the
// interpreter's own, is at fault: the kernel would only say that something
// was not found. A link of /proc is at fault, too: what it leads to is no file
// of the tree. That nothing outside can be reached by one does not depend on
// this look, which may be out of date when the kernel has its own, but on the
// stub.
func (k looker) interpreters(file, head string) (why string) {
	for range 5 { // as many as the kernel follows
		line := firstLine(head)
		if line == "" {
			return ""
		}
		name := line
		if !strings.HasPrefix(name, "/") {
			name = path.Join(k.dir, name)
		}
		fault := func(format string, args ...any) string {
			return fmt.Sprintf("%s, the interpreter of %s, ", line, file) + fmt.Sprintf(format, args...)
		}
		n, err := sys.Openat2(k.root, name, unix.O_PATH, 0, sys.InRoot)
		switch err {
		case nil:
		case unix.ENOENT, unix.ENOTDIR:
			return fault("is not in the tree")
		case unix.ELOOP:
			return fault("is a link in a circle, or one of /proc")
		default:
			return fault("can't be opened: %v", err)
		}
		st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_MODE)
		sys.Close(n)
		if err != nil {
			return fault("can't be looked at: %v", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
			return fault("is no executable file")
		}
		file = name
		head, _ = k.head(file)
	}
	return ""
}

// headBytes is how much of a file the kernel looks at to know what it is.
const headBytes = 256

// head gives the beginning of a file; false if it can't be read.
func (k looker) head(file string) (string, bool) {
	n, err := sys.Openat2(k.root, file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0, sys.InRoot)
	if err != nil {
		return "", false
	}
	defer sys.Close(n)
	var buf [headBytes]byte
	m, err := sys.Read(n, buf[:])
	if err != nil {
		return "", false
	}
	return string(buf[:m]), true
}

// plain tells whether what begins like that is a text that doesn't say who runs it.
// What has a zero byte in its head is for the kernel to know, or for what the host
// has registered with binfmt_misc.
func plain(head string) bool {
	return !strings.Contains(head, "\x00") && (!strings.HasPrefix(head, "#!") || len(head) < headBytes && firstLine(head) == "")
}

// firstLine gives the interpreter that a script names, as the kernel reads it;
// "" for what is no script.
func firstLine(head string) string {
	line, ok := strings.CutPrefix(head, "#!")
	if !ok {
		return ""
	}
	line, _, whole := strings.Cut(line, "\n")
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t\x00"); i >= 0 {
		return line[:i]
	}
	if len(head) == headBytes && !whole {
		return "" // longer than the kernel takes
	}
	return line
}

// dir is the payload's working directory.
func (b *builder) dir() string {
	if b.plan.Payload.Dir == plan.Home {
		return b.user.home
	}
	return b.plan.Payload.Dir
}
