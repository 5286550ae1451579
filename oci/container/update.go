package container

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/cgroup"
	"launch/internal/cgroup/resource"
	"launch/internal/cgroup/systemd"
	"launch/internal/sys"
	"launch/oci/bundle"
)

// UpdateOptions are what update is told. What is nil stays.
type UpdateOptions struct {
	Resources *specs.LinuxResources
	RDT       *specs.LinuxIntelRdt
	Warn      func(string)
}

// Update changes the limits of a container that has not stopped. It must be
// locked. After an error the limits are, as far as the kernel lets us, what
// they were.
func (d *Dir) Update(o UpdateOptions) error {
	status, err := d.Status()
	if err != nil {
		return err
	}
	if status == Stopped {
		return ErrNotRunning
	}
	if o.RDT != nil && d.RDT.Dir == "" {
		return errors.New("cannot change linux.intelRdt: the container was created without it")
	}
	now, err := d.resources()
	if err != nil {
		return err
	}
	next := resource.Merge(now, o.Resources)
	if err := d.limit(&next, o); err != nil {
		if now == nil {
			now = &specs.LinuxResources{}
		}
		if back := d.limit(now, UpdateOptions{Resources: &specs.LinuxResources{}, Warn: func(string) {}}); back != nil {
			err = fmt.Errorf("%w (and what was changed before could not be changed back: %v)", err, back)
		}
		return err
	}
	if err := d.write(resourcesName, string(bundle.AppendValue(nil, &next))); err != nil {
		return fmt.Errorf("keep the limits of container %s: %w", d.ID, err)
	}
	return nil
}

// limit sets all limits; devices only where the update is about them, since
// their program would else be replaced by one that is the same.
func (d *Dir) limit(all *specs.LinuxResources, o UpdateOptions) error {
	if d.Unit.Name != "" {
		layout, err := cgroup.Detect()
		if err != nil {
			return err
		}
		bus, err := systemd.Connect(d.Unit.User)
		if err != nil {
			return err
		}
		defer bus.Close()
		props, err := bus.Properties(all, layout.Offers())
		if err == nil {
			err = bus.Update(d.Unit, props)
		}
		if err != nil {
			return err
		}
	}
	warnings, err := d.Group.Apply(all)
	if err != nil {
		return d.lacks(err)
	}
	for _, w := range warnings {
		o.Warn(w)
	}
	if o.Resources != nil && o.Resources.Devices != nil {
		devices, err := resource.ContainerDevices(all.Devices)
		if err != nil {
			return err
		}
		if err := d.Group.SetDevices(devices); err != nil {
			return err
		}
	}
	if o.RDT != nil {
		return d.RDT.Update(o.RDT)
	}
	return nil
}

// lacks tells that it is the container which has no controller, and not the
// host, where it has no cgroups at all.
func (d *Dir) lacks(err error) error {
	var a *resource.Absent
	if len(d.Group.Dirs) > 0 || !errors.As(err, &a) {
		return err
	}
	return fmt.Errorf("%s needs a cgroup of the container's own, and it has none", a.Field)
}

// resources are the limits as the last update left them, or as the bundle has
// them.
func (d *Dir) resources() (*specs.LinuxResources, error) {
	text, err := sys.ReadFile(d.fd, resourcesName, bundle.Limit)
	switch {
	case err == nil:
		r, _, err := bundle.DecodeResources(resourcesName, string(text))
		return r, err
	case err != unix.ENOENT:
		return nil, fmt.Errorf("read the limits of container %s: %w", d.ID, err)
	}
	config, err := d.Config()
	if err != nil {
		return nil, err
	}
	spec, _, err := bundle.Decode(bundle.File, config)
	if err != nil || spec.Linux == nil {
		return nil, err
	}
	return spec.Linux.Resources, nil
}

// Stats reads what the container uses.
func (d *Dir) Stats() (*cgroup.Stats, error) {
	s, err := d.Group.Stats()
	if err != nil {
		return nil, err
	}
	if d.RDT.Dir != "" {
		rdt, err := d.RDT.Stats()
		if err != nil {
			return nil, err
		}
		s.RDT = *rdt
	}
	return s, nil
}
