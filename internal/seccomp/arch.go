package seccomp

import (
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// Arch is a calling convention of the kernel: one table of numbers.
type Arch uint8

// The order is that of the generated tables.
const (
	X86_64 Arch = iota
	X86
	X32
	AArch64
	ARM
	RISCV64
	PPC64LE
	S390X

	archCount = 8
)

// x32Bit marks a call of x32, which shares x86_64's audit token.
const x32Bit = 0x40000000

var arches = [archCount]struct {
	name  string // as systemd and uname spell it
	oci   string
	token uint32
	// word is 32 where an argument has only its low word: comparing the high
	// one would compare what the kernel ignores. x32 counts as such.
	word int
	// big says that the high word of an argument comes first in memory.
	big bool
	// multiplexes says that socket and System V IPC calls may also come as
	// sub-numbers of socketcall and ipc.
	multiplexes bool
}{
	X86_64:  {name: "x86-64", oci: "SCMP_ARCH_X86_64", token: unix.AUDIT_ARCH_X86_64, word: 64},
	X86:     {name: "x86", oci: "SCMP_ARCH_X86", token: unix.AUDIT_ARCH_I386, word: 32, multiplexes: true},
	X32:     {name: "x32", oci: "SCMP_ARCH_X32", token: unix.AUDIT_ARCH_X86_64, word: 32},
	AArch64: {name: "arm64", oci: "SCMP_ARCH_AARCH64", token: unix.AUDIT_ARCH_AARCH64, word: 64},
	ARM:     {name: "arm", oci: "SCMP_ARCH_ARM", token: unix.AUDIT_ARCH_ARM, word: 32},
	RISCV64: {name: "riscv64", oci: "SCMP_ARCH_RISCV64", token: unix.AUDIT_ARCH_RISCV64, word: 64},
	PPC64LE: {name: "ppc64-le", oci: "SCMP_ARCH_PPC64LE", token: unix.AUDIT_ARCH_PPC64LE, word: 64, multiplexes: true},
	S390X:   {name: "s390x", oci: "SCMP_ARCH_S390X", token: unix.AUDIT_ARCH_S390X, word: 64, big: true, multiplexes: true},
}

func (a Arch) String() string {
	if int(a) < len(arches) {
		return arches[a].name
	}
	return "unknown"
}

// Native is the architecture that this program was built for; false where
// there is no table for it.
func Native() (Arch, bool) {
	switch runtime.GOARCH {
	case "amd64":
		return X86_64, true
	case "386":
		return X86, true
	case "arm64":
		return AArch64, true
	case "arm":
		return ARM, true
	case "riscv64":
		return RISCV64, true
	case "ppc64le":
		return PPC64LE, true
	case "s390x":
		return S390X, true
	}
	return 0, false
}

// Siblings are the architectures whose programs a kernel of a can run, a
// itself first.
func (a Arch) Siblings() []Arch {
	switch a {
	case X86_64:
		return []Arch{X86_64, X86, X32}
	case AArch64:
		return []Arch{AArch64, ARM}
	}
	return []Arch{a}
}

// Number is the call's number on a, with the x32 bit for x32.
func (a Arch) Number(name string) (uint32, bool) {
	i, ok := callIndex(name)
	if !ok || int(a) >= archCount || callNumbers[i][a] < 0 {
		return 0, false
	}
	return uint32(callNumbers[i][a]), true
}

// Name is the name of a call by its number on a.
func (a Arch) Name(nr uint32) (string, bool) {
	if int(a) >= archCount {
		return "", false
	}
	own := callsByNumber[a]
	at, ok := slices.BinarySearchFunc(own, nr, func(call uint16, nr uint32) int {
		return int(int64(callNumbers[call][a]) - int64(nr))
	})
	if !ok {
		return "", false
	}
	return callNames[own[at]], true
}

// Known says whether any architecture has a call of that name.
func Known(name string) bool {
	_, ok := callIndex(name)
	return ok
}

func callIndex(name string) (uint16, bool) {
	i, ok := slices.BinarySearch(callNames[:], name)
	return uint16(i), ok
}

type group struct {
	name  string
	calls []uint16 // places in callNames, sorted
}

func groupCalls(name string) ([]uint16, bool) {
	if name == "@known" {
		return knownCalls(), true
	}
	i, ok := slices.BinarySearchFunc(groups[:], name, func(g group, name string) int {
		switch {
		case g.name < name:
			return -1
		case g.name > name:
			return 1
		}
		return 0
	})
	if !ok {
		return nil, false
	}
	return groups[i].calls, true
}

func knownCalls() []uint16 {
	all := make([]uint16, len(callNames))
	for i := range all {
		all[i] = uint16(i)
	}
	return all
}

// A multiplexed call is also a sub-number, given as argument 0 of socketcall
// or ipc. The kernel reads socketcall's as an int, and ipc's low 16 bits only
// (above them is a version), so no more than that is compared.
const (
	socketcallMask = 0xffffffff
	ipcMask        = 0xffff
)

// multiplexed names the carrier of a call and its sub-number there; 0 means
// that the call isn't multiplexed.
func multiplexed(name string) (carrier string, sub uint8) {
	switch name {
	case "socket":
		return "socketcall", 1
	case "bind":
		return "socketcall", 2
	case "connect":
		return "socketcall", 3
	case "listen":
		return "socketcall", 4
	case "accept":
		return "socketcall", 5
	case "getsockname":
		return "socketcall", 6
	case "getpeername":
		return "socketcall", 7
	case "socketpair":
		return "socketcall", 8
	case "send":
		return "socketcall", 9
	case "recv":
		return "socketcall", 10
	case "sendto":
		return "socketcall", 11
	case "recvfrom":
		return "socketcall", 12
	case "shutdown":
		return "socketcall", 13
	case "setsockopt":
		return "socketcall", 14
	case "getsockopt":
		return "socketcall", 15
	case "sendmsg":
		return "socketcall", 16
	case "recvmsg":
		return "socketcall", 17
	case "accept4":
		return "socketcall", 18
	case "recvmmsg":
		return "socketcall", 19
	case "sendmmsg":
		return "socketcall", 20
	case "semop":
		return "ipc", 1
	case "semget":
		return "ipc", 2
	case "semctl":
		return "ipc", 3
	case "semtimedop":
		return "ipc", 4
	case "msgsnd":
		return "ipc", 11
	case "msgrcv":
		return "ipc", 12
	case "msgget":
		return "ipc", 13
	case "msgctl":
		return "ipc", 14
	case "shmat":
		return "ipc", 21
	case "shmdt":
		return "ipc", 22
	case "shmget":
		return "ipc", 23
	case "shmctl":
		return "ipc", 24
	}
	return "", 0
}
