// Package compare runs the probe from the same tree under systemd-nspawn and
// under launch, with the same options, and compares what the payload sees.
// differences.txt explains each difference that is meant; one that is not
// explained there, and an explanation that no longer explains anything, fail.
//
// Room: test.
package compare

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"launch/internal/itest/tree"
)

// seen is what the probe prints.
type seen map[string]map[string]string

// A vector is what a payload sees, as facts with names: "mount /proc/sys/flags"
// is "ro,nosuid,nodev,noexec". What differs from run to run by nature (numbers
// of inodes, processes, mounts) is replaced by what it means.
type vector map[string]string

// world is what the reader knows about the run and the payload cannot.
type world struct {
	ns     map[string]string // the namespaces that the launcher was started in
	cgroup string            // the cgroup that it was started in
	tree   string            // the tree's path on the host
	argv   string            // the launcher's arguments
	out    string            // the path of what the machine may be given
}

// read finds the probe's line in what the launcher wrote.
func read(output string) (seen, string, error) {
	var s seen
	var rest strings.Builder
	found := false
	for l := range strings.Lines(output) {
		if strings.HasPrefix(l, "{") && !found {
			if err := json.Unmarshal([]byte(strings.TrimSpace(l)), &s); err != nil {
				return nil, "", fmt.Errorf("the probe's line: %w", err)
			}
			found = true
			continue
		}
		rest.WriteString(l)
	}
	if !found {
		return nil, rest.String(), fmt.Errorf("the probe wrote nothing")
	}
	return s, rest.String(), nil
}

// normal makes the vector of what the probe saw.
func normal(s seen, w world) vector {
	v := vector{}
	for group, facts := range s {
		switch group {
		case "file":
			files(v, facts, w)
		case "ns":
			for k, link := range facts {
				if w.ns[k] == "" {
					continue
				}
				v["ns "+k] = "own"
				if link == w.ns[k] {
					v["ns "+k] = "the launcher's"
				}
			}
		case "fd":
			for k, d := range facts {
				v["fd "+k] = numberless(strings.ReplaceAll(d, w.tree, "TREE"))
			}
		default:
			for k, val := range facts {
				v[group+" "+k] = strings.TrimSuffix(val, "\n")
			}
		}
	}
	for _, k := range []string{"content /run/host/container-uuid", "env container_uuid"} {
		if id := v[k]; strings.ReplaceAll(id, "-", "") == tree.MachineID {
			v[k] = "the tree's"
		} else if !strings.Contains(w.argv, strings.ReplaceAll(id, "-", "")) {
			v[k] = "another: " + shape(id)
		}
	}
	if k := "content /run/host/proc-sys-kernel-random-boot-id"; v[k] != "" {
		v[k] = shape(v[k])
	}
	named := vector{}
	for k, val := range v {
		named[strings.ReplaceAll(k, w.cgroup, "CGROUP")] = strings.ReplaceAll(val, w.cgroup, "CGROUP")
	}
	return named
}

// numberless takes the number out of pipe:[123].
func numberless(s string) string {
	for _, kind := range []string{"pipe:[", "socket:["} {
		if at := strings.Index(s, kind); at >= 0 {
			if end := strings.IndexByte(s[at:], ']'); end >= 0 {
				s = s[:at+len(kind)] + "N" + s[at+end:]
			}
		}
	}
	return s
}

func files(v vector, f map[string]string, w world) {
	for name, text := range f {
		switch name {
		case "mountinfo":
			mounts(v, text, w)
		case "status":
			status(v, text)
		case "limits":
			limits(v, text)
		case "cgroup":
			for l := range strings.Lines(text) {
				id := strings.SplitN(strings.TrimSpace(l), ":", 3)
				if len(id) == 3 {
					v["cgroup "+id[0]+":"+id[1]] = id[2]
				}
			}
		case "uid_map", "gid_map":
			v[name] = strings.Join(strings.Fields(text), " ")
		case "/proc/sys/kernel/random/boot_id":
			v["file "+name] = shape(text)
		default:
			v["file "+name] = strings.TrimSuffix(text, "\n")
		}
	}
}

// shape keeps the form of a random id.
func shape(id string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'f' {
			return 'x'
		}
		return r
	}, strings.TrimSpace(id))
}

// statusFields are the lines of /proc/self/status that a launcher decides.
var statusFields = []string{"Umask", "TracerPid", "Uid", "Gid", "Groups", "NSpid", "NSsid", "Threads",
	"SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters",
	"Speculation_Store_Bypass", "SpeculationIndirectBranch", "Cpus_allowed", "Mems_allowed_list", "CoreDumping", "THP_enabled"}

func status(v vector, text string) {
	for l := range strings.Lines(text) {
		k, val, ok := strings.Cut(l, ":")
		if ok && slices.Contains(statusFields, k) {
			val = strings.Join(strings.Fields(val), " ")
			if k == "SigIgn" {
				val = withoutLibc(val)
			}
			v["status "+k] = val
		}
	}
}

// limits reads the columns of /proc/self/limits by their width.
func limits(v vector, text string) {
	for l := range strings.Lines(text) {
		if len(l) < 66 || strings.HasPrefix(l, "Limit ") {
			continue
		}
		v["limit "+strings.TrimPrefix(strings.TrimSpace(l[:26]), "Max ")] =
			strings.TrimSpace(l[26:47]) + " " + strings.TrimSpace(l[47:min(68, len(l))])
	}
}

