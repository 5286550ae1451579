// Package stub has the program that executes the payload: some 500 bytes of
// machine code, wrapped in an ELF file of two pages that the launcher makes anew
// for each machine. Whatever the payload's file names when it is executed, it
// finds this program as /proc/self/exe, and not the launcher.
//
// When the payload is to be process 2 (--as-pid2), the program is process 1. It
// starts process 2, reaps whatever dies, and ends the machine when it is told
// to:
//
//   - SIGRTMIN+3, +4, +13 and +14 power it off, SIGINT, SIGRTMIN+5, +6, +15 and
//     +16 reboot it: process 2 gets SIGTERM, SIGCONT and SIGHUP, and some time;
//     then the kernel is asked. The first such signal counts. Other signals
//     do nothing.
//   - When process 2 ends by itself, process 1 ends with the same status, or
//     with 255 if it was a signal.
//
// What it runs stands in the ELF file's second segment, as data with
// the addresses that it will have in memory, so that the program parses
// nothing and shows nothing in its own arguments and environment. It is
// position-dependent for the same reason.
//
// What it guarantees: nothing of the launcher's memory is in the image, and it
// runs once; as the interpreter of its own payload it ends with status 127. It
// refuses to know what a machine is, and how the file gets into memory that
// nobody can write to.
//
// Room: child.
package stub

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what is run.
type Options struct {
	// Only: there is no process 2, the program itself becomes the payload.
	// Terminal and Grace mean nothing then.
	Only bool
	// Program is a path as process 1 sees it.
	Program   string
	Args, Env []string
	// Terminal: standard input becomes the controlling terminal of process 2.
	Terminal bool
	// Grace is how long process 2 may take to end once it was asked to.
	Grace time.Duration
	// Status is the descriptor that failures are told on; 0: the usual one.
	Status int
	// Words are written to standard error if the kernel knows no way to execute
	// the payload (ENOEXEC).
	Words string
	// Filter is a system-call filter that is installed last, with FilterFlags
	// (SECCOMP_FILTER_FLAG_…); nil: none. It sees the payload's execve, and
	// what comes after.
	Filter      []unix.SockFilter
	FilterFlags uint32
	// Label is written to LabelFile in the process that becomes the payload, for
	// the security module that looks at the payload's execve; "": there is none.
	Label, LabelFile string
}

// Name is what process 1 is called.
const Name = "(sd-stubinit)"

// Status is the descriptor on which the program tells a failure. It is closed
// when the payload runs, and so is the next one: whoever has the other end of
// that sees when it is. All descriptors above must be closed before.
const Status = 3

// Step is something that can fail before the payload runs.
type Step uint32

// The steps, as the program counts them.
const (
	Fork Step = 1 + iota
	Setsid
	CtlTTY
	Exec
	Filter
	Label
)

// ReportSize is the length of what the program writes to Status.
const ReportSize = 8

// Report reads what the program wrote to Status.
func Report(b []byte) (Step, unix.Errno) {
	return Step(binary.LittleEndian.Uint32(b[4:])), unix.Errno(binary.LittleEndian.Uint32(b))
}

// Where the program finds itself. The code and the data are on pages of their
// own where pages have 4 KiB, and addresses and places in the file agree for
// pages of up to 64 KiB.
const (
	codeAddr  = 0x400000
	blockAddr = 0x411000
	blockAt   = 0x1000 // in the file
	headSize  = 64 + 3*56
)

// block is what the program knows; the assembly refers to its fields by name.
type block struct {
	program, argv, envp uint64 // addresses
	terminal, only      uint64
	all, none           uint64 // sets of signals
	poweroff, reboot    uint64 // numbers of signals, as bits
	poweroffCmd         uint64
	rebootCmd           uint64
	magic1, magic2      uint64
	grace               [4]uint64 // struct itimerval
	name                [16]byte
	root                [8]byte
	status              uint64
	filter, filterAddr  uint64 // struct sock_fprog: how many, and where
	filterFlags         uint64
	words, wordsSize    uint64 // address and length
	label, labelSize    uint64
	labelFile           uint64 // address
}

// mark is what the assembly has behind its last instruction.
const mark = 0x6c61756e63682e2e

// rtmin is the first real-time signal as libc counts.
const rtmin = 34

func bits(signals ...int) (set uint64) {
	for _, s := range signals {
		set |= 1 << s
	}
	return set
}

