// Package settings holds everything that can be said about a machine before it
// runs, whoever said it: the command line, a .nspawn file or an OCI bundle.
//
// Text becomes assignments (an option table row each, see options.go);
// Resolve turns assignments into Settings and a Trace of what happened to each
// of them. Settings are plain values: two of them can be compared, and they
// never say where a value came from (the Trace does).
//
// Room: paper.
package settings

import (
	"strings"

	"launch/mount"
	"launch/userns"
)

// Settings is one machine.
type Settings struct {
	// Machine is the name; empty until derived from the directory.
	Machine string `json:"machine,omitempty"`
	// Profile is what ProfileOf takes.
	Profile string `json:"profile,omitempty"`
	// Join is a machine whose namespaces a bundle is run in, beside its own
	// mounts, host name and cgroups.
	Join string `json:"join,omitempty"`

	Image   Image         `json:"image"`
	Exec    Exec          `json:"exec"`
	Users   Users         `json:"users"`
	Bound   Bound         `json:"bound,omitzero"`
	Mounts  []mount.Mount `json:"mounts,omitempty"`
	Network Network       `json:"network"`
	Host    Host          `json:"host,omitzero"`
	// Credentials are told once each, and only by who starts the machine.
	Credentials []Credential `json:"credentials,omitempty"`
	Life        Life         `json:"life"`
	Unit        Unit         `json:"unit,omitzero"`

	SELinux     SELinux     `json:"selinux,omitzero"`
	Environment Environment `json:"environment,omitzero"`

	// Bundle is set if an OCI bundle said all this.
	Bundle *Bundle `json:"bundle,omitempty"`
}

// SELinux are labels; "" leaves to the host's policy what it is.
type SELinux struct {
	// Process is that of the payload, and so of what it starts.
	Process string `json:"process,omitempty"`
	// Files is that of all files on file systems in memory, and of terminals.
	Files string `json:"files,omitempty"`
}

// Image is the tree that becomes the root.
type Image struct {
	// Directory is absolute, or empty for the working directory.
	Directory string `json:"directory,omitempty"`
	// File is the disk image that the tree is in; absolute. There is no
	// Directory then. Policy says what its partitions may be, see
	// disk.ParsePolicy.
	File   string `json:"file,omitempty"`
	Policy string `json:"policy,omitempty"`
	// MStack is the directory of a mount stack that the tree is put together
	// from; absolute. There is neither Directory nor File then.
	MStack string `json:"mstack,omitempty"`
	// RootHash, RootHashSig and VerityData ask for an image to be checked.
	RootHash    string `json:"root_hash,omitempty"`
	RootHashSig string `json:"root_hash_sig,omitempty"`
	VerityData  string `json:"verity_data,omitempty"`
	// Version is what Directory or File is, if it was chosen from several, and
	// TemplateVersion what Template is.
	Version         Picked `json:"version,omitzero"`
	TemplateVersion Picked `json:"template_version,omitzero"`
	// Bundle is the OCI bundle that says what the root is; absolute.
	Bundle   string   `json:"bundle,omitempty"`
	ReadOnly bool     `json:"read_only,omitempty"`
	Volatile Volatile `json:"volatile,omitempty"`
	Pivot    Pivot    `json:"pivot,omitzero"`
	// Ephemeral machines run on a copy of the tree, which is thrown away.
	Ephemeral bool `json:"ephemeral,omitempty"`
	// Mounts is a file of mounts that are brought back; absolute.
	Mounts string `json:"mounts,omitempty"`
	// Template is the tree that Directory becomes a copy of if it is missing.
	Template string `json:"template,omitempty"`
	// OverlayAll: nothing that is written reaches the tree, or a source of a
	// mount. A layer that is thrown away lies over each.
	OverlayAll bool `json:"overlay_all,omitempty"`
	// Stack is what the root is made of where it is no tree of its own;
	// Directory is then where the machine's own part of it is.
	Stack *Stack `json:"stack,omitempty"`
}

// Frozen tells whether nothing of the tree is written to: what is thrown away, or
// layered over, never is. A copy (Ephemeral) is another tree.
func (i Image) Frozen() bool { return i.ReadOnly || i.Volatile != VolatileNo || i.OverlayAll }

