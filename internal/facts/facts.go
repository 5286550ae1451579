// Package facts is the closed list of what a plan may ask about the host, the
// kernel and the tree. Package probe fills it in, reading only; a plan made
// where something can't be read (another machine, no root) goes on with what
// is unknown, and says so.
//
// Room: paper.
package facts

import (
	"launch/internal/disk"
	"launch/internal/mstack"
	"launch/userns/record"
)

// Kind is what a name in the tree is.
type Kind string

// The kinds of names.
const (
	Unknown Kind = ""
	Absent  Kind = "absent"
	Dir     Kind = "directory"
	File    Kind = "file"
	Link    Kind = "symlink"
	Other   Kind = "other"
)

// Facts is what is known before a plan is made.
type Facts struct {
	Root    Root    `json:"root"`
	Disk    Disk    `json:"disk,omitzero"`
	Stack   Stack   `json:"stack,omitzero"`
	Host    Host    `json:"host"`
	Journal Journal `json:"journal,omitzero"`
	Network Network `json:"network,omitzero"`
	// Receiver is looked for only if the journal is forwarded.
	Receiver Receiver `json:"receiver,omitzero"`
	Watches  Watches  `json:"watches,omitzero"`
	// Bound are the users of the host's that the machine is to have, in the order
	// in which they were asked for, and Taken what of their names and ids the tree
	// has already. Both are looked at only if there are such users.
	Bound []Bound `json:"bound,omitempty"`
	Taken Taken   `json:"taken,omitzero"`
	// Devices are the device nodes among the sources of bind mounts. They are
	// looked for only where there are such mounts.
	Devices []Device `json:"devices,omitempty"`
}

// Disk is the disk image that the tree is in. Then Root.Path is the image's.
type Disk struct {
	Known bool `json:"known"`
	// Block: it is a block device and no file.
	Block bool `json:"block,omitempty"`
	// Sector is the size of a sector that its table counts in; 0 without one.
	Sector int `json:"sector,omitempty"`
	// Volumes are its file systems that a machine has, the root first, or, if
	// there is none, the one for /usr.
	Volumes []disk.Volume `json:"volumes,omitempty"`
	// Efi and Boot tell about the directories where a boot partition may go.
	Efi  Kind `json:"efi,omitempty"`
	Boot Kind `json:"boot,omitempty"`
}

// Stack is the mount stack that the tree is put together from. Then Root.Path is
// its directory's.
type Stack struct {
	Known bool `json:"known"`
	// Entries are as mstack.Read gives them.
	Entries []mstack.Entry `json:"entries,omitempty"`
}

// Bound is what the host knows of one of its users.
type Bound struct {
	// Name is what was asked for.
	Name string `json:"name"`
	// Known is false where nobody could be asked, and Found where all were asked
	// and none knows the name.
	Known bool `json:"known"`
	Found bool `json:"found"`
	// From is who knows: a file, or systemd-userdbd.
	From string      `json:"from,omitempty"`
	User record.User `json:"user,omitzero"`
	// Group is the user's own group; its name is "" if nobody knows its id.
	Group record.Group `json:"group,omitzero"`
	// Home is what the home directory is, links followed.
	Home Kind `json:"home,omitempty"`
}

// Taken is what passwd and group of the tree have of what bound users want.
type Taken struct {
	Known bool `json:"known"`
	// Users and Groups are those of the names that are there.
	Users  []string `json:"users,omitempty"`
	Groups []string `json:"groups,omitempty"`
	// IDs are those from record.FirstID to LastID that a user or a group has.
	IDs []uint32 `json:"ids,omitempty"`
}

// Device is a device node that is bound into the machine.
type Device struct {
	// Path is the source as it was given.
	Path         string `json:"path"`
	Block        bool   `json:"block,omitempty"`
	Major, Minor uint32
}

// Watches is what the kernel has left for who watches files (inotify), as all
// service managers do. It is looked at only if there is something to boot.
type Watches struct {
	Known bool `json:"known"`
	// Few: there are less than a machine needs.
	Few bool `json:"few,omitempty"`
	// Most is fs.inotify.max_user_instances.
	Most int `json:"most,omitempty"`
}

// Receiver is the host's systemd-journal-remote.
type Receiver struct {
	Known bool `json:"known"`
	// Path is where it is; "" if it is nowhere.
	Path string `json:"path,omitempty"`
}

// Network is what decides about interfaces. It is looked at only if there is
// to be one.
type Network struct {
	Known bool `json:"known"`
	// HostID is the host's machine id, 32 hex digits, or "".
	HostID string `json:"host_id,omitempty"`
	// Managed: systemd-networkd runs on the host, and looks after the
	// interfaces of machines.
	Managed bool `json:"managed,omitempty"`
}

// Journal is what the host has in the place of the machine's journal,
// /var/log/journal/ID.
type Journal struct {
	Known bool `json:"known"`
	// Parent: /var/log/journal is there.
	Parent bool `json:"parent,omitempty"`
	Kind   Kind `json:"kind,omitempty"`
	// Link is where it points to, if it is a link.
	Link string `json:"link,omitempty"`
	// Mounted: something is mounted there.
	Mounted bool `json:"mounted,omitempty"`
	// HostID is the host's machine id, 32 hex digits, or "".
	HostID string `json:"host_id,omitempty"`
}

