package cli

import (
	"testing"

	"launch/settings"
)

// BenchmarkCommandLine is what a start pays for its command line.
func BenchmarkCommandLine(b *testing.B) {
	args := []string{"-qbD", "/srv/web", "--private-users=pick", "--bind=/a:/b:idmap", "--tmpfs=/t:size=1m", "-E", "TERM", "ls"}
	env := []string{"PATH=/bin", "TERM=vt100"}
	b.ReportAllocs()
	for b.Loop() {
		r, err := Parse(args, env, "/")
		if err != nil {
			b.Fatal(err)
		}
		if _, _, _, err := settings.Resolve(r.Assignments, settings.Surroundings{Place: settings.Place{Cwd: "/"}}); err != nil {
			b.Fatal(err)
		}
	}
}
