package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestWords: what engines match on, and the statuses that they go by.
func TestWords(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("a", forever, nil)
	const gone = "container does not exist"
	for _, verb := range []string{"state", "start", "delete", "pause", "resume", "ps", "kill", "update", "events"} {
		w.fails(1, gone, verb, "a")
	}
	w.fails(255, gone, "exec", "a", "true")
	w.ok("delete", "--force", "a")
	w.fails(1, "invalid container ID format", "create", "-b", b, "x/y")
	w.fails(1, "requires exactly 1 argument(s)", "state")
	w.fails(1, "requires exactly 1 argument(s)", "state", "a", "b")
	w.fails(1, "requires exactly 1 argument(s)", "delete", "a", "--frce")
	w.fails(1, "flag provided but not defined: -foo", "state", "--foo", "a")
	w.fails(1, "no such file or directory", "create", "-b", "/nonesuch", "a")
	w.fails(3, "No help topic for 'foo'", "foo")

	w.ok("create", "--bundle", b, "a")
	if s := w.state("a"); s != "created" {
		t.Errorf("after create: %q", s)
	}
	w.fails(1, "container with given ID already exists", "create", "-bundle="+b, "a")
	w.fails(1, "cannot delete container a that is not stopped: created", "delete", "a")
	w.ok("start", "a")
	w.fails(1, "cannot start an already running container", "start", "a")
	w.fails(255, "executable file not found in $PATH", "exec", "a", "nonesuch")
	w.fails(255, "no such file or directory", "exec", "a", "/nonesuch")
	w.fails(255, "permission denied", "exec", "a", "/etc")
	must(t, os.WriteFile(b+"/rootfs/etc/plain", nil, 0o644))
	w.fails(255, "permission denied", "exec", "a", "/etc/plain")
	w.fails(255, "no such file or directory", "exec", "--cwd", "/nonesuch", "a", "true")
	w.fails(255, "exec args cannot be empty", "exec", "a")
	w.fails(7, "", "exec", "a", "sh", "-c", "exit 7")
	w.fails(137, "", "exec", "a", "sh", "-c", "kill -9 $$")
	w.fails(1, `unknown signal "FOO"`, "kill", "a", "FOO")
	w.fails(1, "container not paused", "resume", "a")
	w.ok("pause", "a")
	if s := w.state("a"); s != "paused" {
		t.Errorf("after pause: %q", s)
	}
	w.fails(1, "container not running", "pause", "a")
	w.fails(255, "cannot exec in a paused container", "exec", "a", "true")
	w.ok("resume", "a")
	w.ok("kill", "a", "0")
	w.ok("kill", "a", "9")
	w.soon("stopped", func() bool { return w.state("a") == "stopped" })
	w.fails(1, "cannot start a container that has stopped", "start", "a")
	w.fails(1, "container not running", "kill", "a", "KILL")
	w.ok("kill", "--all", "a", "KILL")
	w.fails(255, "cannot exec in a stopped container", "exec", "a", "true")
	w.fails(1, "container not running", "pause", "a")
	w.fails(1, "container not running", "update", "--pids-limit", "7", "a")
	w.fails(1, "is not running", "events", "--stats", "a")
	if r := w.ok("ps", "--format", "json", "a"); strings.TrimSpace(r) != "[]" && strings.TrimSpace(r) != "null" {
		t.Errorf("ps after the end: %q", r)
	}
	w.ok("delete", "a")

	// One that is paused before its start has to be resumed first.
	w.ok("create", "-b", b, "a")
	w.ok("pause", "a")
	if s := w.state("a"); s != "paused" {
		t.Errorf("created and paused: %q", s)
	}
	w.fails(1, "cannot start a container in the paused state", "start", "a")
	w.ok("resume", "a")
	if s := w.state("a"); s != "created" {
		t.Errorf("created, paused and resumed: %q", s)
	}
	w.ok("start", "a")
	// What a process alone leaves out, the container has.
	must(t, os.WriteFile(w.dir+"/p", []byte(`{"args":["/bin/sh","-c","grep CapBnd /proc/self/status"],"cwd":"/"}`), 0o644))
	if own, told := w.ok("exec", "a", "/bin/sh", "-c", "grep CapBnd /proc/self/status"), w.ok("exec", "-p", w.dir+"/p", "a"); own != told || strings.Contains(own, "000000000000\n") {
		t.Errorf("capabilities by exec: %q; by exec --process: %q", own, told)
	}
	w.fails(255, "write the pid file /nonesuch/p", "exec", "-d", "--pid-file", "/nonesuch/p", "a", "sleep", "1000")
	if r := w.ok("ps", "-f", "json", "a"); strings.Contains(r, ",") {
		t.Errorf("after an exec that failed: %q", r)
	}
	w.ok("delete", "-f", "a")
	w.fails(1, "no such file or directory", "--root", "/nonesuch", "list")

	// Options are also taken after the id.
	w.ok("create", "b", "--bundle", b)
	w.ok("delete", "b", "-f")

	// A failed create leaves nothing, and says where it was written.
	bad := w.bundle("bad", []string{"nonesuch"}, nil)
	w.fails(1, "executable file not found in $PATH", "create", "-b", bad, "bad")
	bad = w.bundle("bad", []string{""}, nil)
	w.fails(1, "executable file not found in $PATH", "create", "-b", bad, "bad")
	bad = w.bundle("bad", forever, func(c object) { c["process"].(object)["cwd"] = "x" })
	w.fails(1, "/process/cwd", "create", "-b", bad, "bad")
	// What the kernel refuses, too.
	bad = w.bundle("bad", forever, func(c object) {
		c["mounts"] = append(c["mounts"].([]any), object{"destination": "/tmp", "type": "nosuchfs", "source": "x"})
	})
	w.fails(1, "/mounts/7", "create", "-b", bad, "bad")
	bad = w.bundle("bad", forever, func(c object) {
		m := []any{object{"containerID": 0, "hostID": 100000, "size": 1000}}
		l := c["linux"].(object)
		l["namespaces"], l["uidMappings"], l["gidMappings"] = append(l["namespaces"].([]any), object{"type": "user"}), m, m
		c["mounts"] = c["mounts"].([]any)[:2]
		c["process"].(object)["scheduler"] = object{"policy": "SCHED_FIFO", "priority": 5}
	})
	w.fails(1, "/process/scheduler", "create", "-b", bad, "bad")
	if left := w.left(); len(left) > 0 {
		t.Errorf("after failed creates: %q", left)
	}
	// The log is one JSON object, whatever else was told.
	log := w.dir + "/log.json"
	w.do("--log", log, "--log-format", "json", "create", "-b", bad, "bad")
	text, _ := os.ReadFile(log)
	var line struct {
		Level, Msg string
		Time       time.Time
	}
	if err := json.Unmarshal(text, &line); err != nil || line.Level != "error" || line.Msg == "" {
		t.Errorf("the log %q: %v", text, err)
	}
}

