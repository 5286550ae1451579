package nspawn_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"launch/internal/cli"
	"launch/internal/facts"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/settings"
	"launch/settings/nspawn"
)

var update = flag.Bool("update", false, "write the goldens anew")

// directives are comments at the head of a test file: `#: args -b ls` is the
// command line, `#: beside` says that the file lies beside its tree.
func directives(text string) (args []string, trusted bool) {
	trusted = true
	for line := range strings.SplitSeq(text, "\n") {
		line, ok := strings.CutPrefix(line, "#: ")
		if !ok {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "args":
			args = strings.Fields(rest)
		case "beside":
			trusted = false
		default:
			panic("unknown directive " + word)
		}
	}
	return args, trusted
}

// TestGoldens: each file with its command line, down to the fate of every
// assignment, the settings, and what they change in the plan and the program
// for one host and tree.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.nspawn")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".nspawn")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := resolve(t, name+".nspawn", string(text))
			golden := strings.TrimSuffix(file, ".nspawn") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func resolve(t *testing.T, file, text string) string {
	args, trusted := directives(text)
	r, err := cli.Parse(args, []string{"TERM=vt100"}, "/srv/web")
	if err != nil {
		t.Fatal(err)
	}
	around := settings.Surroundings{
		Place: settings.Place{Cwd: "/srv/web", Env: []string{"TERM=vt100"}}, Hostname: "host", Files: r.Files, PID2: true,
		Images: func(name string) (settings.Where, bool) {
			return settings.Where{Path: "/var/lib/machines/" + name}, name == "web"
		},
	}
	var b strings.Builder
	list, warnings, err := nspawn.Read(nspawn.Candidate{Path: file, Trusted: trusted}, around.Place, []byte(text))
	if err != nil {
		for _, w := range warnings {
			cli.Warn(&b, w)
		}
		cli.Report(&b, err)
		return b.String()
	}
	s, trace, more, err := settings.Resolve(append(r.Assignments, list...), around)
	b.WriteString(trace.String())
	for _, w := range append(warnings, more...) {
		cli.Warn(&b, w)
	}
	if err != nil {
		cli.Report(&b, err)
		return b.String()
	}
	js, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b.Write(js)
	b.WriteByte('\n')
	steps, program, err := planned(s, trace.Origin)
	if err != nil {
		b.WriteString("\nplan:\n")
		cli.Report(&b, err)
		return b.String()
	}
	bare := s
	bare.Mounts, bare.Exec, bare.Users, bare.Network, bare.Host, bare.Environment = nil, settings.Exec{}, settings.Users{}, settings.Network{}, settings.Host{}, settings.Environment{}
	bare.Image = settings.Image{Directory: s.Image.Directory}
	bare.Life = settings.Life{}
	plainSteps, plainProgram, err := planned(bare, func(string) origin.Origin { return origin.Origin{} })
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("\nplan, beside that of the tree alone:\n" + change(plainSteps, steps))
	b.WriteString("\nprogram, beside that of the tree alone:\n" + change(plainProgram, program))
	return b.String()
}

// host and tree are what the plans are made for.
var host = facts.Host{
	Known: true, Root: true, Hostname: "host", OSRelease: "/etc/os-release", OSFields: facts.OSFields{ID: "debian", VersionID: "12"},
	Cgroup: "/", CgroupMount: "/sys/fs/cgroup", Fuse: 0o666, Tun: 0o600, Processes: [2]uint64{100, 200}, Signals: [2]uint64{300, 300},
	OpenMax: 1 << 20, Raise: true, Caps: 1<<41 - 1, UserNamespaces: true, Resolv: facts.Resolv{Host: true}, Localtime: facts.Link, Zone: "Etc/UTC",
	Limits: unlimited(),
}

func unlimited() (l [16][2]uint64) {
	for i := range l {
		l[i] = [2]uint64{settings.Infinity, settings.Infinity}
	}
	return l
}

var root = facts.Root{
	Known: true, Bin: facts.Link, Usr: facts.Dir, Var: facts.Dir, UsrBin: facts.Dir, UsrLib: facts.Dir, UsrSbin: facts.Dir,
	Loader64: "usr/lib64", OSRelease: true, MachineID: "0123456789abcdef0123456789abcdef",
}

// planned gives the lines of the plan, in two parts: what is done to mounts and
// host, and what the machine's first process does.
func planned(s settings.Settings, from func(string) origin.Origin) (steps, program []string, err error) {
	p, err := plan.Compile(plan.Input{Settings: s, Facts: facts.Facts{Root: root, Host: host}, Profile: settings.NSpawn, From: from,
		ID: strings.Repeat("1", 32), BootID: strings.Repeat("2", 32), Suffix: "0123456789abcdef"})
	if err != nil {
		return nil, nil, err
	}
	var text strings.Builder
	if err := p.Print(&text); err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(text.String()) {
		// Without its number, which changes with each step before.
		line = strings.Join(strings.Fields(number.ReplaceAllString(line, "$1 ")), " ")
		switch word, _, _ := strings.Cut(line, " "); word {
		case "child", "second", "filter", "payload", "env":
			program = append(program, line)
		default:
			steps = append(steps, line)
		}
	}
	return steps, program, nil
}

var number = regexp.MustCompile(`^(before|beside|outer|inner|child|second) [0-9]+ `)

// change gives the lines that are gone, and those that came.
func change(from, to []string) string {
	var b strings.Builder
	some := func(sign string, list, known []string) {
		count := map[string]int{}
		for _, l := range known {
			count[l]++
		}
		for _, l := range list {
			if count[l]--; count[l] < 0 {
				b.WriteString(sign + " " + l + "\n")
			}
		}
	}
	some("-", from, to)
	some("+", to, from)
	return b.String()
}
