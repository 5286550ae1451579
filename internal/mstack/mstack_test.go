package mstack

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nodes gives what a listing says: a name that ends in / is a directory, in @ a
// link to one, in % a block device, in | a FIFO, in ^ a link to a file, in + or * a
// directory of versions of directories or files; all else is a file.
func nodes(text string) (list []Node) {
	for _, name := range strings.Fields(text) {
		n := Node{Mode: unix.S_IFREG}
		switch name[len(name)-1] {
		case '/':
			n.Mode = unix.S_IFDIR
		case '@':
			n.Mode, n.Link = unix.S_IFDIR, true
		case '^':
			n.Link = true
		case '+':
			n.Mode, n.Versions = unix.S_IFDIR, true
		case '*':
			n.Versions = true
		case '%':
			n.Mode = unix.S_IFBLK
		case '|':
			n.Mode = unix.S_IFIFO
		default:
			name += " "
		}
		n.Name = name[:len(name)-1]
		list = append(list, n)
	}
	return list
}

func words(list []Entry) string {
	var w []string
	for _, e := range list {
		w = append(w, e.Name)
	}
	return strings.Join(w, " ")
}

func TestRead(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"rw/ layer@10/ layer@9.raw layer@2/", "layer@2 layer@9.raw layer@10 rw"},
		{"layer@1.2/ layer@1.10/ layer@1/ layer@1~rc/", "layer@1~rc layer@1 layer@1.2 layer@1.10"},
		{"robind@srv/ bind@srv-x/ bind@a/ root/ rw/", "rw root bind@a robind@srv bind@srv-x"},
		{"bind@srv-a/ bind@srv.a/ bind@srv/", "bind@srv bind@srv-a bind@srv.a"},
		{"layer@0@ layer@1^ robind@x@ .x/ .y|", "!layer@1 is a file whose name does not end in .raw"},
		{"layer@0@ layer@1.raw^ robind@x@ .x/ .y|", "layer@0 layer@1.raw robind@x"},
		{"layer@a@b/", "layer@a@b"},
		{"layer@1.raw/", "layer@1.raw"},
		{".x/", "!there is nothing in it"},
		{"layer@1/ layer@1.raw", "!nobody can tell which of layer@1 and layer@1.raw is the upper layer"},
		{"layer@1/ layer@01/", "!nobody can tell which of layer@01 and layer@1 is the upper layer"},
		{"rw/ rw.raw", "!rw and rw.raw are both the stack's rw"},
		{"root/ root.raw", "!root and root.raw are both the stack's root"},
		{"bind@srv/ robind@srv/", "!bind@srv and robind@srv are both for /srv"},
		{"bind@-/ robind@-/", "!bind@- and robind@- are both for /"},
		{"rw@", "!rw is a link, and the machine could write to what that leads to"},
		{"root@", "!root is a link, and the machine could write to what that leads to"},
		{"bind@srv@", "!bind@srv is a link, and the machine could write to what that leads to"},
		{"layer@2.v+ layer@1.raw.v* rw/", "layer@1.raw.v layer@2.v rw"},
		{"layer@2.v+ layer@2/", "!nobody can tell which of layer@2 and layer@2.v is the upper layer"},
		{"bind@srv.v+ robind@srv.raw.v*", "!bind@srv.v and robind@srv.raw.v are both for /srv"},
		{"x.v+", "!x.v has no meaning in a stack"},
		{"layer@2.raw%", "!layer@2.raw is a block device, which launch doesn't take as a part of a stack"},
		{"layer@2|", "!layer@2 is neither a directory nor a file"},
		{"layer@/", "!layer@ has no meaning in a stack"},
		{"layer/", "!layer has no meaning in a stack"},
		{"rw@x/", "!rw@x has no meaning in a stack"},
		{"tmpfs@srv/", "!tmpfs@srv has no meaning in a stack"},
		{"Root/", "!Root has no meaning in a stack"},
		{"bind@srv-/", `!bind@srv- names no place: "/srv/" is not in its simplest form`},
	} {
		list, err := Read(nodes(c.text))
		got := words(list)
		if err != nil {
			got = "!" + err.Error()
			var e *Error
			if !errors.As(err, &e) || e.Hint == "" {
				t.Errorf("%s: no cure: %v", c.text, err)
			}
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
	many := func(n int, form string) error {
		var list []Node
		for i := range n {
			list = append(list, Node{Name: fmt.Sprintf(form, i), Mode: unix.S_IFDIR})
		}
		_, err := Read(list)
		return err
	}
	for _, c := range []struct {
		n    int
		form string
		bad  bool
	}{{MostLayers, "layer@%d", false}, {MostLayers + 1, "layer@%d", true}, {Most, "bind@a%d", false}, {Most + 1, "bind@a%d", true}, {2 * Most, ".%d", true}} {
		if err := many(c.n, c.form); (err != nil) != c.bad {
			t.Errorf("%d of %s: %v", c.n, c.form, err)
		}
	}
}

func TestUnescape(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"-", "/"}, {"srv", "/srv"}, {"srv-www", "/srv/www"}, {`srv-a\x2db`, "/srv/a-b"}, {`\x2esrv`, "/.srv"}, {`a\x5cb`, `/a\b`}, {"srv.x", "/srv.x"}, {"..a", "/..a"},
		{"", ""}, {"--", ""}, {"-srv", ""}, {"srv-", ""}, {"srv--x", ""}, {"..", ""}, {".", ""}, {"srv-..-x", ""}, {`srv-\x2e\x2e`, ""}, {`a\x2f\x2fb`, ""}, {`a\x2fb`, "/a/b"},
		{`a\x00`, ""}, {`a\x0`, ""}, {`a\x`, ""}, {`a\`, ""}, {`a\y00`, ""}, {`a\xg0`, ""}, {`a\x+1`, ""},
	} {
		if got, err := Unescape(c.text); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

func (t Tree) String() string {
	name := func(e *Entry) string {
		if e == nil {
			return "-"
		}
		return e.Name
	}
	s := fmt.Sprintf("root=%s layers=%s upper=%s binds=%s", name(t.Root), words(t.Layers), name(t.Upper), words(t.Binds))
	if t.Usr {
		s += " usr"
	}
	if t.Writable() {
		s += " writable"
	}
	if t.Changes() {
		s += " changes"
	}
	return s
}

func TestArrange(t *testing.T) {
	for _, c := range []struct {
		text   string
		frozen bool
		want   string
	}{
		{"layer@1/", false, "root=layer@1 layers= upper=- binds="},
		{"layer@1/ layer@2/", false, "root=- layers=layer@1 layer@2 upper=- binds="},
		{"layer@1/ rw/", false, "root=- layers=layer@1 upper=rw binds= writable changes"},
		{"layer@1/ rw/ ", true, "root=- layers=layer@1 rw upper=- binds="},
		{"rw/", false, "root=rw layers= upper=- binds= writable changes"},
		{"root/", false, "root=root layers= upper=- binds= writable changes"},
		{"root/ layer@1/", false, "root=root layers=layer@1 upper=- binds= usr writable changes"},
		{"root/ rw/", false, "root=root layers= upper=rw binds= usr writable changes"},
		{"root/ rw/", true, "root=root layers= upper=rw binds= usr writable changes"},
		{"root/ rw/ layer@1/ bind@usr/", false, "root=root layers= upper=- binds=bind@usr writable changes"},
		{"rw/ layer@1/ bind@usr/", false, "root=- layers=layer@1 upper=rw binds=bind@usr writable changes"},
		{"robind@-/ rw/ layer@1/ root/ robind@srv/", false, "root=robind@- layers= upper=- binds=robind@srv"},
		{"robind@usr/", false, "root=- layers= upper=- binds=robind@usr writable"},
		{"bind@usr/", false, "root=- layers= upper=- binds=bind@usr writable changes"},
		{"layer@1/ robind@srv/", false, "root=layer@1 layers= upper=- binds=robind@srv"},
		{"layer@1/ bind@srv/", false, "root=layer@1 layers= upper=- binds=bind@srv changes"},
	} {
		list, err := Read(nodes(c.text))
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			list[i].Data = true
		}
		if got := Arrange(list, c.frozen).String(); got != c.want {
			t.Errorf("%s: got %s, want %s", c.text, got, c.want)
		}
	}
	list, _ := Read(nodes("layer@1/ rw/"))
	if got, want := Arrange(list, true).String(), "root=layer@1 layers= upper=- binds="; got != want {
		t.Errorf("nothing was ever written: got %s, want %s", got, want)
	}
}

// FuzzRead: whatever the names are, what is read is in order, has one meaning, and
// leads nowhere else.
func FuzzRead(f *testing.F) {
	f.Add("layer@1\nrw\nbind@srv-x\nrobind@\\x2esrv\nroot")
	f.Add("layer@1\nlayer@01\nlayer@1.raw")
	f.Add("bind@-\nbind@srv-..-etc\nrobind@a\\x2fb")
	f.Fuzz(func(t *testing.T, text string) {
		var in []Node
		for name := range strings.SplitSeq(text, "\n") {
			if name != "" && !strings.ContainsAny(name, "/\x00") {
				n := Node{Name: name, Mode: unix.S_IFDIR}
				if strings.HasSuffix(name, ".raw") {
					n.Mode = unix.S_IFREG
				}
				in = append(in, n)
			}
		}
		list, err := Read(in)
		if err != nil {
			return
		}
		places := map[string]bool{}
		var last Entry
		for _, e := range list {
			if e.Use == Layer && last.Use == Layer && version(last.Key, e.Key) >= 0 {
				t.Errorf("%s after %s", e.Name, last.Name)
			}
			last = e
			if e.Where == "" {
				continue
			}
			if !path.IsAbs(e.Where) || path.Clean(e.Where) != e.Where || strings.Contains(e.Where+"/", "/../") || strings.Contains(e.Where, "\x00") || places[e.Where] {
				t.Errorf("%q is for %q", e.Name, e.Where)
			}
			places[e.Where] = true
		}
		for _, frozen := range []bool{false, true} {
			tree := Arrange(list, frozen)
			if frozen && tree.Upper != nil && len(tree.Layers) > 0 {
				t.Errorf("written to: %s", tree)
			}
		}
	})
}
