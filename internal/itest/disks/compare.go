package disks

import (
	"regexp"
	"slices"
	"strings"
)

var (
	source = regexp.MustCompile(` (/dev/loop[0-9]+(p[0-9]+)?|/proc/self/fd/[0-9]+) `)
	places = regexp.MustCompile(`(lowerdir\+?|upperdir|workdir)=[^,]*`)
)

// Normal makes what a script saw under two launchers comparable: runs of lines of
// mountinfo are sorted, and those of the machine's own file systems left out. mount
// gives the line for one of the others, of its fields and of what comes after them,
// where disks and places have no names of their own any more; other gives that for
// what is no mount.
func Normal(out string, mount func(f []string, right string) string, other func(line string) string) string {
	var list, mounts []string
	flush := func() {
		slices.Sort(mounts)
		list, mounts = append(list, mounts...), nil
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		left, right, ok := strings.Cut(line, " - ")
		f := strings.Fields(left)
		if !ok || len(f) < 6 {
			flush()
			list = append(list, other(line))
			continue
		}
		if strings.HasPrefix(f[4]+"/", "/proc/") || strings.HasPrefix(f[4]+"/", "/sys/") || strings.HasPrefix(f[4]+"/", "/dev/") || strings.HasPrefix(f[4]+"/", "/run/") {
			continue
		}
		// A name only, and what differs from systemd-nspawn as the manual says.
		right = source.ReplaceAllString(" "+right, " DISK ")
		right = strings.ReplaceAll(right, ",errors=remount-ro", "")
		right = places.ReplaceAllString(right, "$1")
		right = strings.ReplaceAll(right, "lowerdir+", "lowerdir")
		mounts = append(mounts, mount(f, right))
	}
	flush()
	return strings.Join(list, "\n")
}
