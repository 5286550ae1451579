package mount

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Effect says what a mount option word changes.
type Effect uint8

// The effects.
const (
	// Attribute: a property of the mount, MOUNT_ATTR_….
	Attribute Effect = iota
	// Superblock: a flag of the file system that the mount shows; the kernel
	// takes the word itself.
	Superblock
	// Binding: the mount shows a directory, and not a file system.
	Binding
	// Propagation: which other mounts hear of mounts below, MS_….
	Propagation
	// Ignored: a word for other readers of a mount table.
	Ignored
)

// Option is one word of mount(8).
type Option struct {
	Word   string
	Effect Effect
	// Set and Clear are MOUNT_ATTR_ flags, or for Propagation the MS_ flag.
	// Access time flags are one field: each word clears all of it.
	Set, Clear uint64
	// Recursive: holds for the mounts below, too.
	Recursive bool
}

// MOUNT_ATTR_RELATIME is zero, and what a mount gets that says nothing.
const atime = unix.MOUNT_ATTR__ATIME

// Options is THE table of mount option words, sorted by word. Whatever isn't
// in it is the file system's own.
var Options = [...]Option{
	{Word: "_netdev", Effect: Ignored},
	{Word: "async", Effect: Superblock},
	{Word: "atime", Clear: atime},
	{Word: "auto", Effect: Ignored},
	{Word: "bind", Effect: Binding},
	{Word: "defaults", Effect: Ignored},
	{Word: "dev", Clear: unix.MOUNT_ATTR_NODEV},
	{Word: "diratime", Clear: unix.MOUNT_ATTR_NODIRATIME},
	{Word: "dirsync", Effect: Superblock},
	{Word: "exec", Clear: unix.MOUNT_ATTR_NOEXEC},
	{Word: "lazytime", Effect: Superblock},
	{Word: "loud", Effect: Ignored},
	{Word: "mand", Effect: Superblock},
	{Word: "noatime", Set: unix.MOUNT_ATTR_NOATIME, Clear: atime},
	{Word: "noauto", Effect: Ignored},
	{Word: "nodev", Set: unix.MOUNT_ATTR_NODEV},
	{Word: "nodiratime", Set: unix.MOUNT_ATTR_NODIRATIME},
	{Word: "noexec", Set: unix.MOUNT_ATTR_NOEXEC},
	{Word: "nofail", Effect: Ignored},
	{Word: "nolazytime", Effect: Superblock},
	{Word: "nomand", Effect: Superblock},
	{Word: "norelatime", Clear: atime},
	{Word: "nostrictatime", Clear: atime},
	{Word: "nosuid", Set: unix.MOUNT_ATTR_NOSUID},
	{Word: "nosymfollow", Set: unix.MOUNT_ATTR_NOSYMFOLLOW},
	{Word: "nouser", Effect: Ignored},
	{Word: "private", Effect: Propagation, Set: unix.MS_PRIVATE},
	{Word: "ratime", Clear: atime, Recursive: true},
	{Word: "rbind", Effect: Binding, Recursive: true},
	{Word: "rdev", Clear: unix.MOUNT_ATTR_NODEV, Recursive: true},
	{Word: "rdiratime", Clear: unix.MOUNT_ATTR_NODIRATIME, Recursive: true},
	{Word: "relatime", Clear: atime},
	{Word: "rexec", Clear: unix.MOUNT_ATTR_NOEXEC, Recursive: true},
	{Word: "rnoatime", Set: unix.MOUNT_ATTR_NOATIME, Clear: atime, Recursive: true},
	{Word: "rnodev", Set: unix.MOUNT_ATTR_NODEV, Recursive: true},
	{Word: "rnodiratime", Set: unix.MOUNT_ATTR_NODIRATIME, Recursive: true},
	{Word: "rnoexec", Set: unix.MOUNT_ATTR_NOEXEC, Recursive: true},
	{Word: "rnorelatime", Clear: atime, Recursive: true},
	{Word: "rnostrictatime", Clear: atime, Recursive: true},
	{Word: "rnosuid", Set: unix.MOUNT_ATTR_NOSUID, Recursive: true},
	{Word: "rnosymfollow", Set: unix.MOUNT_ATTR_NOSYMFOLLOW, Recursive: true},
	{Word: "ro", Set: unix.MOUNT_ATTR_RDONLY},
	{Word: "rprivate", Effect: Propagation, Set: unix.MS_PRIVATE, Recursive: true},
	{Word: "rrelatime", Clear: atime, Recursive: true},
	{Word: "rro", Set: unix.MOUNT_ATTR_RDONLY, Recursive: true},
	{Word: "rrw", Clear: unix.MOUNT_ATTR_RDONLY, Recursive: true},
	{Word: "rshared", Effect: Propagation, Set: unix.MS_SHARED, Recursive: true},
	{Word: "rslave", Effect: Propagation, Set: unix.MS_SLAVE, Recursive: true},
	{Word: "rstrictatime", Set: unix.MOUNT_ATTR_STRICTATIME, Clear: atime, Recursive: true},
	{Word: "rsuid", Clear: unix.MOUNT_ATTR_NOSUID, Recursive: true},
	{Word: "rsymfollow", Clear: unix.MOUNT_ATTR_NOSYMFOLLOW, Recursive: true},
	{Word: "runbindable", Effect: Propagation, Set: unix.MS_UNBINDABLE, Recursive: true},
	{Word: "rw", Clear: unix.MOUNT_ATTR_RDONLY},
	{Word: "shared", Effect: Propagation, Set: unix.MS_SHARED},
	{Word: "silent", Effect: Ignored},
	{Word: "slave", Effect: Propagation, Set: unix.MS_SLAVE},
	{Word: "strictatime", Set: unix.MOUNT_ATTR_STRICTATIME, Clear: atime},
	{Word: "suid", Clear: unix.MOUNT_ATTR_NOSUID},
	{Word: "symfollow", Clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	{Word: "sync", Effect: Superblock},
	{Word: "unbindable", Effect: Propagation, Set: unix.MS_UNBINDABLE},
	{Word: "user", Effect: Ignored},
}

// FindOption looks a word up. A word it doesn't find is the file system's own.
func FindOption(word string) (Option, bool) {
	lo, hi := 0, len(Options)
	for lo < hi {
		mid := (lo + hi) / 2
		if Options[mid].Word < word {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(Options) && Options[lo].Word == word {
		return Options[lo], true
	}
	return Option{}, false
}

// SplitOptions divides a new file system's options into MOUNT_ATTR_ flags and
// what the file system itself is told, comma separated. Of words that
// contradict each other the last one wins. Words about binding and propagation
// are refused: a new file system has neither.
func SplitOptions(options string) (attr uint64, data string, err error) {
	set, _, data, err := ApplyOptions(options)
	return set, data, err
}

// ApplyOptions is SplitOptions for a mount that has flags already: it gives
// those to set and those to clear (`rw`, `exec`).
func ApplyOptions(options string) (set, clear uint64, data string, err error) {
	var own []string
	for rest := options; rest != ""; {
		var word string
		word, rest = cutOption(rest)
		if word == "" {
			continue
		}
		if strings.IndexByte(word, 0) >= 0 {
			return 0, 0, "", fmt.Errorf("mount option %q has a NUL byte", word)
		}
		o, ok := FindOption(word)
		switch {
		case !ok && strings.HasPrefix(word, "x-"), ok && o.Effect == Ignored:
		case !ok, o.Effect == Superblock:
			own = append(own, word)
		case o.Effect != Attribute || o.Recursive:
			return 0, 0, "", fmt.Errorf("mount option %q is for bind mounts only", word)
		default:
			clear = clear&^o.Set | o.Clear
			set = set&^o.Clear | o.Set
		}
	}
	return set, clear, strings.Join(own, ","), nil
}

// cutOption cuts at the first comma outside double quotes, in which security
// labels with commas are written.
func cutOption(s string) (word, rest string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}
