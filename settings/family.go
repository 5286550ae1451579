package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Families are the kinds of sockets that may be made. The zero value is all of
// them.
type Families struct {
	Mode FamilyMode `json:"mode,omitempty"`
	// List is in order, each once.
	List []uint16 `json:"list,omitempty"`
}

// FamilyMode says what Families.List means.
type FamilyMode string

// The modes.
const (
	FamiliesAny    FamilyMode = ""       // no restriction
	FamiliesOnly   FamilyMode = "only"   // those in the list
	FamiliesExcept FamilyMode = "except" // all but those in the list
)

// parseFamilies reads `AF_UNIX AF_INET`, `~AF_PACKET`, or none. An empty list
// is no restriction.
func parseFamilies(_ Place, text string) (any, error) {
	f, wrong, err := readFamilies(text)
	if err == nil {
		err = wrong
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// parseFamiliesKey leaves out the names that nobody knows: what a line allows
// beside them is still all that it allows, if it is nothing at all.
func parseFamiliesKey(_ Place, text string) (any, error) {
	f, wrong, err := readFamilies(text)
	if err == nil && f.Mode == FamiliesExcept && len(f.List) == 0 {
		err = wrong
	}
	if err != nil {
		return nil, err
	}
	return f, partly(wrong, true)
}

// readFamilies gives what the known names say, and what is wrong with the first
// of the others.
func readFamilies(text string) (_ Families, wrong, _ error) {
	list, except := strings.CutPrefix(strings.TrimSpace(text), "~")
	f := Families{Mode: FamiliesOnly}
	switch {
	case text == "":
		return Families{}, nil, nil
	case list == "none" && !except:
		return f, nil, nil
	case except:
		f.Mode = FamiliesExcept
	}
	words, err := SplitWords(list)
	if err != nil {
		return f, nil, err
	}
	if len(words) == 0 {
		return f, nil, errors.New("it names no address family")
	}
	for _, w := range words {
		n, err := ParseFamily(w)
		switch {
		case err == nil:
			f.List = append(f.List, n)
		case wrong == nil:
			wrong = err
		}
	}
	slices.Sort(f.List)
	f.List = slices.Compact(f.List)
	return f, wrong, nil
}

// add gives what one value after the other means: the first says whether the
// list is of those allowed or refused; a later one of the same kind adds to
// it, one of the other kind takes away.
func (f Families) add(more Families) Families {
	switch {
	case more.Mode == FamiliesAny || f.Mode == FamiliesAny:
		return more
	case more.Mode == FamiliesOnly && len(more.List) == 0:
		return more // none
	}
	list := slices.Clone(f.List)
	if more.Mode == f.Mode {
		list = append(list, more.List...)
	} else {
		list = slices.DeleteFunc(list, func(n uint16) bool { return slices.Contains(more.List, n) })
	}
	slices.Sort(list)
	return Families{Mode: f.Mode, List: slices.Compact(list)}
}

// String gives the list in words.
func (f Families) String() string {
	var names []string
	for _, n := range f.List {
		names = append(names, FamilyName(n))
	}
	switch {
	case f.Mode == FamiliesAny:
		return "any"
	case f.Mode == FamiliesExcept:
		return "any but " + strings.Join(names, " ")
	case len(names) == 0:
		return "none"
	}
	return strings.Join(names, " ")
}

// The kernel's address families that sockets can be made of, by number.
var familyNames = [...]string{
	unix.AF_UNIX: "UNIX", unix.AF_INET: "INET", unix.AF_AX25: "AX25", unix.AF_IPX: "IPX", unix.AF_APPLETALK: "APPLETALK",
	unix.AF_NETROM: "NETROM", unix.AF_BRIDGE: "BRIDGE", unix.AF_ATMPVC: "ATMPVC", unix.AF_X25: "X25", unix.AF_INET6: "INET6",
	unix.AF_ROSE: "ROSE", unix.AF_DECnet: "DECnet", unix.AF_NETBEUI: "NETBEUI", unix.AF_SECURITY: "SECURITY", unix.AF_KEY: "KEY",
	unix.AF_NETLINK: "NETLINK", unix.AF_PACKET: "PACKET", unix.AF_ASH: "ASH", unix.AF_ECONET: "ECONET", unix.AF_ATMSVC: "ATMSVC",
	unix.AF_RDS: "RDS", unix.AF_SNA: "SNA", unix.AF_IRDA: "IRDA", unix.AF_PPPOX: "PPPOX", unix.AF_WANPIPE: "WANPIPE",
	unix.AF_LLC: "LLC", unix.AF_IB: "IB", unix.AF_MPLS: "MPLS", unix.AF_CAN: "CAN", unix.AF_TIPC: "TIPC",
	unix.AF_BLUETOOTH: "BLUETOOTH", unix.AF_IUCV: "IUCV", unix.AF_RXRPC: "RXRPC", unix.AF_ISDN: "ISDN", unix.AF_PHONET: "PHONET",
	unix.AF_IEEE802154: "IEEE802154", unix.AF_CAIF: "CAIF", unix.AF_ALG: "ALG", unix.AF_NFC: "NFC", unix.AF_VSOCK: "VSOCK",
	unix.AF_KCM: "KCM", unix.AF_QIPCRTR: "QIPCRTR", unix.AF_SMC: "SMC", unix.AF_XDP: "XDP", unix.AF_MCTP: "MCTP",
}

// ParseFamily gives the number of an address family, however it is capitalized.
func ParseFamily(name string) (uint16, error) {
	for n, known := range familyNames {
		if known != "" && strings.EqualFold(name, "AF_"+known) || n == unix.AF_UNIX && strings.EqualFold(name, "AF_LOCAL") {
			return uint16(n), nil
		}
	}
	var names []string
	for _, known := range familyNames {
		if known != "" {
			names = append(names, "AF_"+known)
			if strings.EqualFold(known, name) {
				return 0, fmt.Errorf("unknown address family %q, did you mean AF_%s?", name, known)
			}
		}
	}
	if near := Nearest(name, names...); near != "" {
		return 0, fmt.Errorf("unknown address family %q, did you mean %s?", name, near)
	}
	return 0, fmt.Errorf("unknown address family %q", name)
}

// FamilyName gives AF_INET for 2.
func FamilyName(n uint16) string {
	if int(n) < len(familyNames) && familyNames[n] != "" {
		return "AF_" + familyNames[n]
	}
	return "AF_" + strconv.Itoa(int(n))
}
