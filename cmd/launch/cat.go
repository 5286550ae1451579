package main

import (
	"fmt"
	"os"

	"launch/internal/cli"
	"launch/internal/origin"
	"launch/internal/probe"
	"launch/settings"
)

// cat is `launch cat [OPTION…] [MACHINE]`: what is said about a machine, by
// whom, and what became of each value.
func cat(args, env []string, cwd string) int {
	fail := func(err error) int {
		cli.Report(os.Stderr, err)
		return 1
	}
	asJSON := false
	var rest []string
	for _, a := range args {
		if a == "--json" {
			asJSON = true
		} else {
			rest = append(rest, a)
		}
	}
	req, err := cli.Parse(rest, env, cwd)
	if err != nil {
		return fail(err)
	}
	if req.Action != cli.Run {
		return fail(&settings.Error{What: "cat shows what is said about a machine, and does nothing else", Hint: "launch cat [OPTION…] [--json] [MACHINE]"})
	}
	if len(req.Words) > 1 {
		return fail(&settings.Error{What: "cat takes one machine", Hint: "launch cat [OPTION…] [--json] [MACHINE]"})
	}
	if len(req.Words) == 1 {
		// The word is no command here, but the machine's name.
		req.Assignments = req.Assignments[:len(req.Assignments)-1]
		if err := settings.CheckName(req.Words[0]); err != nil {
			return fail(&settings.Error{What: err.Error(), Value: req.Words[0]})
		}
		req.Assignments = append(req.Assignments, settings.Assignment{
			Option: settings.Find("machine"), Value: req.Words[0], Text: req.Words[0],
			Origin: origin.Origin{Source: origin.CommandLine, Path: "the machine's name"},
		})
	}
	host, err := probe.Host(nil)
	if err != nil {
		return fail(err)
	}
	around := settings.Surroundings{
		Place: settings.Place{Cwd: cwd, Env: env}, Hostname: host.Hostname, Files: req.Files, PID2: true,
	}
	var finder probe.Finder
	finder.Around(&around)
	assignments, warnings, err := withFile(req, around)
	if err != nil {
		return fail(err)
	}
	s, trace, more, err := settings.Resolve(assignments, around)
	for _, w := range append(append(req.Warnings, warnings...), more...) {
		cli.Warn(os.Stderr, w)
	}
	if asJSON {
		if jerr := writeJSON(os.Stdout, struct {
			Settings settings.Settings `json:"settings"`
			Trace    []said            `json:"trace"`
		}{s, told(trace)}); jerr != nil {
			return fail(fmt.Errorf("print the settings: %w", jerr))
		}
	} else {
		fmt.Print(cli.PrintableLines(trace.String()))
	}
	if err != nil {
		return fail(err)
	}
	return 0
}

// said is a line of the trace, as JSON.
type said struct {
	Option string         `json:"option"`
	Text   string         `json:"text,omitempty"`
	Origin origin.Origin  `json:"origin"`
	Fate   settings.Fate  `json:"fate"`
	By     *origin.Origin `json:"by,omitempty"`
	Why    string         `json:"why,omitempty"`
}

func told(trace settings.Trace) []said {
	list := make([]said, 0, len(trace))
	for _, e := range trace {
		s := said{Option: e.Option.Name, Text: e.Text, Origin: e.Origin, Fate: e.Fate, Why: e.Why}
		if e.By != (origin.Origin{}) {
			s.By = &e.By
		}
		list = append(list, s)
	}
	return list
}
