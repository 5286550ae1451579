package main

import (
	"errors"

	"launch/internal/engine"
	"launch/oci/container"
	"launch/settings"
)

// sentence is the one line that is told of an error. Engines look for words in
// it: podman makes 126 and 127 out of "permission denied" and "executable file
// not found in"; so nothing is ever taken away from what was said inside.
func sentence(err error) string {
	text := err.Error()
	var lookup *engine.LookupError
	var said *settings.Error
	var step *engine.StepError
	switch {
	case errors.Is(err, container.ErrNotExist):
		// Alone: what was tried with it doesn't matter any more.
		return container.ErrNotExist.Error()
	case errors.As(err, &lookup):
		return before(text, lookup.Error(), "unable to start container process: ")
	case errors.As(err, &said):
		text += place(said)
	case errors.As(err, &step):
		text += place(&settings.Error{Origin: step.Origin})
	}
	return text
}

// before puts a word in front of the end of a text.
func before(text, end, word string) string {
	if n := len(text) - len(end); n >= 0 && text[n:] == end {
		return text[:n] + word + end
	}
	return text
}

// place says where it was written, and what would help.
func place(e *settings.Error) string {
	text := ""
	if p := e.Place(); p != "" {
		text = " [" + p + "]"
	}
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// warning is the line of a warning.
func warning(w settings.Warning) string { return w.What + place(&w) }
