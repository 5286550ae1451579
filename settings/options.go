package settings

import (
	"strings"

	"launch/mount"
	"launch/userns"
)

// Options is THE option table. A row gives the flag, the key in a .nspawn
// file, --help, completion, and the list in the manual pages.
//
// It is a static array, and neither a map nor filled by code, so that it costs
// nothing when the launcher starts.
var Options = [...]Option{
	// Image.
	{
		Name: "directory", Flag: "directory", Short: 'D', Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile,
		Help:  "Root directory of the machine",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.Directory = a.Value.(string) },
	},
	{
		Name: "image", Flag: "image", Short: 'i', Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 211,
		Help:  "Disk image that the root is in: a file or a block device",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.File = a.Value.(string) },
	},
	{
		Name: "mstack", Flag: "mstack", Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 260,
		Help:  "Directory of layers and mounts that the root is made of",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.MStack = a.Value.(string) },
	},
	{
		Name: "image-policy", Flag: "image-policy", Arg: RequiredArg, Placeholder: "POLICY",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 254,
		Help:  "What the partitions of a disk image may be",
		Parse: parsePolicy,
		Set:   func(s *Settings, a Assignment) { s.Image.Policy = a.Value.(string) },
	},
	{
		Name: "root-hash", Flag: "root-hash", Arg: RequiredArg, Placeholder: "HASH",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 233,
		Help:  "Verity hash of a disk image's root, which is refused so far",
		Parse: parseRootHash,
		Set:   func(s *Settings, a Assignment) { s.Image.RootHash = a.Value.(string) },
	},
	{
		Name: "root-hash-sig", Flag: "root-hash-sig", Arg: RequiredArg, Placeholder: "SIGNATURE",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 246,
		Help:  "Signature of the hash, a file or base64:DATA; refused so far",
		Parse: parseRootHashSig,
		Set:   func(s *Settings, a Assignment) { s.Image.RootHashSig = a.Value.(string) },
	},
	{
		Name: "verity-data", Flag: "verity-data", Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 246,
		Help:  "File with the hashes of a disk image; refused so far",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.VerityData = a.Value.(string) },
	},
	{
		Name: "template", Flag: "template", Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupTemplate, Topic: TopicImage, Trusted: NoFile, Since: 219,
		Help:  "Tree to copy if the root directory is missing",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.Template = a.Value.(string) },
	},
	{
		Name: "mounts", Flag: "mounts", Arg: RequiredArg, Placeholder: "FILE",
		Group: GroupSaved, Topic: TopicMounts, Trusted: NoFile,
		Help:  "Bring back mounts that launch mounts save wrote",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.Mounts = a.Value.(string) },
	},
	{
		Name: "oci-bundle", Flag: "oci-bundle", Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupDirectory, Topic: TopicImage, Trusted: NoFile, Since: 242,
		Help:  "OCI bundle to run, with its config.json",
		Parse: parseDirectory,
		Set:   func(s *Settings, a Assignment) { s.Image.Bundle = a.Value.(string) },
	},
	{
		Name: "ephemeral", Flag: "ephemeral", Short: 'x', Section: "Exec", Key: "Ephemeral",
		Group: GroupEphemeral, Topic: TopicImage, Trusted: TrustedOnly, Empty: EmptyClears, Since: 219,
		Help:  "Run on a copy of the root, which is removed at the end",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Image.Ephemeral = a.Value.(bool) },
	},
	{
		Name: "read-only", Flag: "read-only", Section: "Files", Key: "ReadOnly",
		Group: GroupReadOnly, Topic: TopicImage, Trusted: Tighten, Empty: EmptyClears, Since: 226,
		Help:   "Mount the root read-only",
		Parse:  parseBool,
		Set:    func(s *Settings, a Assignment) { s.Image.ReadOnly = a.Value.(bool) },
		Weaker: func(s Settings, a Assignment) bool { return s.Image.ReadOnly && !a.Value.(bool) },
	},
	{
		Name: "volatile", Flag: "volatile", Section: "Files", Key: "Volatile", Arg: OptionalArg, Placeholder: "MODE",
		Enum:  []string{"no", "yes", "state", "overlay"},
		Group: GroupVolatile, Topic: TopicImage, Trusted: Tighten, Since: 226,
		Help:   "Run on a throw-away copy of the root, or of its parts",
		Parse:  parseVolatile,
		Set:    func(s *Settings, a Assignment) { s.Image.Volatile = a.Value.(Volatile) },
		Weaker: func(s Settings, a Assignment) bool { return weakerVolatile(s.Image.Volatile, a.Value.(Volatile)) },
	},
	{
		Name: "overlay-all", Flag: "overlay-all", Section: "Files", Key: "OverlayAll",
		Group: GroupOverlayAll, Topic: TopicImage, Trusted: Tighten, Empty: EmptyClears,
		Help:   "Throw away all that is written, in bind mounts, too",
		Parse:  parseBool,
		Set:    func(s *Settings, a Assignment) { s.Image.OverlayAll = a.Value.(bool) },
		Weaker: func(s Settings, a Assignment) bool { return s.Image.OverlayAll && !a.Value.(bool) },
	},
	{
		Name: "pivot-root", Flag: "pivot-root", Section: "Exec", Key: "PivotRoot", Arg: RequiredArg, Placeholder: "NEW[:OLD]",
		Group: GroupPivot, Topic: TopicImage, Trusted: Anyone, Since: 233,
		Help:  "Take a directory of the tree as the root, the old one as OLD",
		Parse: parsePivot,
		Set:   func(s *Settings, a Assignment) { s.Image.Pivot = a.Value.(Pivot) },
	},

	// Execution.
	{
		Name: "profile", Flag: "profile", Section: "Exec", Key: "Profile", Arg: RequiredArg, Placeholder: "PROFILE",
		Enum:  []string{"default", "sandbox"},
		Group: GroupProfile, Topic: TopicExec, Trusted: Tighten, Empty: EmptyClears,
		Help:   "What the machine gets without being asked for",
		Parse:  parseProfile,
		Set:    func(s *Settings, a Assignment) { s.Profile = a.Value.(string) },
		Weaker: func(s Settings, a Assignment) bool { return s.Profile != "" && s.Profile != a.Value.(string) },
	},
	{
		Name: "join", Flag: "join", Arg: RequiredArg, Placeholder: "MACHINE",
		Group: GroupJoin, Topic: TopicExec, Trusted: NoFile,
		Help:  "Run a bundle in the network, ipc and pid namespaces of a machine",
		Parse: parseHostname,
		Set:   func(s *Settings, a Assignment) { s.Join = a.Value.(string) },
	},
	{
		Name: "machine", Flag: "machine", Short: 'M', Arg: RequiredArg, Placeholder: "NAME",
		Group: GroupMachine, Topic: TopicExec, Trusted: NoFile, Since: 202,
		Help:  "Name of the machine; the directory's by default",
		Parse: parseHostname,
		Set:   func(s *Settings, a Assignment) { s.Machine = a.Value.(string) },
	},
	{
		Name: "boot", Flag: "boot", Short: 'b', Section: "Exec", Key: "Boot",
		Group: GroupStart, Topic: TopicExec, Trusted: Anyone, Since: 226,
		Help:  "Run the tree's init, with the words as its arguments",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { setMode(s, Boot, a.Value.(bool)) },
	},
	{
		Name: "as-pid2", Flag: "as-pid2", Short: 'a', Section: "Exec", Key: "ProcessTwo",
		Group: GroupStart, Topic: TopicExec, Trusted: Anyone, Since: 229,
		Help:  "Run a small init as process 1, the command as process 2",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { setMode(s, PID2, a.Value.(bool)) },
	},
	{
		Name: "words", Section: "Exec", Key: "Parameters", Repeat: true,
		Group: GroupStart, Trusted: Anyone, Empty: EmptyClears, Since: 226,
		Help:  "The command and its arguments",
		Parse: parseWords,
		Set:   func(s *Settings, a Assignment) { s.Exec.Words = append(s.Exec.Words, a.Value.([]string)...) },
	},
	{
		Name: "chdir", Flag: "chdir", Section: "Exec", Key: "WorkingDirectory", Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupChdir, Topic: TopicExec, Trusted: Anyone, Empty: EmptyClears, Since: 229,
		Help:  "Working directory in the machine",
		Parse: parseChdir,
		Set:   func(s *Settings, a Assignment) { s.Exec.Dir = a.Value.(string) },
	},
	{
		Name: "setenv", Flag: "setenv", Short: 'E', Section: "Exec", Key: "Environment", Arg: RequiredArg, Placeholder: "NAME[=VALUE]",
		Repeat: true, Group: GroupEnvironment, Topic: TopicExec, Trusted: Anyone, Empty: EmptyClears, Since: 209,
		Help:  "Environment variable; without a value, the caller's",
		Parse: parseSetenv, ParseKey: parseEnvironment,
		Set: func(s *Settings, a Assignment) { setEnv(s, a.Value.([]string)) },
	},
	{
		Name: "uid", Flag: "uid", Short: 'u', Section: "Exec", Key: "User", Arg: RequiredArg, Placeholder: "USER",
		Group: GroupUser, Topic: TopicExec, Trusted: Tighten, Empty: EmptyClears, Since: 226,
		Help:   "Run the command as this user of the machine",
		Parse:  parseUser,
		Set:    func(s *Settings, a Assignment) { s.Exec.User = a.Value.(string) },
		Weaker: func(s Settings, a Assignment) bool { return !root(s.Exec.User) && s.Exec.User != a.Value.(string) },
	},
	{
		Name: "kill-signal", Flag: "kill-signal", Section: "Exec", Key: "KillSignal", Arg: RequiredArg, Placeholder: "SIGNAL",
		Group: GroupKillSignal, Topic: TopicExec, Trusted: Anyone, Since: 220,
		Help:  "Signal that asks the machine to shut down",
		List:  signalList,
		Parse: parseSignal,
		Set:   func(s *Settings, a Assignment) { s.Exec.KillSignal = a.Value.(int) },
	},
	{
		Name: "hostname", Flag: "hostname", Section: "Exec", Key: "Hostname", Arg: RequiredArg, Placeholder: "NAME",
		Group: GroupHostname, Topic: TopicExec, Trusted: Anyone, Empty: EmptyClears, Since: 239,
		Help:  "Host name, if it isn't the machine's name",
		Parse: parseHostname,
		Set:   func(s *Settings, a Assignment) { s.Exec.Hostname = a.Value.(string) },
	},
	{
		Name: "uuid", Flag: "uuid", Section: "Exec", Key: "MachineID", Arg: RequiredArg, Placeholder: "ID",
		Group: GroupMachineID, Topic: TopicExec, Trusted: TrustedOnly, Since: 211,
		Help:  "Machine id, if the tree has none of its own",
		Parse: parseID128,
		Set:   func(s *Settings, a Assignment) { s.Exec.MachineID = a.Value.(string) },
	},
	{
		Name: "personality", Flag: "personality", Section: "Exec", Key: "Personality", Arg: RequiredArg, Placeholder: "ARCHITECTURE",
		Group: GroupPersonality, Topic: TopicExec, Trusted: Anyone, Empty: EmptyClears, Since: 209,
		Help:  "What uname(2) tells: the host's architecture, or its 32-bit one",
		List:  personalityList,
		Parse: parsePersonality,
		Set:   func(s *Settings, a Assignment) { s.Exec.Personality = a.Value.(string) },
	},
	{
		Name: "suppress-sync", Flag: "suppress-sync", Section: "Exec", Key: "SuppressSync", Arg: RequiredArg, Placeholder: "BOOL",
		Env:   "SYSTEMD_SUPPRESS_SYNC",
		Group: GroupSuppressSync, Topic: TopicExec, Trusted: Anyone, Empty: EmptyClears, Since: 250,
		Help:  "Don't wait for the disk: sync calls do nothing",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Exec.SuppressSync = a.Value.(bool) },
	},

	// Users.
	{
		Name: "private-users", Flag: "private-users", Section: "Exec", Key: "PrivateUsers", Arg: OptionalArg, Placeholder: "MODE",
		Enum:  []string{"no", "yes", "pick", "identity", "START[:SIZE]"},
		Group: GroupUsers, Topic: TopicUsers, Trusted: TrustedOnly, Since: 220,
		Help:  "Run with users of its own: yes, pick, identity, or a range",
		Parse: parseUsers, ParseKey: parseUsersKey,
		Set: setUsers,
	},
	{
		Name: "private-users-ownership", Flag: "private-users-ownership", Section: "Files", Key: "PrivateUsersOwnership",
		Arg: RequiredArg, Placeholder: "MODE", Enum: []string{"off", "chown", "map", "foreign", "auto"},
		Group: GroupUsers, Topic: TopicUsers, Trusted: TrustedOnly, Since: 249,
		Help:  "How the tree's files get owners that the machine can see",
		Parse: parseOwnership,
		Set:   func(s *Settings, a Assignment) { s.Users.Ownership = a.Value.(userns.Ownership) },
	},
	{
		Name: "private-users-chown", Same: "private-users-ownership", Flag: "private-users-chown",
		Section: "Files", Key: "PrivateUsersChown", Old: "private-users-ownership=chown",
		Group: GroupUsers, Trusted: TrustedOnly, Since: 230,
		Help:  "Old spelling of --private-users-ownership=chown",
		Parse: parseChown,
		Set:   func(s *Settings, a Assignment) { s.Users.Ownership = a.Value.(userns.Ownership) },
	},
	{
		Name: "U", Same: "private-users", Short: 'U',
		Group: GroupUsers, Topic: TopicUsers, Trusted: NoFile, Since: 230,
		Help:  "Same as --private-users=pick",
		Parse: parseU,
		Set:   setUsers,
	},

	// Network.
	{
		Name: "private-network", Flag: "private-network", Section: "Network", Key: "Private",
		Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyClears, Since: 226,
		Help:  "Run with a network of its own, loopback only",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Network.Private = a.Value.(bool) },
	},
	{
		Name: "network-veth", Flag: "network-veth", Short: 'n', Section: "Network", Key: "VirtualEthernet",
		Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyClears, Since: 209,
		Help:  "Join the machine's network with the host's by a virtual cable",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Network.Veth = a.Value.(bool) },
	},
	{
		Name: "network-veth-extra", Flag: "network-veth-extra", Section: "Network", Key: "VirtualEthernetExtra", Arg: RequiredArg, Placeholder: "HOST[:MACHINE]",
		Repeat: true, Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Since: 228,
		Help:  "One more virtual cable, with these names at its ends",
		Parse: parsePair,
		Set:   func(s *Settings, a Assignment) { addLinks(&s.Network.Extra, a) },
	},
	{
		Name: "network-bridge", Flag: "network-bridge", Section: "Network", Key: "Bridge", Arg: RequiredArg, Placeholder: "NAME",
		Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyClears, Since: 209,
		Help:  "Plug the virtual cable into a bridge of the host's",
		Parse: parseInterface,
		Set:   func(s *Settings, a Assignment) { s.Network.Bridge = a.Value.(string) },
	},
	{
		Name: "network-zone", Flag: "network-zone", Section: "Network", Key: "Zone", Arg: RequiredArg, Placeholder: "NAME",
		Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyClears, Since: 230,
		Help:  "Plug it into a bridge for all machines that name the same zone",
		Parse: parseZone,
		Set:   func(s *Settings, a Assignment) { s.Network.Zone = a.Value.(string) },
	},
	{
		Name: "network-macvlan", Flag: "network-macvlan", Section: "Network", Key: "MACVLAN", Arg: RequiredArg, Placeholder: "HOST[:MACHINE]",
		Repeat: true, Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyNothing, Since: 211,
		Help:  "An interface of its own on one of the host's, by macvlan",
		Parse: parseLinks,
		Set:   func(s *Settings, a Assignment) { s.Network.Private = true; addLinks(&s.Network.MACVLAN, a) },
	},
	{
		Name: "network-ipvlan", Flag: "network-ipvlan", Section: "Network", Key: "IPVLAN", Arg: RequiredArg, Placeholder: "HOST[:MACHINE]",
		Repeat: true, Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyNothing, Since: 219,
		Help:  "The same by ipvlan, which shares the hardware address",
		Parse: parseLinks,
		Set:   func(s *Settings, a Assignment) { s.Network.Private = true; addLinks(&s.Network.IPVLAN, a) },
	},
	{
		Name: "network-interface", Flag: "network-interface", Section: "Network", Key: "Interface", Arg: RequiredArg, Placeholder: "HOST[:MACHINE]",
		Repeat: true, Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyNothing, Since: 209,
		Help:  "Move an interface of the host's in, and back at the end",
		Parse: parseLinks,
		Set:   func(s *Settings, a Assignment) { s.Network.Private = true; addLinks(&s.Network.Interfaces, a) },
	},
	{
		Name: "network-namespace-path", Flag: "network-namespace-path", Section: "Network", Key: "NamespacePath", Arg: RequiredArg, Placeholder: "PATH",
		Group: GroupNetwork, Topic: TopicNetwork, Trusted: TrustedOnly, Empty: EmptyClears, Since: 236,
		Help:  "Use a network namespace that is there already",
		Parse: parseNamespace, ParseKey: parseNamespaceKey,
		Set: func(s *Settings, a Assignment) { s.Network.Path = a.Value.(string) },
	},
	{
		Name: "port", Flag: "port", Short: 'p', Section: "Network", Key: "Port", Arg: RequiredArg, Placeholder: "[PROTO:]HOST[:MACHINE]",
		Repeat: true, Group: GroupPorts, Topic: TopicNetwork, Trusted: TrustedOnly, Since: 219,
		Help:  "Forward a port of the host to the machine",
		Parse: parsePort,
		Set: func(s *Settings, a Assignment) {
			p := a.Value.(Port)
			p.Origin = a.Origin
			s.Network.Ports = append(s.Network.Ports, p)
		},
	},

	// Security.
	{
		Name: "capability", Flag: "capability", Section: "Exec", Key: "Capability", Arg: RequiredArg, Placeholder: "CAP[,CAP…]",
		Repeat: true, Group: GroupCapabilities, Topic: TopicLimits, Trusted: TrustedOnly, Empty: EmptyNothing, Since: 186,
		Help:  "Capabilities to add to the default set",
		List:  capList,
		Parse: parseCaps, ParseKey: parseCapsKey,
		Set: func(s *Settings, a Assignment) { s.Exec.AddCaps |= a.Value.(uint64) },
	},
	{
		Name: "drop-capability", Flag: "drop-capability", Section: "Exec", Key: "DropCapability", Arg: RequiredArg, Placeholder: "CAP[,CAP…]",
		Repeat: true, Group: GroupCapabilities, Topic: TopicLimits, Trusted: Tighten, Empty: EmptyNothing, Since: 209,
		Help:  "Capabilities to take from the set",
		List:  capList,
		Parse: parseCaps, ParseKey: parseCapsKey,
		Set:    func(s *Settings, a Assignment) { s.Exec.DropCaps |= a.Value.(uint64) },
		Weaker: func(Settings, Assignment) bool { return false },
	},
	{
		Name: "ambient-capability", Flag: "ambient-capability", Section: "Exec", Key: "AmbientCapability", Arg: RequiredArg, Placeholder: "CAP[,CAP…]",
		Repeat: true, Group: GroupCapabilities, Topic: TopicLimits, Trusted: TrustedOnly, Empty: EmptyNothing, Since: 248,
		Help:  "Capabilities that the command starts with, whoever runs it",
		List:  ambientList,
		Parse: parseAmbient, ParseKey: parseAmbientKey,
		Set: func(s *Settings, a Assignment) { s.Exec.AmbientCaps |= a.Value.(uint64) },
	},
	{
		Name: "no-new-privileges", Flag: "no-new-privileges", Section: "Exec", Key: "NoNewPrivileges", Arg: RequiredArg, Placeholder: "BOOL",
		Group: GroupNoNewPrivs, Topic: TopicLimits, Trusted: Tighten, Empty: EmptyClears, Since: 239,
		Help:   "Programs can't gain rights from setuid files",
		Parse:  parseBool,
		Set:    func(s *Settings, a Assignment) { s.Exec.NoNewPrivileges = a.Value.(bool) },
		Weaker: func(s Settings, a Assignment) bool { return s.Exec.NoNewPrivileges && !a.Value.(bool) },
	},

	{
		Name: "system-call-filter", Flag: "system-call-filter", Section: "Exec", Key: "SystemCallFilter", Arg: RequiredArg, Placeholder: "[~]CALL[ CALL…]",
		Repeat: true, Group: GroupSystemCalls, Topic: TopicLimits, Trusted: Tighten, Empty: EmptyNothing, Since: 235,
		Help:  "System calls to allow, or with ~ to refuse, beside the default",
		Parse: asWritten,
		Set:   func(s *Settings, a Assignment) { s.Exec.SystemCalls = append(s.Exec.SystemCalls, a.Value.(string)) },
		// A list that only refuses makes the machine no weaker.
		Weaker: func(s Settings, a Assignment) bool {
			text, _ := a.Value.(string)
			return !strings.HasPrefix(strings.TrimSpace(text), "~")
		},
	},
	{
		Name: "restrict-address-families", Flag: "restrict-address-families", Section: "Exec", Key: "RestrictAddressFamilies", Arg: RequiredArg, Placeholder: "[~]AF[ AF…]",
		Repeat: true, Group: GroupFamilies, Topic: TopicLimits, Trusted: Tighten, Empty: EmptyClears, Since: 261,
		Help:  "Kinds of sockets to allow, or with ~ to refuse; or none",
		Parse: parseFamilies, ParseKey: parseFamiliesKey,
		Set: func(s *Settings, a Assignment) {
			s.Exec.AddressFamilies = s.Exec.AddressFamilies.add(a.Value.(Families))
		},
		// What comes on top may allow more as well as less.
		Weaker: func(s Settings, _ Assignment) bool { return s.Exec.AddressFamilies.Mode != FamiliesAny },
	},
	{
		Name: "selinux-context", Flag: "selinux-context", Short: 'Z', Arg: RequiredArg, Placeholder: "LABEL",
		Group: GroupSELinux, Topic: TopicLimits, Trusted: NoFile, Since: 209,
		Help:  "SELinux label of the machine's processes",
		Parse: parseSELinux,
		Set:   func(s *Settings, a Assignment) { s.SELinux.Process = a.Value.(string) },
	},
	{
		Name: "selinux-apifs-context", Flag: "selinux-apifs-context", Short: 'L', Arg: RequiredArg, Placeholder: "LABEL",
		Group: GroupSELinux, Topic: TopicLimits, Trusted: NoFile, Since: 209,
		Help:  "SELinux label of the files on the machine's own file systems",
		Parse: parseSELinux,
		Set:   func(s *Settings, a Assignment) { s.SELinux.Files = a.Value.(string) },
	},
	{
		Name: "rlimit", Flag: "rlimit", Arg: RequiredArg, Placeholder: "NAME=SOFT[:HARD]",
		Repeat: true, Group: GroupLimits, Topic: TopicLimits, Trusted: NoFile, Since: 239,
		Help:  "Resource limit of the command",
		List:  limitList,
		Parse: parseRlimit,
		Row:   func(value any) string { return "limit-" + strings.ToLower(value.(Rlimit).Name) },
		Set:   setRlimit,
	},
	{
		Name: "limit-cpu", Section: "Exec", Key: "LimitCPU",
		Group: "limit CPU", Trusted: TrustedOnly, Since: 239,
		Help:  "Processor time",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("CPU", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-fsize", Section: "Exec", Key: "LimitFSIZE",
		Group: "limit FSIZE", Trusted: TrustedOnly, Since: 239,
		Help:  "Size of a file",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("FSIZE", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-data", Section: "Exec", Key: "LimitDATA",
		Group: "limit DATA", Trusted: TrustedOnly, Since: 239,
		Help:  "Data of a process",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("DATA", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-stack", Section: "Exec", Key: "LimitSTACK",
		Group: "limit STACK", Trusted: TrustedOnly, Since: 239,
		Help:  "Stack of a process",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("STACK", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-core", Section: "Exec", Key: "LimitCORE",
		Group: "limit CORE", Trusted: TrustedOnly, Since: 239,
		Help:  "Size of a core dump",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("CORE", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-rss", Section: "Exec", Key: "LimitRSS",
		Group: "limit RSS", Trusted: TrustedOnly, Since: 239,
		Help:  "Memory in use (the kernel ignores it)",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("RSS", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-nofile", Section: "Exec", Key: "LimitNOFILE",
		Group: "limit NOFILE", Trusted: TrustedOnly, Since: 239,
		Help:  "Open files",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("NOFILE", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-as", Section: "Exec", Key: "LimitAS",
		Group: "limit AS", Trusted: TrustedOnly, Since: 239,
		Help:  "Address space",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("AS", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-nproc", Section: "Exec", Key: "LimitNPROC",
		Group: "limit NPROC", Trusted: TrustedOnly, Since: 239,
		Help:  "Processes of a user",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("NPROC", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-memlock", Section: "Exec", Key: "LimitMEMLOCK",
		Group: "limit MEMLOCK", Trusted: TrustedOnly, Since: 239,
		Help:  "Locked memory",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("MEMLOCK", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-locks", Section: "Exec", Key: "LimitLOCKS",
		Group: "limit LOCKS", Trusted: TrustedOnly, Since: 239,
		Help:  "File locks (the kernel ignores it)",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("LOCKS", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-sigpending", Section: "Exec", Key: "LimitSIGPENDING",
		Group: "limit SIGPENDING", Trusted: TrustedOnly, Since: 239,
		Help:  "Pending signals",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("SIGPENDING", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-msgqueue", Section: "Exec", Key: "LimitMSGQUEUE",
		Group: "limit MSGQUEUE", Trusted: TrustedOnly, Since: 239,
		Help:  "Message queues",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("MSGQUEUE", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-nice", Section: "Exec", Key: "LimitNICE",
		Group: "limit NICE", Trusted: TrustedOnly, Since: 239,
		Help:  "Nice level that may be taken",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("NICE", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-rtprio", Section: "Exec", Key: "LimitRTPRIO",
		Group: "limit RTPRIO", Trusted: TrustedOnly, Since: 239,
		Help:  "Real-time priority that may be taken",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("RTPRIO", text) },
		Set:   setRlimit,
	},
	{
		Name: "limit-rttime", Section: "Exec", Key: "LimitRTTIME",
		Group: "limit RTTIME", Trusted: TrustedOnly, Since: 239,
		Help:  "Real-time run without a pause",
		Parse: func(_ Place, text string) (any, error) { return parseLimit("RTTIME", text) },
		Set:   setRlimit,
	},
	{
		Name: "oom-score-adjust", Flag: "oom-score-adjust", Section: "Exec", Key: "OOMScoreAdjust", Arg: RequiredArg, Placeholder: "NUMBER",
		Group: GroupOOM, Topic: TopicLimits, Trusted: TrustedOnly, Empty: EmptyClears, Since: 239,
		Help:  "Who is killed first when memory is short: -1000 last, 1000 first",
		Parse: parseOOM,
		Set:   func(s *Settings, a Assignment) { s.Exec.OOMScore = a.Value.(OOMScore) },
	},
	{
		Name: "cpu-affinity", Flag: "cpu-affinity", Section: "Exec", Key: "CPUAffinity", Arg: RequiredArg, Placeholder: "LIST",
		Repeat: true, Group: GroupCPUs, Topic: TopicLimits, Trusted: TrustedOnly, Empty: EmptyClears, Since: 239,
		Help:  "Processors to run on, as in 0,2-4",
		Parse: parseCPUs, ParseKey: parseCPUsKey,
		Set: setCPUs,
	},

	// Mounts.
	{
		Name: "bind", Flag: "bind", Section: "Files", Key: "Bind", Arg: RequiredArg, Placeholder: "SOURCE[:TARGET[:OPTIONS]]",
		Repeat: true, Group: GroupMounts, Topic: TopicMounts, Trusted: TrustedOnly, Since: 198,
		Help:  "Show a file or directory of the host",
		Parse: func(p Place, text string) (any, error) { return parseBind(text, p.Cwd, false) },
		Set:   addMount,
	},
	{
		Name: "bind-ro", Flag: "bind-ro", Section: "Files", Key: "BindReadOnly", Arg: RequiredArg, Placeholder: "SOURCE[:TARGET[:OPTIONS]]",
		Repeat: true, Group: GroupMounts, Topic: TopicMounts, Trusted: TrustedOnly, Since: 198,
		Help:  "The same, read-only",
		Parse: func(p Place, text string) (any, error) { return parseBind(text, p.Cwd, true) },
		Set:   addMount,
	},
	{
		Name: "tmpfs", Flag: "tmpfs", Section: "Files", Key: "TemporaryFileSystem", Arg: RequiredArg, Placeholder: "TARGET[:OPTIONS]",
		Repeat: true, Group: GroupMounts, Topic: TopicMounts, Trusted: TrustedOnly, Since: 214,
		Help:  "Mount an empty tmpfs",
		Parse: func(_ Place, text string) (any, error) { return mount.ParseTmpfs(text) },
		Set:   addMount,
	},
	{
		Name: "overlay", Flag: "overlay", Section: "Files", Key: "Overlay", Arg: RequiredArg, Placeholder: "LOWER[:LOWER…]:UPPER:TARGET",
		Repeat: true, Group: GroupMounts, Topic: TopicMounts, Trusted: TrustedOnly, Since: 220,
		Help:  "Lay directories of the host over each other",
		Parse: func(p Place, text string) (any, error) { return mount.ParseOverlay(text, p.Cwd, false) },
		Set:   addMount,
	},
	{
		Name: "overlay-ro", Flag: "overlay-ro", Section: "Files", Key: "OverlayReadOnly", Arg: RequiredArg, Placeholder: "LOWER[:LOWER…]:UPPER:TARGET",
		Repeat: true, Group: GroupMounts, Topic: TopicMounts, Trusted: TrustedOnly, Since: 220,
		Help:  "The same, read-only",
		Parse: func(p Place, text string) (any, error) { return mount.ParseOverlay(text, p.Cwd, true) },
		Set:   addMount,
	},
	{
		Name: "inaccessible", Flag: "inaccessible", Section: "Files", Key: "Inaccessible", Arg: RequiredArg, Placeholder: "TARGET",
		Repeat: true, Group: GroupMounts, Topic: TopicMounts, Trusted: TrustedOnly, Since: 242,
		Help:  "Hide a file or directory of the tree",
		Parse: func(_ Place, text string) (any, error) { return mount.ParseInaccessible(text) },
		Set:   addMount,
	},

	// Users of the host.
	{
		Name: "bind-user", Flag: "bind-user", Section: "Files", Key: "BindUser", Arg: RequiredArg, Placeholder: "USER",
		Repeat: true, Group: GroupBindUser, Topic: TopicUsers, Trusted: TrustedOnly, Empty: EmptyClears, Since: 249,
		Help:  "Have a user of the host in the machine, with the home directory",
		Parse: parseBindUser, ParseKey: parseBindUserKey,
		Set: addBoundUser,
	},
	{
		Name: "bind-user-shell", Flag: "bind-user-shell", Section: "Files", Key: "BindUserShell", Arg: RequiredArg, Placeholder: "SHELL",
		Enum:  []string{"yes", "no"},
		Group: GroupBindUserShell, Topic: TopicUsers, Trusted: TrustedOnly, Empty: EmptyClears, Since: 258,
		Help:  "Shell of those users: the one they have on the host, or a path",
		Parse: parseBindShell,
		Set:   func(s *Settings, a Assignment) { s.Bound.Shell = a.Value.(string) },
	},
	{
		Name: "bind-user-group", Flag: "bind-user-group", Arg: RequiredArg, Placeholder: "GROUP",
		Repeat: true, Group: GroupBindUserGroup, Topic: TopicUsers, Trusted: NoFile, Since: 259,
		Help:  "Group of the machine's that those users are in, too",
		Parse: parseBindGroup,
		Set:   addBoundGroup,
	},

	// Integration.
	{
		Name: "resolv-conf", Flag: "resolv-conf", Section: "Exec", Key: "ResolvConf", Arg: RequiredArg, Placeholder: "MODE",
		Enum:  resolvModes[:],
		Group: GroupResolvConf, Topic: TopicLife, Trusted: Anyone, Since: 239,
		Help:  "How the machine resolves names: the host's way, or its own",
		Parse: parseResolvConf,
		Set:   func(s *Settings, a Assignment) { s.Host.ResolvConf = a.Value.(string) },
	},
	{
		Name: "timezone", Flag: "timezone", Section: "Exec", Key: "Timezone", Arg: RequiredArg, Placeholder: "MODE",
		Enum:  zoneModes[:],
		Group: GroupTimezone, Topic: TopicLife, Trusted: Anyone, Since: 239,
		Help:  "Where the machine's time zone comes from",
		Parse: parseTimezone,
		Set:   func(s *Settings, a Assignment) { s.Host.Timezone = a.Value.(string) },
	},
	{
		Name: "link-journal", Flag: "link-journal", Section: "Exec", Key: "LinkJournal", Arg: RequiredArg, Placeholder: "MODE",
		Enum:  journalModes[:],
		Group: GroupLinkJournal, Topic: TopicLife, Trusted: TrustedOnly, Since: 187,
		Help:  "Where the machine's journal is kept, so that the host sees it",
		Parse: parseLinkJournal,
		Set:   func(s *Settings, a Assignment) { s.Host.LinkJournal = a.Value.(string) },
	},
	{
		Name: "j", Same: "link-journal", Short: 'j',
		Group: GroupLinkJournal, Topic: TopicLife, Trusted: NoFile, Since: 187,
		Help:  "Same as --link-journal=try-guest",
		Parse: func(Place, string) (any, error) { return "try-guest", nil },
		Set:   func(s *Settings, a Assignment) { s.Host.LinkJournal = a.Value.(string) },
	},
	{
		Name: "forward-journal", Flag: "forward-journal", Arg: RequiredArg, Placeholder: "FILE|DIR",
		Group: GroupForward, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "Keep what the machine's journal says on the host",
		Parse: parseForward,
		Set:   func(s *Settings, a Assignment) { s.Host.Forward.To = a.Value.(string) },
	},
	{
		Name: "forward-journal-max-use", Flag: "forward-journal-max-use", Arg: RequiredArg, Placeholder: "BYTES",
		Group: GroupForward, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "How much those files may take",
		Parse: parseForwardSize,
		Set:   func(s *Settings, a Assignment) { s.Host.Forward.MaxUse = a.Value.(string) },
	},
	{
		Name: "forward-journal-keep-free", Flag: "forward-journal-keep-free", Arg: RequiredArg, Placeholder: "BYTES",
		Group: GroupForward, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "How much they leave free",
		Parse: parseForwardSize,
		Set:   func(s *Settings, a Assignment) { s.Host.Forward.KeepFree = a.Value.(string) },
	},
	{
		Name: "forward-journal-max-file-size", Flag: "forward-journal-max-file-size", Arg: RequiredArg, Placeholder: "BYTES",
		Group: GroupForward, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "How long one of them may be",
		Parse: parseForwardSize,
		Set:   func(s *Settings, a Assignment) { s.Host.Forward.MaxFileSize = a.Value.(string) },
	},
	{
		Name: "forward-journal-max-files", Flag: "forward-journal-max-files", Arg: RequiredArg, Placeholder: "N",
		Group: GroupForward, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "How many of them there may be",
		Parse: parseForwardCount,
		Set:   func(s *Settings, a Assignment) { s.Host.Forward.MaxFiles = a.Value.(string) },
	},
	{
		Name: "set-credential", Flag: "set-credential", Arg: RequiredArg, Placeholder: "ID:VALUE", Repeat: true,
		Group: GroupCredentials, Topic: TopicLife, Trusted: NoFile, Since: 247,
		Help:  "Give the machine a credential",
		Parse: parseSetCredential,
		Set:   addCredential,
	},
	{
		Name: "load-credential", Flag: "load-credential", Arg: RequiredArg, Placeholder: "ID:PATH", Repeat: true,
		Group: GroupCredentials, Topic: TopicLife, Trusted: NoFile, Since: 247,
		Help:  "Give the machine a credential that is read from a file or socket",
		Parse: parseLoadCredential,
		Set:   addCredential,
	},
	{
		Name: "console", Flag: "console", Arg: RequiredArg, Placeholder: "MODE",
		Enum:  []string{"interactive", "read-only", "passive", "pipe", "autopipe"},
		Group: GroupConsole, Topic: TopicLife, Trusted: NoFile, Since: 242,
		Help:  "What the command has as input and output",
		Parse: parseConsole,
		Set:   func(s *Settings, a Assignment) { s.Life.Console = a.Value.(Console) },
	},
	{
		Name: "pipe", Same: "console", Flag: "pipe", Short: 'P',
		Group: GroupConsole, Topic: TopicLife, Trusted: NoFile, Since: 242,
		Help:  "Same as --console=pipe",
		Parse: func(Place, string) (any, error) { return ConsolePipe, nil },
		Set:   func(s *Settings, a Assignment) { s.Life.Console = a.Value.(Console) },
	},
	{
		Name: "register", Flag: "register", Arg: RequiredArg, Placeholder: "MODE", Enum: []string{"yes", "no", "auto"},
		Group: GroupRegister, Topic: TopicLife, Trusted: NoFile, Since: 209,
		Help:  "Tell systemd-machined about the machine",
		Parse: parseAuto,
		Set:   func(s *Settings, a Assignment) { s.Life.Register = a.Value.(Auto) },
	},
	{
		Name: "notify-ready", Flag: "notify-ready", Section: "Exec", Key: "NotifyReady", Arg: RequiredArg, Placeholder: "BOOL",
		Group: GroupNotifyReady, Topic: TopicLife, Trusted: Anyone, Empty: EmptyClears, Since: 231,
		Help:  "Wait for the machine to say that it is ready",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Life.NotifyReady = a.Value.(bool) },
	},
	{
		Name: "keep-unit", Flag: "keep-unit",
		Group: GroupKeepUnit, Topic: TopicLife, Trusted: NoFile, Since: 209,
		Help:  "Stay in the launcher's own unit",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Life.KeepUnit = a.Value.(bool) },
	},
	{
		Name: "system", Flag: "system",
		Group: GroupManager, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "Be a machine of the system's service manager (the default)",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Unit.User = false },
	},
	{
		Name: "user", Same: "system", Flag: "user", Arg: LooseArg, Placeholder: "USER", Old: "uid",
		Group: GroupManager, Topic: TopicLife, Trusted: NoFile, Since: 261,
		Help:  "Be a machine of the user's own service manager",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Unit.User = true },
	},
	{
		Name: "slice", Flag: "slice", Short: 'S', Arg: RequiredArg, Placeholder: "SLICE",
		Group: GroupSlice, Topic: TopicLife, Trusted: NoFile, Since: 206,
		Help:  "Where the machine's scope unit is",
		Parse: parseSlice,
		Set:   func(s *Settings, a Assignment) { s.Unit.Slice = a.Value.(string) },
	},
	{
		Name: "property", Flag: "property", Arg: RequiredArg, Placeholder: "NAME=VALUE", Repeat: true,
		Group: GroupProperty, Topic: TopicLife, Trusted: NoFile, Since: 220,
		Help:  "Set a property of the machine's scope unit",
		Parse: parseProperty,
		Set: func(s *Settings, a Assignment) {
			// Each in its turn: to some lists an empty value means to begin anew.
			s.Unit.Properties = append(s.Unit.Properties, a.Value.(string))
		},
	},
	{
		Name: "quiet", Flag: "quiet", Short: 'q',
		Group: GroupQuiet, Topic: TopicLife, Trusted: NoFile, Since: 209,
		Help:  "No status messages",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Life.Quiet = a.Value.(bool) },
	},
	{
		Name: "share-system", Flag: "share-system", Env: "SYSTEMD_NSPAWN_SHARE_SYSTEM",
		Group: GroupNamespaces, Topic: TopicExec, Trusted: NoFile,
		Help:   "Share the host's ipc, pid and uts namespaces",
		Parse:  parseBool,
		Notice: func(v any) string { return when(v.(bool), "the machine shares the host's ipc, pid and uts namespaces") },
		Set: func(s *Settings, a Assignment) {
			if a.Value.(bool) {
				s.Environment.ShareIPC, s.Environment.SharePID, s.Environment.ShareUTS = true, true, true
			}
		},
	},

	// What only the environment says. systemd-nspawn has these switches for
	// tests and for emergencies; they are no settings of a machine.
	{
		Name: "share-ipc", Env: "SYSTEMD_NSPAWN_SHARE_NS_IPC", Group: GroupNamespaces, Trusted: NoFile,
		Help:   "Share the host's ipc namespace",
		Parse:  parseBool,
		Notice: func(v any) string { return when(v.(bool), "the machine shares the host's ipc namespace") },
		Set:    func(s *Settings, a Assignment) { s.Environment.ShareIPC = s.Environment.ShareIPC || a.Value.(bool) },
	},
	{
		Name: "share-pid", Env: "SYSTEMD_NSPAWN_SHARE_NS_PID", Group: GroupNamespaces, Trusted: NoFile,
		Help:   "Share the host's pid namespace",
		Parse:  parseBool,
		Notice: func(v any) string { return when(v.(bool), "the machine shares the host's pid namespace") },
		Set:    func(s *Settings, a Assignment) { s.Environment.SharePID = s.Environment.SharePID || a.Value.(bool) },
	},
	{
		Name: "share-uts", Env: "SYSTEMD_NSPAWN_SHARE_NS_UTS", Group: GroupNamespaces, Trusted: NoFile,
		Help:   "Share the host's uts namespace",
		Parse:  parseBool,
		Notice: func(v any) string { return when(v.(bool), "the machine shares the host's uts namespace") },
		Set:    func(s *Settings, a Assignment) { s.Environment.ShareUTS = s.Environment.ShareUTS || a.Value.(bool) },
	},
	{
		Name: "api-vfs-writable", Env: "SYSTEMD_NSPAWN_API_VFS_WRITABLE", Group: GroupSwitches, Trusted: NoFile,
		Help:  "Whether /proc/sys and /sys may be written to",
		Parse: parseAPI,
		Notice: func(v any) string {
			switch v.(API) {
			case APIWritable:
				return "the machine may write to /proc/sys and /sys"
			case APINetwork:
				return "the machine may write to /proc/sys/net"
			}
			return ""
		},
		Set: func(s *Settings, a Assignment) { s.Environment.API = a.Value.(API) },
	},
	{
		Name: "tmpfs-tmp", Env: "SYSTEMD_NSPAWN_TMPFS_TMP", Group: GroupSwitches, Trusted: NoFile,
		Help:  "Whether /tmp is a tmpfs",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Environment.NoTmpfsTmp = !a.Value.(bool) },
	},
	{
		Name: "use-cgroup-namespace", Env: "SYSTEMD_NSPAWN_USE_CGNS", Group: GroupSwitches, Trusted: NoFile,
		Help:  "Whether the machine has a cgroup namespace of its own",
		Parse: parseBool,
		Notice: func(v any) string {
			return when(!v.(bool), "the machine sees the host's cgroups: it has no cgroup namespace")
		},
		Set: func(s *Settings, a Assignment) { s.Environment.NoCgroupNamespace = !a.Value.(bool) },
	},
	{
		Name: "container-service", Env: "SYSTEMD_NSPAWN_CONTAINER_SERVICE", Group: GroupSwitches, Trusted: NoFile,
		Help:  "What the machine is told of who runs it",
		Parse: parseService,
		Set:   func(s *Settings, a Assignment) { s.Environment.Service = a.Value.(string) },
	},
	{
		Name: "network-mac", Env: "SYSTEMD_NSPAWN_NETWORK_MAC", Group: GroupSwitches, Trusted: NoFile, Since: 255,
		Help:  "The hardware address of host0, in the machine",
		Parse: parseMAC,
		Set:   func(s *Settings, a Assignment) { s.Environment.MAC = a.Value.(string) },
	},
	{
		Name: "check-os-release", Env: "SYSTEMD_NSPAWN_CHECK_OS_RELEASE", Group: GroupSwitches, Trusted: NoFile,
		Help:  "Whether a tree to boot must have an os-release file",
		Parse: parseBool,
		Notice: func(v any) string {
			return when(!v.(bool), "whether the tree holds an operating system is not checked")
		},
		Set: func(s *Settings, a Assignment) { s.Environment.AnyTree = !a.Value.(bool) },
	},
	{
		Name: "lock", Env: "SYSTEMD_NSPAWN_LOCK", Group: GroupSwitches, Trusted: NoFile,
		Help:  "Whether others are kept from using the tree",
		Parse: parseBool,
		Notice: func(v any) string {
			return when(!v.(bool), "others can use the tree at the same time: it is not locked")
		},
		Set: func(s *Settings, a Assignment) { s.Environment.Unlocked = !a.Value.(bool) },
	},
	{
		Name: "seccomp", Env: "SYSTEMD_SECCOMP", Group: GroupSwitches, Trusted: NoFile,
		Help:   "Whether there are system-call filters",
		Parse:  parseBool,
		Notice: func(v any) string { return when(!v.(bool), "the machine has no system-call filter") },
		Set:    func(s *Settings, a Assignment) { s.Exec.Unfiltered = !a.Value.(bool) },
	},
	{
		Name: "terminal-title", Env: "SYSTEMD_ADJUST_TERMINAL_TITLE", Group: GroupSwitches, Trusted: NoFile,
		Help:  "Whether the window has the machine's name as its title",
		Parse: parseBool,
		Set:   func(s *Settings, a Assignment) { s.Environment.NoTitle = !a.Value.(bool) },
	},
	{
		Name: "log-level", Env: "SYSTEMD_LOG_LEVEL", Group: GroupSwitches, Trusted: NoFile,
		Help:  "From err on, warnings and status messages are left out",
		Parse: asWritten,
		Set: func(s *Settings, a Assignment) {
			s.Life.ErrorsOnly = onlyErrors(a.Value.(string))
			s.Life.Quiet = s.Life.Quiet || s.Life.ErrorsOnly
		},
	},

	// The launcher's own.
	{
		Name: "settings", Flag: "settings", Arg: RequiredArg, Placeholder: "MODE", Enum: []string{"yes", "no", "override", "trusted"},
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile, Since: 226,
		Help:  "Whether to read MACHINE.nspawn, and what it may say",
		Parse: parseFileMode,
	},
	{
		Name: "plan", Flag: "plan", Arg: OptionalArg, Placeholder: "FORMAT", Enum: []string{"text", "json"},
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile,
		Help:  "Print what would be done, and do nothing",
		Parse: parsePlan,
	},
	{
		Name: "cleanup", Flag: "cleanup",
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile, Since: 257,
		Help:  "Remove what an earlier run has left",
		Parse: parseBool,
	},
	{
		Name: "no-pager", Flag: "no-pager",
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile,
		Help:  "Accepted; nothing is ever shown in a pager",
		Parse: parseBool,
	},
	{
		Name: "no-ask-password", Flag: "no-ask-password",
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile, Since: 258,
		Help:  "Accepted; nothing ever asks for a password",
		Parse: parseBool,
	},
	{
		Name: "background", Flag: "background", Arg: RequiredArg, Placeholder: "COLOR",
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile, Since: 256,
		Help:  "Accepted; the terminal's background stays as it is",
		Parse: parseBackground,
	},
	{
		Name: "help", Flag: "help", Short: 'h',
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile,
		Help:  "Show this text",
		Parse: parseBool,
	},
	{
		Name: "version", Flag: "version",
		Group: GroupLauncher, Topic: TopicOther, Trusted: NoFile,
		Help:  "Show the version",
		Parse: parseBool,
	},

	// Known, but not supported yet. They are in the table so that an
	// abbreviation means what it means to systemd-nspawn, and so that nobody
	// is told that a well-known option doesn't exist.
	{Name: "private-users-delegate", Flag: "private-users-delegate", Section: "Exec", Key: "PrivateUsersDelegate", Arg: RequiredArg, Repeat: true, Group: GroupLater, Trusted: TrustedOnly, Later: true, Parse: asWritten},
}
