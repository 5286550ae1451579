package disk

import "strings"

// Newer tells whether a version comes after another one, by the rules of the
// UAPI Version Format Specification.
func Newer(a, b string) bool { return order(a, b) > 0 }

func digit(c byte) bool  { return c >= '0' && c <= '9' }
func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// separators are told apart; what is none of them, no digit and no letter, only
// parts the others.
const separators = "~-^."

func order(a, b string) int {
	skip := func(s string) string {
		for s != "" && !digit(s[0]) && !letter(s[0]) && !strings.Contains(separators, s[:1]) {
			s = s[1:]
		}
		return s
	}
	for {
		a, b = skip(a), skip(b)
		begins := func(s string, c byte) bool { return s != "" && s[0] == c }
		// A tilde comes before the end, which comes before all else.
		if x, y := begins(a, '~'), begins(b, '~'); x || y {
			if x != y {
				return sign(y)
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			if a == b {
				return 0
			}
			return sign(b == "")
		}
		parted := false
		for i := 1; i < len(separators) && !parted; i++ {
			x, y := begins(a, separators[i]), begins(b, separators[i])
			if x != y {
				return sign(y)
			}
			if parted = x; parted {
				a, b = a[1:], b[1:]
			}
		}
		if parted {
			continue
		}
		of := letter
		if digit(a[0]) || digit(b[0]) {
			of = digit
		}
		n, m := run(a, of), run(b, of)
		x, y := a[:n], b[:m]
		a, b = a[n:], b[m:]
		if x0, y0 := x, y; digit(first(x)) || digit(first(y)) {
			x, y = strings.TrimLeft(x0, "0"), strings.TrimLeft(y0, "0")
			if len(x) != len(y) {
				return sign(len(x) > len(y))
			}
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
}

func first(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

// run is how many bytes at the beginning are of a kind.
func run(s string, of func(byte) bool) (n int) {
	for n < len(s) && of(s[n]) {
		n++
	}
	return n
}

func sign(after bool) int {
	if after {
		return 1
	}
	return -1
}
