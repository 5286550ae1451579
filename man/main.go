// Command man writes what of the manual pages and the shell completions
// follows from the option table: `go generate ./man`.
//
// The pages are written by hand, but for the blocks between `.\" begin` and
// `.\" end`. Such a block lists options or keys, each with its prose, which
// lies in options/NAME.man, once for both pages; or the fields of config.json,
// from the table in oci/bundle. It guarantees that every row
// of the table is in the pages, and that they say about spelling, repetition
// and trust what the table says. It refuses to know what an option does.
//
// Room: desk.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"launch/internal/cli"
	"launch/oci/bundle"
	"launch/settings"
)

//go:generate go run . ..

// pages are those with generated blocks.
var pages = []string{"launch.1", "launch-pull.1", "launch.nspawn.5", "launch-oci.8"}

func main() {
	root := ".."
	if len(os.Args) > 1 {
		root = os.Args[1]
	}
	files, err := generate(root)
	if err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(root, f.path), []byte(f.text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, "man:", err)
			os.Exit(1)
		}
	}
}

// file is one that is generated, or has generated parts.
type file struct{ path, text string }

// generate gives all files as they should be.
func generate(root string) ([]file, error) {
	prose, err := readProse(filepath.Join(root, "man", "options"))
	if err != nil {
		return nil, err
	}
	var files []file
	for _, name := range pages {
		path := filepath.Join("man", name)
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return nil, err
		}
		whole, err := fill(string(text), prose)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		files = append(files, file{path, whole})
	}
	for _, shell := range cli.Shells {
		files = append(files, file{filepath.Join("completions", shell.File), shell.Completion()})
	}
	return files, nil
}

// readProse reads options/*.man, by the name of the row.
func readProse(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	prose := map[string]string{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".man")
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		prose[name] = string(text)
	}
	return prose, strangers(prose)
}

// documented reports whether the row belongs into the pages: it can be said in
// a file, or is an option that --help has, or another word for one.
func documented(o *settings.Option) bool {
	return !o.Later && (o.Key != "" || topic(o) != "")
}

// strangers compares the prose with the table. Prose may be there before the
// option is supported.
func strangers(prose map[string]string) error {
	for i := range settings.Options {
		o := &settings.Options[i]
		if _, ok := prose[o.Name]; !ok && documented(o) {
			return fmt.Errorf("the option %q has no prose: write man/options/%s.man", o.Name, o.Name)
		}
	}
	for name := range prose {
		if o := settings.Find(name); o == nil || !o.Later && !documented(o) {
			return fmt.Errorf("man/options/%s.man is about no option", name)
		}
	}
	return nil
}

const (
	begin = `.\" begin `
	end   = `.\" end`
)

// fill puts the generated blocks into a page: `.\" begin options Image` takes
// the options of a topic, `.\" begin keys Exec` the keys of a section.
func fill(page string, prose map[string]string) (string, error) {
	var out strings.Builder
	inside := false
	seen := map[string]bool{}
	for line := range strings.Lines(page) {
		text := strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(text, begin):
			if inside {
				return "", fmt.Errorf("%q stands in another block", text)
			}
			inside = true
			block := strings.TrimPrefix(text, begin)
			if seen[block] {
				return "", fmt.Errorf("%q is there twice", text)
			}
			seen[block] = true
			out.WriteString(line)
			list, err := list(block, prose)
			if err != nil {
				return "", err
			}
			out.WriteString(list)
		case text == end:
			if !inside {
				return "", fmt.Errorf("%q without a beginning", text)
			}
			inside = false
			out.WriteString(line)
		case !inside:
			out.WriteString(line)
		}
	}
	if inside {
		return "", fmt.Errorf("a block has no %q", end)
	}
	kind := ""
	for block := range seen {
		kind, _, _ = strings.Cut(block, " ")
	}
	if kind == "verb" {
		for i := range settings.Verbs {
			if block := "verb " + settings.Verbs[i].Name; !seen[block] {
				return "", fmt.Errorf("there is no block %q", begin+block)
			}
		}
		return out.String(), nil
	}
	for _, block := range wanted(kind) {
		if !seen[block] {
			return "", fmt.Errorf("there is no block %q", begin+block)
		}
	}
	return out.String(), nil
}

