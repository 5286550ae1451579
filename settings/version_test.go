package settings

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestVersionsOf(t *testing.T) {
	for _, c := range []struct {
		path  string
		image bool
		want  Versions
	}{
		{"/srv/web.v", false, Versions{Dir: "/srv/web.v", Name: "web"}},
		{"/srv/web.raw.v", false, Versions{Dir: "/srv/web.raw.v", Name: "web.raw"}},
		{"/srv/web.raw.v", true, Versions{Dir: "/srv/web.raw.v", Name: "web", Suffix: ".raw", Image: true}},
		{"/srv/web.v", true, Versions{Dir: "/srv/web.v", Name: "web", Suffix: ".raw", Image: true}},
		{"/srv/web.img.v", true, Versions{Dir: "/srv/web.img.v", Name: "web.img", Suffix: ".raw", Image: true}},
		{"/srv/x.v/web___", false, Versions{Dir: "/srv/x.v", Name: "web", Named: true}},
		{"/srv/x.v/web___.img", true, Versions{Dir: "/srv/x.v", Name: "web", Suffix: ".img", Image: true, Named: true}},
		{"/srv/x.v/web___", true, Versions{Dir: "/srv/x.v", Name: "web", Image: true, Named: true}},
		{"/srv/x.v/a___b___.tree", false, Versions{Dir: "/srv/x.v", Name: "a___b", Suffix: ".tree", Named: true}},
		{"/srv/x.v/a____", false, Versions{Dir: "/srv/x.v", Name: "a_", Named: true}},
		{"/srv/x.v/y.v", false, Versions{Dir: "/srv/x.v/y.v", Name: "y"}},
	} {
		if got, ok := VersionsOf(c.path, c.image); !ok || got != c.want {
			t.Errorf("%s: %+v %v", c.path, got, ok)
		}
	}
	for _, plain := range []string{"/", "/srv/web", "/srv/.v", "/srv/web.vx", "/srv/x/web___", "/srv/x.v/web_1", "/srv/x.v/web__", "/srv/x.v/___", "/srv/x.v/web___/usr"} {
		if got, ok := VersionsOf(plain, false); ok {
			t.Errorf("%s: %+v", plain, got)
		}
	}
	if got, ok := VersionsOf("/srv/.raw.v", true); ok {
		t.Errorf("%+v", got)
	}
}

