package images

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// served is a registry in the test's own process, on an address of the loopback
// interface, with something in the way of some requests.
type served struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	// fault answers instead of the registry, if it wants to.
	fault func(w http.ResponseWriter, r *http.Request) bool
	seen  []string // requests, with their credentials
}

func (w *world) serve(addr string, fault func(w http.ResponseWriter, r *http.Request) bool) *served {
	w.Helper()
	s := &served{fault: fault}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	l, err := net.Listen("tcp", addr+":0")
	if err != nil {
		w.Skipf("listen on %s: %v", addr, err)
	}
	s.Server = &httptest.Server{Listener: l, Config: &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		fault := s.fault
		s.mu.Unlock()
		if fault == nil || !fault(rw, r) {
			inner.ServeHTTP(rw, r)
		}
	})}}
	s.Start()
	w.Cleanup(s.Close)
	s.host = l.Addr().String()
	return s
}

// put puts an image into the registry, whatever is in the way.
func (s *served) put(t testing.TB, repo, tag string, p *picture) {
	t.Helper()
	s.mu.Lock()
	fault := s.fault
	s.fault = nil
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.fault = fault; s.mu.Unlock() }()
	send := func(method, path string, b []byte, kind string) {
		req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if kind != "" {
			req.Header.Set("Content-Type", kind)
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, path, r.Status)
		}
	}
	for d, b := range p.blobs {
		send("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, b, "")
	}
	send("PUT", "/v2/"+repo+"/manifests/"+tag, p.manifest, "application/vnd.oci.image.manifest.v1+json")
}

// small is an image with a shell in one layer and a file in another.
func small(t testing.TB) *picture {
	return draw(map[string]any{"Cmd": []string{"/bin/echo", "it runs"}}).layer(gzipped, shell(t)).layer(gzipped, tarOf(file{name: "note", data: "noted"})).finish()
}

// bare fails if the store holds anything but whole layers that are right.
func (w *world) bare(images int) {
	w.Helper()
	for _, dir := range []string{"tmp", "machines"} {
		if list, _ := os.ReadDir(filepath.Join(w.store, dir)); len(list) != 0 {
			w.Errorf("left in %s: %v", dir, list)
		}
	}
	if list, _ := os.ReadDir(filepath.Join(w.store, "images")); len(list) != images {
		w.Errorf("%d images, want %d", len(list), images)
	}
}

// lie is something wrong that a registry serves, with words of its refusal.
type lie struct {
	name, words string
	fault       func(http.ResponseWriter, *http.Request) bool
	ref         string
}

