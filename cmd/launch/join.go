package main

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"launch/internal/engine"
	"launch/internal/origin"
	"launch/internal/state"
	"launch/settings"
)

// join makes a bundle share the network, ipc and pid namespaces of a running
// machine, and its users. Still reports whether that machine is the one that was
// found here.
func join(s *settings.Settings, from origin.Origin) (still func() error, err error) {
	refuse := func(what, hint string) (func() error, error) {
		return nil, &settings.Error{What: what, Origin: from, Value: s.Join, Hint: hint}
	}
	name := s.Join
	leader, err := state.Leader(name)
	if err != nil {
		return refuse(fmt.Sprintf("cannot join machine %q: %v", name, err), "")
	}
	own, err := engine.Differing(leader)
	if err != nil {
		return refuse(fmt.Sprintf("cannot join machine %q: %v", name, err), "")
	}
	b := s.Bundle
	if own&unix.CLONE_NEWUSER == 0 && slices.ContainsFunc(b.Namespaces, func(n settings.Namespace) bool { return n.Kind == "user" }) {
		return refuse(fmt.Sprintf("cannot join machine %q: it has the host's users, and the bundle has users of its own", name),
			"take the user namespace out of config.json, or start the machine with --private-users=")
	}
	for _, ns := range [...]struct {
		kind string
		flag uint64
	}{{"user", unix.CLONE_NEWUSER}, {"pid", unix.CLONE_NEWPID}, {"ipc", unix.CLONE_NEWIPC}, {"net", unix.CLONE_NEWNET}} {
		b.Namespaces = slices.DeleteFunc(b.Namespaces, func(n settings.Namespace) bool { return n.Kind == ns.kind })
		if own&ns.flag != 0 { // else it is the host's
			b.Namespaces = append(b.Namespaces, settings.Namespace{Kind: ns.kind, Path: fmt.Sprintf("/proc/%d/ns/%s", leader, ns.kind), Origin: from})
		}
	}
	return func() error {
		if now, err := state.Leader(name); err != nil || now != leader {
			_, err = refuse(fmt.Sprintf("cannot join machine %q: it has ended", name), "")
			return err
		}
		return nil
	}, nil
}
