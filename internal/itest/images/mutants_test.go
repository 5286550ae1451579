package images

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"launch/internal/itest/remake"
)

const (
	imageGo    = "oci/image/image.go"
	registryGo = "oci/image/registry.go"
	pullGo     = "cmd/launch-pull/pull.go"
)

// never gives a source in which a condition is never true.
func never(file, condition string) []edit { return []edit{{file, condition + " {", "if false {"}} }

// nor does so for a case.
func nor(file, condition string) []edit { return []edit{{file, condition + ":", "case false:"}} }

// believers each believe the lie of that name: the check that finds it is not
// there.
var believers = map[string][]edit{
	"another manifest": {{imageGo, "root.Digest != \"\" && got != root.Digest {", "got == \"\" {"}},
	"endless manifest": {{registryGo, "io.ReadAll(io.LimitReader(resp.Body, manifestMax+1))", "io.ReadAll(resp.Body)"},
		{registryGo, "if len(b) > manifestMax {", "if false {"}},
	"served as another type":              never(imageGo, `if has.MediaType != "" && b.MediaType != "" && has.MediaType != b.MediaType`),
	"two things at once":                  nor(imageGo, "case list && single"),
	"schema 1":                            {{imageGo, "case has.FSLayers != nil || ", "case "}},
	"negative size":                       nor(imageGo, "case d.Size < 0 || d.Size > most"),
	"too many layers":                     never(imageGo, "if len(m.Layers) > layersMax"),
	"not as many as in the configuration": never(imageGo, "if len(c.RootFS.DiffIDs) != len(m.Layers)"),
	"layer that is none":                  never(imageGo, "if !isLayer(d.MediaType)"),
	"foreign layer":                       never(imageGo, "if !isLayer(d.MediaType)"),
	"no configuration of an image":        never(imageGo, "if !m.Config.MediaType.IsConfig()"),
	"configuration of another size":       nor(imageGo, "case int64(len(b)) != d.Size"),
	"configuration changed":               nor(imageGo, "case sum(b) != d.Digest.String()"),
	"another platform":                    never(imageGo, "if c.OS != want.OS || c.Architecture != want.Architecture"),
	"not of layers":                       never(imageGo, `if c.RootFS.Type != "layers"`),
	"another diffID":                      never(pullGo, "if r.DiffID != l.DiffID"),
	"index without an end":                never(imageGo, "if depth == depthMax"),
	"index of thousands":                  never(imageGo, "if len(index.Manifests) > indexMax"),
	"layer changed":                       {{pullGo, "got != d.layer.Digest.String() && !d.layer.Unsummed {", "got == \"\" {"}},
	"layer too long":                      never(pullGo, "if d.at > d.layer.Size"),
	"layer cut off":                       {{pullGo, "case d.at == d.layer.Size && err == io.EOF:", "case err == io.EOF:"}},
	"sent in a circle":                    never(registryGo, "if len(via) >= 5"),
}

// truths are lies that no check of ours is in the way of: nobody could make an
// image of them, or the registry says no.
var truths = []string{"no JSON", "nothing", "weak digest", "digest that is a path", "weak diffID", "index in itself", "layer damaged", "no layer", "forbidden", "no image", "out of order"}

// TestRegistryMutants: without the check that finds a lie, the lie is not
// refused, or not for what it is.
func TestRegistryMutants(t *testing.T) {
	for _, edits := range believers {
		if _, err := remake.Overlay(t.TempDir(), edits...); err != nil {
			t.Error(err)
		}
	}
	if !whole() {
		t.Skip("set LAUNCH_TEST=images to run it")
	}
	w := here(t)
	p := small(t)
	s := w.serve("127.0.0.1", nil)
	s.put(t, "box", "v1", p)
	tried := 0
	for _, c := range lies(t, s, p) {
		edits, ok := believers[c.name]
		if ok == slices.Contains(truths, c.name) {
			t.Errorf("%s: is there a check of ours in its way, or none?", c.name)
		}
		if !ok {
			continue
		}
		tried++
		t.Run(c.name, func(t *testing.T) {
			w := w.apart(t)
			s.lie(c)
			if complaint := w.refusal(c.words, "pull", c.ref); complaint != "" {
				t.Fatalf("with its check: %s", complaint)
			}
			w.bin = w.mutate(edits)
			complaint := w.refusal(c.words, "pull", c.ref)
			if complaint == "" {
				t.Error("without its check it is refused all the same")
			}
			t.Log(complaint)
		})
	}
	if tried != len(believers) {
		t.Errorf("%d lies of %d were told", tried, len(believers))
	}
}

