// Package rules holds the house rules as tests: which package may import
// which, what each room may do, what may happen before main, and that every
// command the documents show really runs. Each rule has a test that proves it
// can fail.
//
// Besides the tests it has one reader, Commands, which the tests of the
// documents share. It refuses to know what launch does.
//
// Room: test.
package rules

import (
	"strings"
)

// Command is one command line of a document.
type Command struct {
	// Line is where it stands, counted from 1.
	Line int
	// Text is the command as a shell takes it, continuation lines joined,
	// without the comment at its end.
	Text string
	// Mark is the word of the comment `<!-- run: WORD -->` above the block; it
	// says what the test has to bring along.
	Mark string
}

// Commands gives the commands in the blocks of a Markdown text that are fenced
// as sh. Blocks of other languages, and those without one, are output or files
// and are left alone.
func Commands(markdown string) []Command {
	var out []Command
	mark, fence := "", ""
	joined, start := "", 0
	n := 0
	for line := range strings.Lines(markdown) {
		n++
		text := strings.TrimSpace(line)
		if fence == "" {
			if word, ok := strings.CutPrefix(text, "<!-- run:"); ok {
				mark = strings.TrimSpace(strings.TrimSuffix(word, "-->"))
			} else if lang, ok := strings.CutPrefix(text, "```"); ok {
				fence = "other"
				if lang == "sh" {
					fence = "sh"
				}
			} else if text != "" {
				mark = ""
			}
			continue
		}
		if text == "```" {
			fence, mark = "", ""
			continue
		}
		if fence != "sh" {
			continue
		}
		if joined == "" {
			start = n
		}
		if before, ok := strings.CutSuffix(text, `\`); ok {
			joined += before
			continue
		}
		joined += text
		if i := strings.Index(" "+joined, " # "); i >= 0 {
			joined = joined[:i]
		}
		if joined = strings.TrimSpace(joined); joined != "" && joined[0] != '#' {
			out = append(out, Command{Line: start, Text: joined, Mark: mark})
		}
		joined = ""
	}
	return out
}
