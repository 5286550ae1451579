package faults

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// vector is what a payload sees of itself, flat, without what differs from one
// start to the next by nature.
type vector map[string]string

var (
	uuid  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	token = regexp.MustCompile(`[0-9a-f]{16}\b`)        // in names of temporary directories
	named = regexp.MustCompile(`\btree-[0-9a-f]{16}\b`) // a machine on a copy
	loops = regexp.MustCompile(`/dev/loop[0-9]+`)
	peers = regexp.MustCompile(`(shared|master|propagate_from):[0-9]+`)
)

// status are the lines of /proc/self/status that say what a process may do.
var status = strings.Fields("Umask Uid Gid Groups NSpid Threads SigQ SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters")

// read makes a vector of the probe's output.
func (w *world) read(out string) (vector, error) {
	var raw map[string]map[string]string
	if err := json.Unmarshal([]byte(out), &raw); err != nil {
		return nil, fmt.Errorf("the payload's output is no vector: %w (%.200q)", err, out)
	}
	v := vector{}
	for group, values := range raw {
		for k, s := range values {
			if s == w.outer["boot_id"] {
				s = "the host's"
			}
			v[group+"."+k] = named.ReplaceAllString(uuid.ReplaceAllString(s, "UUID"), "tree-TOKEN")
		}
	}
	// Somebody may have given this test another priority meanwhile.
	if own, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil && raw["self"]["nice"] == fmt.Sprint(20-own) {
		v["self.nice"] = "the launcher's"
	}
	for k, s := range raw["fd"] {
		if strings.HasPrefix(s, "/dev/null ") {
			// The host's own: there are runtimes that give it to their containers.
			v["fd."+k], _, _ = strings.Cut(s, " owner ")
		}
	}
	for k, s := range raw["ns"] {
		v["ns."+k] = "own"
		if s == w.outer[k] {
			v["ns."+k] = "the host's"
		}
	}
	delete(v, "file.mountinfo")
	for line := range strings.Lines(raw["file"]["mountinfo"]) {
		f := strings.Fields(line)
		if len(f) < 9 {
			return nil, fmt.Errorf("a line of mountinfo: %q", line)
		}
		if i := slices.Index(f, "cgroup2"); i > 0 && i == len(f)-3 {
			f[len(f)-1] = "rw" // the host's own, and not the same all day
		}
		// An upper directory that was used before has none.
		line = strings.Join(f, " ")
		f = strings.Fields(strings.ReplaceAll(line, ",uuid=on", ""))
		// By where it is; what is mounted over it comes after it.
		key := "mount." + f[4]
		for v[key] != "" {
			key += "+"
		}
		// Without the mount's number, its parent's and the device's.
		v[key] = token.ReplaceAllString(peers.ReplaceAllString(f[3]+" "+strings.Join(f[5:], " "), "$1"), "TOKEN")
		v[key] = loops.ReplaceAllString(v[key], "/dev/loopN")
	}
	delete(v, "file.status")
	for line := range strings.Lines(raw["file"]["status"]) {
		if k, s, _ := strings.Cut(line, ":"); slices.Contains(status, k) && k != "SigQ" {
			v["status."+k] = strings.TrimSpace(s)
		}
	}
	if w.pod > 0 {
		// Others have had numbers in the pid namespace that it joined.
		for _, k := range []string{"self.pid", "self.pgrp", "self.session", "status.NSpid"} {
			delete(v, k)
		}
	}
	// Interfaces of the host's come and go.
	if v["ns.net"] != "own" {
		for k := range v {
			if strings.HasPrefix(k, "interface.") {
				delete(v, k)
			}
		}
	}
	return v, nil
}

// differs lists how two vectors differ.
func (v vector) differs(other vector) (diff []string) {
	for k, s := range v {
		if o, ok := other[k]; !ok {
			diff = append(diff, fmt.Sprintf("%s: %q, now missing", k, s))
		} else if o != s {
			diff = append(diff, fmt.Sprintf("%s: %q, now %q", k, s, o))
		}
	}
	for k, s := range other {
		if _, ok := v[k]; !ok {
			diff = append(diff, fmt.Sprintf("%s: new, %q", k, s))
		}
	}
	slices.Sort(diff)
	return diff
}
