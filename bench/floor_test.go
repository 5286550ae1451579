package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// sees prints what a machine is made of: its users, namespaces, mounts and what is in
// them, and what its processes may do.
const sees = `cat /proc/self/uid_map
grep '^Seccomp_filters\|^Groups' /proc/self/status
for n in cgroup ipc mnt net pid user uts; do echo "$n $(stat -L -c %i /proc/self/ns/$n)"; done
cut -d' ' -f5 /proc/self/mountinfo
ls -ln /dev /dev/net /dev/char /run/host /run/host/inaccessible`

// TestFloor: the floor makes what launch makes, or launch would be held to the time
// of something less.
func TestFloor(t *testing.T) {
	tree.NeedRoot(t, "gcc")
	dir := t.TempDir()
	floor := filepath.Join(dir, "floor")
	if err := compile(floorsShare+filters()+floorSource, floor); err != nil {
		t.Fatal(err)
	}
	for name, users := range map[string]struct{ floor, launch []string }{
		"host's users": {nil, nil},
		"users":        {[]string{"-U", strconv.Itoa(shift)}, []string{"--private-users=" + strconv.Itoa(shift) + ":65536", "--private-users-ownership=off"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := stage.New(t, stage.Unified)
			look := func(argv ...string) []string {
				root := tree.Copy(t, tree.Tiny(t))
				if users.floor != nil {
					if out, err := exec.Command("chown", "-hR", strconv.Itoa(shift)+":"+strconv.Itoa(shift), root).CombinedOutput(); err != nil {
						t.Fatalf("chown: %v\n%s", err, out)
					}
				}
				r := s.Start(stage.Environ(), append(argv, "-D", root, "/bin/sh", "-c", sees)...)
				if code, err := r.Code(time.Minute); err != nil || code != 0 {
					t.Fatalf("%q: exit status %d, %v\n%s", argv, code, err, r.Out)
				}
				return machine(r.Out.String(), s.Namespaces())
			}
			got := look(append([]string{floor}, users.floor...)...)
			want := look(append([]string{stage.Launch(t).Path, "--quiet", "--console=pipe", "--register=no", "--keep-unit", "--machine=floor"}, users.launch...)...)
			if len(got) < 60 || !slices.Equal(got, want) {
				t.Errorf("the floor's machine is\n\t%s\nlaunch's is\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
			}
		})
	}
}

// machine makes what two machines print comparable: a namespace is the host's or not,
// and nothing has a size or a time.
func machine(text string, host map[string]string) (lines []string) {
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		switch {
		case len(f) == 2 && host[f[0]] != "":
			shared := strings.Contains(host[f[0]], "["+f[1]+"]")
			lines = append(lines, f[0]+" namespace of the host's: "+strconv.FormatBool(shared))
		case len(f) > 8 && strings.ContainsAny(l[:1], "-bcdlps"):
			what := []string{f[0], f[2], f[3]}
			if name := f[8:]; l[0] == 'b' || l[0] == 'c' {
				what = append(append(what, f[4]+f[5]), name[1:]...)
			} else {
				what = append(what, name...)
			}
			lines = append(lines, strings.Join(what, " "))
		case len(f) > 0 && f[0] != "total":
			lines = append(lines, strings.Join(f, " "))
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}