func TestParseVersion(t *testing.T) {
	v := Versions{Dir: "/srv/m.v", Name: "m", Suffix: ".raw"}
	for name, want := range map[string]Version{
		"m_5.raw":                      {Version: "5", Left: untold, Done: untold},
		"m_5.raw.raw":                  {Version: "5.raw", Left: untold, Done: untold},
		"m_5~rc1^2-3.4.raw":            {Version: "5~rc1^2-3.4", Left: untold, Done: untold},
		"m_5_x86-64.raw":               {Version: "5", Arch: "x86-64", Left: untold, Done: untold},
		"m_5_.raw":                     {Version: "5", Left: untold, Done: untold},
		"m_5_other.raw":                {Version: "5", Arch: "other", Left: untold, Done: untold},
		"m_5+3.raw":                    {Version: "5", Left: 3},
		"m_5+03-01.raw":                {Version: "5", Left: 3, Done: 1},
		"m_5+0-9.raw":                  {Version: "5", Done: 9},
		"m_5_arm64+3-1.raw":            {Version: "5", Arch: "arm64", Left: 3, Done: 1},
		"m_5_arm64+3-x.raw":            {Version: "5", Arch: "arm64+3-x", Left: untold, Done: untold},
		"m_5_a+b+1.raw":                {Version: "5", Arch: "a+b", Left: 1},
		"m_5+4294967295.raw":           {Version: "5", Left: untold},
		"m_x86-64.raw":                 {Version: "x86-64", Left: untold, Done: untold},
		"m_..raw":                      {Version: ".", Left: untold, Done: untold},
		"m_5+00000000000000000003.raw": {Version: "5", Left: 3},
	} {
		want.File = name
		if got, ok := v.Parse(name); !ok || got != want {
			t.Errorf("%s: %+v %v", name, got, ok)
		}
	}
	for _, name := range []string{
		"", "m", "m.raw", "m_.raw", "m_raw", "m5.raw", "x_5.raw", "M_5.raw", "m_5", "m_5.img", "m_5.raw+3", "m__x86-64.raw", "m_+3.raw", "m_5_x86-64_b.raw",
		"m_5+.raw", "m_5+x.raw", "m_5+3-.raw", "m_5+-1.raw", "m_5++1.raw", "m_5+1+2.raw", "m_5+4294967296.raw", "m_5+0x3.raw", "m_5+1-+2.raw", "m_5,3.raw", "m_5:3.raw", "m_ä.raw", "m_5 .raw", "m_5_a\x1b.raw", "m_5_a\n.raw",
	} {
		if got, ok := v.Parse(name); ok {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

// TestChoose: the first of each list is taken, however the list is turned.
func TestChoose(t *testing.T) {
	v := Versions{Dir: "/srv/m.v", Name: "m"}
	for _, names := range []string{
		"m_10 m_9 m_1",
		"m_5 m_5~rc1",
		"m_5^1 m_5",
		"m_5.0 m_5",
		"m_5_x86-64 m_5_x86 m_5_other m_5",
		"m_6_x86 m_5_x86-64",
		"m_5 m_6+0 m_5+0",
		"m_5+1 m_6+0",
		"m_6+1 m_5",
		"m_6+0-3 m_5+0-1",
		"m_5 m_5+3",
		"m_5+4 m_5+3",
		"m_5+3 m_5+3-1 m_5+3-2",
		"m_5_x86-64+1 m_5_x86+3",
		"m_5_x86 m_5_x86-64+0",
		"m_5_x86-64 m_6_arm64 m_5_x86",
		"m_5 m_05",
		"m_5+4294967295-7 m_5_other",
	} {
		list := strings.Fields(names)
		for range list {
			var named []Named
			for _, n := range list {
				named = append(named, Named{n, KindDir})
			}
			got, why, err := v.Choose(named, "amd64")
			if want := strings.Fields(names)[0]; err != nil || got.File != want || !strings.HasPrefix(why, want+" ") {
				t.Errorf("%v: %q %v (%s)", list, got.File, err, why)
			}
			list = append(list[1:], list[0])
		}
	}
	arm := []Named{{"m_5_arm64", KindDir}, {"m_5_arm", KindDir}, {"m_6_x86-64", KindDir}}
	if got, why, _ := v.Choose(arm, "arm64"); got.File != "m_5_arm64" || why != "m_5_arm64 is the newest of 2; m_6_x86-64 is for x86-64" {
		t.Errorf("%q: %s", got.File, why)
	}
}

// TestChooseWhy has the sentences for each reason.
func TestChooseWhy(t *testing.T) {
	dirs, images := Versions{Dir: "/srv/m.v", Name: "m"}, Versions{Dir: "/srv/m.v", Name: "m", Image: true}
	for _, c := range []struct {
		v    Versions
		list []Named
		want string
	}{
		{dirs, nil, "/srv/m.v has no directory called m_VERSION"},
		{images, nil, "/srv/m.v has no disk image called m_VERSION"},
		{dirs, []Named{{"x", KindDir}}, "/srv/m.v has no directory called m_VERSION"},
		{dirs, []Named{{"m_1", KindFile}, {"m_2_arm64", KindDir}, {"m_3", KindOther}}, "/srv/m.v has no directory called m_VERSION that can be used: m_3 is neither a file nor a directory, m_2_arm64 is for arm64, m_1 is a file"},
		{images, []Named{{"m_1", KindDir}}, "/srv/m.v has no disk image called m_VERSION that can be used: m_1 is a directory"},
		{images, []Named{{"m_1", KindBlock}, {"m_2", KindFile}, {"m_3", KindOther}}, "m_2 is the newest of 2; m_3 is neither a file nor a directory"},
		{dirs, []Named{{"m_1", KindDir}}, "m_1 is the only version"},
		{dirs, []Named{{"m_1+0", KindDir}}, "m_1+0 is the only version, though it has no tries left"},
		{dirs, []Named{{"m_1", KindDir}, {"m_2+0-3", KindDir}, {"m_0+0", KindDir}, {"m_0_arm64", KindDir}}, "m_1 is the newest of 3; m_2+0-3 has no tries left"},
		{dirs, []Named{{"m_1", KindDir}, {"m_2", KindFile}, {"m_3", KindFile}, {"m_4", KindFile}, {"m_5", KindFile}, {"m_6", KindFile}}, "m_1 is the only version; m_6 is a file; m_5 is a file; m_4 is a file; 2 more don't fit"},
		{dirs, []Named{{"m_1", KindNowhere}, {"m_2", KindDir}}, "m_2 is the newest of 2"},
	} {
		if p, err := c.v.Pick(c.list, "amd64"); err != nil || p.Why != c.want {
			t.Errorf("%v: %q %v", c.list, p.Why, err)
		}
	}
	if _, err := dirs.Pick([]Named{{"m_1", KindDir}, {"m_2", KindNowhere}}, "amd64"); err == nil || err.Error() != "/srv/m.v/m_2 is a link that leads nowhere" {
		t.Error(err)
	}
}

// TestPick follows what is told to the settings and the trace.
func TestPick(t *testing.T) {
	around := Surroundings{
		Place: Place{Cwd: "/srv/web"}, Processor: "amd64", Suffix: "0123456789abcdef",
		Images: func(name string) (Where, bool) {
			if name == "none" {
				return Where{Missed: "/etc/machines/none.v has no directory called none_VERSION"}, false
			}
			p := Picked{Asked: "/etc/machines/web.v", Path: "/etc/machines/web.v/web_3", Why: "web_3 is the only version"}
			return Where{Path: p.Path, Picked: p}, true
		},
		Versions: func(v Versions) (Listing, error) {
			switch v.Dir {
			case "/srv/m.v", "/srv/d.v/..v":
				return Listing{Names: []Named{{"m_1", KindDir}, {"m_2", KindDir}, {"m_0.raw", KindFile}, {"x_4", KindDir}}}, nil
			case "/srv/tree.v":
				return Listing{Tree: true}, nil
			case "/srv/empty.v":
				return Listing{}, nil
			case "/srv/odd.v":
				return Listing{Names: []Named{{"odd_1", KindNowhere}}}, nil
			case "/srv/shut.v":
				return Listing{}, errors.New("open it: permission denied")
			}
			return Listing{Missing: true}, nil
		},
	}
	for _, c := range []struct{ words, machine, directory, file, template, why string }{
		{"directory=/srv/m.v", "m2", "/srv/m.v/m_2", "", "", "m_2 is the newest of 2"},
		{"directory=/srv/m.v/", "m2", "/srv/m.v/m_2", "", "", "m_2 is the newest of 2"},
		{"directory=../m.v machine=m", "m", "/srv/m.v/m_2", "", "", "m_2 is the newest of 2"},
		{"directory=/srv/m.v/x___", "x4", "/srv/m.v/x_4", "", "", "x_4 is the only version"},
		{"directory=/srv/m.v/m_1", "m1", "/srv/m.v/m_1", "", "", ""},
		{"directory=/srv/m.v ephemeral=yes", "m2-0123456789abcdef", "/srv/m.v/m_2", "", "", "m_2 is the newest of 2"},
		{"image=/srv/m.v", "m0", "", "/srv/m.v/m_0.raw", "", "m_0.raw is the only version"},
		{"image=/srv/m.v/m___.raw", "m0", "", "/srv/m.v/m_0.raw", "", "m_0.raw is the only version"},
		{"machine=web", "web", "/etc/machines/web.v/web_3", "", "", "web_3 is the only version"},
		{"template=/srv/m.v directory=/srv/new", "new", "/srv/new", "", "/srv/m.v/m_2", "m_2 is the newest of 2"},
		{"template=/srv/m.v machine=new.v", "new.v", "/var/lib/machines/new.v", "", "/srv/m.v/m_2", "m_2 is the newest of 2"},
		{"template=/srv/m.v ephemeral=yes", "m2-0123456789abcdef", "/srv/m.v/m_2", "", "", "m_2 is the newest of 2"},
		{"template=/srv/t directory=/srv/new.v", "new.v", "/srv/new.v", "", "/srv/t", ""},
		{"directory=/srv/tree.v", "tree.v", "/srv/tree.v", "", "", ""},
		{"directory=/srv/none.v", "none.v", "/srv/none.v", "", "", ""},
		{"directory=/srv/none.v/x___", "x", "/srv/none.v/x___", "", "", ""},
	} {
		said := say(t, strings.Fields(c.words)...)
		s, trace, _, err := Resolve(said, around)
		if err != nil || s.Machine != c.machine || s.Image.Directory != c.directory || s.Image.File != c.file || s.Image.Template != c.template {
			t.Errorf("%s: %q %q %q %q %v", c.words, s.Machine, s.Image.Directory, s.Image.File, s.Image.Template, err)
			continue
		}
		var why []string
		for _, e := range trace {
			if e.Why != "" {
				why = append(why, e.Why)
			}
		}
		if got := strings.Join(why, " and "); got != c.why {
			t.Errorf("%s: the trace says %q", c.words, got)
		}
		if tree, template := s.Image.Version.Why, s.Image.TemplateVersion.Why; tree+template != c.why {
			t.Errorf("%s: %q %q", c.words, tree, template)
		}
		// What is said anew stands for all versions again.
		list, _ := Say(s)
		for _, l := range list {
			if o := l.Option.Name; (o == "directory" || o == "image" || o == "template") && c.why != "" && strings.Contains(l.Flag, "_") && !strings.Contains(l.Flag, "___") {
				t.Errorf("%s: says %s=%s", c.words, o, l.Flag)
			} else if o == "machine" && l.Flag == "m2" {
				t.Errorf("%s: says the version's name", c.words)
			}
		}
	}
	for words, want := range map[string]string{
		"directory=/srv/empty.v":             "cannot find a version: /srv/empty.v has no directory called empty_VERSION",
		"image=/srv/tree.v":                  "cannot find a version: /srv/tree.v has no disk image called tree_VERSION.raw",
		"directory=/srv/tree.v/t___":         "cannot find a version: /srv/tree.v has no directory called t_VERSION",
		"directory=/srv/odd.v":               "cannot take the newest version: /srv/odd.v/odd_1 is a link that leads nowhere",
		"directory=/srv/shut.v":              "cannot choose a version in /srv/shut.v: open it: permission denied",
		"template=/srv/empty.v directory=/n": "cannot find a version: /srv/empty.v has no directory called empty_VERSION",
		"machine=none":                       `cannot find a directory, disk image or mount stack for machine "none": /etc/machines/none.v has no directory called none_VERSION`,
	} {
		_, _, _, err := Resolve(say(t, strings.Fields(words)...), around)
		var bad *Error
		if !errors.As(err, &bad) || bad.What != want || bad.Origin.Path == "" || bad.Value == "" || bad.Hint == "" {
			t.Errorf("%s: %#v", words, err)
		}
	}
}

// FuzzChoose: of what fits, nothing is better than what is taken, whatever the
// order; and nothing else is taken.
func FuzzChoose(f *testing.F) {
	f.Add("m_1 m_2+3 m_2+0-1 m_3_x86 m_3_arm64", "m", "", uint8(0))
	f.Add("m_1.raw m_2~.raw m_2^_x86-64+4294967295.raw", "m", ".raw", uint8(5))
	f.Fuzz(func(t *testing.T, text, name, suffix string, kinds uint8) {
		v := Versions{Dir: "/d.v", Name: name, Suffix: suffix, Image: kinds&1 != 0}
		var list []Named
		names := strings.Fields(text)
		slices.Sort(names) // a directory has each name once
		for i, n := range slices.Compact(names) {
			list = append(list, Named{n, [...]Kind{KindDir, KindFile, KindNowhere, KindOther}[(int(kinds)>>1+i)%4]})
		}
		const processor = "amd64"
		got, why, err := v.Choose(list, processor)
		if err != nil || why == "" && got.File != "" {
			if got.File != "" {
				t.Fatalf("%q beside %v (%q)", got.File, err, why)
			}
			return
		}
		back := slices.Clone(list)
		slices.Reverse(back)
		if again, _, err := v.Choose(back, processor); err != nil || again.File != got.File {
			t.Fatalf("%q, and %q the other way round, %v", got.File, again.File, err)
		}
		for _, n := range list {
			p, ok := v.Parse(n.Name)
			if !ok || !v.fits(n.Kind) || p.runs(processor) < 0 {
				continue
			}
			if got.File == "" || order(p, got, processor) > 0 {
				t.Fatalf("%q is better than %q", p.File, got.File)
			}
			if order(p, got, processor) != -order(got, p, processor) {
				t.Fatalf("no order of %q and %q", p.File, got.File)
			}
		}
	})
}
