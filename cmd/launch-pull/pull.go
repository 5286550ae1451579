package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"launch/internal/cli"
	"launch/internal/sys"
	"launch/oci/image"
	"launch/oci/layer"
	"launch/oci/store"
	"launch/settings"
)

// pullAll gets the images that are named.
func pullAll(told cli.Told, words []string) int {
	if len(words) == 0 {
		return fail(&settings.Error{What: "no image was named", Hint: "launch pull [OPTION…] IMAGE…"})
	}
	platform := image.Platform()
	var err error
	if text := told.Get("platform"); text != "" {
		if platform, err = image.ParsePlatform(text); err != nil {
			return fail(&settings.Error{What: err.Error()})
		}
	}
	how, err := registries(told)
	if err != nil {
		return fail(err)
	}
	dir, err := where()
	if err != nil {
		return fail(err)
	}
	s, err := store.Open(dir)
	if err != nil {
		return fail(err)
	}
	defer s.Close()
	// Who interrupts us finds the store as it should be, but why leave half of a
	// layer for somebody to sweep?
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	for _, word := range words {
		r, err := reference(word)
		if err != nil {
			return fail(err)
		}
		p := &pull{store: s, name: r.String(), tell: newTeller(told, r.String()), nodes: told.Has("device-nodes")}
		p.limits, err = limits(told)
		if err != nil {
			return fail(err)
		}
		how.Scratch, how.Limits = s.Path+"/tmp", p.limits
		err = p.get(ctx, r, platform, how)
		if ctx.Err() != nil {
			err = errors.New("interrupted; the layers that are whole are kept, and the next pull goes on from there")
		}
		p.tell.end(err)
		if err != nil {
			return fail(&settings.Error{What: fmt.Sprintf("cannot pull %s: %v", r, err)})
		}
	}
	return 0
}

// pull is one image under way.
type pull struct {
	store  *store.Store
	name   string
	tell   *teller
	limits layer.Limits
	nodes  bool
	source image.Source
}

func (p *pull) get(ctx context.Context, r store.Reference, platform v1.Platform, how image.Options) error {
	var err error
	if p.source, err = image.Find(ctx, r, how); err != nil {
		return err
	}
	defer p.source.Close()
	i, err := image.Resolve(ctx, p.source, platform)
	if err != nil {
		return err
	}
	var ids []string
	for _, l := range i.Layers {
		ids = append(ids, l.DiffID)
	}
	claim, err := p.store.Claim(ids)
	if err != nil {
		return err
	}
	defer claim.Release()
	old, err := p.store.Find(p.name)
	if err != nil && !errors.Is(err, store.ErrNone) && !errors.Is(err, store.ErrOther) {
		return err
	}
	if err == nil && old.Digest == i.Digest && old.Platform == i.Platform && slices.Equal(old.Layers, ids) && !p.nodes {
		p.tell.there(old)
		return nil
	}
	p.tell.start(i)
	reports, err := p.layers(ctx, i.Layers)
	if err != nil {
		return err
	}
	kept := store.Image{Name: p.name, Digest: i.Digest, Platform: i.Platform, Layers: ids, Config: json.RawMessage(i.Config)}
	var implied [][]string
	for n, l := range i.Layers {
		kept.Packed += l.Size
		kept.Size += reports[n].Size
		implied = append(implied, reports[n].Implied)
	}
	root, dirs, err := p.store.Dirs(ids, implied)
	if err != nil {
		return err
	}
	kept.Root = root
	over, mine, err := p.store.Over(dirs)
	if err != nil {
		return err
	}
	defer mine.Release()
	kept.Over = over
	if err := p.store.Seal(kept.All()); err != nil {
		return err
	}
	return p.store.Keep(kept)
}

// layers sees to it that all layers are in the store.
func (p *pull) layers(ctx context.Context, list []image.Layer) ([]layer.Report, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reports := make([]layer.Report, len(list))
	var mu sync.Mutex
	var failed error
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil && err != nil {
			failed = err
			cancel()
		}
	}
	// Each layer once, even if the image has it twice.
	first := map[string]int{}
	var todo []int
	for n, l := range list {
		if _, ok := first[l.DiffID]; !ok {
			first[l.DiffID] = n
			todo = append(todo, n)
		}
	}
	work := func(queue []int, wait bool) (busy []int) {
		next := make(chan int)
		go func() {
			defer close(next)
			for _, n := range queue {
				select {
				case next <- n:
				case <-ctx.Done():
					return
				}
			}
		}()
		var group sync.WaitGroup
		for range min(len(queue), max(2, min(4, runtime.NumCPU()))) {
			group.Go(func() {
				var u *unpacker
				defer func() {
					if u != nil {
						u.end()
					}
				}()
				for n := range next {
					r, later, err := p.one(ctx, list[n], &u, wait)
					if later {
						mu.Lock()
						busy = append(busy, n)
						mu.Unlock()
						continue
					}
					reports[n] = r
					note(err)
				}
			})
		}
		group.Wait()
		return busy
	}
	// Those that somebody else makes just now come last.
	if busy := work(todo, false); failed == nil && len(busy) > 0 {
		work(busy, true)
	}
	if failed != nil {
		return nil, failed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for n, l := range list {
		reports[n] = reports[first[l.DiffID]]
		if nodes := len(reports[n].Nodes); nodes > 0 && !p.nodes {
			p.tell.skipped(l, reports[n].Nodes)
		}
	}
	return reports, nil
}

