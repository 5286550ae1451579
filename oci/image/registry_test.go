package image

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// TestRedirect: how a registry may send us on.
func TestRedirect(t *testing.T) {
	req := func(text string) *http.Request {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{URL: u, Header: http.Header{}}
		r.Header.Set("Authorization", "secret")
		return r
	}
	for _, c := range []struct {
		via   []string
		to    string
		fails string
		keeps bool
	}{
		{[]string{"https://a/v2"}, "https://a/x", "", true},
		{[]string{"https://a/v2"}, "https://b/x", "", false},
		{[]string{"https://a/v2"}, "https://a:444/x", "", false},
		{[]string{"https://a/v2"}, "http://a/x", "without encryption", false},
		{[]string{"https://a/v2", "https://b/x"}, "http://a/x", "without encryption", false},
		{[]string{"http://a/v2"}, "http://a/x", "", true},
		{[]string{"http://a/1", "http://a/2", "http://a/3", "http://a/4", "http://a/5"}, "http://a/6", "more than five", false},
	} {
		var via []*http.Request
		for _, v := range c.via {
			via = append(via, req(v))
		}
		next := req(c.to)
		err := redirect(next, via)
		if (err != nil) != (c.fails != "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("%q to %s: %v, want %q", c.via, c.to, err, c.fails)
		}
		if err == nil && (next.Header.Get("Authorization") != "") != c.keeps {
			t.Errorf("%q to %s: the credentials go along: %v", c.via, c.to, !c.keeps)
		}
	}
}

func TestClass(t *testing.T) {
	for text, want := range map[string]reachOf{
		"127.0.0.1": own, "::1": own, "::ffff:127.0.0.1": own, "0.0.0.0": own, "169.254.169.254": own, "fe80::1": own, "224.0.0.1": own,
		"10.1.2.3": private, "192.168.0.1": private, "172.16.0.1": private, "fd00::1": private, "::ffff:10.0.0.1": private,
		"8.8.8.8": public, "2001:4860::1": public,
	} {
		if got := class(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
}

// TestNetwork: a registry that is not of this host can't have us speak to it,
// whatever it calls it; one that is, can.
func TestNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	dial := func(registry, addr string) error {
		c, err := network(registry).(*http.Transport).DialContext(context.Background(), "tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := dial("registry.example", "localhost:"+port); err == nil || !strings.Contains(err.Error(), "none of its business") {
		t.Errorf("a registry elsewhere sends us to localhost: %v", err)
	}
	if err := dial("127.0.0.1:"+port, "127.0.0.1:"+port); err != nil {
		t.Errorf("a registry of this host: %v", err)
	}
	both := network("127.0.0.1:" + port).(*http.Transport)
	for _, addr := range []string{"127.0.0.1:" + port, "localhost:" + port} {
		c, err := both.DialContext(context.Background(), "tcp", addr)
		if err != nil {
			t.Errorf("%s, for a registry of this host: %v", addr, err)
			continue
		}
		c.Close()
	}
}
