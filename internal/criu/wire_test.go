package criu

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
)

// TestEncode: CRIU's own description of its messages reads what is written
// here.
func TestEncode(t *testing.T) {
	o := &Options{
		Images: "/img", WorkFD: 7, PID: 42, Log: "dump.log", Root: "/root", Parent: "../old", Freeze: "/cg", LSM: "a", Context: "b",
		LeaveRunning: true, ExtUnixSk: true, TCPEstablished: true, TCPSkipInFlight: true, TCPClose: true, ShellJob: true, FileLocks: true,
		TrackMem: true, AutoDedup: true, LinkRemap: true, LazyPages: true, OrphanPtsMaster: true,
		External: [][2]string{{"/data", "m-1"}, {"/x,y]", "m-2"}}, Others: []string{"net[5]:x"}, Inherit: []string{"pipe:[1]", "k"},
		Sibling: true, Cgroups: 3, CgroupRoots: [][2]string{{Every, "/box"}, {"name=systemd", "/old"}, {"", "/new"}}, EmptyNS: 0x40000000, StatusFD: 9, Server: "::1", Port: 77,
	}
	var m message
	m.number(1, uint64(Dump))
	m.text(2, string(o.encode()))
	var req rpc.CriuReq
	if err := req.UnmarshalVT(m); err != nil {
		t.Fatal(err)
	}
	x := req.GetOpts()
	if req.GetType() != rpc.CriuReqType_DUMP {
		t.Errorf("type %v", req.GetType())
	}
	for _, c := range []struct{ got, want any }{
		{x.GetImagesDirFd(), int32(-1)}, {x.GetImagesDir(), "/img"}, {x.GetWorkDirFd(), int32(7)}, {x.GetPid(), int32(42)}, {x.GetLogFile(), "dump.log"},
		{x.GetLogLevel(), int32(4)}, {x.GetRoot(), "/root"}, {x.GetParentImg(), "../old"}, {x.GetFreezeCgroup(), "/cg"}, {x.GetLsmProfile(), "a"},
		{x.GetLsmMountContext(), "b"}, {x.GetLeaveRunning(), true}, {x.GetExtUnixSk(), true}, {x.GetTcpEstablished(), true},
		{x.GetTcpSkipInFlight(), true}, {x.GetTcpClose(), true}, {x.GetShellJob(), true}, {x.GetFileLocks(), true}, {x.GetTrackMem(), true},
		{x.GetAutoDedup(), true}, {x.GetLinkRemap(), true}, {x.GetLazyPages(), true}, {x.GetOrphanPtsMaster(), true}, {x.GetRstSibling(), true},
		{x.GetNotifyScripts(), true}, {x.GetManageCgroups(), true}, {x.GetManageCgroupsMode(), rpc.CriuCgMode_SOFT}, {x.GetEmptyNs(), uint32(0x40000000)},
		{x.GetStatusFd(), int32(9)}, {x.GetPs().GetAddress(), "::1"}, {x.GetPs().GetPort(), int32(77)}, {x.GetExternal(), []string{"net[5]:x"}},
		{len(x.GetExtMnt()), 2}, {x.GetExtMnt()[1].GetKey(), "/x,y]"}, {x.GetExtMnt()[1].GetVal(), "m-2"}, {x.GetInheritFd()[1].GetKey(), "k"},
		{x.GetInheritFd()[1].GetFd(), int32(5)}, {x.GetCgRoot()[0].GetPath(), "/box"}, {x.GetCgRoot()[0].Ctrl == nil, true}, {*x.GetCgRoot()[2].Ctrl, ""}, {x.GetCgRoot()[1].GetCtrl(), "name=systemd"}, {x.GetNetworkLock(), rpc.CriuNetworkLockMethod_SKIP},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
	// Nothing is written that it doesn't know.
	again, err := req.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != len(m) {
		t.Errorf("%d bytes of ours become %d:\n%x\n%x", len(m), len(again), []byte(m), again)
	}
}

func ptr[T any](v T) *T { return &v }

func replies() [][]byte {
	var list [][]byte
	for _, r := range []*rpc.CriuResp{
		{Type: ptr(rpc.CriuReqType_RESTORE), Success: ptr(true), Restore: &rpc.CriuRestoreResp{Pid: ptr(int32(99))}},
		{Type: ptr(rpc.CriuReqType_NOTIFY), Success: ptr(true), Notify: &rpc.CriuNotify{Script: ptr("post-restore"), Pid: ptr(int32(98))}},
		{Type: ptr(rpc.CriuReqType_DUMP), Success: ptr(false), CrErrno: ptr(int32(22)), CrErrmsg: ptr("no")},
		{Type: ptr(rpc.CriuReqType_VERSION), Success: ptr(true), Version: &rpc.CriuVersion{MajorNumber: ptr(int32(4)), MinorNumber: ptr(int32(2)), Sublevel: ptr(int32(1))}},
	} {
		b, _ := r.MarshalVT()
		list = append(list, b)
	}
	return list
}

func TestParse(t *testing.T) {
	want := []reply{
		{kind: Restore, success: true, pid: 99}, {kind: notify, success: true, script: "post-restore", about: 98},
		{kind: Dump, errno: 22, said: "no"}, {kind: version, success: true, version: 40201},
	}
	for i, b := range replies() {
		if got, err := parse(b); err != nil || got != want[i] {
			t.Errorf("got %+v, %v, want %+v", got, err, want[i])
		}
		for n := range len(b) {
			parse(b[:n])
		}
	}
}

// FuzzParse: what can be read, CRIU's own description reads in the same way.
func FuzzParse(f *testing.F) {
	for _, b := range replies() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parse(b)
		var want rpc.CriuResp
		if err != nil || want.UnmarshalVT(bytes.Clone(b)) != nil {
			return
		}
		if r.said != want.GetCrErrmsg() || r.script != "" && want.GetNotify() != nil && r.script != want.GetNotify().GetScript() {
			t.Errorf("%+v, %+v", r, &want)
		}
	})
}

func TestFirstError(t *testing.T) {
	log := "(00.0) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n(00.1) fine\n(00.2) Error (criu/a.c:9): What it was\n(00.3) Error (criu/b.c:1): Dumping FAILED.\n"
	if got := FirstError(log); got != "What it was" {
		t.Errorf("got %q", got)
	}
	if got := FirstError("nothing\n"); got != "" {
		t.Errorf("got %q", got)
	}
}
