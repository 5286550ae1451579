package settings

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"launch/internal/origin"
)

// Bound are users of the host's that the machine has, too.
type Bound struct {
	Users []BoundUser `json:"users,omitempty"`
	// Shell is a path, HostShell, or "": the machine has a usual one.
	Shell string `json:"shell,omitempty"`
	// Groups are groups of the machine's that all of them are in.
	Groups []string `json:"groups,omitempty"`
}

// BoundUser is one of them.
type BoundUser struct {
	Name   string        `json:"name"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// HostShell stands for the shell that a user has on the host.
const HostShell = "host"

// checkPortable refuses what is no name of a user or group with every program and in
// every file: names are parts of the names of files, and of lines.
func checkPortable(name string) error {
	bad := name == "" || name[0] == '-' || name[0] >= '0' && name[0] <= '9' || len(name) > 31
	for _, c := range []byte(name) {
		bad = bad || c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	}
	switch {
	case name == "":
		return errors.New("it is no name")
	case digits(name):
		return fmt.Errorf("%s is a number: give the name", name)
	case bad:
		return fmt.Errorf("%q can't be a name: at most 31 letters, digits, - and _, and a letter or _ first", name)
	}
	return nil
}

func parseBindUser(_ Place, text string) (any, error) { return []string{text}, checkPortable(text) }

// parseBindUserKey reads a list. A name that can't be one doesn't take the others
// with it.
func parseBindUserKey(_ Place, text string) (any, error) {
	words, err := SplitWords(text)
	if err != nil {
		return nil, err
	}
	var names []string
	var bad error
	for _, w := range words {
		if err := checkPortable(w); err == nil {
			names = append(names, w)
		} else if bad == nil {
			bad = err
		}
	}
	if names != nil && bad != nil {
		bad = Partial{bad}
	}
	return names, bad
}

func addBoundUser(s *Settings, a Assignment) {
	for _, name := range a.Value.([]string) {
		if !slices.ContainsFunc(s.Bound.Users, func(u BoundUser) bool { return u.Name == name }) {
			s.Bound.Users = append(s.Bound.Users, BoundUser{name, a.Origin})
		}
	}
}

func parseBindShell(_ Place, text string) (any, error) {
	if on, err := ParseBool(text); err == nil {
		if on {
			return HostShell, nil
		}
		return "", nil
	}
	if !strings.HasPrefix(text, "/") || path.Clean(text) != text || text == "/" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("%q is neither yes nor no nor the path of a shell", text)
	}
	return text, nil
}

func parseBindGroup(_ Place, text string) (any, error) { return text, checkPortable(text) }

func addBoundGroup(s *Settings, a Assignment) {
	if g := a.Value.(string); !slices.Contains(s.Bound.Groups, g) {
		s.Bound.Groups = append(s.Bound.Groups, g)
	}
}

// checkBound refuses what is said about users that nobody asked for.
func (r *resolver) checkBound() error {
	b := r.s.Bound
	switch {
	case len(b.Users) > 0:
	case b.Shell != "" && b.Shell != HostShell:
		return r.blame("bind-user-shell", "cannot give a shell to users of the host: the machine has none of them", "add --bind-user=, or leave it out")
	case len(b.Groups) > 0:
		return r.blame("bind-user-group", "cannot put users of the host into a group: the machine has none of them", "add --bind-user=, or leave it out")
	}
	return nil
}
