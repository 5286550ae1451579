package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/facts"
	"launch/internal/mstack"
	"launch/internal/origin"
	"launch/mount"
	"launch/settings"
	"launch/userns"
	"launch/userns/record"
)

var update = flag.Bool("update", false, "write the goldens anew")

// noLimits are the limits of a host that has none.
func noLimits() (l [16][2]uint64) {
	for i := range l {
		l[i] = [2]uint64{settings.Infinity, settings.Infinity}
	}
	return l
}

// host and root are a plain Debian host and tree.
var host = facts.Host{
	Known: true, Root: true, Hostname: "host", OSRelease: "/etc/os-release",
	OSFields: facts.OSFields{ID: "debian", VersionID: "12"},
	Cgroup:   "/", CgroupMount: "/sys/fs/cgroup", Fuse: 0o666, Tun: 0o600,
	Processes: [2]uint64{100, 200}, Signals: [2]uint64{300, 300}, OpenMax: 1 << 20,
	Limits: noLimits(), Raise: true, Caps: 1<<41 - 1, UserNamespaces: true,
}

var root = facts.Root{
	Known: true, Bin: facts.Link, Usr: facts.Dir, Var: facts.Dir, UsrBin: facts.Dir, UsrLib: facts.Dir,
	UsrSbin: facts.Dir, Loader64: "usr/lib64", OSRelease: true, MachineID: "0123456789abcdef0123456789abcdef",
}

func option(name string) origin.Origin {
	return origin.Origin{Source: origin.CommandLine, Path: "--" + name}
}

// parse gives a mount as the command line says it.
func bind(text string) mount.Mount {
	m, err := mount.ParseBind(text, "/", false)
	if err != nil {
		panic(err)
	}
	m.Origin = option("bind")
	return m
}

// bound gives a user of the host's as most are.
func bound(name string, id uint32) facts.Bound {
	return facts.Bound{Name: name, Known: true, Found: true, From: "/etc/passwd", Home: facts.Dir, Group: record.Group{Name: name, GID: id},
		User: record.User{Name: name, UID: id, GID: id, HasUID: true, Home: "/home/" + name, Shell: "/bin/bash"}}
}

