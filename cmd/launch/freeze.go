package main

import (
	"errors"
	"fmt"
	"os"

	"launch/internal/cgroup"
	"launch/internal/cli"
	"launch/internal/state"
	"launch/settings"
)

// freeze is `launch freeze MACHINE` and `launch thaw MACHINE`.
func freeze(verb string, args []string) int {
	if err := frozen(verb, args); err != nil {
		cli.Report(os.Stderr, err)
		return 1
	}
	return 0
}

func frozen(verb string, args []string) error {
	if len(args) != 1 {
		return &settings.Error{What: verb + " takes one machine", Hint: "launch " + verb + " MACHINE"}
	}
	_, dir, err := running(args[0])
	if err == nil && dir == "" {
		err = errors.New("it has no cgroup of its own")
	}
	if err == nil {
		g := cgroup.Group{Dirs: []cgroup.Dir{{Version: 2, Mount: dir, Path: "/"}}}
		if verb == "freeze" {
			err = g.Freeze()
		} else {
			err = g.Thaw()
		}
	}
	if err != nil {
		return &settings.Error{What: fmt.Sprintf("cannot %s machine %q: %v", verb, args[0], err), Value: args[0]}
	}
	return nil
}

// running gives the first process of a running machine, and its cgroup's
// directory.
func running(name string) (leader int, dir string, err error) {
	if err = settings.CheckName(name); err != nil {
		return 0, "", err
	}
	if leader, err = state.Leader(name); err != nil {
		return 0, "", err
	}
	dir, err = state.CgroupOf(name)
	return leader, dir, err
}
