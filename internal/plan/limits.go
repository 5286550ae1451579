package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/internal/origin"
	"launch/internal/seccomp"
	"launch/settings"
)

// limit is a resource limit of the payload.
type limit struct {
	name       string
	resource   int
	soft, hard uint64
	from       origin.Origin
}

const infinity = settings.Infinity

// limits gives all of them: what nobody told is systemd's default, not the
// launcher's own.
func (c *compiler) limits() []limit {
	host := c.Facts.Host
	open := uint64(512 << 10)
	if host.OpenMax > 0 {
		open = min(open, host.OpenMax)
	}
	none := origin.Origin{}
	list := []limit{
		{"AS", unix.RLIMIT_AS, infinity, infinity, none},
		{"CORE", unix.RLIMIT_CORE, 0, infinity, none},
		{"CPU", unix.RLIMIT_CPU, infinity, infinity, none},
		{"DATA", unix.RLIMIT_DATA, infinity, infinity, none},
		{"FSIZE", unix.RLIMIT_FSIZE, infinity, infinity, none},
		{"LOCKS", unix.RLIMIT_LOCKS, infinity, infinity, none},
		{"MEMLOCK", unix.RLIMIT_MEMLOCK, 8 << 20, 8 << 20, none},
		{"MSGQUEUE", unix.RLIMIT_MSGQUEUE, 819200, 819200, none},
		{"NICE", unix.RLIMIT_NICE, 0, 0, none},
		{"NOFILE", unix.RLIMIT_NOFILE, 1024, open, none},
		{"RSS", unix.RLIMIT_RSS, infinity, infinity, none},
		{"RTPRIO", unix.RLIMIT_RTPRIO, 0, 0, none},
		{"RTTIME", unix.RLIMIT_RTTIME, infinity, infinity, none},
		{"STACK", unix.RLIMIT_STACK, 8 << 20, infinity, none},
		{"NPROC", unix.RLIMIT_NPROC, host.Processes[0], host.Processes[1], none},
		{"SIGPENDING", unix.RLIMIT_SIGPENDING, host.Signals[0], host.Signals[1], none},
	}
	kept := list[:0]
	for _, l := range list {
		for _, told := range c.Settings.Exec.Rlimits {
			if told.Name == l.name {
				l.soft, l.hard, l.from = told.Soft, told.Hard, c.from("limit-"+strings.ToLower(l.name))
			}
		}
		if l.hard == 0 && l.from == none && (l.name == "NPROC" || l.name == "SIGPENDING") {
			continue // not known of the host
		}
		kept = append(kept, c.allowed(l))
	}
	return kept
}

// allowed gives the nearest limit that the first process may set: raising the
// hard limit takes CAP_SYS_RESOURCE over the host, which the launcher may not
// have, and the root of a user namespace never has.
func (c *compiler) allowed(l limit) limit {
	host := c.Facts.Host
	if !host.Known || host.Raise && !c.Plan.Users.Private() {
		return l
	}
	own := host.Limits[l.resource][1]
	if l.hard > own && l.from != (origin.Origin{}) {
		c.note("RLIMIT_%s can't be raised above %s, the launcher's own", l.name, number(own))
	}
	l.hard = min(l.hard, own)
	l.soft = min(l.soft, l.hard)
	return l
}

// bounding is the bounding set of a machine.
func (c *compiler) bounding() uint64 {
	caps := c.Profile.Caps
	if c.Settings.Network.Private {
		caps |= c.Profile.NetworkCaps
	}
	caps |= c.Settings.Exec.AddCaps
	caps &^= c.Settings.Exec.DropCaps
	if u := c.Plan.Users; u.Private() && !c.Settings.Network.Private {
		// The host's network namespace is not the machine's: the capability
		// would mean nothing there but look as if it did.
		caps &^= 1 << unix.CAP_NET_BIND_SERVICE
	}
	return caps
}

