package pick

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCandidate(t *testing.T) {
	for name, want := range map[string]uint32{
		"foo": 1614544896, "bar": 208404480, "debian": 1766326272, "web1": 488898560, "averylongcontainername": 80543744,
	} {
		if got, err := candidate(name, true); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", name, got, err, want)
		}
	}
	for range 1000 {
		c, err := candidate("", false)
		if err != nil || c < First || c > Last || c&0xffff != 0 {
			t.Fatalf("random candidate %d, %v", c, err)
		}
	}
}

// etc makes a directory with a passwd and a group file.
func etc(t *testing.T, passwd, group string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestChoice(t *testing.T) {
	const foo, own = 1614544896, 0x01230000
	for _, c := range []struct {
		name, passwd, group string
		current             uint32
		want                uint32 // 0: neither foo's nor own
	}{
		{"by name", "", "", 0, foo},
		{"the image's own", "", "", own, own},
		{"first", "", "", First, First},
		{"last", "", "", Last, Last},
		{"too low", "", "", First - 65536, foo},
		{"too high", "", "", Last + 65536, foo},
		{"busy mark", "", "", 0xfffe0000, foo},
		{"not aligned", "", "", own + 1, foo},
		{"user", fmt.Sprintf("a:x:%d:1::/:\n", own), "", own, foo},
		{"last user", fmt.Sprintf("a:x:%d:1::/:\n", own+65534), "", own, foo},
		{"some user within", fmt.Sprintf("a:x:%d:1::/:\n", own+5), "", own, own},
		{"group", "", fmt.Sprintf("a:x:%d:\n", own), own, foo},
		{"last group", "", fmt.Sprintf("a:x:%d:\n", own+65534), own, foo},
		{"both", fmt.Sprintf("a:x:%d:1::/:\n", own), fmt.Sprintf("a:x:%d:\n", foo), own, 0},
	} {
		dir := filepath.Join(t.TempDir(), "a/b")
		h, err := At(dir, etc(t, c.passwd, c.group), "foo", c.current)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := h.Range.Start; got != c.want && c.want != 0 || c.want == 0 && (got == foo || got == own) {
			t.Errorf("%s: picked %d, want %d", c.name, got, c.want)
		}
		if h.Range.Size != 65536 {
			t.Errorf("%s: range %v", c.name, h.Range)
		}
		if names, _ := os.ReadDir(dir); len(names) != 1 || filepath.Join(dir, names[0].Name()) != h.Path {
			t.Errorf("%s: lock files %v while holding %s", c.name, names, h.Path)
		}
		h.Release()
		h.Release()
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("%s: %v left after Release", c.name, names)
		}
	}
}

func TestParallel(t *testing.T) {
	dir, etc := t.TempDir(), etc(t, "", "")
	for _, name := range []string{"same", ""} {
		var mu sync.Mutex
		var wg sync.WaitGroup
		seen := map[uint32]int{}
		for i := range 200 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				n := name
				if n == "" {
					n = fmt.Sprint("machine", i)
				}
				h, err := At(dir, etc, n, 0x01230000)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[h.Range.Start]++
				mu.Unlock()
				if i%2 == 0 { // half come and go, under the eyes of the others
					mu.Lock()
					seen[h.Range.Start]--
					h.Release()
					mu.Unlock()
				}
				if i%10 == 0 {
					if _, err := Clean(dir); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		wg.Wait()
		n := 0
		for c, times := range seen {
			n += times
			if times > 1 {
				t.Errorf("%d was given out %d times", c, times)
			}
		}
		if n != 100 {
			t.Errorf("%d ranges held, want 100", n)
		}
	}
}

// TestRemoved: a lock on a file that its last owner removed is none.
func TestRemoved(t *testing.T) {
	dir := t.TempDir()
	dirfd, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dirfd)
	var holders, got, double atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 1000 {
				fd, err := lock(dirfd, "1")
				if busy(err) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				got.Add(1)
				if holders.Add(1) > 1 {
					double.Add(1)
				}
				runtime.Gosched()
				holders.Add(-1)
				h := Held{Path: filepath.Join(dir, "1"), fd: fd}
				h.Release()
			}
		}()
	}
	wg.Wait()
	if got.Load() == 0 || double.Load() > 0 {
		t.Errorf("held %d times, %d times by two at once", got.Load(), double.Load())
	}
}

func TestExhausted(t *testing.T) {
	// An entry for every range leaves none.
	var b strings.Builder
	for c := uint32(First); c <= Last; c += 65536 {
		fmt.Fprintf(&b, "u%d:x:%d:1::/:\n", c, c)
	}
	dir := t.TempDir()
	if h, err := At(dir, etc(t, b.String(), ""), "foo", 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v, %v; want EBUSY", h, err)
	}
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("%d lock files left", len(names))
	}
}

