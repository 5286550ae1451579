package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/cli"
	"launch/internal/probe"
	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/settings"
)

const convertUsage = "launch convert --to=oci|nspawn|args [--from=BUNDLE | OPTION… [COMMAND…]]"

// convert is `launch convert`: what is said about a machine, or by a bundle,
// in another form, and what that form can't say.
func convert(args, env []string, cwd string) int {
	fail := func(err error) int {
		cli.Report(os.Stderr, err)
		return 1
	}
	to, from := "", ""
	for len(args) > 0 {
		name, value, _ := strings.Cut(args[0], "=")
		if name == "--to" {
			to = value
		} else if name == "--from" {
			from = value
		} else {
			break
		}
		args = args[1:]
	}
	if to != "oci" && to != "nspawn" && to != "args" {
		return fail(&settings.Error{What: fmt.Sprintf("cannot convert to %q", to), Hint: convertUsage})
	}
	if from != "" && len(args) > 0 {
		return fail(&settings.Error{What: "cannot convert a bundle and options at once", Value: args[0], Hint: convertUsage})
	}
	var s settings.Settings
	var missed []string
	var err error
	if from != "" {
		s, missed, err = fromBundle(from)
	} else {
		s, err = fromOptions(args, env, cwd)
	}
	if err != nil {
		return fail(err)
	}
	var text string
	if to == "oci" {
		if s.Image.File != "" {
			return fail(&settings.Error{What: "cannot make a bundle of a machine on a disk image: a bundle has its root in a directory", Value: s.Image.File, Hint: "copy what is in the image to a directory"})
		}
		if s.Image.MStack != "" {
			return fail(&settings.Error{What: "cannot make a bundle of a machine on a mount stack: a bundle has its root in a directory", Value: s.Image.MStack, Hint: "copy what the machine sees to a directory"})
		}
		spec, more := bundle.FromSettings(s, &settings.NSpawn)
		missed = append(missed, more...)
		if err := writeJSON(os.Stdout, spec); err != nil {
			return fail(fmt.Errorf("print the configuration: %w", err))
		}
	} else {
		list, more := settings.Say(s)
		missed = append(missed, more...)
		if to == "args" {
			text = asArgs(list)
		} else {
			text, more = asFile(list, s.Exec.Mode)
			missed = append(missed, more...)
		}
	}
	fmt.Print(text)
	for _, m := range missed {
		cli.Warn(os.Stderr, settings.Warning{What: "left out, since it can't be said there: " + m})
	}
	return 0
}

func fromBundle(dir string) (settings.Settings, []string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return settings.Settings{}, nil, fmt.Errorf("find bundle %s: %w", dir, err)
	}
	text, err := sys.ReadRegular(unix.AT_FDCWD, filepath.Join(dir, bundle.File), bundle.Limit)
	if err != nil {
		return settings.Settings{}, nil, fmt.Errorf("read %s: %w", filepath.Join(dir, bundle.File), err)
	}
	s, warnings, err := bundle.Read(dir, string(text))
	for _, w := range warnings {
		cli.Warn(os.Stderr, w)
	}
	if err != nil {
		return settings.Settings{}, nil, err
	}
	plain, missed := bundle.Plain(s, &settings.NSpawn)
	return plain, missed, nil
}

// fromOptions reads what a start with these words would.
func fromOptions(args, env []string, cwd string) (settings.Settings, error) {
	none := settings.Settings{}
	req, err := cli.Parse(args, env, cwd)
	if err != nil {
		return none, err
	}
	if req.Action != cli.Run {
		return none, &settings.Error{What: "convert shows what is said about a machine, and does nothing else", Hint: convertUsage}
	}
	host, err := probe.Host(nil)
	if err != nil {
		return none, err
	}
	around := settings.Surroundings{
		Place: settings.Place{Cwd: cwd, Env: env}, Hostname: host.Hostname, Files: req.Files, PID2: true,
	}
	var finder probe.Finder
	finder.Around(&around)
	assignments, warnings, err := withFile(req, around)
	if err != nil {
		return none, err
	}
	s, _, more, err := settings.Resolve(assignments, around)
	for _, w := range append(append(req.Warnings, warnings...), more...) {
		cli.Warn(os.Stderr, w)
	}
	return s, err
}

// asArgs gives a command line for a shell.
func asArgs(list []settings.Saying) string {
	line, words := "launch", ""
	for _, l := range list {
		switch o := l.Option; {
		case o.Name == "words":
			words += " " + shellWord(l.Flag)
		case o.Flag != "" && l.Flag != "":
			line += " " + shellWord("--"+o.Flag+"="+l.Flag)
		case o.Flag != "":
			line += " --" + o.Flag
		}
	}
	if words != "" {
		line += " --" + words
	}
	return line + "\n"
}

// shellWord quotes a word where a shell would take it for something else.
func shellWord(s string) string {
	safe := strings.IndexFunc(s, func(c rune) bool {
		return !strings.ContainsRune("-_=/.,:+@%", c) && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z')
	}) < 0
	if safe && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// asFile gives a .nspawn file.
func asFile(list []settings.Saying, mode settings.Mode) (text string, missed []string) {
	lines := map[string][]string{}
	var words []string
	for _, l := range list {
		switch o := l.Option; {
		case o.Name == "words":
			words = append(words, l.Key)
		case o.Key != "":
			lines[o.Section] = append(lines[o.Section], o.Key+"="+l.Key)
		case o.Name != "rlimit": // for which there are keys
			missed = append(missed, strings.TrimSuffix("--"+o.Flag+"="+l.Flag, "="))
		}
	}
	if len(words) > 0 {
		if mode == settings.Plain {
			// Without it nobody would know what the words are.
			lines["Exec"] = append(lines["Exec"], "Boot=no")
		}
		lines["Exec"] = append(lines["Exec"], "Parameters="+strings.Join(words, " "))
	}
	for _, section := range [...]string{"Exec", "Files", "Network"} {
		if lines[section] == nil {
			continue
		}
		if text != "" {
			text += "\n"
		}
		text += "[" + section + "]\n" + strings.Join(lines[section], "\n") + "\n"
	}
	return text, missed
}