// lies are those about an image that is otherwise as it should be.
func lies(t *testing.T, s *served, p *picture) []lie {
	top := p.layers[1]
	is := func(r *http.Request, what string) bool { return strings.HasSuffix(r.URL.Path, what) }
	manifest := func(change func(m map[string]any)) func(http.ResponseWriter, *http.Request) bool {
		var m map[string]any
		if err := json.Unmarshal(p.manifest, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		b := mustJSON(m)
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if is(r, "/manifests/v1") {
				kind, _ := m["mediaType"].(string)
				if k, ok := m["served"].(string); ok {
					kind = k
				}
				rw.Header().Set("Content-Type", kind)
				rw.Write(b)
				return true
			}
			return false
		}
	}
	serve := func(what string, f func(http.ResponseWriter, *http.Request)) func(http.ResponseWriter, *http.Request) bool {
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if !is(r, what) {
				return false
			}
			f(rw, r)
			return true
		}
	}
	layers := func(m map[string]any) []any { return m["layers"].([]any) }
	blob := p.blobs[top.Digest]
	flipped := bytes.Clone(blob)
	flipped[len(flipped)/2] ^= 1
	// The same files, packed at another time.
	repacked := bytes.Clone(blob)
	repacked[4] ^= 1
	circles := 0
	config := func(m map[string]any) map[string]any { return m["config"].(map[string]any) }
	otherConfig := func(change string, to string) func(http.ResponseWriter, *http.Request) bool {
		old := p.blobs[config(decoded(t, p.manifest))["digest"].(string)]
		b := bytes.Replace(old, []byte(change), []byte(to), 1)
		if bytes.Equal(b, old) {
			t.Fatalf("the configuration has no %s", change)
		}
		f := manifest(func(m map[string]any) {
			config(m)["digest"], config(m)["size"] = digest(b), len(b)
		})
		return func(rw http.ResponseWriter, r *http.Request) bool {
			if is(r, "/blobs/"+digest(b)) {
				rw.Write(b)
				return true
			}
			return f(rw, r)
		}
	}
	entry := map[string]any{"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest([]byte("x")), "size": 1, "platform": map[string]any{"os": "linux", "architecture": p.arch}}
	list := []lie{
		{"another manifest", "the manifest has the digest", serve("/manifests/"+p.digest, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			rw.Write(append(bytes.Clone(p.manifest), ' '))
		}), s.host + "/box@" + p.digest},
		{"endless manifest", "the manifest has more than", serve("/manifests/v1", func(rw http.ResponseWriter, _ *http.Request) {
			for n := 0; n < 64<<20; n += 1 << 16 {
				if _, err := rw.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
					return
				}
			}
		}), ""},
		{"no JSON", "read the manifest", serve("/manifests/v1", func(rw http.ResponseWriter, _ *http.Request) { rw.Write([]byte("<html>")) }), ""},
		{"served as another type", "and is served as", manifest(func(m map[string]any) { m["served"] = "application/vnd.oci.image.index.v1+json" }), ""},
		{"two things at once", "both an image's and an index", manifest(func(m map[string]any) { m["manifests"] = []any{entry} }), ""},
		{"schema 1", "schema 1", manifest(func(m map[string]any) { m["fsLayers"] = []any{} }), ""},
		{"nothing", "holds no image", manifest(func(m map[string]any) { delete(m, "config"); delete(m, "layers") }), ""},
		{"weak digest", "", manifest(func(m map[string]any) { layers(m)[1].(map[string]any)["digest"] = "md5:" + strings.Repeat("0", 32) }), ""},
		{"digest that is a path", "", manifest(func(m map[string]any) { layers(m)[1].(map[string]any)["digest"] = "sha256:../../../etc/passwd" }), ""},
		{"negative size", "bytes, at most", manifest(func(m map[string]any) { layers(m)[1].(map[string]any)["size"] = -1 }), ""},
		{"too many layers", "at most 500", manifest(func(m map[string]any) {
			for range 500 {
				m["layers"] = append(layers(m), layers(m)[1])
			}
		}), ""},
		{"not as many as in the configuration", "layers, the configuration", manifest(func(m map[string]any) { m["layers"] = layers(m)[:1] }), ""},
		{"layer that is none", "no layer that can be unpacked", manifest(func(m map[string]any) { layers(m)[1].(map[string]any)["mediaType"] = "text/plain" }), ""},
		{"foreign layer", "no layer that can be unpacked", manifest(func(m map[string]any) {
			layers(m)[1].(map[string]any)["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar"
		}), ""},
		{"no configuration of an image", "not an image's", manifest(func(m map[string]any) { config(m)["mediaType"] = "application/vnd.oci.empty.v1+json" }), ""},
		{"configuration of another size", "that it should have", manifest(func(m map[string]any) { config(m)["size"] = 10 }), ""},
		{"configuration changed", "the configuration has", serve("/blobs/"+config(decoded(t, p.manifest))["digest"].(string), func(rw http.ResponseWriter, _ *http.Request) {
			rw.Write(bytes.Replace(p.blobs[config(decoded(t, p.manifest))["digest"].(string)], []byte("it runs"), []byte("it RUNS"), 1))
		}), ""},
		{"another platform", "the image is for linux/s390x", otherConfig(p.arch, "s390x"), ""},
		{"not of layers", `made of "disk"`, otherConfig(`"layers"`, `"disk"`), ""},
		{"another diffID", "it expands to", otherConfig(p.diffs[1], digest([]byte("else"))), ""},
		{"weak diffID", "", otherConfig(p.diffs[1], "md5:"+strings.Repeat("0", 32)), ""},
		{"index in itself", "there is no image", func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			rw.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			rw.Write(mustJSON(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{"mediaType": entry["mediaType"], "digest": p.digest, "size": 300, "platform": map[string]any{"os": "plan9", "architecture": "mips"}}}}))
			return true
		}, ""},
		{"index without an end", "indexes above its manifest", func() func(http.ResponseWriter, *http.Request) bool {
			// Each index names the next one, which is made before it.
			next, all := mustJSON(map[string]any{"schemaVersion": 2, "manifests": []any{}}), map[string][]byte{}
			var b []byte
			for range 5 {
				all[digest(next)] = next
				e := map[string]any{"mediaType": entry["mediaType"], "digest": digest(next), "size": len(next), "platform": entry["platform"]}
				b = mustJSON(map[string]any{"schemaVersion": 2, "mediaType": entry["mediaType"], "manifests": []any{e}})
				next = b
			}
			all["v1"] = b
			return func(rw http.ResponseWriter, r *http.Request) bool {
				_, ref, ok := strings.Cut(r.URL.Path, "/manifests/")
				if !ok || all[ref] == nil {
					return false
				}
				rw.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				rw.Write(all[ref])
				return true
			}
		}(), ""},
		{"index of thousands", "at most 500", serve("/manifests/v1", func(rw http.ResponseWriter, _ *http.Request) {
			var all []any
			for range 501 {
				all = append(all, entry)
			}
			rw.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			rw.Write(mustJSON(map[string]any{"schemaVersion": 2, "manifests": all}))
		}), ""},
		{"layer damaged", "", serve("/blobs/"+top.Digest, func(rw http.ResponseWriter, _ *http.Request) { rw.Write(flipped) }), ""},
		{"layer changed", "it has the digest", serve("/blobs/"+top.Digest, func(rw http.ResponseWriter, _ *http.Request) { rw.Write(repacked) }), ""},
		{"layer too long", "it has more than", serve("/blobs/"+top.Digest, func(rw http.ResponseWriter, _ *http.Request) { rw.Write(append(bytes.Clone(blob), 0)) }), ""},
		{"layer cut off", "it ends after", serve("/blobs/"+top.Digest, func(rw http.ResponseWriter, _ *http.Request) { rw.Write(blob[:len(blob)/2]) }), ""},
		{"no layer", "has no such image", serve("/blobs/"+top.Digest, func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(404) }), ""},
		{"forbidden", "refuses the credentials", serve("/manifests/v1", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(403) }), ""},
		{"no image", "has no such image", nil, s.host + "/box:v2"},
		{"out of order", "answers with status 500", serve("/manifests/v1", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) }), ""},
		{"sent in a circle", "more than five times", serve("/manifests/v1", func(rw http.ResponseWriter, r *http.Request) {
			if circles++; circles%50 == 0 { // for who would go on for ever
				rw.WriteHeader(404)
				return
			}
			http.Redirect(rw, r, r.URL.Path, http.StatusFound)
		}), ""},
	}
	for i := range list {
		if list[i].ref == "" {
			list[i].ref = s.host + "/box:v1"
		}
	}
	return list
}

