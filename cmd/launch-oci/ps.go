package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

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
