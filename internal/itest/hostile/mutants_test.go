package hostile

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"launch/internal/itest/remake"
)

// mutant is a launcher without one of its defences. It is made by editing
// copies of the sources for one build, so that nothing in the sources knows of
// it, and no build tag could ever take a defence from a launcher in use. An
// edit that no longer fits fails the test: the defence has moved, and the
// mutant has to follow.
type mutant struct {
	name, what string
	edits      []edit
}

// old is there once or, where it begins with *, any number of times.
type edit = remake.Edit

const (
	resolveGo = "mount/attach/resolve.go"
	attachGo  = "mount/attach/attach.go"
	copyGo    = "mount/attach/copy.go"
	lowerGo   = "internal/engine/lower.go"
	buildGo   = "internal/engine/build.go"
	payloadGo = "internal/engine/payload.go"
	engineGo  = "internal/engine/engine.go"
	programGo = "internal/plan/program.go"
	probeGo   = "internal/probe/probe.go"
	sysFileGo = "internal/sys/file.go"
	limitGo   = "internal/sys/limit.go"
	passwdGo  = "userns/passwd.go"
	valueGo   = "settings/value.go"
	stubGo    = "internal/engine/stub.go"
	stubAMD   = "internal/stub/stub_amd64.s"
	stubARM   = "internal/stub/stub_arm64.s"
)

