// Package bundles runs the same few hundred bundles (cases.txt, patches of
// base.json over every field of config.json) under the newest runc, the newest
// crun and launch-oci, with the probe as the payload, and compares what it
// sees. Where the two others agree, launch-oci agrees too, or differences.txt
// has the sentence of the runtime specification that decides it. Where they
// differ, launch-oci agrees with one of them, or the same.
//
// The same holds for command lines (verbs.txt, verbs-differences.txt).
//
// All of it happens in a cell over the tree of the newest peers. Every
// difference, explained or not, is written to $REPORT.
//
// Room: test.
package bundles

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// bundle is a line of cases.txt.
type bundle struct {
	name  string
	patch map[string]any
}

func cases(text string) ([]bundle, error) {
	var all []bundle
	seen := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, patch, _ := strings.Cut(line, " ")
		b := bundle{name: name}
		if err := json.Unmarshal([]byte(patch), &b.patch); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", n, name, err)
		}
		if seen[name] {
			return nil, fmt.Errorf("line %d: %s stands there twice", n, name)
		}
		seen[name] = true
		all = append(all, b)
	}
	return all, nil
}

// merge patches in place, as RFC 7396 says, and NAME+ appends to a list.
func merge(to, patch map[string]any) {
	for k, v := range patch {
		if list, ok := strings.CutSuffix(k, "+"); ok {
			have, _ := to[list].([]any)
			more, _ := v.([]any)
			to[list] = append(slices.Clone(have), more...)
			continue
		}
		switch v := v.(type) {
		case nil:
			delete(to, k)
		case map[string]any:
			inner, ok := to[k].(map[string]any)
			if !ok {
				inner = map[string]any{}
			}
			merge(inner, v)
			to[k] = inner
		default:
			to[k] = v
		}
	}
}

// config gives the config.json of a bundle. The base is read anew each time,
// since merging changes it; numbers keep their digits.
func (b bundle) config(base string) ([]byte, error) {
	d := json.NewDecoder(strings.NewReader(base))
	d.UseNumber()
	var to map[string]any
	if err := d.Decode(&to); err != nil {
		return nil, err
	}
	merge(to, b.patch)
	return json.MarshalIndent(to, "", "\t")
}

// vector is what came out of one run: facts with names.
type vector map[string]string

// outcome is one run: its exit status, what was written to standard output and
// error, and the namespaces of the runtime.
type outcome struct {
	status int
	out    string
	errors string
	ns     map[string]string
}

// statusFields are the lines of /proc/self/status that a runtime decides.
var statusFields = []string{"Umask", "Uid", "Gid", "Groups", "NSpid", "Threads", "SigBlk", "SigIgn", "SigCgt",
	"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Cpus_allowed", "Mems_allowed_list"}

// facts makes the vector of a run.
func (o outcome) facts() vector {
	v := vector{"exit status": fmt.Sprint(o.status), "started": "no"}
	var seen map[string]map[string]string
	var rest strings.Builder
	for l := range strings.Lines(o.out) {
		if strings.HasPrefix(l, "{") && seen == nil && json.Unmarshal([]byte(l), &seen) == nil {
			continue
		}
		rest.WriteString(l)
	}
	if seen == nil {
		return v
	}
	v["started"] = "yes"
	if r := strings.TrimSpace(rest.String()); r != "" {
		v["wrote beside"] = r
	}
	for group, facts := range seen {
		for k, val := range facts {
			val = strings.TrimSuffix(val, "\n")
			switch {
			case group == "file" && k == "mountinfo":
				mounts(v, val)
			case group == "file" && k == "status":
				for l := range strings.Lines(val) {
					if name, text, ok := strings.Cut(l, ":"); ok && slices.Contains(statusFields, name) {
						v["status "+name] = strings.Join(strings.Fields(text), " ")
					}
				}
			case group == "file" && k == "limits":
				for l := range strings.Lines(val) {
					if len(l) >= 66 && !strings.HasPrefix(l, "Limit ") {
						v["limit "+strings.TrimPrefix(strings.TrimSpace(l[:26]), "Max ")] = strings.TrimSpace(l[26:47]) + " " + strings.TrimSpace(l[47:min(68, len(l))])
					}
				}
			case group == "file" && (k == "uid_map" || k == "gid_map"):
				v[k] = strings.Join(strings.Fields(val), " ")
			case group == "ns":
				v["ns "+k] = "own"
				if val == o.ns[k] {
					v["ns "+k] = "the runtime's"
				}
			case group == "fd":
				v["fd "+k] = numberless(val)
			case k == "session keyring":
				v[group+" "+k] = strings.SplitN(val, ";", 2)[0]
			default:
				v[group+" "+k] = val
			}
		}
	}
	if v["ns pid"] == "the runtime's" {
		// Numbers of the host's, new each time.
		if v["self pid"] == v["status NSpid"] {
			v["status NSpid"] = "its pid"
		}
		for _, k := range []string{"self session", "self pgrp"} {
			if v[k] == v["self pid"] {
				v[k] = "its pid"
			}
		}
		delete(v, "self pid")
		delete(v, "self ppid")
	}
	return v
}

