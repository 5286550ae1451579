package settings

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"launch/internal/disk"
	"launch/mount"
	"launch/userns"
)

func asWritten(_ Place, text string) (any, error) { return text, nil }

// ParseBool reads the words that systemd takes for a boolean.
func ParseBool(text string) (bool, error) {
	for _, w := range [...]string{"1", "yes", "y", "true", "t", "on"} {
		if strings.EqualFold(text, w) {
			return true, nil
		}
	}
	for _, w := range [...]string{"0", "no", "n", "false", "f", "off"} {
		if strings.EqualFold(text, w) {
			return false, nil
		}
	}
	return false, fmt.Errorf("%q is neither yes nor no", text)
}

func parseBool(_ Place, text string) (any, error) {
	b, err := ParseBool(text)
	return b, err
}

// oneOf is the error about a word that isn't among a few.
func oneOf(text string, known ...string) error {
	s := "unknown value " + strconv.Quote(text)
	if near := Nearest(text, known...); near != "" {
		s += ", did you mean " + near + "?"
	}
	return errors.New(s + " (known: " + strings.Join(known, ", ") + ")")
}

func parseDirectory(p Place, text string) (any, error) {
	if text == "" {
		return "", nil // as if it hadn't been given
	}
	if strings.IndexByte(text, 0) >= 0 {
		return "", errors.New("a path can't have a NUL byte")
	}
	return mount.Absolute(text, p.Cwd), nil
}

func parsePolicy(_ Place, text string) (any, error) {
	if text == "" {
		return "", nil // as if it hadn't been given
	}
	_, err := disk.ParsePolicy(text)
	return text, err
}

// parseRootHash reads a hash of at least 128 bits.
func parseRootHash(_ Place, text string) (any, error) {
	b, err := hex.DecodeString(text)
	if err != nil {
		return "", fmt.Errorf("%q is no hexadecimal number of whole bytes", text)
	}
	if text != "" && len(b) < 16 {
		return "", errors.New("a root hash has at least 16 bytes")
	}
	return strings.ToLower(text), nil
}

func parseRootHashSig(p Place, text string) (any, error) {
	if data, ok := strings.CutPrefix(text, "base64:"); ok {
		if _, err := base64.StdEncoding.DecodeString(data); err != nil {
			return "", errors.New("what stands behind base64: is not base64")
		}
		return text, nil
	}
	return parseDirectory(p, text)
}

func parseVolatile(_ Place, text string) (any, error) {
	switch text {
	case "", "yes":
		return VolatileYes, nil
	case "state":
		return VolatileState, nil
	case "overlay":
		return VolatileOverlay, nil
	}
	b, err := ParseBool(text)
	switch {
	case err != nil:
		return VolatileNo, oneOf(text, "no", "yes", "state", "overlay")
	case b:
		return VolatileYes, nil
	}
	return VolatileNo, nil
}

func parseProfile(_ Place, text string) (any, error) {
	switch text {
	case "default":
		return "", nil
	case Sandbox.Name:
		return text, nil
	}
	return "", oneOf(text, "default", Sandbox.Name)
}

// weakerVolatile: what the mode in force throws away or protects must stay so.
// Every mode keeps the tree itself from being written to.
func weakerVolatile(now, then Volatile) bool {
	return now != VolatileNo && now != then && then != VolatileYes
}

func setMode(s *Settings, m Mode, on bool) {
	switch {
	case on:
		s.Exec.Mode = m
	case s.Exec.Mode == m:
		s.Exec.Mode = Plain
	}
}

// parseWords splits a line of a file into words: at blanks, but not between
// quotes, which may begin in the middle of a word. Backslashes stay as they
// are.
func parseWords(_ Place, text string) (any, error) {
	words, err := SplitWords(text)
	return words, err
}

// SplitWords is the splitting of Parameters= and Environment=.
func SplitWords(text string) ([]string, error) {
	var words []string
	var word []byte
	var quote byte
	begun := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '"' || c == '\'':
			quote, begun = c, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if begun {
				words = append(words, string(word))
				word, begun = word[:0], false
			}
		default:
			word, begun = append(word, c), true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if begun {
		words = append(words, string(word))
	}
	return words, nil
}

func parseChdir(_ Place, text string) (any, error) {
	if text == "" {
		return "", errors.New("no directory is called that")
	}
	dir, err := mount.ParseTarget(text)
	if err != nil {
		return "", err
	}
	for _, api := range [...]string{"/dev", "/proc", "/sys"} {
		if mount.Below(dir, api) {
			return "", fmt.Errorf("no command may start in %s, or in anything below it", api)
		}
	}
	return dir, nil
}