var mutants = []mutant{
	{"paths", "names of the tree are looked up without IN_ROOT", []edit{
		{resolveGo, "return sys.Openat2(t.root, target, ", `return sys.Openat2(t.root, "."+target, `},
		{resolveGo, "		n, err := sys.Openat2(t.root, s.Target, ", `		n, err := sys.Openat2(t.root, "."+s.Target, `},
		{resolveGo, `sys.Openat2(t.root, done+"/", `, `sys.Openat2(t.root, "."+done+"/", `},
		{copyGo, "clear func() error) error) error {\n	dir, err := sys.Openat2(t.root, path.Dir(s.Target), ", "clear func() error) error) error {\n	dir, err := sys.Openat2(t.root, \".\"+path.Dir(s.Target), "},
		{copyGo, "remove(s plan.Step) error {\n	dir, err := sys.Openat2(t.root, path.Dir(s.Target), ", "remove(s plan.Step) error {\n	dir, err := sys.Openat2(t.root, \".\"+path.Dir(s.Target), "},
		{copyGo, "sys.Openat2(t.root, \"/etc/\"", "sys.Openat2(t.root, \"./etc/\""},
		{resolveGo, "*sys.InRoot", "unix.RESOLVE_NO_MAGICLINKS"},
		{attachGo, "*sys.InRoot", "unix.RESOLVE_NO_MAGICLINKS"},
		{copyGo, "*sys.InRoot", "unix.RESOLVE_NO_MAGICLINKS"},
	}},
	{"onto links", "what is to cover a link covers what it leads to", []edit{
		{resolveGo, "!t.Exact || s.NoFollow || t.Exact", "!t.Exact || t.Exact"},
	}},
	{"magic links", "magic links are not forbidden by name", []edit{
		{sysFileGo, "const InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS", "const InRoot = unix.RESOLVE_IN_ROOT"},
	}},
	{"no links", "too much: links inside the tree are refused, too", []edit{
		{sysFileGo, "const InRoot = unix.RESOLVE_IN_ROOT", "const InRoot = unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_IN_ROOT"},
	}},
	{"no targets", "too much: missing targets and directories are not made", []edit{
		{resolveGo, "	if err != unix.ENOENT || s.Mode == 0 {", "	if true {"},
		{attachGo, "err := t.owned(func() error { return t.entry(t.root, e, false) })", "err := error(nil)\n	_ = e"},
	}},
	{"API links", "links are allowed for /proc, /sys, /dev and /run", []edit{
		{resolveGo, "	switch target {\n	case \"/proc\"", "	switch \"\" {\n	case \"/proc\""},
	}},
	{"/usr", "the tree's /usr may be anything", []edit{
		{"internal/plan/compile.go", "case root.Usr != facts.Dir:", "case false:"},
	}},
	{"tree's dev", "the tree's own /dev is filled", []edit{
		{attachGo, "	switch s.Do {\n	case plan.Layer:", "	if s.Target == \"/dev\" && s.Do == plan.Mount {\n		n, err := t.resolve(s.Target)\n		if err != nil {\n			return err\n		}\n		defer sys.Close(n)\n		return t.fill(n, s.Content)\n	}\n	switch s.Do {\n	case plan.Layer:"},
	}},
	{"tree's dev too", "the tree's own /dev is filled before it is covered", []edit{
		{attachGo, "	switch s.Do {\n	case plan.Layer:", "	if s.Target == \"/dev\" && s.Do == plan.Mount {\n		n, err := t.resolve(s.Target)\n		if err != nil {\n			return err\n		}\n		defer sys.Close(n)\n		if err := t.fill(n, s.Content); err != nil {\n			return err\n		}\n	}\n	switch s.Do {\n	case plan.Layer:"},
	}},
	{"tree's run too", "the tree's own /run is filled before it is covered", []edit{
		{attachGo, "	switch s.Do {\n	case plan.Layer:", "	if s.Target == \"/run\" && s.Do == plan.Mount {\n		n, err := t.resolve(s.Target)\n		if err != nil {\n			return err\n		}\n		defer sys.Close(n)\n		if err := t.fill(n, s.Content); err != nil {\n			return err\n		}\n	}\n	switch s.Do {\n	case plan.Layer:"},
	}},
	{"own", "where the tree has something in /proc, /sys, /dev or /run, nothing is mounted there", []edit{
		{attachGo, "	switch s.Do {\n	case plan.Layer:", "	if isAPI(s.Target) && s.Do == plan.Mount {\n		if n, err := sys.Openat2(t.root, s.Target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, sys.InRoot); err == nil {\n			names, _ := sys.Names(n)\n			sys.Close(n)\n			if len(names) > 0 {\n				return nil\n			}\n		}\n	}\n	switch s.Do {\n	case plan.Layer:"},
	}},
	{"covered", "a mount may be made where it is covered", []edit{
		{resolveGo, "	if s.Avoid == \"\" {", "	if true {"},
	}},
	{"below mounts", "too much: what is mounted in the tree is not entered", []edit{
		{resolveGo, "	n, err := t.resolve(s.Target)\n	if err == nil {\n		if err = t.avoid", "	n, err := t.resolve(s.Target)\n	if err == nil && s.Avoid != \"\" {\n		sys.Close(n)\n		n, err = sys.Openat2(t.root, s.Target, unix.O_PATH, 0, sys.InRoot|unix.RESOLVE_NO_XDEV)\n	}\n	if err == nil {\n		if err = t.avoid"},
	}},
	{"mask nodes", "the nodes for masks are taken from the machine's /run", []edit{
		{attachGo, "from, err = sys.Openat2(t.runHost, \"inaccessible/\"+name, unix.O_PATH|unix.O_NOFOLLOW, 0,\n			unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)", `from, err = t.resolve("/run/host/inaccessible/" + name)`},
	}},
	{"fail open", "a mount whose target can't be had is left out", []edit{
		{attachGo, "	to, err := t.point(s, kind)\n	if errors.Is(err, unix.ENOENT) && s.Lenient {", "	to, err := t.target(s, kind)\n	if err != nil {"},
		{attachGo, "	to, err := t.resolve(s.Target)\n	if err == unix.ENOENT && s.Lenient {", "	to, err := t.resolve(s.Target)\n	if err != nil {"},
	}},
	{"masks", "nothing is masked", []edit{
		{attachGo, "	to, err := t.resolve(s.Target)\n	if err == unix.ENOENT && s.Lenient {", "	if s.Lenient {\n		return nil\n	}\n	to, err := t.resolve(s.Target)\n	if err == unix.ENOENT && s.Lenient {"},
	}},
	{"host's root", "the host's root stays over the machine's, and nobody looks", []edit{
		{attachGo, "	if err := sys.Umount(\".\", unix.MNT_DETACH); err != nil {\n		return fmt.Errorf(\"let go", "	if err := error(nil); err != nil {\n		return fmt.Errorf(\"let go"},
		{attachGo, "return t.alone()", "return nil"},
	}},
	// The look that the one before leaves out is a net: it can be seen to hold
	// only where the step before it fails, as here.
	{"host's root but alone", "the host's root stays over the machine's", []edit{
		{attachGo, "	if err := sys.Umount(\".\", unix.MNT_DETACH); err != nil {\n		return fmt.Errorf(\"let go", "	if err := error(nil); err != nil {\n		return fmt.Errorf(\"let go"},
	}},
	{"descriptors", "descriptors are not closed", []edit{
		{lowerGo, "add(unix.SYS_CLOSE_RANGE, first, ^uintptr(0)>>32, 0)", "add(unix.SYS_GETPID)\n		_ = first"},
	}},
	{"some descriptors", "descriptors from 64 to 200 are not closed", []edit{
		{lowerGo, "add(unix.SYS_CLOSE_RANGE, first, ^uintptr(0)>>32, 0)", "add(unix.SYS_CLOSE_RANGE, first, 63, 0)\n		add(unix.SYS_CLOSE_RANGE, 201, ^uintptr(0)>>32, 0)"},
	}},
	{"chdir first", "the directory is changed before descriptors are closed, and may lie in /proc", []edit{
		{programGo, "	op(CloseRest, none, 0, 0, 0, \"%s\", rest)\n	op(Chdir, c.from(\"chdir\"), 0, 0, 0, \"change to %s\", dirWord(c.Plan.Payload.Dir))\n", "	op(Chdir, c.from(\"chdir\"), 0, 0, 0, \"change to %s\", dirWord(c.Plan.Payload.Dir))\n	op(CloseRest, none, 0, 0, 0, \"%s\", rest)\n"},
		{valueGo, "if mount.Below(dir, api) {", "if false {"},
	}},
	{"chdir early", "the directory is changed before the tree is the root", []edit{
		{programGo, "op(Ready, none, ", "op(Chdir, c.from(\"chdir\"), 0, 0, 0, \"change to %s\", dirWord(c.Plan.Payload.Dir))\n	op(Ready, none, "},
		{programGo, "	op(Chdir, c.from(\"chdir\"), 0, 0, 0, \"change to %s\", dirWord(c.Plan.Payload.Dir))\n	if c.Facts.Host.Ignored", "	if c.Facts.Host.Ignored"},
	}},
	{"unlocked masks", "masks are made by the first process, in the machine's own mount namespace", []edit{
		{attachGo, "	to, err := t.resolve(s.Target)\n	if err == unix.ENOENT && s.Lenient {", "	if s.Lenient && t.UID != 0 {\n		return nil\n	}\n	to, err := t.resolve(s.Target)\n	if err == unix.ENOENT && s.Lenient {"},
		{lowerGo, "	case plan.Setsid:", "	case plan.Setsid:\n		for _, f := range []string{\"/proc/kallsyms\", \"/proc/keys\", \"/proc/timer_list\", \"/proc/sysrq-trigger\"} {\n			add(unix.SYS_MOUNT, p.String(\"/run/host/inaccessible/reg\"), p.String(f), 0, unix.MS_BIND, 0).Allow(unix.ENOENT)\n		}"},
	}},
	{"session", "the machine stays in the caller's session", []edit{
		{programGo, "	op(Setsid, none, 0, 0, 0, \"begin a session\")\n", ""},
		{programGo, "	if c.controls() && !two {\n		op(CtlTTY, c.from(\"console\"), 0, 0, 0, \"take the terminal\")\n	}\n", ""},
	}},
	{"session of process 2", "neither process 1 nor process 2 begins a session", []edit{
		{programGo, "	op(Setsid, none, 0, 0, 0, \"begin a session\")\n", ""},
		{programGo, "	if c.controls() && !two {\n		op(CtlTTY, c.from(\"console\"), 0, 0, 0, \"take the terminal\")\n	}\n", ""},
		{stubAMD, "	MOVQ $const_Setsid, R14\n	MOVQ $SYS_setsid, AX\n	SYSCALL\n	TESTQ AX, AX\n	JLT  failed\n", ""},
		{stubARM, "	MOVD $const_Setsid, R22\n	MOVD $SYS_setsid, R8\n	SVC\n	TBNZ $63, R0, failed\n", ""},
	}},
	{"terminal", "the machine has the caller's terminal", []edit{
		{lowerGo, "for n := range uintptr(3) {\n\t\t\tif op.A>>n&1 == 1 {", "for n := range uintptr(3) {\n\t\t\tif op.A>>n&1 == 2 {"},
		{lowerGo, "add(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)", "add(unix.SYS_GETPID)"},
	}},
	{"passwd anywhere", "user and program are looked up from the host's root", []edit{
		{payloadGo, "*sys.InRoot", "0"},
		{payloadGo, "sys.ReadIn(b.treeRoot(), \"/etc/passwd\"", "sys.ReadIn(b.treeRoot(), \"etc/passwd\""},
		{payloadGo, "sys.ReadIn(b.treeRoot(), \"/etc/group\"", "sys.ReadIn(b.treeRoot(), \"etc/group\""},
		{payloadGo, "sys.Openat2(k.root, at, ", "sys.Openat2(k.root, \".\"+at, "},
		{buildGo, "	if err := t.Finish(); err != nil {\n		return err\n	}\n", "	if err := b.payload(); err != nil {\n		return err\n	}\n	if err := t.Finish(); err != nil {\n		return err\n	}\n"},
		{buildGo, "	// the first process.\n	if err := b.payload(); err != nil {\n		return err\n	}\n", ""},
	}},
	{"groups left out", "a list of groups that can't be read is taken for an empty one", []edit{
		{payloadGo, "	if err != nil && err != unix.ENOENT {\n		return nil, fmt.Errorf(\"cannot look up the groups", "	if false {\n		return nil, fmt.Errorf(\"cannot look up the groups"},
	}},
	{"root instead", "who can't be looked up is root", []edit{
		{payloadGo, "return &settings.Error{What: err.Error(), Origin: p.UserOrigin, Value: p.User}", "u.home = \"/root\""},
	}},
	{"strict facts", "too much: a strange file in the tree's /etc stops the machine", []edit{
		{probeGo, "return err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP", "return err == unix.ENOENT"},
		{probeGo, "case !missing(err) && err != unix.EINVAL && err != unix.EFBIG:", "case !missing(err):"},
	}},
	{"loops", "what is a loop is taken for nothing", []edit{
		{probeGo, "	if err == unix.ENOENT || err == unix.ENOTDIR {\n		return facts.Absent", "	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {\n		return facts.Absent"},
	}},
	{"facts anywhere", "what is known of the tree is looked up from the host's root", []edit{
		{probeGo, "*sys.InRoot", "0"},
	}},
	{"any kind of file", "what is read need not be a regular file", []edit{
		{limitGo, "if st.Mode&unix.S_IFMT != unix.S_IFREG {", "if false && st.Mode != 0 {"},
	}},
	{"program kind", "the program may be anything", []edit{
		{payloadGo, "			if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {\n				denied", "			if st.Mode == 0 {\n				denied"},
		{payloadGo, "			switch err {\n			case nil:\n			case unix.ENOENT, unix.ENOTDIR, unix.ELOOP,", "			switch err {\n			case unix.ENOENT, unix.ELOOP:\n				return file, false, nil\n			case nil:\n			case unix.ENOTDIR,"},
	}},
	{"no look", "a program that is given by its path is not looked for", []edit{
		{payloadGo, "	var denied, cure string\n", "	if len(candidates) == 1 && strings.HasPrefix(candidates[0], \"/\") {\n		return candidates[0], false, nil\n	}\n	var denied, cure string\n"},
	}},
	{"interpreters", "a script's interpreter is not looked for", []edit{
		{payloadGo, "if why := k.interpreters(at, head); why != \"\" {", "if why := \"\"; why != \"\" {"},
	}},
	{"stub", "the first process executes the payload itself", []edit{
		{lowerGo, "		n := uintptr(b.status() + 1)\n", "		if len(b.plan.Second) == 0 {\n			u := b.user\n			add(unix.SYS_FCNTL, uintptr(b.status()), unix.F_SETFD, unix.FD_CLOEXEC)\n			add(unix.SYS_EXECVE, p.String(u.program), p.Strings(u.args...), p.Strings(u.env...))\n			break\n		}\n		n := uintptr(b.status() + 1)\n"},
	}},
	{"seals", "the stub's file may be changed", []edit{
		{stubGo, "return sys.AddSeals(n, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)", "return nil"},
	}},
	{"process 2", "the payload is always process 1", []edit{
		{stubGo, "Only: len(b.plan.Second) == 0, ", "Only: true, "},
	}},
	{"big files", "files are read whatever their size", []edit{
		{payloadGo, `"/etc/passwd", sys.InRoot, 1<<20`, `"/etc/passwd", sys.InRoot, 1<<40`},
		{probeGo, "return sys.ReadIn(n, name, sys.InRoot, fileMax)", "return sys.ReadIn(n, name, sys.InRoot, 1<<40)"},
	}},
	{"any line", "lines of passwd may be of any length, with any byte", []edit{
		{passwdGo, "if len(line) > MaxLine {", "if false {"},
		{passwdGo, "if bytes.IndexByte(line, 0) >= 0 {", "if false {"},
	}},
	{"numbers", "numbers out of range are taken as they come", []edit{
		{passwdGo, "	if err1 != nil || err2 != nil {\n		return Account{}, false\n	}\n", "	_, _ = err1, err2\n"},
	}},
	{"user text", "anything names a user, by number or by name", []edit{
		{passwdGo, "	if err := CheckUser(user); err != nil {\n		return Account{}, err\n	}\n	var want", "	var want"},
		{passwdGo, "byID && a.UID == want || !byID && a.Name == user", "byID && a.UID == want || a.Name == user"},
		{passwdGo, `strings.ContainsRune("#+- \t\r", rune(line[0]))`, "false"},
		{valueGo, "c == 0x7f || c == ':' || c == '/' || c == utf8.RuneError", "c == 0x7f || c == '/' || c == utf8.RuneError"},
		{valueGo, "	if digits(text) {\n		if n, err := strconv.ParseUint(text, 10, 32); err != nil || n == 1<<32-1 || n == 1<<16-1 {\n			return \"\", fmt.Errorf(\"%s is not a user id\", text)\n		}\n	}\n	return text, nil", "	return text, nil"},
	}},
	{"propagation", "what is mounted in the launcher's namespace reaches the host's", []edit{
		{attachGo, "&unix.MountAttr{Propagation: unix.MS_SLAVE}", "&unix.MountAttr{}"},
	}},
	{"propagation back", "the tree's mounts stay those of the host", []edit{
		{attachGo, "return sys.MountSetattr(n, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})", "return nil"},
	}},
	{"propagation of binds", "only /, /run and the kernel's file systems are cut off from the host's", []edit{
		{attachGo, "	if err := sys.MountSetattr(t.host, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {", "	for _, dir := range []string{\"/proc\", \"/sys\", \"/dev\", \"/run\"} {\n		n, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)\n		if err == nil {\n			err = sys.MountSetattr(n, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE})\n			sys.Close(n)\n		}\n		if err != nil {\n			return nil, err\n		}\n	}\n	if err := sys.MountSetattr(t.host, 0, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {"},
	}},
	{"core", "the launcher is dumpable", []edit{
		{engineGo, "sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0)", "error(nil)"},
	}},
	{"pin", "the tree may be another one than was looked at", []edit{
		{attachGo, "if err := same(n, t.Pin); err != nil {", "if false {\n			var err error"},
	}},
	{"part", "the tree's /usr is bound by its path", []edit{
		{attachGo, `case s.Part != "":`, "case false:"},
	}},
	{"kinds", "what goes onto what is left to the kernel", []edit{
		{attachGo, "(have == unix.S_IFDIR) != (kind == unix.S_IFDIR)", "false"},
	}},
	{"kinds alike", "too much: a file goes only onto a file, a FIFO only onto a FIFO", []edit{
		{attachGo, "(have == unix.S_IFDIR) != (kind == unix.S_IFDIR)", "have != kind && s.Avoid != \"\""},
	}},
	{"masks of FIFOs", "too much: a FIFO can't be masked", []edit{
		{attachGo, "		names = []string{\"fifo\"}", "		return errors.New(\"it is a FIFO\")"},
	}},
	{"parts", "a machine with a network of its own has an empty /sys that it may write to", []edit{
		{attachGo, "		return t.parts(s)", "		return nil"},
	}},
	{"clean proc", "a second proc is there, which nothing covers", []edit{
		{"settings/profile.go", "		{World: Inner, Target: \"/proc/sys\", Attr: ro | ns | nd | nx, When: Protected},\n		{World: Inner, Target: \"/proc/sys/net\"", "		{World: Inner, Target: \"/srv\", Type: \"proc\", Attr: ns | nd | nx},\n		{World: Inner, Target: \"/proc/sys\", Attr: ro | ns | nd | nx, When: Protected},\n		{World: Inner, Target: \"/proc/sys/net\""},
	}},
	{"replaced", "too much: a link of the tree's makes way for a file of the host's", []edit{
		{copyGo, "	if s.Keep {", "	if false {"},
	}},
	{"written through", "what is put into the tree is written to what is there", []edit{
		{copyGo, "unix.O_WRONLY|unix.O_NOFOLLOW|how", "unix.O_WRONLY|how"},
		{copyGo, "n, err := t.create(dir, \".\", unix.O_TMPFILE)", "n, err := t.create(dir, name, unix.O_CREAT|unix.O_TRUNC)"},
	}},
	{"read-only", "a bind mount is never made read-only", []edit{
		{attachGo, "	if s.Attr|s.Clear|s.Rest != 0 {\n		// A bundle's", "	if s.Attr|s.Clear|s.Rest != 0 && s.Source.InRoot {\n		// A bundle's"},
	}},
	{"flags of the tree", "the tree itself is never made read-only", []edit{
		{attachGo, "		return setattr(t.root, s.Attr, s.Recursive)", "		return nil"},
	}},
	{"layer", "the throw-away layer is left out", []edit{
		{attachGo, "		return t.layer(s)", "		return nil"},
	}},
	{"owners", "the tree's files keep their owners", []edit{
		{attachGo, "		return t.idmap(s)", "		return nil"},
		{attachGo, "			if err := t.Chown(n); err != nil {\n				return err\n			}\n		}\n		return nil", "			_ = n\n		}\n		return nil"},
	}},
	{"hard links", "a file is given to the machine even if it has a name outside", []edit{
		{"userns/shift/shift.go", "if k.st.Nlink > 1 && !k.Links && !k.lastName(d, name) {", "if false {"},
	}},
	{"owners of targets", "what is made for a mount stays the host's", []edit{
		{attachGo, "	return sys.MakeAs(t.l, t.UID, t.GID, make)", "	return make()"},
	}},
	{"keyring", "the machine has the caller's keys", []edit{
		{programGo, "	op(Keyring, none, 0, 0, 0, \"join a new session keyring\")\n", ""},
	}},
	{"ambient", "the caller's capabilities stay inheritable and ambient", []edit{
		{lowerGo, "add(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)", "add(unix.SYS_GETPID)"},
		{lowerGo, "Permitted: uint32(caps.Permitted), Inheritable: uint32(caps.Inheritable)}", "Permitted: uint32(caps.Permitted), Inheritable: uint32(caps.Permitted)}"},
	}},
	{"groups", "the caller's groups stay", []edit{
		{lowerGo, "		add(unix.SYS_SETGROUPS, 0, 0)\n", ""},
		{lowerGo, "add(unix.SYS_SETGROUPS, uintptr(len(groups)), p.Uint32s(groups))", "add(unix.SYS_GETPID)\n		_ = groups"},
	}},
}

