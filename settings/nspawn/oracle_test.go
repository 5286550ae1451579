package nspawn

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLexOracle compares with systemd itself: random [Unit] sections are given
// to systemd-analyze, whose debug log shows the description that it read, and
// the same bytes as [Exec] and User= to our lexer.
func TestLexOracle(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze to compare with")
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	pieces := []string{
		"@=a", "@=b", "@ = c", "@=", "@", "=", "x", " ", "\t", "\n", "\n", "\n", "\r", "\r\n", "\n\r", "\x00", "\\", "\\\n", "\\\n", "\\\\\n", "\\ \n",
		"# c", ";d", "\n# c \\\n", "\n  ; d\n", "'", `"`, "[#]", "[#", "\n[#]\n", "[#] x", "[X-Y]\n", "[]", "\n[a'b]\n", "\n[a\x01]\n", "é", "\f", "\u00a0", "Bogus=1", "\xff", "# \xff\n", "`",
	}
	r := rand.New(rand.NewPCG(5, 6))
	dir := t.TempDir()
	const n = 400
	args := []string{"verify"}
	files := make([]string, n)
	for i := range files {
		// Most of them begin as a file should.
		text := "[#]\n@=first\n"
		if r.IntN(10) == 0 {
			text = ""
		}
		if r.IntN(20) == 0 {
			text = "\ufeff" + text
		}
		for range r.IntN(12) {
			text += pieces[r.IntN(len(pieces))]
		}
		files[i] = text
		name := filepath.Join(dir, fmt.Sprintf("launch-lex-%d.target", i))
		unit := strings.NewReplacer("#]", "Unit]", "[#", "[Unit", "@", "Description").Replace(text)
		if err := os.WriteFile(name, []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	cmd := exec.Command(analyze, args...)
	cmd.Env = []string{"SYSTEMD_LOG_LEVEL=debug", "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	out, _ := cmd.Output() // it fails as soon as one unit is bad
	log := string(out)
	back := strings.NewReplacer("[Unit", "[Exec", "Description", "User")
	shown := 0
	for i, text := range files {
		name := fmt.Sprintf("launch-lex-%d.target", i)
		if text == "" {
			continue // an empty unit is a masked one
		}
		want := "refused"
		if _, dump, ok := strings.Cut(log, "-> Unit "+name+":\n"); ok {
			_, want, _ = strings.Cut(dump, "\t\tDescription: ")
			want, _, _ = strings.Cut(want, "\n\t\tInstance:")
			want = back.Replace(want)
			shown++
		}
		got := name // what systemd shows without a description
		ours := strings.NewReplacer("#]", "Exec]", "[#", "[Exec", "@", "User").Replace(text)
		l, err := lex("web.nspawn", []byte(ours))
		if err != nil {
			got = "refused"
		} else {
			for _, a := range l.found {
				if got = a.value; got == "" {
					got = name
				}
			}
		}
		if got != want {
			t.Errorf("%q\n  got %q\n want %q", text, got, want)
		}
	}
	if shown < n/4 {
		t.Skipf("systemd-analyze showed only %d of %d files", shown, n)
	}
	t.Logf("%d files shown, %d refused", shown, n-shown)
}
