package settings

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"launch/internal/origin"
)

// Network is what the machine sees of networks.
type Network struct {
	// Private: an own network namespace. If nothing else is said, there is
	// only loopback in it.
	Private bool `json:"private,omitempty"`
	// Path is the network namespace that it has instead of a new one; nothing
	// is made in that.
	Path string `json:"path,omitempty"`
	// Veth: a pair of interfaces joins it with the host's. It implies Private,
	// as do all that follow.
	Veth bool `json:"veth,omitempty"`
	// Bridge is an interface of the host's that the pair is plugged into. It
	// implies Veth.
	Bridge string `json:"bridge,omitempty"`
	// Zone is the name, without vz-, of such a bridge that is made for the
	// machines that name it, and goes with the last of them.
	Zone string `json:"zone,omitempty"`
	// Extra are further pairs.
	Extra []Link `json:"extra,omitempty"`
	// MACVLAN and IPVLAN are interfaces that lie on one of the host's, and
	// Interfaces are the host's own, which move into the machine meanwhile.
	MACVLAN    []Link `json:"macvlan,omitempty"`
	IPVLAN     []Link `json:"ipvlan,omitempty"`
	Interfaces []Link `json:"interfaces,omitempty"`
	// Ports of the host lead to the machine.
	Ports []Port `json:"ports,omitempty"`
}

// Link is a network interface of the machine's, and the one of the host's that
// it has to do with.
type Link struct {
	Host string `json:"host"`
	// Machine is what it is called inside; "" for the usual name.
	Machine string `json:"machine,omitempty"`
	// Text is what was said, and Origin where.
	Text   string        `json:"-"`
	Origin origin.Origin `json:"origin,omitzero"`
}

func (l Link) String() string {
	if l.Machine == "" {
		return l.Host
	}
	return l.Host + ":" + l.Machine
}

// ZonePrefix begins the name of a zone's bridge.
const ZonePrefix = "vz-"

// loopback is an interface of every network, which is there from the start.
const loopback = "lo"

// InterfaceBytes is the longest name of an interface that the kernel takes.
const InterfaceBytes = 15

// Linked reports whether there are interfaces beside loopback that a start
// makes, or moves.
func (n Network) Linked() bool {
	return n.Veth || len(n.Extra)+len(n.MACVLAN)+len(n.IPVLAN)+len(n.Interfaces) > 0
}

// CheckInterface refuses what can't be the name of a network interface.
func CheckInterface(name string) error {
	if why := unfit(name); why != "" {
		return fmt.Errorf("%q can't be the name of a network interface: it %s", name, why)
	}
	return nil
}

// unfit tells why no interface can be called that; "" if one can.
func unfit(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > InterfaceBytes:
		return fmt.Sprintf("is longer than %d characters", InterfaceBytes)
	case name == "." || name == ".." || name == "all" || name == "default":
		return "has a meaning of its own"
	case strings.Trim(name, "0123456789") == "":
		return "is a number"
	case strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' }):
		return "has characters that no interface has in its name"
	}
	return ""
}

// parseInterface reads the name of one interface.
func parseInterface(_ Place, text string) (any, error) {
	return text, CheckInterface(text)
}

// parseZone reads the name of a zone.
func parseZone(_ Place, text string) (any, error) {
	if text == "" {
		return nil, errors.New("a zone needs a name")
	}
	if why := unfit(ZonePrefix + text); why != "" {
		return nil, fmt.Errorf("%q can't be the name of a zone: that of its bridge, %s%s, %s", text, ZonePrefix, text, why)
	}
	return text, nil
}

// parseLink reads HOST[:MACHINE].
func parseLink(text string) (Link, error) {
	l := Link{Host: text}
	if host, inside, ok := strings.Cut(text, ":"); ok {
		l.Host, l.Machine = host, inside
	}
	if strings.Contains(l.Machine, ":") {
		return l, fmt.Errorf("%q has a second colon; it is HOST or HOST:MACHINE", text)
	}
	if err := CheckInterface(l.Host); err != nil {
		return l, err
	}
	if l.Machine == loopback {
		return l, fmt.Errorf("%q is what the machine's loopback interface is called", l.Machine)
	}
	if l.Machine != "" {
		return l, CheckInterface(l.Machine)
	}
	return l, nil
}

