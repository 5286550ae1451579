package layer

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzUnpack: whatever a layer holds, what is beside its root stays as it is.
func FuzzUnpack(f *testing.F) {
	g := prepare(f)
	for _, list := range [][]entry{
		{{name: "d", kind: '5'}, {name: "d/.wh.x"}, {name: "d/.wh..wh..opq"}, {name: "d/x", data: "x"}},
		{{name: "a", kind: '2', link: "../canary"}, {name: "a/secret", data: "x"}},
		{{name: "f", data: "f"}, {name: "l", kind: '1', link: "f"}, {name: "n", kind: '3', major: 1, min: 3}, {name: "p", kind: '6'}},
		{{name: "x", pax: map[string]string{"SCHILY.xattr.user.a": "b", "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "y", "GNU.sparse.realsize": "9"}, data: "1\n0\n1\n"}},
	} {
		f.Add(layerOf(list...))
		f.Add(pack(f, "gzip", bytes.NewReader(layerOf(list...))))
		f.Add(pack(f, "zstd", bytes.NewReader(layerOf(list...))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := g.unpack(t, b, int64(len(b)), Limits{Size: 8 << 20, Entries: 1000})
		if err == nil && len(r.DiffID) != 71 {
			t.Errorf("the report is %+v", r)
		}
		if after := g.look(t); after != g.before {
			t.Errorf("what is beside the root has changed:\n%s\nwas\n%s", after, g.before)
		}
	})
}

// FuzzEntries: the same with archives that can be read. A line is an entry: a
// character for its type, its name and, behind a `>`, where it leads.
func FuzzEntries(f *testing.F) {
	g := prepare(f)
	for _, text := range []string{
		"5d\n0d/.wh.x\n0d/.wh..wh..opq\n0d/x", "2a>../canary\n0a/secret", "2a>../canary\n5a\n0a/.wh.secret", "0f\n1l>f\n0.wh.f\n0f",
		"5d\n2d>../canary\n1h>d/secret", "2.>../canary", "5./\n0../canary/secret", "0/canary/secret", "0.wh.\n0.wh..\n0.wh...", "3n\n6p\n0.wh.n",
		"5a/b/c\n0a/.wh.b\n0a/b/c/d\n5a/b", "5.wh.d\n0.wh.d/x", "2l>l\n0l/x", "0f\n5f\n0f/x\n2f>x",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var list []entry
		for line := range strings.SplitSeq(text, "\n") {
			if line == "" || strings.IndexByte(line, 0) >= 0 || len(list) == 50 {
				continue
			}
			name, link, _ := strings.Cut(line[1:], ">")
			e := entry{name: name, kind: line[0], link: link}
			if e.kind == '0' || e.kind == '7' {
				e.data = "data"
			}
			list = append(list, e)
		}
		b := layerOf(list...)
		r, err := g.unpack(t, b, int64(len(b)), Limits{Size: 8 << 20, Entries: 1000})
		if err == nil && r.Entries > len(list) {
			t.Errorf("the report is %+v", r)
		}
		if after := g.look(t); after != g.before {
			t.Errorf("what is beside the root has changed:\n%s\nwas\n%s", after, g.before)
		}
	})
}
