module launch

go 1.26.0

require (
	golang.org/x/sys v0.49.0 // indirect
	gopkg.in/ini.v1 v1.67.3
)

// The runtime need not find out how many CPUs its cgroup grants: a launcher
// waits most of its life, and reading that takes longer than a mount.
godebug (
	containermaxprocs=0
	updatemaxprocs=0
)
