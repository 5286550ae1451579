package layer

import (
	"bytes"
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
