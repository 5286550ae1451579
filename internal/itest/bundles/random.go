package bundles

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// random makes bundles by chance: each has a few fields with values that all
// runtimes should take, so that what is tried is how they go together. The same
// number is always the same bundle.
func random(number uint64) bundle {
	r := &dice{rand.New(rand.NewPCG(number, 7))}
	b := bundle{name: fmt.Sprintf("random-%05d", number), patch: object{}}
	p, l := object{}, object{}
	b.patch["process"], b.patch["linux"] = p, l
	private := r.times(4)
	namespaces(r, b.patch, l, private)
	process(r, p)
	if private {
		// Others make what is missing with the rights of the container's root,
		// which does not own the tree.
		p["cwd"] = r.one("/", "/srv", "/opt/../srv")
	}
	var mounts []any
	for range r.IntN(4) {
		mounts = append(mounts, r.mount(len(mounts), private))
	}
	if mounts != nil {
		b.patch["mounts+"] = mounts
	}
	if r.times(4) {
		b.patch["root"] = object{"readonly": true}
	}
	if r.times(6) {
		l["rootfsPropagation"] = r.one("private", "rprivate", "slave", "rslave")
	}
	if r.times(4) {
		l["maskedPaths"] = r.some("/proc/kcore", "/proc/keys", "/sys/firmware", "/opt", "/etc/passwd", "/no/such", "/srv/secret", "/usr/bin/env")
	}
	if r.times(4) {
		l["readonlyPaths"] = r.some("/proc/bus", "/proc/sys", "/proc/irq", "/opt", "/etc/passwd", "/no/such", "/srv")
	}
	if r.times(6) {
		l["personality"] = object{"domain": r.one("LINUX", "LINUX32")}
	}
	if r.times(4) && !private {
		l["devices"] = []any{object{"path": r.one("/dev/mine", "/dev/a/b", "/srv/mine"), "type": "c", "major": 1, "minor": r.one(3, 5, 7),
			"fileMode": r.one(0o600, 0o666, 0o640), "uid": r.one(0, 5), "gid": r.one(0, 6)}}
	}
	if r.times(3) {
		l["seccomp"] = r.filter()
	}
	if r.times(5) {
		b.patch["annotations"] = object{"a.b": "c"}
	}
	return b
}

type object = map[string]any

// dice are numbers by chance.
type dice struct{ *rand.Rand }

// times is true once in n times.
func (r *dice) times(n int) bool { return r.IntN(n) == 0 }

func (r *dice) one(of ...any) any { return of[r.IntN(len(of))] }

// some gives a few of the words, each once, in any order.
func (r *dice) some(of ...any) []any {
	of = slices.Clone(of)
	r.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	return of[:r.IntN(len(of)+1)]
}

func namespaces(r *dice, config, l object, private bool) {
	var list []any
	has := map[string]bool{}
	for _, kind := range []string{"pid", "network", "ipc", "uts", "mount", "cgroup", "time"} {
		path := map[string]string{"network": "net", "ipc": "ipc", "uts": "uts"}[kind]
		switch {
		case kind != "mount" && r.times(8), kind == "time" && !r.times(5):
			// A container's sysfs needs a network of its own users.
			if !private || kind != "network" && kind != "pid" && kind != "ipc" {
				continue
			}
			list = append(list, object{"type": kind})
		case path != "" && !private && r.times(8):
			list = append(list, object{"type": kind, "path": "/run/other/" + path})
		default:
			list = append(list, object{"type": kind})
		}
		has[kind] = true
	}
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	if private {
		list = append(list, object{"type": "user"})
		maps := []any{object{"containerID": 0, "hostID": 100000, "size": 65536}}
		l["uidMappings"], l["gidMappings"] = maps, maps
	}
	l["namespaces"] = list
	if !has["uts"] {
		config["hostname"] = nil
	} else if r.times(4) {
		config["domainname"] = "by.chance"
	}
	if has["time"] && r.times(2) && !private { // crun is not permitted to
		l["timeOffsets"] = object{"monotonic": object{"secs": r.IntN(5000)}, "boottime": object{"secs": r.IntN(5000), "nanosecs": 7}}
	}
	sysctl := object{}
	if has["network"] && r.times(4) {
		sysctl["net.ipv4.ip_forward"] = r.one("0", "1")
	}
	if has["ipc"] && r.times(4) && !private {
		sysctl["kernel.msgmax"] = fmt.Sprint(8000 + r.IntN(1000))
	}
	l["sysctl"] = sysctl
}

