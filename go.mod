module launch

go 1.26.0

require gopkg.in/ini.v1 v1.67.3

require (
	github.com/godbus/dbus/v5 v5.2.4 // indirect
	github.com/opencontainers/runtime-spec v1.3.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

// The runtime need not find out how many CPUs its cgroup grants: a launcher
// waits most of its life, and reading that takes longer than a mount.
godebug (
	containermaxprocs=0
	updatemaxprocs=0
)
