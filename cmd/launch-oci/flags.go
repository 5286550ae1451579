package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"launch/oci/container"
)

// A flag of runc's command line. One without Arg is a switch.
type option struct {
	names string // "bundle b": the first is the long one
	arg   string
	help  string
	many  bool
}

// verb is one command of runc's command line.
type verb struct {
	name, args, help string
	// Least and most words after the options; most -1: any number.
	least, most int
	// Rest: what follows the first word belongs to somebody else.
	rest    bool
	options []option
	// also are options that it has in common with other verbs.
	also [2][]option
	run  func(*call) int
	// users are those that a caller without root's rights goes on in; nil: he
	// needs none.
	users func(*call) (container.Users, error)
}

// all gives all options of the verb, and more.
func (v *verb) all(more ...option) []option {
	return slices.Concat(v.options, v.also[0], v.also[1], more)
}

// call is a verb with what it was told.
type call struct {
	global *call
	verb   *verb
	values map[string][]string
	words  []string
}

func (c *call) text(name string) string {
	if v := c.values[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func (c *call) has(name string) bool { _, ok := c.values[name]; return ok }

// told is has for an option whose value may be empty, which means nothing:
// scripts write --memory "$LIMIT".
func (c *call) told(name string) bool { return c.text(name) != "" }

func (c *call) on(name string) bool {
	v, ok := c.values[name]
	return ok && v[len(v)-1] != "false"
}

// number reads an option that is a number.
func (c *call) number(name string) (int64, error) {
	n, err := strconv.ParseInt(c.text(name), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("invalid value %q for --%s: it is not a number", c.text(name), name)
	}
	return n, nil
}

func find(options []option, name string) *option {
	for i := range options {
		for n := range strings.SplitSeq(options[i].names, " ") {
			if n == name {
				return &options[i]
			}
		}
	}
	return nil
}

func (o *option) long() string { n, _, _ := strings.Cut(o.names, " "); return n }

// parse reads options as runc does: one dash or two, a value after = or as the
// next word, no clusters. It stops at the first other word, or at --.
func parse(options []option, args []string) (values map[string][]string, rest []string, err error) {
	values = map[string][]string{}
	for len(args) > 0 {
		word := args[0]
		if word == "--" {
			return values, args, nil
		}
		if len(word) < 2 || word[0] != '-' {
			break
		}
		name := strings.TrimPrefix(word[1:], "-")
		name, value, told := strings.Cut(name, "=")
		o := find(options, name)
		if o == nil {
			return values, args, fmt.Errorf("flag provided but not defined: -%s", name)
		}
		args = args[1:]
		switch {
		case o.arg == "" && told:
			on, err := strconv.ParseBool(value)
			if err != nil {
				return values, args, fmt.Errorf("invalid boolean value %q for -%s", value, name)
			}
			value = strconv.FormatBool(on)
		case o.arg == "":
			value = "true"
		case !told && len(args) == 0:
			return values, args, fmt.Errorf("flag needs an argument: -%s", name)
		case !told:
			value, args = args[0], args[1:]
		}
		if !o.many {
			values[o.long()] = nil
		}
		values[o.long()] = append(values[o.long()], value)
	}
	return values, args, nil
}

// late takes the options that follow a verb's words: those that it knows. What
// else begins with a dash there is a word.
func late(options []option, words []string, values map[string][]string) (rest []string, err error) {
	for len(words) > 0 {
		if words[0] == "--" {
			return append(rest, words[1:]...), nil
		}
		name, _, _ := strings.Cut(strings.TrimLeft(words[0], "-"), "=")
		if len(words[0]) < 2 || words[0][0] != '-' || find(options, name) == nil {
			rest, words = append(rest, words[0]), words[1:]
			continue
		}
		// One at a time: the next may be none.
		n := 1
		if o := find(options, name); o.arg != "" && !strings.Contains(words[0], "=") {
			n = min(2, len(words))
		}
		more, _, err := parse(options, words[:n])
		if err != nil {
			return rest, err
		}
		for k, v := range more {
			values[k] = append(values[k], v...)
		}
		words = words[n:]
	}
	return rest, nil
}
