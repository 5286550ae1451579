package main

import (
	"errors"
)

var checkpointOptions = []option{
	{names: "image-path", arg: "DIR"}, {names: "work-path", arg: "DIR"}, {names: "parent-path", arg: "DIR"}, {names: "leave-running"},
	{names: "tcp-established"}, {names: "tcp-skip-in-flight"}, {names: "tcp-close"}, {names: "link-remap"}, {names: "ext-unix-sk"}, {names: "shell-job"}, {names: "lazy-pages"},
	{names: "status-fd", arg: "N"}, {names: "page-server", arg: "ADDRESS:PORT"}, {names: "file-locks"}, {names: "pre-dump"},
	{names: "manage-cgroups-mode", arg: "MODE"}, {names: "empty-ns", arg: "NAMESPACE", many: true}, {names: "auto-dedup"},
}

var checkpointVerb = &verb{name: "checkpoint", args: "CONTAINER", help: "write a container into files", least: 1, most: 1, options: checkpointOptions, run: noCRIU}
var restoreVerb = &verb{name: "restore", args: "CONTAINER", help: "go on with a container from files", least: 1, most: 1,
	options: append(append([]option{{names: "detach d"}, {names: "lsm-profile", arg: "PROFILE"}, {names: "lsm-mount-context", arg: "CONTEXT"}, {names: "no-subreaper"}}, createOptions...), checkpointOptions...), run: noCRIU}

func noCRIU(c *call) int {
	return c.fail(errors.New(c.verb.name + " needs CRIU, which this launch-oci can't use yet"))
}