// one sees to one layer; busy says that somebody else is at it.
func (p *pull) one(ctx context.Context, l image.Layer, u **unpacker, wait bool) (r layer.Report, busy bool, err error) {
	half, busy, err := p.store.Begin(l.DiffID, wait)
	if err != nil || busy {
		return r, busy, err
	}
	if half == nil {
		p.tell.layer(l, "kept")
		if err = p.store.Report(l.DiffID, &r); err == nil && p.nodes && len(r.Nodes) > 0 {
			// It was unpacked without them.
			var n int
			if n, err = p.store.Tree(l.DiffID); err == nil {
				err = layer.Make(n, r.Nodes)
				sys.Close(n)
			}
		}
		return r, false, err
	}
	defer half.Abandon()
	fault := func(err error) (layer.Report, bool, error) {
		return r, false, fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	if *u == nil {
		if *u, err = startUnpacker(p.store.Path + "/tmp"); err != nil {
			return fault(err)
		}
	}
	from := &download{ctx: ctx, source: p.source, layer: l, sum: sha256.New(), tell: p.tell}
	defer from.close()
	r, err = (*u).layer(order{Dir: half.Name + "/tree", Packed: l.Size, Limits: p.limits}, from)
	if err != nil {
		*u = nil
		return fault(err)
	}
	if r.DiffID != l.DiffID {
		return fault(fmt.Errorf("it expands to %s, and should to %s", r.DiffID, l.DiffID))
	}
	if p.nodes && len(r.Nodes) > 0 {
		n, err := half.Tree()
		if err == nil {
			err = layer.Make(n, r.Nodes)
			sys.Close(n)
		}
		if err != nil {
			return fault(err)
		}
	}
	if err := half.Done(r); err != nil {
		return fault(err)
	}
	p.tell.layer(l, "done")
	return r, false, nil
}

// download reads a packed layer, goes on after a broken transfer where that
// broke off, and ends well only if size and digest are right.
type download struct {
	ctx    context.Context
	source image.Source
	layer  image.Layer
	sum    hash.Hash
	tell   *teller
	r      io.ReadCloser
	at     int64
	tries  int
	err    error
}

// attempts is how often in a row a transfer may break off without a byte.
const attempts = 5

func (d *download) Read(b []byte) (int, error) {
	for d.err == nil {
		if d.r == nil {
			if d.r, d.err = d.source.Open(d.ctx, d.layer.Descriptor, d.at); d.err != nil {
				d.r = nil
				d.again()
				continue
			}
		}
		n, err := d.r.Read(b)
		if n > 0 {
			d.tries = 0
			d.at += int64(n)
			d.sum.Write(b[:n])
			d.tell.progress(d.layer, d.at)
			if d.at > d.layer.Size {
				d.err = fmt.Errorf("it has more than the %d bytes that it should have", d.layer.Size)
				return 0, d.err
			}
			return n, nil
		}
		switch {
		case err == nil:
		case d.at == d.layer.Size && err == io.EOF:
			d.err = io.EOF
			if got := "sha256:" + hex.EncodeToString(d.sum.Sum(nil)); got != d.layer.Digest.String() && !d.layer.Unsummed {
				d.err = fmt.Errorf("it has the digest %s", got)
			}
		default:
			if d.err = err; err == io.EOF {
				d.err = fmt.Errorf("it ends after %d of %d bytes", d.at, d.layer.Size)
			}
			d.close()
			d.again()
		}
	}
	return 0, d.err
}

// again decides whether what went wrong may go well the next time.
func (d *download) again() {
	var status *image.StatusError
	if errors.As(d.err, &status) && !status.Later() {
		return
	}
	if d.tries++; d.tries >= attempts || d.ctx.Err() != nil || strings.HasPrefix(d.err.Error(), "open ") {
		return
	}
	select {
	case <-time.After(100 * time.Millisecond << d.tries):
		d.err = nil
	case <-d.ctx.Done():
	}
}

func (d *download) close() {
	if d.r != nil {
		d.r.Close()
		d.r = nil
	}
}

// limits reads --max-size=.
func limits(told cli.Told) (layer.Limits, error) {
	l := layer.Limits{Mine: os.Geteuid() != 0}
	text := told.Get("max-size")
	if text == "" {
		return l, nil
	}
	n, err := settings.ParseSize(text)
	if err == nil && (n == 0 || n > 1<<50) {
		err = errors.New("it must be between 1 byte and 1024T")
	}
	if err != nil {
		return layer.Limits{}, &settings.Error{What: "cannot use --max-size=" + text + ": " + err.Error()}
	}
	l.Size = int64(n)
	return l, nil
}

// registriesFile says how registries are spoken to, for all users.
const registriesFile = "/etc/launch/registries.json"

// registries gives what the host's file and the options say.
func registries(told cli.Told) (image.Options, error) {
	var o image.Options
	name := registriesFile
	if n := os.Getenv("LAUNCH_REGISTRIES"); n != "" {
		name = n
	}
	text, err := os.ReadFile(name)
	if err == nil {
		d := json.NewDecoder(strings.NewReader(string(text)))
		d.DisallowUnknownFields()
		err = d.Decode(&o)
	}
	if err != nil && !os.IsNotExist(err) {
		return o, &settings.Error{What: fmt.Sprintf("cannot read %s: %v", name, err), Hint: `{"plain-http": ["HOST:PORT"], "mirrors": {"REGISTRY": ["HOST[/PATH]"]}}`}
	}
	o.PlainHTTP = append(o.PlainHTTP, told.All("plain-http")...)
	for _, m := range told.All("mirror") {
		of, at, ok := strings.Cut(m, "=")
		if !ok || of == "" || at == "" {
			return o, &settings.Error{What: fmt.Sprintf("cannot use --mirror=%s: it must be REGISTRY=HOST[/PATH]", m)}
		}
		if o.Mirrors == nil {
			o.Mirrors = map[string][]string{}
		}
		o.Mirrors[of] = append(o.Mirrors[of], at)
	}
	return o, nil
}
