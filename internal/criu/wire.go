package criu

import (
	"encoding/binary"
	"errors"
)

// message is one of CRIU's messages in protobuf's form: pairs of a field's
// number and its value. What CRIU is told is little, so it is written here,
// not by a library that every start of the runtime would pay for.
type message []byte

func (m *message) number(field int, v uint64) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3)
	*m = binary.AppendUvarint(*m, v)
}

func (m *message) text(field int, s string) {
	*m = binary.AppendUvarint(*m, uint64(field)<<3|2)
	*m = binary.AppendUvarint(*m, uint64(len(s)))
	*m = append(*m, s...)
}

func (m *message) flag(field int, on bool) {
	if on {
		m.number(field, 1)
	}
}

func (m *message) word(field int, s string) {
	if s != "" {
		m.text(field, s)
	}
}

var errWire = errors.New("CRIU's answer can't be read")

// each calls f for each field of a message.
func each(b []byte, f func(field int, v uint64, text []byte)) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return errWire
		}
		b = b[n:]
		switch key & 7 {
		case 0:
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return errWire
			}
			b = b[n:]
			f(int(key>>3), v, nil)
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errWire
			}
			f(int(key>>3), 0, b[n:n+int(size)])
			b = b[n+int(size):]
		case 1, 5:
			size := 8
			if key&7 == 5 {
				size = 4
			}
			if len(b) < size {
				return errWire
			}
			b = b[size:]
		default:
			return errWire
		}
	}
	return nil
}

// reply is what CRIU answers, or asks in between.
type reply struct {
	kind    Kind
	success bool
	pid     int // of what was restored
	script  string
	about   int // the process that a script is about
	errno   int
	said    string
	version int // 40200 is 4.2
}

func parse(b []byte) (r reply, err error) {
	inner := func(b []byte, f func(field int, v uint64, text []byte)) {
		if e := each(b, f); e != nil {
			err = e
		}
	}
	outer := each(b, func(field int, v uint64, text []byte) {
		switch field {
		case 1:
			r.kind = Kind(v)
		case 2:
			r.success = v != 0
		case 4:
			inner(text, func(field int, v uint64, _ []byte) {
				if field == 1 {
					r.pid = int(int32(v))
				}
			})
		case 5:
			inner(text, func(field int, v uint64, text []byte) {
				switch field {
				case 1:
					r.script = string(text)
				case 2:
					r.about = int(int32(v))
				}
			})
		case 7:
			r.errno = int(int32(v))
		case 9:
			r.said = string(text)
		case 10:
			inner(text, func(field int, v uint64, _ []byte) {
				switch field {
				case 1:
					r.version += int(int32(v)) * 10000
				case 2:
					r.version += int(int32(v)) * 100
				case 4:
					r.version += int(int32(v))
				}
			})
		}
	})
	if outer != nil {
		err = outer
	}
	return r, err
}

// Options are what CRIU is told. The names are those of its own options.
type Options struct {
	Images  string // a directory
	WorkFD  int    // a descriptor of the caller's for its log; -1: Images
	PID     int    // of a dump
	Log     string // a file's name
	Root    string
	Parent  string // of earlier images, below Images
	Freeze  string // the directory of a cgroup that is frozen meanwhile
	LSM     string
	Context string // of mounts, for SELinux

	LeaveRunning, ExtUnixSk, TCPEstablished, TCPSkipInFlight, TCPClose bool
	ShellJob, FileLocks, TrackMem, AutoDedup, LinkRemap, LazyPages     bool
	// OrphanPtsMaster: the other side of the container's terminal is outside.
	OrphanPtsMaster bool
	// External are pairs of what is outside, and what it is called, or what it
	// is.
	External [][2]string
	// Others are what is outside and no mount, in CRIU's words.
	Others []string
	// Inherit are names of descriptors, which are those that Start passes on.
	Inherit []string
	// Sibling: what is restored is the caller's child.
	Sibling bool
	// Cgroups is the mode of CgroupModes. CgroupRoots are where the container's
	// are: the controller, "" for version 2, Every for all; and a path.
	Cgroups     uint64
	CgroupRoots [][2]string
	EmptyNS     uint64
	StatusFD    int // 0: none
	// Server is the address of a page server, Port its port.
	Server string
	Port   int
	// Locked: the network is cut off meanwhile, for connections.
	Locked bool
}

// CgroupModes are the words of --manage-cgroups-mode.
var CgroupModes = [...]struct {
	Word string
	Mode uint64
}{{"ignore", Ignore}, {"soft", 3}, {"full", 4}, {"strict", 5}}

// Every controller, in CgroupRoots.
const Every = "*"

// Ignore: CRIU leaves cgroups alone.
const Ignore = 0

func (o *Options) encode() (m message) {
	m.number(1, ^uint64(0)) // no descriptor
	m.word(68, o.Images)
	if o.PID != 0 {
		m.number(2, uint64(o.PID))
	}
	m.flag(3, o.LeaveRunning)
	m.flag(4, o.ExtUnixSk)
	m.flag(5, o.TCPEstablished)
	m.flag(7, o.ShellJob)
	m.flag(8, o.FileLocks)
	m.number(9, 4)
	m.word(10, o.Log)
	if o.Server != "" {
		var s message
		s.text(1, o.Server)
		s.number(2, uint64(o.Port))
		m.text(11, string(s))
	}
	m.flag(12, true) // we are told of each stage
	m.word(13, o.Root)
	m.word(14, o.Parent)
	m.flag(15, o.TrackMem)
	m.flag(16, o.AutoDedup)
	if o.WorkFD >= 0 {
		m.number(17, uint64(o.WorkFD))
	}
	m.flag(18, o.LinkRemap)
	for _, e := range o.External {
		var p message
		p.text(1, e[0])
		p.text(2, e[1])
		m.text(23, string(p))
	}
	m.flag(24, o.Cgroups != Ignore)
	for _, root := range o.CgroupRoots {
		var p message
		if root[0] != Every {
			p.text(1, root[0])
		}
		p.text(2, root[1])
		m.text(25, string(p))
	}
	m.flag(26, o.Sibling)
	for i, key := range o.Inherit {
		var p message
		p.text(1, key)
		p.number(2, uint64(firstInherited+i))
		m.text(27, string(p))
	}
	m.number(34, o.Cgroups)
	for _, x := range o.Others {
		m.text(37, x)
	}
	if o.EmptyNS != 0 {
		m.number(38, o.EmptyNS)
	}
	m.word(44, o.Freeze)
	m.flag(46, o.TCPSkipInFlight)
	m.flag(48, o.LazyPages)
	if o.StatusFD > 0 {
		m.number(49, uint64(o.StatusFD))
	}
	m.flag(50, o.OrphanPtsMaster)
	m.flag(52, o.TCPClose)
	m.word(53, o.LSM)
	m.word(63, o.Context)
	if !o.Locked {
		m.number(64, 3) // skip
	}
	return m
}
