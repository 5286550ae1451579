package faults

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sentences are what an error may say between `cannot start machine "X": step
// N, ` and the kernel's own words: what was being done, and to what. A message
// that has none of them is of no use to anybody.
var sentences = []*regexp.Regexp{
	// Mounts name what they are and where they go.
	regexp.MustCompile(`^mount (proc|sysfs|tmpfs|ramfs|devpts|mqueue|cgroup2|overlay) on /\S*: `),
	regexp.MustCompile(`^mount ext4 of the image /\S+ on /\S*: `),
	regexp.MustCompile(`^bind \S* ?on /\S+: `),
	regexp.MustCompile(`^(mask|make directory|make symlink|change the flags of|mount parts of sysfs on) /\S*: `),
	regexp.MustCompile(`^(take the tree|put together the layers in|take the layer|put together the layers of /\S+ on|take /\S+ for) /\S*: `),
	regexp.MustCompile(`^(lay a throw-away layer over (the tree|/\S*)|(map|change) the owners of the tree's files|make a user namespace for the id map): `),
	// A saved mount says which, or what it takes.
	regexp.MustCompile(`^bring back the mounts of /\S*: ([a-z].*|"/[^"]*"): `),
	regexp.MustCompile(`^cannot (read|use) /\S*( as a (disk image|mount stack))?: `),
	// What is done to one name for the sake of another tells both.
	regexp.MustCompile(`^(copy|rename|link) /[^:]*: `),
	// Files and directories of the host's name their path.
	regexp.MustCompile(`^(make|open|read|write|lock|look at|look for|list|remove|give|empty|kill what runs in) [^:]*/\S*( [^:]*)?: `),
	regexp.MustCompile(`^read the image \S+ of the store: `),
	// What has no path names the object.
	regexp.MustCompile(`^(make|move|give|open|write|look at|look at what lies over|hear from|let|let go of|enter|leave|join|pivot into|reap|wait for|clone|copy|unshare|set|bring up|change to) (the|a) [a-z].*: `),
	regexp.MustCompile(`^cut off mount propagation to the host: `),
	regexp.MustCompile(`^(set|bring up|set up|get|ask|install|pick|choose|write) (RLIMIT_[A-Z]+ to|the|standard|system-call|a|resource|random|whether) ?[a-z0-9].*: `),
	// What takes a journal is the host's, and so is what is done for it.
	regexp.MustCompile(`^receive the machine's journal: systemd-journal-remote: (make|set up|move|clone|look at|write|let|open|list|read|connect to|end|wait for|close|pass on|leave|go to|get|give up|keep|exec|unblock|set) [a-z/0-9].*: `),
	regexp.MustCompile(`^the last lines of its journal may be missing: systemd-journal-remote: [a-z]+ .*: `),
	// Who knows a user of the host's.
	regexp.MustCompile(`^ask systemd-userdbd: `),
	regexp.MustCompile(`^cannot read settings: `), // the file is where it is from
	// What the first process does for itself.
	regexp.MustCompile(`^(become|begin|close|die|exec|join|keep|let|make sure|tell|unblock|renounce|stop|take|change to) \S.*: `),
	// Undoing names what is left.
	regexp.MustCompile(`^undo( what an earlier machine left)?: \S+ .+: `),
}

var lead = regexp.MustCompile(`^(cannot start machine "[^"]+": |cannot run oci:\S+: |cannot clean up: |cannot bind (the user \S+|users of the host): (its group [0-9]+: )?|machine "[^"]+": |machine "[^"]+" has ended, but something of it is left on the host: )?(step [0-9]+, )?`)

// tells checks that a message names what was being done and why it failed.
func tells(message string, e unix.Errno) error {
	first, _, _ := strings.Cut(message, "\n")
	what, ok := strings.CutPrefix(first, "launch: ")
	if !ok {
		return errors.New("no error of the launcher's on standard error")
	}
	if !strings.Contains(what, e.Error()) {
		return fmt.Errorf("the error doesn't say %q", e.Error())
	}
	what = lead.ReplaceAllString(what, "")
	for _, s := range sentences {
		if s.MatchString(what) {
			return nil
		}
	}
	return errors.New("the error doesn't say what was being done")
}

//go:embed harmless.txt
var harmlessText []byte

// row is a line of harmless.txt.
type row struct {
	call, site string
	changes    []string // keys of the vector that may differ
	used       bool
}

// all notes what was tried completely.
var all = map[string]bool{}

var rows = func() (list []*row) {
	for s := bufio.NewScanner(bytes.NewReader(harmlessText)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			list = append(list, nil)
			continue
		}
		head, reason, _ := strings.Cut(line, " — ")
		f := strings.Fields(head)
		if reason == "" || len(f) < 2 {
			panic("harmless.txt: want CALL SITE [changes KEY…] — REASON: " + line)
		}
		r := &row{call: f[0], site: f[1]}
		if len(f) > 3 && f[2] == "changes" {
			r.changes = f[3:]
		}
		list = append(list, r)
	}
	return list
}()

// tolerated finds the row of a call; line 0 if there is none.
func tolerated(c call) (line int, r *row) {
	for i, r := range rows {
		if r != nil && r.call == c.name && r.at(strings.ReplaceAll(c.site, " ", "_")) {
			r.used = true
			return i + 1, r
		}
	}
	return 0, nil
}

// at tells whether the row speaks of the site.
func (r *row) at(site string) bool {
	if head, ok := strings.CutSuffix(r.site, "*"); ok {
		return strings.HasPrefix(site, head)
	}
	return r.site == site
}

// covers tells whether the row allows all these differences.
func (r *row) covers(diff []string) bool {
	for _, d := range diff {
		ok := false
		for _, k := range r.keys() {
			ok = ok || strings.HasPrefix(d, k)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (r *row) keys() []string {
	if r == nil {
		return nil
	}
	return r.changes
}

// TestFaultUnused complains about rows that nothing needs any more.
func TestFaultUnused(t *testing.T) {
	if !all["plain"] || !all["others"] {
		t.Skip("not everything was tried")
	}
	if hasty {
		t.Skip("LAUNCH_FAULTS_BUDGET is short: what has no use may not have been reached")
	}
	for i, r := range rows {
		if r != nil && !r.used {
			t.Errorf("harmless.txt:%d: %s %s: no failure of it was harmless, remove the line", i+1, r.call, r.site)
		}
	}
}
