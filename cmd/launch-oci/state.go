package main

var stateVerb = &verb{name: "state", args: "CONTAINER", help: "show the state of a container as JSON", least: 1, most: 1, run: state}

func state(c *call) int {
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	t, err := d.Told(true)
	if err != nil {
		return c.fail(err)
	}
	return say(append(t.Append(nil), '\n'))
}
