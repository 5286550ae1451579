// Package bundle reads what an OCI bundle says: config.json becomes Settings,
// and the other JSON texts of an OCI runtime (a process, resources, states,
// features) are read and written.
//
// It guarantees that it sees in a file what encoding/json would see there, as
// other runtimes do; that every field of the runtime specification has a row in
// Fields that says what becomes of it, and does; and that what is wrong is told
// with file, line, field and value. It refuses to know how anything is done, and
// whether the host can do it.
//
//	s, warnings, err := bundle.Read("/b", text)
//
// Room: paper.
package bundle

//go:generate go run ./gen decode_gen.go

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"launch/settings"
)

// File is the name of a bundle's configuration.
const File = "config.json"

// Decode reads a config.json. The name is for messages.
func Decode(name, text string) (*specs.Spec, []settings.Warning, error) {
	return decodeWhole(name, text, decodeSpec)
}

// DecodeProcess reads a process alone, as `exec --process` is given it.
func DecodeProcess(name, text string) (*specs.Process, []settings.Warning, error) {
	return decodeWhole(name, text, decodeProcess)
}

// DecodeResources reads resources alone, as `update --resources` is given them.
func DecodeResources(name, text string) (*specs.LinuxResources, []settings.Warning, error) {
	return decodeWhole(name, text, decodeLinuxResources)
}

func decodeWhole[T any](name, text string, decode func(*decoder, *T)) (*T, []settings.Warning, error) {
	d := decoder{file: name, text: text}
	v := new(T)
	if len(text) > Limit {
		d.fail(0, "", fmt.Sprintf("cannot read a file of %d bytes: the limit is %d", len(text), Limit), "")
	} else {
		decode(&d, v)
		d.end()
	}
	if d.err != nil {
		return nil, d.warnings, d.err
	}
	return v, d.warnings, nil
}
