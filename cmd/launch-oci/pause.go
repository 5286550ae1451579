package main

import "launch/oci/container"

var pauseVerb = &verb{name: "pause", args: "CONTAINER", help: "freeze all processes of a container", least: 1, most: 1, run: pause}
var resumeVerb = &verb{name: "resume", args: "CONTAINER", help: "let a paused container go on", least: 1, most: 1, run: resume}

func pause(c *call) int  { return c.locked((*container.Dir).Pause) }
func resume(c *call) int { return c.locked((*container.Dir).Resume) }
