package nspawn_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/cli"
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

// TestGoldens: each file with its command line, down to the settings and the
// fate of every assignment.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.nspawn")
	if err != nil || len(files) < 40 {
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
		Images: func(name string) (string, bool) { return "/var/lib/machines/" + name, name == "web" },
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
	return b.String()
}
