package compare

import (
	"strings"
)

// A combination is one way to start the probe. OUT in its arguments is a
// directory on the host with a few things to give to the machine:
//
//	OUT/dir/file OUT/dir/sub/ (a mount of its own) OUT/file OUT/lower/ OUT/upper/ OUT/owned/ (of user 1000)
type combination struct {
	name    string
	args    string   // parted at spaces; \s is a space in an argument
	env     []string // of the launcher
	payload string   // instead of /usr/bin/probe
	setting string   // what NAME.nspawn beside the tree says
	fails   bool     // both must refuse it
	only    string   // architecture
}

// A choice is one value of an axis of the grid.
type choice struct {
	name, args, env string
}

// The axes: what changes which file systems a machine gets, and whose they are.
var axes = [...][]choice{
	{{name: "api-no"}, {name: "api-network", env: "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"}, {name: "api-yes", env: "SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes"}},
	{{name: "tmp"}, {name: "no-tmp", env: "SYSTEMD_NSPAWN_TMPFS_TMP=0"}},
	{{name: "keep"}, {name: "volatile", args: "--volatile=yes"}, {name: "state", args: "--volatile=state"}, {name: "overlay", args: "--volatile=overlay"}},
	{{name: "host-users"}, {name: "pick", args: "-U"},
		{name: "map", args: "--private-users=1310720:65536 --private-users-ownership=map"},
		{name: "chown", args: "--private-users=1310720:65536 --private-users-ownership=chown"}},
	{{name: "whole"}, {name: "pivot", args: "--pivot-root=/deploy"}},
}

// grid gives every choice with every other, from api-no,tmp,keep,host-users,whole on.
func grid() (list []combination) {
	list = []combination{{name: "grid"}}
	for _, axis := range axes {
		var longer []combination
		for _, c := range list {
			for _, one := range axis {
				next := combination{name: c.name + "-" + one.name, args: strings.TrimSpace(c.args + " " + one.args), env: append([]string(nil), c.env...)}
				if one.env != "" {
					next.env = append(next.env, one.env)
				}
				longer = append(longer, next)
			}
		}
		list = longer
	}
	for i := range list {
		c := &list[i]
		has := func(word string) bool { return strings.Contains(c.name+"-", "-"+word+"-") }
		users := !has("host-users")
		// Nobody may write to the host's settings from another user namespace,
		// or give away the files of a tree that is run without being changed.
		c.fails = users && !has("api-no") || has("chown") && !has("keep")
	}
	return list
}
