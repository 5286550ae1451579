package disk

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Use is what a partition is for.
type Use string

// The uses, as an image policy calls them. Generic is a Linux partition that
// doesn't say more.
const (
	Root       Use = "root"
	Usr        Use = "usr"
	Home       Use = "home"
	Srv        Use = "srv"
	Var        Use = "var"
	Tmp        Use = "tmp"
	ESP        Use = "esp"
	XBootldr   Use = "xbootldr"
	SwapSpace  Use = "swap"
	RootVerity Use = "root-verity"
	UsrVerity  Use = "usr-verity"
	RootSig    Use = "root-verity-sig"
	UsrSig     Use = "usr-verity-sig"
	Generic    Use = "linux-generic"
)

// Uses are those that a policy may speak of, in the order in which they are
// mounted, as far as they are.
var Uses = [...]Use{Root, Usr, Home, Srv, Var, Tmp, XBootldr, ESP, SwapSpace, RootVerity, RootSig, UsrVerity, UsrSig}

// Target is where the file system goes.
func (u Use) Target() string {
	switch u {
	case Root:
		return "/"
	case Tmp:
		return "/var/tmp"
	case XBootldr:
		return "/boot"
	case ESP:
		return "/efi"
	}
	return "/" + string(u)
}

// kinds are the types that have a use. The architecture is Go's name; what has
// one is for machines of that kind.
var kinds = [...]struct {
	guid string
	use  Use
	arch string
}{
	{"4f68bce3-e8cd-4db1-96e7-fbcaf984b709", Root, "amd64"},
	{"8484680c-9521-48c6-9c11-b0720656f69e", Usr, "amd64"},
	{"2c7357ed-ebd2-46d9-aec1-23d437ec2bf5", RootVerity, "amd64"},
	{"77ff5f63-e7b6-4633-acf4-1565b864c0e6", UsrVerity, "amd64"},
	{"41092b05-9fc8-4523-994f-2def0408b176", RootSig, "amd64"},
	{"e7bb33fb-06cf-4e81-8273-e543b413e2e2", UsrSig, "amd64"},
	{"44479540-f297-41b2-9af7-d131d5f0458a", Root, "386"},
	{"75250d76-8cc6-458e-bd66-bd47cc81a812", Usr, "386"},
	{"d13c5d3b-b5d1-422a-b29f-9454fdc89d76", RootVerity, "386"},
	{"8f461b0d-14ee-4e81-9aa9-049b6fb97abd", UsrVerity, "386"},
	{"5996fc05-109c-48de-808b-23fa0830b676", RootSig, "386"},
	{"974a71c0-de41-43c3-be5d-5c5ccd1ad2c0", UsrSig, "386"},
	{"b921b045-1df0-41c3-af44-4c6f280d3fae", Root, "arm64"},
	{"b0e01050-ee5f-4390-949a-9101b17104e9", Usr, "arm64"},
	{"df3300ce-d69f-4c92-978c-9bfb0f38d820", RootVerity, "arm64"},
	{"6e11a4e7-fbca-4ded-b9e9-e1a512bb664e", UsrVerity, "arm64"},
	{"6db69de6-29f4-4758-a7a5-962190f00ce3", RootSig, "arm64"},
	{"c23ce4ff-44bd-4b00-b2d4-b41b3419e02a", UsrSig, "arm64"},
	{"69dad710-2ce4-4e3c-b16c-21a1d49abed3", Root, "arm"},
	{"7d0359a3-02b3-4f0a-865c-654403e70625", Usr, "arm"},
	{"7386cdf2-203c-47a9-a498-f2ecce45a2d6", RootVerity, "arm"},
	{"c215d751-7bcd-4649-be90-6627490a4c05", UsrVerity, "arm"},
	{"42b0455f-eb11-491d-98d3-56145ba9d037", RootSig, "arm"},
	{"d7ff812f-37d1-4902-a810-d76ba57b975a", UsrSig, "arm"},
	{"72ec70a6-cf74-40e6-bd49-4bda08e8f224", Root, "riscv64"},
	{"beaec34b-8442-439b-a40b-984381ed097d", Usr, "riscv64"},
	{"b6ed5582-440b-4209-b8da-5ff7c419ea3d", RootVerity, "riscv64"},
	{"8f1056be-9b05-47c4-81d6-be53128e5b54", UsrVerity, "riscv64"},
	{"933ac7e1-2eb4-4f13-b844-0e14e2aef915", Home, ""},
	{"3b8f8425-20e0-4f3b-907f-1a25a76f98e8", Srv, ""},
	{"4d21b016-b534-45c2-a9fb-5c16e091fd2d", Var, ""},
	{"7ec6f557-3bc5-4aca-b293-16ef5df639d1", Tmp, ""},
	{"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", ESP, ""},
	{"bc13c2ff-59e6-4262-a352-b275fd6f7172", XBootldr, ""},
	{"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", SwapSpace, ""},
	{"0fc63daf-8483-4772-8e79-3d69d8477de4", Generic, ""},
}

