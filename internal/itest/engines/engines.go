// Package engines lets podman, buildah, containerd (through ctr, and through CRI
// as a kubelet would) and docker (a swarm too) use an OCI runtime: $RUNTIME, or
// launch-oci built from this tree. What is asked of them and what must come out
// is the table in checks.txt.
//
// Each engine lives in a cell, so that the machine keeps nothing of it, and is
// Debian 12's, or with ENGINES=peers the newest podman, buildah and containerd.
// CHECKS='p-*' runs some alone.
//
// Room: test.
package engines

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// check is a line of checks.txt.
type check struct {
	name, engine, command string
	everyday              bool
	only                  []string // what the place must have: v1, cni
	status                int
	not                   bool
	output                *regexp.Regexp
	line                  int
}

// engines are those that checks.txt may name.
var engines = []string{"podman", "buildah", "containerd", "docker", "swarm"}

func read(text string) ([]check, error) {
	var all []check
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, " :: ")
		if len(f) != 4 {
			return nil, fmt.Errorf("line %d: want NAME :: ENGINE :: COMMAND :: STATUS OUTPUT", n)
		}
		words := strings.Fields(f[0])
		if len(words) == 0 {
			return nil, fmt.Errorf("line %d: a check without a name", n)
		}
		c := check{line: n, engine: strings.TrimSpace(f[1]), command: strings.TrimSpace(f[2])}
		c.name, c.everyday = strings.CutPrefix(words[0], "*")
		for _, w := range words[1:] {
			if w != "[v1]" && w != "[cni]" {
				return nil, fmt.Errorf("line %d: %s: what is %s?", n, c.name, w)
			}
			c.only = append(c.only, strings.Trim(w, "[]"))
		}
		if seen[c.name] {
			return nil, fmt.Errorf("line %d: %s stands there twice", n, c.name)
		}
		seen[c.name] = true
		if !slices.Contains(engines, c.engine) {
			return nil, fmt.Errorf("line %d: %s: no engine %q", n, c.name, c.engine)
		}
		status, output, ok := strings.Cut(strings.TrimSpace(f[3]), " ")
		var err error
		if c.status, err = strconv.Atoi(status); err != nil || !ok {
			return nil, fmt.Errorf("line %d: %s: want STATUS OUTPUT, not %q", n, c.name, f[3])
		}
		output, c.not = strings.CutPrefix(output, "!")
		if c.output, err = regexp.Compile("(?m)" + output); err != nil || output == "" {
			return nil, fmt.Errorf("line %d: %s: %q is no pattern: %v", n, c.name, output, err)
		}
		all = append(all, c)
	}
	return all, nil
}

// wrong says what came out otherwise than it must, or nothing.
func (c check) wrong(output string, status int) string {
	output = strings.TrimSpace(strings.ReplaceAll(output, "\r", ""))
	switch matches := c.output.MatchString(output); {
	case status != c.status:
		return fmt.Sprintf("exit status %d, want %d", status, c.status)
	case c.not && matches:
		return fmt.Sprintf("what it wrote matches %s", c.output)
	case !c.not && !matches:
		return fmt.Sprintf("what it wrote doesn't match %s", c.output)
	}
	return ""
}

// failures reads a list of NAME REASON: the checks that are known to fail with
// a runtime.
func failures(text string) (map[string]string, error) {
	out := map[string]string{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, reason, _ := strings.Cut(line, " ")
		if reason = strings.TrimSpace(reason); len(strings.Fields(reason)) < 3 {
			return nil, fmt.Errorf("line %d: %s: that is no reason", n, name)
		}
		out[name] = reason
	}
	return out, nil
}