var cases = map[string]func(s *settings.Settings, f *facts.Facts){
	"plain": func(s *settings.Settings, f *facts.Facts) {},
	"boot": func(s *settings.Settings, f *facts.Facts) {
		s.Exec.Mode = settings.Boot
		s.Exec.Words = []string{"--log-level=debug", "A-B=1", "a.b=2"}
	},
	"pick": func(s *settings.Settings, f *facts.Facts) { s.Users.Mode = userns.Pick },
	"map": func(s *settings.Settings, f *facts.Facts) {
		s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 1310720, Size: 65536}, Ownership: userns.MapIt}
	},
	"bind-user": func(s *settings.Settings, f *facts.Facts) {
		s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 1310720, Size: 65536}, Ownership: userns.MapIt}
		s.Bound = settings.Bound{Users: []settings.BoundUser{{Name: "joe", Origin: option("bind-user")}, {Name: "ann", Origin: option("bind-user")}}, Shell: settings.HostShell, Groups: []string{"wheel"}}
		s.Mounts = []mount.Mount{bind("/srv:/run/host/home/joe/srv"), bind("/opt")}
		f.Bound = []facts.Bound{bound("joe", 1500), bound("ann", 1600)}
		f.Bound[1].User.Passwords = []string{"$6$never$shown"}
		f.Taken = facts.Taken{Known: true, IDs: []uint32{60514, 60516}}
	},
	"forward-journal": func(s *settings.Settings, f *facts.Facts) {
		s.Host.Forward = settings.Forward{To: "/var/log/web/all.journal", MaxUse: "1048576", MaxFiles: "3"}
		s.Credentials = []settings.Credential{{ID: "other", Value: "x", Origin: option("set-credential")}}
		f.Receiver = facts.Receiver{Known: true, Path: "/opt/systemd-journal-remote"}
	},
	"saved": func(s *settings.Settings, f *facts.Facts) { s.Image.Mounts = "/srv/web.mounts" },
	"selinux": func(s *settings.Settings, f *facts.Facts) {
		f.Host.SELinux = true
		s.SELinux = settings.SELinux{Process: "system_u:system_r:container_t:s0:c1,c2", Files: "system_u:object_r:container_file_t:s0:c1,c2"}
		s.Network.Private, s.Image.Volatile = true, settings.VolatileState
		s.Mounts = []mount.Mount{{Kind: mount.Tmpfs, Target: "/t", Options: "size=1M", Origin: option("tmpfs")},
			{Kind: mount.Tmpfs, Target: "/own", Options: "context=a:b:c", Origin: option("tmpfs")}, bind("/srv/a:/x")}
	},
	"selinux-pid2": func(s *settings.Settings, f *facts.Facts) {
		f.Host.SELinux = true
		s.SELinux.Process = "system_u:system_r:container_t:s0"
		s.Exec.Mode = settings.PID2
		s.Users.Mode = userns.Pick
	},
	"suppress-sync": func(s *settings.Settings, f *facts.Facts) { s.Exec.SuppressSync = true },
	"calls-refused": func(s *settings.Settings, f *facts.Facts) { s.Exec.SystemCalls = []string{"~mount_setattr"} },
	"filters-refused": func(s *settings.Settings, f *facts.Facts) {
		s.Exec.SystemCalls, s.Exec.SuppressSync = []string{"~seccomp"}, true
	},
	"as-pid2": func(s *settings.Settings, f *facts.Facts) { s.Exec.Mode = settings.PID2 },
	"network": func(s *settings.Settings, f *facts.Facts) { s.Network.Private = true },
	"veth": func(s *settings.Settings, f *facts.Facts) {
		s.Network = settings.Network{Private: true, Veth: true}
		s.Machine = "averylongcontainername"
		f.Network = facts.Network{Known: true, HostID: "0123456789abcdef0123456789abcdef"}
	},
	"veth-managed": func(s *settings.Settings, f *facts.Facts) {
		s.Network = settings.Network{Private: true, Veth: true}
		s.Machine, s.Exec.Mode, s.Environment.MAC = "foo", settings.Boot, "020000000001"
		f.Network = facts.Network{Known: true, HostID: "0123456789abcdef0123456789abcdef", Managed: true}
		f.Watches = facts.Watches{Known: true, Few: true, Most: 128}
	},
	"ports": func(s *settings.Settings, f *facts.Facts) {
		s.Network = settings.Network{Private: true, Veth: true, Ports: []settings.Port{
			{Protocol: "tcp", Host: 8080, Machine: 80, Origin: option("port")}, {Protocol: "udp", Host: 53, Machine: 53, Origin: option("port")}}}
		f.Network = facts.Network{Known: true}
	},
	"links": func(s *settings.Settings, f *facts.Facts) {
		said := func(name string, links ...settings.Link) []settings.Link {
			for i := range links {
				links[i].Origin = option(name)
			}
			return links
		}
		s.Network = settings.Network{Private: true, Veth: true, Zone: "backend", Extra: said("network-veth-extra", settings.Link{Host: "a"}, settings.Link{Host: "b", Machine: "c"}),
			MACVLAN:    said("network-macvlan", settings.Link{Host: "fifteenbytes123"}, settings.Link{Host: "eth1", Machine: "lan"}),
			IPVLAN:     said("network-ipvlan", settings.Link{Host: "eth1"}),
			Interfaces: said("network-interface", settings.Link{Host: "eth2"}, settings.Link{Host: "eth3", Machine: "wan"})}
		f.Network = facts.Network{Known: true, HostID: "0123456789abcdef0123456789abcdef"}
	},
	"bridge-managed": func(s *settings.Settings, f *facts.Facts) {
		s.Network = settings.Network{Private: true, Veth: true, Bridge: "br0", Extra: []settings.Link{{Host: "a"}}}
		s.Exec.Mode = settings.Boot
		f.Network = facts.Network{Known: true, HostID: "0123456789abcdef0123456789abcdef", Managed: true}
	},
	"network-path": func(s *settings.Settings, f *facts.Facts) {
		s.Network.Path, s.Users = "/run/netns/x", settings.Users{Mode: userns.Pick}
	},
	"network-path-private": func(s *settings.Settings, f *facts.Facts) {
		s.Network = settings.Network{Path: "/run/netns/x", Private: true}
	},
	"read-only": func(s *settings.Settings, f *facts.Facts) { s.Image.ReadOnly = true },
	"sandbox": func(s *settings.Settings, f *facts.Facts) {
		s.Image.ReadOnly, s.Profile = true, "sandbox"
		s.Mounts = []mount.Mount{bind("/srv:/srv/a"), bind("/mnt:/mnt/b"), bind("/opt:/mnt/b/c/d"), {Kind: mount.Tmpfs, Target: "/foo", Options: "size=1m,what=1"},
			bind("/usr:/foobar"), bind("/tmp:/tmp/x")}
		s.Mounts[1].ReadOnly = true
	},
	"overlay-all": func(s *settings.Settings, f *facts.Facts) {
		s.Image.OverlayAll = true
		s.Mounts = []mount.Mount{bind("/srv"), {Kind: mount.Overlay, Target: "/mnt", Lower: []mount.Path{{Path: "/a"}}, Source: mount.Path{Path: "/b"}, Origin: option("overlay")}, bind("/opt")}
		s.Mounts[2].ReadOnly = true
	},
	"ephemeral": func(s *settings.Settings, f *facts.Facts) {
		s.Image.Ephemeral = true
		s.Users = settings.Users{Mode: userns.Pick}
		f.Root.Path = "/real/srv/m"
	},
	"ephemeral-mounted": func(s *settings.Settings, f *facts.Facts) { s.Image.Ephemeral, f.Root.MountPoint = true, true },
	"template": func(s *settings.Settings, f *facts.Facts) {
		s.Image.Template, s.Image.ReadOnly = "/srv/base", true
		f.Root.Path, f.Root.Missing, f.Root.Parent = "/srv/base", true, "/real/srv"
	},
	"volatile-yes":     func(s *settings.Settings, f *facts.Facts) { s.Image.Volatile = settings.VolatileYes },
	"volatile-state":   func(s *settings.Settings, f *facts.Facts) { s.Image.Volatile = settings.VolatileState },
	"volatile-overlay": func(s *settings.Settings, f *facts.Facts) { s.Image.Volatile = settings.VolatileOverlay },
	"terminal": func(s *settings.Settings, f *facts.Facts) {
		f.Host.StdinTTY, f.Host.StdoutTTY, f.Host.Term = true, true, "xterm"
	},
	// A host with systemd.
	"scope": func(s *settings.Settings, f *facts.Facts) {
		f.Host.Systemd, f.Host.Cgroup = true, "/user.slice/session-1.scope"
		s.Exec.Mode, s.Machine = settings.Boot, "web-1"
		s.Mounts = []mount.Mount{bind("/dev/kvm"), bind("/srv"), bind("/srv/disk:/disk"), bind("/srv/card:/card"), bind("/dev/dri")}
		s.Mounts[2].ReadOnly = true
		f.Devices = []facts.Device{{Path: "/dev/kvm", Major: 10, Minor: 232}, {Path: "/srv/disk", Block: true, Major: 8, Minor: 1}, {Path: "/srv/card", Major: 226}}
		s.Unit = settings.Unit{Slice: "a-b.slice", Properties: []string{"MemoryMax=1G", "DeviceAllow=/dev/kvm r"}}
	},
	"scope-plain": func(s *settings.Settings, f *facts.Facts) { f.Host.Systemd, s.Life.Register = true, settings.Yes },
	// One of root's own manager, which needs no systemd of the system's.
	"scope-user": func(s *settings.Settings, f *facts.Facts) { s.Unit.User = true },
	"scope-none": func(s *settings.Settings, f *facts.Facts) {
		f.Host.Systemd, s.Life.Register = true, settings.Never
		f.Host.Cgroup = "/machine.slice/launch@web.service"
		s.Life.KeepUnit = true
		s.Unit.Slice = "a.slice"
	},
	"keep-unit-supervisor": func(s *settings.Settings, f *facts.Facts) {
		f.Host.Systemd, s.Life.KeepUnit, f.Host.Cgroup = true, true, "/machine.slice/launch@web.service/supervisor"
		f.Host.Listen, f.Host.ListenNames = 2, "a:b"
	},
	// Descriptors that are terminals are replaced, the others stay.
	"pipe": func(s *settings.Settings, f *facts.Facts) { s.Life.Console = settings.ConsolePipe },
	"pipe-terminal": func(s *settings.Settings, f *facts.Facts) {
		s.Life.Console = settings.ConsolePipe
		f.Host.StdinTTY, f.Host.StdoutTTY, f.Host.StderrTTY, f.Host.Term = true, true, true, "xterm"
	},
	"pipe-pager": func(s *settings.Settings, f *facts.Facts) {
		s.Life.Console = settings.ConsoleAutopipe
		f.Host.StdinTTY, f.Host.StderrTTY, f.Host.Pipeline, f.Host.Term = true, true, true, "xterm"
	},
	"pipe-error": func(s *settings.Settings, f *facts.Facts) {
		s.Life.Console, s.Exec.Mode = settings.ConsolePipe, settings.PID2
		f.Host.StderrTTY, f.Host.Columns, f.Host.Lines = true, 132, 43
	},
	"poor-host": func(s *settings.Settings, f *facts.Facts) {
		f.Host.Raise, f.Host.CgroupMount = false, ""
		f.Host.Limits[unix.RLIMIT_NOFILE] = [2]uint64{100, 20000}
	},
	"limits": func(s *settings.Settings, f *facts.Facts) {
		s.Exec.Rlimits = []settings.Rlimit{{Name: "AS", Soft: 1 << 30, Hard: settings.Infinity}, {Name: "NOFILE", Soft: 30000, Hard: 40000}}
		s.Exec.OOMScore = settings.OOMScore{Told: true, Adjust: -100}
		s.Exec.CPUs = settings.CPUs{0, 2, 3}
		s.Exec.Personality = "x86"
		s.Exec.SuppressSync = true
		s.Exec.AddressFamilies = settings.Families{Mode: settings.FamiliesOnly, List: []uint16{unix.AF_UNIX, unix.AF_INET}}
		s.Exec.AmbientCaps = 1 << unix.CAP_NET_RAW
		s.Exec.User = "joe"
		s.Exec.MachineID = strings.Repeat("3", 32)
		f.Root.MachineID = ""
		// Nobody raises a limit from inside a user namespace.
		s.Users.Mode = userns.Pick
		f.Host.Limits[unix.RLIMIT_NOFILE] = [2]uint64{100, 20000}
	},
	"pivot": func(s *settings.Settings, f *facts.Facts) {
		s.Image.Pivot = settings.Pivot{New: "/new", Old: "/old"}
		s.Users.Mode = userns.Pick
	},
	"pivot-volatile": func(s *settings.Settings, f *facts.Facts) {
		s.Image.Pivot = settings.Pivot{New: "/new", Old: "/old"}
		s.Image.Volatile = settings.VolatileYes
	},
	"environment": func(s *settings.Settings, f *facts.Facts) {
		s.Environment = settings.Environment{API: settings.APIWritable, NoTmpfsTmp: true, NoCgroupNamespace: true,
			ShareIPC: true, SharePID: true, ShareUTS: true, Service: "other", AnyTree: true}
		s.Exec.Hostname = "name"
		f.Root.OSRelease = false
	},
	"mstack": func(s *settings.Settings, f *facts.Facts) {
		s.Image = settings.Image{MStack: "/srv/m.mstack"}
		f.Stack = stack("layer@1.raw layer@2 rw bind@srv-a robind@srv")
	},
	"mstack-map": func(s *settings.Settings, f *facts.Facts) {
		s.Image = settings.Image{MStack: "/srv/m.mstack"}
		s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 1310720, Size: 65536}, Ownership: userns.MapIt}
		f.Stack = stack("layer@1 layer@2 rw root bind@home.raw")
	},
	"mstack-read-only": func(s *settings.Settings, f *facts.Facts) {
		s.Image = settings.Image{MStack: "/srv/m.mstack", ReadOnly: true}
		f.Stack = stack("layer@1 rw bind@srv")
	},
	"mstack-volatile": func(s *settings.Settings, f *facts.Facts) {
		s.Image = settings.Image{MStack: "/srv/m.mstack", Volatile: settings.VolatileYes}
		f.Stack = stack("layer@1 layer@2.raw rw bind@srv bind@usr-local")
	},
	"mstack-alone": func(s *settings.Settings, f *facts.Facts) {
		s.Image = settings.Image{MStack: "/srv/m.mstack"}
		f.Stack = stack("layer@1")
	},
	"mstack-binds": func(s *settings.Settings, f *facts.Facts) {
		s.Image = settings.Image{MStack: "/srv/m.mstack"}
		f.Stack = stack("robind@usr bind@srv")
	},
	"network-writable": func(s *settings.Settings, f *facts.Facts) { s.Environment.API = settings.APINetwork },
	"mounts": func(s *settings.Settings, f *facts.Facts) {
		s.Mounts = []mount.Mount{bind("/srv/a:/x/y"), bind("/srv/b:/x"), bind("-/srv/c:/z:idmap"),
			bind("/srv/d:/proc/fs"), {Kind: mount.Tmpfs, Target: "/t", Options: "size=1M,noexec", Origin: option("tmpfs")},
			{Kind: mount.Inaccessible, Target: "/etc/shadow", Origin: option("inaccessible")},
			{Kind: mount.Overlay, Target: "/o", Lower: []mount.Path{{Path: "/l1"}, {Path: "/l2", InRoot: true}}, Source: mount.Path{Temp: true}, Origin: option("overlay")}}
		s.Users = settings.Users{Mode: userns.Pick}
	},
}

