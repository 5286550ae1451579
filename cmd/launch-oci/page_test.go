package main

import (
	"os"
	"strings"
	"testing"
)

// TestPage: the manual page knows every verb with every option.
func TestPage(t *testing.T) {
	b, err := os.ReadFile("../../man/launch-oci.8")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.ReplaceAll(string(b), `\-`, "-")
	holds := func(text, what, name string) {
		if !strings.Contains(text, name) {
			t.Errorf("launch-oci(8) does not have %s of %s", name, what)
		}
	}
	for _, o := range globals {
		holds(page, "launch-oci", "--"+o.long())
	}
	// create's options stand with create.
	_, commands, _ := strings.Cut(page, ".SH COMMANDS")
	for _, v := range verbs() {
		_, text, ok := strings.Cut(commands, "\n.SS "+v.name)
		if !ok {
			t.Errorf("launch-oci(8) does not have the verb %s", v.name)
			continue
		}
		text, _, _ = strings.Cut(text, "\n.S")
		for _, o := range v.all() {
			if find(createOptions, o.long()) != nil && v != createVerb && strings.Contains(text, "those of create") {
				continue
			}
			holds(text, v.name, "--"+o.long())
		}
	}
}

// TestParse: options as engines write them.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		args, words string
		bad         string
	}{
		{"--bundle x id", "id", ""}, {"-bundle=x id", "id", ""}, {"-b x id", "id", ""}, {"id --bundle x", "id", ""},
		{"id --bundle", "", "flag needs an argument: -bundle"}, {"--nope id", "", "flag provided but not defined: -nope"},
		{"id --nope", "id --nope", ""}, {"--no-pivot=false -- id --bundle", "id --bundle", ""}, {"--no-pivot=7 id", "", "invalid boolean value"},
	} {
		values, words, err := parse(createOptions, strings.Fields(c.args))
		if err == nil && words != nil {
			words, err = late(createOptions, words, values)
		}
		switch {
		case c.bad != "":
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%q: %v, want %q", c.args, err, c.bad)
			}
		case err != nil || strings.Join(words, " ") != c.words:
			t.Errorf("%q: %q %v, want %q", c.args, words, err, c.words)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{"-1": -1, "0": 0, "7": 7, "2k": 2048, "2kB": 2048, "3MiB": 3 << 20, "1.5g": 3 << 29, "1t": 1 << 40, "9223372036854775807": 1<<63 - 1} {
		if n, err := parseBytes(text); err != nil || n != want {
			t.Errorf("%q: %d %v, want %d", text, n, err, want)
		}
	}
	for _, text := range []string{"", "x", "-2", "1e9", "1kk", "9223372036854775807k", "99999999p", "0x10"} {
		if n, err := parseBytes(text); err == nil {
			t.Errorf("%q: %d", text, n)
		}
	}
}