func (m mutant) build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	over, err := remake.Overlay(dir, m.edits...)
	if err != nil {
		t.Fatalf("mutant %q no longer fits: %v", m.name, err)
	}
	bin := filepath.Join(dir, "launch")
	if out, err := build(bin, over, "../../../cmd/launch"); err != nil {
		t.Fatalf("build the mutant %q: %v\n%s", m.name, err, out)
	}
	return bin
}

// TestHostileMutantsFit: every day, that each mutant can still be made. The
// builds themselves are for the long run.
func TestHostileMutantsFit(t *testing.T) {
	for _, m := range mutants {
		if _, err := remake.Overlay(t.TempDir(), m.edits...); err != nil {
			t.Errorf("mutant %q no longer fits: %v", m.name, err)
		}
	}
}

// TestHostileMutants runs the quick cases under every mutant, in a world whose
// root is shared. Each mutant must fail a case, and each case must be failed by
// a mutant.
//
// LAUNCH_MUTANTS and LAUNCH_CASES choose a few, mutants by name and cases by a
// part of theirs; LAUNCH_CASES=all takes the slow ones, too. With LAUNCH_MATRIX,
// what a mutant did is kept in that directory, and is not done again as long as
// mutant and test are the same to the last byte: so it can be done in parts.
func TestHostileMutants(t *testing.T) {
	if !hostileRun() {
		t.Skip("the mutants run by: make hostile")
	}
	newWorld(t, true) // skips, where there can't be one
	only, among := os.Getenv("LAUNCH_MUTANTS"), os.Getenv("LAUNCH_CASES")
	var quick []*kase
	for _, c := range cases() {
		if among != "" && among != "all" && c.name != plain && !slices.ContainsFunc(strings.Split(among, ","), func(part string) bool { return strings.Contains(c.name, part) }) {
			continue
		}
		if (!c.slow || among == "all") && c.missing() == "" {
			quick = append(quick, c)
		}
	}
	first := slices.IndexFunc(quick, func(c *kase) bool { return c.name == plain })
	quick = append([]*kase{quick[first]}, slices.Delete(slices.Clone(quick), first, first+1)...)
	chosen := slices.DeleteFunc(slices.Clone(mutants), func(m mutant) bool {
		return only != "" && !slices.Contains(strings.Split(only, ","), m.name)
	})
	red := make([][]string, len(chosen)) // mutant, case → fault
	next := make(chan int)
	go func() {
		for i := range chosen {
			next <- i
		}
		close(next)
	}()
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			for i := range next {
				t.Run("mutant "+strings.ReplaceAll(chosen[i].name, "/", "|"), func(t *testing.T) {
					red[i] = runMutant(t, chosen[i], quick)
				})
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		return
	}
	table(t, chosen, quick, red, only == "" && (among == "" || among == "all"))
}

