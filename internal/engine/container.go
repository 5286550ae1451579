package engine

import (
	"errors"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/settings"
)

// CreateOptions are what the creation of a container needs beside the plan.
type CreateOptions struct {
	// Pin is the root's directory, as it was looked at for the plan.
	Pin int
	// Warn takes what a person should know; it may be nil.
	Warn func(string)
	// Gate is a FIFO, open for reading and writing: the first process reads a
	// byte from it before it becomes the payload. -1: it doesn't wait.
	Gate int
	// Cgroup is a descriptor of the cgroup (v2) that the first process is born
	// into; -1: none. Enter puts the calling thread into cgroups (v1) that its
	// children are to be in; it may be nil.
	Cgroup int
	Enter  func(sys.Locked) error
	// Placed is called when the first process exists, waits, and has all its
	// namespaces; nothing of the container is there yet. It may be nil.
	Placed func(pid int) error
	// Console takes the master side of the container's terminal, which it may
	// keep; nil: there is none, or the caller's own standard input and output
	// are the payload's.
	Console func(master int) error
	// Keep is how many descriptors, from 3 on, the payload inherits.
	Keep int
	// KeepKeyring: the payload stays in the caller's session keyring.
	KeepKeyring bool
	// State gives the state of the container as JSON, for hooks.
	State func(status string, pid int) []byte
}

// Container is a first process that was created, or one that joined.
type Container struct {
	PID   int
	Pidfd int
}

// Create makes a container as the plan says, runs its hooks up to
// createContainer, and leaves its first process waiting at the gate. The first
// process outlives the caller. After an error nothing of it is left.
func Create(p *plan.Plan, o CreateOptions) (*Container, error) {
	return nil, errors.New("create containers: not there yet")
}

// JoinOptions are what a process that joins a container needs.
type JoinOptions struct {
	// Pidfd is the container's first process, and PID its number.
	Pidfd, PID int
	Warn       func(string)
	// Cgroup, Enter, Console, Keep: as in CreateOptions. Placed is called
	// when the process exists and waits.
	Cgroup  int
	Enter   func(sys.Locked) error
	Placed  func(pid int) error
	Console func(master int) error
	Keep    int
}

// Join starts a process of the plan made by plan.CompileJoin in a running container.
func Join(p *plan.Plan, o JoinOptions) (*Container, error) {
	return nil, errors.New("join containers: not there yet")
}

// RunHook runs a hook in the caller's own namespaces, with the container's
// state on its standard input. An error names the hook and what it said.
func RunHook(h settings.Hook, state []byte) error {
	return errors.New("run hooks: not there yet")
}

// RunHookIn runs a hook in the namespaces of a container's first process.
func RunHookIn(h settings.Hook, state []byte, pidfd int) error {
	return errors.New("run hooks: not there yet")
}