// TestUpdate: what is set is set, what isn't told stays, and what fails changes
// nothing.
func TestUpdate(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("u", forever, func(c object) {
		c["linux"].(object)["resources"] = object{"pids": object{"limit": 77}}
	})
	w.ok("run", "-d", "-b", b, "u")
	limit := func() float64 {
		var e struct {
			Type, ID string
			Data     struct{ PIDs struct{ Limit float64 } }
		}
		must(t, json.Unmarshal([]byte(w.ok("events", "--stats", "u")), &e))
		if e.Type != "stats" || e.ID != "u" {
			t.Errorf("stats say type %q of %q", e.Type, e.ID)
		}
		return e.Data.PIDs.Limit
	}
	if n := limit(); n != 77 {
		t.Skipf("this host limits no processes (%v)", n)
	}
	w.ok("update", "--pids-limit", "55", "u")
	if n := limit(); n != 55 {
		t.Errorf("after an update to 55: %v", n)
	}
	c := w.command("update", "-r", "-", "u")
	c.Stdin = strings.NewReader(`{"pids":{"limit":44}}`)
	if r := w.run(c); r.code != 0 || limit() != 44 {
		t.Errorf("update from standard input: %v; %v", r, limit())
	}
	// A file is all that counts.
	c = w.command("update", "-r", "-", "--pids-limit", "33", "u")
	c.Stdin = strings.NewReader(`{"pids":{"limit":44}}`)
	if r := w.run(c); r.code != 0 || limit() != 44 {
		t.Errorf("update from standard input and by an option: %v; %v", r, limit())
	}
	w.fails(1, "/pids/limit", "update", "-r", func() string {
		f := filepath.Join(w.dir, "r.json")
		must(t, os.WriteFile(f, []byte(`{"pids":{"limit":"x"}}`), 0o644))
		return f
	}(), "u")
	w.fails(1, "cpu-quota", "update", "--cpu-quota", "x", "u")
	w.fails(1, "", "update", "--memory", "1Q", "u")
	w.fails(1, "", "update", "--pids-limit", "33", "--cpuset-cpus", "500", "u")
	if n := limit(); n != 44 {
		t.Errorf("an update that failed left %v", n)
	}
}

