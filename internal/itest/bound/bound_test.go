// Package bound holds --bind-user= to the newest systemd-nspawn: the same words, in
// the same cell with the same users, must show a payload the same records, homes and
// mounts, be refused by both, or differ in the way that is written beside the case.
//
// Room: test.
package bound

import (
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// world is the script that makes the users, and gives run to the cases.
//
//go:embed world.sh
var world string

// most is how long one run may take; it takes 0.2 s, and 2 s with a tree that
// has systemd.
const most = time.Minute

// kind is what must come of a case.
type kind int

const (
	same    kind = iota // both show the same
	refused             // both refuse
	better              // launch shows want, systemd-nspawn something else, or it fails
	strict              // launch refuses with want, systemd-nspawn starts
)

// example is one case.
type example struct {
	name string
	kind kind
	// args are the options, apart from the usual ones; \s is a space.
	args string
	// before is a script that is run beforehand, on a fresh tree $T and fresh users;
	// payload one for the machine, see world.sh if it is empty.
	before, payload string
	// want is a part of what launch shows, or says.
	want string
	// boots: the whole tree is booted, and the payload run in it.
	boots bool
}

const map1 = "--private-users=1310720:65536 --private-users-ownership=map "

var examples = []example{
	// Who, and how many.
	{name: "one", args: "--bind-user=joe"},
	{name: "two", args: "-U --bind-user=joe --bind-user=ann"},
	{name: "the-other-order", args: "-U --bind-user=ann --bind-user=joe"},
	{name: "twice", args: "-U --bind-user=joe --bind-user=joe"},
	{name: "system-user", args: "-U --bind-user=daemonic"},
	{name: "odd-name", args: "-U --bind-user=_d-y_n"},
	{name: "many", args: "-U MANY", before: many},
	{name: "too-many", kind: refused, args: "-U MANY --bind-user=joe", before: many, want: "no id left"},

	// Users of the machine.
	{name: "users-pick", args: "-U --bind-user=joe"},
	{name: "users-identity", args: "--private-users=identity --bind-user=joe"},
	{name: "users-map", args: map1 + "--bind-user=joe"},
	{name: "users-chown", args: "--private-users=1310720:65536 --private-users-ownership=chown --bind-user=joe"},
	{name: "users-auto", args: "--private-users=1310720:65536 --private-users-ownership=auto --bind-user=joe"},
	{name: "users-off", args: "--private-users=1310720:65536 --private-users-ownership=off --bind-user=joe"},
	{name: "users-owner", args: "--private-users=yes --bind-user=joe"},
	{name: "users-wide", args: "--private-users=1310720:200000 --private-users-ownership=off --bind-user=joe"},
	{name: "users-just-enough", args: "--private-users=1310720:60515 --private-users-ownership=off --bind-user=joe"},
	{name: "users-too-few", kind: strict, args: "--private-users=1310720:60514 --private-users-ownership=off --bind-user=joe", want: "has only 60514"},

	// The root.
	{name: "read-only", args: "--read-only --bind-user=joe"},
	{name: "volatile", args: "--volatile=yes --bind-user=joe"},
	{name: "volatile-state", args: "--volatile=state --bind-user=joe"},
	{name: "volatile-overlay", args: "--volatile=overlay --bind-user=joe"},
	{name: "volatile-users", args: "--volatile=yes " + map1 + "--bind-user=joe"},
	{name: "volatile-clash", args: "--volatile=yes --bind-user=alice", before: "useradd -u 1900 -U -m alice"},
	{name: "pivot", args: "--pivot-root=/deploy --bind-user=joe", before: "echo joe:x:1:1::: >>$T/etc/passwd"},
	{name: "pivot-clash", kind: refused, args: "--pivot-root=/deploy --bind-user=joe", before: "mkdir $T/deploy/etc; echo joe:x:1:1::: >>$T/deploy/etc/passwd", want: "has a user of that name"},
	{name: "tmpfs-etc-clash", kind: refused, args: "--tmpfs=/etc --bind-user=joe", before: "echo joe:x:1:1::: >>$T/etc/passwd", want: "has a user of that name"},

	// Shells and groups.
	{name: "shell-no", args: "-U --bind-user=joe --bind-user-shell=no"},
	{name: "shell-yes", args: "-U --bind-user=joe --bind-user=ann --bind-user-shell=yes"},
	{name: "shell-path", args: "-U --bind-user=joe --bind-user-shell=/bin/zsh"},
	{name: "shell-last-wins", args: "-U --bind-user=joe --bind-user-shell=/bin/zsh --bind-user-shell=on"},
	{name: "shell-without-user", args: "--bind-user-shell=yes", payload: "ls /run/host"},
	{name: "shell-path-without-user", kind: refused, args: "--bind-user-shell=/bin/sh", want: "the machine has none of them"},
	{name: "shell-relative", kind: refused, args: "--bind-user=joe --bind-user-shell=zsh", want: "neither yes nor no"},
	{name: "shell-unclean", kind: refused, args: "--bind-user=joe --bind-user-shell=/bin//zsh", want: "neither yes nor no"},
	{name: "shell-of-nobody", args: "--bind-user=joe --bind-user-shell=yes", before: "chsh joe ''"},
	{name: "shell-nologin", args: "--bind-user=joe --bind-user-shell=yes", before: "chsh joe /usr/sbin/nologin"},
	{name: "shell-with-space", args: "--bind-user=joe --bind-user-shell=yes", before: "chsh joe '/x y'"},
	{name: "shell-slash", kind: refused, args: "--bind-user=joe --bind-user-shell=yes", before: "chsh joe /bin/bash/", want: "no clean path"},
	{name: "shell-slash-unused", args: "--bind-user=joe", before: "chsh joe /bin/bash/"},
	{name: "group", args: "-U --bind-user=joe --bind-user=ann --bind-user-group=wheel --bind-user-group=friends --bind-user-group=wheel"},
	{name: "group-own", args: "-U --bind-user=joe --bind-user-group=joe"},
	{name: "group-without-user", kind: refused, args: "--bind-user-group=wheel", want: "the machine has none of them"},
	{name: "group-list", kind: refused, args: "--bind-user=joe --bind-user-group=a,b", want: "can't be a name"},
	{name: "group-number", kind: refused, args: "--bind-user=joe --bind-user-group=27", want: "is a number"},

	// What shadow says.
	{name: "password-locked", args: "--bind-user=joe", before: `shadow 'joe:!$6$a$b:19000:0:99999:7:::'`},
	{name: "password-none", args: "--bind-user=joe", before: `shadow 'joe:*:19000:0:99999:7:::'`},
	{name: "password-locked-none", args: "--bind-user=joe", before: `shadow 'joe:!*:19000:0:99999:7:::'`},
	{name: "password-x", args: "--bind-user=joe", before: `shadow 'joe:x:19000:0:99999:7:::'`},
	{name: "password-empty", args: "--bind-user=joe", before: `shadow 'joe::19000:0:99999:7:::'`},
	{name: "password-star-word", args: "--bind-user=joe", before: `shadow 'joe:*LK*:19000:0:99999:7:::'`},
	{name: "password-expired", args: "--bind-user=joe", before: `shadow 'joe:$6$a$b:1:0:9:7:1:2:'`},
	{name: "password-odd", args: "--bind-user=joe", before: `shadow 'joe:a<>&ü/:1::::::'`},
	{name: "password-quotes", kind: better, args: "--bind-user=joe", before: `shadow 'joe:a"\b:1::::::'`, want: `["a\"\\b"]`},
	{name: "password-control", kind: refused, args: "--bind-user=joe", before: `shadow "$(printf 'joe:a\001b:1::::::')"`, want: "control character"},
	{name: "password-no-text", args: "--bind-user=joe", before: `shadow "$(printf 'joe:a\377b:1::::::')"`},
	{name: "shadow-short", args: "--bind-user=joe", before: `shadow 'joe:abc'`},
	{name: "shadow-long", args: "--bind-user=joe", before: `shadow 'joe:abc:1:::::::'`},
	{name: "shadow-no-number", args: "--bind-user=joe", before: `shadow 'joe:abc:x::::::'`},
	{name: "shadow-missing", args: "--bind-user=joe", before: `sed -i /^joe:/d /etc/shadow`},
	{name: "password-in-passwd", args: "--bind-user=joe", before: `sed -i /^joe:/d /etc/shadow; sed -i 's/^joe:x:/joe:abc:/' /etc/passwd`},

	// Who can't be bound.
	{name: "root", kind: refused, args: "-U --bind-user=root", want: "it is root"},
	{name: "root-by-another-name", kind: refused, args: "-U --bind-user=toor", before: "useradd -o -u 0 -g 0 -M -d /root toor", want: "it is root"},
	{name: "nobody", kind: refused, args: "-U --bind-user=nobody", want: "it is nobody"},
	{name: "nobody-by-another-name", kind: refused, args: "-U --bind-user=noone", before: "useradd -o -u 65534 -U -M -d /home/joe noone", want: "it is nobody"},
	{name: "id-that-is-none", kind: refused, args: "-U --bind-user=n16", before: "useradd -o -u 65535 -U -M -d /home/joe n16", want: "has no id for it"},
	{name: "unknown", kind: refused, args: "-U --bind-user=nosuch", want: "no such user"},
	{name: "number", kind: refused, args: "-U --bind-user=1500", want: "is a number"},
	{name: "empty", kind: refused, args: "-U --bind-user=", want: "it is no name"},
	{name: "dots", kind: refused, args: "-U --bind-user=..", want: "can't be a name"},
	{name: "slash", kind: refused, args: "-U --bind-user=a/b", want: "can't be a name"},
	{name: "space", kind: refused, args: `-U --bind-user=joe\sann`, want: "can't be a name"},
	{name: "no-ascii", kind: refused, args: "-U --bind-user=jöe", want: "can't be a name"},
	{name: "long", kind: refused, args: "-U --bind-user=" + strings.Repeat("a", 32), want: "can't be a name"},
	{name: "long-enough", args: "-U --bind-user=" + strings.Repeat("a", 31), before: "useradd -u 1900 -U -m " + strings.Repeat("a", 31)},
	{name: "group-of-another-name", kind: refused, args: "-U --bind-user=joe", before: "groupmod -n others joe", want: "no group of its own"},
	{name: "group-unknown", kind: refused, args: "-U --bind-user=joe", before: "sed -i /^joe:/d /etc/group", want: "is unknown"},

	// Homes.
	{name: "home-missing", kind: refused, args: "-U --bind-user=homeless", want: "is not there"},
	{name: "home-relative", kind: refused, args: "-U --bind-user=joe", before: "home joe rel", want: "no absolute path"},
	{name: "home-none", kind: refused, args: "-U --bind-user=joe", before: "home joe ''", want: "the host's root directory"},
	{name: "home-root", kind: refused, args: "-U --bind-user=joe", before: "home joe /", want: "the host's root directory"},
	{name: "home-file", kind: strict, args: "-U --bind-user=joe", before: "echo >/home/file; home joe /home/file", want: "is no directory"},
	{name: "home-link", args: "-U --bind-user=joe", before: "ln -s joe /home/link; home joe /home/link"},
	{name: "home-with-space", args: "-U --bind-user=zoe", before: "mkdir '/home/a b'; chown 3100:3100 '/home/a b'; H='/home/a b'; zoe"},
	{name: "home-with-colon", args: "-U --bind-user=zoe", before: "mkdir '/home/a: b'; chown 3100:3100 '/home/a: b'; H='/home/a: b'; zoe"},
	// Who owns the directory is nothing to us: its other files would be lent along.
	{name: "home-of-somebody-else", kind: better, args: "-U --bind-user=joe", before: "chown 3000:3000 /home/joe; chmod 755 /home/joe", want: "-rw-r--r-- 60514:60514 /run/host/home/joe/.profile"},
	{name: "home-of-root", kind: better, args: "-U --bind-user=joe", before: "chown 0:0 /home/joe; chmod 755 /home/joe", want: "drwxr-xr-x 65534:65534 /run/host/home/joe"},
	{name: "home-files-of-others", args: "-U --bind-user=joe", before: "touch /home/joe/a /home/joe/b; chown 0:1500 /home/joe/a; chown 1500:0 /home/joe/b"},
	{name: "home-flags", args: "-U --bind-user=joe", before: "mount --bind /home/joe /home/joe; mount -o remount,bind,ro,nosuid,noexec /home/joe"},
	{name: "home-other-group-number", kind: better, args: "-U --bind-user=bob", before: "groupadd -g 2001 bob; useradd -u 2000 -g bob -m bob; touch /home/bob/f; chown 2000:2001 /home/bob/f",
		want: "-rw-r--r-- 60514:60514 /run/host/home/bob/f"},
	{name: "home-with-mount", kind: better, args: "-U --bind-user=joe", before: "mkdir /home/joe/sub; mount -t tmpfs sub /home/joe/sub; echo >/home/joe/sub/f; chown 1500:1500 /home/joe/sub/f",
		want: "-rw-r--r-- 60514:60514 /run/host/home/joe/sub/f"},

	// Beside other mounts.
	{name: "bind-beside", args: "-U --bind=/usr/lib/systemd:/mnt/x --tmpfs=/srv --bind-user=joe"},
	{name: "bind-below", args: "-U --bind=/usr/lib/systemd:/run/host/home/joe --bind-user=joe"},
	{name: "tmpfs-on-homes", args: "-U --tmpfs=/run/host/home --bind-user=joe"},
	{name: "bind-in-home", kind: better, args: "-U --bind=/usr/lib/systemd:/run/host/home/joe/sub --bind-user=joe", before: "mkdir /home/joe/sub", payload: "ls /run/host/home/joe/sub", want: "systemd-executor"},
	{name: "written", args: "-U --bind-user=joe", payload: "chown 60514:60514 /run/host/home/joe; touch /run/host/home/joe/x 2>&1; see"},
	{name: "records-are-read-only", args: "-U --bind-user=joe", payload: "echo x >/run/host/userdb/joe.user; rm -rf /run/host/userdb 2>/dev/null; see"},

	// Names and ids that the tree has.
	{name: "clash-user", kind: refused, args: "-U --bind-user=joe", before: "echo joe:x:1:1::: >>$T/etc/passwd", want: "has a user of that name"},
	{name: "clash-group", kind: refused, args: "-U --bind-user=joe", before: "echo joe:x:1: >>$T/etc/group", want: "has a group of that name"},
	{name: "clash-second", kind: refused, args: "-U --bind-user=joe --bind-user=ann", before: "echo ann:x:1:1::: >>$T/etc/passwd", want: "cannot bind the user ann"},
	{name: "clash-without-newline", kind: refused, args: "-U --bind-user=joe", before: "printf joe:x:1:1::: >>$T/etc/passwd", want: "has a user of that name"},
	{name: "clash-odd-lines", args: "-U --bind-user=joe", before: "printf 'joe:x\n+joe\n+joe::::::\n#joe:x:1:1:::\n' >>$T/etc/passwd"},
	{name: "id-of-user", args: "-U --bind-user=joe --bind-user=ann", before: "echo a:x:60514:1::: >>$T/etc/passwd"},
	{name: "id-of-group", args: "-U --bind-user=joe --bind-user=ann", before: "echo a:x:60515: >>$T/etc/group"},
	{name: "id-of-users-group", args: "-U --bind-user=joe", before: "echo a:x:1:60514::: >>$T/etc/passwd"},
	{name: "last-id", args: "-U --bind-user=joe", before: "for i in $(seq 60514 60576); do echo u$i:x:$i:1:::; done >>$T/etc/passwd"},
	{name: "no-id", kind: refused, args: "-U --bind-user=joe", before: "for i in $(seq 60514 60577); do echo u$i:x:$i:; done >>$T/etc/group", want: "no id left"},
	{name: "no-files", args: "-U --bind-user=joe", before: "rm $T/etc/passwd $T/etc/group"},
	{name: "no-etc", args: "-U --bind-user=joe", before: "rm -r $T/etc"},
	{name: "passwd-link", kind: refused, args: "-U --bind-user=joe", before: "echo joe:x:1:1::: >$T/etc/p; ln -sf /etc/p $T/etc/passwd", want: "has a user of that name"},
	{name: "passwd-link-out", args: "-U --bind-user=ann", before: "ln -sf ../../../../../../etc/nosuch $T/etc/passwd"},
	{name: "passwd-link-nowhere", args: "-U --bind-user=joe", before: "ln -sf /no/such $T/etc/passwd"},
	{name: "passwd-link-circle", kind: refused, args: "-U --bind-user=joe", before: "ln -sf passwd $T/etc/passwd", want: "read /etc/passwd of the tree"},
	{name: "passwd-directory", kind: refused, args: "-U --bind-user=joe", before: "rm $T/etc/passwd; mkdir $T/etc/passwd", want: "read /etc/passwd of the tree"},

	// Records.
	{name: "record", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe '"realName":"Z","memberOf":["adm"],"shell":"/bin/zsh","locked":false,"environment":["A=b"]'`},
	{name: "record-privileged", args: "--bind-user=zoe", before: `zoe '"disposition":"regular"'; privileged '{"hashedPassword":["$6$a$b","$6$c$d"],"passwordHint":"h","sshAuthorizedKeys":["ssh-ed25519 AAAA zoe","ssh-rsa BBBB"]}'`},
	{name: "record-no-keys", args: "--bind-user=zoe", before: `zoe; privileged '{"hashedPassword":[],"sshAuthorizedKeys":[]}'`},
	{name: "record-inline", args: "--bind-user=zoe", before: `zoe '"privileged":{"hashedPassword":["a"]}'`},
	{name: "record-both", args: "--bind-user=zoe", before: `zoe '"privileged":{"hashedPassword":["a"],"sshAuthorizedKeys":["k"]}'; privileged '{"hashedPassword":["b"]}'`},
	{name: "record-dispositions", args: "--bind-user=zoe", before: `zoe '"disposition":"system"' '"disposition":"container"'`},
	{name: "record-odd-disposition", args: "--bind-user=zoe", before: `zoe '"disposition":"mine"'`},
	{name: "record-per-machine", args: "--bind-user=zoe --bind-user-shell=yes", before: `mkdir /home/per; chown 3100:3100 /home/per; zoe "\"perMachine\":[{\"matchMachineId\":\"$(cat /etc/machine-id)\",\"shell\":\"/bin/m\",\"homeDirectory\":\"/home/per\"},{\"matchHostname\":\"other\",\"shell\":\"/bin/o\"}]"`},
	{name: "record-per-host", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe '"perMachine":[{"matchHostname":["x","cell"],"shell":"/bin/m"}]'`},
	{name: "record-binding", args: "--bind-user=zoe", before: `mkdir /home/per; chown 3100:3100 /home/per; zoe "\"binding\":{\"$(cat /etc/machine-id)\":{\"homeDirectory\":\"/home/per\"}}"`},
	{name: "record-binding-last", args: "--bind-user=zoe", before: `mkdir /home/per; chown 3100:3100 /home/per; zoe "\"perMachine\":[{\"matchHostname\":\"cell\",\"homeDirectory\":\"/home/joe\"}],\"binding\":{\"$(cat /etc/machine-id)\":{\"homeDirectory\":\"/home/per\"}}"`},
	{name: "record-odd-home", args: "--bind-user=zoe", before: `H=rel; zoe`},
	{name: "record-odd-shell", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe '"shell":"rel"'`},
	{name: "record-quoted-number", kind: refused, want: "has no id", args: "--bind-user=zoe", before: `zoe; sed -i 's/"uid":3100/"uid":"3100"/' $R/zoe.user`},
	{name: "record-of-not-here", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe '"perMachine":[{"matchNotHostname":"cell","shell":"/a"},{"matchNotHostname":["x"],"shell":"/b"}]'`},
	{name: "record-parts-say-too-much", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe "\"perMachine\":[{\"matchHostname\":\"cell\",\"disposition\":\"system\",\"privileged\":{\"hashedPassword\":[\"x\"]}}],\"binding\":{\"$(cat /etc/machine-id)\":{\"shell\":\"/x\"}}"`},
	{name: "record-said-twice", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe '"shell":"/first","shell":"/second"'`},
	{name: "record-secret", kind: refused, args: "--bind-user=zoe", before: `zoe '"secret":{"password":["x"]}'`, want: "it has secrets"},
	{name: "record-no-json", kind: refused, args: "--bind-user=zoe", before: `zoe; echo '{' >$R/zoe.user`, want: "no JSON object"},
	{name: "record-of-another", kind: refused, args: "--bind-user=zoe", before: `zoe; sed -i s/zoe/joe/ $R/zoe.user`, want: "somebody else"},
	{name: "record-no-id", kind: refused, args: "--bind-user=zoe", before: `zoe; sed -i 's/"uid":3100,//' $R/zoe.user`, want: "no id for it"},
	{name: "record-no-group", kind: refused, args: "--bind-user=zoe", before: `zoe; rm $R/3100.group`, want: "is unknown"},
	{name: "record-before-passwd", args: "--bind-user=joe --bind-user-shell=yes", before: `zoe; echo '{"userName":"joe","uid":1500,"homeDirectory":"/home/zoe","shell":"/bin/record"}' >$R/joe.user; chown 1500:1500 /home/zoe`},
	{name: "record-run", args: "--bind-user=zoe", before: `R=/run/userdb; zoe`},
	{name: "record-run-host", args: "--bind-user=zoe", before: `R=/run/host/userdb; zoe`},
	{name: "record-local", args: "--bind-user=zoe", before: `R=/usr/local/lib/userdb; zoe`},
	{name: "record-usr", args: "--bind-user=zoe", before: `R=/usr/lib/userdb; zoe`},
	{name: "record-etc-first", args: "--bind-user=zoe --bind-user-shell=yes", before: `R=/usr/lib/userdb; zoe '"shell":"/bin/usr"'; privileged '{"hashedPassword":["a"]}'; R=/etc/userdb; zoe '"shell":"/bin/etc"'`},

	// Files.
	{name: "file", before: `settings /etc/systemd/nspawn 'BindUser=joe ann' BindUserShell=yes`},
	{name: "file-reset", before: `settings /etc/systemd/nspawn BindUser=joe BindUser= BindUser=ann BindUserShell=/bin/x BindUserShell=`},
	{name: "file-odd-names", kind: better, want: "/run/host/userdb/ann.user", before: `settings /etc/systemd/nspawn 'BindUser=joe 1x ann' BindUserShell=zsh`},
	{name: "file-and-option", args: "--bind-user=ann", before: `settings /etc/systemd/nspawn BindUser=joe BindUserShell=yes`},
	{name: "file-and-shell", args: "--bind-user-shell=no --bind-user-group=wheel", before: `settings /etc/systemd/nspawn BindUser=joe BindUserShell=yes`},
	{name: "file-override", args: "--settings=override --bind-user=ann --bind-user-shell=/bin/x", before: `settings /etc/systemd/nspawn BindUser=joe BindUserShell=yes`},
	{name: "file-beside", before: `settings /mnt BindUser=joe BindUserShell=yes`},
	{name: "file-beside-trusted", args: "--settings=trusted", before: `settings /mnt BindUser=joe BindUserShell=yes`},
	{name: "file-beside-shell", args: "--bind-user=ann", before: `settings /mnt BindUserShell=yes`},
	{name: "file-shell-alone", kind: refused, before: `settings /etc/systemd/nspawn BindUserShell=/bin/x`, want: "the machine has none of them"},

	// As whom the payload runs.
	{name: "uid", kind: better, args: "-U --bind-user=joe --bind-user-group=friends --uid=joe", payload: "id; echo $HOME $USER $LOGNAME; touch $HOME/made; ls $HOME", want: "uid=60514 gid=60514 groups=1001(friends),60514\n/run/host/home/joe joe joe\nmade"},
	{name: "uid-number", kind: better, args: "-U --bind-user=joe --uid=60514", payload: "id", want: "uid=60514"},

	// A tree that knows records.
	{name: "tree-view", args: "BIG -U --bind-user=joe --bind-user=ann --bind-user-group=sudo --bind-user-shell=yes", before: "chsh joe /bin/bash", payload: view, want: "uid=60514(joe) gid=60514(joe) groups=60514(joe),27(sudo)\n/run/host/home/joe"},
	{name: "tree-view-host-users", args: "BIG --bind-user=joe", payload: view, want: `joe:$6$salt$hash:`},
	{name: "tree-uid", args: "BIG -U --bind-user=joe --bind-user-group=sudo --uid=joe", payload: "id; pwd; env | sort | grep -v ^_; touch $HOME/made; ls -lan $HOME | cut -c 1-25"},
	{name: "tree-keys", args: "BIG --bind-user=zoe", before: `zoe; privileged '{"sshAuthorizedKeys":["ssh-ed25519 AAAA zoe"]}'`, payload: "userdbctl ssh-authorized-keys zoe", want: "ssh-ed25519 AAAA zoe"},

	{name: "tree-booted", boots: true, args: "BIG -U --private-network --bind-user=joe --bind-user=ann --bind-user-group=sudo --bind-user-shell=yes", before: "chsh joe /bin/bash", payload: booted + view, want: `{"record":{"userName":"joe","uid":60514,`},
	{name: "tree-booted-host-users", boots: true, args: "BIG --private-network --bind-user=joe", payload: booted + view, want: "active\nuid=60514(joe) gid=60514(joe) groups=60514(joe)\n/run/host/home/joe\n"},

	// A disk image, which is looked at before it is used.
	{name: "image", args: "IMAGE -U --bind-user=joe"},
	{name: "image-clash", kind: refused, args: "IMAGE-WITH-JOE -U --bind-user=joe", want: "has a user of that name"},
	{name: "image-volatile", args: "IMAGE-WITH-JOE -U --volatile=yes --bind-user=joe"},

	// The host's users by systemd-userdbd.
	{name: "asked", args: "-U --bind-user=joe --bind-user=ann --bind-user-shell=yes", before: "userdbd"},
	{name: "asked-only", args: "-U --bind-user=joe --bind-user-shell=yes", before: "userdbd; WRAP=apart"},
	{name: "not-asked", kind: refused, args: "-U --bind-user=joe", before: "WRAP=apart", want: "no such user"},
	{name: "asked-record", args: "--bind-user=zoe --bind-user-shell=yes", before: `zoe '"disposition":"regular","shell":"/bin/zsh"' '"disposition":"system"'; privileged '{"hashedPassword":["a"],"sshAuthorizedKeys":["k"]}'; userdbd`},
	{name: "asked-unknown", kind: refused, args: "--bind-user=nosuch", before: "userdbd", want: "no such user"},
	{name: "asked-locked", args: "--bind-user=joe", before: `shadow 'joe:!:1::::::'; userdbd`},
	{name: "asked-no-group", kind: refused, args: "--bind-user=joe", before: "groupmod -n others joe; userdbd", want: "no group of its own"},
}

// many are users for all ids but none.
const many = `for i in $(seq 64); do
	echo "m$i:x:$((5000+i)):$((5000+i))::/home/m$i:/bin/sh" >>/etc/passwd
	echo "m$i:x:$((5000+i)):" >>/etc/group
	mkdir /home/m$i; chown $((5000+i)):$((5000+i)) /home/m$i
done
MANY=$(seq -f --bind-user=m%g 64)`

// view is what the programs of a whole system say of the users.
const view = `getent passwd joe; getent passwd 60514; getent passwd ann; getent group joe; getent shadow joe; getent initgroups joe; id joe
su - joe -c 'id; pwd; echo $HOME; touch made'
userdbctl user joe; userdbctl group joe; userdbctl user --output=json joe; userdbctl users-in-group sudo; userdbctl groups-of-user joe; userdbctl
see`

// booted is what more there is to see where systemd runs: daemons that were told, and a
// session.
const booted = `systemctl is-active systemd-userdbd.socket
runuser -u joe -- sh -c 'id; echo $HOME'
busctl --json=short call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager ListUsers >/dev/null && echo logind
varlinkctl call /run/systemd/userdb/io.systemd.Multiplexer io.systemd.UserDatabase.GetUserRecord '{"userName":"joe","service":"io.systemd.Multiplexer"}'
varlinkctl call --more /run/systemd/userdb/io.systemd.Multiplexer io.systemd.UserDatabase.GetMemberships '{"userName":"joe","service":"io.systemd.Multiplexer"}'
systemctl --failed --no-legend
`

// place is a cell with two trees, both launchers, and users.
type place struct{ *cell.Cell }

func open(t *testing.T) place {
	t.Helper()
	root := tree.UsersThere
	if strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		root = tree.Users
	}
	dir := root(t)
	images, with := filepath.Join(tree.Scratch(t), "images"), tree.Copy(t, tree.Tiny(t))
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"image", "image-with-joe"} {
		if err := os.WriteFile(filepath.Join(images, image+".raw"), disks.FS(t, "ext4", with, 48<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(with, "etc/passwd"), os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("joe:x:1:1:::\n")
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := cell.Open(cell.Options{Root: dir, View: cell.Unified, Bind: map[string]string{
		"/trees/tiny": tree.Tiny(t), "/trees/big": dir, "/trees/images": images, "/usr/bin/launch": stage.Launch(t).Path,
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	if out, code, err := c.Shell(world+"\nonce", most); code != 0 || err != nil {
		t.Fatalf("make the users: %d, %v\n%s", code, err, out)
	}
	return place{c}
}

// run starts a machine under one launcher, in a world made anew.
func (p place) run(t *testing.T, launcher string, e example) (out string, code int) {
	t.Helper()
	payload := e.payload
	if payload == "" {
		payload = "see"
	}
	args := e.args
	kind := "tiny"
	for prefix, tree := range map[string]string{"BIG ": "big", "IMAGE ": "image", "IMAGE-WITH-JOE ": "image-with-joe"} {
		if rest, ok := strings.CutPrefix(args, prefix); ok {
			args, kind = rest, tree
		}
	}
	var words []string
	for w := range strings.FieldsSeq(args) {
		if w == "MANY" {
			words = append(words, "$MANY")
			continue
		}
		words = append(words, quote(strings.ReplaceAll(w, `\s`, " ")))
	}
	how := "run"
	if e.boots {
		how = "boot"
	}
	script := fmt.Sprintf("%s\nagain %s\n{\n:\n%s\n} >/dev/null 2>&1\n%s %s %s %s\n", world, kind, e.before, how, launcher, quote(payload), strings.Join(words, " "))
	out, code, err := p.Shell(script, most)
	if err != nil {
		t.Fatalf("%s: %v\n%s", launcher, err, out)
	}
	return out, code
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// check runs a case under both.
func (p place) check(t *testing.T, e example) {
	n, ncode := p.run(t, "systemd-nspawn", e)
	l, lcode := p.run(t, "launch", e)
	show := func(what string) {
		if e.kind == same && shown(n) != "" && shown(l) != "" {
			if n, l = without(n, l), without(l, n); n+l == "" { // what is left of a long text
				l = "nothing that is " + e.want
			}
		}
		t.Errorf("%s\n%s\n%s\n--- systemd-nspawn, %d\n%s--- launch, %d\n%s", what, e.before, e.args, ncode, n, lcode, l)
	}
	switch e.kind {
	case same:
		// What they say beside is theirs.
		if ncode != 0 || lcode != ncode || shown(n) != shown(l) || shown(n) == "" || !strings.Contains(shown(l), e.want) {
			show("they don't show the same")
		}
	case refused:
		if ncode != 1 || lcode != 1 || !strings.Contains(l, e.want) || shown(l) != "" || shown(n) != "" {
			show("not refused by both, with " + e.want)
		}
	case better:
		if lcode != 0 || !strings.Contains(l, e.want) || strings.Contains(n, e.want) {
			show("it is to show " + e.want + ", and systemd-nspawn not")
		}
	case strict:
		if lcode != 1 || ncode != 0 || !strings.Contains(l, e.want) || shown(l) != "" {
			show("it is to be refused with " + e.want + ", and systemd-nspawn is to start")
		}
	}
}

// without gives the lines of a text that another doesn't have.
func without(text, other string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(other, line) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// shown is what the payload wrote.
func shown(out string) string {
	_, payload, _ := strings.Cut(out, "=== payload\n")
	return payload
}

// whole tells whether there is time for everything: every day, there is for a part.
func whole() bool { return os.Getenv("LAUNCH_TEST") != "" }

// TestPeerExamples is all of them or, every day, each third.
func TestPeerExamples(t *testing.T) {
	p := open(t)
	for i, e := range examples {
		if whole() || i%3 == 0 {
			t.Run(e.name, func(t *testing.T) { p.check(t, e) })
		}
	}
}

// TestPeerRandom mixes users, what the tree has, and options by chance. BOUND_SEED
// brings a run back.
func TestPeerRandom(t *testing.T) {
	p := open(t)
	seed, count := uint64(time.Now().UnixNano()), 8
	if strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		count = 100
	}
	if text := os.Getenv("BOUND_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		e := random(rand.New(rand.NewPCG(seed, uint64(i))))
		t.Run(fmt.Sprintf("%d-%d", seed, i), func(t *testing.T) { p.check(t, e) })
	}
}

func random(r *rand.Rand) (e example) {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	some := func(n int, what func() string) string {
		var list []string
		for range r.IntN(n + 1) {
			list = append(list, what())
		}
		return strings.Join(list, " ")
	}
	e.args = strings.Join([]string{
		pick("", "-U", "--private-users=identity", map1, "--private-users=1310720:65536 --private-users-ownership=chown", "--private-users=2097152 --private-users-ownership=off", "--private-users=yes"),
		pick("", "", "--read-only", "--volatile=yes", "--volatile=state", "--volatile=overlay", "--ephemeral --machine=tiny", "--as-pid2", "--private-network"),
		"--bind-user=" + pick("joe", "ann", "daemonic", "_d-y_n"),
		some(3, func() string { return "--bind-user=" + pick("joe", "ann", "daemonic", "_d-y_n") }),
		some(2, func() string {
			return "--bind-user-group=" + pick("wheel", "friends", "joe", "a_very-long_group-name", "root")
		}),
		pick("", "--bind-user-shell=yes", "--bind-user-shell=no", "--bind-user-shell=/usr/bin/zsh"),
		some(2, func() string {
			return pick("--tmpfs=/run/host/home", "--bind=/usr/lib/systemd:/srv", "--bind-ro=/usr/lib/systemd/catalog:/opt/data")
		}),
	}, " ")
	if strings.Contains(e.args, "chown") && (strings.Contains(e.args, "--read-only") || strings.Contains(e.args, "--volatile")) {
		e.kind, e.want = refused, "cannot change the owners"
	}
	if strings.Contains(e.args, map1) && strings.Contains(e.args, "--volatile=overlay") {
		e.kind, e.want = better, "/run/host/userdb/" // systemd-nspawn maps no overlay
	}
	e.before = some(6, func() string {
		return pick(
			fmt.Sprintf("echo t%d:x:%d:1::: >>$T/etc/passwd;", r.IntN(99), 60514+r.IntN(6)),
			fmt.Sprintf("echo g%d:x:%d: >>$T/etc/group;", r.IntN(99), 60514+r.IntN(6)),
			"shadow 'joe:"+pick("!", "*", "x", "", "$6$a$b", "!!")+":19000::::::';",
			"chsh joe "+pick("/bin/sh", "/usr/sbin/nologin", "''", "/bin/ü")+";",
			"touch /home/joe/f; chown "+pick("0", "1500", "1600", "4294967290")+" /home/joe/f;",
			"rm $T/etc/"+pick("passwd", "group")+";",
		)
	})
	return e
}

// TestHostile: whatever the tree is made of, a start comes to an end, and changes
// neither the host nor the homes.
func TestHostile(t *testing.T) {
	p := open(t)
	for _, e := range []example{
		{name: "passwd-fifo", kind: refused, before: "rm $T/etc/passwd; mkfifo $T/etc/passwd", want: "read /etc/passwd of the tree"},
		{name: "passwd-device", kind: refused, before: "rm $T/etc/passwd; mknod $T/etc/passwd c 1 5", want: "read /etc/passwd of the tree"},
		{name: "passwd-link-to-device", kind: refused, before: "ln -sf /dev/zero $T/etc/passwd; mknod $T/dev/zero c 1 5", want: "read /etc/passwd of the tree"},
		{name: "passwd-huge", kind: refused, before: "truncate -s 1G $T/etc/passwd", want: "read /etc/passwd of the tree"},
		{name: "group-huge-line", kind: refused, before: "{ printf joe:x:1:; head -c 900000 /dev/zero | tr '\\0' a; } >$T/etc/group", want: "read /etc/group of the tree"},
		{name: "group-nul", kind: refused, before: "printf 'a\\0joe:x:1:\\n' >$T/etc/group", want: "read /etc/group of the tree"},
		{name: "group-socket", kind: refused, before: "rm $T/etc/group; python3 -c 1 2>/dev/null; perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0);bind(S,sockaddr_un(\"/mnt/tiny/etc/group\"))'", want: "read /etc/group of the tree"},
		// Who answers for systemd-userdbd is root as well, but may be broken.
		{name: "answer-nonsense", kind: refused, before: "fake nonsense", want: "ask systemd-userdbd"},
		{name: "answer-endless", kind: refused, before: "fake endless", want: "ask systemd-userdbd"},
		{name: "answer-empty", kind: refused, before: "fake '{}'", want: "cannot bind the user joe"},
		{name: "answer-error", kind: refused, before: "fake '{\"error\":\"io.systemd.UserDatabase.Broken\"}'", want: "ask systemd-userdbd"},
		{name: "answer-about-another", kind: refused, before: "fake '{\"parameters\":{\"record\":{\"userName\":\"root\",\"uid\":0}}}'", want: "somebody else"},
		{name: "answer-incomplete", kind: refused, before: "fake '{\"parameters\":{\"record\":{\"userName\":\"joe\",\"uid\":1500},\"incomplete\":true}}'", want: "doesn't tell us all"},
		// The host has joe, so a link that led out would be seen as a clash.
		{name: "etc-leads-out", kind: refused, want: "read /etc/passwd of the tree", before: "rm -r $T/etc; ln -s ../../../../../../../../etc $T/etc; mkdir -p $T/usr"},
		{name: "passwd-leads-out", before: "ln -sf /proc/1/root/etc/passwd $T/etc/passwd; mkdir -p $T/proc"},
		{name: "run-leads-out", kind: refused, want: "it must be a directory", before: "rm -rf $T/run; ln -s /../../../../home/joe $T/run; mkdir -p $T/home/joe"},
		{name: "run-host-leads-out", before: "mkdir -p $T/run; ln -s ../../../../home $T/run/host"},
		{name: "userdb-is-there", before: "mkdir -p $T/run/host; ln -s /home $T/run/host/userdb; ln -s /etc $T/run/host/home"},
		{name: "records-of-the-tree", before: "mkdir -p $T/etc/userdb; echo '{\"userName\":\"joe\",\"uid\":0}' >$T/etc/userdb/joe.user"},
		{name: "all-ids", before: "for i in $(seq 60514 60576); do echo \"u$i:x:$i:1:::\"; done >>$T/etc/passwd"},
		{name: "lines-without-end", before: "yes :::::: | head -c 1000000 >$T/etc/passwd"},
	} {
		for i, users := range []string{"-U ", "", map1} {
			if i > 0 && !whole() {
				break
			}
			e := e
			e.args = users + "--bind-user=joe"
			t.Run(strings.TrimSpace(e.name+" "+users), func(t *testing.T) {
				before, _ := p.look(t)
				begun := time.Now()
				out, code := p.run(t, "launch", e)
				after, _ := p.look(t)
				switch {
				case time.Since(begun) > 20*time.Second:
					t.Errorf("it took %v", time.Since(begun))
				case e.kind == refused && (code != 1 || !strings.Contains(out, e.want)):
					t.Errorf("%d, want it to be refused with %s:\n%s", code, e.want, out)
				case e.kind == same && (code != 0 || !strings.Contains(out, "/run/host/userdb/joe.user: {") || !strings.Contains(out, ":60514,") && !strings.Contains(out, ":60577,")):
					t.Errorf("%d:\n%s", code, out)
				}
				if before != after {
					t.Errorf("the host is not as it was:\n%s\n---\n%s", before, after)
				}
			})
		}
	}
}

// look lists what a machine must leave alone.
func (p place) look(t *testing.T) (string, error) {
	t.Helper()
	out, code, err := p.Shell(world+"\nagain tiny\nfind /home /etc/passwd /etc/group /etc/userdb /run/host /run/userdb -printf '%p %y %m %U %G %s %l\\n' 2>&1; findmnt -rno TARGET -R /run", most)
	if code != 0 && err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return filepath.Clean(out), err
}
