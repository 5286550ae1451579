package main

import (
	"errors"
	"os"

	"launch/oci/bundle"
)

var updateVerb = &verb{name: "update", args: "CONTAINER", help: "change the limits of a container", least: 1, most: 1,
	options: []option{{names: "resources r", arg: "FILE"}}, run: update}

func update(c *call) int { return c.fail(errors.New("update is not there yet")) }

var eventsVerb = &verb{name: "events", args: "CONTAINER", help: "tell what a container uses, and of OOM", least: 1, most: 1,
	options: []option{{names: "interval", arg: "DURATION"}, {names: "stats"}}, run: events}

func events(c *call) int { return c.fail(errors.New("events is not there yet")) }

var featuresVerb = &verb{name: "features", help: "show what this runtime can do as JSON", most: 0, run: features}

func features(*call) int {
	os.Stdout.Write(append(bundle.AppendFeatures(nil, bundle.Built{Version: version}), '\n'))
	return 0
}
