package faults

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFaultKillLauncher kills the launcher while its payload runs: the payload
// goes with it, whoever it runs as and whatever namespaces it has, and one
// clean-up makes the host as it was.
func TestFaultKillLauncher(t *testing.T) {
	w := theOne(t)
	for _, m := range every() {
		t.Run(m.name, func(t *testing.T) {
			if err := w.fresh(m); err != nil {
				t.Fatal(err)
			}
			var before []string
			// The test itself is a static program that can sleep.
			self, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			sleeper := root + "/usr/bin/sleeper"
			if m.image {
				at, err := filepath.Glob(store + "/layers/*/tree/bin")
				if err != nil || len(at) != 1 {
					t.Fatalf("the image has %q, %v", at, err)
				}
				sleeper = at[0] + "/sleeper"
			}
			if m.makes {
				sleeper = place + "/from/usr/bin/sleeper"
			}
			verb := 0
			if m.image {
				verb = 1
			}
			args := slices.Concat(m.args[:verb], []string{"--setenv=" + sleeping + "=1"}, m.args[verb:])
			awake := w.init // what has the sleeper's place else
			switch {
			case m.pod: // the bundle says what runs, with which environment
				sleeper, awake, args = root+"/usr/bin/true", w.probe, m.args
				os.Remove(sleeper)
				text := strings.Replace(m.files[0][1], `"args"`, `"env": ["`+sleeping+`=1"], "args"`, 1)
				if err := os.WriteFile(filepath.Join(place, m.files[0][0]), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			case m.program == "":
				sleeper = root + "/usr/sbin/init"
				os.Remove(sleeper)
			default:
				args = append(args, filepath.Join(filepath.Dir(m.program), "sleeper"))
			}
			if err := os.WriteFile(sleeper, self, 0o755); err != nil {
				t.Fatal(err)
			}
			if m.disk {
				image, err := diskOf(root)
				if err == nil {
					err = os.WriteFile(raw, image, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if before, err = w.things(m); err != nil {
				t.Fatal(err)
			}
			c := exec.Command(w.launch, args...)
			c.Env = append(append(os.Environ(), "LAUNCH_STORE="+store), m.env...)
			c.SysProcAttr = &syscall.SysProcAttr{}
			if w.cgfd != nil {
				c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(w.cgfd.Fd())
			}
			if err := w.out.Truncate(0); err != nil {
				t.Fatal(err)
			}
			c.Stdout, c.Stderr = w.out, os.Stderr
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			said := false
			for deadline := time.Now().Add(longest); !said && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
				b := make([]byte, 100)
				n, _ := w.out.ReadAt(b, 0)
				said = bytes.Contains(b[:n], []byte("asleep"))
			}
			if !said {
				c.Process.Kill()
				c.Wait()
				t.Fatal("the payload never ran")
			}
			if n := len(w.processes()); w.cgroup != "" && n < 2 {
				t.Errorf("only %d processes run", n)
			}
			// While it runs, nobody else gets its name and a clean-up leaves it
			// alone.
			if !m.many {
				if r, err := w.start(m); err != nil || r.status != 1 || !strings.Contains(r.err, "is running") {
					t.Errorf("a second start: %v %v", r, err)
				}
			}
			if err := w.cleanUp(); err != nil {
				t.Error(err)
			}
			if n := len(w.processes()); w.cgroup != "" && n < 2 {
				t.Error("the clean-up took a running machine")
			}
			began := time.Now()
			c.Process.Kill()
			c.Wait()
			if alive := w.quiet(2 * time.Second); len(alive) > 0 {
				t.Errorf("the payload outlives its launcher: %q", alive)
			}
			t.Logf("all gone after %v", time.Since(began).Round(100*time.Microsecond))
			if _, err := w.after(m, before); err != nil {
				t.Error(err)
			}
			if m.program == "" {
				os.Remove(sleeper)
				if err := os.Link(awake, sleeper); err != nil {
					t.Fatal(err)
				}
			}
			if m.pod {
				if err := os.WriteFile(filepath.Join(place, m.files[0][0]), []byte(m.files[0][1]), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// The name is free again at once.
			if r, err := w.start(m); err != nil || r.status != 0 {
				t.Errorf("the next start: %v %v", r, err)
			}
			if err := w.cleanUp(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFaultKilledCgroup starts a machine from a cgroup whose processes were
// killed by cgroup.kill before. The kernel remembers that, and kills what is
// cloned from there into another cgroup.
func TestFaultKilledCgroup(t *testing.T) {
	w := theOne(t)
	if w.cgroup == "" {
		t.Skip("needs cgroup2")
	}
	if err := w.fresh(plain); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.cgroup, "killed")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer removeCgroup(dir)
	for range 3 {
		if err := os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0); err != nil {
			t.Skip("needs cgroup.kill: ", err)
		}
	}
	// The shell moves itself: cloned into that cgroup, it would be killed, too.
	r, err := w.run(nil, "/bin/sh", append([]string{"-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, dir, w.launch}, append(plain.args, "/bin/true")...)...)
	if err != nil || r.status != 0 {
		t.Fatalf("%v %v", r, err)
	}
	if _, err := w.read(r.out); err != nil {
		t.Error(err)
	}
	if err := w.cleanUp(); err != nil {
		t.Error(err)
	}
}

const sleeping = "LAUNCH_FAULTS_SLEEP"
