package stage

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Lingering gives a TCP connection whose last close takes ten minutes, since its peer
// doesn't read: with SO_LINGER, the kernel waits for that. It ends with the test, or
// when end is called.
func Lingering(t testing.TB) (f *os.File, end func()) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for b := make([]byte, 1<<16); err == nil; {
		_, err = c.Write(b)
	}
	f, err = c.(*net.TCPConn).File()
	if err == nil {
		err = unix.SetsockoptLinger(int(f.Fd()), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 600})
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, func() { peer.Close() }
}

// HandLingering sends a message with such a connection to a socket, and closes it here
// before the receiver, which is stopped meanwhile, can have closed it there.
func HandLingering(t testing.TB, receiver *os.Process, socket, text string) {
	t.Helper()
	f, _ := Lingering(t)
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	receiver.Signal(unix.SIGSTOP)
	defer receiver.Signal(unix.SIGCONT)
	if _, _, err := c.WriteMsgUnix([]byte(text), unix.UnixRights(int(f.Fd())), &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	f.Close()
}
