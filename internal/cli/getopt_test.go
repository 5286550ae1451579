package cli

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the stored vectors and goldens anew")

// oracleTable has every kind of neighbourhood that the rules tell apart:
// prefixes of each other, same and different argument kinds, shared ids.
var oracleTable = []option{
	{"directory", 'D', required, 1},
	{"machine", 'M', required, 2},
	{"boot", 'b', none, 3},
	{"as-pid2", 'a', none, 4},
	{"volatile", 0, optional, 5},
	{"verity-data", 0, required, 6},
	{"version", 0, none, 7},
	{"bind", 0, required, 8},
	{"bind-ro", 0, required, 9},
	{"bind-user", 0, required, 10},
	{"private-users", 0, optional, 11},
	{"private-users-ownership", 0, required, 12},
	{"private-network", 0, none, 13},
	{"", 'U', none, 14},
	{"", 'o', optional, 15},
	{"keep-unit", 'k', none, 16},
	{"keep-unity", 0, none, 16},
	{"keep-unix", 0, optional, 16},
	{"setenv", 'E', required, 17},
	{"settings", 0, required, 18},
}

var pieces = []string{
	"--", "-", "", "--boot", "--boot=no", "--boo", "--b", "--bi", "--bind", "--bind=/a:/b", "--bind-", "--bind-ro", "--bind-r=x",
	"--v", "--ve", "--ver", "--verity=/x", "--vo", "--vol=state", "--volatile", "--volatile=", "--pri", "--private", "--private-users",
	"--private-users=pick", "--private-users-o", "--private-users-own=map", "--private-n", "--private-network=1", "--dir=/", "--directory",
	"--keep", "--keep-unit", "--keep-un", "--keep-unit=3", "--keep-unix=4", "--nope", "--nope=3", "--=", "--=x", "---", "---boot", "--set",
	"--sete", "--setenv=A=B", "-D", "-D/", "-D=/", "-bD", "-xbD", "-abD/srv", "-ab", "-U", "-o", "-ox", "-bo", "-bob", "-Uk", "-z", "-az",
	"-:", "-a:", "-;", "-b-", "-E", "-EA=B", "/srv", "ls", "-la", "--color", "x y", "-W", "-Mfoo", "-M", "-é", "--bøøt",
}

// outcome runs our getopt and writes down what happens.
func outcome(args []string) string {
	var b strings.Builder
	rest, err := getopt(args, oracleTable, func(w word) error {
		if w.told {
			fmt.Fprintf(&b, "%d=%q ", w.id, w.value)
		} else {
			fmt.Fprintf(&b, "%d ", w.id)
		}
		return nil
	})
	if err != nil {
		return b.String() + "error " + err.Error()
	}
	return b.String() + fmt.Sprintf("rest %q", rest)
}

// oracleProgram is glibc's getopt_long over the same table. A command line is
// a count on a line of its own, then each word as a length and its bytes.
func oracleProgram() string {
	var longs, shorts strings.Builder
	for _, o := range oracleTable {
		kind := [...]string{"no_argument", "required_argument", "optional_argument"}[o.arg]
		if o.long != "" {
			fmt.Fprintf(&longs, "{%q, %s, NULL, %d},", o.long, kind, 1000+o.id)
		}
		if o.short != 0 {
			fmt.Fprintf(&shorts, "%c%s", o.short, strings.Repeat(":", int(o.arg)))
		}
	}
	ids := ""
	for _, o := range oracleTable {
		if o.short != 0 {
			ids += fmt.Sprintf("if (c == '%c') return %d;", o.short, o.id)
		}
	}
	return `#define _GNU_SOURCE
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static struct option longs[] = {` + longs.String() + `{0}};
static int id(int c) { if (c >= 1000) return c - 1000; ` + ids + ` return 0; }
static void quoted(const char *s) { putchar('<'); for (; *s; s++) printf("%02x", (unsigned char)*s); putchar('>'); }
int main(void) {
	int n;
	stderr = stdout;
	while (scanf("%d\n", &n) == 1) {
		char **v = calloc(n + 2, sizeof *v);
		v[0] = "launch";
		for (int i = 1; i <= n; i++) {
			int l;
			if (scanf("%d", &l) != 1) return 1;
			getchar();
			v[i] = calloc(l + 1, 1);
			if (l && fread(v[i], l, 1, stdin) != 1) return 1;
			getchar();
		}
		optind = 0;
		int c = 0;
		while ((c = getopt_long(n + 1, v, "+` + shorts.String() + `", longs, NULL)) != -1) {
			if (c == '?') break;
			printf("%d", id(c));
			if (optarg) { putchar('='); quoted(optarg); }
			putchar(' ');
		}
		if (c != '?') {
			printf("rest ");
			for (int i = optind; i <= n; i++) quoted(v[i]);
			putchar('\n');
		}
		fflush(stdout);
	}
	return 0;
}
`
}

