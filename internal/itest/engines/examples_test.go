package engines

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// example gives the path of a drop-in.
func example(t *testing.T, name string) string {
	t.Helper()
	p, err := filepath.Abs("../../../examples/" + name)
	if err == nil {
		_, err = os.Stat(p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// program skips where a program is missing.
func program(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return p
}

// TestExamplePodman lets podman say which runtime it would use.
func TestExamplePodman(t *testing.T) {
	podman := program(t, "podman")
	// A runtime at the place that the drop-in names, in a copy of it.
	// Podman wants no more than 50 characters.
	dir, err := os.MkdirTemp("/tmp", "launch-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	text, err := os.ReadFile(example(t, "containers.conf"))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "launch-oci")
	if !strings.Contains(string(text), "/usr/local/bin/launch-oci") {
		t.Fatal("the drop-in names another place")
	}
	conf := filepath.Join(dir, "containers.conf")
	moved := strings.ReplaceAll(string(text), "/usr/local/bin/launch-oci", at)
	if err := os.WriteFile(conf, []byte(moved), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte("#!/bin/sh\necho launch-oci version 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(podman, "--root", dir+"/root", "--runroot", dir+"/run", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
		"info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}")
	c.Env = append(os.Environ(), "CONTAINERS_CONF="+conf)
	var said strings.Builder
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		t.Fatalf("podman info: %v: %s", err, &said)
	}
	if got, want := strings.TrimSpace(string(out)), "launch-oci "+at; got != want {
		t.Errorf("podman uses %q, want %q", got, want)
	}
}

// TestExampleContainerd lets containerd read the drop-in and print what it
// understood.
func TestExampleContainerd(t *testing.T) {
	out, err := exec.Command(program(t, "containerd"), "--config", example(t, "containerd.toml"), "config", "dump").CombinedOutput()
	if err != nil {
		t.Fatalf("containerd config dump: %v: %s", err, out)
	}
	_, runtime, ok := strings.Cut(string(out), `containerd.runtimes.launch-oci]`)
	if !ok || !strings.Contains(runtime, `BinaryName = "/usr/local/bin/launch-oci"`) {
		t.Errorf("containerd doesn't know the runtime:\n%s", out)
	}
}

// TestExampleDocker looks at what the file says, and lets dockerd check it, if
// it can. All checks of docker's run with it.
func TestExampleDocker(t *testing.T) {
	text, err := os.ReadFile(example(t, "daemon.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Runtimes map[string]struct{ Path string }
		Default  string `json:"default-runtime"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if c.Runtimes[c.Default].Path != "/usr/local/bin/launch-oci" {
		t.Errorf("the default runtime is %q: %+v", c.Default, c.Runtimes)
	}
	docker, err := exec.LookPath("dockerd")
	if err != nil {
		return
	}
	out, err := exec.Command(docker, "--validate", "--config-file", example(t, "daemon.json")).CombinedOutput()
	if err != nil && strings.Contains(string(out), "unknown flag: --validate") {
		return
	}
	if err != nil {
		t.Errorf("dockerd --validate: %v: %s", err, out)
	}
}

// TestExamplesAgree holds the handler of the RuntimeClass to the names in the
// runtimes' own files, which no program here could check.
func TestExamplesAgree(t *testing.T) {
	for name, want := range map[string]string{
		"runtimeclass.yaml": "handler: launch-oci\n",
		"crio.conf":         "[crio.runtime.runtimes.launch-oci]\n",
		"containerd.toml":   "containerd.runtimes.launch-oci]\n",
	} {
		text, err := os.ReadFile(example(t, name))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %q (%v)", name, want, err)
		}
	}
}
