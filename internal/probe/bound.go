package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/facts"
	"launch/internal/sys"
	"launch/internal/varlink"
	"launch/userns"
	"launch/userns/record"
)

// databaseMax is more than any user database has that is a file.
const databaseMax = 1 << 20

// multiplexer is where systemd-userdbd answers for all who know users: files,
// systemd-homed, and whatever nsswitch.conf names.
const multiplexer = "/run/systemd/userdb/io.systemd.Multiplexer"

// recordDirs hold records that are files; the first that has one counts.
var recordDirs = [...]string{"/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/local/lib/userdb", "/usr/lib/userdb"}

// Bound looks up a user of the host's. Launch has no C library to ask the services of
// nsswitch.conf, so it asks systemd-userdbd, which does, and where that isn't there,
// the files themselves: records first, then passwd.
func Bound(name, hostname string) (facts.Bound, error) {
	var l look
	id, _ := l.file("/etc/machine-id")
	b, err := bound(name, record.Here{MachineID: strings.TrimSpace(id), Hostname: hostname})
	b.Name = name
	if err == nil {
		err = l.err
	}
	return b, err
}

func bound(name string, here record.Here) (b facts.Bound, err error) {
	if b, err = user(name, here); err != nil || !b.Found {
		return b, err
	}
	b.Group, err = group(b.User.GID, here)
	if err != nil {
		return b, fmt.Errorf("its group %d: %w", b.User.GID, err)
	}
	if b.User.Home == "" {
		return b, nil
	}
	n, err := sys.Openat(unix.AT_FDCWD, b.User.Home, unix.O_PATH, 0)
	if missing(err) {
		b.Home = facts.Absent
		return b, nil
	}
	if err != nil {
		return b, fmt.Errorf("open its home directory %s: %w", b.User.Home, err)
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err != nil {
		return b, fmt.Errorf("look at its home directory %s: %w", b.User.Home, err)
	}
	b.Home = facts.Other
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		b.Home = facts.Dir
	}
	return b, nil
}

// user finds a user. What can't be read beside the rest is an error as well.
func user(name string, here record.Here) (b facts.Bound, err error) {
	var a answer
	b.Known = true
	switch err := ask("GetUserRecord", question{User: name, Service: "io.systemd.Multiplexer"}, &a); {
	case err == nil:
		b.From, b.Found = "systemd-userdbd", true
		if b.User, err = record.ParseUser(name, a.Record, nil, here); err == nil && a.Incomplete {
			err = errors.New("systemd-userdbd doesn't tell us all")
		}
		return b, err
	case err != errNobody:
		return facts.Bound{}, fmt.Errorf("ask systemd-userdbd: %w", err)
	}
	for _, dir := range recordDirs {
		b.From = dir + "/" + name + ".user"
		text, err := sys.ReadIn(unix.AT_FDCWD, b.From, 0, databaseMax)
		if missing(err) {
			continue
		}
		if err != nil {
			return facts.Bound{}, fmt.Errorf("read %s: %w", b.From, err)
		}
		private, perr := sys.ReadIn(unix.AT_FDCWD, b.From+"-privileged", 0, databaseMax)
		if missing(perr) {
			perr = nil
		} else if perr != nil {
			perr = fmt.Errorf("read %s-privileged: %w", b.From, perr)
		}
		if b.User, err = record.ParseUser(name, text, private, here); err != nil {
			return facts.Bound{}, fmt.Errorf("read %s: %w", b.From, err)
		}
		b.Found = true
		return b, perr
	}
	b.From = "/etc/passwd"
	text, err := database(unix.AT_FDCWD, b.From, 0)
	if err != nil {
		return facts.Bound{}, fmt.Errorf("read %s: %w", b.From, err)
	}
	u, err := userns.ParsePasswd(text, name)
	if errors.Is(err, userns.ErrNoUser) {
		b.From = ""
		return b, nil
	}
	if err != nil {
		return facts.Bound{}, fmt.Errorf("read %s: %w", b.From, err)
	}
	b.Found = true
	b.User = record.User{Name: name, UID: u.UID, GID: u.GID, HasUID: true, Home: u.Home, Shell: u.Shell}
	if text, err = database(unix.AT_FDCWD, "/etc/shadow", 0); err == nil {
		var password string
		var ok bool
		password, ok, err = userns.ParseShadow(text, name)
		if ok && record.Hashed(password) {
			b.User.Passwords = []string{password}
		}
	}
	if err != nil {
		err = fmt.Errorf("read /etc/shadow: %w", err)
	}
	return b, err
}

