package bundle

import (
	"slices"

	"launch/internal/seccomp"
	"launch/mount"
	"launch/settings"
)

// Built says what belongs to the program's features, and is nothing that a
// bundle says.
type Built struct {
	Version string // of the program
	// Systemd and SystemdUser: cgroups can be left to systemd, and to a user's
	// own.
	Systemd, SystemdUser bool
}

// honours reports whether the table says so of a field.
func honours(pointer string) bool { return row(Fields[:], pointer).Disposition == Honoured }

// MountOptions are the words that have a meaning of their own in a mount's
// options, in order; all others are the file system's.
func MountOptions() []string {
	words := make([]string, 0, len(mount.Options)+len(bundleOptions))
	for i := range mount.Options {
		words = append(words, mount.Options[i].Word)
	}
	words = append(words, bundleOptions[:]...)
	slices.Sort(words)
	return words
}

// AppendFeatures writes what the verb `features` prints, without the newline.
// It is about the program, and not about the host it is on.
func AppendFeatures(b []byte, built Built) []byte {
	w := writer{b: b, indent: "    "}
	object := func(name string, fields func()) {
		w.name(name)
		w.open('{')
		fields()
		w.close('}')
	}
	enabled := func(name, pointer string) {
		object(name, func() { w.bool("enabled", honours(pointer)) })
	}
	w.open('{')
	w.string("ociVersionMin", "1.0.0")
	w.string("ociVersionMax", Version)
	w.strings("hooks", namesHooks[:])
	w.strings("mountOptions", MountOptions())
	object("linux", func() {
		var namespaces, capabilities []string
		for _, k := range kinds {
			namespaces = append(namespaces, k.spec)
		}
		slices.Sort(namespaces)
		w.strings("namespaces", namespaces)
		for n := 0; settings.AllCaps>>n != 0; n++ {
			capabilities = append(capabilities, settings.CapabilityName(n))
		}
		w.strings("capabilities", capabilities)
		object("cgroup", func() {
			w.bool("v1", true)
			w.bool("v2", true)
			w.bool("systemd", built.Systemd)
			w.bool("systemdUser", built.SystemdUser)
			w.bool("rdma", honours("/linux/resources/rdma/*/hcaHandles"))
		})
		object("seccomp", func() {
			w.bool("enabled", honours("/linux/seccomp"))
			w.strings("actions", actionNames[:])
			w.strings("operators", operatorNames[:])
			w.strings("archs", seccomp.ArchNames())
			// Every kernel that launch runs on has them all.
			w.strings("knownFlags", flagNames[:])
			w.strings("supportedFlags", flagNames[:])
		})
		enabled("apparmor", "/process/apparmorProfile")
		enabled("selinux", "/process/selinuxLabel")
		object("intelRdt", func() {
			w.bool("enabled", honours("/linux/intelRdt"))
			w.bool("schemata", honours("/linux/intelRdt/schemata"))
			w.bool("monitoring", honours("/linux/intelRdt/enableMonitoring"))
		})
		object("memoryPolicy", func() {
			w.strings("modes", namesOf(policyModes[:]))
			w.strings("flags", namesOf(policyFlags[:]))
		})
		object("mountExtensions", func() { enabled("idmap", "/mounts/*/uidMappings") })
		enabled("netDevices", "/linux/netDevices")
	})
	if built.Version != "" {
		w.texts("annotations", map[string]string{
			"launch.version": built.Version,
			// runc's word, which crun has as well: the specification has none.
			"org.opencontainers.runc.checkpoint.enabled": "true",
		})
	}
	w.strings("potentiallyUnsafeConfigAnnotations", UnsafeAnnotations())
	w.close('}')
	return w.b
}
