package main

import (
	"cmp"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/bundle"
)

var specVerb = &verb{
	name: "spec", help: "write a new config.json", most: 0,
	options: []option{
		{names: "bundle b", arg: "DIR", help: "where it goes"},
		{names: "file f", arg: "FILE", help: "its name"},
		{names: "rootless", help: "for a user without root's rights"},
	},
	run: spec,
}

func spec(c *call) int {
	text := bundle.Template
	if c.on("rootless") {
		text = bundle.RootlessTemplate(os.Getuid(), os.Getgid())
	}
	if dir := c.text("bundle"); dir != "" {
		if err := os.Chdir(dir); err != nil {
			return c.fail(err)
		}
	}
	name := cmp.Or(c.text("file"), bundle.File)
	n, err := sys.Openat(unix.AT_FDCWD, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
	if err == unix.EEXIST {
		//lint:ignore ST1005 runc's words
		return c.fail(fmt.Errorf("File %s exists. Remove it first", name))
	}
	if err == nil {
		err = sys.WriteString(n, text)
	}
	if err != nil {
		return c.fail(fmt.Errorf("write %s: %w", name, err))
	}
	return 0
}
