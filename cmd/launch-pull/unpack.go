package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"launch/internal/sys"
	"launch/oci/layer"
)

// unpackVerb is the first word of a process that unpacks. It is born into user,
// mount, pid, ipc, uts and network namespaces of its own, shuts itself up in the
// directory that it is told, and then unpacks one layer after the other: on
// standard input it gets an order each, as a line of JSON, and then the layer
// in pieces with their length before them; on standard output it answers with a
// line of JSON.
const unpackVerb = "unpack-layers"

type order struct {
	Dir    string       `json:"dir"`
	Packed int64        `json:"packed"`
	Limits layer.Limits `json:"limits"`
}

type answer struct {
	Report layer.Report `json:"report"`
	Error  string       `json:"error,omitempty"`
}

// unpack is that process.
func unpack(args []string) int {
	say := json.NewEncoder(os.Stdout)
	room, err := layer.Confine(sys.Lock(), args[0])
	if err != nil {
		say.Encode(answer{Error: err.Error()})
		return 1
	}
	in := bufio.NewReaderSize(os.Stdin, 256<<10)
	for {
		line, err := in.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return 0
		}
		var o order
		var a answer
		if err == nil {
			err = json.Unmarshal(line, &o)
		}
		root := -1
		if err == nil {
			root, err = room.Enter(o.Dir)
		}
		if err == nil {
			a.Report, err = layer.Unpack(root, &pieces{r: in}, o.Packed, o.Limits)
			sys.Close(root)
		}
		if err != nil {
			// What is left of the layer, nobody reads any more.
			a.Error = err.Error()
			say.Encode(a)
			return 1
		}
		if err := say.Encode(a); err != nil {
			return 1
		}
	}
}

// pieces reads what writePiece wrote, to the empty piece at the end.
type pieces struct {
	r    *bufio.Reader
	left uint32
	over bool
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.over {
		return 0, io.EOF
	}
	if p.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(p.r, head[:]); err != nil {
			return 0, io.ErrUnexpectedEOF
		}
		if p.left = binary.BigEndian.Uint32(head[:]); p.left == 0 {
			p.over = true
			return 0, io.EOF
		}
	}
	n, err := p.r.Read(b[:min(len(b), int(p.left))])
	p.left -= uint32(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// unpacker is the other end: a process that unpacks.
type unpacker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	// said is what it said beside; it says nothing unless it crashes.
	said *first
}

// first keeps the beginning of what is written to it.
type first struct{ text []byte }

func (f *first) Write(b []byte) (int, error) {
	const most = 1 << 10
	f.text = append(f.text, b[:min(len(b), most-len(f.text))]...)
	return len(b), nil
}

// allIDs maps every user and group to itself: files get the owners that the
// layer says, and the process has rights over nothing else.
var allIDs = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1<<32 - 1}}

func startUnpacker(dir string) (*unpacker, error) {
	c := exec.Command("/proc/self/exe", unpackVerb, dir)
	c.Args[0] = "launch-pull"
	c.Env = []string{"GOMAXPROCS=2"}
	// Nor has it the caller's terminal: it could push input into that.
	said := &first{}
	c.Stderr = said
	c.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() == 0 {
		c.SysProcAttr.UidMappings, c.SysProcAttr.GidMappings = allIDs, allIDs
		c.SysProcAttr.GidMappingsEnableSetgroups = true
	} else {
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	// Nor what the caller has open.
	if err := sys.CloseOnExec(3); err != nil {
		return nil, fmt.Errorf("keep descriptors from a process that unpacks: %w", err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start a process that unpacks, in namespaces of its own: %w", err)
	}
	return &unpacker{c, in, bufio.NewReader(out), said}, nil
}

// errSource is what went wrong before the unpacker had all of the layer.
type errSource struct{ error }

func (e errSource) Unwrap() error { return e.error }

// layer has a layer unpacked. The unpacker is of no use after an error.
func (u *unpacker) layer(o order, from io.Reader) (layer.Report, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return layer.Report{}, err
	}
	w := bufio.NewWriterSize(u.in, 512<<10)
	w.Write(append(line, '\n'))
	buf := make([]byte, 128<<10)
	var failed error
	for failed == nil {
		n, err := from.Read(buf)
		if n > 0 {
			var head [4]byte
			binary.BigEndian.PutUint32(head[:], uint32(n))
			w.Write(head[:])
			if _, werr := w.Write(buf[:n]); werr != nil {
				break // it says why
			}
		}
		if err == io.EOF {
			w.Write([]byte{0, 0, 0, 0})
			w.Flush()
			break
		}
		if err != nil {
			failed = errSource{err}
		}
	}
	if failed != nil {
		u.kill()
		return layer.Report{}, failed
	}
	text, err := u.out.ReadBytes('\n')
	if err != nil {
		u.kill()
		return layer.Report{}, fmt.Errorf("the process that unpacks ended without an answer (%v): %q", u.cmd.ProcessState, u.said.text)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		u.kill()
		return layer.Report{}, fmt.Errorf("understand the process that unpacks: %w", err)
	}
	if a.Error != "" {
		u.kill()
		return a.Report, errors.New(a.Error)
	}
	return a.Report, nil
}

func (u *unpacker) kill() {
	u.cmd.Process.Kill()
	u.cmd.Wait()
}

// end lets it end.
func (u *unpacker) end() {
	u.in.Close()
	u.cmd.Wait()
}
