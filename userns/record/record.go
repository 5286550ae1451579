// Package record reads and writes what systemd calls user and group records: JSON
// that says more about a user than a line of passwd does.
//
// It guarantees that text which it takes into a User can be written into a record
// again, and that a record tells the machine what it needs for a login and nothing
// else. It refuses to know where records are kept.
//
// Room: paper.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"launch/userns"
)

// User is what of a user's record the machine may learn, and what the launcher
// must know.
type User struct {
	Name     string `json:"name"`
	UID, GID uint32
	// HasUID: the record has one at all.
	HasUID      bool   `json:"has_uid"`
	Disposition string `json:"disposition,omitempty"`
	Home        string `json:"home,omitempty"`
	Shell       string `json:"shell,omitempty"`
	// Passwords are hashed, Keys are public keys for SSH. Nil is none; neither is
	// ever shown.
	Passwords []string `json:"-"`
	Keys      []string `json:"-"`
}

// Group is the same of a group.
type Group struct {
	Name        string `json:"name"`
	GID         uint32 `json:"gid"`
	Disposition string `json:"disposition,omitempty"`
}

// Here is what the parts of a record that are about one computer are held against.
type Here struct {
	// MachineID is 32 hex digits, or "".
	MachineID string
	Hostname  string
}

// ErrOther says that a record is about somebody else than its place tells.
var ErrOther = errors.New("it is the record of somebody else")

// object is a JSON object. Names count as they are written, which they don't for
// structs; of two of the same name the first counts, as it does for systemd.
type object map[string]json.RawMessage

// UnmarshalJSON reads it.
func (o *object) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("no object")
	}
	*o = object{}
	for d.More() {
		t, err := d.Token()
		var v json.RawMessage
		if err == nil {
			err = d.Decode(&v)
		}
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if _, ok := (*o)[name]; !ok {
			(*o)[name] = v
		}
	}
	return nil
}

// ParseUser reads the record of the user of that name. privileged is the text of a
// file beside it with what not everybody may read, or nil.
func ParseUser(name string, text, privileged []byte, here Here) (User, error) {
	r, err := parse(text, here)
	if err != nil {
		return User{}, err
	}
	if len(privileged) > 0 {
		var p object
		if json.Unmarshal(privileged, &p) != nil || p == nil {
			return User{}, errors.New("its privileged part is no JSON object")
		}
		r["privileged"] = p["privileged"]
	}
	u := User{Name: word(r["userName"]), Home: word(r["homeDirectory"]), Shell: word(r["shell"]), Disposition: disposition(r["disposition"])}
	if u.Name != name {
		return User{}, ErrOther
	}
	if u.UID, u.HasUID, err = id(r["uid"]); err != nil {
		return User{}, err
	}
	var has bool
	if u.GID, has, err = id(r["gid"]); err != nil {
		return User{}, err
	} else if !has {
		u.GID = u.UID
	}
	// A line of passwd could not hold a colon.
	if !Clean(u.Home) || strings.Contains(u.Home, ":") {
		u.Home = "/home/" + name
	}
	if !Clean(u.Shell) || strings.Contains(u.Shell, ":") {
		u.Shell = ""
	}
	var p object
	if json.Unmarshal(or(r["privileged"]), &p) != nil {
		return User{}, errors.New("its privileged part is no JSON object")
	}
	if u.Passwords, err = texts(p["hashedPassword"]); err != nil {
		return User{}, fmt.Errorf("its passwords: %w", err)
	}
	if len(u.Passwords) == 0 {
		u.Passwords = nil
	}
	if u.Keys, err = texts(p["sshAuthorizedKeys"]); err != nil {
		return User{}, fmt.Errorf("its keys: %w", err)
	}
	return u, nil
}

