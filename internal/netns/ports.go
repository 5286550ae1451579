package netns

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Port is one that is forwarded.
type Port struct {
	Protocol string // tcp or udp
	Host     uint16 // where others connect to
	Machine  uint16 // where it leads
}

func (p Port) number() byte {
	if p.Protocol == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// claim is the table whose being there says that a port is taken.
func (p Port) claim() string { return "launch-" + p.Protocol + "/" + strconv.Itoa(int(p.Host)) }

// TakenError says that somebody else forwards the port already.
type TakenError struct {
	Port Port
	// By is the machine, "" if that can't be told. Peer: systemd-nspawn has it.
	By   string
	Peer bool
}

func (e *TakenError) Error() string {
	by := "another machine"
	switch {
	case e.Peer:
		by = "systemd-nspawn"
	case e.By != "":
		by = "machine " + e.By
	}
	return fmt.Sprintf("%s forwards the %s port %d already", by, e.Port.Protocol, e.Port.Host)
}

// Ports forwards ports of a namespace. Its tables have an owner, the socket, and
// the kernel removes them with that: there is nothing to undo.
type Ports struct {
	socket int
	table  string
	list   []Port
	made   bool // the tables are there
	six    bool // for IPv6, too
	seq    uint32
	to     [2]string // where they lead now, IPv4 and IPv6; "": nowhere
	unsure bool      // or elsewhere, since a change has failed
}

// Forward takes ports of the thread's namespace for a machine. They lead nowhere
// until To is called.
func Forward(machine string, list []Port) (*Ports, error) {
	n, err := sys.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open a socket to nftables: %w", err)
	}
	p := &Ports{socket: n, table: "launch/" + machine, list: list}
	if err := p.take(machine); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Free gives the ports back. To close the socket would do it, too, but waits until
// no processor looks at the rules any more: that takes 10 ms and longer, and goes on
// in the background now.
func (p *Ports) Free() {
	if p == nil || !p.made {
		return
	}
	p.made = false
	b := p.begin()
	gone := func(name string, family byte) {
		b.add(unix.NFT_MSG_DELTABLE, 0, family, attribute(nil, unix.NFTA_TABLE_NAME, text(name)))
	}
	for _, port := range p.list {
		gone(port.claim(), unix.AF_INET)
	}
	gone(p.table, unix.AF_INET)
	if p.six {
		gone(p.table, unix.AF_INET6)
	}
	_, _ = p.send(b) // what is left goes with the socket
}

// Close ends it.
func (p *Ports) Close() {
	if p != nil && p.socket >= 0 {
		sys.Close(p.socket)
		p.socket = -1
	}
}

// take claims the ports and makes the tables that forward them.
func (p *Ports) take(machine string) error {
	for _, port := range p.list {
		taken, err := p.peerHas(port)
		if err != nil {
			return fmt.Errorf("look at the ports of systemd-nspawn: %w", err)
		}
		if taken {
			return &TakenError{Port: port, Peer: true}
		}
	}
	b := p.begin()
	// Two of one name can't be, and who is second is told.
	for _, port := range p.list {
		b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.AF_INET, table(port.claim(), machine))
	}
	b.tables(p.table, machine, unix.AF_INET)
	if at, err := p.send(b); err != nil {
		// Another's table is not ours to make; who may make none at all hears so at
		// the beginning.
		if (err == unix.EEXIST || err == unix.EPERM) && at >= 0 && at < len(p.list) {
			return &TakenError{Port: p.list[at], By: p.claimant(p.list[at])}
		}
		return fmt.Errorf("make the rules that forward ports: %w", err)
	}
	p.made = true
	b = p.begin()
	b.tables(p.table, machine, unix.AF_INET6)
	switch _, err := p.send(b); err {
	case nil:
		p.six = true
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT: // a kernel without IPv6
	default:
		return fmt.Errorf("make the rules that forward ports of IPv6: %w", err)
	}
	return nil
}

// To lets the ports lead to an address of each family, of 4 and 16 bytes, or
// nowhere. Connections that are there stay as they are.
func (p *Ports) To(v4, v6 string) error {
	if !p.six {
		v6 = ""
	}
	to := [2]string{v4, v6}
	if to == p.to && !p.unsure {
		return nil
	}
	b := p.begin()
	for i, family := range families {
		if to[i] == p.to[i] && !p.unsure || family == unix.AF_INET6 && !p.six {
			continue
		}
		b.elements(unix.NFT_MSG_DELSETELEM, 0, family, p.table, nil) // all of them
		if to[i] == "" {
			continue
		}
		// An attribute has at most 64 kB.
		for some := range slices.Chunk(p.list, 1000) {
			var all []byte
			for _, port := range some {
				all = append(all, element(port, to[i])...)
			}
			b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, family, p.table, all)
		}
	}
	_, err := p.send(b)
	if p.unsure = err != nil; p.unsure {
		return fmt.Errorf("change where ports lead: %w", err)
	}
	p.to = to
	return nil
}