// stack gives a mount stack with entries of these names, in which everything has
// been written to before.
func stack(names string) facts.Stack {
	var nodes []mstack.Node
	for name := range strings.FieldsSeq(names) {
		n := mstack.Node{Name: name, Mode: unix.S_IFDIR}
		if strings.HasSuffix(name, ".raw") {
			n.Mode = unix.S_IFREG
		}
		nodes = append(nodes, n)
	}
	entries, err := mstack.Read(nodes)
	if err != nil {
		panic(err)
	}
	for i := range entries {
		e := &entries[i]
		e.Path, e.Data = "/srv/m.mstack/"+e.Name, e.Use == mstack.Writable
		if e.Raw {
			e.Volume = disk.Volume{Use: disk.Root, FS: "ext4", Start: 65536, Size: 1 << 20}
		}
	}
	return facts.Stack{Known: true, Entries: entries}
}

func compile(t *testing.T, name string) *Plan {
	t.Helper()
	s := settings.Settings{Machine: "m", Image: settings.Image{Directory: "/srv/m"}, Exec: settings.Exec{Words: []string{"true"}}}
	f := facts.Facts{Root: root, Host: host}
	cases[name](&s, &f)
	p, err := Compile(Input{Settings: s, Facts: f, Profile: settings.ProfileOf(s.Profile, settings.NSpawn), From: func(o string) origin.Origin {
		switch o {
		case "mstack", "directory", "read-only", "overlay-all", "limit-nofile", "limit-as", "oom-score-adjust", "cpu-affinity", "personality", "suppress-sync",
			"restrict-address-families", "ambient-capability", "pivot-root", "use-cgroup-namespace", "ephemeral", "template", "selinux-context", "selinux-apifs-context":
			return option(o)
		}
		return origin.Origin{}
	}, ID: strings.Repeat("1", 32), BootID: strings.Repeat("2", 32), Suffix: "0123456789abcdef"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The goldens are what a reviewer reads: a change to what is really done to a
// machine shows there.
func TestGolden(t *testing.T) {
	for name := range cases {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := compile(t, name).Print(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".plan")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("the plan changed (go test ./internal/plan -update, and read the difference):\n%s", got.String())
			}
		})
	}
}

