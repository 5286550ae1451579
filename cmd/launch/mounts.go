package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/cli"
	"launch/internal/engine"
	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
	"launch/settings"
	"launch/userns"
)

const mountsUsage = "launch mounts save MACHINE|PID[,PID…] FILE, or launch mounts restore [-U|--private-users=START[:SIZE]] [--external=ID=PATH[:ro]]… FILE [--] COMMAND…"

// mounts is `launch mounts save` and `launch mounts restore`.
func mounts(args, env []string) int {
	fail := func(err error) int {
		cli.Report(os.Stderr, err)
		return 1
	}
	if len(args) > 0 {
		switch args[0] {
		case "save":
			if len(args) != 3 {
				break
			}
			if err := saveMounts(args[1], args[2]); err != nil {
				return fail(err)
			}
			return 0
		case "restore":
			m, err := mountsOf(args[1:])
			if err != nil {
				return fail(err)
			}
			m.Env = env
			status, err := m.Run()
			if err != nil {
				return fail(&settings.Error{What: "cannot restore the mounts: " + err.Error(), Hint: mountsHint(err)})
			}
			return status
		}
	}
	return fail(&settings.Error{What: "mounts needs to know what to do", Hint: mountsUsage})
}

// saveMounts writes the mounts of processes into a new file.
func saveMounts(who, file string) error {
	var pids []int
	var err error
	if strings.Trim(who, "0123456789,") != "" {
		var leader int
		if leader, _, err = running(who); err == nil {
			pids, err = snapshot.Processes(leader)
		}
	} else {
		for w := range strings.SplitSeq(who, ",") {
			var pid int
			if pid, err = strconv.Atoi(w); err != nil || pid < 1 {
				err = fmt.Errorf("%q is no process's number", w)
				break
			}
			pids = append(pids, pid)
		}
	}
	if err != nil {
		return &settings.Error{What: "cannot save the mounts: " + err.Error(), Value: who, Hint: mountsUsage}
	}
	f, err := snapshot.Read(pids)
	if err != nil {
		return &settings.Error{What: "cannot save the mounts: " + err.Error(), Value: who}
	}
	text, err := f.Encode()
	if err != nil {
		return err
	}
	if err := write(file, text); err != nil {
		return &settings.Error{What: fmt.Sprintf("cannot write %s: %v", file, err), Value: file}
	}
	// What restoring will ask for.
	listed := map[string]bool{}
	for i, n := range f.Namespaces {
		targets := n.Targets()
		for _, m := range n.Mounts {
			for _, s := range f.Sources {
				if s.External && s.ID == m.Source && !listed[s.ID] {
					listed[s.ID] = true
					fmt.Printf("%s\t%s\tnamespace %d, %s\n", s.ID, s.Type, i+1, strconv.Quote(targets[m.ID]))
				}
			}
			for _, g := range f.Groups {
				if g.Outside != "" && (g.ID == m.Group || g.ID == m.Slave) && !listed[g.Outside] {
					listed[g.Outside] = true
					fmt.Printf("%s\tsharing group\tnamespace %d, %s\n", g.Outside, i+1, strconv.Quote(targets[m.ID]))
				}
			}
		}
	}
	return nil
}

// write makes a file, whole or not at all.
func write(file string, text []byte) error {
	t, err := os.CreateTemp(path.Dir(file), ".launch-mounts-")
	if err != nil {
		return err
	}
	_, err = t.Write(text)
	if cerr := t.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(t.Name(), file)
	}
	if err != nil {
		os.Remove(t.Name())
	}
	return err
}

// mountsOf reads the words behind `mounts restore`.
func mountsOf(args []string) (*engine.Mounts, error) {
	m := &engine.Mounts{Policy: tree.Policy{External: map[string]tree.External{}}}
	bad := func(what, value string) (*engine.Mounts, error) {
		return nil, &settings.Error{What: what, Value: value, Hint: mountsUsage}
	}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		word := args[0]
		args = args[1:]
		switch {
		case word == "--external" && len(args) > 0:
			word, args = "--external="+args[0], args[1:]
			fallthrough
		case strings.HasPrefix(word, "--external="):
			id, x, err := tree.ParseExternal(strings.TrimPrefix(word, "--external="))
			if err != nil {
				return bad("bad --external: "+err.Error(), word)
			}
			if _, twice := m.Policy.External[id]; twice {
				return bad("two meanings of "+id, word)
			}
			m.Policy.External[id] = x
		case word == "-U":
			m.Pick = true
		case strings.HasPrefix(word, "--private-users="):
			v, err := settings.Find("private-users").Parse(settings.Place{}, strings.TrimPrefix(word, "--private-users="))
			if err != nil {
				return bad("bad --private-users: "+err.Error(), word)
			}
			u := v.(settings.Users)
			switch u.Mode {
			case userns.Pick:
				m.Pick = true
			case userns.Fixed:
				m.Users = u.Range.Map()
			default:
				return bad("mounts restore takes pick or a range of users", word)
			}
		default:
			return bad("unknown option of mounts restore", word)
		}
	}
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return bad("mounts restore needs a file and a command", "")
	}
	var err error
	if m.File, err = readMounts(args[0]); err != nil {
		return nil, &settings.Error{What: err.Error(), Value: args[0]}
	}
	m.Args = args[1:]
	return m, nil
}

// readMounts reads a file of mounts.
func readMounts(file string) (*tree.File, error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, file, tree.Limit+1)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	f, err := tree.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", file, err)
	}
	return f, nil
}

func mountsHint(err error) string {
	var missing *tree.Missing
	switch {
	case errors.As(err, &missing):
		return fmt.Sprintf("give it a meaning with --external=%s=PATH", missing.ID)
	case errors.Is(err, unix.EMFILE):
		return "it takes a descriptor for each mount: raise the limit of open files (ulimit -n)"
	}
	return ""
}