// Volume is a partition that is mounted.
type Volume struct {
	Use    Use    `json:"use"`
	Number int    `json:"number,omitempty"`
	Start  int64  `json:"start"`
	Size   int64  `json:"size"`
	FS     FS     `json:"fs"`
	Label  string `json:"label,omitempty"`
	// ReadOnly: nothing can be written there, or is to be.
	ReadOnly bool `json:"read_only,omitempty"`
}

// Errors about the choice.
var (
	ErrNoRoot = errors.New("it has no partition for the root of a machine")
	ErrRoots  = errors.New("it has several partitions that could be the root, and says of none that it is")
)

// VerityError is a volume that is to be checked against a hash, which takes
// the kernel's device mapper.
type VerityError struct{ Use Use }

func (e *VerityError) Error() string {
	return fmt.Sprintf("its %s is protected by Verity, which launch can't check", e.Use)
}

// LockedError is a volume that is encrypted.
type LockedError struct{ Use Use }

func (e *LockedError) Error() string {
	return fmt.Sprintf("its %s is encrypted, which launch can't open", e.Use)
}

// PolicyError is an image that is not as its policy wants it.
type PolicyError struct {
	Use  Use
	What string
}

func (e *PolicyError) Error() string {
	return fmt.Sprintf("the image policy forbids it: its %s is %s", e.Use, e.What)
}

// candidate is the best partition for a use so far.
type candidate struct {
	part Partition
	arch string
	rank int
	ok   bool
}

// Choose gives the volumes of a machine of that architecture (Go's name), the
// root first. Without a root there is at least a usr. checked: beside the image
// lies what root and usr are to be checked against.
func (im *Image) Choose(arch string, policy Policy, checked bool) ([]Volume, error) {
	var best [len(Uses)]candidate
	var generic []Partition
	for _, p := range im.Parts {
		use, of := im.use(p)
		if use == "" || p.NoAuto && use != ESP {
			continue
		}
		if use == Generic {
			generic = append(generic, p)
			continue
		}
		i := slices.Index(Uses[:], use)
		if c := (candidate{p, of, rank(of, arch), true}); better(c, best[i], use) {
			best[i] = c
		}
	}
	root, usr := &best[0], &best[1]
	if !root.ok && !usr.ok {
		switch len(generic) {
		case 0:
			return nil, ErrNoRoot
		case 1:
			*root = candidate{part: generic[0], ok: true}
		default:
			return nil, ErrRoots
		}
	}
	if root.ok && usr.ok && usr.arch != root.arch && root.arch != "" {
		*usr = candidate{} // of another system
	}
	var list []Volume
	for i, use := range Uses[:] {
		c := best[i]
		verity, sealed := im.sibling(&best, use, c.arch)
		v, err := policy.judge(use, c, verity || checked && (use == Root || use == Usr), sealed)
		if err != nil {
			return nil, err
		}
		if v {
			list = append(list, Volume{
				Use: use, Number: c.part.Number, Start: c.part.Start, Size: c.part.Size, FS: c.part.FS, Label: c.part.Label,
				ReadOnly: c.part.ReadOnly || c.part.FS == "squashfs" || c.part.FS == "erofs",
			})
		}
	}
	if len(list) == 0 || list[0].Use != Root && list[0].Use != Usr {
		return nil, ErrNoRoot
	}
	for _, v := range list {
		if !slices.Contains(mountable[:], v.FS) {
			if v.FS == NoFS {
				return nil, fmt.Errorf("its %s holds no file system that is known here", v.Use)
			}
			return nil, fmt.Errorf("its %s is %s, and no file system that a machine can be on", v.Use, v.FS)
		}
	}
	return list, nil
}

// use tells what a partition is for, and for which architecture.
func (im *Image) use(p Partition) (use Use, arch string) {
	switch {
	case im.Table == "":
		return Generic, ""
	case im.Table == "dos" && p.Type == "0xea":
		return XBootldr, ""
	case im.Table == "dos" && p.Type == "0x83" && p.Boot:
		return Generic, ""
	case im.Table == "gpt":
		for _, k := range kinds {
			if k.guid == p.Type {
				return k.use, k.arch
			}
		}
	}
	return "", ""
}

// rank says how well a system of one architecture runs on another.
func rank(of, on string) int {
	switch {
	case of == on:
		return 2
	case on == "amd64" && of == "386", on == "arm64" && of == "arm":
		return 1
	}
	return 0
}

// better tells whether a partition takes the place of the one before: of those
// for the root or usr the newest by label, else the first one.
func better(c, before candidate, use Use) bool {
	switch {
	case !before.ok:
		return true
	case c.rank != before.rank:
		return c.rank > before.rank
	case use == Root || use == Usr || strings.Contains(string(use), "verity"):
		return Newer(c.part.Label, before.part.Label)
	}
	return false
}

// sibling tells whether there is a partition by which that one is checked, and
// a signature.
func (im *Image) sibling(best *[len(Uses)]candidate, use Use, arch string) (verity, signed bool) {
	find := func(u Use) bool {
		c := best[slices.Index(Uses[:], u)]
		return c.ok && c.arch == arch
	}
	switch use {
	case Root:
		return find(RootVerity), find(RootSig)
	case Usr:
		return find(UsrVerity), find(UsrSig)
	}
	return false, false
}
