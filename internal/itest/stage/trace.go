package stage

import (
	"fmt"
	"strings"
)

// Pieces are calls in the output of strace -f that began, and did not end yet:
// another process's calls came between. The key is the process.
type Pieces map[int]string

// Join takes a line, without the process's number, and gives the call that ends
// with it, whole; "" if the line only begins one.
func (p Pieces) Join(pid int, line string) (call string, err error) {
	if head, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
		p[pid] = head
		return "", nil
	}
	if !strings.HasPrefix(line, "<... ") {
		return line, nil
	}
	_, tail, ok := strings.Cut(line, " resumed>")
	if !ok || p[pid] == "" {
		return "", fmt.Errorf("a line of strace: %q", line)
	}
	call = p[pid] + tail
	delete(p, pid)
	return call, nil
}
