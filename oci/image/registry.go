package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"launch/oci/layer"
	"launch/oci/store"
)

// Options say how registries are spoken to, and where there is room.
type Options struct {
	// PlainHTTP are registries that speak without encryption; Mirrors what is
	// asked before a registry, in order.
	PlainHTTP []string            `json:"plain-http"`
	Mirrors   map[string][]string `json:"mirrors"`
	// Scratch is a directory for an archive that is packed, which is expanded
	// first, within the limits of a layer.
	Scratch string       `json:"-"`
	Limits  layer.Limits `json:"-"`
	// Keys gives credentials; nil: what the usual files and programs say.
	Keys authn.Keychain `json:"-"`
	// Transport is how hosts are reached; nil: by network, as Dialer has it.
	Transport http.RoundTripper `json:"-"`
}

// registry is a repository of a registry.
type registry struct {
	repo   name.Repository
	ref    string
	digest string
	client *http.Client
	scheme string
}

// mirrored asks several registries for the same, and stays with the first that
// has it.
type mirrored struct {
	all   []func() (*registry, error)
	names []string
	mu    sync.Mutex
	chose *registry
}

func openRegistry(r store.Reference, o Options) (Source, error) {
	m := &mirrored{names: append(slices.Clone(o.Mirrors[r.Registry]), r.Registry)}
	for _, host := range m.names {
		m.all = append(m.all, func() (*registry, error) { return reach(r, host, o) })
	}
	return m, nil
}

// reach prepares a repository; it finds out how the registry wants to be asked.
func reach(r store.Reference, place string, o Options) (*registry, error) {
	host, prefix, _ := strings.Cut(place, "/")
	var how []name.Option
	for _, plain := range o.PlainHTTP {
		if plain == host {
			how = append(how, name.Insecure)
		}
	}
	repository := r.Repository
	if prefix != "" {
		repository = strings.Trim(prefix, "/") + "/" + repository
	}
	if host == "docker.io" {
		host = name.DefaultRegistry
	}
	repo, err := name.NewRepository(host+"/"+repository, how...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	keys := o.Keys
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	auth, err := keys.Resolve(repo)
	if err != nil {
		return nil, fmt.Errorf("find the credentials for %s: %w", host, err)
	}
	inner := o.Transport
	if inner == nil {
		inner = network(repo.RegistryStr())
	}
	t, err := transport.NewWithContext(context.Background(), repo.Registry, auth, inner, []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, fmt.Errorf("reach the registry %s: %w", host, brief(err))
	}
	return &registry{repo: repo, ref: r.Tag, digest: r.Digest, scheme: repo.Scheme(), client: &http.Client{Transport: t, CheckRedirect: redirect}}, nil
}

// brief shortens what the library says of a failed request.
func brief(err error) error {
	var e *transport.Error
	if errors.As(err, &e) {
		switch e.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return errors.New("it refuses the credentials, or wants some (status " + fmt.Sprint(e.StatusCode) + ")")
		}
		return fmt.Errorf("it answers with status %d", e.StatusCode)
	}
	return err
}

// redirect bounds how often, and where, a registry may send us on: what was
// asked for with encryption is not fetched without.
func redirect(next *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("the registry sends us on more than five times")
	}
	if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
		return fmt.Errorf("the registry sends us on to %s, without encryption", next.URL.Host)
	}
	if next.URL.Host != via[0].URL.Host {
		next.Header.Del("Authorization")
	}
	return nil
}

// reachOf is how far an address is: the host itself, a private network, or
// everybody's.
type reachOf int

const (
	own reachOf = iota
	private
	public
)

func class(a netip.Addr) reachOf {
	a = a.Unmap()
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.IsLinkLocalUnicast(), a.IsMulticast():
		return own
	case a.IsPrivate():
		return private
	}
	return public
}

// network reaches hosts by TCP. A registry may send us on only to addresses
// that are as far away as its own: one out there can't have us ask the host's
// own services, whatever name it gives them.
func network(registry string) http.RoundTripper {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	d := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 16
	t.ResponseHeaderTimeout = time.Minute
	t.DisableCompression = true
	var mu sync.Mutex
	least := public
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		to, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			return c, nil
		}
		h, _, _ := net.SplitHostPort(addr)
		mu.Lock()
		defer mu.Unlock()
		if h == host {
			least = min(least, class(to.Addr()))
		} else if proxied(t, addr) {
			return c, nil
		} else if class(to.Addr()) < least {
			c.Close()
			return nil, fmt.Errorf("the registry %s sends us on to %s (%s), which is none of its business", registry, h, to.Addr())
		}
		return c, nil
	}
	return t
}