func TestProperties(t *testing.T) {
	for name := range cases {
		t.Run(name, func(t *testing.T) {
			p, again := compile(t, name), compile(t, name)
			if !reflect.DeepEqual(p, again) {
				t.Error("the same input gave two plans")
			}
			if _, err := json.Marshal(p); err != nil {
				t.Error(err)
			}
			// A mount hides what was mounted below its target before.
			seen := map[settings.World][]string{}
			for i, s := range p.Steps {
				if s.Origin == (origin.Origin{}) {
					t.Errorf("step %d (%s %s) does not say who asked for it", i+1, s.Do, s.Target)
				}
				if s.Do != Mount && s.Do != Bind && s.Do != Overlay {
					continue
				}
				for _, before := range seen[s.World] {
					// Remounts of the profile's own trees put a mount on itself.
					if s.Target != before && mount.Below(before, s.Target) && !(s.Source.InRoot && s.Source.Path == s.Target) {
						t.Errorf("step %d mounts %s over %s", i+1, s.Target, before)
					}
				}
				seen[s.World] = append(seen[s.World], s.Target)
			}
			ops := slices.Concat(p.Program, p.Second)
			for i, op := range ops {
				if op.Origin == (origin.Origin{}) || op.Text == "" {
					t.Errorf("op %d (%s) lacks words or origin", i+1, op.Call)
				}
			}
			if last := ops[len(ops)-1]; last.Call != Exec {
				t.Errorf("the program ends in %s", last.Call)
			}
		})
	}
}