// group finds a group by its id; without a name if there is none.
func group(gid uint32, here record.Here) (g record.Group, err error) {
	var a answer
	switch err := ask("GetGroupRecord", question{GID: &gid, Service: "io.systemd.Multiplexer"}, &a); {
	case err == nil:
		return record.ParseGroup(a.Record, here)
	case err != errNobody:
		return g, fmt.Errorf("ask systemd-userdbd: %w", err)
	}
	for _, dir := range recordDirs {
		file := fmt.Sprintf("%s/%d.group", dir, gid)
		text, err := sys.ReadIn(unix.AT_FDCWD, file, 0, databaseMax)
		if missing(err) {
			continue
		}
		if err == nil {
			g, err = record.ParseGroup(text, here)
		}
		if err != nil {
			return g, fmt.Errorf("read %s: %w", file, err)
		}
		return g, nil
	}
	text, err := database(unix.AT_FDCWD, "/etc/group", 0)
	if err != nil {
		return g, fmt.Errorf("read /etc/group: %w", err)
	}
	g.GID = gid
	g.Name, _, err = userns.GroupName(text, gid)
	return g, err
}

// database reads a user database; one that is missing has no entries.
func database(dir int, name string, how uint64) ([]byte, error) {
	b, err := sys.ReadIn(dir, name, how, databaseMax)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil, nil
	}
	return b, err
}

type question struct {
	User    string  `json:"userName,omitempty"`
	GID     *uint32 `json:"gid,omitempty"`
	Service string  `json:"service"`
}

type answer struct {
	Record     json.RawMessage `json:"record"`
	Incomplete bool            `json:"incomplete"`
}

// errNobody says that systemd-userdbd is not there, or knows nobody: the files may
// be newer than what it goes by.
var errNobody = errors.New("nobody knows")

func ask(method string, q question, a *answer) error {
	err := varlink.Call(multiplexer, "io.systemd.UserDatabase."+method, q, a)
	var e *bus.Error
	switch {
	case missing(err), err == unix.ECONNREFUSED, err == unix.EACCES:
		return errNobody
	case errors.As(err, &e) && e.Name == "io.systemd.UserDatabase.NoRecordFound":
		return errNobody
	}
	return err
}

// Taken looks which names and ids of bound users the tree has: in its root
// directory, or in the part of it that becomes the root.
func Taken(n int, pivot string, names []string) (t facts.Taken, err error) {
	if pivot != "" {
		if n, err = sys.Openat2(n, pivot, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot); err != nil {
			return t, fmt.Errorf("open %s of the tree: %w", pivot, err)
		}
		defer sys.Close(n)
	}
	for _, file := range [...]string{"passwd", "group"} {
		text, err := database(n, "etc/"+file, sys.InRoot)
		if err != nil {
			return t, fmt.Errorf("read /etc/%s of the tree: %w", file, err)
		}
		for _, name := range names {
			ok, err := userns.HasName(text, name)
			if err != nil {
				return t, fmt.Errorf("read /etc/%s of the tree: %w", file, err)
			}
			switch {
			case ok && file == "passwd":
				t.Users = append(t.Users, name)
			case ok:
				t.Groups = append(t.Groups, name)
			}
		}
		ids, err := userns.IDs(text, record.FirstID, record.LastID)
		if err != nil {
			return t, fmt.Errorf("read /etc/%s of the tree: %w", file, err)
		}
		t.IDs = append(t.IDs, ids...)
	}
	t.Known = true
	return t, nil
}
