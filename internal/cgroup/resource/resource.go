// Package resource works out what a container's limits mean for the kernel:
// which value goes into which cgroup file, and which program guards devices.
//
// It guarantees that the same Resources give the same writes in the same
// order, and that what a hierarchy cannot express is an error or a warning,
// never silence. It refuses to know where cgroups are mounted and whether a
// write succeeds.
//
//	r := specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}
//	writes, warnings, err := resource.Writes(&r, resource.Hierarchies{V2: []string{"pids"}})
//
// Room: paper.
package resource

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Merge gives old as an update changes it: what the update names is the
// update's, field by field within memory and cpu; the rest stays. Neither
// argument is changed. An update must be applied merged, since some files
// take several fields at once.
func Merge(old, update *specs.LinuxResources) specs.LinuxResources {
	if old == nil {
		old = &specs.LinuxResources{}
	}
	m := *old
	if update == nil {
		return m
	}
	if update.Devices != nil {
		m.Devices = update.Devices
	}
	if u := update.Memory; u != nil {
		n := specs.LinuxMemory{}
		if old.Memory != nil {
			n = *old.Memory
		}
		set(&n.Limit, u.Limit)
		set(&n.Reservation, u.Reservation)
		set(&n.Swap, u.Swap)
		//lint:ignore SA1019 bundles have it
		set(&n.Kernel, u.Kernel)
		set(&n.KernelTCP, u.KernelTCP)
		set(&n.Swappiness, u.Swappiness)
		set(&n.DisableOOMKiller, u.DisableOOMKiller)
		set(&n.UseHierarchy, u.UseHierarchy)
		set(&n.CheckBeforeUpdate, u.CheckBeforeUpdate)
		m.Memory = &n
	}
	if u := update.CPU; u != nil {
		n := specs.LinuxCPU{}
		if old.CPU != nil {
			n = *old.CPU
		}
		set(&n.Shares, u.Shares)
		set(&n.Quota, u.Quota)
		set(&n.Burst, u.Burst)
		set(&n.Period, u.Period)
		set(&n.RealtimeRuntime, u.RealtimeRuntime)
		set(&n.RealtimePeriod, u.RealtimePeriod)
		set(&n.Idle, u.Idle)
		if u.Cpus != "" {
			n.Cpus = u.Cpus
		}
		if u.Mems != "" {
			n.Mems = u.Mems
		}
		m.CPU = &n
	}
	if u := update.Pids; u != nil && u.Limit != nil {
		m.Pids = u
	}
	if u := update.BlockIO; u != nil {
		n := specs.LinuxBlockIO{}
		if old.BlockIO != nil {
			n = *old.BlockIO
		}
		set(&n.Weight, u.Weight)
		set(&n.LeafWeight, u.LeafWeight)
		list(&n.WeightDevice, u.WeightDevice)
		list(&n.ThrottleReadBpsDevice, u.ThrottleReadBpsDevice)
		list(&n.ThrottleWriteBpsDevice, u.ThrottleWriteBpsDevice)
		list(&n.ThrottleReadIOPSDevice, u.ThrottleReadIOPSDevice)
		list(&n.ThrottleWriteIOPSDevice, u.ThrottleWriteIOPSDevice)
		m.BlockIO = &n
	}
	list(&m.HugepageLimits, update.HugepageLimits)
	if u := update.Network; u != nil {
		n := specs.LinuxNetwork{}
		if old.Network != nil {
			n = *old.Network
		}
		set(&n.ClassID, u.ClassID)
		list(&n.Priorities, u.Priorities)
		m.Network = &n
	}
	m.Rdma = join(old.Rdma, update.Rdma)
	m.Unified = join(old.Unified, update.Unified)
	return m
}

func set[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

func list[T any](to *[]T, from []T) {
	if from != nil {
		*to = from
	}
}

func join[T any](old, update map[string]T) map[string]T {
	if len(update) == 0 {
		return old
	}
	m := make(map[string]T, len(old)+len(update))
	for k, v := range old {
		m[k] = v
	}
	for k, v := range update {
		m[k] = v
	}
	return m
}