// Stack is a root of several directories over each other, all in one directory
// of the host's.
type Stack struct {
	// Base is that directory; absolute.
	Base string `json:"base,omitempty"`
	// Layers are below it, lowest first; nobody changes them.
	Layers []string `json:"layers,omitempty"`
	// Upper is below it, too: what the machine changes. Work is an empty
	// directory beside it.
	Upper string `json:"upper,omitempty"`
	Work  string `json:"work,omitempty"`
	// Passing: Upper goes with the machine.
	Passing bool `json:"passing,omitempty"`
	// Volumes are directories of the machine that can be written to even if the
	// root can't; Ports what it listens on, as in 80/tcp.
	Volumes []string `json:"volumes,omitempty"`
	Ports   []string `json:"ports,omitempty"`
	// Files are files of the host's that take the place of the machine's, by
	// their names there.
	Files []File `json:"files,omitempty"`
}

// File is a file of the host's and what it is called in the machine.
type File struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// Volatile says which part of the tree is thrown away at the end.
type Volatile string

// The modes of --volatile.
const (
	VolatileNo      Volatile = ""
	VolatileYes     Volatile = "yes"     // only /usr is the tree's, read-only
	VolatileState   Volatile = "state"   // all of it read-only, /var a tmpfs
	VolatileOverlay Volatile = "overlay" // a tmpfs layer over all of it
)

// Exec is what runs.
type Exec struct {
	Mode  Mode     `json:"mode,omitempty"`
	Words []string `json:"words,omitempty"`
	// Env are NAME=VALUE assignments, later ones win.
	Env []string `json:"env,omitempty"`
	// Dir is the working directory inside; empty means the user's home.
	Dir string `json:"dir,omitempty"`
	// User is a name or number, resolved inside the tree; empty means root.
	User string `json:"user,omitempty"`
	// Group takes the place of the user's groups; a name or number.
	Group string `json:"group,omitempty"`
	// Hostname is the kernel's host name if it isn't the machine's name.
	Hostname string `json:"hostname,omitempty"`
	// KeepCaps and DropCaps are masks over the default set, bit n being
	// capability n.
	AddCaps         uint64 `json:"add_caps,omitempty"`
	DropCaps        uint64 `json:"drop_caps,omitempty"`
	NoNewPrivileges bool   `json:"no_new_privileges,omitempty"`
	// AmbientCaps are what the payload starts with, and passes on.
	AmbientCaps uint64 `json:"ambient_caps,omitempty"`
	// SystemCalls are the values of --system-call-filter, in order; Unfiltered
	// machines have no filter at all.
	SystemCalls []string `json:"system_calls,omitempty"`
	Unfiltered  bool     `json:"unfiltered,omitempty"`
	// SuppressSync: what would wait for the disk does nothing.
	SuppressSync    bool     `json:"suppress_sync,omitempty"`
	AddressFamilies Families `json:"address_families,omitzero"`
	// Rlimits take the place of the defaults; by name.
	Rlimits  []Rlimit `json:"rlimits,omitempty"`
	OOMScore OOMScore `json:"oom_score,omitzero"`
	// CPUs that the payload may run on; none means all.
	CPUs CPUs `json:"cpus,omitempty"`
	// Personality is the architecture that uname(2) tells; "" leaves it.
	Personality string `json:"personality,omitempty"`
	// MachineID is used if the tree has none; 32 hex digits.
	MachineID string `json:"machine_id,omitempty"`
	// KillSignal is what SIGTERM at the launcher sends to the machine's first
	// process; 0 means the default (SIGRTMIN+3 when booting, else SIGKILL).
	KillSignal int `json:"kill_signal,omitempty"`

	// Process is what a bundle's process has on top.
	Process *Process `json:"process,omitempty"`
}

// Mode is how the payload is run.
type Mode string

// The three ways to run a payload.
const (
	Plain Mode = ""        // the words are process 1
	Boot  Mode = "boot"    // the tree's init is process 1, the words are its arguments
	PID2  Mode = "as-pid2" // a stub is process 1, the words are process 2
)

