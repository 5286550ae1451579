// Package cli reads the launcher's command line and prints its help and its
// errors, all from the option table of package settings.
//
// It guarantees GNU's rules for options, to the letter of the error texts, and
// that nothing is printed but what its functions are asked to print. It refuses
// to know what an option does.
//
// Room: desk.
package cli

import (
	"errors"
	"strings"

	"launch/internal/origin"
	"launch/settings"
)

// Action is what the launcher is asked to do.
type Action string

// The actions.
const (
	Run     Action = "run"
	Plan    Action = "plan"
	Cleanup Action = "cleanup"
	Help    Action = "help"
	Version Action = "version"
	// Values: list what an option may be told (`--console=help`).
	Values Action = "values"
)

// Request is a command line that was understood.
type Request struct {
	Action Action
	// PlanFormat is "text" or "json".
	PlanFormat string
	// Option is what Values is about.
	Option *settings.Option
	// Files says whether to read the machine's settings file.
	Files settings.FileMode
	// Assignments are what the options and the words say.
	Assignments []settings.Assignment
	// Words are the command, as they stand.
	Words    []string
	Warnings []settings.Warning
}

// table gives getopt's view of the option table.
func table() []option {
	t := make([]option, len(settings.Options))
	for i := range settings.Options {
		o := &settings.Options[i]
		t[i] = option{long: o.Flag, short: o.Short, arg: uint8(o.Arg), id: i}
	}
	return t
}

// Parse reads the words behind the program's name. The caller's environment
// and working directory are what a value may refer to.
func Parse(args []string, env []string, cwd string) (Request, error) {
	return parse(args, env, cwd, nil, nil)
}

// ParseStart reads the words behind a verb that starts a machine: its own
// options, and all the others. The words behind them are no command yet.
func ParseStart(v *settings.Verb, args []string, env []string, cwd string) (Request, Told, error) {
	told := Told{}
	r, err := parse(args, env, cwd, v, told)
	if n := len(r.Assignments); len(r.Words) > 0 {
		r.Assignments = r.Assignments[:n-1]
	}
	return r, told, err
}

func parse(args []string, env []string, cwd string, v *settings.Verb, told Told) (Request, error) {
	r := Request{Action: Run}
	place := settings.Place{Cwd: cwd, Env: env}
	done := errors.New("nothing else matters")
	options := table()
	if v != nil {
		options = append(options, verbTable(v, len(options))...)
	}
	words, err := getopt(args, options, func(w word) error {
		if w.id >= len(settings.Options) {
			return told.add(&v.Options[w.id-len(settings.Options)], w)
		}
		o := &settings.Options[w.id]
		from := origin.Origin{Source: origin.CommandLine, Path: w.typed}
		if o.Later {
			return &settings.Error{What: "option '" + w.typed + "' is not supported yet", Origin: from, Value: w.value}
		}
		if w.told && w.value == "help" && (len(o.Enum) > 0 || o.List != nil) {
			r.Action, r.Option = Values, o
			return done
		}
		if o.Arg == settings.OptionalArg && w.told && w.value == "" {
			return &settings.Error{What: "option '" + w.typed + "' has nothing behind the equals sign", Origin: from}
		}
		text, old, hint := w.value, o.Old, ""
		switch {
		case o.Arg == settings.LooseArg && w.told:
			if strings.Contains(w.value, "/") {
				hint = "to give " + w.typed + " no argument, put -- before the command"
			}
			o = settings.Find(o.Old)
		case o.Arg == settings.LooseArg:
			text, old = "yes", ""
		case o.Arg == settings.NoArg:
			text = "yes"
		}
		v, err := o.Parse(place, text)
		if err != nil {
			return &settings.Error{What: "cannot use " + given(w) + ": " + err.Error(), Origin: from, Value: w.value, Hint: hint}
		}
		if old != "" {
			r.Warnings = append(r.Warnings, settings.Warning{
				What:   "option '" + w.typed + "' is deprecated",
				Origin: from, Value: w.value,
				Hint: "use --" + old,
			})
		}
		switch o.Name {
		case "help":
			r.Action = Help
			return done
		case "version":
			r.Action = Version
			return done
		case "plan":
			r.Action, r.PlanFormat = Plan, v.(string)
		case "cleanup":
			r.Action = Cleanup
		case "settings":
			r.Files = v.(settings.FileMode)
		case "no-pager", "no-ask-password":
		default:
			if o.Row != nil {
				o = settings.Find(o.Row(v))
			}
			r.Assignments = append(r.Assignments, settings.Assignment{Option: o, Value: v, Origin: from, Text: w.value})
		}
		return nil
	})
	var bad *badOption
	switch {
	case err == done:
		return r, nil
	case errors.As(err, &bad):
		return r, &settings.Error{What: bad.text, Hint: suggest(bad.unknown, v)}
	case err != nil:
		return r, err
	}
	if len(words) > 0 {
		r.Words = words
		r.Assignments = append(r.Assignments, settings.Assignment{
			Option: settings.Find("words"), Value: words, Text: strings.Join(words, " "),
			Origin: origin.Origin{Source: origin.CommandLine, Path: "the command"},
		})
	}
	return r, nil
}

func given(w word) string {
	switch {
	case !w.told:
		return w.typed
	case len(w.typed) == 2:
		return w.typed + " " + w.value
	}
	return w.typed + "=" + w.value
}

// suggest gives a hint for a long option that nobody knows. The verb, if there
// is one, has options of its own.
func suggest(name string, v *settings.Verb) string {
	if name == "" {
		return ""
	}
	var flags []string
	if v != nil {
		for i := range v.Options {
			flags = append(flags, v.Options[i].Flag)
		}
	}
	if v == nil || v.Start {
		for i := range settings.Options {
			if o := &settings.Options[i]; o.Flag != "" && !o.Later && (o.Old == "" || o.Arg == settings.LooseArg) {
				flags = append(flags, o.Flag)
			}
		}
	}
	if near := settings.Nearest(name, flags...); near != "" {
		return "did you mean --" + near + "?"
	}
	if v != nil {
		return Name + " " + v.Name + " --help lists the options"
	}
	return "launch --help lists the options"
}