// plain is the case that nothing is wrong with; it is the first that runs.
const plain = "twin plain"

// runMutant runs the cases, each in a world that no earlier one has broken. A
// mutant that can't even start a plain machine proves nothing about a single
// case: none is tried.
func runMutant(t *testing.T, m mutant, list []*kase) []string {
	bin := m.build(t)
	faults := make([]string, len(list))
	kept := keptAt(t, bin)
	if b, err := os.ReadFile(kept); err == nil && json.Unmarshal(b, &faults) == nil && len(faults) == len(list) {
		t.Log("kept from an earlier run")
		return faults
	}
	var w *world
	for i, c := range list {
		if faults[0] != "" && list[0].name == plain {
			break
		}
		if w == nil {
			w = newWorld(t, true)
		}
		var fault string
		w.do(func() { fault = w.try(bin, c) })
		if strings.HasPrefix(fault, "the host changed") || strings.Contains(fault, "hung") {
			w = nil
		}
		faults[i] = fault
		if fault != "" {
			first, rest, _ := strings.Cut(fault, "\n")
			t.Logf("%s %s: %s %.200s", c.row, c.name, first, rest)
		}
	}
	if kept != "" && !t.Failed() {
		if b, err := json.Marshal(faults); err != nil || os.WriteFile(kept, b, 0o644) != nil {
			t.Error("cannot keep what the mutant did: ", err)
		}
	}
	return faults
}

