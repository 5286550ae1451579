// Package checkpoint tries launch-oci checkpoint and restore with a CRIU that
// works, in a cell over a tree that has it.
//
// Room: test.
package checkpoint

import (
	_ "embed"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/oci"
	"launch/internal/itest/tree"
)

//go:embed checkpoint.sh
var script string

// cases are those of the script, and what they tell.
var cases = []struct{ name, want string }{
	{"simple", "it goes on\nso does its tmpfs\nwith the same mounts\n/box\n1\nrunning\ninside\n0\n"},
	{"moved", "it counts elsewhere\n0\n"},
	{"cgroups", "1\n/box\n/box\n/\nignore: it counts on\n1\n/other/box\n/other/box\n/\nit sees the same\nsoft: it counts on\n1\n/other/box\n/other/box\n/\nit sees the same\n0\n"},
	{"missing", "runc restore failed: cannot restore: the container had something of the host's mounted on \\\"/data\\\", which the bundle says nothing of\n" +
		"criu was not started\n0\n"},
	{"additional", "runc restore failed: cannot restore: the bundle mounts \\\"/run/more\\\" on \\\"/more\\\", where the container had nothing of the host's\n" +
		"criu was not started\n0\n"},
	{"gone", "runc restore failed: take \\\"/run/src\\\", for \\\"/data\\\": no such file or directory\ncriu was not started\n0\n"},
	{"link", "runc restore failed: take \\\"/run/src\\\", for \\\"/data\\\": src is a link: give the path that it leads to\ncriu was not started\n0\n"},
	{"stricter", "runc restore failed: cannot restore: the bundle gives \\\"/data\\\" flags that the saved container had not there (ro)\ncriu was not started\n0\n"},
	{"rights", "runc restore failed: process PID came back with capabilities that the bundle doesn't give (CapPrm 0000000000000020)\nnobody counts\n0\n"},
	{"running", "it counts on\nrunning\n0\n"},
	{"ended", "one has ended\none has ended\nrunning\n0\n"},
	{"paused", "it counts on\n0\n"},
	{"predump", "it counts on\n1\nit goes on\n0\n"},
	{"pipe", "it goes on in another pipe\n0\n"},
	{"files", "it goes on in another file\nand not in the first\n0\n"},
	{"terminal", "a terminal came\none\nasked: one, on a terminal\nit was closed\n" +
		"a terminal came\ntwo\nasked: two, on a terminal\nrunning\n0\n"},
	{"terminals", "runc restore failed: the container had a terminal, and the bundle gives it none\n0\n" +
		"runc restore failed: cannot allocate tty if runc will detach without setting console socket\n0\n" +
		"runc restore failed: the bundle gives the container a terminal, and it had none\n0\n"},
	{"odd", "cannot checkpoint a container with something mounted on \\\"/odd]:x\\\": CRIU can't tell it from another place\ncriu was not started\nrunning\n0\n"},
	{"foreground", "status 137\n0\n"},
	{"none", "there is no program criu in PATH: install CRIU 4.0 or newer, or name it with --criu=\n/bin/false does not work: CRIU: it ended without an answer\nrunning\n0\n"},
	{"bad", `runc restore failed: /run/img/launch-mounts.json: the file has format 2, known is 1
criu was not started
runc restore failed: /run/img/launch-mounts.json: namespace 1: mount 2 lies on mount 99, which is none of the mounts before it
criu was not started
runc restore failed: /run/img/launch-mounts.json: source 4: s4 has the type debugfs, which only an external one can have
criu was not started
runc restore failed: /run/img/launch-mounts.json: namespace 1: mount 2: bad path \"/../data\": it must be absolute, without . and .. in it
criu was not started
runc restore failed: /run/img/launch-outside.json: bad key \"../../etc\"
criu was not started
runc restore failed: /run/img/launch-outside.json: it has format 2, known is 1
criu was not started
runc restore failed: /run/img/launch-outside.json: bad descriptor \"fd[0]:x\"
criu was not started
runc restore failed: the mounts that came back are not those that were saved: there is tmpfs on \"/dev\" nosuid
0
`},
}

// recvtty is the name by which this program, in the cell, waits for a terminal on
// the socket $1, tells so, types what $2 says into it, and shows what comes out,
// until it is closed.
const recvtty = "recvtty"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != recvtty {
		os.Exit(m.Run())
	}
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		panic(err)
	}
	c, err := l.Accept()
	if err != nil {
		panic(err)
	}
	b, control := make([]byte, 64), make([]byte, 64)
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(b, control)
	if err != nil {
		panic(err)
	}
	list, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil {
		panic(err)
	}
	fds, err := syscall.ParseUnixRights(&list[0])
	if err != nil {
		panic(err)
	}
	master := os.NewFile(uintptr(fds[0]), "master")
	fmt.Println("a terminal came")
	master.WriteString(os.Args[2] + "\n")
	io.Copy(os.Stdout, master)
	fmt.Println("it was closed")
}

func TestCheckpoint(t *testing.T) {
	list := cases
	var root string
	if strings.Contains(os.Getenv("LAUNCH_TEST"), "checkpoint") {
		root = tree.CRIU(t)
	} else {
		// Every day a few of them, where the tree is there.
		root, list = tree.CRIUThere(t), list[:4]
	}
	r := oci.Under(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		t.Run(c.name, func(t *testing.T) {
			in, err := cell.Open(cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/usr/local/bin/launch-oci": r.Path, "/usr/local/bin/" + recvtty: self}})
			if err != nil {
				t.Skip(err)
			}
			defer in.Close()
			got, status, err := in.Shell("set -- "+c.name+"\n"+script, 90*time.Second)
			if err != nil || status != 0 {
				t.Fatalf("status %d, %v\n%s", status, err, got)
			}
			got = numbers(strings.ReplaceAll(got, "\r", ""))
			if strings.Contains(got, "Tracking memory is not available") {
				t.Skip("this kernel can't tell which memory was written to")
			}
			if c.want != got {
				t.Errorf("it says\n%s\nand not\n%s", got, c.want)
			}
		})
	}
}

// numbers takes numbers of processes out of a text.
func numbers(text string) string {
	head, rest, ok := strings.Cut(text, "process ")
	if !ok {
		return text
	}
	return head + "process PID" + strings.TrimLeft(rest, "0123456789")
}