// parsePair reads the two ends of a further pair.
func parsePair(_ Place, text string) (any, error) {
	l, err := parseLink(text)
	if l.Host == loopback {
		err = fmt.Errorf("%q is what the host's loopback interface is called", l.Host)
	}
	return []Link{l}, err
}

// parseLinks reads a list of interfaces between blanks; it may be empty. A
// machine without its interfaces would be another one, so that a wrong name is
// an error in a file, too.
func parseLinks(_ Place, text string) (any, error) {
	list := []Link{}
	for word := range strings.FieldsSeq(text) {
		l, err := parseLink(word)
		if err != nil {
			return nil, &Refusal{What: err.Error()}
		}
		list = append(list, l)
	}
	return list, nil
}

// parseNamespace reads the path of a namespace; "" takes it back.
func parseNamespace(p Place, text string) (any, error) {
	if text == "" || path.IsAbs(text) {
		return text, checkText(text)
	}
	return path.Join(p.Cwd, text), checkText(text)
}

// parseNamespaceKey does so in a file, which lies nowhere in particular.
func parseNamespaceKey(p Place, text string) (any, error) {
	if !path.IsAbs(text) {
		return nil, fmt.Errorf("%q is no absolute path", text)
	}
	return parseNamespace(p, text)
}

func checkText(text string) error {
	if strings.ContainsAny(text, "\x00\n") {
		return fmt.Errorf("%q can't be the path of a namespace", text)
	}
	return nil
}

// addLinks adds what was said to one of the lists.
func addLinks(list *[]Link, a Assignment) {
	for _, l := range a.Value.([]Link) {
		l.Text, l.Origin = a.Text, a.Origin
		*list = append(*list, l)
	}
}

// network settles what one part of the settings implies for others, and refuses
// what can't be had together.
func (r *resolver) network() error {
	n := &r.s.Network
	if n.Bridge != "" || n.Zone != "" {
		n.Veth = true // whatever else was said about it
	}
	if n.Linked() {
		n.Private = true // as before
	}
	switch {
	case n.Path != "" && n.Linked():
		what := ""
		for _, row := range [...]struct {
			name string
			on   bool
		}{
			{"network-bridge", n.Bridge != ""}, {"network-zone", n.Zone != ""}, {"network-veth", n.Veth}, {"network-veth-extra", n.Extra != nil},
			{"network-macvlan", n.MACVLAN != nil}, {"network-ipvlan", n.IPVLAN != nil}, {"network-interface", n.Interfaces != nil},
		} {
			if row.on && what == "" {
				what = row.name
			}
		}
		return r.blame(what, "cannot make interfaces in a network namespace that is somebody else's", "leave this option out, or --network-namespace-path=")
	case n.Bridge != "" && n.Zone != "":
		return r.blame("network-zone", "cannot plug one interface into a bridge and into a zone, which is a bridge, too", "leave out --network-bridge= or --network-zone=; --network-veth-extra= makes a second interface")
	}
	return nil
}

// links gives the lists with the options that fill them.
func (n Network) links() []struct {
	Name string
	List []Link
} {
	return []struct {
		Name string
		List []Link
	}{{"network-veth-extra", n.Extra}, {"network-macvlan", n.MACVLAN}, {"network-ipvlan", n.IPVLAN}, {"network-interface", n.Interfaces}}
}

// Equal tells whether two are the same.
func (n Network) Equal(o Network) bool {
	a, b := n.links(), o.links()
	for i := range a {
		if !slices.Equal(a[i].List, b[i].List) {
			return false
		}
	}
	return slices.Equal(n.Ports, o.Ports) && n.Private == o.Private && n.Path == o.Path && n.Veth == o.Veth && n.Bridge == o.Bridge && n.Zone == o.Zone
}
