package userns

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxLine is how long a line of a user database may be; a longer one is an
// error, not a shorter one.
const MaxLine = 64 << 10

// ErrNoUser says that the database has no such user.
var ErrNoUser = errors.New("no such user")

// Account is what the passwd file says about a user.
type Account struct {
	Name     string
	UID, GID uint32
	Home     string
	Shell    string
}

// ParseID reads a user or group id: decimal digits and nothing else, at most
// 4294967294. A leading zero is an error too, since some programs would read
// the rest as octal.
func ParseID(s string) (uint32, error) {
	if !digits(s) || len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%q is not a user or group id", s)
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("%s is out of range for a user or group id", s)
	}
	return uint32(n), nil
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// fields gives the fields of a line of a database in the style of passwd, or
// nil for a line that is no entry: a comment, a blank one, and those of NIS.
func fields(line string) []string {
	if line == "" || strings.ContainsRune("#+- \t\r", rune(line[0])) {
		return nil
	}
	return strings.Split(line, ":")
}

// lines calls f for each line until f says that it has seen enough.
func lines(data []byte, f func(line string) (more bool)) error {
	for n := 1; len(data) > 0; n++ {
		line := data
		if end := bytes.IndexByte(data, '\n'); end >= 0 {
			line, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		if len(line) > MaxLine {
			return fmt.Errorf("line %d is longer than %d bytes", n, MaxLine)
		}
		if bytes.IndexByte(line, 0) >= 0 {
			return fmt.Errorf("line %d has a NUL byte", n)
		}
		if !f(string(line)) {
			return nil
		}
	}
	return nil
}

// account reads one line of passwd.
func account(line string) (Account, bool) {
	f := fields(line)
	if len(f) != 7 || f[0] == "" {
		return Account{}, false
	}
	uid, err1 := ParseID(f[2])
	gid, err2 := ParseID(f[3])
	if err1 != nil || err2 != nil {
		return Account{}, false
	}
	return Account{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}, true
}

// CheckUser tells whether the text can name a user at all. Text of digits
// only is an id and nothing else; text that merely looks like a number to some
// program, such as `-1`, `+0`, `0x0` or ` 0`, names nobody.
func CheckUser(user string) error {
	switch {
	case user == "":
		return errors.New("empty user name")
	case digits(user):
		_, err := ParseID(user)
		return err
	case user[0] >= '0' && user[0] <= '9' || strings.ContainsAny(user[:1], "+-"):
		return fmt.Errorf("%q is neither a user name nor an id", user)
	case len(user) > 256:
		return errors.New("user name is longer than 256 bytes")
	}
	for i := 0; i < len(user); i++ {
		if c := user[i]; c <= ' ' || c == 0x7f || c == ':' || c == '/' || c == ',' {
			return fmt.Errorf("%q is not a user name", user)
		}
	}
	return nil
}

// ParsePasswd finds a user, by name or by id, in the text of a passwd file;
// ErrNoUser says that there is none. Text of digits is always an id, even
// where an entry has such a name. The first entry counts. Lines that are not
// entries, whatever is wrong with them, are passed over.
func ParsePasswd(data []byte, user string) (Account, error) {
	if err := CheckUser(user); err != nil {
		return Account{}, err
	}
	var want uint32
	byID := digits(user)
	if byID {
		want, _ = ParseID(user)
	}
	var found Account
	ok := false
	err := lines(data, func(line string) bool {
		if a, is := account(line); is && (byID && a.UID == want || !byID && a.Name == user) {
			found, ok = a, true
		}
		return !ok
	})
	if err != nil {
		return Account{}, fmt.Errorf("passwd: %w", err)
	}
	if !ok {
		return Account{}, fmt.Errorf("%q: %w", user, ErrNoUser)
	}
	return found, nil
}

// MaxGroups is how many groups Groups gives at most: the kernel's limit.
const MaxGroups = 65536

// Groups gives the groups of a user from the text of a group file, each once:
// gid first, then those that list the name, in the order of the file.
func Groups(data []byte, name string, gid uint32) ([]uint32, error) {
	groups := []uint32{gid}
	seen := map[uint32]bool{gid: true}
	many := false
	err := lines(data, func(line string) bool {
		f := fields(line)
		if len(f) != 4 || f[0] == "" || name == "" {
			return true
		}
		id, err := ParseID(f[2])
		if err != nil || seen[id] {
			return true
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member == name {
				many = len(groups) == MaxGroups
				if !many {
					groups = append(groups, id)
					seen[id] = true
				}
				break
			}
		}
		return !many
	})
	if err != nil {
		return nil, fmt.Errorf("group: %w", err)
	}
	if many {
		return nil, fmt.Errorf("%q is in more than %d groups", name, MaxGroups)
	}
	return groups, nil
}

// ParseGroup finds a group, by name or by id, in the text of a group file.
// The same rules hold as for users; an id needs no entry.
func ParseGroup(data []byte, group string) (uint32, error) {
	if err := CheckUser(group); err != nil {
		return 0, err
	}
	if digits(group) {
		return ParseID(group)
	}
	var gid uint32
	ok := false
	err := lines(data, func(line string) bool {
		if f := fields(line); len(f) == 4 && f[0] == group {
			id, err := ParseID(f[2])
			gid, ok = id, err == nil
		}
		return !ok
	})
	if err != nil {
		return 0, fmt.Errorf("group: %w", err)
	}
	if !ok {
		return 0, fmt.Errorf("%q: no such group", group)
	}
	return gid, nil
}

// GroupName gives the name that the text of a group file has for an id; ok is
// false if it has none.
func GroupName(data []byte, gid uint32) (name string, ok bool, err error) {
	err = lines(data, func(line string) bool {
		if f := fields(line); len(f) == 4 && f[0] != "" {
			if id, err := ParseID(f[2]); err == nil && id == gid {
				name, ok = f[0], true
			}
		}
		return !ok
	})
	return name, ok, err
}

// HasName tells whether an entry of the text, a passwd or a group file, has the
// name.
func HasName(data []byte, name string) (bool, error) {
	ok := false
	err := lines(data, func(line string) bool {
		if f := fields(line); len(f) >= 4 && f[0] == name && name != "" {
			_, err := ParseID(f[2])
			ok = err == nil
		}
		return !ok
	})
	return ok, err
}

// IDs gives the ids from first to last that entries of the text have, a passwd or a
// group file, each once.
func IDs(data []byte, first, last uint32) (ids []uint32, err error) {
	err = lines(data, func(line string) bool {
		if f := fields(line); len(f) >= 3 && f[0] != "" {
			if n, err := ParseID(f[2]); err == nil && n >= first && n <= last && !slices.Contains(ids, n) {
				ids = append(ids, n)
			}
		}
		return true
	})
	return ids, err
}

// ParseShadow gives what the text of a shadow file has in the place of a user's
// password; ok is false if it has no entry of that name. The first counts. A line
// whose other fields are not as they should be is no entry.
func ParseShadow(data []byte, name string) (password string, ok bool, err error) {
	err = lines(data, func(line string) bool {
		f := fields(line)
		if len(f) != 9 || f[0] != name || name == "" {
			return true
		}
		for _, days := range f[2:] {
			if days != "" && !digits(strings.TrimPrefix(days, "-")) {
				return true
			}
		}
		password, ok = f[1], true
		return false
	})
	return password, ok, err
}

// HasID tells whether an entry of the text, a passwd or a group file, has the
// id.
func HasID(data []byte, id uint32) (bool, error) {
	ok := false
	err := lines(data, func(line string) bool {
		if f := fields(line); len(f) >= 3 && f[0] != "" {
			n, err := ParseID(f[2])
			ok = err == nil && n == id
		}
		return !ok
	})
	return ok, err
}

// ParseSubID gives the ranges that the text of a subuid or subgid file gives
// to a user, in order. The owner of a line may be the name or the id. A line
// of that user that is not exactly `owner:start:count`, or whose range is
// empty or goes past the last id, is an error: a range must not be guessed.
func ParseSubID(data []byte, name string, uid uint32) ([]Range, error) {
	number := strconv.FormatUint(uint64(uid), 10)
	var ranges []Range
	var bad error
	n := 0
	err := lines(data, func(line string) bool {
		n++
		f := fields(line)
		if f == nil || f[0] != number && (f[0] != name || name == "") {
			return true
		}
		if len(f) != 3 {
			bad = fmt.Errorf("line %d: want owner:start:count", n)
			return false
		}
		start, err := ParseID(f[1])
		if err != nil {
			bad = fmt.Errorf("line %d: %w", n, err)
			return false
		}
		size, err := ParseID(f[2])
		if err != nil {
			bad = fmt.Errorf("line %d: %w", n, err)
			return false
		}
		r := Range{Start: start, Size: size}
		if !r.Valid() {
			bad = fmt.Errorf("line %d: range %s is empty or goes past the last id", n, r)
			return false
		}
		ranges = append(ranges, r)
		return true
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("subordinate ids: %w", err)
	}
	return ranges, nil
}