// ParseGroup reads the record of a group.
func ParseGroup(text []byte, here Here) (Group, error) {
	r, err := parse(text, here)
	if err != nil {
		return Group{}, err
	}
	g := Group{Name: word(r["groupName"]), Disposition: disposition(r["disposition"])}
	var has bool
	if g.GID, has, err = id(r["gid"]); err == nil && (!has || g.Name == "") {
		err = errors.New("it lacks the name or the id")
	}
	return g, err
}

// parse reads a record and lays the parts that are about this computer over the
// rest.
func parse(text []byte, here Here) (object, error) {
	var r object
	if json.Unmarshal(text, &r) != nil || r == nil {
		return nil, errors.New("it is no JSON object")
	}
	if _, ok := r["secret"]; ok {
		return nil, errors.New("it has secrets, which no record has that is kept")
	}
	// Each part has its own fields, and what else is in it is nothing.
	over := func(part object, names ...string) {
		for _, k := range names {
			if v, ok := part[k]; ok {
				r[k] = v
			}
		}
	}
	var per []object
	if json.Unmarshal(or(r["perMachine"]), &per) != nil {
		return nil, errors.New("its part perMachine is no list of objects")
	}
	for _, part := range per {
		if here.is(part) {
			over(part, "uid", "gid", "shell")
		}
	}
	var binding object
	if json.Unmarshal(or(r["binding"]), &binding) != nil {
		return nil, errors.New("its part binding is no object")
	}
	if text, ok := binding[here.MachineID]; ok {
		var part object
		if json.Unmarshal(or(text), &part) != nil {
			return nil, errors.New("its part binding has what is no object")
		}
		over(part, "uid", "gid", "homeDirectory")
	}
	return r, nil
}

func or(text json.RawMessage) []byte {
	if len(text) == 0 {
		return []byte("null")
	}
	return text
}

// is tells whether a part of a record is about this computer: one of the words that
// it is held against must say so.
func (h Here) is(part object) bool {
	return has(part["matchMachineId"], h.MachineID, sameID) || has(part["matchHostname"], h.Hostname, sameName) ||
		hasNot(part["matchNotMachineId"], h.MachineID, sameID) || hasNot(part["matchNotHostname"], h.Hostname, sameName)
}

// has tells whether a word, or one of a list, is the one.
func has(text json.RawMessage, one string, same func(a, b string) bool) bool {
	list, err := texts(text)
	return err == nil && slices.ContainsFunc(list, func(w string) bool { return same(w, one) })
}

func hasNot(text json.RawMessage, one string, same func(a, b string) bool) bool {
	return len(text) > 0 && !has(text, one, same)
}

func sameID(a, b string) bool { return b != "" && strings.EqualFold(strings.ReplaceAll(a, "-", ""), b) }

func sameName(a, b string) bool { return b != "" && a == b }

// texts reads a list of strings, or a single one.
func texts(text json.RawMessage) ([]string, error) {
	var list []string
	if len(text) > 0 && text[0] == '"' {
		list = []string{""}
		if json.Unmarshal(text, &list[0]) != nil {
			return nil, errors.New("no text")
		}
	} else if json.Unmarshal(or(text), &list) != nil {
		return nil, errors.New("no list of texts")
	}
	for _, w := range list {
		if !Plain(w) {
			return nil, errors.New("a control character in a text")
		}
	}
	return list, nil
}

// word reads a string; what is none is as if it were not there.
func word(text json.RawMessage) string {
	var s string
	if json.Unmarshal(or(text), &s) != nil || !Plain(s) {
		return ""
	}
	return s
}

// id reads a number; what is none is as if it were not there.
func id(text json.RawMessage) (n uint32, has bool, err error) {
	if len(text) == 0 || text[0] != '-' && (text[0] < '0' || text[0] > '9') {
		return 0, false, nil
	}
	if n, err = userns.ParseID(string(text)); err != nil {
		return 0, false, err
	}
	return n, true, nil
}