// mount is one line of mountinfo.
type mounted struct {
	id, parent, dev, root, target, flags, fstype, source, super string
	tags                                                        []string
	name                                                        string // target, with #2 for the second mount there
}

// mounts gives several facts for each mount, named by its target. The numbers
// of peer groups become names of the mounts in them.
func mounts(v vector, text string, w world) {
	var all []mounted
	at := map[string]int{}
	byID := map[string]string{}
	for l := range strings.Lines(text) {
		left, right, ok := strings.Cut(strings.TrimSuffix(l, "\n"), " - ")
		f, g := strings.Split(left, " "), strings.SplitN(right, " ", 3)
		if !ok || len(f) < 6 || len(g) < 3 {
			v["mount unreadable"] = l
			continue
		}
		m := mounted{id: f[0], parent: f[1], dev: f[2], root: f[3], target: f[4], flags: f[5], tags: f[6:],
			fstype: g[0], source: g[1], super: g[2]}
		at[m.target]++
		m.name = m.target
		if n := at[m.target]; n > 1 {
			m.name += fmt.Sprintf("#%d", n)
		}
		byID[m.id] = m.name
		all = append(all, m)
	}
	first := map[string]string{} // peer group → the first mount of it here
	for _, m := range all {
		for _, tag := range m.tags {
			if g, ok := strings.CutPrefix(tag, "shared:"); ok && first[g] == "" {
				first[g] = m.name
			}
		}
	}
	// Two file systems are the same if their device is, so each is named after
	// the first mount of it.
	devs := map[string]string{}
	for _, m := range all {
		if devs[m.dev] == "" {
			devs[m.dev] = m.name
		}
		key := "mount " + m.name + " "
		v[key+"fstype"] = m.fstype
		v[key+"source"] = w.hide(m.source)
		v[key+"flags"] = m.flags
		v[key+"options"] = w.hide(options(m))
		v[key+"root"] = deleted(w.hide(m.root))
		v[key+"filesystem"] = devs[m.dev]
		v[key+"parent"] = byID[m.parent]
		if v[key+"parent"] == "" {
			v[key+"parent"] = "(outside)"
		}
		var tags []string
		for _, tag := range m.tags {
			kind, g, _ := strings.Cut(tag, ":")
			to := first[g]
			switch {
			case g == "":
				tags = append(tags, kind)
			case to == "":
				tags = append(tags, kind+" (outside)")
			case kind == "shared" && to == m.name:
				tags = append(tags, kind)
			default:
				tags = append(tags, kind+" with "+to)
			}
		}
		v[key+"propagation"] = strings.Join(tags, ", ")
	}
}

// options are the superblock's, sorted: their order means nothing, and those
// of overlays name directories that are made for the run.
func options(m mounted) string {
	o := strings.Split(m.super, ",")
	slices.Sort(o)
	return strings.Join(o, ",")
}

// hide takes what is random, or names the run, out of a path.
func (w world) hide(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, w.tree, "TREE"), w.out, "OUT")
	for _, prefix := range []string{"/var/tmp/nspawn-temp-", "/var/tmp/launch-", "/tmp/nspawn-", "/tmp/launch-", "/.#machine.cmp", "/.#upper", "/.#src"} {
		var b strings.Builder
		for {
			at := strings.Index(s, prefix)
			if at < 0 {
				break
			}
			end := at + len(prefix)
			for end < len(s) && s[end] != '/' && s[end] != ',' && s[end] != ':' {
				end++
			}
			b.WriteString(s[:at] + "RANDOM")
			s = s[end:]
		}
		s = b.String() + s
	}
	return s
}

// deleted takes the random end out of the name of a file that was made for a
// mount and is gone.
func deleted(root string) string {
	name, ok := strings.CutSuffix(root, "//deleted")
	const digits = 16
	if !ok || !strings.HasPrefix(name, "/.#") || len(name) < digits {
		return root
	}
	return name[:len(name)-digits] + "RANDOM//deleted"
}

// A difference is one fact that is not the same in both.
type difference struct {
	combination, fact string
	nspawn, launch    string
}

const absent = "(none)"

func (d difference) String() string {
	return fmt.Sprintf("%s | %s | %s | %s", d.combination, d.fact, d.nspawn, d.launch)
}

func differ(combination string, nspawn, launch vector) []difference {
	names := map[string]bool{}
	for k := range nspawn {
		names[k] = true
	}
	for k := range launch {
		names[k] = true
	}
	var out []difference
	for _, k := range slices.Sorted(maps.Keys(names)) {
		a, okA := nspawn[k]
		b, okB := launch[k]
		if okA && okB && a == b {
			continue
		}
		if !okA {
			a = absent
		}
		if !okB {
			b = absent
		}
		out = append(out, difference{combination, k, oneLine(a), oneLine(b)})
	}
	return out
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", `\n`) }

// withoutLibc leaves signals 32 and 33 out of a set: glibc's posix_spawn starts
// programs with those ignored, and whether it did is our caller's affair.
func withoutLibc(set string) string {
	n, err := strconv.ParseUint(set, 16, 64)
	if err != nil {
		return set
	}
	return fmt.Sprintf("%016x", n&^(3<<31))
}
