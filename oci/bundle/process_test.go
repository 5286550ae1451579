package bundle

import (
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"launch/settings"
)

func decoded(t *testing.T, text string) *specs.Spec {
	t.Helper()
	spec, _, err := Decode(File, text)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestExec: a process of its own is read as the container's, and gets from the
// container what no process says.
func TestExec(t *testing.T) {
	container := decoded(t, `{"ociVersion":"1.0.0","linux":{"personality":{"domain":"LINUX32"},"memoryPolicy":{"mode":"MPOL_BIND","nodes":"1"},
		"uidMappings":[{"containerID":0,"hostID":0,"size":1}],"namespaces":[{"type":"user"}]}}`)
	p, warnings, err := DecodeProcess("p.json", `{"args":["a","b"],"cwd":"/x","user":{"uid":5,"gid":6,"umask":0},"noNewPrivileges":true,
		"execCPUAffinity":{"initial":"0-1","final":"1"},"rlimits":[{"type":"RLIMIT_CORE","soft":1,"hard":2}],"terminal":true,"consoleSize":{"height":3,"width":4}}`)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	got, warnings, err := ExecOf("p.json", p, container)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	want := settings.Exec{
		Words: []string{"a", "b"}, Dir: "/x", NoNewPrivileges: true, Rlimits: []settings.Rlimit{{Name: "CORE", Soft: 1, Hard: 2}},
		Process: &settings.Process{
			Terminal: true, Rows: 3, Columns: 4, IDs: settings.IDs{UID: 5, GID: 6}, Persona: 8, HasPersona: true,
			InitialCPUs: settings.CPUs{0, 1}, FinalCPUs: settings.CPUs{1}, Memory: &settings.MemoryPolicy{Mode: 2, Nodes: []uint64{2}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	p.Cwd = "x"
	for name, pointer := range map[string]string{"p.json": "/cwd", File: "/process/cwd"} {
		_, _, err = ExecOf(name, p, container)
		if e, ok := err.(*settings.Error); !ok || e.Origin.Key != pointer || e.Origin.Path != name {
			t.Errorf("%s: %+v", name, err)
		}
	}
	if _, _, err := ExecOf("p.json", nil, container); err == nil {
		t.Error("no process at all was taken")
	}
}

// TestOverridden: what is told is in the process, the rest is the container's,
// which stays as it was.
func TestOverridden(t *testing.T) {
	const text = `{"process":{"args":["sh"],"cwd":"/home","env":["A=1"],"terminal":true,"consoleSize":{"height":1,"width":2},
		"user":{"uid":1,"gid":2,"additionalGids":[3]},"capabilities":{"bounding":["CAP_KILL"],"ambient":["CAP_KILL"]},"apparmorProfile":"p","oomScoreAdj":5}}`
	container := decoded(t, text).Process
	same, err := Overridden(container, Override{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if same.Cwd != "/home" || same.Terminal || same.ConsoleSize != nil || same.User.UID != 1 || len(same.Env) != 1 || same.ApparmorProfile != "p" || *same.OOMScoreAdj != 5 {
		t.Errorf("%+v", same)
	}
	all, err := Overridden(container, Override{
		Args: []string{"x", "y"}, Cwd: "/a/../b", Env: []string{"A=2"}, Terminal: true, User: "7:8", Groups: []uint32{9},
		NoNewPrivs: new(true), Caps: []string{"CAP_CHOWN"}, AppArmor: "q", SELinux: "l",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := specs.Process{
		Args: []string{"x", "y"}, Cwd: "/b", Env: []string{"A=1", "A=2"}, Terminal: true,
		User: specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{3, 9}}, NoNewPrivileges: true, ApparmorProfile: "q", SelinuxLabel: "l",
		OOMScoreAdj: container.OOMScoreAdj, Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_KILL", "CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_KILL"},
		},
	}
	if !reflect.DeepEqual(*all, want) {
		t.Errorf("got  %+v\nwant %+v", *all, want)
	}
	if again := decoded(t, text).Process; !reflect.DeepEqual(container, again) {
		t.Error("the container's own process has changed")
	}
	if p, err := Overridden(nil, Override{Args: []string{"x"}, User: "12"}); err != nil || p.Cwd != "/" || p.User.UID != 12 || p.User.GID != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, user := range []string{"root", "-1", "1:", ":1", "4294967296", "+1", "1:2:3"} {
		if _, err := Overridden(container, Override{User: user}); err == nil || !strings.Contains(err.Error(), user) {
			t.Errorf("user %q: %v", user, err)
		}
	}
}

// TestResources: resources alone are held as those of a bundle are.
func TestResources(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                               "",
		`{"cpu":{"cpus":"0-3"}}`:           "",
		`{"cpu":{"cpus":"x"}}`:             "/cpu/cpus",
		`{"memory":{"limit":10,"swap":9}}`: "/memory/swap",
		`{"devices":[{"access":"rw"},{"type":"z"}]}`: "/devices/1/type",
	} {
		res, _, err := DecodeResources("-", text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = CheckResources("-", res)
		switch e, ok := err.(*settings.Error); {
		case want == "" && err != nil, want != "" && (!ok || e.Origin.Key != want):
			t.Errorf("%s: %+v, want a problem at %q", text, err, want)
		}
	}
}
