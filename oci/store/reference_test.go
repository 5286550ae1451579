package store

import (
	"path"
	"strings"
	"testing"
)

func TestReference(t *testing.T) {
	const hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for text, want := range map[string]string{
		"alpine":                          "docker.io/library/alpine:latest",
		"docker://alpine:3":               "docker.io/library/alpine:3",
		"user/box":                        "docker.io/user/box:latest",
		"quay.io/a/b/c:v1":                "quay.io/a/b/c:v1",
		"localhost/x":                     "localhost/x:latest",
		"localhost:5000/x":                "localhost:5000/x:latest",
		"[::1]:5000/x:t":                  "[::1]:5000/x:t",
		"host:80/a@sha256:" + hex:         "host:80/a@sha256:" + hex,
		"a:v1@sha256:" + hex:              "docker.io/library/a:v1@sha256:" + hex,
		"a/b__c.d-e--f":                   "docker.io/a/b__c.d-e--f:latest",
		"oci:dir":                         "oci:/srv/dir",
		"oci:/abs/../dir:v1":              "oci:/dir:v1",
		"oci-archive:x.tar":               "oci-archive:/srv/x.tar",
		"docker-archive:x.tar:a/b:latest": "docker-archive:/srv/x.tar:a/b:latest",
	} {
		if r, err := ParseReference(text, "/srv"); err != nil || r.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, r.String(), err, want)
		}
	}
	for _, text := range []string{
		"", "A", "a/B", "a b", "-a", "a/", "/a", "a//b", "a..b", "a/../b", "a:", "a:-x", "a:x/y:", "a@", "a@md5:00", "a@sha256:" + hex[1:], "a@sha256:" + strings.ToUpper(hex),
		"host.:x/a", "host:port/a", "host:123456/a", "[::1/a", "[zz]/a", "a\nb", "oci:", "oci-archive::x", "_a", "a_", "a___b", "a._b", "ftp://a", strings.Repeat("a", 300), strings.Repeat("a/", 3000),
	} {
		if r, err := ParseReference(text, "/srv"); err == nil {
			t.Errorf("%q is taken for %q", text, r)
		}
	}
}

// FuzzReference: what is read is read again from what it prints, and can't lead
// anywhere by its parts.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"alpine:3", "docker://h:1/a/b@sha256:" + strings.Repeat("a", 64), "oci:d:t", "docker-archive:/x:a:b", "[::1]:1/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseReference(text, "/srv")
		if err != nil {
			return
		}
		again, err := ParseReference(r.String(), "/")
		if err != nil || again != r {
			t.Errorf("%q is %+v, which prints as %q and reads as %+v, %v", text, r, r, again, err)
		}
		if r.Kind == "docker" {
			if strings.Contains(r.Repository, "..") || path.Clean("/"+r.Repository) != "/"+r.Repository || strings.ContainsAny(r.Registry+r.Repository+r.Tag, " \n?#%@\\") {
				t.Errorf("%q is %+v", text, r)
			}
		} else if !path.IsAbs(r.Path) || path.Clean(r.Path) != r.Path {
			t.Errorf("%q has the path %q", text, r.Path)
		}
	})
}
