package settings

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"launch/internal/disk"
)

// Versions says which names in a directory are versions of one thing, by the
// rules of systemd.v(7): NAME_VERSION[_ARCHITECTURE][+LEFT[-DONE]]SUFFIX.
type Versions struct {
	// Dir is the directory; absolute.
	Dir string
	// Name is what the names begin with, before the underscore; never empty.
	// Suffix is what they end with.
	Name, Suffix string
	// Image: they are disk images, and not directories.
	Image bool
	// Named: the path said what the names look like (NAME___SUFFIX), so that
	// the directory itself can't be meant.
	Named bool
}

// VersionsOf tells whether a path stands for the versions in a directory, and
// which: DIR/NAME.v for trees and DIR/NAME.raw.v for disk images, or
// DIR.v/NAME___SUFFIX for both.
func VersionsOf(at string, image bool) (v Versions, ok bool) {
	v.Image = image
	if image {
		v.Suffix = imageSuffix
	}
	dir, base := path.Dir(at), path.Base(at)
	if name, ok := strings.CutSuffix(base, versionsEnd); ok {
		v.Dir, v.Name = at, strings.TrimSuffix(name, v.Suffix)
		return v, v.Name != ""
	}
	i := strings.LastIndex(base, anyVersion)
	if i <= 0 || !strings.HasSuffix(dir, versionsEnd) {
		return v, false
	}
	v.Dir, v.Name, v.Suffix, v.Named = dir, base[:i], base[i+len(anyVersion):], true
	return v, true
}

const (
	versionsEnd = ".v"   // of a directory of versions
	anyVersion  = "___"  // stands for the part of a name that differs
	imageSuffix = ".raw" // of a disk image
)

// Version is a name of the directory, taken apart.
type Version struct {
	File, Version string
	// Arch is the word behind the version; "" if there is none.
	Arch string
	// Left is how often it may still be tried, Done how often it was; untold if
	// its name doesn't say.
	Left, Done uint32
}

// untold is a count of tries that no name has: it is the largest number, and
// who writes that means the same.
const untold = 1<<32 - 1