// TestOOM: events tells when memory ran out, and ends with the container.
func TestOOM(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("o", []string{"sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.1; done; tail /dev/zero; sleep 1"}, func(c object) {
		c["linux"].(object)["resources"] = object{"memory": object{"limit": 16 << 20, "swap": 16 << 20}}
	})
	w.ok("run", "-d", "-b", b, "o")
	c := w.command("events", "--interval", "100ms", "o")
	var out bytes.Buffer
	c.Stdout = &out
	must(t, c.Start())
	time.Sleep(300 * time.Millisecond)
	must(t, os.WriteFile(b+"/rootfs/tmp/go", nil, 0o644))
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(longest):
		c.Process.Kill()
		t.Fatal("events doesn't end")
	}
	if s := out.String(); !strings.Contains(s, `{"type":"oom","id":"o"}`) || !strings.Contains(s, `"type":"stats"`) {
		t.Errorf("events tells %q", s)
	}
}

// TestTinyMemory: a limit that not even the first process fits in is refused,
// and nothing ends without a word.
func TestTinyMemory(t *testing.T) {
	w := theWorld(t)
	for limit, words := range map[int]string{4096: "unable to set memory limit to 4096", 100 << 10: "unable to set memory limit", 4 << 20: ""} {
		b := w.bundle("m", []string{"true"}, func(c object) {
			c["linux"].(object)["resources"] = object{"memory": object{"limit": limit}}
		})
		switch r := w.do("run", "-b", b, "m"); {
		case words != "" && (r.code != 1 || !strings.Contains(r.err, words)), words == "" && r.code != 0 && !strings.Contains(r.err, "needs the memory cgroup"):
			t.Errorf("%d: %v", limit, r)
		}
	}
}