// Image gives the ELF file.
func Image(o Options) []byte {
	b := block{
		all:         ^uint64(0),
		none:        0, // said for readers: only the assembly looks at it
		poweroff:    bits(rtmin+3, rtmin+4, rtmin+13, rtmin+14),
		reboot:      bits(int(unix.SIGINT), rtmin+5, rtmin+6, rtmin+15, rtmin+16),
		poweroffCmd: unix.LINUX_REBOOT_CMD_POWER_OFF,
		rebootCmd:   unix.LINUX_REBOOT_CMD_RESTART,
		magic1:      unix.LINUX_REBOOT_MAGIC1,
		magic2:      unix.LINUX_REBOOT_MAGIC2,
		grace:       [4]uint64{2: uint64(o.Grace / time.Second), 3: uint64(o.Grace % time.Second / time.Microsecond)},
		root:        [8]byte{'/'},
		status:      Status,
		filter:      uint64(len(o.Filter)),
		filterFlags: uint64(o.FilterFlags),
	}
	if o.Status != 0 {
		b.status = uint64(o.Status)
	}
	if o.Terminal {
		b.terminal = 1
	}
	if o.Only {
		b.only = 1
	}
	copy(b.name[:], Name)

	// Behind the block lie the arrays of addresses, then the strings.
	at := uint64(blockAddr + len(bytesOf(&b)))
	b.argv = at
	b.envp = at + 8*uint64(len(o.Args)+1)
	at = b.envp + 8*uint64(len(o.Env)+1)
	var table, text []byte
	put := func(s string) uint64 {
		addr := at + uint64(len(text))
		text = append(append(text, s...), 0)
		return addr
	}
	for _, list := range [][]string{o.Args, o.Env} {
		for _, s := range list {
			table = binary.LittleEndian.AppendUint64(table, put(s))
		}
		table = binary.LittleEndian.AppendUint64(table, 0)
	}
	b.program = put(o.Program)
	b.words, b.wordsSize = put(o.Words), uint64(len(o.Words))
	b.label, b.labelSize, b.labelFile = put(o.Label), uint64(len(o.Label)), put(o.LabelFile)
	for len(text)%8 != 0 {
		text = append(text, 0)
	}
	b.filterAddr = at + uint64(len(text))
	for _, i := range o.Filter {
		text = binary.LittleEndian.AppendUint16(text, i.Code)
		text = append(text, i.Jt, i.Jf)
		text = binary.LittleEndian.AppendUint32(text, i.K)
	}
	return file(code(), bytesOf(&b), table, text)
}

// header and segment are ELF's Elf64_Ehdr and Elf64_Phdr.
type header struct {
	Ident                      [16]byte
	Type, Machine              uint16
	Version                    uint32
	Entry, Phoff, Shoff        uint64
	Flags                      uint32
	Ehsize, Phentsize, Phnum   uint16
	Shentsize, Shnum, Shstrndx uint16
}

type segment struct {
	Type, Flags                             uint32
	Off, Vaddr, Paddr, Filesz, Memsz, Align uint64
}

// What is used of ELF's numbers. (Package debug/elf knows them too, but brings
// decompression and DWARF with it.)
const (
	elf64, littleEndian, version = 2, 1, 1
	executable                   = 2
	load, gnuStack               = 1, 0x6474e551
	x, w, r                      = 1, 2, 4
)

// file wraps code and data.
func file(code []byte, data ...[]byte) []byte {
	head := header{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', elf64, littleEndian, version},
		Type:  executable, Machine: machine, Version: version,
		Entry: codeAddr + headSize, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3,
	}
	n := uint64(0)
	for _, d := range data {
		n += uint64(len(d))
	}
	size := headSize + uint64(len(code))
	segments := [3]segment{
		{load, r | x, 0, codeAddr, codeAddr, size, size, 0x10000},
		{load, r, blockAt, blockAddr, blockAddr, n, n, 0x10000},
		// Without it, some kernels make the stack executable.
		{gnuStack, r | w, 0, 0, 0, 0, 0, 16},
	}
	f := make([]byte, 0, blockAt+n)
	f = append(append(append(f, bytesOf(&head)...), bytesOf(&segments)...), code...)
	f = f[:blockAt]
	for _, d := range data {
		f = append(f, d...)
	}
	return f
}
