package main

import (
	"os"

	"launch/oci/bundle"
)

var featuresVerb = &verb{name: "features", help: "show what this runtime can do as JSON", most: 0, run: features}

func features(*call) int {
	os.Stdout.Write(append(bundle.AppendFeatures(nil, bundle.Built{Version: version, Systemd: true, SystemdUser: true}), '\n'))
	return 0
}