var families = [2]byte{unix.AF_INET, unix.AF_INET6}

// What systemd-nspawn has for its machines.
const (
	peerTable = "io.systemd.nat"
	peerMap   = "map_port_ipport"
)

// peerHas tells whether systemd-nspawn forwards the port.
func (p *Ports) peerHas(port Port) (bool, error) {
	for _, family := range families {
		body := attribute(nil, unix.NFTA_SET_ELEM_LIST_TABLE, text(peerTable))
		body = attribute(body, unix.NFTA_SET_ELEM_LIST_SET, text(peerMap))
		body = attribute(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, element(port, ""))
		_, err := p.ask(unix.NFT_MSG_GETSETELEM, family, body)
		switch err {
		case nil:
			return true, nil
		case unix.ENOENT, unix.EOPNOTSUPP, unix.EAFNOSUPPORT:
		default:
			return false, err
		}
	}
	return false, nil
}

// claimant is the machine that has the port, as far as that is to be read.
func (p *Ports) claimant(port Port) string {
	body, err := p.ask(unix.NFT_MSG_GETTABLE, unix.AF_INET, attribute(nil, unix.NFTA_TABLE_NAME, text(port.claim())))
	if err != nil {
		return ""
	}
	return comment(body)
}

// comment reads what nft(8) shows as a table's comment.
func comment(body []byte) string {
	if len(body) < sizeofNfgenmsg {
		return ""
	}
	for kind, value := range attributes(body[sizeofNfgenmsg:]) {
		if kind != tableUserdata {
			continue
		}
		// Type, length, value, one after the other.
		for len(value) >= 2 && len(value) >= 2+int(value[1]) {
			if value[0] == userdataComment {
				s, _, _ := strings.Cut(string(value[2:2+int(value[1])]), "\x00")
				for i := range len(s) {
					if s[i] < ' ' || s[i] > '~' {
						return "" // not ours
					}
				}
				return s
			}
			value = value[2+int(value[1]):]
		}
	}
	return ""
}

const (
	sizeofNfgenmsg  = 4
	userdataComment = 0
	tableUserdata   = 6 // NFTA_TABLE_USERDATA
	tableOwner      = 2 // NFT_TABLE_F_OWNER, since Linux 5.12
)

// batch is what the kernel does as a whole, or not at all.
type batch struct {
	b     []byte
	first uint32 // the number of its beginning
	seq   uint32
}

func (p *Ports) begin() *batch {
	b := &batch{first: p.seq + 1, seq: p.seq}
	b.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	return b
}

func (b *batch) message(kind, flags uint16, family byte, id uint16, body []byte) {
	b.seq++
	b.b = binary.NativeEndian.AppendUint32(b.b, uint32(unix.SizeofNlMsghdr+sizeofNfgenmsg+len(body)))
	b.b = binary.NativeEndian.AppendUint16(b.b, kind)
	b.b = binary.NativeEndian.AppendUint16(b.b, flags|unix.NLM_F_REQUEST)
	b.b = binary.NativeEndian.AppendUint32(b.b, b.seq)
	b.b = append(b.b, 0, 0, 0, 0, family, 0)
	b.b = binary.BigEndian.AppendUint16(b.b, id)
	b.b = append(b.b, body...)
}

// add appends a message of nftables.
func (b *batch) add(kind, flags uint16, family byte, body []byte) {
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, family, 0, body)
}

// send has the batch done. Beside an error, at counts the message that it is about,
// from 0; it is negative if that is none of them.
func (p *Ports) send(b *batch) (at int, err error) {
	// The last message asks for an answer: without an error, it is the only one.
	b.message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	last := b.seq - 1
	binary.NativeEndian.PutUint16(b.b[b.at(last)+6:], b.flags(last)|unix.NLM_F_ACK)
	p.seq = b.seq
	if _, err := sys.Write(p.socket, b.b); err != nil {
		return -1, err
	}
	buf, done, lost := make([]byte, 1<<14), false, false
	for {
		// The kernel has answered by the time that it has taken the batch.
		got, kernel, rerr := sys.ReceiveNetlink(p.socket, buf)
		switch {
		case rerr == unix.ENOBUFS:
			lost = true // so much fails; what came first is there
			continue
		case rerr == unix.EAGAIN && err == nil && lost:
			return -1, unix.ENOBUFS
		case rerr == unix.EAGAIN && err == nil && !done:
			return -1, errTorn
		case rerr == unix.EAGAIN:
			return at, err
		case rerr != nil:
			return -1, rerr
		case !kernel:
			continue
		}
		for rest := buf[:got]; len(rest) > 0; {
			var m message
			var merr error
			if m, rest, merr = cut(rest); merr != nil {
				return -1, merr
			}
			if m.kind != unix.NLMSG_ERROR || m.seq < b.first {
				continue
			}
			errno, merr := m.errno()
			switch {
			case merr != nil:
				return -1, merr
			case errno == 0:
				done = done || m.seq == last
			case err == nil:
				at, err = int(m.seq)-int(b.first)-1, errno
			}
		}
	}
}

