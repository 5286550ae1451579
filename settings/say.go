package settings

import (
	"fmt"
	"strconv"
	"strings"

	"launch/mount"
	"launch/userns"
)

// Saying is one row of the option table with its value, as it can be written.
type Saying struct {
	Option *Option
	// Flag is the flag's argument, Key the key's value. Where a flag takes no
	// argument, Flag is empty.
	Flag, Key string
}

// Say gives what has to be said for settings to be as they are, in the order of
// the table; the command comes last. It says nothing of what only bundles and
// the environment say. Missed is what no option says in this way.
func Say(s Settings) (list []Saying, missed []string) {
	both := func(name, text string) { list = append(list, Saying{Find(name), text, text}) }
	flag := func(name string, on bool) {
		if on {
			list = append(list, Saying{Find(name), "", "yes"})
		}
	}
	text := func(name, value string) {
		if value != "" {
			both(name, value)
		}
	}
	e := s.Exec
	text("directory", s.Image.Told(s.Image.Directory))
	text("image", s.Image.Told(s.Image.File))
	text("mstack", s.Image.MStack)
	text("image-policy", s.Image.Policy)
	text("root-hash", s.Image.RootHash)
	text("root-hash-sig", s.Image.RootHashSig)
	text("verity-data", s.Image.VerityData)
	text("template", s.Image.Told(s.Image.Template))
	flag("ephemeral", s.Image.Ephemeral)
	flag("read-only", s.Image.ReadOnly)
	text("volatile", string(s.Image.Volatile))
	flag("overlay-all", s.Image.OverlayAll)
	if s.Image.Pivot.New != "" {
		both("pivot-root", s.Image.Pivot.String())
	}
	text("profile", s.Profile)
	text("join", s.Join)
	text("mounts", s.Image.Mounts)
	if at := s.Image.Directory + s.Image.File + s.Image.MStack; s.Image.Told(at) == at || s.Machine != NameOf(at, s.Image.File != "") {
		text("machine", s.Machine) // the next version has another name
	}
	flag("boot", e.Mode == Boot)
	flag("as-pid2", e.Mode == PID2)
	text("chdir", e.Dir)
	for _, v := range e.Env {
		name, _, _ := strings.Cut(v, "=")
		quoted, ok := quote(v)
		if err := checkEnv(v, name); err != nil || !ok {
			missed = append(missed, "the variable "+strconv.Quote(v))
			continue
		}
		list = append(list, Saying{Find("setenv"), v, quoted})
	}
	text("uid", e.User)
	if e.KillSignal != 0 {
		both("kill-signal", strconv.Itoa(e.KillSignal))
	}
	if e.Hostname != s.Machine {
		text("hostname", e.Hostname)
	}
	text("uuid", e.MachineID)
	text("personality", e.Personality)
	if e.SuppressSync {
		both("suppress-sync", "yes")
	}
	switch u := s.Users; u.Mode {
	case userns.No:
		if u.Ownership != "" { // which alone would mean users
			both("private-users", "no")
		}
	case userns.Owner:
		both("private-users", "yes")
	case userns.Pick:
		both("private-users", "pick")
	case userns.Fixed:
		both("private-users", u.Range.String())
	}
	text("private-users-ownership", string(s.Users.Ownership))
	n := s.Network
	flag("private-network", n.Private && !n.Linked())
	flag("network-veth", n.Veth && n.Bridge == "" && n.Zone == "")
	for _, l := range n.Extra {
		both("network-veth-extra", l.String())
	}
	text("network-bridge", n.Bridge)
	text("network-zone", n.Zone)
	for _, row := range n.links()[1:] {
		var words []string
		for _, l := range row.List {
			words = append(words, l.String())
		}
		text(row.Name, strings.Join(words, " "))
	}
	text("network-namespace-path", n.Path)
	for _, p := range n.Ports {
		both("port", p.String())
	}
	caps := func(name string, mask uint64) {
		var names []string
		for n := range 64 {
			if mask&(1<<n) != 0 {
				names = append(names, CapabilityName(n))
			}
		}
		if names != nil {
			list = append(list, Saying{Find(name), strings.Join(names, ","), strings.Join(names, " ")})
		}
	}
	caps("capability", e.AddCaps)
	caps("drop-capability", e.DropCaps)
	caps("ambient-capability", e.AmbientCaps)
	if e.NoNewPrivileges {
		both("no-new-privileges", "yes")
	}
	for _, f := range e.SystemCalls {
		both("system-call-filter", f)
	}
	if f := e.AddressFamilies; f.Mode != FamiliesAny {
		words := "none"
		if len(f.List) > 0 {
			var names []string
			for _, n := range f.List {
				names = append(names, FamilyName(n))
			}
			words = strings.Join(names, " ")
		}
		if f.Mode == FamiliesExcept {
			words = "~" + words
		}
		both("restrict-address-families", words)
	}
	for _, l := range e.Rlimits {
		value := limitText(l)
		list = append(list, Saying{Find("rlimit"), l.Name + "=" + value, ""}, Saying{Find("limit-" + strings.ToLower(l.Name)), "", value})
	}
	text("selinux-context", s.SELinux.Process)
	text("selinux-apifs-context", s.SELinux.Files)
	if e.OOMScore.Told {
		both("oom-score-adjust", strconv.Itoa(e.OOMScore.Adjust))
	}
	if len(e.CPUs) > 0 {
		both("cpu-affinity", e.CPUs.String())
	}
	for _, m := range s.Mounts {
		name, words, ok := sayMount(m)
		if !ok {
			missed = append(missed, fmt.Sprintf("the %s mount on %s", m.Kind, m.Target))
			continue
		}
		both(name, words)
	}
	for _, u := range s.Bound.Users {
		both("bind-user", u.Name)
	}
	if s.Bound.Shell == HostShell {
		both("bind-user-shell", "yes")
	} else {
		text("bind-user-shell", s.Bound.Shell)
	}
	for _, g := range s.Bound.Groups {
		both("bind-user-group", g)
	}
	text("resolv-conf", s.Host.ResolvConf)
	text("timezone", s.Host.Timezone)
	text("link-journal", s.Host.LinkJournal)
	text("forward-journal", s.Host.Forward.To)
	text("forward-journal-max-use", s.Host.Forward.MaxUse)
	text("forward-journal-keep-free", s.Host.Forward.KeepFree)
	text("forward-journal-max-file-size", s.Host.Forward.MaxFileSize)
	text("forward-journal-max-files", s.Host.Forward.MaxFiles)
	text("console", string(s.Life.Console))
	text("register", string(s.Life.Register))
	if s.Life.NotifyReady {
		both("notify-ready", "yes")
	}
	flag("keep-unit", s.Life.KeepUnit)
	flag("user", s.Unit.User)
	text("slice", s.Unit.Slice)
	for _, p := range s.Unit.Properties {
		text("property", p)
	}
	flag("quiet", s.Life.Quiet)
	for _, w := range e.Words {
		quoted, ok := quote(w)
		if !ok {
			missed = append(missed, "the argument "+strconv.Quote(w)+" in a file")
		}
		list = append(list, Saying{Find("words"), w, quoted})
	}
	return list, missed
}

