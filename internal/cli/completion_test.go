package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"launch/settings"
)

// shellFile gives the completion as it is now, and the shell to try it with.
func shellFile(t *testing.T, name string) (shell, file string) {
	t.Helper()
	shell, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	for _, s := range Shells {
		if s.Name == name {
			file = filepath.Join(t.TempDir(), s.File)
			if err := os.WriteFile(file, []byte(s.Completion()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return shell, file
}

// TestCompletionFiles: the files that are installed are those of the table.
func TestCompletionFiles(t *testing.T) {
	for _, s := range Shells {
		there, err := os.ReadFile(filepath.Join("..", "..", "completions", s.File))
		if err != nil {
			t.Error(err)
			continue
		}
		if string(there) != s.Completion() {
			t.Errorf("completions/%s is not what the option table gives: run `go generate ./man`", s.File)
		}
	}
}

// TestCompletionRows: what a shell offers is what launch takes.
func TestCompletionRows(t *testing.T) {
	for _, s := range Shells {
		said := map[string]bool{}
		for _, w := range strings.FieldsFunc(s.Completion(), func(c rune) bool { return strings.ContainsRune(" \t\n'*()[]|=", c) }) {
			said[w] = true
		}
		for i := range settings.Options {
			o := &settings.Options[i]
			if o.Flag == "" || o.Topic == "" && !o.Later {
				continue
			}
			offers := said["--"+o.Flag]
			if s.Name == "fish" {
				offers = strings.Contains(s.Completion(), " -l "+o.Flag+" ")
			}
			if offers == o.Later {
				t.Errorf("%s offers --%s: %v, but launch takes it: %v", s.Name, o.Flag, offers, !o.Later)
			}
		}
	}
}

// lines are a shell's answers for a directory with the tree web and the file
// note. A line ends where the cursor is; not is what must not be offered.
var lines = []struct {
	line string
	want string
	not  string
}{
	{"launch --vol", "--volatile --volatile=", ""},
	{"launch --volatile=", "no yes state overlay", ""},
	{"launch --volatile=st", "state", ""},
	{"launch --console ", "interactive read-only passive pipe autopipe", ""},
	{"launch -q --console=p", "passive pipe", ""},
	{"launch -D ", "web/", "note"},
	{"launch --directory=w", "web/", ""},
	{"launch -D web --read", "--read-only", ""},
	{"launch --capability=CAP_SYS_A", "CAP_SYS_ADMIN", ""},
	{"launch --capability=CAP_CHOWN,CAP_SYS_A", "CAP_CHOWN,CAP_SYS_ADMIN", ""},
	{"launch --bind=no", "note", ""},
	{"launch --bind=+no", "+note", ""},
	{"launch --no-new-privileges=", "yes no", ""},
	{"launch --setenv=LAUNCH_TEST_VAR", "LAUNCH_TEST_VARIABLE", ""},
	{"launch -bqD web --vers", "--version", ""},
	{"launch --private-users=", "no yes pick identity", "START"},
	{"launch ls --vol", "", "--volatile"},
	{"launch -- --vol", "", "--volatile"},
	{"launch -D web ls --vol", "", "--volatile"},
	{"launch --private-users-del", "", "--private-users-delegate"},
	{"launch pu", "pull", ""},
	{"launch pull --pl", "--platform= --plain-http=", "--plan"},
	{"launch run --det", "--detach", ""},
	{"launch run --read", "--read-only", ""},
	{"launch run --network=", "private host", ""},
	{"launch rmi --un", "--unused", ""},
}

// room is a directory with a tree and a file.
func room(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "note"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func ask(t *testing.T, dir, shell string, args ...string) string {
	t.Helper()
	c := exec.Command(shell, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LAUNCH_TEST_VARIABLE=1", "HOME="+dir, "TERM=dumb", "LC_ALL=C.UTF-8")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
	return string(out)
}

// bashDriver completes a line as readline does: words are parted at blanks and
// at the characters of COMP_WORDBREAKS.
const bashDriver = `
source "$1"
[[ $(complete -p launch) == *_launch* ]] || exit 1
COMP_LINE=$2 COMP_POINT=${#2}
COMP_WORDS=() word=
for ((n = 0; n < ${#2}; n++)); do
	c=${2:n:1}
	case $c in
	' ') [[ -n $word ]] && COMP_WORDS+=("$word"); word= ;;
	[=:]) [[ -n $word ]] && COMP_WORDS+=("$word"); COMP_WORDS+=("$c"); word= ;;
	*) word+=$c ;;
	esac
done
[[ -n $word || $2 == *' ' ]] && COMP_WORDS+=("$word")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_launch
printf '%s\n' "${COMPREPLY[@]}"
`

func TestBash(t *testing.T) {
	shell, file := shellFile(t, "bash")
	dir := room(t)
	for _, c := range lines {
		got := strings.Fields(ask(t, dir, shell, "--norc", "-c", bashDriver, "bash", file, c.line))
		want := strings.Fields(c.want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", c.line, got, want)
		}
	}
	// A second path, after the colon that bash parts words at.
	if got := ask(t, dir, shell, "--norc", "-c", bashDriver, "bash", file, "launch --bind=note:w"); strings.TrimSpace(got) != "web/" {
		t.Errorf("the second path: %q", got)
	}
	// A listing of several directories, as ls gives it.
	const listing = `source "$1"
command() {
	case $1 in
	ls) printf '/x:\nweb\nweb.nspawn\nold.raw\n\n/y:\ndb\nweb\n' ;;
	*) "$@" ;;
	esac
}
_launch_machines`
	if out := ask(t, dir, shell, "--norc", "-c", listing, "bash", file); out != "db\nweb\n" {
		t.Errorf("machines: %q", out)
	}
}

func TestFish(t *testing.T) {
	shell, file := shellFile(t, "fish")
	dir := room(t)
	for _, c := range lines {
		out := ask(t, dir, shell, "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", file, c.line)
		got := map[string]bool{}
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			if i := strings.LastIndex(word, "="); i >= 0 && i+1 < len(word) {
				word = word[i+1:]
			}
			got[word] = true
		}
		for _, w := range strings.Fields(c.want) {
			if strings.HasSuffix(w, "=") || strings.HasPrefix(w, "+") {
				continue // fish writes these in another way
			}
			if !got[w] {
				t.Errorf("%s: %s is missing in %q", c.line, w, out)
			}
		}
		if c.not != "" && got[c.not] {
			t.Errorf("%s: %s is offered in %q", c.line, c.not, out)
		}
	}
}

// zshDriver types lines into an interactive zsh, and lists what is offered for
// each, behind a line with its number. A last line that a widget answers says
// that all is done.
const zshDriver = `
zmodload zsh/zpty
out=$2/offered
zpty z zsh -f -i
zpty -w z "PS1=; fpath=($1 \$fpath); autoload -U compinit; compinit -D -u; compdef _launch launch; cd $2"
zpty -w z 'show() { compadd() { local -a a; builtin compadd -O a "$@"; print -rl -- $a >>'$out'; builtin compadd "$@" }; _main_complete; compstate[list]= compstate[insert]=; print "=== $((++n))" >>'$out' }; zle -C offer complete-word show; bindkey "^T" offer; print > '$out
for i in {1..100}; do [[ -e $out ]] && break; sleep 0.1; done
dir=$2
shift 2
n=0
for line in "$@"; do
	zpty -n -w z $'\x15'"$line"$'\x14'
	((n++))
	for i in {1..100}; do grep -q "^=== $n$" $out && break; sleep 0.05; done
done
zpty -d z
cat $out
`

func TestZsh(t *testing.T) {
	if testing.Short() {
		t.Skip("zsh takes seconds to load its completions")
	}
	shell, file := shellFile(t, "zsh")
	dir := room(t)
	args := []string{"-f", "-c", zshDriver, "zsh", filepath.Dir(file), dir}
	for _, c := range lines {
		args = append(args, c.line)
	}
	out := ask(t, dir, shell, args...)
	for i, c := range lines {
		offered, rest, ok := strings.Cut(out, fmt.Sprintf("=== %d\n", i+1))
		if !ok {
			t.Fatalf("%s: no answer in %q", c.line, out)
		}
		out = rest
		got := strings.Fields(offered)
		for _, w := range strings.Fields(c.want) {
			// Zsh leaves out what stands before the word that is offered, and
			// the sign behind it.
			w = strings.TrimRight(strings.TrimLeft(w[strings.LastIndex(w, ",")+1:], "+"), "/=")
			if !slices.Contains(got, w) {
				t.Errorf("%s: %s is missing in %q", c.line, w, got)
			}
		}
		if c.not != "" && slices.Contains(got, c.not) {
			t.Errorf("%s: %s is offered in %q", c.line, c.not, got)
		}
	}
}