// parseSetenv gives what Environment= gives: a list of NAME=VALUE. A NAME
// alone stands for taking the variable away.
func parseSetenv(p Place, text string) (any, error) {
	name, _, told := strings.Cut(text, "=")
	if err := checkEnv(text, name); err != nil {
		return nil, err
	}
	if told {
		return []string{text}, nil
	}
	// As for a process, the last of several definitions counts.
	for _, e := range slices.Backward(p.Env) {
		if n, _, ok := strings.Cut(e, "="); ok && n == name {
			return []string{e}, checkEnv(e, name)
		}
	}
	return []string{name}, nil
}

func parseEnvironment(_ Place, text string) (any, error) {
	words, err := SplitWords(text)
	if err != nil {
		return nil, err
	}
	var wrong error
	words = slices.DeleteFunc(words, func(w string) bool {
		name, _, told := strings.Cut(w, "=")
		err := checkEnv(w, name)
		if !told {
			err = fmt.Errorf("%q is not NAME=VALUE", w)
		}
		if wrong == nil {
			wrong = err
		}
		return err != nil
	})
	return words, partly(wrong, len(words) > 0)
}

// partly makes an error about a part of a value one that leaves the rest valid,
// if there is any.
func partly(err error, rest bool) error {
	if err == nil || !rest {
		return err
	}
	return Partial{err}
}

// IsEnv tells whether the name can be that of a variable.
func IsEnv(name string) bool { return checkEnv(name, name) == nil }

func checkEnv(text, name string) error {
	for i, c := range []byte(name) {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9' || i == 0) {
			return fmt.Errorf("%q is not the name of a variable", name)
		}
	}
	switch {
	case name == "":
		return fmt.Errorf("%q has no name of a variable", text)
	case strings.IndexByte(text, 0) >= 0:
		return fmt.Errorf("the value of %s has a NUL byte", name)
	case !utf8.ValidString(text):
		return fmt.Errorf("the value of %s is not UTF-8", name)
	}
	return nil
}

// setEnv adds variables; a later one takes the place of an earlier one.
func setEnv(s *Settings, vars []string) {
	for _, v := range vars {
		name, _, told := strings.Cut(v, "=")
		s.Exec.Env = slices.DeleteFunc(slices.Clone(s.Exec.Env), func(e string) bool {
			n, _, _ := strings.Cut(e, "=")
			return n == name
		})
		if told {
			s.Exec.Env = append(s.Exec.Env, v)
		}
	}
	if len(s.Exec.Env) == 0 {
		s.Exec.Env = nil
	}
}

func parseUser(_ Place, text string) (any, error) {
	if text == "" {
		// Whoever forgot to set a variable doesn't mean root.
		return "", errors.New("empty name of a user")
	}
	for _, c := range text {
		if c < ' ' || c == 0x7f || c == ':' || c == '/' || c == utf8.RuneError {
			return "", fmt.Errorf("%q is not the name of a user", text)
		}
	}
	if digits(text) {
		if n, err := strconv.ParseUint(text, 10, 32); err != nil || n == 1<<32-1 || n == 1<<16-1 {
			return "", fmt.Errorf("%s is not a user id", text)
		}
	}
	return text, nil
}

func root(user string) bool { return user == "" || user == "root" || user == "0" }

func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

func parseHostname(_ Place, text string) (any, error) {
	if text == "" {
		return "", nil
	}
	return text, CheckName(text)
}

// CheckName reports why a text can't be a machine's name, or a host name.
func CheckName(name string) error {
	bad := ""
	switch {
	case name == "":
		bad = "it is empty"
	case len(name) > 64:
		bad = "it is longer than 64 characters"
	case name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, ".."):
		bad = "a dot stands between two other characters"
	case name[0] == '-' || name[len(name)-1] == '-' || strings.Contains(name, ".-") || strings.Contains(name, "-."):
		bad = "a part can't begin or end with a hyphen"
	default:
		for _, c := range name {
			if !nameChar(c) {
				bad = fmt.Sprintf("it has a %q; only letters, digits, hyphens and dots are allowed", c)
				break
			}
		}
	}
	if bad == "" {
		return nil
	}
	return fmt.Errorf("%q is not a machine name: %s", name, bad)
}

func nameChar(c rune) bool {
	return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.'
}