func process(r *dice, p object) {
	user := object{"uid": r.one(0, 0, 1000, 54321), "gid": r.one(0, 1000, 7)}
	if r.times(3) {
		user["additionalGids"] = r.some(5, 6, 1001, 20)
	}
	if r.times(3) {
		user["umask"] = r.one(0, 18, 63, 511)
	}
	p["user"] = user
	p["args"] = r.one([]any{"/usr/bin/probe"}, []any{"probe"}, []any{"probe", fmt.Sprint(r.IntN(200)), "a b", ""}, []any{"/bin/sh", "-c", "exec probe 3"})
	env := []any{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	p["env"] = append(env, r.some("A=1", "A=2", "HOME=/x", "TERM=xterm", "E=", "Q=a b\"c'")...)
	p["cwd"] = r.one("/", "/", "/srv", "/opt/../srv", "/made/here")
	p["noNewPrivileges"] = r.times(2)
	if r.times(2) {
		bounding := r.some("CAP_KILL", "CAP_NET_RAW", "CAP_CHOWN", "CAP_SETUID", "CAP_NET_BIND_SERVICE")
		permitted := bounding[:r.IntN(len(bounding)+1)]
		inheritable := permitted[:r.IntN(len(permitted)+1)]
		p["capabilities"] = object{"bounding": bounding, "permitted": permitted, "effective": permitted[:r.IntN(len(permitted)+1)],
			"inheritable": inheritable, "ambient": inheritable[:r.IntN(len(inheritable)+1)]}
	}
	var limits []any
	for _, kind := range r.some("NOFILE", "CORE", "STACK", "MEMLOCK", "MSGQUEUE", "FSIZE", "SIGPENDING") {
		if r.times(2) {
			least := map[any]int{"NOFILE": 100, "STACK": 1 << 20, "FSIZE": 1 << 20}[kind]
			soft := least + r.IntN(1000)
			limits = append(limits, object{"type": "RLIMIT_" + kind.(string), "soft": soft, "hard": soft + r.IntN(2)*100})
		}
	}
	p["rlimits"] = limits
	if r.times(4) {
		p["oomScoreAdj"] = r.IntN(1001)
	}
	if r.times(6) {
		p["scheduler"] = r.one(object{"policy": "SCHED_OTHER", "nice": 5}, object{"policy": "SCHED_BATCH", "nice": 3}, object{"policy": "SCHED_IDLE"})
	}
	if r.times(6) {
		p["ioPriority"] = object{"class": "IOPRIO_CLASS_BE", "priority": r.IntN(8)}
	}
}

// mount gives the n-th mount of a bundle.
func (r *dice) mount(n int, private bool) any {
	to := fmt.Sprintf("%s%d", r.one("/mnt/m", "/mnt/deep/er/m", "/srv/m", "/opt/../mnt/up").(string), n)
	kind := r.IntN(5)
	if private {
		to = []string{"/mnt", "/srv", "/opt"}[n]
		kind = r.IntN(2) * 2 // what users of the container's own may mount
	}
	flags := r.some("nosuid", "nodev", "noexec", r.one("noatime", "relatime", "strictatime"), r.one("ro", "rw"))
	switch kind {
	case 0:
		return object{"destination": to, "type": "tmpfs", "source": "tmpfs", "options": append(flags, r.some("size=1m", "mode=0700", "nr_inodes=100")...)}
	case 1:
		return object{"destination": to, "type": "bind", "source": "/run/out/file", "options": append(flags, "bind")}
	case 2:
		return object{"destination": to, "type": "bind", "source": "/run/out/dir", "options": append(flags, "rbind", r.one("rprivate", "rslave", "private"))}
	case 3:
		return object{"destination": to, "type": "bind", "source": "/run/out/nosuid", "options": append(flags, "bind")}
	}
	return object{"destination": to, "type": "overlay", "source": "overlay", "options": append(flags, "lowerdir=/run/out/lower:/run/out/dir")}
}

// filter gives one that lets the probe run.
func (r *dice) filter() any {
	calls := r.some("sethostname", "personality", "mkdir", "mkdirat", "ptrace", "keyctl", "clone3", "socket", "no_such_call")
	one := object{"names": append(calls, "swapon"), "action": r.one("SCMP_ACT_ERRNO", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG")}
	if one["action"] == "SCMP_ACT_ERRNO" && r.times(2) {
		one["errnoRet"] = r.one(1, 2, 38)
	}
	if r.times(3) {
		one["names"] = []any{"socket"}
		one["args"] = []any{object{"index": 0, "value": r.IntN(40), "op": r.one("SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GE", "SCMP_CMP_GT")}}
	}
	f := object{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []any{one}}
	if r.times(3) {
		f["architectures"] = []any{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}
	}
	return f
}
