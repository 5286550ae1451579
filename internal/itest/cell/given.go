package cell

import (
	"strings"
	"testing"
	"time"
)

// Given opens a cell for a test, which is skipped where there can be none, and runs
// a script in it that gets it ready. It closes it after the test.
func Given(t testing.TB, o Options, prepare string, most time.Duration) *Cell {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Skip("no cell: ", err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if out, code, err := c.Shell(prepare, most); code != 0 || err != nil {
		t.Fatalf("%d %v %s", code, err, out)
	}
	return c
}

// Quoted gives a word for a script.
func Quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
