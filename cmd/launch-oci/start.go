package main

import (
	"os"

	"launch/oci/container"
)

var startVerb = &verb{name: "start", args: "CONTAINER", help: "start a created container", least: 1, most: 1, users: containerUsers, run: start}

func start(c *call) int {
	return c.locked(func(d *container.Dir, warn func(string)) error { return d.Start(os.Getenv("NOTIFY_SOCKET"), warn) })
}

// locked runs what changes a container.
func (c *call) locked(f func(d *container.Dir, warn func(string)) error) int {
	d, err := c.open()
	if err == nil {
		defer d.Close()
		err = d.Reload()
	}
	if err == nil {
		err = f(d, out.warn)
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}
