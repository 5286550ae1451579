package probe

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"launch/settings"
)

// TestFinderList: each name is what it leads to, and nothing is opened for
// reading or waited for.
func TestFinderList(t *testing.T) {
	top := t.TempDir()
	dir := top + "/m.v"
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	try(os.MkdirAll(dir+"/m_1", 0o755))
	try(os.WriteFile(dir+"/m_2", nil, 0o600))
	try(syscall.Mkfifo(dir+"/m_3", 0o600))
	try(os.WriteFile(dir+"/x_1", nil, 0o600))
	try(os.WriteFile(dir+"/m", nil, 0o600))
	try(os.WriteFile(dir+"/m_a\nb_c", nil, 0o600))
	for name, to := range map[string]string{
		"m_4": "m_1", "m_5": dir + "/m_2", "m_6": "nix", "m_7": "m_7", "m_8": "m_2/x", "m_9": "/dev/null", "m_10": "m_3", "m_11": "../../../../../../..",
		"m_12": "/proc/self/root", "m_13": "/proc/self/fd/0",
	} {
		try(os.Symlink(to, dir+"/"+name))
	}
	want := map[string]settings.Kind{
		"m_1": settings.KindDir, "m_2": settings.KindFile, "m_3": settings.KindOther, "m_4": settings.KindDir, "m_5": settings.KindFile, "m_6": settings.KindNowhere,
		"m_7": settings.KindNowhere, "m_8": settings.KindNowhere, "m_9": settings.KindOther, "m_10": settings.KindOther, "m_11": settings.KindDir,
		"m_12": settings.KindNowhere, "m_13": settings.KindNowhere,
	}
	v, ok := settings.VersionsOf(dir, false)
	if !ok {
		t.Fatal("no path with versions")
	}
	var f Finder
	l, err := f.Versions(v)
	if err != nil || l.Missing || l.Tree || len(l.Names) != len(want) {
		t.Errorf("%+v %v", l, err)
	}
	for _, n := range l.Names {
		if want[n.Name] != n.Kind {
			t.Errorf("%q is %q", n.Name, n.Kind)
		}
	}
	// Who asks again gets the same.
	try(os.Mkdir(dir+"/m_99", 0o755))
	try(os.Mkdir(dir+"/usr", 0o755))
	if again, err := f.Versions(v); err != nil || !slices.Equal(again.Names, l.Names) {
		t.Errorf("%+v %v", again, err)
	}
	if l, err := new(Finder).Versions(v); err != nil || len(l.Names) != len(want)+1 || !l.Tree {
		t.Errorf("%+v %v", l, err)
	}
	for _, none := range []string{"/none.v", "/m.v/m_2.v"} {
		if none != "/none.v" {
			try(os.WriteFile(top+none, nil, 0o600))
		}
		v, _ := settings.VersionsOf(top+none, false)
		if l, err := f.Versions(v); err != nil || !l.Missing {
			t.Errorf("%s: %+v %v", none, l, err)
		}
	}
}

// TestFinderMany: a directory that somebody fills is an error, and no memory.
func TestFinderMany(t *testing.T) {
	dir := t.TempDir() + "/m.v"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	make := func(prefix string, n int) {
		t.Helper()
		for i := range n {
			if err := syscall.Mknod(filepath.Join(dir, prefix+strconv.Itoa(i)), syscall.S_IFREG|0o600, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	v, _ := settings.VersionsOf(dir, false)
	const names, versions = 3000, 1000 // more than what is read at once
	make("m_", versions)
	if l, err := list(v, names, versions); err != nil || len(l.Names) != versions {
		t.Errorf("%d names: %v", len(l.Names), err)
	}
	make("m_1.", 1)
	if _, err := list(v, names, versions); err == nil || !strings.Contains(err.Error(), "more than 1000 versions") {
		t.Error(err)
	}
	make("x", names-versions-3) // and "." and ".."
	if l, err := list(v, names, versions+1); err != nil || len(l.Names) != versions+1 {
		t.Errorf("%d names: %v", len(l.Names), err)
	}
	make("y", 1)
	if _, err := list(v, names, versions+1); err == nil || !strings.Contains(err.Error(), "more than 3000 names") {
		t.Error(err)
	}
}
