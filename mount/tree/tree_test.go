package tree

import "testing"

func TestEscape(t *testing.T) {
	for _, s := range []string{"/", "/a b", "/a\nb", `/a\b`, "/\xff,]:", "/ä"} {
		if got, ok := unescape(escape(s)); !ok || got != s {
			t.Errorf("%q: got %q, %v", s, got, ok)
		}
	}
	for _, s := range []string{`\`, `\09`, `\400`, `\141`, "/ä", "\n"} {
		if got, ok := unescape(s); ok {
			t.Errorf("%q: got %q, and no error", s, got)
		}
	}
}
