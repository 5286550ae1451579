package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"launch/internal/origin"
)

// Port is a port of the host that leads to one of the machine's.
type Port struct {
	Protocol string `json:"protocol"` // tcp or udp
	Host     uint16 `json:"host"`
	Machine  uint16 `json:"machine"`
	// Origin is who asked for it.
	Origin origin.Origin `json:"origin,omitzero"`
}

// String writes it as it can be said.
func (p Port) String() string {
	s := strconv.Itoa(int(p.Host))
	if p.Protocol != "tcp" {
		s = p.Protocol + ":" + s
	}
	if p.Machine != p.Host {
		s += ":" + strconv.Itoa(int(p.Machine))
	}
	return s
}

// parsePort reads [PROTOCOL:]HOST[:MACHINE].
func parsePort(_ Place, text string) (any, error) {
	p := Port{Protocol: "tcp"}
	rest := text
	if word, more, ok := strings.Cut(text, ":"); ok {
		switch {
		case word == "tcp", word == "udp":
			p.Protocol, rest = word, more
		case word != "" && (word[0]|0x20 >= 'a' && word[0]|0x20 <= 'z'):
			return nil, fmt.Errorf("unknown protocol %q (known: tcp, udp)", word)
		}
	}
	host, machine, two := strings.Cut(rest, ":")
	if strings.Contains(machine, ":") {
		return nil, errors.New("more than a protocol and two ports")
	}
	var err error
	if p.Host, err = portNumber(host); err != nil {
		return nil, err
	}
	if p.Machine = p.Host; two {
		if p.Machine, err = portNumber(machine); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// portNumber reads one as systemd does: as C writes numbers, but nothing that
// begins with a zero may be octal.
func portNumber(text string) (uint16, error) {
	n, err := parseNumber(text)
	if err != nil || text[0] == ' ' || text[0] == '0' && len(text) > 1 && text[1] >= '0' && text[1] <= '9' || n == 0 || n > 65535 {
		return 0, fmt.Errorf("%q is no port (1 to 65535)", text)
	}
	return uint16(n), nil
}

// samePort finds a port of the host that is given away twice. In a file, the
// second time is left out.
func (r *resolver) samePort() {
	var had []*Entry
	r.eachFile(func(e *Entry) {
		if e.Option.Name != "port" || e.Reset || e.Fate != Applied {
			return
		}
		p := e.Value.(Port)
		for _, old := range had {
			if o := old.Value.(Port); o.Protocol == p.Protocol && o.Host == p.Host {
				e.ignore("an earlier line has the port")
				r.warn(e, fmt.Sprintf("Port= is ignored: an earlier line has the host's %s port %d", p.Protocol, p.Host), "")
				return
			}
		}
		had = append(had, e)
	})
}

// checkPorts refuses what can't be forwarded.
func (r *resolver) checkPorts() error {
	ports := r.s.Network.Ports
	for i, p := range ports {
		for _, o := range ports[:i] {
			if o.Protocol == p.Protocol && o.Host == p.Host {
				return &Error{What: fmt.Sprintf("cannot forward the host's %s port %d twice", p.Protocol, p.Host), Origin: p.Origin, Value: r.portText(p),
					Hint: "leave out one of the two, or give it another port of the host's"}
			}
		}
	}
	switch {
	case len(ports) == 0:
		return nil
	case r.s.Bundle != nil:
		return r.blame("port", "cannot forward ports to a bundle: its network is what its config.json says", "leave out --port=")
	case !r.s.Network.Private:
		return r.blame("port", "cannot forward ports to a machine that has no network of its own", "add --network-veth")
	}
	return nil
}

// portText gives what a port was read from.
func (r *resolver) portText(p Port) string {
	for _, e := range slices.Backward(r.trace) {
		if v, ok := e.Value.(Port); ok && e.Origin == p.Origin && v.Protocol == p.Protocol && v.Host == p.Host && v.Machine == p.Machine {
			return e.Text
		}
	}
	return ""
}
