package store

import (
	"fmt"
	"path"
	"strings"
)

// Reference says where an image comes from.
type Reference struct {
	// Kind is "docker" for a registry, else that of a file or directory: "oci",
	// "oci-archive", "docker-archive".
	Kind string
	// Registry is a host, with a port if need be; Repository a path there.
	Registry, Repository string
	// Path is where the file or directory is.
	Path string
	// Tag and Digest say which of its images; Digest wins.
	Tag, Digest string
}

// The registry of names that don't say any, and the tag of names without one.
const (
	defaultRegistry = "docker.io"
	defaultTag      = "latest"
)

// referenceMax is how long a reference may be.
const referenceMax = 4096

// ParseReference reads what a person calls an image:
//
//	[docker://][REGISTRY/]REPOSITORY[:TAG][@DIGEST]
//	oci:DIRECTORY[:TAG]  oci-archive:FILE[:TAG]  docker-archive:FILE[:NAME]
//
// A relative path is one below cwd.
func ParseReference(text, cwd string) (Reference, error) {
	bad := func(why string) (Reference, error) {
		return Reference{}, fmt.Errorf("%q names no image: %s", text, why)
	}
	if text == "" {
		return bad("it is empty")
	}
	if len(text) > referenceMax {
		return Reference{}, fmt.Errorf("the name of an image has %d bytes, %d are possible", len(text), referenceMax)
	}
	for _, c := range []byte(text) {
		if c < ' ' || c == 0x7f {
			return bad("it has a control character")
		}
	}
	for _, kind := range [...]string{"oci", "oci-archive", "docker-archive"} {
		rest, ok := strings.CutPrefix(text, kind+":")
		if !ok {
			continue
		}
		r := Reference{Kind: kind}
		// A name of a Docker archive has a colon of its own.
		r.Path, r.Tag, _ = strings.Cut(rest, ":")
		if r.Path == "" {
			return bad("it has no path")
		}
		if !path.IsAbs(r.Path) {
			r.Path = path.Join(cwd, r.Path)
		}
		r.Path = path.Clean(r.Path)
		return r, nil
	}
	r := Reference{Kind: "docker"}
	rest := strings.TrimPrefix(text, "docker://")
	rest, digest, ok := strings.Cut(rest, "@")
	if ok {
		if _, err := hex(digest); err != nil {
			return bad(err.Error())
		}
		r.Digest = digest
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, r.Tag = rest[:i], rest[i+1:]
		if !isTag(r.Tag) {
			return bad(fmt.Sprintf("%q is no tag", r.Tag))
		}
	}
	r.Registry, r.Repository = defaultRegistry, rest
	if host, after, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		r.Registry, r.Repository = host, after
		if !isHost(host) {
			return bad(fmt.Sprintf("%q is no host", host))
		}
	} else if !ok {
		r.Repository = "library/" + rest
	}
	for part := range strings.SplitSeq(r.Repository, "/") {
		if !isPart(part) {
			return bad(fmt.Sprintf("%q is no part of a repository's name: it has small letters and digits, with single . _ - between them", part))
		}
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

func among(s, set string) bool { return strings.Trim(s, set) == "" }

const (
	small  = "abcdefghijklmnopqrstuvwxyz0123456789"
	letter = small + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func isTag(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' && among(s, letter+"_.-")
}

// isHost takes a name or address, with a port if need be.
func isHost(s string) bool {
	host, port, ok := strings.Cut(s, ":")
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || !among(s[1:end], "0123456789abcdefABCDEF:.") {
			return false
		}
		if s[end+1:] == "" {
			return true
		}
		host, port, ok = "v6", strings.TrimPrefix(s[end+1:], ":"), s[end+1] == ':'
		if !ok {
			return false
		}
	}
	if ok && (port == "" || len(port) > 5 || !among(port, "0123456789")) {
		return false
	}
	return host != "" && len(s) <= 255 && host[0] != '-' && host[0] != '.' && among(host, letter+".-")
}

func isPart(s string) bool {
	if s == "" || len(s) > 255 || !among(s, small+"._-") {
		return false
	}
	// Separators stand between letters or digits: one dot, one or two
	// underscores, any number of hyphens.
	between := 0
	for i := range len(s) {
		if strings.IndexByte("._-", s[i]) < 0 {
			between = 0
			continue
		}
		between++
		if i == 0 || i == len(s)-1 {
			return false
		}
		if between > 1 && (s[i] != s[i-1] || s[i] == '.' || s[i] == '_' && between > 2) {
			return false
		}
	}
	return true
}

// String gives the name that says the same to everybody; the store calls the
// image so.
func (r Reference) String() string {
	if r.Kind != "docker" {
		s := r.Kind + ":" + r.Path
		if r.Tag != "" {
			s += ":" + r.Tag
		}
		return s
	}
	s := r.Registry + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}
