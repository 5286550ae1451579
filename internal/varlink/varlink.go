// Package varlink makes calls of services that speak Varlink: JSON over a socket
// of the host's. It guarantees that an answer is bounded in size and time, and
// refuses to know what is asked.
//
// Room: host.
package varlink

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/sys"
)

// MostAnswer is how long an answer may be.
const MostAnswer = 1 << 18

// ErrNonsense says that what came is no answer.
var ErrNonsense = errors.New("the service answers nonsense")

// Call makes one call over the socket of that path, and reads the answer into out
// unless that is nil. An error that the service answers is a *bus.Error.
func Call(socket, method string, parameters, out any) error {
	return within(bus.Patience, socket, method, parameters, out)
}

func within(patience time.Duration, socket, method string, parameters, out any) error {
	end := time.Now().Add(patience)
	call, err := json.Marshal(struct {
		Method     string `json:"method"`
		Parameters any    `json:"parameters"`
	}{method, parameters})
	if err != nil {
		return err
	}
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	// Who doesn't take calls any more has others wait in line, and then at its end.
	if err := sys.SendTimeout(n, patience); err != nil {
		return err
	}
	err = sys.ConnectUnix(n, socket)
	if err == nil {
		err = sys.WriteString(n, string(call)+"\x00")
	}
	if err == unix.EAGAIN {
		err = unix.ETIMEDOUT
	}
	if err != nil {
		return err
	}
	var in []byte
	b := make([]byte, 4096)
	for {
		left := time.Until(end)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		if ready, err := sys.Poll([]unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}, int(left/time.Millisecond)+1); err != nil {
			return err
		} else if ready == 0 {
			continue // a signal, or time is up; to read would wait for ever
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
				return ErrNonsense
			case a.Error != "":
				return &bus.Error{Name: a.Error}
			case out != nil && json.Unmarshal(a.Parameters, out) != nil:
				return ErrNonsense
			}
			return nil
		}
		if got == 0 || len(in) > MostAnswer {
			return ErrNonsense
		}
	}
}