// proxied tells whether an address is that of the proxy that the caller told us
// to use.
func proxied(t *http.Transport, addr string) bool {
	for _, scheme := range []string{"http", "https"} {
		r, err := http.NewRequest("GET", scheme+"://registry.invalid/", nil)
		if err != nil {
			continue
		}
		if u, err := t.Proxy(r); err == nil && u != nil {
			at := u.Host
			if u.Port() == "" {
				at = net.JoinHostPort(u.Hostname(), map[string]string{"https": "443"}[u.Scheme])
			}
			if at == addr || u.Hostname()+":80" == addr {
				return true
			}
		}
	}
	return false
}

// accept are the kinds of manifests that we can read.
var accept = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1), string(types.DockerManifestList), string(types.DockerManifestSchema2),
}, ", ")

// Root asks one registry after the other.
func (m *mirrored) Root(ctx context.Context) (Blob, error) {
	var errs []error
	for n, open := range m.all {
		r, err := open()
		var b Blob
		if err == nil {
			b, err = r.root(ctx)
		}
		if err == nil {
			m.mu.Lock()
			m.chose = r
			m.mu.Unlock()
			return b, nil
		}
		if ctx.Err() != nil {
			return b, ctx.Err()
		}
		if len(m.all) > 1 {
			err = fmt.Errorf("%s: %w", m.names[n], err)
		}
		errs = append(errs, err)
	}
	return Blob{}, errors.Join(errs...)
}

func (m *mirrored) Manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return m.chose.get(ctx, "manifests/"+d.Digest.String(), 0)
}

func (m *mirrored) Open(ctx context.Context, d v1.Descriptor, from int64) (io.ReadCloser, error) {
	return m.chose.get(ctx, "blobs/"+d.Digest.String(), from)
}

func (m *mirrored) Close() error {
	if m.chose != nil {
		m.chose.client.CloseIdleConnections()
	}
	return nil
}

func (r *registry) root(ctx context.Context) (Blob, error) {
	ref := r.ref
	if r.digest != "" {
		ref = r.digest
	}
	resp, err := r.do(ctx, "manifests/"+ref, 0)
	if err != nil {
		return Blob{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, manifestMax+1))
	if err != nil {
		return Blob{}, fmt.Errorf("read the manifest: %w", err)
	}
	if len(b) > manifestMax {
		return Blob{}, fmt.Errorf("the manifest has more than %d bytes", manifestMax)
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	blob := Blob{Data: b, MediaType: types.MediaType(strings.TrimSpace(kind)), Digest: r.digest}
	if blob.Digest == "" {
		blob.Digest = resp.Header.Get("Docker-Content-Digest")
	}
	return blob, nil
}

// get reads something of the repository, from a place on.
func (r *registry) get(ctx context.Context, what string, from int64) (io.ReadCloser, error) {
	resp, err := r.do(ctx, what, from)
	if err != nil {
		return nil, err
	}
	if from > 0 && resp.StatusCode != http.StatusPartialContent {
		// It knows no ranges: what we have is read again.
		if _, err := io.CopyN(io.Discard, resp.Body, from); err != nil {
			resp.Body.Close()
			return nil, err
		}
	}
	return resp.Body, nil
}

func (r *registry) do(ctx context.Context, what string, from int64) (*http.Response, error) {
	u := r.scheme + "://" + r.repo.RegistryStr() + "/v2/" + r.repo.RepositoryStr() + "/" + what
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(what, "manifests/") {
		req.Header.Set("Accept", accept)
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && from > 0 {
		return resp, nil
	}
	resp.Body.Close()
	kind, _, _ := strings.Cut(what, "s/")
	return nil, &StatusError{r.repo.RegistryStr(), kind, resp.StatusCode}
}

// StatusError is an answer of a registry other than what it was asked for: a
// manifest or a blob.
type StatusError struct {
	Registry, What string
	Status         int
}

// Later tells whether it may be another one if it is asked again.
func (e *StatusError) Later() bool {
	return e.Status >= 500 || e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout
}

func (e *StatusError) Error() string {
	switch e.Status {
	case http.StatusNotFound:
		return fmt.Sprintf("the registry %s has no such image (%s not found)", e.Registry, e.What)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("the registry %s refuses the credentials, or wants some (status %d)", e.Registry, e.Status)
	}
	return fmt.Sprintf("the registry %s answers with status %d", e.Registry, e.Status)
}
