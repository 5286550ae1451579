package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"

	"launch/settings"
)

// seeds are texts that the two readers might see differently.
var seeds = []string{
	`null`, `{}`, `[]`, `1`, `"x"`, ``, ` `, "\ufeff{}", `{} x`, `{}{}`, `{"a"}`, `{"a":}`, `{,}`, `{"a":1,}`, `nul`, `{"root":nulL}`,
	`{"ociVersion":null,"process":null,"mounts":null,"annotations":null,"root":{"path":null}}`,
	`{"OCIVERSION":"1","ociversion":"2"}`, `{"ociVersion":"1","ociVersion":"2","ociVersion":null}`,
	`{"process":{"args":["a","b"],"args":["c"],"args":["d","e","f"]},"process":{"cwd":"/"}}`,
	`{"mounts":[{"type":"a","source":"b"},{"type":"c"}],"mounts":[{"type":"d"}],"mounts":[{},{},{}]}`,
	`{"annotations":{"a":"b","a":null,"c":"d"},"annotations":{"e":"f"}}`,
	`{"annotations":{"a":1}}`, `{"annotations":[]}`, `{"process":{"args":{}}}`, `{"process":{"args":"x"}}`, `{"process":[]}`,
	`{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":1.0}}}`, `{"process":{"user":{"uid":4294967295}}}`,
	`{"process":{"user":{"uid":4294967296}}}`, `{"process":{"user":{"uid":1e3}}}`, `{"process":{"user":{"uid":"1"}}}`, `{"process":{"oomScoreAdj":-0}}`,
	`{"process":{"user":{"uid":-0}}}`, `{"process":{"user":{"uid":01}}}`, `{"linux":{"resources":{"memory":{"limit":-9223372036854775808}}}}`,
	`{"linux":{"resources":{"memory":{"limit":-9223372036854775809}}}}`, `{"linux":{"resources":{"blockIO":{"weight":65536}}}}`,
	`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":1,"minor":2,"weight":3}]}}}}`,
	`{"linux":{"resources":{"rdma":{"x":{"hcaHandles":1},"x":{"hcaObjects":2}}}}}`,
	`{"hostname":"\u00e9\ud83d\ude00\ud83d\u0041\udc00\/\b\f\n\r\t\"\\"}`, `{"hostname":"\u12"}`, `{"hostname":"\x"}`, `{"hostname":"a` + "\xff" + `b"}`,
	`{"hostname":"\n` + "\xc3\x28" + `"}`, "{\"hostname\":\"a\nb\"}", `{"hostname":"` + "\u2028" + `"}`, `{"hostname":"\ud800\ud800\udc00"}`, `{"hostname":"\ud800\u"}`,
	`{"hoſtname":"long s","linuX":{"` + "\u212a" + `":1}}`, `{"hostname":"x`, `{"hostname":"\`, `{"hostname":"\u`, `{"hostname`,
	`{"windows":{"a":[1,2,{"b":"c"}]},"vm":1,"solaris":null}`, `{"x":[1,2.5e-3,-0,true,false,null,{"y":[]},"z"]}`, `{"x":[1 2]}`, `{"x":tru}`, `{"x":-}`, `{"x":1.}`, `{"x":.5}`, `{"x":1e}`,
	`{"process":{"terminal":"true"}}`, `{"process":{"terminal":1}}`, `{"process":{"terminal":true,"terminal":null}}`,
	`{"hooks":{"poststop":[null,{"path":"/a","timeout":null}]}}`, `{"linux":{"devices":[{"fileMode":438,"uid":null}]}}`,
}

// only leaves what the decoder reads.
func only(s *specs.Spec) {
	s.Windows, s.Solaris, s.VM, s.ZOS, s.FreeBSD = nil, nil, nil, nil, nil
}

// foreignOnly reports whether the whole text is right but for what another
// platform's part is made of, which isn't looked at.
func foreignOnly(text string) bool {
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &m) != nil {
		return false
	}
	found := false
	for name := range m {
		if fold(name, []string{"windows", "solaris", "vm", "zos", "freebsd"}) != "" {
			found = true
		}
	}
	return found
}

// same holds a text against encoding/json.
func same[T any](t *testing.T, text string, decode func(string, string) (*T, []settings.Warning, error), trim func(*T)) {
	t.Helper()
	got, warnings, err := decode("x.json", text)
	want := new(T)
	wantErr := json.Unmarshal([]byte(text), want)
	if (err != nil) != (wantErr != nil) {
		if err != nil && strings.Contains(err.Error(), "in each other") || err == nil && foreignOnly(text) {
			return
		}
		t.Fatalf("%q: error %v, encoding/json says %v", text, err, wantErr)
	}
	for i := range warnings {
		if w := &warnings[i]; w.Origin.Key == "" || w.Origin.Line == 0 || w.What == "" {
			t.Errorf("%q: warning %+v names no place", text, *w)
		}
	}
	if err != nil {
		e := err.(*settings.Error)
		if e.What == "" || e.Origin.Line < 1 || e.Origin.Line > 1+strings.Count(text, "\n") || !utf8.ValidString(e.What) {
			t.Errorf("%q: error %+v", text, *e)
		}
		return
	}
	trim(want)
	trim(got)
	if !reflect.DeepEqual(got, want) {
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		t.Fatalf("%q:\ngot  %s\nwant %s", text, a, b)
	}
}

func fuzzSeeds(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Add(Template)
	names, _ := filepath.Glob("testdata/*.json")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
}

// FuzzConfig: the decoder sees what encoding/json sees, and nothing it sees
// makes the conversion fall over.
func FuzzConfig(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, text string) {
		same(t, text, Decode, only)
		s, warnings, err := Read("/b", text)
		if err == nil && (s.Bundle == nil || s.Exec.Process == nil || len(s.Exec.Words) == 0 || s.Image.Directory == "" || s.Image.Directory[0] != '/') {
			t.Errorf("%q: incomplete settings", text)
		}
		for _, m := range s.Mounts {
			if m.Target == "" || m.Target[0] != '/' || m.Target == "/" || strings.Contains(m.Target, "/..") && strings.Contains(m.Target+"/", "/../") {
				t.Errorf("%q: mount on %q", text, m.Target)
			}
		}
		if err != nil {
			checkProblem(t, text, err.(*settings.Error))
		}
		for i := range warnings {
			checkProblem(t, text, &warnings[i])
		}
	})
}

func checkProblem(t *testing.T, text string, e *settings.Error) {
	t.Helper()
	if e.What == "" || e.Origin.Line < 1 || e.Origin.Line > 1+strings.Count(text, "\n") || strings.Contains(e.Value, "\n") {
		t.Errorf("%q: problem %+v", text, *e)
	}
}

// FuzzProcess does the same for a process alone.
func FuzzProcess(f *testing.F) {
	f.Add(`{"args":["a"],"cwd":"/","user":{"uid":1,"gid":2}}`)
	f.Add(`{"args":["a"],"cwd":"/","user":{"uid":1,"gid":2,"umask":18},"scheduler":{"policy":"SCHED_FIFO","priority":1},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4},"execCPUAffinity":{"initial":"0-3","final":"1"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		same(t, text, DecodeProcess, func(*specs.Process) {})
		same(t, text, DecodeResources, func(*specs.LinuxResources) {})
		p, _, err := DecodeProcess("p.json", text)
		if err != nil {
			return
		}
		e, _, err := ExecOf("p.json", p, nil)
		if err == nil && (len(e.Words) == 0 || e.Dir == "" || e.Dir[0] != '/') {
			t.Errorf("%q: incomplete", text)
		}
	})
}

