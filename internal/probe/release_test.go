package probe

import "testing"

// TestUnquoted holds values of os-release to what systemd-nspawn 262 makes of them.
func TestUnquoted(t *testing.T) {
	for text, want := range map[string]string{
		`b\$x`: `b$x`, `"a\$b"`: `a$b`, `"a\nb"`: `a\nb`, `'a\$b'`: `a\$b`, `a"b"c`: `a"b"c`, `"a'b"`: `a'b`, `  sp`: `sp`, `tr  `: `tr`, `"in  sp" `: `in  sp`, `a b`: `a b`,
		`'x'y`: `xy`, `"x"y`: `xy`, `a\ b`: `a b`, `"a\"b"`: `a"b`, `"a\\b"`: `a\b`, `'a\\b'`: `a\\b`, `a#b`: `a#b`, `a #b`: `a #b`, "\"a`b\"": "a`b", "\"a\\`b\"": "a`b",
		`a'b'`: `a'b'`, `a\\b`: `a\b`, `""`: ``, `"x" "y"`: `xy`, `it's`: `it's`, `a\"b`: `a"b`, `a;b`: `a;b`, `x\ `: `x `, `" x "`: ` x `, `\`: `\`, ``: ``, "x\r": "x",
	} {
		if got := unquoted(text); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if f := osFields("ID=\"a\\$b\"\n  VERSION_ID='1 2'\n#BUILD_ID=x\nBUILD_ID\n"); f.ID != "a$b" || f.VersionID != "1 2" || f.BuildID != "" {
		t.Errorf("%+v", f)
	}
}
