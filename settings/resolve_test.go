package settings

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"launch/internal/origin"
	"launch/userns"
)

// line is a place in a file; line 0 is a flag.
func line(n int) origin.Origin {
	if n == 0 {
		return origin.Origin{Source: origin.CommandLine, Path: "--flag"}
	}
	return origin.Origin{Source: origin.File, Path: "web.nspawn", Line: n}
}

// say makes flags of `name=value` words.
func say(t *testing.T, words ...string) []Assignment {
	t.Helper()
	var list []Assignment
	for _, w := range words {
		name, text, _ := strings.Cut(w, "=")
		o := Find(name)
		if o == nil {
			t.Fatalf("no row %s", name)
		}
		v, err := o.Parse(Place{Cwd: "/srv/web", Env: []string{"TERM=vt100", "TERM=xterm"}}, text)
		if err != nil {
			t.Fatalf("%s: %v", w, err)
		}
		list = append(list, Assignment{Option: o, Value: v, Text: text, Origin: origin.Origin{Source: origin.CommandLine, Path: "--" + name}})
	}
	return list
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ words, what, place string }{
		{"directory=/", "cannot run a machine on the host's own root", "--directory=/"},
		{"directory=/ volatile=overlay", "cannot run a machine on the host's own root", "--directory=/"},
		{"directory=/ read-only=yes", "cannot run a machine on the host's own root", "--directory=/"},
		{"boot=yes as-pid2=yes", "cannot boot and run a command as process 2 at the same time", "--as-pid2=yes"},
		{"as-pid2=yes", "--as-pid2 is not supported yet", "--as-pid2=yes"},
		{"private-users=pick private-users-ownership=chown read-only=yes", "cannot change the owners of a tree that is read-only", "--private-users-ownership=chown"},
		{"private-users=pick private-users-chown=yes volatile=", "cannot change the owners of a tree that is run with --volatile", "--private-users-chown=yes"},
		{"bind=/a:/b:idmap", "cannot map the owners of /b: the machine has no users of its own", "--bind=/a:/b:idmap"},
		{"directory=/srv/---", `cannot make a machine name of "---"`, "--directory=/srv/---"},
		{"template=/srv/t", "cannot use a template without knowing what to make of it", "--template=/srv/t"},
		{"template=/srv/t directory=/srv/d ephemeral=yes", "cannot run on a copy and make a directory from a template at the same time", "--template=/srv/t"},
		{"port=80", "cannot forward ports to a machine that has no network of its own", "--port=80"},
		{"private-network=yes port=80 port=udp:80 port=tcp:80:81", "cannot forward the host's tcp port 80 twice", "--port=tcp:80:81"},
		{"port=80 port=80", "cannot forward the host's tcp port 80 twice", "--port=80"},
		{"machine=web", `cannot find a directory, disk image or mount stack for machine "web"`, "--machine=web"},
		{"image=/srv/d.raw directory=/srv/d", "cannot run a machine from a directory and a disk image at the same time", "--directory=/srv/d"},
		{"mstack=/srv/d.mstack directory=/srv/d", "cannot run a machine from a mount stack and a directory or disk image at the same time", "--directory=/srv/d"},
		{"image=/srv/d.raw mstack=/srv/d.mstack", "cannot run a machine from a mount stack and a directory or disk image at the same time", "--mstack=/srv/d.mstack"},
		{"mstack=/srv/d.mstack template=/srv/t", "cannot make a mount stack from a template", "--template=/srv/t"},
		{"mstack=/srv/d.mstack ephemeral=yes", "cannot run on a copy of a mount stack", "--ephemeral=yes"},
		{"mstack=/srv/---.mstack", `cannot make a machine name of "---"`, "--mstack=/srv/---.mstack"},
		{"mstack=/srv/d.mstack root-hash=00112233445566778899aabbccddeeff", "cannot check a tree that is not in a disk image", "--root-hash=00112233445566778899aabbccddeeff"},
		{"mstack=/srv/d.mstack link-journal=guest", "cannot link the host's journal to that of a machine on a mount stack: the host does not see its files", "--link-journal=guest"},
		{"mstack=/srv/d.mstack private-users=1310720 private-users-ownership=chown", "cannot change the owners of a mount stack's files: other machines may have the same layers", "--private-users-ownership=chown"},
		{"image=/srv/d.raw template=/srv/t", "cannot make a disk image from a template", "--template=/srv/t"},
		{"image=/srv/---.raw", `cannot make a machine name of "---"`, "--image=/srv/---.raw"},
		{"image=/srv/d root-hash=00112233445566778899aabbccddeeff", "cannot check a disk image against a hash: launch does not set up Verity", "--root-hash=00112233445566778899aabbccddeeff"},
		{"image=/srv/d root-hash-sig=base64:AAAA", "cannot check a disk image against a hash: launch does not set up Verity", "--root-hash-sig=base64:AAAA"},
		{"image=/srv/d verity-data=/srv/v", "cannot check a disk image against a hash: launch does not set up Verity", "--verity-data=/srv/v"},
		{"root-hash=00112233445566778899aabbccddeeff", "cannot check a tree that is not in a disk image", "--root-hash=00112233445566778899aabbccddeeff"},
		{"directory=/srv/d image-policy=*", "cannot check a tree that is not in a disk image", "--image-policy=*"},
		{"forward-journal-max-use=1M", "cannot limit the files of a journal that is not forwarded", "--forward-journal-max-use=1M"},
		{"forward-journal=/j forward-journal= forward-journal-max-files=2", "cannot limit the files of a journal that is not forwarded", "--forward-journal-max-files=2"},
		{"forward-journal=/j set-credential=journal.forward_to_socket:x", "cannot give the machine a credential called journal.forward_to_socket: it is what --forward-journal= sets", "--set-credential"},
		{"image=/srv/d link-journal=guest", "cannot link the host's journal to that of a machine on a disk image: the host does not see its files", "--link-journal=guest"},
	} {
		_, _, _, err := Resolve(say(t, strings.Fields(c.words)...), Surroundings{Place: Place{Cwd: "/srv/web"}, Hostname: "host"})
		var e *Error
		if !errors.As(err, &e) || e.What != c.what || e.Place() != c.place {
			t.Errorf("%s: got %v", c.words, err)
			if e != nil {
				t.Errorf("  from %s", e.Place())
			}
		}
	}
}

