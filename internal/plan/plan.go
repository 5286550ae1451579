// Package plan turns Settings and Facts into a Plan: every mount, file and
// system call of a start, in order, each with the place that asked for it.
//
// A plan is a value. It is made without touching anything, prints itself
// (text.go), and is carried out elsewhere: package attach performs its mount
// steps, package engine the rest. What is not in the plan does not happen.
//
// It refuses to know where settings came from, and never looks at the host:
// what it must know about it are facts.
//
// Room: paper.
package plan

import (
	"encoding/json"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/origin"
	"launch/internal/seccomp"
	"launch/mount"
	"launch/settings"
	"launch/userns"
	"launch/userns/record"
)

// Plan is one start of one machine.
type Plan struct {
	Machine   string `json:"machine"`
	Directory string `json:"directory"`
	// Picked are the versions that the tree, and what it is a copy of, are.
	Picked []settings.Picked `json:"picked,omitempty"`
	// Image: Directory is a disk image; MStack: it is a mount stack's.
	Image  bool `json:"image,omitempty"`
	MStack bool `json:"mstack,omitempty"`
	// RootPath is where the host has what becomes the machine's root, without
	// links where that is known.
	RootPath string `json:"-"`
	// ID is the machine id, 32 hex digits.
	ID string `json:"id"`
	// Service is what the machine is told of who runs it.
	Service string `json:"service"`

	Users Users `json:"users"`
	// Bound are users of the host's that the machine has, too.
	Bound      []record.Bound `json:"bound,omitempty"`
	Namespaces []Namespace    `json:"namespaces"`
	// Source is the tree that Directory is a copy of, if it is one, and
	// Ephemeral says that the copy goes with the machine.
	Source    string        `json:"source,omitempty"`
	Ephemeral bool          `json:"ephemeral,omitempty"`
	Cgroup    Cgroup        `json:"cgroup,omitzero"`
	Scope     *Scope        `json:"scope,omitempty"`
	Register  *Registration `json:"register,omitempty"`
	// User: the user's own service manager is asked for both.
	User bool `json:"user,omitempty"`
	// Links are the machine's network interfaces, in their order.
	Links []NetLink `json:"links,omitempty"`
	// Forwards are ports of the host that lead to the machine, wherever its
	// address is.
	Forwards []settings.Port  `json:"forwards,omitempty"`
	Console  settings.Console `json:"console"`
	// Terminal is the machine's own; without one, it is zero.
	Terminal TTY      `json:"terminal,omitzero"`
	Steps    []Step   `json:"steps"`
	Effects  []Effect `json:"effects"`
	Program  []Op     `json:"program"`
	// Second is what process 2 does where the payload isn't process 1. As all
	// that follows ExecStub, it is the stub that does it.
	Second  []Op     `json:"second,omitempty"`
	Filters []Filter `json:"filters,omitempty"`
	// Credentials are what the machine is given, without their values.
	Credentials []settings.Credential `json:"credentials,omitempty"`
	// CPUs are what the payload may run on; none means all.
	CPUs    settings.CPUs `json:"cpus,omitempty"`
	Payload Payload       `json:"payload"`
	Stop    Stop          `json:"stop"`
	// NotifyReady: the service manager is told that the machine is ready only
	// when its first process says so.
	NotifyReady bool `json:"notify_ready,omitempty"`
	// Listen is how many of the launcher's descriptors, from 3 on, the payload
	// gets beside the standard ones.
	Listen int `json:"listen,omitempty"`
	// HostCaps is what the launcher may pass on at most.
	HostCaps uint64   `json:"-"`
	Notes    []string `json:"notes,omitempty"`
	Hostname string   `json:"hostname"`
	KeepUnit bool     `json:"keep_unit,omitempty"`
	Quiet    bool     `json:"quiet,omitempty"`
	// Ports are what the machine listens on, as in 80/tcp, as far as it says so.
	Ports []string `json:"ports,omitempty"`

	// What only bundles have.
	Domainname  string                `json:"domainname,omitempty"`
	TimeOffsets []settings.TimeOffset `json:"time_offsets,omitempty"`
	NetDevices  []settings.NetDevice  `json:"net_devices,omitempty"`
	Sysctl      []settings.Sysctl     `json:"sysctl,omitempty"`
	Hooks       settings.Hooks        `json:"hooks,omitzero"`
	// Shared: mounts that are made in the container, or at its sources, may
	// reach the host's mount namespace.
	Shared bool `json:"shared,omitempty"`
	// Bare: there is no mount namespace of the container's own. Its mounts lie
	// on its root's directory, where all can see them.
	Bare bool `json:"bare,omitempty"`
	// Forks: the first process goes on with memory of its own, early.
	Forks bool `json:"forks,omitempty"`
	// Last: it does so when it has given up all rights, and only then is it in the
	// pid namespace that it joins.
	Last bool `json:"last,omitempty"`
	// Reborn: namespaces are made for the one that is born again, when others
	// have been joined.
	Reborn bool `json:"reborn,omitempty"`
	// CgroupsPath and Resources are as the bundle says.
	CgroupsPath string                `json:"cgroups_path,omitempty"`
	Resources   *specs.LinuxResources `json:"resources,omitempty"`
	// Listener is who is told of calls that the filter leaves to user space.
	Listener, Metadata string `json:",omitempty"`
}