// disposition reads what kind of user it is.
func disposition(text json.RawMessage) string {
	switch s := word(text); s {
	case "intrinsic", "system", "dynamic", "regular", "container", "foreign", "reserved":
		return s
	}
	return ""
}

// Clean tells whether a path is absolute and has nothing in it that could be left
// out: others may not be in a record.
func Clean(s string) bool { return strings.HasPrefix(s, "/") && path.Clean(s) == s && Plain(s) }

// Plain tells whether a text can be in a record.
func Plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s)
}

// Hashed tells whether what shadow has in the place of a password may be a hashed
// one, or says that it is locked or empty, rather than that there is none.
func Hashed(s string) bool {
	s = strings.TrimLeft(s, "!")
	return s != "*" && s != "x" && utf8.ValidString(s)
}

// Home is where the machine has the home directories of users of the host's, and
// Dir their records.
const (
	Home = "/run/host/home"
	Dir  = "/run/host/userdb"
)

// FirstID to LastID are the ids that users of the host's may have in a machine.
const (
	FirstID = 60514
	LastID  = 60577
)

// Bound is a user of the host's as the machine gets to know it.
type Bound struct {
	Name string `json:"name"`
	// ID is that of the user, and of the group of the same name.
	ID uint32 `json:"id"`
	// Shell is "" where the machine decides.
	Shell string `json:"shell,omitempty"`
	// Groups are groups of the machine's.
	Groups []string `json:"groups,omitempty"`
	// What kind of user and group they are; "" if nobody said so.
	Disposition      string   `json:"disposition,omitempty"`
	GroupDisposition string   `json:"group_disposition,omitempty"`
	Passwords        []string `json:"-"`
	Keys             []string `json:"-"`
}

// HomeDir is the user's home directory in the machine.
func (b Bound) HomeDir() string { return path.Join(Home, b.Name) }

// File is one that is made in Dir.
type File struct {
	Name string
	// Text is a file's, Link a link's.
	Text, Link string
	// Private: nobody but root may read it.
	Private bool
}

// service is who the records say that they are from: whoever looks for users of
// the host's in a machine knows them by it.
const service = "io.systemd.NSpawn"

// Files gives the records of a user.
func (b Bound) Files() ([]File, error) {
	user := struct {
		Name        string   `json:"userName"`
		UID         uint32   `json:"uid"`
		GID         uint32   `json:"gid"`
		Disposition string   `json:"disposition,omitempty"`
		Home        string   `json:"homeDirectory"`
		Service     string   `json:"service"`
		Shell       string   `json:"shell,omitempty"`
		Groups      []string `json:"memberOf"`
	}{b.Name, b.ID, b.ID, b.Disposition, b.HomeDir(), service, b.Shell, append([]string{}, b.Groups...)}
	group := struct {
		Name        string `json:"groupName"`
		GID         uint32 `json:"gid"`
		Disposition string `json:"disposition,omitempty"`
		Service     string `json:"service"`
	}{b.Name, b.ID, b.GroupDisposition, service}
	type privileged struct {
		Passwords []string `json:"hashedPassword,omitempty"`
		Keys      []string `json:"sshAuthorizedKeys,omitzero"`
	}
	secret := struct {
		Privileged privileged `json:"privileged"`
	}{privileged{b.Passwords, b.Keys}}

	var files []File
	number := strconv.FormatUint(uint64(b.ID), 10)
	add := func(kind string, v any, private bool) error {
		// Not json.Marshal: that writes < and > as escapes.
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			return err
		}
		files = append(files, File{Name: b.Name + kind, Text: text.String(), Private: private}, File{Name: number + kind, Link: b.Name + kind})
		return nil
	}
	if err := errors.Join(add(".user", user, false), add(".user-privileged", secret, true), add(".group", group, false)); err != nil {
		return nil, err
	}
	for _, g := range b.Groups {
		files = append(files, File{Name: b.Name + ":" + g + ".membership", Text: "{}\n"})
	}
	return files, nil
}
