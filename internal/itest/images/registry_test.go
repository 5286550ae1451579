package images

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// dockerRegistry runs Debian's docker-registry on the loopback interface, and
// gives its host and port.
func (w *world) dockerRegistry() string {
	w.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		w.Skip("needs docker-registry: ", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	config := filepath.Join(w.dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %s}\n", filepath.Join(w.dir, "registry"), addr)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		w.Fatal(err)
	}
	c := exec.Command(program, "serve", config)
	if err := c.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	for range 100 {
		r, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			r.Body.Close()
			return addr
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.Fatal("docker-registry doesn't come up")
	return ""
}

// skopeo copies an image to or from a registry of the test's own.
func (w *world) skopeo(from, to string) {
	w.Helper()
	program, err := exec.LookPath("skopeo")
	if err != nil {
		w.Skip("needs skopeo: ", err)
	}
	c := exec.Command(program, "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", from, to)
	c.Env = append(os.Environ(), "HOME="+w.dir)
	if out, err := c.CombinedOutput(); err != nil {
		w.Fatalf("skopeo copy %s %s: %v\n%s", from, to, err, out)
	}
}