// TestLimits: neither a huge text nor a deep one is read.
func TestLimits(t *testing.T) {
	_, _, err := Decode("c", strings.Repeat(" ", Limit+1))
	if err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a huge text: %v", err)
	}
	_, _, err = Decode("c", `{"x":`+strings.Repeat("[", 100000))
	if err == nil || !strings.Contains(err.Error(), "in each other") {
		t.Errorf("a deep text: %v", err)
	}
	_, _, err = Decode("c", `{"x":`+strings.Repeat("[", 400)+strings.Repeat("]", 400)+`}`)
	if err != nil {
		t.Errorf("a text that is deep enough: %v", err)
	}
}

// TestDecodeProblems holds what is said of texts that can't be read.
func TestDecodeProblems(t *testing.T) {
	var b strings.Builder
	for _, s := range append(seeds, "{\n\n\t\"process\": {\n\t\t\"arg\": [],\n\t\t\"cwd\": 1\n\t}\n}", "{\"process\": // no\n{}}") {
		_, warnings, err := Decode(File, s)
		for i := range warnings {
			b.WriteString(s + "\n\twarning: " + sentence(&warnings[i]) + "\n")
		}
		if err != nil {
			b.WriteString(s + "\n\t" + sentence(err.(*settings.Error)) + "\n")
		}
	}
	golden(t, "decode.txt", strings.ToValidUTF8(b.String(), "?"))
}

func TestLocate(t *testing.T) {
	const text = "{\n \"a\": [1,\n  {\"b/c\": 2,\n   \"d\": [\n3]}],\n \"A\": [4,\n5]}"
	for pointer, want := range map[string]int{"": 1, "/a": 6, "/a/1": 7, "/x": 1, "/a/9": 6} {
		if got := lineOf(text, pointer); got != want {
			t.Errorf("%s is on line %d, want %d", pointer, got, want)
		}
	}
	if got := lineOf("{\"a\":{\n\"b/c\":[\n1,\n2]}}", "/a/b~1c/1"); got != 4 {
		t.Errorf("line %d", got)
	}
}

func BenchmarkDecode(b *testing.B) {
	text, err := os.ReadFile("testdata/docker.json")
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, text string }{{"template", Template}, {"docker", string(text)}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Decode("c", c.text); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(c.name+"-read", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Read("/b", c.text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
