package plan

import (
	"fmt"
	"slices"
	"strings"

	"launch/settings"
)

// console decides which of the payload's descriptors are a terminal of the
// machine's own, and what that is joined with.
//
// The caller's terminal is never among what the payload gets: who has it open
// can push input into it (TIOCSTI), which the caller's shell runs later, read
// what is typed, and change its modes for good. So with --console=pipe, each
// descriptor that is a terminal is replaced, and only the others are handed on.
func (c *compiler) console() {
	c.Console = c.Settings.Life.Console
	host := c.Facts.Host
	tty := host.StdinTTY && host.StdoutTTY
	switch {
	case c.Console == settings.ConsoleDefault && tty, c.Console == settings.ConsoleAutopipe && tty:
		c.Console = settings.ConsoleInteractive
	case c.Console == settings.ConsoleDefault:
		c.Console = settings.ConsoleReadOnly
	case c.Console == settings.ConsoleAutopipe:
		c.Console = settings.ConsolePipe
	}
	t := TTY{Stdio: []int{0, 1, 2}, Output: 1, Columns: 80, Lines: 24}
	if host.Columns != 0 {
		t.Columns = host.Columns
	}
	if host.Lines != 0 {
		t.Lines = host.Lines
	}
	switch c.Console {
	case settings.ConsolePipe:
		terminals := [...]bool{host.StdinTTY, host.StdoutTTY, host.StderrTTY}
		t.Stdio = nil
		for n, is := range terminals {
			if is {
				t.Stdio = append(t.Stdio, n)
			}
		}
		if t.Stdio == nil {
			return
		}
		// What is typed is seen somewhere, also if nothing else is.
		for _, n := range []int{1, 2, 0} {
			if terminals[n] {
				t.Output = n
				break
			}
		}
		switch {
		case host.StdinTTY && host.Pipeline:
			// Behind the pipe there may be a pager, or another launcher, and
			// who changes a terminal's modes after us and before we put them
			// back would have them wrong in the end.
			t.Input = Lines
		case host.StdinTTY:
			t.Input = Keys
		}
		t.Yield = host.StdinTTY
	case settings.ConsolePassive:
		t.Output = -1
	case settings.ConsoleInteractive:
		t.Input = Keys
		if clever(host.Term) {
			t.Reset = true
			if !c.Settings.Environment.NoTitle {
				t.Title = "machine " + c.Machine
			}
		}
	}
	c.Plan.Terminal = t
}

// clever reports whether a terminal of this type knows the sequences for
// windows, at least to ignore them.
func clever(term string) bool { return term != "" && term != "dumb" && term != "unknown" }

// pty tells whether the machine has a terminal of its own.
func (c *compiler) pty() bool { return len(c.Plan.Terminal.Stdio) > 0 }

// controls tells whether the payload's session has it. Without input from it,
// nobody could answer who asks at /dev/tty; so there is none.
func (c *compiler) controls() bool { return slices.Contains(c.Plan.Terminal.Stdio, 0) }

// stdio gives the payload's descriptors that are the machine's terminal, as
// bits, and what is done with all three in words.
func (c *compiler) stdio() (own uint64, text string) {
	var taken, kept []string
	for n, name := range []string{"input", "output", "error"} {
		if slices.Contains(c.Plan.Terminal.Stdio, n) {
			own |= 1 << n
			taken = append(taken, name)
		} else {
			kept = append(kept, name)
		}
	}
	list := func(words []string) string {
		last := len(words) - 1
		if last == 0 {
			return "standard " + words[0]
		}
		return "standard " + strings.Join(words[:last], ", ") + " and " + words[last]
	}
	switch {
	case len(taken) == 0:
		return own, "keep the launcher's " + list(kept)
	case len(kept) == 0:
		return own, "take the machine's terminal as " + list(taken)
	}
	return own, fmt.Sprintf("take the machine's terminal as %s, and keep the launcher's %s", list(taken), list(kept))
}