// What the first process gives up must be given up before it execs, in an
// order that works: the bounding set while it has the right to, the user
// before the sets that a change of user would clear, the death signal after.
func TestOrderOfProgram(t *testing.T) {
	at := func(p *Plan, c Call, from int) int {
		ops := slices.Concat(p.Program, p.Second)
		for i := from; i < len(ops); i++ {
			if ops[i].Call == c {
				return i
			}
		}
		return -1
	}
	for name := range cases {
		p := compile(t, name)
		order := []Call{CloseGo, DieWith, Ready, Setsid, Stdio, Go, Share, Bounding, Switch, Caps, DieWith, Alive, CloseRest, Chdir, Unblock, Exec}
		from := 0
		for _, c := range order {
			i := at(p, c, from)
			if i < 0 {
				t.Errorf("%s: no %s after step %d", name, c, from)
				break
			}
			from = i + 1
		}
		// Whoever limits and keys belong to must be there before them.
		owner := at(p, Setsid, 0)
		if p.Users.Private() {
			owner = at(p, BecomeRoot, 0)
		}
		for i, op := range p.Program {
			if (op.Call == Rlimit || op.Call == Keyring) && i < owner {
				t.Errorf("%s: step %d (%s) comes before the users", name, i+1, op.Text)
			}
			if op.Call == Seccomp && i > at(p, Bounding, 0) {
				t.Errorf("%s: step %d (%s) comes after the capabilities", name, i+1, op.Text)
			}
		}
	}
}

