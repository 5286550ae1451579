package resource

import "encoding/binary"

// What the kernel calls the parts of an instruction (linux/bpf.h,
// linux/bpf_common.h); x/sys has only some of them.
const (
	opLoadWord = 0x61 // dst = *(u32 *)(src + off)
	opMoveReg  = 0xbf // dst = src
	opMoveImm  = 0xb7 // dst = imm
	opAnd      = 0x57 // dst &= imm
	opShift    = 0x77 // dst >>= imm
	opEqual    = 0x15 // if dst == imm goto +off
	opNotEqual = 0x55 // if dst != imm goto +off
	opAnyBit   = 0x45 // if dst & imm goto +off
	opJump     = 0x05 // goto +off
	opExit     = 0x95
)

// Instruction is one eBPF instruction.
type Instruction struct {
	Op       byte
	Dst, Src byte
	Off      int16
	Imm      int32
}

// Bytes gives a program as the kernel takes it on a little-endian machine.
func Bytes(program []Instruction) []byte {
	b := make([]byte, 0, 8*len(program))
	for _, i := range program {
		b = append(b, i.Op, i.Dst|i.Src<<4)
		b = binary.LittleEndian.AppendUint16(b, uint16(i.Off))
		b = binary.LittleEndian.AppendUint32(b, uint32(i.Imm))
	}
	return b
}

// Kinds of devices, as the program is told them.
const (
	kindBlock = 1
	kindChar  = 2
)

// sibling tells whether o says the same of a device with another minor number.
func (r DeviceRule) sibling(o DeviceRule) bool {
	return r.Allow == o.Allow && r.Type == o.Type && r.Major == o.Major && r.Access == o.Access && r.Minor != Any && o.Minor != Any
}

// Program gives the BPF_PROG_TYPE_CGROUP_DEVICE program of the rules.
//
// It goes through them from the last to the first and keeps, in r3, the
// access that is still to be decided: an allowing rule takes its bits away,
// and nothing left is a yes; a denying rule that has one of them is a no, and
// so is the end. Who asks for no access at all (access(2) with F_OK) is told
// what the last rule for the device says, as version 1 does it.
func (d Devices) Program() []Instruction {
	const access, kind, major, minor = 3, 2, 4, 5 // registers
	p := []Instruction{
		{Op: opLoadWord, Dst: kind, Src: 1, Off: 0}, // access << 16 | kind
		{Op: opMoveReg, Dst: access, Src: kind},
		{Op: opAnd, Dst: kind, Imm: 0xffff},
		{Op: opShift, Dst: access, Imm: 16},
		{Op: opLoadWord, Dst: major, Src: 1, Off: 4},
		{Op: opLoadWord, Dst: minor, Src: 1, Off: 8},
	}
	verdict := func(n int32) []Instruction {
		return []Instruction{{Op: opMoveImm, Dst: 0, Imm: n}, {Op: opExit}}
	}
	for i := len(d) - 1; i >= 0; i-- {
		r := d[i]
		var then []Instruction
		switch {
		case r.Allow && r.Access == allAccess:
			then = verdict(1)
		case r.Allow:
			then = append([]Instruction{
				{Op: opAnd, Dst: access, Imm: int32(allAccess &^ r.Access)},
				{Op: opNotEqual, Dst: access, Imm: 0, Off: 2}}, verdict(1)...)
		case r.Access == allAccess:
			then = verdict(0)
		default:
			then = append([]Instruction{
				{Op: opAnyBit, Dst: access, Imm: int32(r.Access), Off: 1},
				{Op: opJump, Off: 2}}, verdict(0)...)
		}
		var tests []Instruction
		switch r.Type {
		case 'b':
			tests = append(tests, Instruction{Op: opNotEqual, Dst: kind, Imm: kindBlock})
		case 'c':
			tests = append(tests, Instruction{Op: opNotEqual, Dst: kind, Imm: kindChar})
		}
		if r.Major != Any {
			tests = append(tests, Instruction{Op: opNotEqual, Dst: major, Imm: int32(r.Major)})
		}
		if r.Minor != Any {
			tests = append(tests, Instruction{Op: opNotEqual, Dst: minor, Imm: int32(r.Minor)})
		}
		// Rules that differ in the minor number only have the rest in common: the
		// kernel takes a microsecond for each instruction that it checks.
		var others []Instruction
		for ; i > 0 && r.Access == allAccess && r.sibling(d[i-1]); i-- {
			others = append(others, Instruction{Op: opEqual, Dst: minor, Imm: int32(d[i-1].Minor)})
		}
		for j := range others {
			others[j].Off = int16(len(others) - j) // over the rest, and the test of this rule's number
		}
		if len(others) > 0 {
			own := tests[len(tests)-1]
			tests = append(append(tests[:len(tests)-1], others...), own)
		}
		for j, t := range tests {
			if t.Op == opNotEqual {
				tests[j].Off = int16(len(tests) - 1 - j + len(then))
			}
		}
		p = append(append(p, tests...), then...)
		if len(tests) == 0 && r.Access == allAccess {
			return p // the verifier refuses what can't be reached
		}
	}
	return append(p, verdict(0)...)
}