// DeriveName makes a machine name of a file name: what can't stand in a name, or
// not in its place, is left out. The result may be empty, which is no name.
func DeriveName(file string) string {
	b := make([]byte, 0, len(file))
	last := '.' // before the first character, neither a dot nor a hyphen can stand
	for _, c := range file {
		switch {
		case !nameChar(c):
			continue
		case c == '.' && (last == '.' || last == '-'), c == '-' && last == '.':
			continue
		}
		b, last = append(b, byte(c)), c
		if len(b) == 64 {
			break
		}
	}
	return strings.TrimRight(string(b), "-.")
}

func parseUsers(p Place, text string) (any, error) {
	if digits(text) {
		return parseRange(text) // never a boolean, not even 0 and 1
	}
	return parseUsersKey(p, text)
}

// parseBackground reads the numbers of an ANSI sequence that sets a colour.
func parseBackground(_ Place, text string) (any, error) {
	for number := range strings.SplitSeq(text, ";") {
		if text != "" && !digits(number) {
			return "", fmt.Errorf("%q is no colour: numbers with semicolons between them, as in an ANSI sequence", text)
		}
	}
	return text, nil
}

func parseBind(text, cwd string, readOnly bool) (any, error) {
	m, err := mount.ParseBind(text, cwd, readOnly)
	if errors.Is(err, mount.ErrBindOption) {
		return nil, &Refusal{What: err.Error()}
	}
	return m, err
}

// parseUsersKey differs from the flag in 0 and 1, which are booleans in a file.
func parseUsersKey(_ Place, text string) (any, error) {
	switch text {
	case "": // only the flag comes here
		return Users{Mode: userns.Owner}, nil
	case "pick":
		return Users{Mode: userns.Pick}, nil
	case "identity":
		return Users{Mode: userns.Fixed, Range: userns.Range{Size: userns.DefaultSize}}, nil
	case "managed":
		return nil, &Refusal{
			What: "managed users need systemd-nsresourced to give out a range and systemd-mountfsd to mount the tree, which launch doesn't speak with (known: no, yes, pick, identity, START[:SIZE])",
			Hint: "pick chooses a range of users without them",
		}
	}
	if b, err := ParseBool(text); err == nil {
		if b {
			return Users{Mode: userns.Owner}, nil
		}
		return Users{Mode: userns.No}, nil
	}
	if text[0] < '0' || text[0] > '9' {
		return nil, oneOf(text, "no", "yes", "pick", "identity", "START[:SIZE]")
	}
	return parseRange(text)
}

func parseRange(text string) (any, error) {
	start, size, told := strings.Cut(text, ":")
	r := userns.Range{Size: userns.DefaultSize}
	n, err := parseID(start)
	if err != nil {
		return nil, err
	}
	if n == 1<<16-1 || n == 1<<32-1 {
		return nil, fmt.Errorf("%s stands for no user, and can't begin a range", start)
	}
	r.Start = n
	if told {
		if r.Size, err = parseID(size); err != nil {
			return nil, err
		}
	}
	if !r.Valid() {
		return nil, fmt.Errorf("range %s is empty or goes beyond the last user id", r)
	}
	return Users{Mode: userns.Fixed, Range: r}, nil
}

func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || !digits(text) || len(text) > 1 && text[0] == '0' {
		return 0, fmt.Errorf("%q is not a number from 0 to 4294967295", text)
	}
	return uint32(n), nil
}

// setUsers leaves the ownership alone: what is said about it holds for whatever
// users there are, said before or behind.
func setUsers(s *Settings, a Assignment) {
	v := a.Value.(Users)
	s.Users.Mode, s.Users.Range = v.Mode, v.Range
}

func parseU(Place, string) (any, error) {
	return Users{Mode: userns.Pick}, nil
}

func parseOwnership(_ Place, text string) (any, error) {
	switch o := userns.Ownership(text); o {
	case userns.Auto, userns.Off, userns.MapIt, userns.Chown, userns.Foreign:
		return o, nil
	}
	b, err := ParseBool(text)
	switch {
	case err != nil:
		return nil, oneOf(text, "off", "chown", "map", "foreign", "auto")
	case b:
		return userns.Auto, nil
	}
	return userns.Off, nil
}

func parseChown(_ Place, text string) (any, error) {
	b, err := ParseBool(text)
	if err != nil || !b {
		return userns.Off, err
	}
	return userns.Chown, nil
}

func parseConsole(_ Place, text string) (any, error) {
	switch c := Console(text); c {
	case ConsoleInteractive, ConsoleReadOnly, ConsolePassive, ConsolePipe, ConsoleAutopipe:
		return c, nil
	}
	return nil, oneOf(text, "interactive", "read-only", "passive", "pipe", "autopipe")
}