func TestAccepted(t *testing.T) {
	for _, words := range []string{
		"", "directory=/ volatile=yes", "directory=/ volatile=state", "directory=/ ephemeral=yes", "template=/srv/t ephemeral=yes", "boot=yes", "private-users=pick bind=/a:/b:idmap",
		"private-users=pick private-users-ownership=map read-only=yes", "private-users-ownership=chown private-users-ownership=off read-only=yes",
	} {
		if _, _, _, err := Resolve(say(t, strings.Fields(words)...), Surroundings{Place: Place{Cwd: "/srv/web"}, Hostname: "host"}); err != nil {
			t.Errorf("%s: %v", words, err)
		}
	}
}

// TestForward: what goes into one file is told by its name, and numbers are plain.
func TestForward(t *testing.T) {
	for text, want := range map[string]Forward{
		"forward-journal=/j/x.journal": {To: "/j/x.journal"}, "forward-journal=x": {To: "/srv/web/x"}, "forward-journal=../a/./b.journal": {To: "/srv/a/b.journal"},
		"forward-journal=": {}, "set-credential=journal.forward_to_socket:x": {},
		"forward-journal=/j forward-journal-max-use=1.5G forward-journal-keep-free=10K forward-journal-max-file-size=0 forward-journal-max-files=3": {"/j", "1610612736", "10240", "0", "3"},
	} {
		s, _, _, err := Resolve(say(t, strings.Fields(text)...), Surroundings{Place: Place{Cwd: "/srv/web"}})
		if err != nil || s.Host.Forward != want || s.Host.Forward.File() != strings.HasSuffix(want.To, "l") {
			t.Errorf("%s gives %+v, %v", text, s.Host.Forward, err)
		}
	}
	for _, text := range []string{"max-use=x", "max-use=", "max-use=-1", "max-use=infinity", "max-use=10%", "max-use=18446744073709551616", "max-file-size=100E", "max-files=", "max-files=x", "max-files=-1"} {
		name, value, _ := strings.Cut("forward-journal-"+text, "=")
		if v, err := Find(name).Parse(Place{}, value); err == nil {
			t.Errorf("%s is taken for %v; systemd-nspawn refuses it", text, v)
		}
	}
}

