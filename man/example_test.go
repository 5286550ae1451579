package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/images"
	"launch/internal/itest/tree"
	"launch/settings"
	"launch/settings/nspawn"

	house "launch/internal/rules"
)

// example is a block between .EX and .EE.
type example struct {
	// line is where it begins, counted from 1.
	line int
	// mark is the word of `.\" run: WORD` above it.
	mark string
	// file is the name of the file that it shows, untrusted whether it lies
	// beside the tree; empty for a block of commands.
	file      string
	untrusted bool
	text      string
	commands  []command
}

// command is a line that a reader may type.
type command struct {
	line int
	root bool // the prompt is #
	text string
}

// examples gives the examples of a page. A block shows a file, as
// `.\" file: NAME` above it says, or commands behind a prompt; lines between
// those are output.
func examples(page string) ([]example, error) {
	var all []example
	var e *example
	next := example{}
	more := false // the last command goes on
	n := 0
	for line := range strings.Lines(page) {
		n++
		line = strings.TrimRight(line, "\n")
		word, marked := strings.CutPrefix(line, `.\" run: `)
		file, shown := strings.CutPrefix(line, `.\" file: `)
		switch {
		case line == ".EX" && e == nil:
			next.line = n
			all = append(all, next)
			e, next = &all[len(all)-1], example{}
		case line == ".EE" && e != nil:
			if more || e.file == "" && len(e.commands) == 0 {
				return nil, fmt.Errorf("line %d: an example without a command: begin it with `$ ` or `# `, or say `.\\\" file: NAME`", e.line)
			}
			e = nil
		case e != nil:
			text := typed(line)
			e.text += text + "\n"
			if e.file != "" {
				continue
			}
			if more {
				last := &e.commands[len(e.commands)-1]
				last.text += strings.TrimSpace(text)
			} else if rest, ok := strings.CutPrefix(text, "# "); ok {
				e.commands = append(e.commands, command{n, true, rest})
			} else if rest, ok := strings.CutPrefix(text, "$ "); ok {
				e.commands = append(e.commands, command{n, false, rest})
			} else {
				continue
			}
			last := &e.commands[len(e.commands)-1]
			last.text, more = strings.CutSuffix(last.text, `\`)
		case marked:
			next.mark = word
		case shown:
			next.file = file
		case line == `.\" untrusted`:
			next.untrusted = true
		default:
			next = example{}
		}
	}
	if e != nil {
		return nil, fmt.Errorf("line %d: an example without an end", e.line)
	}
	return all, nil
}

// typed gives a line of an example as a reader sees it.
func typed(line string) string {
	return strings.NewReplacer(`\-`, "-", `\e`, `\`, `\(aq`, "'", `\(dq`, `"`, `\(ti`, "~", `\&`, "").Replace(line)
}

// bare gives the places where a hyphen that a reader may copy isn't plain.
func bare(page string) []string {
	var found []string
	ex := false
	n := 0
	for line := range strings.Lines(page) {
		n++
		text := strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(text, `.\"`), strings.HasPrefix(text, ".TH"):
			continue
		case text == ".EX", text == ".EE":
			ex = text == ".EX"
			continue
		}
		bold := ex || strings.HasPrefix(text, ".B") || strings.HasPrefix(text, ".RB") || strings.HasPrefix(text, ".IB") || strings.Contains(text, "--")
		if !bold {
			for _, part := range strings.Split(text, `\fB`)[1:] {
				part, _, _ = strings.Cut(part, `\fR`)
				bold = bold || strings.Contains(strings.ReplaceAll(part, `\-`, ""), "-")
			}
			if !bold {
				continue
			}
		}
		if strings.Contains(strings.ReplaceAll(text, `\-`, ""), "-") {
			found = append(found, fmt.Sprintf("%d: write \\- in: %s", n, text))
		}
	}
	return found
}

// kitchen is where the examples are run: a directory with a tree called web,
// some files called pages, an image called box, and launch in PATH.
type kitchen struct{ dir, bin string }

// open makes a directory that anybody can look into.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "launch-man-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func cook(t *testing.T) kitchen {
	t.Helper()
	k := kitchen{dir: open(t), bin: open(t)}
	build := exec.Command("go", "build", "-o", k.bin, "launch/cmd/launch", "launch/cmd/launch-pull")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build launch: %v\n%s", err, out)
	}
	web := filepath.Join(k.dir, "web")
	tree.Fresh(t, tree.Tiny(t), web)
	if err := images.Box(filepath.Join(k.dir, "box")); err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	pages := filepath.Join(k.dir, "pages")
	for _, err := range []error{
		os.Mkdir(pages, 0o755), os.WriteFile(filepath.Join(pages, "index"), []byte("page\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// joe makes a user of that name, for those who see the same mounts. An id map
// needs a file system that can have one.
const joe = `mkdir -p etc home
for f in passwd group; do cp /etc/$f etc/$f; done
echo 'joe:x:4711:4711::/mnt/joe:/bin/sh' >>etc/passwd
echo 'joe:x:4711:' >>etc/group
for f in passwd group; do mount --bind etc/$f /etc/$f; done
mount -t tmpfs -o mode=755 home /mnt
mkdir /mnt/joe
chown 4711:4711 /mnt/joe
`

// run types a command. The plan mark, and commands for which there is no
// program here, make launch plan instead of start. The host mark gives the
// command a host of its own.
func (k kitchen) run(c command, mark string) (string, error) {
	words := strings.Fields(c.text)
	if mark == "plan" {
		if words[0] != "launch" {
			return "", nil // heavy, and not ours
		}
		c.text = "launch --plan" + strings.TrimPrefix(c.text, "launch")
	}
	if mark == "host" {
		// On a made-up host, whose process 1 may be looked at and whose mounts
		// are of no use to others.
		c.text = "cat >script <<'EOF'\n" + strings.Replace(c.text, "host-exec", "host-exec --nested", 1) + "\nexit $?\nEOF\n" +
			"unshare --pid --fork --kill-child --mount --mount-proc sh script"
	}
	if strings.Contains(c.text, "--bind-user=") {
		// On a host that has such a user, which ours need not.
		c.text = "cat >script <<'EOF'\n" + joe + c.text + "\nEOF\nunshare --mount sh -e script"
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	sh := exec.CommandContext(ctx, "sh", "-c", c.text)
	sh.Dir = k.dir
	sh.Env = append(os.Environ(), "PATH="+k.bin+":"+os.Getenv("PATH"), "LANG=C.UTF-8", "LAUNCH_STORE="+filepath.Join(k.dir, "store"))
	sh.WaitDelay = time.Second
	if !c.root {
		// Behind this prompt anybody may type.
		sh.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if c.root && strings.Contains(c.text, "--network-") {
		// The host's interfaces are none of ours.
		sh.Args[2] = interfaces + c.text
		sh.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	var out, errs bytes.Buffer
	sh.Stdout, sh.Stderr = &out, &errs
	if c.root && !strings.ContainsAny(c.text, "|<") {
		// A login shell ends at once.
		sh.Stdin = strings.NewReader("")
	}
	err := sh.Run()
	if err != nil {
		err = fmt.Errorf("%w\n%s%s", err, out.String(), errs.String())
	}
	return out.String(), err
}

// interfaces are what the examples of networks speak of.
const interfaces = `for i in 0 1 2; do ip link add eth$i type veth peer name up$i || exit 99; done
ip link add br0 type bridge || exit 99
`

// TestExamples runs every command of the pages, and reads every file that they
// show.
func TestExamples(t *testing.T) {
	done, err := house.Alone()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	able := os.Geteuid() == 0 && !testing.Short()
	var k kitchen
	if able {
		k = cook(t)
	}
	for _, name := range pages {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all, err := examples(string(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(all) < 3 && name != "launch-oci.8" { // which is about a table
			t.Errorf("%s: found only %d examples", name, len(all))
		}
		for _, e := range all {
			if e.file != "" {
				t.Run(fmt.Sprintf("%s:%d", name, e.line), func(t *testing.T) { readable(t, e) })
				continue
			}
			for _, c := range e.commands {
				t.Run(fmt.Sprintf("%s:%d", name, c.line), func(t *testing.T) {
					if !able {
						t.Skip("it starts machines, and needs root")
					}
					if _, err := k.run(c, e.mark); err != nil {
						t.Errorf("%s: %v", c.text, err)
					}
				})
			}
		}
	}
}

// readable: a file is read without a warning, and all of it counts.
func readable(t *testing.T, e example) {
	place := settings.Place{Cwd: "/srv"}
	list, warnings, err := nspawn.Read(nspawn.Candidate{Path: e.file, Trusted: !e.untrusted}, place, []byte(e.text))
	if err != nil || len(warnings) > 0 || len(list) == 0 {
		t.Fatalf("%d lines, %v, %v", len(list), err, warnings)
	}
	_, trace, warnings, err := settings.Resolve(list, settings.Surroundings{Place: settings.Place{Cwd: "/srv/web"}, PID2: true})
	if err != nil || len(warnings) > 0 {
		t.Errorf("%v, %v", err, warnings)
	}
	for _, entry := range trace {
		if entry.Fate != settings.Applied {
			t.Errorf("%s", trace)
			break
		}
	}
}

// TestExamplesRed: examples that don't work are found out.
func TestExamplesRed(t *testing.T) {
	for _, text := range []string{".EX\nno prompt\n.EE\n", ".EX\n$ a\n", ".EX\n$ a \\e\n.EE\n"} {
		if _, err := examples(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
	all, err := examples(".\\\" run: plan\n.EX\n# launch \\-D web \\e\n    \\-b\nout\n$ b\n.EE\nx\n.\\\" file: a\n.EX\n[Exec]\n.EE\n")
	if err != nil || len(all) != 2 || all[0].mark != "plan" || fmt.Sprint(all[0].commands) != "[{3 true launch -D web -b} {6 false b}]" || all[1].file != "a" || all[1].text != "[Exec]\n" {
		t.Errorf("%+v %v", all, err)
	}
	k := kitchen{dir: t.TempDir(), bin: t.TempDir()}
	if err := os.WriteFile(filepath.Join(k.bin, "launch"), []byte("#!/bin/sh\n[ \"$1\" != --bad ]\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := k.run(command{1, true, "launch --bad"}, ""); err == nil {
		t.Error("a command that fails is not found out")
	}
	if _, err := k.run(command{1, true, "launch --bad"}, "plan"); err != nil {
		t.Error(err)
	}
}
