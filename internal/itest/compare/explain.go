package compare

import (
	"fmt"
	"strings"
)

// An explanation is a line of differences.txt:
//
//	COMBINATION | FACT | UNDER NSPAWN | UNDER LAUNCH | REASON
//
// In the first four, * stands for any text. A reason is a sentence.
type explanation struct {
	line                              int
	combination, fact, nspawn, launch string
	reason                            string
	used                              int
}

func explanations(text string) ([]*explanation, error) {
	var out []*explanation
	n := 0
	for l := range strings.Lines(text) {
		n++
		l = strings.TrimSpace(l)
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		f := strings.SplitN(l, "|", 5)
		if len(f) != 5 {
			return nil, fmt.Errorf("differences.txt:%d: want COMBINATION | FACT | UNDER NSPAWN | UNDER LAUNCH | REASON", n)
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		if len(strings.Fields(f[4])) < 3 {
			return nil, fmt.Errorf("differences.txt:%d: that is no reason", n)
		}
		out = append(out, &explanation{line: n, combination: f[0], fact: f[1], nspawn: f[2], launch: f[3], reason: f[4]})
	}
	return out, nil
}

// explain parts the differences into those that are explained and the others.
func explain(all []difference, by []*explanation) (explained int, left []difference) {
	for _, d := range all {
		found := false
		for _, e := range by {
			if match(e.combination, d.combination) && match(e.fact, d.fact) && match(e.nspawn, d.nspawn) && match(e.launch, d.launch) {
				e.used++
				found = true
			}
		}
		if found {
			explained++
		} else {
			left = append(left, d)
		}
	}
	return explained, left
}

// match compares with a pattern in which * is any text. Each piece between two
// stars is taken at its first place, the last one at the end.
func match(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, head)
	if !ok {
		return false
	}
	for {
		piece, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, piece)
		}
		at := strings.Index(s, piece)
		if at < 0 {
			return false
		}
		s, rest = s[at+len(piece):], more
	}
}
