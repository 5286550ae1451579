package settings

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestTable: each row is complete, and none is in another's way.
func TestTable(t *testing.T) {
	names, flags, shorts, keys := map[string]bool{}, map[string]bool{}, map[byte]bool{}, map[string]bool{}
	once := func(t *testing.T, what string, seen bool) {
		t.Helper()
		if seen {
			t.Errorf("%s is there twice", what)
		}
	}
	for i := range Options {
		o := &Options[i]
		t.Run(o.Name, func(t *testing.T) {
			if o.Name == "" || o.Parse == nil || o.Group == "" {
				t.Error("a row needs a name, a group and a parser")
			}
			once(t, o.Name, names[o.Name])
			names[o.Name] = true
			if o.Flag != "" {
				once(t, "--"+o.Flag, flags[o.Flag])
				flags[o.Flag] = true
			}
			if o.Short != 0 {
				once(t, "-"+string(rune(o.Short)), shorts[o.Short])
				shorts[o.Short] = true
			}
			if (o.Key == "") != (o.Section == "") {
				t.Error("a key and a section go together")
			}
			if o.Key != "" {
				once(t, o.Section+"."+o.Key, keys[o.Section+"."+o.Key])
				keys[o.Section+"."+o.Key] = true
				if FindKey(o.Section, o.Key) != o {
					t.Error("the key is not found")
				}
			}
			if Find(o.Name) != o {
				t.Error("the name is not found")
			}
			switch {
			case o.Trusted == Unmarked:
				t.Error("no trust mark")
			case (o.Trusted == NoFile) != (o.Key == ""):
				t.Error("NoFile is the mark of a row without a key, and of no other")
			case (o.Trusted == Tighten) != (o.Weaker != nil):
				t.Error("Tighten needs Weaker, and only Tighten has it")
			}
			if o.Same != "" && (Find(o.Same) == nil || Find(o.Same).Same != "" || Find(o.Same).Group != o.Group) {
				t.Errorf("Same names %q, which is no row of the same group", o.Same)
			}
			if !o.Later && o.Old == "" && (o.Help == "" || (o.Topic == "") == (o.Flag != "" || o.Short != 0)) {
				t.Error("no help")
			}
			if o.Topic != "" && !slices.Contains(Topics[:], o.Topic) {
				t.Errorf("topic %q has no place", o.Topic)
			}
			if (o.Arg == NoArg) != (o.Placeholder == "") && !o.Later {
				t.Error("a placeholder goes with an argument")
			}
			if strings.HasSuffix(o.Help, ".") {
				t.Error("the help ends in a full stop")
			}
			if (o.Set == nil) != (o.Group == GroupLauncher || o.Later) {
				t.Error("a setting has Set, and nothing else has")
			}
			for _, v := range o.Enum {
				if v == strings.ToLower(v) {
					if _, err := o.Parse(Place{Cwd: "/"}, v); err != nil {
						t.Errorf("the value %s: %v", v, err)
					}
				}
			}
		})
	}
}

// TestKeys: the table knows every key that systemd-nspawn knows.
func TestKeys(t *testing.T) {
	for section, keys := range map[string]string{
		"Exec": `Boot ProcessTwo Parameters Environment User WorkingDirectory PivotRoot Capability DropCapability AmbientCapability
			NoNewPrivileges KillSignal Personality MachineID PrivateUsers PrivateUsersDelegate NotifyReady SystemCallFilter
			RestrictAddressFamilies LimitCPU LimitFSIZE LimitDATA LimitSTACK LimitCORE LimitRSS LimitNOFILE LimitAS LimitNPROC
			LimitMEMLOCK LimitLOCKS LimitSIGPENDING LimitMSGQUEUE LimitNICE LimitRTPRIO LimitRTTIME Hostname OOMScoreAdjust
			CPUAffinity ResolvConf Timezone LinkJournal SuppressSync Ephemeral`,
		"Files": `ReadOnly Volatile Bind BindReadOnly TemporaryFileSystem Inaccessible Overlay OverlayReadOnly
			PrivateUsersOwnership PrivateUsersChown BindUser BindUserShell`,
		"Network": `Private NamespacePath VirtualEthernet VirtualEthernetExtra Interface MACVLAN IPVLAN Bridge Zone Port`,
	} {
		for _, key := range strings.Fields(keys) {
			if FindKey(section, key) == nil {
				t.Errorf("[%s] %s= has no row", section, key)
			}
		}
	}
}