// apart gives the world with a store of its own.
func (w *world) apart(t *testing.T) *world {
	n := *w
	n.T = t
	n.store = filepath.Join(t.TempDir(), "store")
	n.env = append(slices.Clone(w.env), "LAUNCH_STORE="+n.store)
	return &n
}

// TestCredentialMutants: one that shows credentials to every host that it asks
// still has them off when it is sent on; without that, a stranger sees them. And
// one that believes any registry about who gives tokens asks the stranger.
func TestCredentialMutants(t *testing.T) {
	if !whole() {
		t.Skip("set LAUNCH_TEST=images to run it")
	}
	w := here(t)
	p := small(t)
	secret := base64.StdEncoding.EncodeToString([]byte("user:secret"))
	stranger := w.serve("127.0.0.1", func(rw http.ResponseWriter, r *http.Request) bool {
		if b := p.blobs["sha256:"+filepath.Base(r.URL.Path)]; b != nil {
			rw.Write(b)
		} else {
			rw.Write([]byte(`{"token":"stolen"}`))
		}
		return true
	})
	basic := func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Basic "+secret {
			rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			rw.WriteHeader(401)
			return true
		}
		if _, d, ok := strings.Cut(r.URL.Path, "/blobs/sha256:"); ok {
			http.Redirect(rw, r, stranger.URL+"/storage/"+d, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	token := func(rw http.ResponseWriter, r *http.Request) bool {
		rw.Header().Set("WWW-Authenticate", `Bearer realm="`+stranger.URL+`/token",service="x"`)
		rw.WriteHeader(401)
		return true
	}
	s := w.serve("127.0.0.1", nil)
	s.put(t, "box", "v1", p)
	if err := os.MkdirAll(filepath.Join(w.dir, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, ".docker/config.json"), fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, s.host, secret), 0o600); err != nil {
		t.Fatal(err)
	}
	everywhere := edit{registryGo, "	resp, err := r.client.Do(req)\n", "	req.SetBasicAuth(\"user\", \"secret\")\n	resp, err := r.client.Do(req)\n"}
	for _, c := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request) bool
		edits []edit
		pulls bool
		told  bool
		// library: the edit is one of the library's.
		library bool
	}{
		{"sent on", basic, nil, true, false, false},
		{"sent on, shown everywhere", basic, []edit{everywhere}, true, false, false},
		{"sent on, shown everywhere and on the way", basic, []edit{everywhere, {registryGo, "		next.Header.Del(\"Authorization\")\n", ""}}, true, true, false},
		{"another's tokens", token, nil, false, false, false},
		{"another's tokens, believed", token, []edit{{"pkg/v1/remote/transport/bearer.go", "if ipaddr.IsPrivateOrLinkLocal(host) {", "if host == \"\" && ipaddr.IsPrivateOrLinkLocal(host) {"}}, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := w.apart(t)
			s.lie(lie{fault: c.fault})
			stranger.mu.Lock()
			stranger.seen = nil
			stranger.mu.Unlock()
			switch {
			case c.library:
				w.bin = w.mutateLibrary("github.com/google/go-containerregistry", c.edits[0])
			case c.edits != nil:
				w.bin = w.mutate(c.edits)
			}
			out, code := w.launch("pull", s.host+"/box:v1")
			if (code == 0) != c.pulls {
				t.Errorf("status %d\n%s", code, out)
			}
			told := false
			for _, r := range stranger.seen {
				told = told || strings.Contains(r, secret)
			}
			if told != c.told {
				t.Errorf("the stranger was told: %v, want %v\n%q", told, c.told, stranger.seen)
			}
		})
	}
}
