package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/sys"
)

// Where systemd-machined speaks Varlink: the system's since 257, a user's since
// 259.
const (
	systemSocket = "/run/systemd/machine/io.systemd.Machine"
	userSocket   = "systemd/machine/io.systemd.Machine" // in $XDG_RUNTIME_DIR
)

// pidfs is the file system of process descriptors, since Linux 6.9.
const pidfs = 0x50494446

const varlinkFace = "io.systemd.Machine"

// leader names a process so that no later one of its number is meant.
type leader struct {
	PID   int    `json:"pid"`
	PidFD uint64 `json:"pidfdId,omitempty"`
	Boot  string `json:"bootId,omitempty"`
}

// registration is the input of io.systemd.Machine.Register.
type registration struct {
	Name       string  `json:"name"`
	ID         string  `json:"id"`
	Service    string  `json:"service"`
	Class      string  `json:"class"`
	Leader     int     `json:"leader,omitempty"`
	Process    *leader `json:"leaderProcessId,omitempty"`
	Root       string  `json:"rootDirectory,omitempty"`
	Interfaces []int32 `json:"ifIndices,omitempty"`
}

func (h *Host) registerVarlink(m Machine) error {
	r := registration{Name: m.Name, ID: m.ID, Service: m.Service, Class: m.Class, Root: m.Root, Interfaces: m.Interfaces}
	r.Process = &leader{PID: m.Leader}
	if fs, err := sys.Fstatfs(m.Pidfd); m.Pidfd >= 0 && err == nil && fs.Type == pidfs {
		// The number of a process in this file system is never used again. It
		// means nothing without the boot.
		st, err := sys.Statx(m.Pidfd, "", unix.STATX_INO)
		boot, berr := sys.ReadFile(unix.AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64)
		if err == nil && berr == nil {
			r.Process.PidFD, r.Process.Boot = st.Ino, strings.ReplaceAll(strings.TrimSpace(string(boot)), "-", "")
		}
	}
	err := h.varlink("Register", r)
	if is(err, "org.varlink.service.InvalidParameter") {
		// 257 knows the process by its number only: it is our child, so nobody
		// else has it.
		r.Process, r.Leader = nil, m.Leader
		err = h.varlink("Register", r)
	}
	return err
}

type named struct {
	Name string `json:"name"`
}

// leaderVarlink gives the first process of a machine.
func (h *Host) leaderVarlink(name string) (pid int, err error) {
	var a struct {
		Leader leader `json:"leader"`
	}
	if err := h.varlinkAsk("List", named{name}, &a); err != nil {
		return 0, err
	}
	if a.Leader.PID <= 0 {
		return 0, errNonsense
	}
	return a.Leader.PID, nil
}

func (h *Host) unregisterVarlink(name string) error {
	err := h.varlink("Unregister", named{name})
	if is(err, varlinkFace+".NoSuchMachine") {
		return nil
	}
	return err
}

// mostAnswer is how long an answer may be.
const mostAnswer = 1 << 16

var errNonsense = errors.New("systemd-machined answers nonsense")

func (h *Host) varlink(method string, parameters any) error {
	return h.varlinkAsk(method, parameters, nil)
}

// varlinkAsk makes one call of systemd-machined's, and reads the answer into
// what is given for that. An error that it answers is a *bus.Error.
func (h *Host) varlinkAsk(method string, parameters, out any) error {
	call, err := json.Marshal(struct {
		Method     string `json:"method"`
		Parameters any    `json:"parameters"`
	}{varlinkFace + "." + method, parameters})
	if err != nil {
		return err
	}
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	if err := sys.ConnectUnix(n, h.socket); err != nil {
		return err
	}
	if err := sys.WriteString(n, string(call)+"\x00"); err != nil {
		return err
	}
	var in []byte
	b := make([]byte, 4096)
	for end := time.Now().Add(bus.Patience); ; {
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		if _, err := sys.Poll([]unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}, int(left/time.Millisecond)+1); err != nil {
			return err
		}
		got, err := sys.Read(n, b)
		if err != nil {
			return err
		}
		in = append(in, b[:got]...)
		if answer, _, ok := bytes.Cut(in, []byte{0}); ok {
			var a struct {
				Error      string          `json:"error"`
				Parameters json.RawMessage `json:"parameters"`
			}
			switch {
			case json.Unmarshal(answer, &a) != nil:
				return errNonsense
			case a.Error != "":
				return &bus.Error{Name: a.Error}
			case out != nil && json.Unmarshal(a.Parameters, out) != nil:
				return errNonsense
			}
			return nil
		}
		if got == 0 || len(in) > mostAnswer {
			return errNonsense
		}
	}
}
