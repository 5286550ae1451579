package cli

import (
	"errors"
	"os"
	"strings"
	"testing"

	"launch/settings"
)

func report(err error) string {
	var b strings.Builder
	Report(&b, err)
	return b.String()
}

// TestReport is what a user reads when a command line is wrong.
func TestReport(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--boto", "launch: unrecognized option '--boto'\n  hint:  did you mean --boot?\n"},
		{"--zzzzzzzz", "launch: unrecognized option '--zzzzzzzz'\n  hint:  launch --help lists the options\n"},
		{"-D", "launch: option requires an argument -- 'D'\n"},
		{"--direct", "launch: option '--directory' requires an argument\n"},
		{"--boot=no", "launch: option '--boot' doesn't allow an argument\n"},
		{"-@", "launch: invalid option -- '@'\n"},
		{"--bind-", "launch: option '--bind-' is ambiguous; possibilities: '--bind-ro' '--bind-user' '--bind-user-shell' '--bind-user-group'\n"},
		{"--volatile=sate", "launch: cannot use --volatile=sate: unknown value \"sate\", did you mean state? (known: no, yes, state, overlay)\n"},
		{"--volatile=", "launch: option '--volatile' has nothing behind the equals sign\n"},
		{"--bind=/a:/b:idmpa", "launch: cannot use --bind=/a:/b:idmpa: unknown bind option \"idmpa\" (known: rbind, norbind, idmap, noidmap, rootidmap, owneridmap)\n"},
		{"--capability=CAP_SYS_ADMINN", "launch: cannot use --capability=CAP_SYS_ADMINN: unknown capability \"CAP_SYS_ADMINN\", did you mean CAP_SYS_ADMIN?\n"},
		{"--drop-capability=mknod", "launch: cannot use --drop-capability=mknod: unknown capability \"mknod\", did you mean CAP_MKNOD?\n"},
		{"--private-users-delegate=x", "launch: option '--private-users-delegate' is not supported yet\n  from:  --private-users-delegate=x\n"},
		{"--system=yes", "launch: option '--system' doesn't allow an argument\n"},
		{"--user /bin/sh", "launch: cannot use --user=/bin/sh: \"/bin/sh\" is not the name of a user\n  hint:  to give --user no argument, put -- before the command\n"},
		{"--rlimit=NOFIL=1", "launch: cannot use --rlimit=NOFIL=1: unknown value \"NOFIL\", did you mean NOFILE? (known: CPU, FSIZE, DATA, STACK, CORE, RSS, NPROC, NOFILE, MEMLOCK, AS, LOCKS, SIGPENDING, MSGQUEUE, NICE, RTPRIO, RTTIME)\n"},
		{"--restrict-address-families=INET", "launch: cannot use --restrict-address-families=INET: unknown address family \"INET\", did you mean AF_INET?\n"},
		{"-M a_b", "launch: cannot use -M a_b: \"a_b\" is not a machine name: it has a '_'; only letters, digits, hyphens and dots are allowed\n"},
		{"-u a:b", "launch: cannot use -u a:b: \"a:b\" is not the name of a user\n"},
	} {
		_, err := Parse(strings.Fields(c.args), nil, "/home/me")
		if err == nil {
			t.Errorf("%s: no error", c.args)
			continue
		}
		if got := report(err); got != c.want {
			t.Errorf("%s\n got %swant %s", c.args, got, c.want)
		}
	}
	if got := report(&settings.Error{What: "a\x1b[31mb\n\xffé", Hint: "c\u009b"}); got != "launch: a\\x1b[31mb\\n\\xffé\n  hint:  c\\u009b\n" {
		t.Errorf("%q", got)
	}
	if got := report(errors.New("attach tmpfs on /run: no space left on device")); got != "launch: attach tmpfs on /run: no space left on device\n" {
		t.Error(got)
	}
}

