//go:build !faults

package child

// inject does nothing: see inject_on_unsafe.go.
func inject(*Program, int) {}

func injectAllowed(*Program, int) {}