func TestLocate(t *testing.T) {
	images := func(name string) (Where, bool) {
		at := Where{Path: "/var/lib/machines/" + name}
		if name == "disk" {
			at = Where{Path: "/var/lib/machines/disk.raw", Image: true, ReadOnly: true}
		}
		return at, name != "none"
	}
	for _, c := range []struct{ words, machine, directory string }{
		{"", "web", "/srv/web"},
		{"directory=../db", "db", "/srv/db"},
		{"directory=.", "web", "/srv/web"},
		{"directory=..", "srv", "/srv"},
		{"directory=/srv/a_b.c..d.", "ab.c.d", "/srv/a_b.c..d."},
		{"directory=/", "host", "/"},
		{"machine=x", "x", "/var/lib/machines/x"},
		{"machine=x directory=/srv/y", "x", "/srv/y"},
		{"machine=x machine=", "web", "/srv/web"},
		{"machine=x template=/srv/t", "x", "/var/lib/machines/x"},
		{"machine=x template=/srv/t directory=/srv/y", "x", "/srv/y"},
		{"template=/srv/t ephemeral=yes", "t", "/srv/t"},
		{"template=/srv/t ephemeral=yes machine=x", "x", "/srv/t"},
		{"directory=/srv/y ephemeral=yes", "y", "/srv/y"},
		{"machine=disk", "disk", "/var/lib/machines/disk.raw (image)"},
		{"image=../x_1.raw", "x1", "/srv/x_1.raw (image)"},
		{"image=/srv/y machine=x", "x", "/srv/y (image)"},
		{"image=/srv/y image=", "web", "/srv/web"},
		{"image=/srv/y.raw ephemeral=yes", "y", "/srv/y.raw (image)"},
		{"directory=/srv/y.raw", "y.raw", "/srv/y.raw"},
		{"directory=/srv/-a-.-b-", "a--b", "/srv/-a-.-b-"},
		{"directory=/srv/x.-y", "x.y", "/srv/x.-y"},
		{"directory=/srv/x-.y", "x-y", "/srv/x-.y"},
		{"directory=/srv/a-.", "a", "/srv/a-."},
		{"directory=/srv/" + strings.Repeat("a", 63) + "-b", strings.Repeat("a", 63), "/srv/" + strings.Repeat("a", 63) + "-b"},
		{"directory=/srv/" + strings.Repeat("a", 70), strings.Repeat("a", 64), "/srv/" + strings.Repeat("a", 70)},
	} {
		m, at, err := Locate(say(t, strings.Fields(c.words)...), Surroundings{Place: Place{Cwd: "/srv/web"}, Hostname: "host", Images: images})
		d := at.Path
		if at.Image {
			d += " (image)"
		}
		if err == nil && c.directory == "/" {
			// The host may have no name at all.
			for _, host := range []string{"", "(none)", "_"} {
				around := Surroundings{Place: Place{Cwd: "/srv/web"}, Hostname: host}
				if m, _, err := Locate(say(t, "directory=/"), around); err != nil || m != "localhost" {
					t.Errorf("host %q: %q %v", host, m, err)
				}
			}
		}
		if err != nil || m != c.machine || d != c.directory {
			t.Errorf("%s: %q %q %v", c.words, m, d, err)
		}
	}
}