// A filter is installed while the tree is made, unless the first process still
// needs what it refuses.
func TestFilterBeforeTree(t *testing.T) {
	for name, early := range map[string]int{"plain": 2, "pick": 2, "suppress-sync": 3, "calls-refused": 0} {
		p := compile(t, name)
		n := 0
		for _, op := range p.Program {
			if op.Call == Go {
				break
			}
			if op.Call == Seccomp {
				n++
			}
		}
		if n != early {
			t.Errorf("%s: %d of %d filters come before the tree, want %d", name, n, len(p.Filters), early)
		}
	}
	// What refuses filters comes behind all others.
	for name := range cases {
		p := compile(t, name)
		for i, f := range p.Filters {
			if i < len(p.Filters)-1 && !f.Passes("seccomp") {
				t.Errorf("%s: filter %d of %d lets none come behind it", name, i+1, len(p.Filters))
			}
		}
	}
}

// Which lock a tree gets: shared if the machine can't write to it, none for the
// host's root, which nobody can have for himself.
func TestLocks(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *settings.Settings)
		want   string
	}{
		"plain":     {func(s *settings.Settings) {}, "/srv/m exclusive"},
		"read-only": {func(s *settings.Settings) { s.Image.ReadOnly = true }, "/srv/m shared"},
		"volatile":  {func(s *settings.Settings) { s.Image.Volatile = settings.VolatileState }, "/srv/m shared"},
		"covered":   {func(s *settings.Settings) { s.Mounts = []mount.Mount{{Kind: mount.Tmpfs, Target: "/"}} }, "/srv/m shared"},
		"covered by itself": {func(s *settings.Settings) {
			s.Mounts = []mount.Mount{{Kind: mount.Bind, Source: mount.Path{Path: "/", InRoot: true}, Target: "/"}}
		}, "/srv/m exclusive"},
		"host":      {func(s *settings.Settings) { s.Image.Volatile, s.Image.Directory = settings.VolatileYes, "/" }, ""},
		"layered":   {func(s *settings.Settings) { s.Image.OverlayAll = true }, "/srv/m shared"},
		"unlocked":  {func(s *settings.Settings) { s.Environment.Unlocked = true }, ""},
		"copy":      {func(s *settings.Settings) { s.Image.Ephemeral = true }, "/srv/m shared brief, /srv/.#snapshot.m0 exclusive"},
		"host copy": {func(s *settings.Settings) { s.Image.Ephemeral, s.Image.Directory = true, "/" }, "/.#snapshot.0 exclusive"},
	} {
		s := settings.Settings{Machine: "m", Image: settings.Image{Directory: "/srv/m"}}
		c.change(&s)
		p, err := Compile(Input{Settings: s, Facts: facts.Facts{Root: root, Host: host}, Profile: settings.NSpawn, Suffix: "0"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range p.Steps {
			if s.Do != Lock {
				continue
			}
			line := s.Path + " exclusive"
			if s.Shared {
				line = s.Path + " shared"
			}
			if s.Brief {
				line += " brief"
			}
			got = append(got, line)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *settings.Settings, f *facts.Facts)
		want   string
	}{
		"no usr": {func(s *settings.Settings, f *facts.Facts) { f.Root.Usr = facts.Absent }, "no /usr"},
		"no os":  {func(s *settings.Settings, f *facts.Facts) { f.Root.OSRelease = false; s.Exec.Mode = settings.Boot }, "no operating system"},
		"own bin": {func(s *settings.Settings, f *facts.Facts) {
			f.Root.Bin = facts.Dir
			s.Image.Volatile = settings.VolatileYes
		}, "its /bin is a directory"},
		"idmap": {func(s *settings.Settings, f *facts.Facts) { s.Mounts = []mount.Mount{bind("/a:/b:idmap")} }, "no users of its own"},
		"no usr after pivot": {func(s *settings.Settings, f *facts.Facts) {
			f.Root.Usr = facts.Absent
			s.Image.Pivot.New = "/new"
		}, "cannot use /srv/m/new as a root"},
		"ambient": {func(s *settings.Settings, f *facts.Facts) { s.Exec.AmbientCaps = 1 << unix.CAP_SYS_TIME }, "cannot give the command CAP_SYS_TIME: the machine"},
		"ambient dropped": {func(s *settings.Settings, f *facts.Facts) {
			s.Exec.AmbientCaps, s.Exec.DropCaps = 1<<unix.CAP_CHOWN, 1<<unix.CAP_CHOWN
		}, "cannot give the command CAP_CHOWN: the machine"},
		"ambient without": {func(s *settings.Settings, f *facts.Facts) { s.Exec.AmbientCaps, f.Host.Caps = 1<<unix.CAP_CHOWN, 0 }, "cannot give the command CAP_CHOWN: launch"},
		"layered owners": {func(s *settings.Settings, f *facts.Facts) {
			s.Image.OverlayAll = true
			s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 1310720, Size: 65536}, Ownership: userns.Chown}
		}, "leaves the tree as it is"},
		"label":          {func(s *settings.Settings, f *facts.Facts) { s.SELinux.Process = "a:b:c" }, "SELinux is not enabled on the host"},
		"label of files": {func(s *settings.Settings, f *facts.Facts) { s.SELinux.Files = "a:b:c" }, "SELinux is not enabled on the host"},
		"owners": {func(s *settings.Settings, f *facts.Facts) {
			s.Users.Mode = userns.Owner
			f.Root.UID, f.Root.GID = 1<<16, 2<<16
		}, "different ranges"},
		"owners to change": {func(s *settings.Settings, f *facts.Facts) {
			s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 1310720, Size: 65536}, Ownership: userns.Chown}
			f.Root.GID = 2 << 16
		}, "cannot change the owners of /srv/m: its owner 0 and group 131072 lie in different ranges"},
		"owners that were changed": {func(s *settings.Settings, f *facts.Facts) {
			s.Users = settings.Users{Mode: userns.Pick, Ownership: userns.Auto}
			f.Root.UID = 9 << 16
		}, "cannot change the owners of /srv/m: its owner 589824 and group 0 lie in different ranges"},
		"owners in the middle": {func(s *settings.Settings, f *facts.Facts) {
			s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 100000, Size: 65536}, Ownership: userns.Chown}
		}, "cannot change the owners of /srv/m to the range 100000:65536"},
		"few owners": {func(s *settings.Settings, f *facts.Facts) {
			s.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 131072, Size: 100}, Ownership: userns.Chown}
		}, "cannot change the owners of /srv/m to the range 131072:100"},
	} {
		s := settings.Settings{Machine: "m", Image: settings.Image{Directory: "/srv/m"}}
		f := facts.Facts{Root: root, Host: host}
		c.change(&s, &f)
		_, err := Compile(Input{Settings: s, Facts: f, Profile: settings.NSpawn})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		}
	}
}

