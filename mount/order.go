package mount

import (
	"slices"
	"strings"
)

// Sorted gives the mounts in the order in which they are made: by target, part
// by part, so that a parent comes before what is mounted inside it; then by
// kind; and as written where both are the same, so that the last one is what a
// reader of the path sees. The list itself is left alone.
func Sorted(mounts []Mount) []Mount {
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b Mount) int {
		if c := ComparePaths(a.Target, b.Target); c != 0 {
			return c
		}
		return int(a.Kind) - int(b.Kind)
	})
	return sorted
}

// ComparePaths compares clean absolute paths part by part. A plain comparison
// of strings would put `/a-b` between `/a` and `/a/b`.
func ComparePaths(a, b string) int {
	for a != "" && b != "" {
		var x, y string
		x, a, _ = strings.Cut(strings.TrimPrefix(a, "/"), "/")
		y, b, _ = strings.Cut(strings.TrimPrefix(b, "/"), "/")
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return len(a) - len(b)
}

// Below reports whether path is dir, or lies below it.
func Below(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}

// Inside reports whether path lies below dir, and is not dir itself.
func Inside(path, dir string) bool { return path != dir && Below(path, dir) }
