package main

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"launch/oci/bundle"
)

var psVerb = &verb{
	name: "ps", args: "CONTAINER [PS OPTIONS...]", help: "list the processes of a container", least: 1, most: -1, rest: true,
	options: []option{{names: "format f", arg: "table|json", help: "how they are listed"}}, run: ps,
}

func ps(c *call) int {
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	pids, err := d.Processes()
	if err != nil {
		return c.fail(err)
	}
	switch c.text("format") {
	case "json":
		return say(append(bundle.AppendPIDs(nil, pids), '\n'))
	case "", "table":
	default:
		return c.fail(errors.New("invalid format option"))
	}
	text, err := table(pids, c.words[1:])
	if err != nil {
		return c.fail(err)
	}
	return say([]byte(text))
}

// table shows processes by ps(1), which knows what its options mean: of all
// that it lists, those of the container.
func table(pids []int, options []string) (string, error) {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	text, err := exec.Command("ps", options...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, text)
	}
	lines := strings.Split(string(text), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return "", fmt.Errorf("couldn't find PID field in ps output")
	}
	out := lines[0] + "\n"
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		if len(f) <= column {
			continue
		}
		pid, err := strconv.Atoi(f[column])
		if err != nil {
			return "", fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			out += l + "\n"
		}
	}
	return out, nil
}