// TestUntrustedNeverGives: whatever a file beside a tree says, the payload gets
// nothing by it that it would not have without the file.
func TestUntrustedNeverGives(t *testing.T) {
	values := []string{"yes", "no", "all", "0", "1", "/a:/b", "/a", "pick", "identity", "root", "joe", "state", "overlay", "off", "chown", "auto", "CAP_SYS_ADMIN", "15", "AF_INET", "~AF_INET", "none", "1:2", strings.Repeat("1", 32)}
	flags := [][2]string{
		{"read-only", "yes"}, {"no-new-privileges", "yes"}, {"volatile", "yes"}, {"uid", "joe"}, {"drop-capability", "CAP_MKNOD"},
		{"restrict-address-families", "AF_UNIX"},
		{"private-users", "pick"}, {"private-network", "yes"},
	}
	var said []Assignment
	for _, f := range flags {
		o := Find(f[0])
		v, err := o.Parse(Place{Cwd: "/srv"}, f[1])
		if err != nil {
			t.Fatal(err)
		}
		said = append(said, Assignment{Option: o, Value: v, Origin: line(0), Text: f[1]})
	}
	for _, base := range [][]Assignment{nil, said} {
		for _, mode := range []FileMode{FileYes, FileOverride} {
			around := Surroundings{Place: Place{Cwd: "/srv/web"}, Files: mode, PID2: true}
			without, _, _, err := Resolve(base, around)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for i := range Options {
				o := &Options[i]
				for _, text := range values {
					parse := o.Parse
					if o.ParseKey != nil {
						parse = o.ParseKey
					}
					v, err := parse(Place{Cwd: "/"}, text)
					if o.Key == "" || err != nil {
						continue
					}
					n++
					a := Assignment{Option: o, Value: v, Origin: line(3), Text: text, Untrusted: true}
					with, trace, _, err := Resolve(append(slices.Clone(base), a), around)
					if err != nil {
						t.Errorf("%s=%s: %v", o.Key, text, err)
					}
					if what := gained(without, with); what != "" {
						t.Errorf("%s=%s gives %s:\n%s", o.Key, text, what, trace)
					}
				}
			}
			if n < 200 {
				t.Errorf("only %d values were tried", n)
			}
		}
	}
}

// gained names what the machine has more of than before.
func gained(before, after Settings) string {
	// When the service manager is told that the machine is ready is the
	// machine's own affair.
	after.Life.NotifyReady = before.Life.NotifyReady
	switch {
	case !reflect.DeepEqual(after.Mounts, before.Mounts):
		return "mounts"
	case after.Exec.AddCaps != before.Exec.AddCaps, before.Exec.DropCaps&^after.Exec.DropCaps != 0:
		return "capabilities"
	case before.Exec.NoNewPrivileges && !after.Exec.NoNewPrivileges:
		return "privileges"
	case before.Image.ReadOnly && !after.Image.ReadOnly:
		return "a writable root"
	case before.Image.Volatile != VolatileNo && after.Image.Volatile != before.Image.Volatile:
		return "another tree"
	case !reflect.DeepEqual(before.Bound, after.Bound):
		return "users of the host"
	case before.Users != after.Users:
		return "other users"
	case !before.Network.Equal(after.Network):
		return "another network"
	case !root(before.Exec.User) && before.Exec.User != after.Exec.User:
		return "another user"
	case after.Exec.Unfiltered && !before.Exec.Unfiltered:
		return "every system call"
	case before.Exec.AmbientCaps != after.Exec.AmbientCaps:
		return "ambient capabilities"
	case !reflect.DeepEqual(before.Exec.Rlimits, after.Exec.Rlimits), before.Exec.OOMScore != after.Exec.OOMScore, !slices.Equal(before.Exec.CPUs, after.Exec.CPUs):
		return "other limits"
	case before.Exec.MachineID != after.Exec.MachineID, before.Environment != after.Environment:
		return "another identity"
	case before.Exec.AddressFamilies.Mode != FamiliesAny && !reflect.DeepEqual(before.Exec.AddressFamilies, after.Exec.AddressFamilies):
		return "other sockets"
	case before.Life != after.Life, !reflect.DeepEqual(before.Unit, after.Unit), before.Image.Directory != after.Image.Directory, before.Machine != after.Machine:
		return "another machine"
	}
	return ""
}