// TestOverrideCapabilities: with override, a file adds to and drops from what the
// command line says, and doesn't take its place.
func TestOverrideCapabilities(t *testing.T) {
	for _, c := range []struct {
		words          string
		files          FileMode
		add, drop, amb uint64
	}{
		{"capability=CAP_SYSLOG", FileOverride, 1<<34 | 1<<16, 1, 1 << 5},
		{"drop-capability=CAP_CHOWN,2", FileOverride, 1 << 16, 1 | 1<<2, 1 << 5},
		{"ambient-capability=CAP_SETUID", FileOverride, 1 << 16, 1, 1<<5 | 1<<7},
		{"ambient-capability=CAP_SETUID", FileYes, 0, 0, 1 << 7},
		{"", FileYes, 1 << 16, 1, 1 << 5},
	} {
		said := say(t, strings.Fields(c.words)...)
		for i, key := range []string{"Capability", "DropCapability", "AmbientCapability"} {
			said = append(said, Assignment{Option: FindKey("Exec", key), Value: [...]uint64{1 << 16, 1, 1 << 5}[i], Origin: line(i + 2)})
		}
		s, _, _, err := Resolve(said, Surroundings{Place: Place{Cwd: "/srv/web"}, Files: c.files})
		if e := s.Exec; err != nil || e.AddCaps != c.add || e.DropCaps != c.drop || e.AmbientCaps != c.amb {
			t.Errorf("%s %q: %#x %#x %#x, %v", c.words, c.files, e.AddCaps, e.DropCaps, e.AmbientCaps, err)
		}
	}
}

// TestUnchanging: a directory that nobody can change is read-only, if it was found
// by the machine's name.
func TestUnchanging(t *testing.T) {
	file := func(value bool, untrusted bool) []Assignment {
		return []Assignment{{Option: FindKey("Files", "ReadOnly"), Value: value, Origin: line(2), Untrusted: untrusted}}
	}
	for _, c := range []struct {
		words string
		file  []Assignment
		want  bool
	}{
		{"machine=x", nil, true}, {"machine=x", file(false, false), false}, {"machine=x", file(true, false), true}, {"machine=x", file(false, true), true},
		{"machine=x ephemeral=yes", nil, false}, {"machine=x ephemeral=yes read-only=yes", nil, true}, {"machine=x directory=/srv/x", nil, false},
	} {
		around := Surroundings{Place: Place{Cwd: "/srv/web"}, Images: func(string) (Where, bool) { return Where{Path: "/m/x", ReadOnly: true}, true }}
		s, _, _, err := Resolve(append(say(t, strings.Fields(c.words)...), c.file...), around)
		if err != nil || s.Image.ReadOnly != c.want {
			t.Errorf("%s %v: %v %v", c.words, c.file, s.Image.ReadOnly, err)
		}
		_, _, _, err = Resolve(append(say(t, strings.Fields(c.words+" private-users=131072 private-users-ownership=chown")...), c.file...), around)
		if (err != nil) != c.want {
			t.Errorf("%s %v: the owners are changed: %v", c.words, c.file, err)
		}
	}
}

// TestCopyName: many throw-away machines can run on copies of one tree, unless
// they were given a name.
func TestCopyName(t *testing.T) {
	long := strings.Repeat("a", 46) + "-" + strings.Repeat("b", 20)
	for _, c := range []struct{ words, machine string }{
		{"ephemeral=yes", "web-0123456789abcdef"},
		{"ephemeral=yes template=/srv/t", "t-0123456789abcdef"},
		{"ephemeral=yes machine=x directory=/srv/y", "x"},
		{"ephemeral=yes ephemeral=no", "web"},
		{"ephemeral=yes directory=/srv/" + long, strings.Repeat("a", 46) + "-0123456789abcdef"},
	} {
		s, _, _, err := Resolve(say(t, strings.Fields(c.words)...), Surroundings{Place: Place{Cwd: "/srv/web"}, Suffix: "0123456789abcdef"})
		if err == nil {
			err = CheckName(s.Machine)
		}
		if err != nil || s.Machine != c.machine || s.Image.Template != "" {
			t.Errorf("%s: %q %v %q", c.words, s.Machine, err, s.Image.Template)
		}
	}
	// However long the name is, a clean-up finds its copies.
	for _, name := range []string{"web", long} {
		if copied := CopyName(name, "0123456789abcdef"); copied != CopiesOf(name)+"-0123456789abcdef" {
			t.Errorf("%s: copies of %s are not found", copied, CopiesOf(name))
		}
	}
}

