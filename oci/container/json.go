package container

import (
	"os/user"
	"strconv"
	"time"

	"launch/oci/bundle"
)

// told is what others are told of the container.
func (s *State) told(status Status, pid int) bundle.State {
	b := bundle.State{Version: bundle.Version, ID: s.ID, PID: pid, Status: string(status), Bundle: s.Bundle, Rootfs: s.Rootfs,
		Created: s.Created.UTC().Format(time.RFC3339Nano)}
	for _, a := range s.Annotations {
		if b.Annotations == nil {
			b.Annotations = make(map[string]string, len(s.Annotations))
		}
		b.Annotations[a[0]] = a[1]
	}
	return b
}

// StateJSON is the container's state as the runtime specification has it,
// which hooks get.
func (s *State) StateJSON(status Status, pid int) []byte {
	b := s.told(status, pid)
	return b.AppendSpec(nil)
}

// Told looks at the container, for listings. With owner, the name of who
// created it is looked up.
func (d *Dir) Told(owner bool) (bundle.State, error) {
	status, err := d.Status()
	if err != nil {
		return bundle.State{}, err
	}
	pid := d.PID
	if status == Stopped {
		pid = 0
	}
	b := d.told(status, pid)
	if owner {
		b.Owner = "#" + strconv.Itoa(d.Owner)
		if u, err := user.LookupId(strconv.Itoa(d.Owner)); err == nil {
			b.Owner = u.Username
		}
	}
	return b, nil
}