// TTY is a terminal of the machine's own, and how it is joined with the launcher's
// own descriptors.
type TTY struct {
	// Stdio are those of the payload's descriptors 0 to 2 that are the
	// terminal; the others are the launcher's. With 0 among them, it is the
	// controlling terminal.
	Stdio []int `json:"stdio"`
	// Input is how the launcher's standard input gets into it.
	Input Typed `json:"input"`
	// Output is the launcher's descriptor that shows it; -1: nobody looks.
	Output int `json:"output"`
	// Columns and Lines are its size where the launcher's descriptors have none.
	Columns uint16 `json:"columns"`
	Lines   uint16 `json:"lines"`
	// Title is what the window is called meanwhile. Reset: the window's modes are
	// brought back at the end.
	Title string `json:"title,omitempty"`
	Reset bool   `json:"reset,omitempty"`
	// Yield: as long as the launcher is a job in the background, standard input
	// is left to whoever is in front.
	Yield bool `json:"yield,omitempty"`
}

// Typed is how standard input gets into a machine's terminal.
type Typed string

// The kinds of Typed.
const (
	NoInput Typed = ""
	// Keys: each one at once, hotkeys excepted. Who types sees what the
	// machine's terminal echoes.
	Keys Typed = "keys"
	// Lines: as the caller's terminal yields them, which stays as it is, keys
	// for signals and echo included. The machine's does not echo.
	Lines Typed = "lines"
)

// First reports whether the first process is the first of a pid namespace.
func (p *Plan) First() bool {
	return slices.ContainsFunc(p.Namespaces, func(n Namespace) bool { return n.Flag == unix.CLONE_NEWPID && n.Path == "" })
}

// Stubbed reports whether the payload is executed by the stub, and not by the
// launcher's own program.
func (p *Plan) Stubbed() bool {
	return slices.ContainsFunc(p.Program, func(o Op) bool { return o.Call == ExecStub })
}

