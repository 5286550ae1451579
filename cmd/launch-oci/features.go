package main

import "launch/oci/bundle"

var featuresVerb = &verb{name: "features", help: "show what this runtime can do as JSON", most: 0, run: features}

func features(*call) int {
	return say(append(bundle.AppendFeatures(nil, bundle.Built{Version: version, Systemd: true, SystemdUser: true}), '\n'))
}