// at is where a message begins.
func (b *batch) at(seq uint32) (n int) {
	for s := b.first; s < seq; s++ {
		n += align(int(binary.NativeEndian.Uint32(b.b[n:])))
	}
	return n
}

func (b *batch) flags(seq uint32) uint16 { return binary.NativeEndian.Uint16(b.b[b.at(seq)+6:]) }

// ask puts one question outside of a batch, and gives the first answer.
func (p *Ports) ask(kind uint16, family byte, body []byte) ([]byte, error) {
	p.seq++
	b := &batch{seq: p.seq - 1}
	b.add(kind, unix.NLM_F_ACK, family, body)
	if _, err := sys.Write(p.socket, b.b); err != nil {
		return nil, err
	}
	var answer []byte
	buf := make([]byte, 1<<14)
	for {
		got, kernel, err := sys.ReceiveNetlink(p.socket, buf)
		switch {
		case err == unix.EAGAIN:
			return nil, errTorn
		case err != nil:
			return nil, err
		case !kernel:
			continue
		}
		for rest := buf[:got]; len(rest) > 0; {
			var m message
			if m, rest, err = cut(rest); err != nil {
				return nil, err
			}
			switch {
			case m.seq != p.seq:
			case m.kind != unix.NLMSG_ERROR:
				answer = append([]byte(nil), m.body...)
			default:
				errno, err := m.errno()
				if err == nil && errno != 0 {
					err = errno
				}
				return answer, err
			}
		}
	}
}

// text is a string as the kernel wants it.
func text(s string) []byte { return append([]byte(s), 0) }

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// table is a table's attributes: it is ours, and the machine's name is its comment.
func table(name, machine string) []byte {
	b := attribute(nil, unix.NFTA_TABLE_NAME, text(name))
	b = attribute(b, unix.NFTA_TABLE_FLAGS, be32(tableOwner))
	return attribute(b, tableUserdata, append([]byte{userdataComment, byte(len(machine) + 1)}, text(machine)...))
}

// Names in the machine's table.
const (
	portMap     = "ports"
	fromOutside = "prerouting"
	fromHost    = "output"
)

// What nft(8) shows of a map's types: 6 bits each, of its own numbers.
const (
	typeIPv4    = 7
	typeIPv6    = 8
	typeProto   = 12
	typeService = 13
)