// wanted are the blocks that a page of the kind must have.
func wanted(kind string) []string {
	var blocks []string
	if kind == "fields" {
		for i := range bundle.Fields {
			if block := "fields " + partOf(bundle.Fields[i].Pointer); !slices.Contains(blocks, block) {
				blocks = append(blocks, block)
			}
		}
		return blocks
	}
	for i := range settings.Options {
		o := &settings.Options[i]
		block := "options " + string(topic(o))
		if kind == "keys" {
			block = "keys " + o.Section
			if o.Key == "" {
				continue
			}
		} else if o.Flag == "" && o.Short == 0 {
			continue
		}
		if documented(o) && !slices.Contains(blocks, block) {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// topic is the heading under which an option stands. What --help leaves out
// stands with the option that it is another word for.
func topic(o *settings.Option) settings.Topic {
	if o.Topic == "" && o.Same != "" {
		return settings.Find(o.Same).Topic
	}
	return o.Topic
}

func list(block string, prose map[string]string) (string, error) {
	kind, what, _ := strings.Cut(block, " ")
	var out strings.Builder
	switch kind {
	case "fields":
		out.WriteString(fields(what))
	case "verb":
		if v := settings.FindVerb(what); v != nil {
			for i := range v.Options {
				o := &v.Options[i]
				fmt.Fprintf(&out, ".TP\n%s\n%s.\n", flagHeading(o), escape(o.Help))
				if o.Enum != nil {
					fmt.Fprintf(&out, "One of %s.\n", escape(strings.Join(o.Enum, ", ")))
				}
			}
		}
	}
	for i := range settings.Options {
		o := &settings.Options[i]
		if !documented(o) {
			continue
		}
		switch kind {
		case "fields", "verb":
		case "options":
			if (o.Flag != "" || o.Short != 0) && string(topic(o)) == what {
				out.WriteString(".TP\n" + flagHeading(o) + "\n" + part(prose[o.Name], "flag"))
				if o.Key != "" {
					fmt.Fprintf(&out, ".IP\nIn a file:\n.B %s=\nin section [%s].\n", o.Key, o.Section)
				}
			}
		case "keys":
			if o.Key != "" && o.Section == what {
				out.WriteString(".TP\n" + keyHeading(o, prose[o.Name]) + "\n" + part(prose[o.Name], "key") + rules(o))
			}
		default:
			return "", fmt.Errorf("nobody knows the block %q", block)
		}
	}
	if out.Len() == 0 {
		return "", fmt.Errorf("the block %q would be empty", block)
	}
	return out.String(), nil
}

// partOf gives the part of config.json that a field is listed under.
func partOf(pointer string) string {
	for _, part := range [...]string{"process", "mounts", "hooks", "linux/seccomp", "linux/resources", "linux"} {
		if pointer == "/"+part || strings.HasPrefix(pointer, "/"+part+"/") {
			return part
		}
	}
	return "container"
}

// fields lists the fields of a part: those that there is more to say of than
// that they are honoured, and then the others.
func fields(part string) string {
	var noted, plain strings.Builder
	for i := range bundle.Fields {
		f := &bundle.Fields[i]
		switch {
		case partOf(f.Pointer) != part:
		case f.Why != "":
			fmt.Fprintf(&noted, ".TP\n.B %s\n%s: %s.\n", escape(f.Pointer), f.Disposition, escape(f.Why))
		case plain.Len() > 0:
			fmt.Fprintf(&plain, ".br\n.B %s\n", escape(f.Pointer))
		default:
			fmt.Fprintf(&plain, ".PP\nHonoured as the specification has it:\n.PP\n.RS\n.nh\n.B %s\n", escape(f.Pointer))
		}
	}
	if plain.Len() > 0 {
		plain.WriteString(".hy\n.RE\n")
	}
	return noted.String() + plain.String()
}

// escape writes text so that it comes out as it is.
func escape(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	s = strings.ReplaceAll(s, "~", `\(ti`)
	return strings.ReplaceAll(s, "…", `\|.\|.\|.\|`)
}

// flagHeading gives `-D, --directory=PATH`.
func flagHeading(o *settings.Option) string {
	var names []string
	if o.Short != 0 {
		names = append(names, `\fB\-`+string([]byte{o.Short})+`\fR`)
	}
	if o.Flag != "" {
		name := `\fB\-\-` + escape(o.Flag)
		switch o.Arg {
		case settings.RequiredArg:
			name += `=\fR\fI` + escape(o.Placeholder) + `\fR`
		case settings.OptionalArg:
			name += `\fR[\fB=\fR\fI` + escape(o.Placeholder) + `\fR]`
		default:
			name += `\fR`
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

const value = `.\" value: `

// keyHeading gives `Bind=SOURCE[:TARGET[:OPTIONS]]`. Prose may name a value
// that is written in another way than the flag's, in a line of its own.
func keyHeading(o *settings.Option, prose string) string {
	v := o.Placeholder
	if o.Arg == settings.NoArg {
		v = "BOOL"
	}
	for line := range strings.Lines(prose) {
		if told, ok := strings.CutPrefix(line, value); ok {
			v = strings.TrimSpace(told)
		}
	}
	return `\fB` + o.Key + `=\fR\fI` + escape(v) + `\fR`
}

// part gives what of the prose is for one page: all but what stands behind
// `.\" only: key` or `.\" only: flag`, up to `.\" both`, for the other one.
func part(prose, page string) string {
	var out strings.Builder
	only := ""
	for line := range strings.Lines(prose) {
		text := strings.TrimRight(line, "\n")
		switch word, marked := strings.CutPrefix(text, `.\" only: `); {
		case marked:
			only = word
		case text == `.\" both`:
			only = ""
		case strings.HasPrefix(text, value):
		case only != "" && only != page:
		case text == ".PP":
			// Inside a list a paragraph keeps its indent.
			out.WriteString(".IP\n")
		default:
			out.WriteString(line)
		}
	}
	return out.String()
}

// rules says what the table knows about a key.
func rules(o *settings.Option) string {
	var s []string
	if o.Repeat {
		s = append(s, "Several lines add up.")
	} else {
		s = append(s, "The last of several lines counts.")
	}
	switch o.Empty {
	case settings.EmptyWarns:
		s = append(s, "An empty value is ignored with a warning.")
	case settings.EmptyClears:
		s = append(s, "An empty value takes back the lines above it.")
	case settings.EmptyNothing:
		s = append(s, "An empty value means nothing.")
	}
	switch o.Trusted {
	case settings.TrustedOnly:
		s = append(s, "Only in a trusted file.")
	case settings.Tighten:
		s = append(s, "In a file that is not trusted, only if the machine does not become weaker by it.")
	case settings.Anyone:
		s = append(s, "In any file.")
	}
	text := ".IP\n"
	if o.Flag != "" {
		text += "On the command line:\n.BR " + `\-\-` + escape(o.Flag) + " .\n"
	}
	return text + strings.Join(s, "\n") + "\n"
}