func TestTraceOrigin(t *testing.T) {
	_, trace, _, err := Resolve(say(t, "console=passive", "pipe=yes", "uid=joe"), Surroundings{Place: Place{Cwd: "/srv/web"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"console": "--pipe", "uid": "--uid", "boot": ""} {
		if got := trace.Origin(name).Path; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "web", "web-1.example.org", "1", strings.Repeat("a", 64), "A-b"} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a-.b", "a_b", "a b", "é", "a/b", strings.Repeat("a", 65), "a\n"} {
		if CheckName(name) == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestParseUsers(t *testing.T) {
	fixed := func(start, size uint32) Users {
		return Users{Mode: userns.Fixed, Range: userns.Range{Start: start, Size: size}}
	}
	for _, c := range []struct {
		text     string
		flag     any
		key      any
		flagFail bool
	}{
		{"", Users{Mode: userns.Owner}, Users{Mode: userns.Owner}, false},
		{"yes", Users{Mode: userns.Owner}, Users{Mode: userns.Owner}, false},
		{"no", Users{}, Users{}, false},
		{"0", fixed(0, 65536), Users{}, false},
		{"1", fixed(1, 65536), Users{Mode: userns.Owner}, false},
		{"0:10", fixed(0, 10), fixed(0, 10), false},
		{"4294901759:65536", fixed(4294901759, 65536), fixed(4294901759, 65536), false},
		{"4294901760:65536", nil, nil, true},
		{"65535", nil, nil, true},
		{"00", nil, nil, true},
		{"+1", nil, nil, true},
		{"1:", nil, nil, true},
		{":1", nil, nil, true},
		{"1:2:3", nil, nil, true},
		{"99999999999", nil, nil, true},
	} {
		f, err := parseUsers(Place{}, c.text)
		k, err2 := parseUsersKey(Place{}, c.text)
		if c.flagFail != (err != nil) || c.flagFail != (err2 != nil) || !c.flagFail && (f != c.flag || k != c.key) {
			t.Errorf("%q: flag %v %v, key %v %v", c.text, f, err, k, err2)
		}
	}
}

// TestOwnershipAlone: who says whose the files are means users of the machine's own,
// and what is said about it holds for whatever users there are.
func TestOwnershipAlone(t *testing.T) {
	file := func(key, value string) Assignment {
		o := FindKey("Files", key)
		v, err := o.Parse(Place{}, value)
		if err != nil {
			t.Fatal(err)
		}
		return Assignment{Option: o, Value: v, Text: value, Origin: line(2)}
	}
	ownership := []Assignment{file("PrivateUsersOwnership", "map")}
	for _, c := range []struct {
		words string
		file  []Assignment
		files FileMode
		want  Users
	}{
		{"private-users-ownership=map", nil, FileYes, Users{Mode: userns.Pick, Ownership: userns.MapIt}},
		{"private-users-ownership=off", nil, FileYes, Users{Mode: userns.Pick, Ownership: userns.Off}},
		{"private-users-chown=yes", nil, FileYes, Users{Mode: userns.Pick, Ownership: userns.Chown}},
		{"private-users-ownership=map", nil, FileOverride, Users{Mode: userns.Pick, Ownership: userns.MapIt}},
		{"private-users-ownership=map private-users=no", nil, FileYes, Users{Ownership: userns.MapIt}},
		{"", ownership, FileYes, Users{Ownership: userns.MapIt}},
		{"private-users-ownership=off", ownership, FileYes, Users{Mode: userns.Pick, Ownership: userns.Off}},
		{"private-users-ownership=off", ownership, FileOverride, Users{Ownership: userns.MapIt}},
		{"U=", ownership, FileOverride, Users{Ownership: userns.MapIt}},
		{"private-users-ownership=off U=", nil, FileYes, Users{Mode: userns.Pick, Ownership: userns.Off}},
		{"U= private-users-ownership=off", nil, FileYes, Users{Mode: userns.Pick, Ownership: userns.Off}},
		{"private-users-chown=yes U=", nil, FileYes, Users{Mode: userns.Pick, Ownership: userns.Chown}},
		{"U= private-users=131072", nil, FileYes, Users{Mode: userns.Fixed, Range: userns.Range{Start: 131072, Size: 65536}}},
	} {
		s, _, _, err := Resolve(append(say(t, strings.Fields(c.words)...), c.file...), Surroundings{Place: Place{Cwd: "/srv/web"}, Files: c.files})
		if err != nil || s.Users != c.want {
			t.Errorf("%s, %d lines, %q: %+v, want %+v (%v)", c.words, len(c.file), c.files, s.Users, c.want, err)
		}
	}
}

func TestSignals(t *testing.T) {
	for text, want := range map[string]int{
		"SIGTERM": 15, "term": 15, "15": 15, "SIGRTMIN": 34, "RTMIN+3": 37, "SIGRTMAX": 64, "RTMAX-1": 63, "sigrtmin+30": 64,
		"": 0, "0": 0, "65": 0, "RTMIN+31": 0, "RTMAX-31": 0, "RTMIN+": 0, "RTMIN3": 0, "SIG": 0, "-1": 0, "RTMIN+-1": 0, "RTMAX+1": 0,
	} {
		got, err := ParseSignal(text)
		if (err != nil) != (want == 0) || err == nil && got != want {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	if !slices.IsSortedFunc(capNames[:], func(a, b numbered) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the names are not sorted: some would not be found")
	}
	var all uint64
	for n := range len(capNames) {
		name := CapabilityName(n)
		got, err := ParseCapability(strings.ToLower(name))
		if err != nil || got != n {
			t.Errorf("%d %s: %d %v", n, name, got, err)
		}
		all |= 1 << got
	}
	if all != AllCaps || len(capNames) != 41 {
		t.Errorf("%#x, %d names", all, len(capNames))
	}
	for text, want := range map[string]any{"": uint64(0), "CAP_CHOWN": uint64(1), "CAP_CHOWN,cap_kill": uint64(0x21), "all": uint64(AllCaps), " CAP_CHOWN , 5 ": uint64(0x21)} {
		if got, err := parseCaps(Place{}, text); err != nil || got != want {
			t.Errorf("%q: %#x %v", text, got, err)
		}
	}
	if _, err := parseCaps(Place{}, "CAP_CHOWN,CAP_X"); err == nil {
		t.Error("CAP_X is accepted")
	}
}

func TestSplitWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                nil,
		"  \t ":           nil,
		"a  b":            {"a", "b"},
		`"a b" 'c d'`:     {"a b", "c d"},
		`a"b c"d`:         {"ab cd"},
		`""`:              {""},
		`'' a`:            {"", "a"},
		`"it's"`:          {"it's"},
		`a\ b`:            {`a\`, "b"},
		`"a\"`:            {`a\`},
		`A="1 2" B='3 4'`: {"A=1 2", "B=3 4"},
	} {
		if got, err := SplitWords(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q %v", text, got, err)
		}
	}
	for _, text := range []string{`"`, `a 'b`, `"a' b`} {
		if got, err := SplitWords(text); err == nil {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"boot", "bind", "bind-ro", "directory", "read-only", "private-users"}
	for word, want := range map[string]string{
		"boto": "boot", "bidn-ro": "bind-ro", "directroy": "directory", "readonly": "read-only", "private_users": "private-users",
		"zzzz": "", "": "", "x": "", strings.Repeat("a", 500): "",
	} {
		if got := Nearest(word, known...); got != want {
			t.Errorf("%.20s: %q, want %q", word, got, want)
		}
	}
	if got := Nearest("a", strings.Repeat("a", 500)); got != "" {
		t.Error(got)
	}
}

func FuzzValues(f *testing.F) {
	for _, s := range []string{"yes", "1:2", "/a:/b", "CAP_CHOWN", "RTMIN+3", "A=b", "a'b'", "web-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for i := range Options {
			o := &Options[i]
			for _, parse := range []func(Place, string) (any, error){o.Parse, o.ParseKey} {
				if parse == nil {
					continue
				}
				v, err := parse(Place{Cwd: "/srv", Env: []string{"A=b"}}, text)
				if err != nil {
					if strings.ContainsAny(err.Error(), "\n\x1b") {
						t.Errorf("%s: the error %q isn't fit to print", o.Name, err)
					}
					continue
				}
				if o.Set != nil {
					o.Set(new(Settings), Assignment{Option: o, Value: v})
				}
			}
		}
	})
}