func TestSetRange(t *testing.T) {
	p := compile(t, "pick")
	p.SetRange(userns.Range{Start: 524288, Size: 65536})
	for _, s := range p.Steps {
		for _, o := range s.Options {
			if strings.HasPrefix(o.Value, "@") {
				t.Errorf("%s: %s=%s is left open", s.Target, o.Key, o.Value)
			}
			if o.Key == "uid" && o.Value != "524288" {
				t.Errorf("%s: uid=%s", s.Target, o.Value)
			}
		}
	}
}

// TestInterfaces: names and hardware addresses are those that systemd-nspawn
// has given.
func TestInterfaces(t *testing.T) {
	for _, c := range [][3]string{{"ve-web", "ve-web", ""}, {"ve-averylongcontainername", "ve-averylonWI9H", "ve-averylongcontainername"},
		{"vb-averylongcontainername", "vb-averylonOVQG", "vb-averylongcontainername"}, {"ve-twelve-chars", "ve-twelve-chars", ""}} {
		if name, alias := interfaceName(c[0]); name != c[1] || alias != c[2] {
			t.Errorf("%s: %q %q, want %q %q", c[0], name, alias, c[1], c[2])
		}
	}
	const id = "0123456789abcdef0123456789abcdef"
	if got := mac(id, "foo", hostMACKey, 0); got != "8a68082a1a13" {
		t.Error(got)
	}
	if got := mac(id, "foo", machineMACKey, 0); got != "b26d7c0edc94" {
		t.Error(got)
	}
	for i, want := range []string{"5e6146eb04c1", "7e931cb32b25"} {
		if got := mac(id, "foo", extraHostKey, i); got != want {
			t.Error(i, got)
		}
	}
	if got := mac(id, "foo", macvlanKey, 0); got != "ce4f815ce191" {
		t.Error(got)
	}
	if got := mac("", "foo", hostMACKey, 0); got != "" {
		t.Error(got)
	}
}

