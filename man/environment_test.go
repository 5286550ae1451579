package main

import (
	"os"
	"strings"
	"testing"

	"launch/settings"
)

// TestEnvironment: each variable that the table knows is in the page.
func TestEnvironment(t *testing.T) {
	page, err := os.ReadFile("launch.1")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n.SH ENVIRONMENT\n")
	section, _, _ = strings.Cut(section, "\n.SH ")
	for i := range settings.Options {
		if name := settings.Options[i].Env; name != "" && !strings.Contains(section, name) {
			t.Errorf("launch(1) does not tell about $%s", name)
		}
	}
}
