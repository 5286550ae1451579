package main

import (
	"os"

	"launch/oci/container"
)

var startVerb = &verb{name: "start", args: "CONTAINER", help: "start a created container", least: 1, most: 1, users: containerUsers, run: locked(func(d *container.Dir, warn func(string)) error {
	return d.Start(os.Getenv("NOTIFY_SOCKET"), warn)
})}

// locked runs what changes a container.
func locked(f func(d *container.Dir, warn func(string)) error) func(c *call) int {
	return func(c *call) int {
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
}
