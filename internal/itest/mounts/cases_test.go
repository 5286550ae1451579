package mounts

import (
	_ "embed"
	"strings"
	"testing"

	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
)

//go:embed cases.txt
var cases string

// A tryout is a case of cases.txt.
type tryout struct {
	name        string
	host, lines []string
	external    map[string]tree.External
	// save and restore are what must be said when that fails; ok otherwise.
	save, restore string
	// alone: not with private users, for which the text is said.
	alone string
}

func read(t testing.TB) (list []tryout) {
	for _, block := range strings.Split(cases, "\n\n") {
		c := tryout{external: map[string]tree.External{"/ext": {Path: "/mnt"}}}
		for line := range strings.Lines(block) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if c.name == "" {
				c.name = line
				continue
			}
			key, rest, _ := strings.Cut(line, " ")
			switch key {
			case "host":
				c.host = append(c.host, rest)
			case "external":
				target, words, _ := strings.Cut(rest, " is ")
				_, x, err := tree.ParseExternal("x=" + words)
				if err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				c.external[target] = x
			case "unsaved":
				c.save = rest
			case "refused":
				c.restore = rest
			case "alone":
				c.alone = rest
			default:
				c.lines = append(c.lines, line)
			}
		}
		if c.name != "" {
			list = append(list, c)
		}
	}
	return list
}

func TestCases(t *testing.T) {
	list := read(t)
	if len(list) < 60 {
		t.Errorf("there are %d cases, there should be 60", len(list))
	}
	for _, c := range list {
		t.Run(c.name, func(t *testing.T) { c.try(t, false) })
		t.Run(c.name+" -U", func(t *testing.T) { c.try(t, true) })
	}
}

func (c tryout) try(t *testing.T, private bool) {
	host := newHost(t)
	p := &trip{t: t, host: host, ns: -1}
	if private {
		p.private()
	}
	if err := host.do(func(sys.Locked) error { return script(c.host) }); err != nil {
		t.Fatal(err)
	}
	made := grow(t, host, c.lines)
	_, text, err := p.save(tids(made)...)
	if c.save != "" {
		if err == nil || !strings.Contains(err.Error(), c.save) {
			t.Fatalf("saving gave %v, not %q", err, c.save)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := tree.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	before := host.table(t)
	want := c.restore
	if private && c.alone != "" {
		want = c.alone
	}
	r, err := p.restore(f, snapshot.Options{Policy: policy(f, c.external)})
	if after := host.table(t); after != before {
		t.Errorf("the host's mounts changed:\n%s\n%s", before, after)
	}
	if want != "" {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("restoring gave %v, not %q", err, want)
		}
		return
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	_, again, err := p.save(r.pids...)
	if err != nil {
		t.Fatal(err)
	}
	if err := differ(text, again); err != nil {
		t.Fatalf("saved again, it is another tree: %v", err)
	}
	if err := p.probe(made, r, f, 1); err != nil {
		t.Error(err)
	}
}
