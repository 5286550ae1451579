package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"launch/internal/cli"
	"launch/internal/probe"
	"launch/oci/image"
	"launch/oci/layer"
	"launch/oci/store"
)

// teller says how far a pull is: a bar on a terminal, a line of JSON for each
// event, or a word at the end.
type teller struct {
	mu     sync.Mutex
	name   string
	json   bool
	quiet  bool
	bar    bool
	told   time.Time
	at     map[string]int64 // packed bytes of each layer, by digest
	whole  map[string]int64
	layers int
	done   int
	digest string
	same   bool
}

func newTeller(told cli.Told, name string) *teller {
	t := &teller{name: name, json: told.Has("json"), quiet: told.Has("quiet"), at: map[string]int64{}, whole: map[string]int64{}}
	t.bar = !t.json && !t.quiet && probe.Terminal(2)
	return t
}

// event is a line of --json.
type event struct {
	Event  string `json:"event"` // start, progress, layer, skipped, done, error
	Image  string `json:"image"`
	Digest string `json:"digest,omitempty"` // of the manifest
	Layers int    `json:"layers,omitempty"` // how many
	Layer  string `json:"layer,omitempty"`  // a digest
	State  string `json:"state,omitempty"`  // of a layer: kept or done; of an image: kept or pulled
	Done   int64  `json:"done,omitempty"`   // bytes
	Size   int64  `json:"size,omitempty"`   // bytes
	Path   string `json:"path,omitempty"`   // of a device node
	Error  string `json:"error,omitempty"`
}

func (t *teller) say(e event) {
	e.Image = t.name
	json.NewEncoder(os.Stdout).Encode(e)
}

func (t *teller) start(i image.Image) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.digest, t.layers = i.Digest, len(i.Layers)
	size := int64(0)
	for _, l := range i.Layers {
		t.whole[l.Digest.String()] = l.Size
	}
	for _, n := range t.whole {
		size += n
	}
	t.layers = len(t.whole)
	if t.json {
		t.say(event{Event: "start", Digest: i.Digest, Layers: t.layers, Size: size})
	}
}

// often is how much time is between two looks at a pull.
const often = 100 * time.Millisecond

func (t *teller) progress(l image.Layer, at int64) {
	if !t.json && !t.bar {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at[l.Digest.String()] = at
	if now := time.Now(); now.Sub(t.told) > often {
		t.told = now
		if t.json {
			t.say(event{Event: "progress", Layer: l.Digest.String(), Done: at, Size: l.Size})
		}
		t.draw()
	}
}

func (t *teller) layer(l image.Layer, state string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done++
	t.at[l.Digest.String()] = l.Size
	if t.json {
		t.say(event{Event: "layer", Layer: l.Digest.String(), State: state, Size: l.Size})
	}
	t.draw()
}

// draw shows the bar.
func (t *teller) draw() {
	if !t.bar {
		return
	}
	var at, whole int64
	for d, n := range t.whole {
		at, whole = at+t.at[d], whole+n
	}
	const width = 30
	filled := width
	if whole > 0 {
		filled = int(at * width / whole)
	}
	fmt.Fprintf(os.Stderr, "\r%s: [%s%s] %s of %s, %d of %d layers\x1b[K", cli.Name,
		strings.Repeat("#", filled), strings.Repeat("-", width-filled), bytes(at), bytes(whole), t.done, t.layers)
}

// skipped lists device nodes that were not made.
func (t *teller) skipped(l image.Layer, nodes []layer.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range nodes {
		if t.json {
			t.say(event{Event: "skipped", Layer: l.Digest.String(), Path: n.Path})
		} else if !t.quiet {
			t.clear()
			fmt.Fprintf(os.Stderr, "%s: left out the device node %q (%d:%d)\n", cli.Name, n.Path, n.Major, n.Minor)
		}
	}
}

func (t *teller) clear() {
	if t.bar {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

func (t *teller) there(i store.Image) {
	t.digest, t.same = i.Digest, true
}

func (t *teller) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clear()
	state := "pulled"
	if t.same {
		state = "kept"
	}
	switch {
	case t.json && err != nil:
		t.say(event{Event: "error", Error: err.Error()})
	case t.json:
		t.say(event{Event: "done", Digest: t.digest, State: state})
	case err == nil && !t.quiet && t.same:
		fmt.Fprintf(os.Stderr, "%s: %s is up to date\n", cli.Name, t.name)
	case err == nil && !t.quiet:
		fmt.Fprintf(os.Stderr, "%s: pulled %s, %s\n", cli.Name, t.name, t.digest)
	}
}