// Root is the tree.
type Root struct {
	// Known is false where the tree could not be looked at.
	Known bool `json:"known"`
	// Path is where the tree lies, without links; "" if that is not known.
	Path string `json:"path,omitempty"`
	// MountPoint: something is mounted there.
	MountPoint bool `json:"mount_point,omitempty"`
	// Missing: the machine's directory is not there yet, and all this is about
	// the template. Parent is the directory it will be in, without links.
	Missing bool   `json:"missing,omitempty"`
	Parent  string `json:"parent,omitempty"`
	// UID and GID own the tree's top directory.
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
	// Bin, Var: what /bin and /var are, links not followed. Usr: what /usr leads
	// to in the tree.
	Bin Kind `json:"bin,omitempty"`
	Usr Kind `json:"usr,omitempty"`
	Var Kind `json:"var,omitempty"`
	// UsrBin, UsrLib, UsrSbin, Lib64: what the links of a merged /usr would
	// point to.
	UsrBin  Kind `json:"usr_bin,omitempty"`
	UsrSbin Kind `json:"usr_sbin,omitempty"`
	UsrLib  Kind `json:"usr_lib,omitempty"`
	// Loader64 is the link target for /lib64 (`usr/lib64`, `usr/lib`) if the
	// architecture's loader is found behind it.
	Loader64 string `json:"loader64,omitempty"`
	// OSRelease: an os-release file is there.
	OSRelease bool `json:"os_release"`
	// MachineID is the tree's id, 32 hex digits, or "".
	MachineID string `json:"machine_id,omitempty"`
}

// Host is the machine that launch runs on.
type Host struct {
	Known bool `json:"known"`
	Root  bool `json:"root"` // launch runs as root
	// Hostname is the host's.
	Hostname string `json:"hostname,omitempty"`
	// OSRelease is the path of the host's os-release file, or "".
	OSRelease string `json:"os_release,omitempty"`
	// OSFields are the values of ID, VERSION_ID, BUILD_ID and VARIANT_ID.
	OSFields OSFields `json:"os_fields,omitzero"`
	// Cgroup is the launcher's own cgroup (v2) and CgroupMount where that
	// hierarchy is mounted; CgroupMount "" means that there is none.
	Cgroup      string `json:"cgroup,omitempty"`
	CgroupMount string `json:"cgroup_mount,omitempty"`
	// Systemd: process 1 is systemd, so that units can be asked for.
	Systemd bool `json:"systemd,omitempty"`
	// Resolv tells which files say how the host resolves names.
	Resolv Resolv `json:"resolv,omitzero"`
	// Localtime is what the host's /etc/localtime is, and, if it is a link,
	// Zone the time zone it names.
	Localtime Kind   `json:"localtime,omitempty"`
	Zone      string `json:"zone,omitempty"`
	// StdinTTY, StdoutTTY and StderrTTY: standard input, output and error are
	// terminals, or may be. Pipeline: output or error is a pipe or a socket;
	// who reads from it may use the terminal, too.
	StdinTTY  bool `json:"stdin_tty"`
	StdoutTTY bool `json:"stdout_tty"`
	StderrTTY bool `json:"stderr_tty"`
	Pipeline  bool `json:"pipeline"`
	// Columns and Lines are the size that the caller's environment has for
	// those who don't see the terminal; 0 is none.
	Columns uint16 `json:"columns,omitempty"`
	Lines   uint16 `json:"lines,omitempty"`
	// Fuse and Tun are the permissions of /dev/fuse and /dev/net/tun; 0 where
	// the launcher itself can't open the device for reading and writing.
	Fuse uint32 `json:"fuse,omitempty"`
	Tun  uint32 `json:"tun,omitempty"`
	// Kcore: the kernel has /proc/kcore.
	Kcore bool `json:"kcore"`
	// Term, Colorterm and NoColor are the caller's terminal variables.
	Term, Colorterm, NoColor string
	// Processes and Signals are process 1's RLIMIT_NPROC and
	// RLIMIT_SIGPENDING, soft and hard.
	Processes, Signals [2]uint64
	// Limits are the launcher's own resource limits, soft and hard, by
	// resource number.
	Limits [16][2]uint64 `json:"-"`
	// Raise: the launcher may raise hard limits (CAP_SYS_RESOURCE).
	Raise bool `json:"raise"`
	// Ignored has bit N-1 set where the launcher was started with signal N
	// ignored.
	Ignored uint64 `json:"ignored,omitempty"`
	// LoginUID is who the kernel's audit takes for the one who logged in; ""
	// where nobody did, or where there is no audit.
	LoginUID string `json:"login_uid,omitempty"`
	// Listen is how many open descriptors, from 3 on, the launcher was started
	// with for the machine ($LISTEN_FDS), and ListenNames what they are called.
	Listen      int    `json:"listen,omitempty"`
	ListenNames string `json:"listen_names,omitempty"`
	// OpenMax is fs.nr_open.
	OpenMax uint64 `json:"open_max,omitempty"`
	// Caps is the launcher's bounding set.
	Caps uint64 `json:"caps"`
	// AppArmor and SELinux: the kernel module is there and at work. They are
	// asked for only if somebody names a profile or label.
	AppArmor bool `json:"apparmor,omitempty"`
	SELinux  bool `json:"selinux,omitempty"`
	// UserNamespaces: the kernel has them.
	UserNamespaces bool `json:"user_namespaces"`
}

// Resolv are files that are there.
type Resolv struct {
	Host, Static, Uplink, Stub bool
}

// OSFields are what a machine is told about the host's operating system.
type OSFields struct {
	ID, VersionID, BuildID, VariantID string
}