// Effect is what a start changes on the host, beside the tree, and what is done
// about it at the end, or by --cleanup if the launcher was killed.
type Effect struct {
	// What it is, Path where, Undo what is done about it.
	What   string        `json:"what"`
	Path   string        `json:"path"`
	Undo   string        `json:"undo"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// Users is the user namespace of a machine.
type Users struct {
	Mode userns.Mode `json:"mode,omitempty"`
	// Range is unset with Pick, until a range is picked.
	Range     userns.Range     `json:"range,omitzero"`
	Ownership userns.Ownership `json:"ownership,omitempty"`
	Origin    origin.Origin    `json:"origin,omitzero"`
	// UIDs and GIDs are the whole maps, where Mode is Exact.
	UIDs userns.Map `json:"uids,omitempty"`
	GIDs userns.Map `json:"gids,omitempty"`
}

// Private reports whether there is a user namespace.
func (u Users) Private() bool { return u.Mode != userns.No }

// Namespace is one kind of namespace that the machine has of its own.
type Namespace struct {
	Name string `json:"name"`
	// Flag is the CLONE_NEW… flag.
	Flag uint64 `json:"-"`
	// Late: the first process unshares it itself, beside the mounts, instead
	// of being born into it.
	Late bool `json:"late,omitempty"`
	// Path: it is not a new one, but the one that this file stands for. Kept:
	// what is in it stays as it is.
	Path   string        `json:"path,omitempty"`
	Kept   bool          `json:"kept,omitempty"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// Cgroup is where the machine's processes live (cgroup v2).
type Cgroup struct {
	// Mount is where the host has the hierarchy, Path what is made below it.
	Mount string `json:"mount"`
	Path  string `json:"path"`
	// Supervisor is where the launcher itself goes before, since Path's parent
	// is to have cgroups below it and no processes; "" is nowhere.
	Supervisor string `json:"supervisor,omitempty"`
	// Divide: the controllers of the parent are passed on to the machine.
	Divide bool `json:"divide,omitempty"`
}

// Scope is a unit that systemd makes for the machine: its cgroup is the parent
// of the machine's.
type Scope struct {
	Name       string              `json:"name"`
	Slice      string              `json:"slice"`
	Properties []settings.Property `json:"properties"`
	// Newer are those that an older systemd may not know, and then goes without.
	Newer []settings.Property `json:"newer,omitempty"`
	// Required: without it the machine is not started. Else its cgroup is Path
	// of Else.
	Required bool          `json:"required,omitempty"`
	Else     Cgroup        `json:"else,omitzero"`
	Origin   origin.Origin `json:"origin,omitzero"`
}

// Registration is what systemd-machined is told.
type Registration struct {
	// Class is container, Root the machine's tree on the host.
	Class string `json:"class"`
	Root  string `json:"root"`
	// Required: without it the machine is not started.
	Required bool          `json:"required,omitempty"`
	Origin   origin.Origin `json:"origin,omitzero"`
}

// LinkKind is how an interface of the machine's is joined with the host.
type LinkKind string

// The kinds of LinkKind.
const (
	Pair    LinkKind = "pair"    // Host and Machine are the ends of a virtual cable
	MACVLAN LinkKind = "macvlan" // Machine lies on Host
	IPVLAN  LinkKind = "ipvlan"  // as before, with the hardware address of Host
	Lent    LinkKind = "lent"    // Host itself moves into the machine, and back
)

// NetLink is a network interface of the machine's.
type NetLink struct {
	Kind    LinkKind  `json:"kind"`
	Host    Interface `json:"host"`
	Machine Interface `json:"machine"`
	// Main: it is the one by which the host knows the machine.
	Main bool `json:"main,omitempty"`
	// Bridge is what the host's end is plugged into. Zone: it is made if it is
	// missing, and goes with its last port; Raise: it is brought up.
	Bridge string `json:"bridge,omitempty"`
	Zone   bool   `json:"zone,omitempty"`
	Raise  bool   `json:"raise,omitempty"`
	// Value is what was said, Origin where.
	Value  string        `json:"-"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// Interface is a network interface, on one side.
type Interface struct {
	Name string `json:"name"`
	// Alias is its whole name, where Name has no room for that.
	Alias string `json:"alias,omitempty"`
	// MAC is the hardware address, 12 hex digits; "": any.
	MAC string `json:"mac,omitempty"`
	// Up: it is brought up, since nobody else does it.
	Up bool `json:"up,omitempty"`
}

// Do is what a step does.
type Do string

// What steps do.
const (
	Lock    Do = "lock"        // keep others from using the tree at Path
	Clone   Do = "clone"       // copy the tree Source to Path, on the host
	Rename  Do = "rename"      // give what is at Source the name Path, on the host
	Tree    Do = "tree"        // take the tree, as a mount of its own
	Disk    Do = "disk"        // the file system in the part of the image Source that begins at Start, as the root or on Target
	CloneIt Do = "clone-image" // copy the disk image Source to a file without a name in the directory Path
	Stack   Do = "stack"       // the root is Source over Lower, all of them below Path on the host
	Take    Do = "take"        // the entry Source of a mount stack, a directory or a part of a disk image, as the root, on Target, or, without one, as a layer for what follows
	Pile    Do = "pile"        // an overlay of the layers that were taken, lowest first, on Target; unless it is read-only, the last one has its upper and work directories
	Pivot   Do = "pivot"       // take Source, in the tree, instead; the tree goes to Target below it, if there is one
	Mount   Do = "mount"       // a new file system on Target
	Bind    Do = "bind"        // Source on Target
	Overlay Do = "overlay"     // Lower (and Source above them) on Target
	Layer   Do = "layer"       // a throw-away layer over Target
	Stubs   Do = "stubs"       // a layer with the mount points of Content that Target lacks, if nothing can be written there
	Mask    Do = "mask"        // hide Target behind an empty node of its kind
	Parts   Do = "parts"       // the parts of sysfs that don't tell about the host
	Mkdir   Do = "mkdir"       // make Target if it is missing
	Symlink Do = "symlink"     // make Target, a link to Source, if it is missing
	Attr    Do = "attr"        // change the flags of the mount that Target is
	Idmap   Do = "idmap"       // show the files of the tree with the machine's owners
	Chown   Do = "chown"       // give the files of the tree the machine's owners
	Copy    Do = "copy"        // put a file of the host's in the place of Target
	Zone    Do = "zone"        // make Target a link to Source, a time zone of the tree's
	Remove  Do = "remove"      // remove Target, or Path on the host: a file, a link or an empty directory
	Read    Do = "read"        // read Credential from Path, on the host
	Make    Do = "make"        // make the directory Path, on the host
	Receive Do = "receive"     // listen at Path, on the host, for a journal, which Args writes to Source
	Link    Do = "link"        // make Path, on the host, a link to Source; with its directory, unless that Stays
	Export  Do = "export"      // a new file system on the directory Path, on the host, which sees it read-only

	Node     Do = "node"     // make the device node Target, as in Content, or bind the host's
	Hide     Do = "hide"     // put /dev/null, or an empty directory, on Target
	Guard    Do = "guard"    // bind Target onto itself with Attr
	Cgroups  Do = "cgroups"  // show the container's own cgroups (v1, or v2 without a cgroup namespace) on Target
	Saved    Do = "saved"    // bring back what is in the file Path and not there yet, once all the rest is
	Terminal Do = "terminal" // bind the container's terminal on Target
)

// Step is one thing that is done to the machine's mounts.
type Step struct {
	World settings.World `json:"world"`
	Do    Do             `json:"do"`
	// Target is inside the machine's root.
	Target string `json:"target,omitempty"`
	// Path is on the host: what a step of the world before is about. Shared: a
	// lock that others may have, too; Brief: only until the next clone is made.
	Path   string `json:"path,omitempty"`
	Shared bool   `json:"shared,omitempty"`
	Brief  bool   `json:"brief,omitempty"`
	// Stays: what is made on the host is not removed with the machine.
	Stays bool `json:"stays,omitempty"`
	// Args are a program of the host's and its arguments.
	Args []string `json:"args,omitempty"`
	// Credential is the ID of what is read.
	Credential string     `json:"credential,omitempty"`
	Source     mount.Path `json:"source,omitzero"`
	// Part is the name of Source below the tree's directory: what is there
	// must be a directory, in the tree that was looked at.
	Part string `json:"part,omitempty"`
	// Start and Size are a part of a disk image, in bytes; Sector is the size of
	// its sectors, 0 for the usual one.
	Start  int64 `json:"start,omitempty"`
	Size   int64 `json:"size,omitempty"`
	Sector int   `json:"sector,omitempty"`
	// Lower are an overlay's lower directories, lowest first.
	Lower []mount.Path `json:"lower,omitempty"`
	// Type is the file system's.
	Type string `json:"type,omitempty"`
	// Attr are MOUNT_ATTR_ flags that are set; Recursive: on everything
	// below, too.
	Attr uint64 `json:"-"`
	// Clear are flags that are taken away.
	Clear uint64 `json:"-"`
	// Flags are Attr in mount(8)'s words.
	Flags     []string `json:"flags,omitempty"`
	Recursive bool     `json:"recursive,omitempty"`
	// Options go to the file system one by one.
	Options []Option    `json:"options,omitempty"`
	IDMap   mount.IDMap `json:"id_map,omitempty"`
	// Owned: what is bound or mounted is given to the machine's root.
	Owned bool `json:"owned,omitempty"`
	// Content is made in a new file system before it is attached.
	Content []Entry `json:"content,omitempty"`
	// Mode is what a directory that is missing is made with; 0: it must be
	// there. A bind mount makes what its source is.
	Mode uint32 `json:"mode,omitempty"`
	// Avoid is a directory that a file system of the machine's covers later. A
	// target that lies there, because a link of the tree's leads there, is
	// refused: what was asked for would not be seen.
	Avoid string `json:"avoid,omitempty"`
	// Lenient: a target that is missing is left alone.
	Lenient bool `json:"lenient,omitempty"`
	// Keep: a Target that is a link stays.
	Keep bool `json:"keep,omitempty"`
	// Soft: a failure is told, and the machine does without.
	Soft bool `json:"soft,omitempty"`
	// Optional: a source that is missing is left alone.
	Optional bool `json:"optional,omitempty"`
	// AllAttr and AllClear are like Attr and Clear, for all mounts below as
	// well. Propagation are MS_ flags, with MS_REC for all below, one after the
	// other.
	AllAttr     uint64   `json:"-"`
	Rest        uint64   `json:"-"` // cleared as well, unless the kernel forbids it
	AllClear    uint64   `json:"-"`
	Propagation []uint64 `json:"propagation,omitempty"`
	// CopyUp: the new file system begins with a copy of what Target holds.
	// Like: it has Target's mode.
	CopyUp bool `json:"copy_up,omitempty"`
	Like   bool `json:"like,omitempty"`
	// Over: what is bound or overlaid gets a throw-away layer of these options,
	// and is itself read-only.
	Over []Option `json:"over,omitempty"`
	// NoFollow: a Target that is a link is a mount point itself.
	NoFollow bool `json:"no_follow,omitempty"`
	// SourceLink says what becomes of a source that is a link.
	SourceLink mount.Link `json:"source_link,omitempty"`
	// UIDs and GIDs are a bind mount's map of owners, for all below if MapAll.
	UIDs   userns.Map `json:"uids,omitempty"`
	GIDs   userns.Map `json:"gids,omitempty"`
	MapAll bool       `json:"map_all,omitempty"`
	// Counted: the maps lead to ids that are counted from the machine's root, and
	// take the place of a map that the source has.
	Counted bool `json:"counted,omitempty"`
	// Fallback is done instead if the kernel or file system can't do it
	// (EINVAL, EOPNOTSUPP).
	Fallback Do            `json:"fallback,omitempty"`
	Origin   origin.Origin `json:"origin,omitzero"`
}

// Option is one option of a file system. Without Value it is a flag.
type Option struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
}

// Entry is something made inside a file system that nobody sees yet. Paths are
// relative to its root, parents come first.
type Entry struct {
	Path string `json:"path"`
	// Mode holds the type (S_IF…) and the permissions.
	Mode uint32 `json:"mode"`
	Dev  uint64 `json:"dev,omitempty"`
	// Data is a file's content, or a link's target.
	Data string `json:"data,omitempty"`
	// Hidden is the content of a file that nobody is shown.
	Hidden string `json:"-"`
	// Optional: what can't be made is left out.
	Optional bool `json:"optional,omitempty"`
	// UID and GID own it, counted from the machine's root.
	UID uint32 `json:"uid,omitempty"`
	GID uint32 `json:"gid,omitempty"`
	// Kind is something that this is made like: a directory or an empty file.
	Kind mount.Path `json:"kind,omitzero"`
	// Credential: the content is that of the credential of this name.
	Credential bool `json:"credential,omitempty"`
}

// Filter is a system-call filter. It prints as what it does, in words.
type Filter struct {
	seccomp.Filter
	Origin origin.Origin
}

// MarshalJSON gives the lines of Describe.
func (f Filter) MarshalJSON() ([]byte, error) { return json.Marshal(f.Describe()) }

// Payload is what the machine runs.
type Payload struct {
	// Candidates are tried in order: the first that the finished tree has is
	// run. A name without a slash is looked up in the PATH of Env.
	Candidates []string `json:"candidates"`
	// Shell runs a candidate that is a text without a first line that names its
	// interpreter; "": nothing does.
	Shell string `json:"shell,omitempty"`
	// Args start with argv[0]; "" stands for the candidate found, and "-" for
	// its last component with a dash before it (a login shell).
	Args []string `json:"args"`
	// Env is complete but for HOME, USER and LOGNAME where User is named.
	Env []string `json:"env"`
	// StubEnv is the environment of process 1 where that is the stub.
	StubEnv []string `json:"stub_env,omitempty"`
	User    string   `json:"user,omitempty"`
	// Group takes the place of the user's groups. AnyID: a number needs no
	// entry in the tree.
	Group string `json:"group,omitempty"`
	AnyID bool   `json:"any_id,omitempty"`
	// Dir may be Home.
	Dir string `json:"dir"`
	// Origins, for errors.
	UserOrigin origin.Origin `json:"user_origin,omitzero"`
	// Exact is what a bundle says of the process.
	Exact     *settings.Process `json:"exact,omitempty"`
	DirOrigin origin.Origin     `json:"dir_origin,omitzero"`
}

// Stop is how the machine is asked to stop. Signal 0: it is killed at once.
type Stop struct {
	Signal int `json:"signal,omitempty"`
	// Pass: signals at the launcher are the payload's, and the launcher ends
	// as a shell would say that the payload did.
	Pass bool `json:"pass,omitempty"`
}

// Call is a system call, or a group of them, of the machine's first process.
type Call string

// The calls of a program.
const (
	CloseGo    Call = "close-go"
	DieWith    Call = "die-with-launcher"
	Alive      Call = "launcher-alive"
	Unshare    Call = "unshare"
	Ready      Call = "ready"
	Seat       Call = "seat" // wait to be moved into the cgroup, where the cgroup namespace is to begin
	Go         Call = "go"
	BecomeRoot Call = "become-root"
	Share      Call = "share-mounts"
	Incoming   Call = "take-mounts"
	Mounted    Call = "mounts-there" // wait until saved mounts are brought back
	Setsid     Call = "setsid"
	Keyring    Call = "keyring"
	Stdio      Call = "stdio"
	CtlTTY     Call = "controlling-terminal"
	CloseRest  Call = "close-rest"
	Rlimit     Call = "rlimit"
	Umask      Call = "umask"
	Seccomp    Call = "seccomp"
	Bounding   Call = "bounding"
	Switch     Call = "switch-user"
	Caps       Call = "capabilities"
	NoNewPrivs Call = "no-new-privileges"
	OOMScore   Call = "oom-score-adjust" // the launcher's to do
	NoLogin    Call = "no-login"         // as before
	Affinity   Call = "cpu-affinity"
	Persona    Call = "personality"
	KeepCaps   Call = "keep-capabilities"
	Chdir      Call = "chdir"
	Unblock    Call = "unblock-signals"
	Signals    Call = "default-signals"
	Exec       Call = "exec"
	ExecStub   Call = "exec-stub"
	Fork       Call = "fork"

	Join       Call = "join-namespace"
	Rebirth    Call = "rebirth"
	Label      Call = "label"
	Chroot     Call = "chroot"
	Enter      Call = "enter-container"
	Scheduler  Call = "scheduler"
	IOPriority Call = "io-priority"
	MemPolicy  Call = "memory-policy"
	CapSets    Call = "capability-sets"
	Outlive    Call = "outlive-launcher"
	Created    Call = "created"
	Gate       Call = "gate"
	Notify     Call = "hand-over-listener"
	TryChdir   Call = "chdir-as-user"
)

// Op is one step of the program that becomes the payload.
type Op struct {
	Call Call `json:"call"`
	// Text says in words what it does; it is what an error names.
	Text string `json:"text"`
	// A, B and C are numbers that the call needs: flags, a resource and its
	// limits, a mask.
	A, B, C uint64 `json:"-"`
	// Path is a file that the call needs, Data what is written to it.
	Path   string        `json:"path,omitempty"`
	Data   string        `json:"data,omitempty"`
	Origin origin.Origin `json:"origin,omitzero"`
}
