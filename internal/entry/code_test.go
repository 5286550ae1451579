package entry_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"launch/internal/entry"
)

// TestForget: what a program has given back it has no more, and goes on all the same.
func TestForget(t *testing.T) {
	files := func() int {
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "RssFile:")
		n, err := strconv.Atoi(strings.Fields(rest)[0])
		if err != nil {
			t.Fatalf("RssFile: %v", err)
		}
		return n
	}
	had := files()
	entry.Forget()
	if has := files(); has > had*3/4 {
		t.Errorf("%d KiB of the program were in memory, and %d KiB still are", had, has)
	}
}
