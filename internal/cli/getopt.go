package cli

import "strings"

// word is one option that getopt found.
type word struct {
	id int
	// typed is the option as the table spells it: `--bind` or `-D`.
	typed string
	value string
	// told: there was an argument; an optional one may be missing.
	told bool
}

// option is a row of getopt's table.
type option struct {
	long  string
	short byte
	arg   uint8 // none, required, optional, loose
	id    int
}

const (
	none = iota
	required
	optional
	loose
)

// badOption is what getopt refuses. The text is what GNU's getopt_long prints.
type badOption struct {
	text string
	// unknown is the long option that nobody knows, without its dashes.
	unknown string
	// typed is the option as far as it was understood.
	typed string
}

func (e *badOption) Error() string { return e.text }

// getopt reads options as GNU's getopt_long does when told to stop at the
// first word that is none (`+`). It calls found for each option, and gives the
// words that are left.
//
// Long names may be abbreviated as long as it is clear what is meant. Two rows
// with the same argument kind and id count as one name for that.
func getopt(args []string, table []option, found func(word) error) ([]string, error) {
	for len(args) > 0 {
		arg := args[0]
		switch {
		case arg == "--":
			return args[1:], nil
		case len(arg) < 2 || arg[0] != '-':
			return args, nil
		}
		args = args[1:]
		var err error
		if arg[1] == '-' {
			args, err = long(arg[2:], args, table, found)
		} else {
			args, err = cluster(arg[1:], args, table, found)
		}
		if err != nil {
			return args, err
		}
	}
	return args, nil
}

// long reads one long option; args are the words behind it.
func long(text string, args []string, table []option, found func(word) error) ([]string, error) {
	name, value, told := strings.Cut(text, "=")
	o, err := match(name, text, table)
	if err != nil {
		return args, err
	}
	typed := "--" + o.long
	switch {
	case told && o.arg == none:
		return args, &badOption{text: "option '" + typed + "' doesn't allow an argument", typed: typed}
	case !told && o.arg == required:
		// The next word is the argument even if it looks like an option.
		if len(args) == 0 {
			return args, &badOption{text: "option '" + typed + "' requires an argument", typed: typed}
		}
		value, told, args = args[0], true, args[1:]
	case !told && o.arg == loose && len(args) > 0 && !strings.HasPrefix(args[0], "-"):
		value, told, args = args[0], true, args[1:]
	}
	return args, found(word{o.id, typed, value, told})
}

// match finds a long option by its name or by what only it begins with.
func match(name, text string, table []option) (*option, error) {
	var first *option
	for i := range table {
		if table[i].long == name && table[i].long != "" {
			return &table[i], nil
		}
	}
	list := ""
	for i := range table {
		o := &table[i]
		switch {
		case o.long == "" || !strings.HasPrefix(o.long, name):
		case first == nil:
			first = o
		case o.arg != first.arg || o.id != first.id:
			list += " '--" + o.long + "'"
		}
	}
	switch {
	case first == nil:
		return nil, &badOption{text: "unrecognized option '--" + text + "'", unknown: name, typed: "--" + name}
	case list != "":
		return nil, &badOption{
			text:  "option '--" + text + "' is ambiguous; possibilities: '--" + first.long + "'" + list,
			typed: "--" + name,
		}
	}
	return first, nil
}

// cluster reads a word of short options: `-xbD` or `-xbD/srv`.
func cluster(text string, args []string, table []option, found func(word) error) ([]string, error) {
	for text != "" {
		c := text[0]
		text = text[1:]
		typed := "-" + string([]byte{c})
		var o *option
		for i := range table {
			if table[i].short == c {
				o = &table[i]
				break
			}
		}
		if o == nil || c == 0 || c == ':' || c == ';' {
			return args, &badOption{text: "invalid option -- '" + string([]byte{c}) + "'", typed: typed}
		}
		w := word{id: o.id, typed: typed}
		switch {
		case o.arg == none:
		case text != "":
			w.value, w.told, text = text, true, ""
		case o.arg == required:
			if len(args) == 0 {
				return args, &badOption{text: "option requires an argument -- '" + string([]byte{c}) + "'", typed: typed}
			}
			w.value, w.told, args = args[0], true, args[1:]
		}
		if err := found(w); err != nil {
			return args, err
		}
	}
	return args, nil
}
