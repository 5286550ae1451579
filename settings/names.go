package settings

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

type numbered struct {
	name string
	n    uint8
}

// The kernel's capabilities, by name.
var capNames = [...]numbered{
	{"CAP_AUDIT_CONTROL", unix.CAP_AUDIT_CONTROL},
	{"CAP_AUDIT_READ", unix.CAP_AUDIT_READ},
	{"CAP_AUDIT_WRITE", unix.CAP_AUDIT_WRITE},
	{"CAP_BLOCK_SUSPEND", unix.CAP_BLOCK_SUSPEND},
	{"CAP_BPF", unix.CAP_BPF},
	{"CAP_CHECKPOINT_RESTORE", unix.CAP_CHECKPOINT_RESTORE},
	{"CAP_CHOWN", unix.CAP_CHOWN},
	{"CAP_DAC_OVERRIDE", unix.CAP_DAC_OVERRIDE},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH},
	{"CAP_FOWNER", unix.CAP_FOWNER},
	{"CAP_FSETID", unix.CAP_FSETID},
	{"CAP_IPC_LOCK", unix.CAP_IPC_LOCK},
	{"CAP_IPC_OWNER", unix.CAP_IPC_OWNER},
	{"CAP_KILL", unix.CAP_KILL},
	{"CAP_LEASE", unix.CAP_LEASE},
	{"CAP_LINUX_IMMUTABLE", unix.CAP_LINUX_IMMUTABLE},
	{"CAP_MAC_ADMIN", unix.CAP_MAC_ADMIN},
	{"CAP_MAC_OVERRIDE", unix.CAP_MAC_OVERRIDE},
	{"CAP_MKNOD", unix.CAP_MKNOD},
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
	{"CAP_NET_BIND_SERVICE", unix.CAP_NET_BIND_SERVICE},
	{"CAP_NET_BROADCAST", unix.CAP_NET_BROADCAST},
	{"CAP_NET_RAW", unix.CAP_NET_RAW},
	{"CAP_PERFMON", unix.CAP_PERFMON},
	{"CAP_SETFCAP", unix.CAP_SETFCAP},
	{"CAP_SETGID", unix.CAP_SETGID},
	{"CAP_SETPCAP", unix.CAP_SETPCAP},
	{"CAP_SETUID", unix.CAP_SETUID},
	{"CAP_SYSLOG", unix.CAP_SYSLOG},
	{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN},
	{"CAP_SYS_BOOT", unix.CAP_SYS_BOOT},
	{"CAP_SYS_CHROOT", unix.CAP_SYS_CHROOT},
	{"CAP_SYS_MODULE", unix.CAP_SYS_MODULE},
	{"CAP_SYS_NICE", unix.CAP_SYS_NICE},
	{"CAP_SYS_PACCT", unix.CAP_SYS_PACCT},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE},
	{"CAP_SYS_RAWIO", unix.CAP_SYS_RAWIO},
	{"CAP_SYS_RESOURCE", unix.CAP_SYS_RESOURCE},
	{"CAP_SYS_TIME", unix.CAP_SYS_TIME},
	{"CAP_SYS_TTY_CONFIG", unix.CAP_SYS_TTY_CONFIG},
	{"CAP_WAKE_ALARM", unix.CAP_WAKE_ALARM},
}

// AllCaps has the bit of every capability that there is a name for.
const AllCaps = 1<<len(capNames) - 1

// CapabilityName gives the name of a capability; empty if it has none.
func CapabilityName(n int) string {
	for _, c := range capNames {
		if int(c.n) == n {
			return c.name
		}
	}
	return ""
}

// CapabilityNames gives the names of a set, with spaces between.
func CapabilityNames(mask uint64) string {
	var names []string
	for n := range 64 {
		if mask&(1<<n) != 0 {
			names = append(names, CapabilityName(n))
		}
	}
	return strings.Join(names, " ")
}

