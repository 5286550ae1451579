package settings

import (
	"strings"
	"testing"

	"launch/internal/origin"
)

func TestPort(t *testing.T) {
	for text, want := range map[string]string{
		"80": "80", "tcp:80": "80", "udp:80": "udp:80", "1:2": "1:2", "udp:1:65535": "udp:1:65535", "0x50": "80", "+80": "80", "80:0x50": "80", "6:80": "6:80",
		"080": "", " 80": "", "80 ": "", "0": "", "65536": "", "-1": "", "80:0": "", "80:65536": "", "80:": "", ":80": "", "": "", ":": "", "tcp:": "", "tcp::80": "",
		"tcp:80:90:1": "", "80:90:1": "", "80:080": "", "80-90": "", "80/tcp": "", "99999999999": "", "80: 90": "", "80 :90": "", "udp:80,tcp:80": "", "8_0": "",
		"http": "", "TCP:80": "", "sctp:80": "", "tcp:http": "", "+ 80": "",
	} {
		got := ""
		v, err := parsePort(Place{}, text)
		if err == nil {
			got = v.(Port).String()
		}
		if got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"sctp:80": `unknown protocol "sctp" (known: tcp, udp)`, "http": `"http" is no port (1 to 65535)`, "80:": `"" is no port (1 to 65535)`, "1:2:3": "more than a protocol and two ports",
	} {
		if _, err := parsePort(Place{}, text); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestPortTwice: in a file the first line counts, and the file's ports take the
// place of the command line's, or the other way round, without its network.
func TestPortTwice(t *testing.T) {
	file := func(words ...string) []Assignment {
		list := say(t, words...)
		for i := range list {
			list[i].Origin = origin.Origin{Source: origin.File, Path: "web.nspawn", Line: i + 1, Key: list[i].Option.Key + "="}
		}
		return list
	}
	for _, c := range []struct {
		flags, keys string
		files       FileMode
		want        string
		warnings    int
	}{
		{"", "private-network=yes port=80 port=80:81 port=udp:80", FileYes, "80 udp:80", 1},
		{"port=81", "private-network=yes port=80", FileYes, "81", 0},
		{"private-network=yes", "port=80", FileYes, "80", 0},
		{"private-network=yes port=80", "port=80", FileOverride, "80", 0},
		{"private-network=yes port=80", "port=82 port=82", FileOverride, "82", 1},
	} {
		flags := say(t, strings.Fields(c.flags)...)
		s, _, warnings, err := Resolve(append(flags, file(strings.Fields(c.keys)...)...), Surroundings{Place: Place{Cwd: "/srv/web"}, Files: c.files})
		var got []string
		for _, p := range s.Network.Ports {
			got = append(got, p.String())
		}
		if err != nil || strings.Join(got, " ") != c.want || len(warnings) != c.warnings {
			t.Errorf("%s, %s: %q, %v, %v", c.flags, c.keys, got, warnings, err)
		}
	}
}