// TestOneWins: of many creates of an id one wins, and of many deletes.
func TestOneWins(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("r", forever, nil)
	n := 64
	if testing.Short() {
		n = 16
	}
	results := make([]result, n)
	every := func(args ...string) (won int) {
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() { results[i] = w.do(args...) })
		}
		wg.Wait()
		for _, r := range results {
			if r.code == 0 {
				won++
			}
		}
		return won
	}
	if won := every("create", "-b", b, "r"); won != 1 {
		t.Fatalf("%d of %d creates won: %v", won, n, results)
	}
	for _, r := range results {
		if r.code != 0 && !strings.Contains(r.err, "already exists") {
			t.Errorf("a create that lost: %v", r)
		}
	}
	if s := w.state("r"); s != "created" {
		t.Errorf("the winner's container is %q", s)
	}
	if won := every("start", "r"); won != 1 {
		t.Errorf("%d of %d starts won", won, n)
	}
	w.ok("kill", "r", "KILL")
	w.soon("stopped", func() bool { return w.state("r") == "stopped" })
	if won := every("delete", "r"); won != 1 {
		t.Errorf("%d of %d deletes won: %v", won, n, results)
	}
	if left := w.left(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestStartRaces: whatever happens at once to a created container, it ends up in
// one of its states, and delete --force makes an end of it.
func TestStartRaces(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("s", forever, nil)
	rounds := 6
	if whole() {
		rounds = 200
	}
	for i := range rounds {
		id := fmt.Sprintf("s%d", i)
		w.ok("create", "-b", b, id)
		var wg sync.WaitGroup
		var rs [3]result
		for j, args := range [][]string{{"start", id}, {"kill", id, "KILL"}, {"delete", "--force", id}} {
			if j == 2 && i%2 == 0 {
				continue
			}
			wg.Go(func() { rs[j] = w.do(args...) })
		}
		wg.Wait()
		for j, words := range []string{"cannot start|does not exist", "not running|does not exist", ""} {
			ok := rs[j].code == 0
			for word := range strings.SplitSeq(words, "|") {
				ok = ok || word != "" && strings.Contains(rs[j].err, word)
			}
			if !ok {
				t.Errorf("round %d: %v", i, rs[j])
			}
		}
		w.ok("delete", "--force", id)
		if left := w.left(); len(left) > 0 {
			t.Fatalf("round %d left %q", i, left)
		}
	}
}

// TestNotExecutable: nobody listens when the payload of a created container
// turns out to be no program, so that stands in what the container wrote.
func TestNotExecutable(t *testing.T) {
	w := theWorld(t)
	for name, edit := range map[string]func(c object){
		"stub": nil,
		// Such a filter comes before the rights go, and the stub with it.
		"filter": func(c object) {
			c["process"].(object)["noNewPrivileges"] = false
			c["linux"].(object)["seccomp"] = object{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []any{object{"names": []any{"mkdir"}, "action": "SCMP_ACT_ERRNO"}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.bundle("n", []string{"/bin/garbage"}, edit)
			must(t, os.WriteFile(b+"/rootfs/bin/garbage", []byte("neither ELF nor a script\n"), 0o755))
			said, err := os.Create(w.dir + "/said")
			must(t, err)
			defer said.Close()
			c := w.command("create", "-b", b, "n")
			c.Stderr = said
			if r := w.run(c); r.code != 0 {
				t.Fatal(r)
			}
			w.ok("start", "n")
			w.soon("stopped", func() bool { return w.state("n") == "stopped" })
			w.ok("delete", "n")
			const words = "exec /bin/garbage: exec format error"
			if text, err := os.ReadFile(said.Name()); err != nil || string(text) != words+"\n" {
				t.Errorf("it said %q, %v", text, err)
			}
			// Here somebody listens: it is said once.
			if r := w.do("run", "-b", b, "n"); r.code != 1 || strings.Count(r.err, "exec format error") != 1 {
				t.Error(r)
			}
		})
	}
}

// TestIgnored: what a caller ignores, the payload doesn't.
func TestIgnored(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("i", []string{"grep", "SigIgn", "/proc/self/status"}, nil)
	c := exec.Command("sh", "-c", `trap "" HUP INT TERM USR1; exec "$@"`, "sh", w.path, "--root", w.root, "run", "-b", b, "i")
	const libc = 1<<(32-1) | 1<<(33-1) // a C library's own, which pass
	r := w.run(c)
	var ignored uint64
	if n, _ := fmt.Sscanf(r.out, "SigIgn: %x", &ignored); r.code != 0 || n != 1 || ignored&^libc != 0 {
		t.Error(r)
	}
}