// ParseCapability gives the number of a capability. Case doesn't matter.
func ParseCapability(name string) (int, error) {
	upper := strings.ToUpper(name)
	lo, hi := 0, len(capNames)
	for lo < hi {
		mid := (lo + hi) / 2
		if capNames[mid].name < upper {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(capNames) && capNames[lo].name == upper {
		return int(capNames[lo].n), nil
	}
	if n, err := strconv.Atoi(name); err == nil && digits(name) && n < len(capNames) {
		return n, nil
	}
	if near := nearestCap(upper); near != "" {
		return 0, fmt.Errorf("unknown capability %q, did you mean %s?", name, near)
	}
	return 0, fmt.Errorf("unknown capability %q", name)
}

func nearestCap(upper string) string {
	for _, c := range capNames {
		if c.name == "CAP_"+upper {
			return c.name
		}
	}
	return Nearest(upper, capList()...)
}

func capList() []string { return list("", capNames[:], "all") }

func signalList() []string {
	return list("SIG", signalNames[:], "SIGRTMIN+0…30", "SIGRTMAX-0…30")
}

func list(prefix string, table []numbered, more ...string) []string {
	names := make([]string, 0, len(table)+len(more))
	for _, n := range table {
		names = append(names, prefix+n.name)
	}
	return append(names, more...)
}

// parseCaps reads the flag's list, which has commas.
func parseCaps(_ Place, text string) (any, error) {
	return capMask(strings.Split(text, ","))
}

// parseCapsKey reads the key's list, which has blanks.
func parseCapsKey(_ Place, text string) (any, error) {
	words, err := SplitWords(text)
	if err != nil {
		return uint64(0), err
	}
	// What is not known yet, or any more, must not take the others along: they
	// may be dropped.
	var all uint64
	var wrong error
	for _, w := range words {
		mask, err := capMask([]string{w})
		if wrong == nil {
			wrong = err
		}
		all |= mask.(uint64)
	}
	return all, partly(wrong, all != 0)
}

func capMask(names []string) (any, error) {
	var mask uint64
	for _, name := range names {
		name = strings.TrimSpace(name)
		switch name {
		case "":
			continue
		case "all":
			mask |= AllCaps
			continue
		}
		n, err := ParseCapability(name)
		if err != nil {
			return uint64(0), err
		}
		mask |= 1 << n
	}
	return mask, nil
}

// The signals that amd64 and arm64 have in common: all of them.
var signalNames = [...]numbered{
	{"ABRT", 6}, {"ALRM", 14}, {"BUS", 7}, {"CHLD", 17}, {"CONT", 18}, {"FPE", 8}, {"HUP", 1}, {"ILL", 4}, {"INT", 2},
	{"IO", 29}, {"IOT", 6}, {"KILL", 9}, {"PIPE", 13}, {"POLL", 29}, {"PROF", 27}, {"PWR", 30}, {"QUIT", 3}, {"SEGV", 11},
	{"STKFLT", 16}, {"STOP", 19}, {"SYS", 31}, {"TERM", 15}, {"TRAP", 5}, {"TSTP", 20}, {"TTIN", 21}, {"TTOU", 22},
	{"URG", 23}, {"USR1", 10}, {"USR2", 12}, {"VTALRM", 26}, {"WINCH", 28}, {"XCPU", 24}, {"XFSZ", 25},
}

// The realtime signals that programs may use. The C library keeps the two
// below for itself, so that RTMIN means 34 everywhere.
const (
	rtMin = 34
	rtMax = 64
)

// ParseSignal gives the number of a signal, written as SIGTERM, TERM, 15,
// SIGRTMIN+3 or RTMAX-1.
func ParseSignal(text string) (int, error) {
	if digits(text) {
		if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= rtMax {
			return n, nil
		}
		return 0, fmt.Errorf("%s is not the number of a signal", text)
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	for _, s := range signalNames {
		if s.name == name {
			return int(s.n), nil
		}
	}
	n := 0
	if off, ok := strings.CutPrefix(name, "RTMIN"); ok {
		n = rtMin
		if off, ok = strings.CutPrefix(off, "+"); ok && digits(off) && len(off) < 3 {
			d, _ := strconv.Atoi(off)
			n += d
		} else if off != "" || ok {
			n = 0
		}
	} else if off, ok := strings.CutPrefix(name, "RTMAX"); ok {
		n = rtMax
		if off, ok = strings.CutPrefix(off, "-"); ok && digits(off) && len(off) < 3 {
			d, _ := strconv.Atoi(off)
			n -= d
		} else if off != "" || ok {
			n = 0
		}
	}
	if n < rtMin || n > rtMax {
		names := make([]string, len(signalNames))
		for i, s := range signalNames {
			names[i] = "SIG" + s.name
		}
		if near := Nearest("SIG"+name, names...); near != "" {
			return 0, fmt.Errorf("unknown signal %q, did you mean %s?", text, near)
		}
		return 0, fmt.Errorf("unknown signal %q", text)
	}
	return n, nil
}

func parseSignal(_ Place, text string) (any, error) {
	n, err := ParseSignal(text)
	return n, err
}
