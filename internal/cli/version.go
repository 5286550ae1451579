package cli

import (
	"fmt"
	"io"
	"runtime"
)

// Release is the version of the launcher; the linker puts it in.
var Release = "dev"

// PrintVersion prints the line of --version.
func PrintVersion(w io.Writer) {
	fmt.Fprintf(w, "%s %s (%s, %s)\n", Name, Release, runtime.Version(), runtime.GOARCH)
}