// Users is the machine's user namespace.
type Users struct {
	Mode  userns.Mode  `json:"mode,omitempty"`
	Range userns.Range `json:"range,omitzero"`
	// Ownership "" means auto with pick, else off.
	Ownership userns.Ownership `json:"ownership,omitempty"`
}

// Host is what of the host's configuration the machine shares.
type Host struct {
	// ResolvConf is a mode of --resolv-conf: "" (auto), off, delete, or copy-,
	// replace- or bind- with host, static, uplink or stub.
	ResolvConf string `json:"resolv_conf,omitempty"`
	// Timezone is a mode of --timezone: "" (auto), off, copy, bind, symlink,
	// delete.
	Timezone string `json:"timezone,omitempty"`
	// LinkJournal is a mode of --link-journal: "" (auto), no, or host or guest,
	// which with try- may go without effect.
	LinkJournal string `json:"link_journal,omitempty"`
	// Forward is where the host keeps what the machine's journal hands on.
	Forward Forward `json:"forward_journal,omitzero"`
}

// Forward is what becomes of the lines that a machine's journal hands on to the
// host.
type Forward struct {
	// To is a file, if its name ends in .journal, else a directory of files; "":
	// nothing is handed on.
	To string `json:"to,omitempty"`
	// What that may take: bytes, bytes that stay free, bytes of a file, and
	// how many files. They are decimal numbers; "" is not told.
	MaxUse      string `json:"max_use,omitempty"`
	KeepFree    string `json:"keep_free,omitempty"`
	MaxFileSize string `json:"max_file_size,omitempty"`
	MaxFiles    string `json:"max_files,omitempty"`
}

// File reports whether all lines go into one file.
func (f Forward) File() bool { return strings.HasSuffix(f.To, ".journal") }

// The credential by which a machine's journal is told where to hand its lines
// on, and the socket there.
const (
	ForwardCredential = "journal.forward_to_socket"
	ForwardSocket     = "/run/host/journal/socket"
)

// ResolvFile gives the path of one of the host's files that say how names are
// resolved: host, static, uplink or stub.
func ResolvFile(kind string) string {
	switch kind {
	case "static":
		return "/usr/lib/systemd/resolv.conf"
	case "uplink":
		return "/run/systemd/resolve/resolv.conf"
	case "stub":
		return "/run/systemd/resolve/stub-resolv.conf"
	}
	return "/etc/resolv.conf"
}

// Life is how the machine is looked after.
type Life struct {
	Console Console `json:"console,omitempty"`
	Quiet   bool    `json:"quiet,omitempty"`
	// ErrorsOnly: nothing is said about what a settings file asks for in vain.
	ErrorsOnly bool `json:"errors_only,omitempty"`
	// NotifyReady: the machine itself says when it is ready (sd_notify).
	NotifyReady bool `json:"notify_ready,omitempty"`
	Register    Auto `json:"register,omitempty"`
	KeepUnit    bool `json:"keep_unit,omitempty"`
}

// Unit is the scope unit that a machine is in on a host with systemd, and whose
// it is.
type Unit struct {
	// User: the user's own service manager has it, and not the system's.
	User bool `json:"user,omitempty"`
	// Slice is where it is; "" is the usual one.
	Slice string `json:"slice,omitempty"`
	// Properties are what else is said about it, NAME=VALUE each; see
	// ParseProperty.
	Properties []string `json:"properties,omitempty"`
}

// Console is what the payload has as standard input, output and error.
type Console string

// The modes of --console. The empty value means interactive if standard input
// and output are terminals, else read-only.
const (
	ConsoleDefault     Console = ""
	ConsoleInteractive Console = "interactive"
	ConsoleReadOnly    Console = "read-only"
	ConsolePassive     Console = "passive"
	ConsolePipe        Console = "pipe"
	ConsoleAutopipe    Console = "autopipe"
)

// Auto is a boolean that may be left to circumstances.
type Auto string

// The values of Auto; the empty value is auto.
const (
	Automatic Auto = ""
	Yes       Auto = "yes"
	Never     Auto = "no"
)
