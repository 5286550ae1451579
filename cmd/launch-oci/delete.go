package main

import (
	"errors"

	"launch/oci/container"
)

var deleteVerb = &verb{
	name: "delete", args: "CONTAINER", help: "delete a container that has stopped", least: 1, most: 1,
	options: []option{{names: "force f", help: "kill it first if it runs"}}, run: remove,
}

func remove(c *call) int {
	force := c.on("force")
	d, err := c.open()
	if err == nil {
		defer d.Close()
		err = d.Reload()
	}
	if err == nil {
		err = d.Delete(force, out.warn)
	}
	if errors.Is(err, container.ErrNotExist) && force {
		return 0
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}
