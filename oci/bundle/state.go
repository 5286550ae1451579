package bundle

// Version is the runtime specification's that is honoured.
const Version = "1.3.0"

// State is what is told of a container.
type State struct {
	Version string
	ID      string
	// PID is 0 if the container has stopped.
	PID int
	// Status is creating, created, running, paused or stopped.
	Status      string
	Bundle      string
	Rootfs      string
	Created     string // RFC 3339, in UTC
	Annotations map[string]string
	Owner       string
}

// AppendSpec writes what the specification calls the state: hooks get it on
// their standard input.
func (s *State) AppendSpec(b []byte) []byte {
	w := writer{b: b}
	s.spec(&w)
	return w.b
}

func (s *State) spec(w *writer) {
	w.open('{')
	w.string("ociVersion", s.Version)
	w.string("id", s.ID)
	w.string("status", s.Status)
	if s.PID != 0 {
		w.int("pid", s.PID)
	}
	w.string("bundle", s.Bundle)
	w.texts("annotations", s.Annotations)
	w.close('}')
}

// Append writes what the verb `state` prints, without the newline.
func (s *State) Append(b []byte) []byte {
	w := writer{b: b, indent: "  "}
	s.all(&w)
	return w.b
}

func (s *State) all(w *writer) {
	w.open('{')
	w.string("ociVersion", s.Version)
	w.string("id", s.ID)
	w.int("pid", s.PID)
	w.string("status", s.Status)
	w.string("bundle", s.Bundle)
	w.string("rootfs", s.Rootfs)
	w.string("created", s.Created)
	w.texts("annotations", s.Annotations)
	w.string("owner", s.Owner)
	w.close('}')
}

// AppendList writes what `list --format json` prints, without the newline: null
// if there is no container, as callers know it from runc.
func AppendList(b []byte, list []State) []byte {
	if len(list) == 0 {
		return append(b, "null"...)
	}
	w := writer{b: b}
	w.open('[')
	for i := range list {
		w.next()
		list[i].all(&w)
	}
	w.close(']')
	return w.b
}

// AppendListener writes what the listener of a filter with SCMP_ACT_NOTIFY is
// told along with the filter's descriptor.
func (s *State) AppendListener(b []byte, metadata string) []byte {
	w := writer{b: b}
	w.open('{')
	w.string("ociVersion", s.Version)
	w.strings("fds", []string{"seccompFd"})
	w.int("pid", s.PID)
	if metadata != "" {
		w.string("metadata", metadata)
	}
	w.name("state")
	s.spec(&w)
	w.close('}')
	return w.b
}

// AppendPIDs writes what `ps --format json` prints, without the newline.
func AppendPIDs(b []byte, pids []int) []byte {
	w := writer{b: b}
	w.open('[')
	for _, p := range pids {
		w.next()
		w.number(p)
	}
	w.close(']')
	return w.b
}
