package facts

import (
	"strconv"
	"strings"
)

// StatusMask reads a mask from the text of /proc/PID/status: key is the name of
// its line with the colon. A line that isn't there is 0.
func StatusMask(status, key string) uint64 {
	_, rest, _ := strings.Cut(status, "\n"+key)
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return n
}
