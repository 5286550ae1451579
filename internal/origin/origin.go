// Package origin says where a value came from, so that an error about the
// value can name the place where a person wrote it.
//
// Room: paper.
package origin

import "strconv"

// Origin is the place a value was written in. The zero Origin means that
// nobody wrote it.
type Origin struct {
	Source Source `json:"source"`
	// Path is the option as typed (`--bind`), the settings file, the profile's
	// name, or the JSON pointer's file.
	Path string `json:"path,omitempty"`
	// Line counts from 1; 0 where lines mean nothing.
	Line int `json:"line,omitempty"`
	// Key is the ini key (`Bind=`) or the JSON pointer.
	Key string `json:"key,omitempty"`
}

// Source is the kind of place.
type Source string

// The places values come from.
const (
	CommandLine Source = "command line"
	File        Source = "file"
	Bundle      Source = "bundle"
	Profile     Source = "profile"
	Environment Source = "environment"
	Image       Source = "image"
)

// String gives the short form used in plans and errors:
// `web.nspawn:14 Bind=`, `--bind`, `profile nspawn`.
func (o Origin) String() string {
	switch o.Source {
	case "":
		return ""
	case CommandLine:
		return o.Path
	case File, Bundle:
		s := o.Path
		if o.Line > 0 {
			s += ":" + strconv.Itoa(o.Line)
		}
		if o.Key != "" {
			s += " " + o.Key
		}
		return s
	case Environment:
		return "$" + o.Path
	default:
		return string(o.Source) + " " + o.Path
	}
}