func parseAuto(_ Place, text string) (any, error) {
	if text == "auto" {
		return Automatic, nil
	}
	b, err := ParseBool(text)
	switch {
	case err != nil:
		return nil, oneOf(text, "yes", "no", "auto")
	case b:
		return Yes, nil
	}
	return Never, nil
}

// FileMode says whether a .nspawn file is read, and what it may say.
type FileMode string

// The modes of --settings.
const (
	FileYes      FileMode = ""         // the command line wins
	FileOverride FileMode = "override" // the file wins
	FileTrusted  FileMode = "trusted"  // the command line wins, any file is trusted
	FileNo       FileMode = "no"       // none is read
)

func parseFileMode(_ Place, text string) (any, error) {
	switch FileMode(text) {
	case FileOverride:
		return FileOverride, nil
	case FileTrusted:
		return FileTrusted, nil
	}
	b, err := ParseBool(text)
	switch {
	case err != nil:
		return nil, oneOf(text, "yes", "no", "override", "trusted")
	case b:
		return FileYes, nil
	}
	return FileNo, nil
}

func parsePlan(_ Place, text string) (any, error) {
	switch text {
	case "", "text":
		return "text", nil
	case "json":
		return "json", nil
	}
	return nil, oneOf(text, "text", "json")
}

func addMount(s *Settings, a Assignment) {
	m := a.Value.(mount.Mount)
	m.Origin = a.Origin
	s.Mounts = append(s.Mounts, m)
}

// Nearest gives the word that a misspelt one was probably meant to be; empty
// if none is near.
func Nearest(word string, known ...string) string {
	best, least := "", 1+max(len(word), 3)/3
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k), least); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the characters to change, add, drop or swap with the next
// one; it is at most limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(b) > 63 {
		return limit
	}
	var rows [3][64]int
	before, above, row := rows[0][:len(b)+1], rows[1][:len(b)+1], rows[2][:len(b)+1]
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			d := above[j-1]
			if a[i-1] != b[j-1] {
				d++
			}
			d = min(d, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, before[j-2]+1)
			}
			row[j] = d
		}
		before, above, row = above, row, before
	}
	return min(above[len(b)], limit)
}

// resolvModes and zoneModes are what --resolv-conf and --timezone may be.
var (
	resolvModes = [...]string{
		"auto", "off", "copy-host", "copy-static", "copy-uplink", "copy-stub", "replace-host", "replace-static",
		"replace-uplink", "replace-stub", "bind-host", "bind-static", "bind-uplink", "bind-stub", "delete",
	}
	zoneModes = [...]string{"auto", "off", "copy", "bind", "symlink", "delete"}
)

// parseMode reads a mode that may be a boolean: yes is auto, no is off.
func parseMode(text string, known ...string) (any, error) {
	if on, err := ParseBool(text); err == nil {
		text = "off"
		if on {
			text = "auto"
		}
	}
	if !slices.Contains(known, text) {
		return nil, oneOf(text, known...)
	}
	if text == "auto" {
		text = ""
	}
	return text, nil
}

// journalModes are what --link-journal may be.
var journalModes = [...]string{"no", "auto", "host", "guest", "try-host", "try-guest"}

func parseLinkJournal(_ Place, text string) (any, error) {
	if on, err := ParseBool(text); err == nil {
		text = "no"
		if on {
			text = "auto"
		}
	}
	if !slices.Contains(journalModes[:], text) {
		return nil, oneOf(text, journalModes[:]...)
	}
	if text == "auto" {
		text = ""
	}
	return text, nil
}

// parseForward reads a path.
func parseForward(p Place, text string) (any, error) {
	if text == "" {
		return "", nil
	}
	if strings.IndexByte(text, 0) >= 0 {
		return nil, errors.New("a path can't have a NUL byte")
	}
	return mount.Absolute(text, p.Cwd), nil
}

func parseForwardSize(_ Place, text string) (any, error) {
	n, err := ParseSize(text)
	return strconv.FormatUint(n, 10), err
}

func parseForwardCount(_ Place, text string) (any, error) {
	n, err := parseNumber(text)
	return strconv.FormatUint(n, 10), err
}

func parseResolvConf(_ Place, text string) (any, error) { return parseMode(text, resolvModes[:]...) }

func parseTimezone(_ Place, text string) (any, error) { return parseMode(text, zoneModes[:]...) }