// numberless takes the number out of pipe:[123].
func numberless(s string) string {
	if begin, rest, ok := strings.Cut(s, ":["); ok {
		if _, end, ok := strings.Cut(rest, "]"); ok {
			return begin + ":[N]" + end
		}
	}
	return s
}

// mounts gives a few facts for each mount, named by its target.
func mounts(v vector, text string) {
	at := map[string]int{}
	first := map[string]string{}
	for l := range strings.Lines(text) {
		left, right, ok := strings.Cut(strings.TrimSuffix(l, "\n"), " - ")
		f, g := strings.Fields(left), strings.SplitN(right, " ", 3)
		if !ok || len(f) < 6 || len(g) < 3 {
			v["mount unreadable"] = l
			continue
		}
		name := f[4]
		if at[name]++; at[name] > 1 {
			name += fmt.Sprintf("#%d", at[name])
		}
		var tags []string
		for _, tag := range f[6:] {
			kind, group, _ := strings.Cut(tag, ":")
			if kind == "shared" && first[group] == "" {
				first[group] = name
			}
			if first[group] != "" && first[group] != name {
				kind += " with " + first[group]
			}
			tags = append(tags, kind)
		}
		options := strings.Split(g[2], ",")
		slices.Sort(options)
		key := "mount " + name + " "
		v[key+"root"] = f[3]
		v[key+"flags"] = f[5]
		v[key+"fstype"] = g[0]
		v[key+"source"] = g[1]
		v[key+"options"] = strings.Join(options, ",")
		v[key+"propagation"] = strings.Join(tags, ", ")
	}
}

// A difference is one fact that is not the same under all.
type difference struct {
	bundle, fact string
	saw          []string // by runtime: runc, crun, and launch-oci where it takes part
}

func (d difference) String() string {
	return d.bundle + " | " + d.fact + " | " + strings.Join(d.saw, " | ")
}

const absent = "(none)"

func differ(bundle string, all ...vector) []difference {
	names := map[string]bool{}
	for _, v := range all {
		for k := range v {
			names[k] = true
		}
		if v["started"] == "no" {
			// Of a start that was refused there is nothing more to compare.
			names = map[string]bool{"started": true, "exit status": true}
			break
		}
	}
	var out []difference
	for _, k := range slices.Sorted(maps.Keys(names)) {
		d := difference{bundle: bundle, fact: k}
		same := true
		for _, v := range all {
			saw, ok := v[k]
			if !ok {
				saw = absent
			}
			d.saw = append(d.saw, strings.ReplaceAll(saw, "\n", `\n`))
			same = same && d.saw[0] == d.saw[len(d.saw)-1]
		}
		if !same {
			out = append(out, d)
		}
	}
	return out
}

// alone says that the last runtime sees what no other does.
func (d difference) alone() bool {
	last := len(d.saw) - 1
	return !slices.Contains(d.saw[:last], d.saw[last])
}

// An explanation is a line of differences.txt:
//
//	BUNDLE | FACT | RUNC | CRUN | LAUNCH-OCI | THE SENTENCE THAT DECIDES IT
//
// In the first five, * stands for any text.
type explanation struct {
	line   int
	fields []string
	reason string
	used   int
}

func explanations(text string) ([]*explanation, error) {
	var out []*explanation
	n := 0
	for l := range strings.Lines(text) {
		n++
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		f := strings.SplitN(l, " | ", 6)
		if len(f) != 6 || len(strings.Fields(f[5])) < 3 {
			return nil, fmt.Errorf("line %d: want BUNDLE | FACT | RUNC | CRUN | LAUNCH-OCI | SENTENCE", n)
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		out = append(out, &explanation{line: n, fields: f[:5], reason: f[5]})
	}
	return out, nil
}

// explained finds the first line that speaks of this difference.
func explained(d difference, by []*explanation) *explanation {
	text := append([]string{d.bundle, d.fact}, d.saw...)
	for _, e := range by {
		fits := true
		for i, s := range text {
			fits = fits && match(e.fields[i], s)
		}
		if fits {
			e.used++
			return e
		}
	}
	return nil
}

// match compares with a pattern in which * is any text.
func match(pattern, s string) bool {
	pieces := strings.Split(pattern, "*")
	if len(pieces) == 1 {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, pieces[0])
	if !ok {
		return false
	}
	for _, p := range pieces[1 : len(pieces)-1] {
		at := strings.Index(s, p)
		if at < 0 {
			return false
		}
		s = s[at+len(p):]
	}
	return strings.HasSuffix(s, pieces[len(pieces)-1])
}
