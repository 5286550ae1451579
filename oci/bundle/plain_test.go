package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// TestPlain writes, for each bundle, the options that say the same, and what
// they can't say.
func TestPlain(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.json")
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, _, err := Read("/b", string(text))
		if err != nil {
			continue
		}
		plain, missed := Plain(s, &settings.NSpawn)
		if plain.Bundle != nil || plain.Exec.Process != nil {
			t.Errorf("%s: something of the bundle is left", file)
		}
		list, more := settings.Say(plain)
		b.WriteString(filepath.Base(file) + "\n")
		for _, l := range list {
			if l.Option.Flag != "" {
				b.WriteString("\t" + strings.TrimSuffix("--"+l.Option.Flag+"="+l.Flag, "=") + "\n")
			}
		}
		for _, m := range append(missed, more...) {
			b.WriteString("\tnot: " + m + "\n")
		}
	}
	golden(t, "plain.txt", b.String())
}

// TestFromSettings: what is written of a machine is a bundle that is read
// without an error, and says what the machine is.
func TestFromSettings(t *testing.T) {
	base := settings.Settings{Machine: "web", Image: settings.Image{Directory: "/srv/web"}}
	full := base
	full.Image.ReadOnly, full.Network.Private = true, true
	full.Users = settings.Users{Mode: userns.Fixed, Range: userns.Range{Start: 65536, Size: 65536}}
	full.Exec = settings.Exec{
		Words: []string{"sh", "-c", "a b"}, Env: []string{"A=1"}, Dir: "/srv", User: "33", Hostname: "other", AddCaps: 1 << 25, DropCaps: 1 << 27,
		AmbientCaps: 1 << 10, NoNewPrivileges: true, Rlimits: []settings.Rlimit{{Name: "NOFILE", Soft: 5, Hard: 6}},
		OOMScore: settings.OOMScore{Told: true}, CPUs: settings.CPUs{0, 2}, KillSignal: 37, Unfiltered: true,
	}
	full.Mounts = []mount.Mount{
		{Kind: mount.Bind, Source: mount.Path{Path: "/a"}, Target: "/b", ReadOnly: true, IDMap: mount.FullIDMap},
		{Kind: mount.Bind, Source: mount.Path{Path: "/in", InRoot: true}, Target: "/out", NoRecurse: true, Optional: true},
		{Kind: mount.Bind, Source: mount.Path{Temp: true}, Target: "/fresh"}, {Kind: mount.Tmpfs, Target: "/t", Options: "size=1m,noexec"},
		{Kind: mount.Inaccessible, Target: "/proc/x"}, {Kind: mount.Overlay, Target: "/o"},
	}
	full.SELinux = settings.SELinux{Process: "u:r:p:s0", Files: "u:r:f:s0"}
	boot := base
	boot.Exec.Mode, boot.Users.Mode = settings.Boot, userns.Pick
	for name, s := range map[string]settings.Settings{"plain": base, "full": full, "boot": boot} {
		spec, missed := FromSettings(s, &settings.NSpawn)
		text, err := json.MarshalIndent(spec, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "from-"+name+".golden", "not: "+strings.Join(missed, "\nnot: ")+"\n"+string(text)+"\n")
		back, warnings, err := Read("/b", string(text))
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %s", name, describe(nil, warnings, err))
			continue
		}
		// And what that says as options is what was said at first, as far as
		// a bundle could say it.
		plain, _ := Plain(back, &settings.NSpawn)
		if plain.Image != s.Image || plain.Exec.AddCaps != s.Exec.AddCaps || plain.Exec.DropCaps != s.Exec.DropCaps ||
			plain.Exec.AmbientCaps != s.Exec.AmbientCaps || plain.Exec.CPUs.String() != s.Exec.CPUs.String() || !plain.Network.Equal(s.Network) ||
			s.Users.Mode == userns.Fixed && plain.Users.Range != s.Users.Range || plain.Exec.NoNewPrivileges != s.Exec.NoNewPrivileges {
			t.Errorf("%s: came back as %+v", name, plain)
		}
	}
}