// canonical is outcome in the oracle's notation.
func canonical(args []string) string {
	var b strings.Builder
	rest, err := getopt(args, oracleTable, func(w word) error {
		fmt.Fprintf(&b, "%d", w.id)
		if w.told {
			fmt.Fprintf(&b, "=<%x>", w.value)
		}
		b.WriteByte(' ')
		return nil
	})
	if err != nil {
		return b.String() + "launch: " + err.Error()
	}
	b.WriteString("rest ")
	for _, w := range rest {
		fmt.Fprintf(&b, "<%x>", w)
	}
	return b.String()
}

func randomLine(r *rand.Rand) []string {
	args := make([]string, r.IntN(6))
	for i := range args {
		args[i] = pieces[r.IntN(len(pieces))]
		// Every third one is cut short or put together with another.
		switch r.IntN(6) {
		case 0:
			args[i] = args[i][:r.IntN(len(args[i])+1)]
		case 1:
			args[i] += pieces[r.IntN(len(pieces))]
		}
	}
	return args
}

// TestGetoptOracle compares with the C library's getopt_long.
func TestGetoptOracle(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("no C compiler to build the oracle with")
	}
	dir := t.TempDir()
	src, bin := filepath.Join(dir, "oracle.c"), filepath.Join(dir, "oracle")
	if err := os.WriteFile(src, []byte(oracleProgram()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cc, "-o", bin, src).CombinedOutput(); err != nil {
		t.Skipf("the oracle can't be built here: %v\n%s", err, out)
	}
	const lines = 20000
	r := rand.New(rand.NewPCG(1, 2))
	var in bytes.Buffer
	all := make([][]string, lines)
	for i := range all {
		all[i] = randomLine(r)
		fmt.Fprintf(&in, "%d\n", len(all[i]))
		for _, w := range all[i] {
			fmt.Fprintf(&in, "%d %s\n", len(w), w)
		}
	}
	cmd := exec.Command(bin)
	cmd.Stdin = &in
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(bytes.NewReader(out))
	errors := 0
	for i, args := range all {
		if !scan.Scan() {
			t.Fatalf("the oracle stopped at line %d of %d", i, lines)
		}
		got, want := canonical(args), scan.Text()
		if got != want {
			t.Errorf("%q\n got %s\nwant %s", args, got, want)
			if errors++; errors > 5 {
				t.FailNow()
			}
		}
	}
}

// TestGetoptVectors holds the same without a C compiler; the file was written
// while the oracle agreed.
func TestGetoptVectors(t *testing.T) {
	const file = "testdata/getopt.txt"
	r := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	for _, p := range pieces {
		fmt.Fprintf(&b, "%q => %s\n", []string{p, "next"}, outcome([]string{p, "next"}))
	}
	for range 300 {
		args := randomLine(r)
		fmt.Fprintf(&b, "%q => %s\n", args, outcome(args))
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	compareLines(t, b.String(), string(want))
}

func compareLines(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		var x, y string
		if i < len(g) {
			x = g[i]
		}
		if i < len(w) {
			y = w[i]
		}
		if x != y {
			t.Errorf("line %d\n got %s\nwant %s", i+1, x, y)
		}
	}
}

func FuzzGetopt(f *testing.F) {
	f.Add("-xbD\x00/srv\x00ls")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\x00")
		rest, err := getopt(args, oracleTable, func(word) error { return nil })
		if err == nil && strings.Join(args[len(args)-len(rest):], "\x00") != strings.Join(rest, "\x00") {
			t.Errorf("%q: the rest %q is not the end of the line", args, rest)
		}
	})
}