// ambient refuses ambient capabilities that the machine doesn't have.
func (c *compiler) ambient() error {
	host := c.Facts.Host
	c.Plan.HostCaps = host.Caps
	if !host.Known || c.Plan.Users.Private() {
		c.Plan.HostCaps = 1<<(unix.CAP_LAST_CAP+1) - 1
	}
	names := func(mask uint64) string {
		var list []string
		for n := range 64 {
			if mask>>n&1 == 1 {
				list = append(list, settings.CapabilityName(n))
			}
		}
		return strings.Join(list, ", ")
	}
	want := c.Settings.Exec.AmbientCaps
	e := &settings.Error{Origin: c.from("ambient-capability")}
	if more := want &^ c.bounding(); more != 0 {
		e.What = fmt.Sprintf("cannot give the command %s: the machine itself doesn't have it", names(more))
		e.Hint = "add --capability=" + strings.ReplaceAll(names(more), " ", "") + ", or leave out --drop-capability="
		return e
	}
	if more := want &^ c.Plan.HostCaps; more != 0 {
		e.What = fmt.Sprintf("cannot give the command %s: launch itself doesn't have it", names(more))
		return e
	}
	return nil
}

// identity settles what the machine is told of itself and of who runs it.
func (c *compiler) identity() {
	c.Plan.Service = settings.DefaultService
	if c.Profile.App {
		c.Plan.Service = "oci" // as systemd's list of container managers has it
	}
	if s := c.Settings.Environment.Service; s != "" {
		c.Plan.Service = s
	}
	told, own := c.Settings.Exec.MachineID, treeID(c.Settings, c.Facts.Root)
	if own != "" && told != "" && told != own {
		c.note("the tree has a machine id of its own, %s, which is used", own)
	}
	c.Plan.ID = MachineID(c.Settings, c.Facts.Root, c.Input.ID)
}

// treeID is the id that the machine finds in its tree.
func treeID(s settings.Settings, root facts.Root) string {
	if s.Image.Volatile == settings.VolatileYes {
		// The tree's /etc is not there, and its id would be shared by all
		// machines that run from its /usr.
		return ""
	}
	return root.MachineID
}

// MachineID is the machine's id: the tree's, else the one that was told, else
// fresh.
func MachineID(s settings.Settings, root facts.Root, fresh string) string {
	for _, id := range [...]string{treeID(s, root), s.Exec.MachineID} {
		if id != "" {
			return id
		}
	}
	return fresh
}

// filters plans the system-call filters of a machine that keeps the
// capabilities.
func (c *compiler) filters(caps uint64) {
	native, ok := seccomp.Native()
	if !ok {
		c.note("no system-call filter: launch has no table for this architecture")
		return
	}
	e := c.Settings.Exec
	var calls seccomp.Calls
	for _, value := range append(slices.Clone(c.Profile.SystemCalls), e.SystemCalls...) {
		for _, name := range calls.Add(value) {
			c.note("system-call filter: %q is no system call or group that launch knows; ignored", name)
		}
	}
	for _, f := range seccomp.NSpawn(native, caps, calls) {
		c.Filters = append(c.Filters, Filter{f, c.from("system-call-filter")})
	}
	if f := e.AddressFamilies; f.Mode != settings.FamiliesAny {
		// socketcall, which only 32-bit programs have, hides the family: were
		// it left open, the restriction would hold nobody back.
		filter := seccomp.AddressFamilies(native.Siblings(), f.List, f.Mode == settings.FamiliesExcept, true)
		c.Filters = append(c.Filters, Filter{filter, c.from("restrict-address-families")})
	}
	if e.SuppressSync {
		c.Filters = append(c.Filters, Filter{seccomp.SuppressSync(native.Siblings()), c.from("suppress-sync")})
	}
	// Behind one that refuses filters, none could be installed.
	slices.SortStableFunc(c.Filters, func(a, b Filter) int {
		return cmp.Compare(refusing(a), refusing(b))
	})
}

func refusing(f Filter) int {
	if f.Passes("seccomp") {
		return 0
	}
	return 1
}

// Personalities of the kernel: uname(2) tells the host's architecture, or its
// 32-bit sibling.
const (
	perLinux   = 0
	perLinux32 = 8
)