func (s *served) lie(l lie) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = l.fault
}

// TestRegistryFaults: registries that lie.
func TestRegistryFaults(t *testing.T) {
	w := here(t)
	p := small(t)
	s := w.serve("127.0.0.1", nil)
	s.put(t, "box", "v1", p)
	for _, c := range lies(t, s, p) {
		t.Run(c.name, func(t *testing.T) {
			w := *w
			w.T = t
			s.lie(c)
			w.refuses(c.words, "pull", c.ref)
			w.bare(0)
		})
	}
	s.lie(lie{})
	// All that was in the way is gone, and nothing of it is left.
	if out := w.machine(s.host + "/box:v1"); !strings.HasSuffix(out, "it runs\n") {
		t.Errorf("the image that is as it should be: %q", out)
	}
	w.bare(1)
}

func decoded(t testing.TB, b []byte) (m map[string]any) {
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// TestResume: a transfer that breaks off goes on, with ranges and without, and a
// pull that was cut off finds the layers that were whole.
func TestResume(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprint(ranges), func(t *testing.T) {
			w := here(t)
			p := small(t)
			big := p.layers[0]
			times, from := 0, []string{}
			s := w.serve("127.0.0.1", nil)
			s.put(t, "box", "v1", p)
			s.fault = func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/blobs/"+big.Digest) {
					return false
				}
				b := p.blobs[big.Digest]
				at := 0
				s.mu.Lock()
				times++
				if text := r.Header.Get("Range"); text != "" {
					from = append(from, text)
					if ranges {
						at, _ = strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(text, "bytes="), "-"))
					}
				}
				last := times >= 4
				s.mu.Unlock()
				rw.Header().Set("Content-Length", fmt.Sprint(len(b)-at))
				if at > 0 {
					rw.WriteHeader(http.StatusPartialContent)
				}
				if !last {
					b = b[:len(b)*min(times, 3)/4]
				}
				rw.Write(b[min(at, len(b)):])
				return true
			}
			if out := w.machine(s.host + "/box:v1"); !strings.HasSuffix(out, "it runs\n") {
				t.Errorf("the machine says %q", out)
			}
			if times != 4 || len(from) != 3 {
				t.Errorf("the layer was asked for %d times, from %q", times, from)
			}
			w.bare(1)
		})
	}
	w := here(t)
	p := small(t)
	s := w.serve("127.0.0.1", nil)
	s.put(t, "box", "v1", p)
	gone := p.layers[1].Digest
	s.fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, gone) {
			rw.WriteHeader(404)
			return true
		}
		return false
	}
	// One after the other, so that the first is there when the second fails.
	w.env = append(w.env, "GOMAXPROCS=1")
	w.launch("pull", "--quiet", s.host+"/box:v1")
	s.mu.Lock()
	s.fault, s.seen = nil, nil
	s.mu.Unlock()
	w.does("pull", "--quiet", s.host+"/box:v1")
	asked := 0
	for _, r := range s.seen {
		if strings.Contains(r, p.layers[0].Digest) {
			asked++
		}
	}
	if asked > 1 { // it may have been cut off, too
		t.Errorf("a layer that was whole is asked for again: %q", s.seen)
	}
}