// quote writes a word so that SplitWords takes it for one. A line break can't
// stand in a file, and a word's end can't be a backslash there, which would
// join the next line to it.
func quote(word string) (string, bool) {
	if strings.ContainsAny(word, "\n\r\x00") {
		return "", false
	}
	if word != "" && !strings.ContainsAny(word, " \t'\"\\#;") {
		return word, true
	}
	if !strings.Contains(word, `"`) {
		return `"` + word + `"`, true
	}
	return "'" + strings.ReplaceAll(word, "'", `'"'"'`) + "'", true
}

func limitText(l Rlimit) string {
	one := func(n uint64) string {
		if n == Infinity {
			return "infinity"
		}
		if l.Name == "RTTIME" || l.Name == "CPU" {
			unit := "s"
			if l.Name == "RTTIME" {
				unit = "us"
			}
			return strconv.FormatUint(n, 10) + unit
		}
		return strconv.FormatUint(n, 10)
	}
	if l.Soft == l.Hard {
		return one(l.Soft)
	}
	return one(l.Soft) + ":" + one(l.Hard)
}

// sayMount gives the row and the value of a mount that an option can ask for.
func sayMount(m mount.Mount) (name, text string, ok bool) {
	if m.Set != 0 || m.Clear != 0 || m.AllSet != 0 || m.AllClear != 0 || len(m.Propagation) > 0 || m.CopyUp || m.NoFollow ||
		len(m.UIDs) > 0 || len(m.GIDs) > 0 || m.MapAll || m.MapContainer || strings.ContainsAny(m.Target+m.Source.Path+m.Options, "\n\r") {
		return "", "", false
	}
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace
	source := func(p mount.Path) string {
		switch {
		case p.Temp:
			return ""
		case p.InRoot:
			return "+" + escape(p.Path)
		}
		return escape(p.Path)
	}
	switch m.Kind {
	case mount.Bind:
		text = source(m.Source) + ":" + escape(m.Target)
		if m.Optional {
			text = "-" + text
		}
		var words []string
		if m.NoRecurse {
			words = append(words, "norbind")
		}
		if m.IDMap != mount.NoIDMap {
			words = append(words, string(m.IDMap))
		}
		if words != nil {
			text += ":" + strings.Join(words, ",")
		}
		if m.ReadOnly {
			return "bind-ro", text, true
		}
		return "bind", text, true
	case mount.Tmpfs:
		if m.Options == "" {
			return "", "", false // without options it would get a mode
		}
		return "tmpfs", escape(m.Target) + ":" + escape(m.Options), true
	case mount.Overlay:
		for _, l := range m.Lower {
			text += source(l) + ":"
		}
		text += source(m.Source) + ":" + escape(m.Target)
		if m.ReadOnly {
			return "overlay-ro", text, true
		}
		return "overlay", text, true
	case mount.Inaccessible:
		return "inaccessible", m.Target, true
	}
	return "", "", false
}

// Borrowed is the error of a program that has rights of its file's owner.
func Borrowed() error {
	return &Error{What: "refused to run with the rights of the program's owner: its file is set-user-ID or set-group-ID",
		Hint: "take that away (chmod ug-s), and let others have launch by sudo or run0"}
}