// keptAt is the file for what a mutant did: its name says which mutant, test
// and cases.
func keptAt(t *testing.T, bin string) string {
	dir := os.Getenv("LAUNCH_MATRIX")
	if dir == "" {
		return ""
	}
	h := sha256.New()
	for _, name := range []string{bin, "/proc/self/exe", payload} {
		f, err := os.Open(name)
		if err == nil {
			_, err = io.Copy(h, f)
			f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(h, os.Getenv("LAUNCH_CASES"))
	return filepath.Join(dir, fmt.Sprintf("%x.json", h.Sum(nil)))
}

// table prints the matrix, and fails for empty rows and columns.
func table(t *testing.T, ms []mutant, list []*kase, red [][]string, whole bool) {
	var b strings.Builder
	fmt.Fprintf(&b, "\ncases down, mutants across; x: red\n")
	for i, m := range ms {
		n := 0
		for _, f := range red[i] {
			if f != "" {
				n++
			}
		}
		broad := ""
		if red[i][0] != "" {
			broad = " (a plain machine; no other case was tried)"
		}
		fmt.Fprintf(&b, "%2d %-20s %4d red%s: %s\n", i+1, m.name, n, broad, m.what)
		if n == 0 {
			t.Errorf("no case notices the mutant %q: %s", m.name, m.what)
		}
	}
	for k, c := range list {
		row := make([]byte, len(ms))
		n := 0
		for i := range ms {
			row[i] = '.'
			if red[i][k] != "" {
				row[i] = 'x'
				n++
			}
		}
		fmt.Fprintf(&b, "%s %-4s%s\n", row, c.row, c.name)
		if n == 0 {
			if whole {
				t.Errorf("no mutant fails the case %q", c.name)
			}
		}
	}
	t.Log(b.String())
}