// TestCredentials: they go to whom they are for, whoever asks for them.
func TestCredentials(t *testing.T) {
	w := here(t)
	p := small(t)
	secret := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	stranger := w.serve("127.0.0.1", func(rw http.ResponseWriter, r *http.Request) bool {
		if b := p.blobs["sha256:"+filepath.Base(r.URL.Path)]; b != nil {
			rw.Write(b)
			return true
		}
		if strings.Contains(r.URL.Path, "token") {
			rw.Write([]byte(`{"token":"stolen"}`))
			return true
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="mine"`)
		rw.WriteHeader(401)
		return true
	})
	s := w.serve("127.0.0.1", nil)
	s.put(t, "box", "v1", p)
	basic := func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Basic "+secret {
			rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			rw.WriteHeader(401)
			return true
		}
		// Layers lie elsewhere, as with most big registries.
		if _, d, ok := strings.Cut(r.URL.Path, "/blobs/sha256:"); ok {
			http.Redirect(rw, r, stranger.URL+"/storage/"+d, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	name := s.host + "/box:v1"
	s.fault = basic
	w.refuses("refuses the credentials", "pull", name)
	docker := filepath.Join(w.dir, ".docker")
	config := func(text string) {
		os.MkdirAll(docker, 0o700)
		if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config(fmt.Sprintf(`{"auths": {%q: {"auth": %q}, "other.example": {"auth": "b3RoZXI6b3RoZXI="}}}`, s.host, secret))
	w.does("pull", name)
	w.does("rmi", "--quiet", name)

	// A helper says them.
	helper := filepath.Join(w.dir, "docker-credential-test")
	if err := os.WriteFile(helper, []byte("#!/bin/sh\nread host\necho '{\"ServerURL\":\"'$host'\",\"Username\":\"user\",\"Secret\":\"secret\"}'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	config(fmt.Sprintf(`{"credHelpers": {%q: "test"}}`, s.host))
	w.env = append(w.env, "PATH="+w.dir+":"+os.Getenv("PATH"))
	w.does("pull", name)
	w.does("rmi", "--quiet", name)

	// A token of a server that the registry names, at the same address.
	token := ""
	s.mu.Lock()
	s.fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if r.Header.Get("Authorization") != "Basic "+secret {
				rw.WriteHeader(401)
				return true
			}
			rw.Write([]byte(`{"token":"good"}`))
			return true
		}
		if r.Header.Get("Authorization") != "Bearer good" {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token`+token+`",service="x"`)
			rw.WriteHeader(401)
			return true
		}
		return false
	}
	s.mu.Unlock()
	w.does("pull", name)
	w.does("rmi", "--quiet", name)

	// One that names a private address elsewhere gets nothing there.
	s.mu.Lock()
	s.fault = func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("WWW-Authenticate", `Bearer realm="`+stranger.URL+`/token",service="x"`)
		rw.WriteHeader(401)
		return true
	}
	s.mu.Unlock()
	w.refuses("private or link-local", "pull", name)
	for _, r := range stranger.seen {
		if strings.Contains(r, "Basic") || strings.Contains(r, "Bearer") || strings.Contains(r, secret) {
			t.Errorf("a stranger got credentials: %s", r)
		}
		if strings.Contains(r, "token") {
			t.Errorf("a stranger was asked for a token: %s", r)
		}
	}
	if len(stranger.seen) == 0 {
		t.Error("nobody was sent on")
	}
}

// TestMirrors: what is asked first, and who may speak without encryption.
func TestMirrors(t *testing.T) {
	w := here(t)
	p := small(t)
	// Not 127.0.0.1, which may always.
	s := w.serve("127.0.0.2", nil)
	s.put(t, "hub/library/box", "v1", p)
	w.refuses("reach the registry", "pull", s.host+"/hub/library/box:v1")
	w.does("pull", "--quiet", "--plain-http="+s.host, s.host+"/hub/library/box:v1")
	w.does("rmi", "--quiet", s.host+"/hub/library/box:v1")
	text := mustJSON(map[string]any{"plain-http": []string{s.host}, "mirrors": map[string][]string{"docker.io": {"127.0.0.3:1", s.host + "/hub"}}})
	if err := os.WriteFile(filepath.Join(w.dir, "registries.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := w.machine("box:v1"); !strings.HasSuffix(out, "it runs\n") {
		t.Errorf("from a mirror: %q", out)
	}
	if out := w.does("images", "--json"); !strings.Contains(out, `"docker.io/library/box:v1"`) {
		t.Errorf("the image is called\n%s", out)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "registries.json"), []byte(`{"mirror": {}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	w.refuses("registries.json", "pull", "box:v2")
}