// TestHidden: a plan that is shown says nothing of passwords and keys.
func TestHidden(t *testing.T) {
	s := settings.Settings{Machine: "m", Bound: settings.Bound{Users: []settings.BoundUser{{Name: "joe"}}}}
	f := facts.Facts{Root: root, Host: host, Bound: []facts.Bound{bound("joe", 1500)}}
	f.Bound[0].User.Passwords, f.Bound[0].User.Keys = []string{"$6$never"}, []string{"ssh-never"}
	p, err := Compile(Input{Settings: s, Facts: f, Profile: settings.NSpawn})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := p.Print(&text); err != nil {
		t.Fatal(err)
	}
	object, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{text.String(), string(object)} {
		if strings.Contains(shown, "never") || !strings.Contains(shown, "joe.user-privileged") {
			t.Errorf("the plan shows %s", shown)
		}
	}
	there := false
	for _, step := range p.Steps {
		for _, e := range step.Content {
			there = there || strings.Contains(e.Hidden, "$6$never") && strings.Contains(e.Hidden, "ssh-never")
		}
	}
	if !there {
		t.Error("no file has them")
	}
}

// TestSELinux: the label of files is told of all file systems in memory and of
// terminals, once each, and of nothing else; that of processes right before the
// payload is executed, by whoever does it.
func TestSELinux(t *testing.T) {
	for name := range cases {
		s := settings.Settings{Machine: "m", Image: settings.Image{Directory: "/srv/m"}, Exec: settings.Exec{Words: []string{"true"}}}
		f := facts.Facts{Root: root, Host: host}
		cases[name](&s, &f)
		f.Host.SELinux = true
		s.SELinux = settings.SELinux{Process: "u:r:process_t:s0", Files: "u:r:files_t:s0"}
		p, err := Compile(Input{Settings: s, Facts: f, Profile: settings.ProfileOf(s.Profile, settings.NSpawn), From: option})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, step := range p.Steps {
			labels := 0
			for _, o := range step.Options {
				if o.Key == "context" {
					labels++
				}
			}
			want := 0
			if step.Do == Layer || step.Do == Mount && (step.Type == "tmpfs" || step.Type == "devpts") {
				want = 1
			}
			if labels != want {
				t.Errorf("%s: step %d, %s %s on %s, has %d labels: %v", name, i+1, step.Do, step.Type, step.Target, labels, step.Options)
			}
		}
		ops := slices.Concat(p.Program, p.Second)
		at := slices.IndexFunc(ops, func(o Op) bool { return o.Call == Label })
		if at < 0 || at != len(ops)-2 || ops[at+1].Call != Exec || ops[at].B != 1 || ops[at].Path != "/proc/thread-self/attr/exec" || ops[at].Data != "u:r:process_t:s0" {
			t.Errorf("%s: step %d of %d labels the payload", name, at+1, len(ops))
		}
		if stub := slices.IndexFunc(ops, func(o Op) bool { return o.Call == ExecStub }); stub > at {
			t.Errorf("%s: the stub's own exec has the label", name)
		}
	}
}