func TestParse(t *testing.T) {
	r, err := Parse([]string{"-qbD", "tree/./x/", "--vol", "--user=joe", "-EA=1", "--setenv", "TERM", "ls", "-la", "--color"},
		[]string{"TERM=vt100", "A=0"}, "/home/me")
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, a := range r.Assignments {
		said = append(said, a.Option.Name+"<"+a.Origin.Path+">")
	}
	if got, want := strings.Join(said, " "), "quiet<-q> boot<-b> directory<-D> volatile<--volatile> uid<--user> setenv<-E> setenv<--setenv> words<the command>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if r.Action != Run || len(r.Warnings) != 1 || r.Warnings[0].Hint != "use --uid" {
		t.Errorf("action %s, warnings %v", r.Action, r.Warnings)
	}
	s, _, _, err := settings.Resolve(r.Assignments, settings.Surroundings{Place: settings.Place{Cwd: "/home/me"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Image.Directory != "/home/me/tree/x" || s.Machine != "x" || s.Exec.User != "joe" || !s.Life.Quiet || s.Exec.Mode != settings.Boot ||
		s.Image.Volatile != settings.VolatileYes || strings.Join(s.Exec.Env, " ") != "A=1 TERM=vt100" ||
		strings.Join(s.Exec.Words, " ") != "ls -la --color" {
		t.Errorf("%+v", s)
	}
}

// TestUser: with an argument it is another option, as for systemd-nspawn 262.
func TestUser(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--user", "user"},
		{"--user --boot", "user boot"},
		{"--user -- joe", "user words=joe"},
		{"--user joe", "uid=joe"},
		{"--user joe sh", "uid=joe words=sh"},
		{"--user=joe", "uid=joe"},
		{"--user --system", "user system"},
		{"--user=joe --user", "uid=joe user"},
	} {
		r, err := Parse(strings.Fields(c.args), nil, "/")
		if err != nil {
			t.Error(err)
			continue
		}
		var said []string
		for _, a := range r.Assignments {
			text := a.Option.Name
			if a.Text != "" {
				text += "=" + a.Text
			}
			said = append(said, text)
		}
		if got := strings.Join(said, " "); got != c.want {
			t.Errorf("%s is %s, want %s", c.args, got, c.want)
		}
		if (len(r.Warnings) == 1) != strings.Contains(c.want, "uid") {
			t.Errorf("%s: warnings %v", c.args, r.Warnings)
		}
		s, _, _, err := settings.Resolve(r.Assignments, settings.Surroundings{Place: settings.Place{Cwd: "/srv/x"}})
		if err != nil || s.Unit.User != (strings.Contains(c.want, "user") && !strings.Contains(c.want, "system")) {
			t.Errorf("%s: %v %+v", c.args, err, s.Unit)
		}
	}
}

func TestActions(t *testing.T) {
	for _, c := range []struct {
		args   string
		action Action
		format string
	}{
		{"", Run, ""},
		{"ls --help", Run, ""},
		{"-- --help", Run, ""},
		{"--help --nonsense", Help, ""},
		{"-h", Help, ""},
		{"--version", Version, ""},
		{"--plan", Plan, "text"},
		{"--plan=json -D /srv", Plan, "json"},
		{"--cleanup -M web", Cleanup, ""},
		{"--console=help", Values, ""},
		{"--kill-signal=help", Values, ""},
		{"--hostname=help", Run, ""},
		{"--no-pager true", Run, ""},
	} {
		r, err := Parse(strings.Fields(c.args), nil, "/")
		if err != nil || r.Action != c.action || r.PlanFormat != c.format {
			t.Errorf("%s: %s %q %v", c.args, r.Action, r.PlanFormat, err)
		}
	}
	if r, err := Parse([]string{"--settings=override"}, nil, "/"); err != nil || r.Files != settings.FileOverride {
		t.Errorf("%q %v", r.Files, err)
	}
}

func TestListValues(t *testing.T) {
	for name, want := range map[string]string{
		"console": "interactive\nread-only\npassive\npipe\nautopipe\n", "capability": "CAP_AUDIT_CONTROL\nCAP_AUDIT_READ\n", "kill-signal": "SIGABRT\n",
	} {
		var b strings.Builder
		ListValues(&b, settings.Find(name))
		if !strings.HasPrefix(b.String(), want) {
			t.Errorf("%s: %s", name, b.String())
		}
	}
}

// TestUsage holds the whole help, so that a change to it is seen.
func TestUsage(t *testing.T) {
	var b strings.Builder
	Usage(&b)
	const file = "testdata/usage.txt"
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
	for i, line := range strings.Split(b.String(), "\n") {
		if len([]rune(line)) > 100 {
			t.Errorf("line %d is longer than 100 characters: %s", i+1, line)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("--bind=/a\x00-D\x00x")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\x00")
		r, err := Parse(args, []string{"A=b"}, "/home/me")
		if err != nil {
			if got := report(err); !strings.HasPrefix(got, "launch: ") {
				t.Errorf("%q: %s", args, got)
			}
			return
		}
		settings.Resolve(r.Assignments, settings.Surroundings{Place: settings.Place{Cwd: "/home/me"}, Hostname: "host"})
	})
}