// Parse takes a name of the directory apart; false if it is no version.
func (v Versions) Parse(file string) (Version, bool) {
	out := Version{File: file, Left: untold, Done: untold}
	rest, ok := strings.CutPrefix(file, v.Name+"_")
	if ok {
		rest, ok = strings.CutSuffix(rest, v.Suffix)
	}
	if !ok || strings.IndexFunc(file, func(c rune) bool { return c < ' ' || c == 0x7f }) >= 0 {
		return out, false
	}
	if i := strings.LastIndexByte(rest, '+'); i >= 0 {
		left, done, told := strings.Cut(rest[i+1:], "-")
		n, err := strconv.ParseUint(left, 10, 32)
		m := uint64(0)
		if told && err == nil {
			m, err = strconv.ParseUint(done, 10, 32)
		}
		if err == nil {
			out.Left, out.Done, rest = uint32(n), uint32(m), rest[:i]
		}
	}
	if i := strings.LastIndexByte(rest, '_'); i >= 0 {
		out.Arch, rest = rest[i+1:], rest[:i]
	}
	out.Version = rest
	other := strings.IndexFunc(rest, func(c rune) bool {
		return (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && !strings.ContainsRune(".~^-", c)
	})
	return out, rest != "" && other < 0
}

// processors are the words that are architectures to systemd. Any other word says
// nothing about what a version runs on.
const processors = " alpha arc arc-be arm arm-be arm64 arm64-be cris ia64 loongarch64 m68k mips mips-le mips64 mips64-le nios2 parisc parisc64" +
	" ppc ppc-le ppc64 ppc64-le riscv32 riscv64 s390 s390x sh sh64 sparc sparc64 tilegx x86 x86-64 "

// runs tells how well a version runs on a processor, one of Go's: 2 is its own
// kind, 1 one that it knows as well, 0 is a version that doesn't say; -1 can't be run.
func (n Version) runs(goarch string) int {
	own, known := "x86-64", "x86"
	if goarch == "arm64" {
		own, known = "arm64", "arm"
	}
	switch {
	case n.Arch == own:
		return 2
	case n.Arch == known:
		return 1
	case n.Arch != "" && !strings.Contains(n.Arch, " ") && strings.Contains(processors, " "+n.Arch+" "):
		return -1
	}
	return 0
}

// order tells whether a is to be preferred to b (more than 0), both of which run
// on the processor.
func order(a, b Version, goarch string) int {
	is := func(x, y bool) int {
		switch {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	}
	over := func(n Version) bool { return n.Left == 0 }
	list := [...]int{
		is(over(b), over(a)),
		is(disk.Newer(a.Version, b.Version), disk.Newer(b.Version, a.Version)),
		a.runs(goarch) - b.runs(goarch),
		is(a.Left > b.Left, a.Left < b.Left),
		is(a.Done < b.Done, a.Done > b.Done),
		strings.Compare(a.File, b.File),
	}
	for _, c := range list {
		if c != 0 {
			return c
		}
	}
	return 0
}

// Kind is what a name of a directory of versions leads to.
type Kind string

// The kinds, as said in sentences.
const (
	KindDir   Kind = "a directory"
	KindFile  Kind = "a file"
	KindBlock Kind = "a block device"
	KindOther Kind = "neither a file nor a directory"
	// KindNowhere is a link that leads to nothing.
	KindNowhere Kind = "a link that leads nowhere"
)

// Named is a name in a directory of versions.
type Named struct {
	Name string
	Kind Kind
}

// fits tells whether a version can be such a thing. Of a link that leads nowhere
// nobody knows; what it stands for was meant to be there.
func (v Versions) fits(k Kind) bool {
	switch k {
	case KindDir:
		return !v.Image
	case KindFile, KindBlock:
		return v.Image
	}
	return k == KindNowhere
}

// Listing is what there is in a directory of versions.
type Listing struct {
	// Names are those that Parse knows, in any order.
	Names []Named
	// Missing: there is no such directory. Tree: it looks like a root directory
	// itself, as it has a /usr.
	Missing, Tree bool
}

// Choose takes the best version for a processor, one of Go's (GOARCH). Why
// says what it was preferred to, or why there is none; found.File is "" then.
func (v Versions) Choose(list []Named, goarch string) (found Version, why string, err error) {
	type passed struct {
		n   Version
		why string
	}
	var good []Version
	var bad []passed
	kind := map[string]Kind{}
	for _, n := range list {
		p, ok := v.Parse(n.Name)
		switch {
		case !ok:
		case !v.fits(n.Kind):
			bad = append(bad, passed{p, "is " + string(n.Kind)})
		case p.runs(goarch) < 0:
			bad = append(bad, passed{p, "is for " + p.Arch})
		default:
			kind[n.Name] = n.Kind
			good = append(good, p)
		}
	}
	slices.SortFunc(good, func(a, b Version) int { return order(b, a, goarch) })
	if len(good) > 0 {
		found = good[0]
		for _, p := range good[1:] {
			if p.Left == 0 && found.Left != 0 && disk.Newer(p.Version, found.Version) {
				bad = append(bad, passed{p, "has no tries left"})
			}
		}
		// What is older would not have been taken anyway.
		bad = slices.DeleteFunc(bad, func(p passed) bool { return disk.Newer(found.Version, p.n.Version) })
	}
	slices.SortFunc(bad, func(a, b passed) int { return order(b.n, a.n, goarch) })
	const most = 3
	var over []string
	for i, p := range bad {
		if i == most {
			over = append(over, fmt.Sprintf("%d more don't fit", len(bad)-most))
			break
		}
		over = append(over, p.n.File+" "+p.why)
	}
	switch {
	case len(good) == 0:
		return found, strings.Join(over, ", "), nil
	case kind[found.File] == KindNowhere:
		return Version{}, "", errors.New(path.Join(v.Dir, found.File) + " is " + string(KindNowhere))
	}
	why = found.File + " is the newest of " + strconv.Itoa(len(good))
	if len(good) == 1 {
		why = found.File + " is the only version"
	}
	if found.Left == 0 {
		why += ", though it has no tries left"
	}
	for _, o := range over {
		why += "; " + o
	}
	return found, why, nil
}

// String says what the names look like.
func (v Versions) String() string { return v.Name + "_VERSION" + v.Suffix }

// Picked is a version that was chosen.
type Picked struct {
	// Asked is the path that stands for all versions, Path that of the chosen
	// one, and Why says how it was chosen.
	Asked string `json:"asked"`
	Path  string `json:"path"`
	Why   string `json:"why"`
}

// pick gives what a path stands for: itself, or a version. told is the
// assignment that names it.
func (around Surroundings) pick(at string, image bool, told Assignment) (Picked, error) {
	p := Picked{Path: at}
	v, ok := VersionsOf(at, image)
	if !ok || around.Versions == nil {
		return p, nil
	}
	kind := "directory"
	if image {
		kind = "disk image"
	}
	list, err := around.Versions(v)
	if err != nil {
		return p, &Error{What: fmt.Sprintf("cannot choose a version in %s: %v", v.Dir, err), Origin: told.Origin, Value: told.Text,
			Hint: "give the " + kind + " itself"}
	}
	if list.Missing {
		return p, nil // whoever opens it says so
	}
	picked, err := v.Pick(list.Names, around.Processor)
	if err != nil {
		return p, &Error{What: "cannot take the newest version: " + err.Error(), Origin: told.Origin, Value: told.Text,
			Hint: "repair or remove it, or give the " + kind + " itself"}
	}
	switch {
	case picked.Path != "":
		picked.Asked = at
		return picked, nil
	case list.Tree && !image && !v.Named:
		return p, nil // it is a tree, whatever it is called
	}
	return p, &Error{What: "cannot find a version: " + picked.Why, Origin: told.Origin, Value: told.Text, Hint: "see systemd.v(7) for the names, or give the " + kind + " itself"}
}

// Pick is Choose with whole paths. Path is empty if nothing fits.
func (v Versions) Pick(list []Named, goarch string) (Picked, error) {
	found, why, err := v.Choose(list, goarch)
	switch {
	case err != nil:
		return Picked{}, err
	case found.File != "":
		return Picked{Asked: v.Dir, Path: path.Join(v.Dir, found.File), Why: why}, nil
	}
	kind := "directory"
	if v.Image {
		kind = "disk image"
	}
	missed := fmt.Sprintf("%s has no %s called %s", v.Dir, kind, v)
	if why != "" {
		missed += " that can be used: " + why
	}
	return Picked{Why: missed}, nil
}

// Told gives what was asked for where a path is that of a chosen version.
func (i Image) Told(at string) string {
	for _, p := range [...]Picked{i.Version, i.TemplateVersion} {
		if p.Path == at && p.Asked != "" {
			return p.Asked
		}
	}
	return at
}