// tables makes the table of a family, with a map of ports that is empty and the
// rules that ask it. Both hooks are those of systemd-nspawn, with its priority: who
// has rules about the destination comes first. What the host sends to a loopback
// address is its own business.
func (b *batch) tables(name, machine string, family byte) {
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, family, table(name, machine))
	for _, c := range [...]struct {
		name string
		hook uint32
	}{{fromOutside, unix.NF_INET_PRE_ROUTING}, {fromHost, unix.NF_INET_LOCAL_OUT}} {
		priority := int32(-100 + 1) // of the destination's NAT, and 1
		hook := attribute(attribute(nil, unix.NFTA_HOOK_HOOKNUM, be32(c.hook)), unix.NFTA_HOOK_PRIORITY, be32(uint32(priority)))
		body := attribute(nil, unix.NFTA_CHAIN_TABLE, text(name))
		body = attribute(body, unix.NFTA_CHAIN_NAME, text(c.name))
		body = attribute(body, unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, hook)
		body = attribute(body, unix.NFTA_CHAIN_TYPE, text("nat"))
		b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, family, body)
	}

	size, kind := uint32(4), uint32(typeIPv4)
	if family == unix.AF_INET6 {
		size, kind = 16, typeIPv6
	}
	const mapFlag = 8 // NFT_SET_MAP
	body := attribute(nil, unix.NFTA_SET_TABLE, text(name))
	body = attribute(body, unix.NFTA_SET_NAME, text(portMap))
	body = attribute(body, unix.NFTA_SET_FLAGS, be32(mapFlag))
	body = attribute(body, unix.NFTA_SET_KEY_TYPE, be32(typeProto<<6|typeService))
	body = attribute(body, unix.NFTA_SET_KEY_LEN, be32(8))
	body = attribute(body, unix.NFTA_SET_DATA_TYPE, be32(kind<<6|typeService))
	body = attribute(body, unix.NFTA_SET_DATA_LEN, be32(size+4))
	body = attribute(body, unix.NFTA_SET_ID, be32(1))
	b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, family, body)

	const reg, next = unix.NFT_REG32_00, unix.NFT_REG32_01
	var local []byte // what is sent to an address of the host's
	local = expression(local, "fib", attr(unix.NFTA_FIB_DREG, reg), attr(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE), attr(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR))
	local = compare(local, reg, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))

	var own []byte // what the host sends to itself, beyond loopback
	if family == unix.AF_INET {
		own = payload(own, reg, unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 1)
		own = compare(own, reg, unix.NFT_CMP_NEQ, []byte{127})
	} else {
		own = payload(own, reg, unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16)
		own = compare(own, reg, unix.NFT_CMP_NEQ, append(make([]byte, 15), 1))
	}
	own = expression(own, "meta", attr(unix.NFTA_META_DREG, reg), attr(unix.NFTA_META_KEY, unix.NFT_META_OIF))
	own = compare(own, reg, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, loopback))

	for _, rule := range [...]struct {
		chain string
		b     []byte
	}{{fromOutside, local}, {fromHost, own}} {
		e := expression(rule.b, "meta", attr(unix.NFTA_META_DREG, reg), attr(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO))
		e = payload(e, next, unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
		e = expression(e, "lookup", attribute(nil, unix.NFTA_LOOKUP_SET, text(portMap)), attr(unix.NFTA_LOOKUP_SREG, reg), attr(unix.NFTA_LOOKUP_DREG, reg), attr(unix.NFTA_LOOKUP_SET_ID, 1))
		e = expression(e, "nat", attr(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT), attr(unix.NFTA_NAT_FAMILY, uint32(family)),
			attr(unix.NFTA_NAT_REG_ADDR_MIN, reg), attr(unix.NFTA_NAT_REG_PROTO_MIN, reg+size/4))
		body := attribute(nil, unix.NFTA_RULE_TABLE, text(name))
		body = attribute(body, unix.NFTA_RULE_CHAIN, text(rule.chain))
		body = attribute(body, unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, e)
		b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, family, body)
	}
}

// loopback is the number of lo, in each namespace.
const loopback = 1

func attr(kind uint16, v uint32) []byte { return attribute(nil, kind, be32(v)) }

// expression appends one step of a rule.
func expression(b []byte, name string, attrs ...[]byte) []byte {
	var data []byte
	for _, a := range attrs {
		data = append(data, a...)
	}
	e := attribute(nil, unix.NFTA_EXPR_NAME, text(name))
	return attribute(b, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, attribute(e, unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, data))
}

// value wraps bytes as those that are compared or stored.
func value(kind uint16, v []byte) []byte {
	return attribute(nil, kind|unix.NLA_F_NESTED, attribute(nil, unix.NFTA_DATA_VALUE, v))
}

func compare(b []byte, reg, op uint32, v []byte) []byte {
	return expression(b, "cmp", attr(unix.NFTA_CMP_SREG, reg), attr(unix.NFTA_CMP_OP, op), value(unix.NFTA_CMP_DATA, v))
}

func payload(b []byte, reg, base, offset, size uint32) []byte {
	return expression(b, "payload", attr(unix.NFTA_PAYLOAD_DREG, reg), attr(unix.NFTA_PAYLOAD_BASE, base), attr(unix.NFTA_PAYLOAD_OFFSET, offset), attr(unix.NFTA_PAYLOAD_LEN, size))
}

// element is one of the map: protocol and port of the host, address and port of
// the machine. Each part takes whole words.
func element(p Port, to string) []byte {
	e := value(unix.NFTA_SET_ELEM_KEY, []byte{p.number(), 0, 0, 0, byte(p.Host >> 8), byte(p.Host), 0, 0})
	if to != "" {
		e = append(e, value(unix.NFTA_SET_ELEM_DATA, append([]byte(to), byte(p.Machine>>8), byte(p.Machine), 0, 0))...)
	}
	return attribute(nil, unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e)
}

// elements adds a message about elements of the map.
func (b *batch) elements(kind, flags uint16, family byte, table string, list []byte) {
	body := attribute(nil, unix.NFTA_SET_ELEM_LIST_TABLE, text(table))
	body = attribute(body, unix.NFTA_SET_ELEM_LIST_SET, text(portMap))
	if list != nil {
		body = attribute(body, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, list)
	}
	b.add(kind, flags, family, body)
}
