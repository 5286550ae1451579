package machine

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/internal/varlink"
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

var errNonsense = errors.New("systemd-machined answers nonsense")

func (h *Host) varlink(method string, parameters any) error {
	return h.varlinkAsk(method, parameters, nil)
}

// varlinkAsk makes one call of systemd-machined's, and reads the answer into
// what is given for that. An error that it answers is a *bus.Error.
func (h *Host) varlinkAsk(method string, parameters, out any) error {
	err := varlink.Call(h.socket, varlinkFace+"."+method, parameters, out)
	if errors.Is(err, varlink.ErrNonsense) {
		return errNonsense
	}
	return err
}
