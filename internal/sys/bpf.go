package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpf makes a request; size is how much of the attributes the caller fills.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (uintptr, error) {
	return call("bpf", unix.SYS_BPF, cmd, uintptr(attr), size, 0, 0, 0)
}

// BPFLoad gives the kernel an eBPF program, as bytes of instructions. name has
// at most 15 letters. log, if it isn't empty, takes the verifier's words.
//
// The kernel's verifier gives up with EAGAIN when a signal comes, as Go sends them to
// itself. So none comes until it is done.
func BPFLoad(kind uint32, program []byte, name string, log []byte) (int, error) {
	license := []byte("Apache-2.0\x00") // no helper that asks for another is called
	attr := struct {
		kind, count    uint32
		insns, license *byte
		logLevel       uint32
		logSize        uint32
		log            *byte
		kernel, flags  uint32
		name           [16]byte
	}{kind: kind, count: uint32(len(program) / 8), insns: unsafe.SliceData(program), license: &license[0]}
	copy(attr.name[:15], name)
	if len(log) > 0 {
		attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), &log[0]
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all, was := unix.Sigset_t{}, unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &was); err != nil {
		return -1, err
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &was, nil)
	return result(bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)))
}

// BPFAttach attaches a program to a target (a cgroup). With BPF_F_REPLACE it
// takes the place of the program that replace is.
func BPFAttach(target, program int, kind, flags uint32, replace int) error {
	attr := struct{ target, program, kind, flags, replace uint32 }{uint32(target), uint32(program), kind, flags, 0}
	if flags&unix.BPF_F_REPLACE != 0 {
		attr.replace = uint32(replace)
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// BPFDetach takes a program off its target.
func BPFDetach(target, program int, kind uint32) error {
	attr := struct{ target, program, kind, flags, replace uint32 }{uint32(target), uint32(program), kind, 0, 0}
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// BPFAttached lists the ids of the programs that are attached to a target
// itself. There may be at most 64, the kernel's own limit.
func BPFAttached(target int, kind uint32) ([]uint32, error) {
	var ids [64]uint32
	attr := struct {
		target, kind, query, flags uint32
		ids                        *uint32
		count                      uint32
		_                          uint32
	}{target: uint32(target), kind: kind, ids: &ids[0], count: uint32(len(ids))}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return nil, err
	}
	return append([]uint32(nil), ids[:attr.count]...), nil
}

// BPFOpen gives a descriptor of a loaded program.
func BPFOpen(id uint32) (int, error) {
	attr := struct{ id, next, flags uint32 }{id: id}
	return result(bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr)))
}

// BPFName gives the name that a program was loaded under.
func BPFName(n int) (string, error) {
	// struct bpf_prog_info, up to and including its name.
	var info struct {
		kind, id      uint32
		tag           [8]byte
		jited, xlated uint32
		jitp, xlatp   uint64
		loaded        uint64
		uid, maps     uint32
		mapp          uint64
		name          [16]byte
	}
	attr := struct {
		n, size uint32
		info    unsafe.Pointer
	}{uint32(n), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	if _, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(info.name[:]), nil
}
