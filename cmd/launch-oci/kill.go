package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/oci/container"
)

var killVerb = &verb{
	name: "kill", args: "CONTAINER [SIGNAL]", help: "send a signal to a container's first process, SIGTERM by default", least: 1, most: 2,
	options: []option{{names: "all a", help: "to all processes"}}, run: kill,
}

func kill(c *call) int {
	word := "SIGTERM"
	if len(c.words) > 1 && c.words[1] != "" {
		word = c.words[1]
	}
	sig, err := parseSignal(word)
	if err != nil {
		return c.fail(err)
	}
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	err = d.Kill(sig, c.on("all"))
	if errors.Is(err, container.ErrNotRunning) && c.on("all") {
		err = nil
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}

// parseSignal reads a number, or a name with or without SIG.
func parseSignal(word string) (int, error) {
	if n, err := strconv.Atoi(word); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", word)
		}
		return n, nil
	}
	name := strings.ToUpper(word)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return int(s), nil
	}
	// The real-time ones count from both ends.
	for _, r := range []struct {
		prefix string
		at     int
		sign   int
	}{{"SIGRTMIN", 34, 1}, {"SIGRTMAX", 64, -1}} {
		if rest, ok := strings.CutPrefix(name, r.prefix); ok {
			if rest == "" {
				return r.at, nil
			}
			if n, err := strconv.Atoi(strings.TrimLeft(rest, "+-")); err == nil && n <= 30 {
				return r.at + r.sign*n, nil
			}
		}
	}
	return 0, fmt.Errorf("unknown signal %q", word)
}