// TestKilled: a killed holder gives its range back, and leaves a file that
// Clean removes; a file in use stays.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("PICK_TEST_DIR"); dir != "" {
		h, err := At(dir, os.Getenv("PICK_TEST_ETC"), "foo", 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(h.Path)
		time.Sleep(time.Hour)
	}
	dir, etc := t.TempDir(), etc(t, "", "")
	c := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	c.Env = append(os.Environ(), "PICK_TEST_DIR="+dir, "PICK_TEST_ETC="+etc)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	var path string
	if _, err := fmt.Fscanln(out, &path); err != nil {
		t.Fatal(err)
	}
	h, err := At(dir, etc, "foo", 0)
	if err != nil || h.Path == path {
		t.Fatalf("picked %s, %v, which the other process holds", h.Path, err)
	}
	if n, err := Clean(dir); n != 0 || err != nil {
		t.Errorf("Clean removed %d files in use, %v", n, err)
	}
	c.Process.Signal(syscall.SIGKILL)
	c.Wait()
	if n, err := Clean(dir); n != 1 || err != nil {
		t.Errorf("Clean removed %d files, %v; want the killed one's", n, err)
	}
	h2, err := At(dir, etc, "foo", 0)
	if err != nil || h2.Path != path {
		t.Errorf("picked %s, %v; want %s back", h2.Path, err, path)
	}
	h.Release()
	h2.Release()
}

// TestPasswdLock: who changes the users is waited for.
func TestPasswdLock(t *testing.T) {
	etc := etc(t, "", "")
	unlock, err := lockPasswd(etc)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		h, err := At(t.TempDir(), etc, "foo", 0)
		h.Release()
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
		unlock()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestPeer lets systemd-nspawn hold the range of a name, and picks it too.
func TestPeer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	nspawn, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		t.Skip("systemd-nspawn is not installed")
	}
	name := fmt.Sprintf("picktest%d", os.Getpid())
	want, _ := candidate(name, true)

	// While we hold it, nspawn takes another.
	h, err := Range(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	if h.Range.Start != want {
		t.Skipf("range %d of %s is in use on this host", want, name)
	}
	if got := peer(t, nspawn, name, nil); got == "" || got == filepath.Base(h.Path) {
		t.Errorf("systemd-nspawn took %q while we held %s", got, h.Path)
	}
	h.Release()

	// While nspawn holds it, we take another.
	got := peer(t, nspawn, name, func() {
		h, err := Range(name, 0)
		if err != nil {
			t.Error(err)
		} else if h.Range.Start == want {
			t.Errorf("picked %s, which systemd-nspawn holds", h.Path)
		}
		h.Release()
		if _, err := os.Stat(fmt.Sprint(Dir, "/", want)); err != nil {
			t.Error(err)
		}
	})
	if got != fmt.Sprint(want) {
		t.Errorf("systemd-nspawn took %q, want %d", got, want)
	}
}

// TestPayload is what runs in the machines of TestPeer.
func TestPayload(t *testing.T) {
	if os.Getenv("PICK_TEST_SLEEP") == "" {
		t.Skip("only runs in the machines of TestPeer")
	}
	time.Sleep(time.Minute)
}

// peer starts systemd-nspawn with this program as the whole machine, calls
// held when it has a lock file that was not there before, and gives that
// file's name.
func peer(t *testing.T, nspawn, name string, held func()) string {
	t.Helper()
	list := func() map[string]bool {
		m := map[string]bool{}
		names, _ := os.ReadDir(Dir)
		for _, n := range names {
			m[n.Name()] = true
		}
		return m
	}
	dir := t.TempDir()
	for _, d := range []string{"usr/lib", "etc", "dev", "proc", "sys", "run", "tmp", "root", "bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string][]byte{"usr/lib/os-release": []byte("ID=x\n"), "bin/x": program} {
		if err := os.WriteFile(filepath.Join(dir, path), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before := list()
	var said strings.Builder
	c := exec.Command(nspawn, "-q", "--register=no", "--keep-unit", "-D", dir, "-M", name, "--setenv=PICK_TEST_SLEEP=1",
		"--private-users=pick", "--private-users-ownership=chown", "/bin/x", "-test.run=^TestPayload$")
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		select {
		case err := <-ended:
			t.Skipf("systemd-nspawn can't run here: %v\n%s", err, said.String())
		case <-time.After(time.Millisecond):
		}
		for n := range list() {
			if before[n] {
				continue
			}
			if held != nil {
				held()
			}
			c.Process.Signal(syscall.SIGTERM)
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				c.Process.Kill()
				<-ended
			}
			return n
		}
	}
}
