package engine

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/stub"
	"launch/internal/sys"
)

// grace is how long process 2 may take to end when the machine is told to
// power off or to reboot.
const grace = 90 * time.Second

// stubFile is the file that the stub is executed from. It is made before the
// first process is born, which inherits it, and written when the tree has told
// what the payload is. Nothing of the machine's can write to it: through
// /proc/1/exe that would be a way to change what runs outside, if the file
// were the launcher's own.
type stubFile struct {
	run   int // what is executed
	mount int // the file system of the file; -1: none, it is a sealed memfd
}

const stubName = "stub"

// newStub makes an empty file in memory.
func newStub() (*stubFile, error) {
	n, err := sys.MemfdCreate("launch-"+stubName, unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL {
		n, err = sys.MemfdCreate("launch-"+stubName, unix.MFD_ALLOW_SEALING) // before Linux 6.3
	}
	if err != unix.EACCES {
		if err != nil {
			return nil, err
		}
		return &stubFile{n, -1}, nil
	}
	// vm.memfd_noexec=2: nothing in a memfd is executed. A file system that
	// nobody else sees, read-only in the end, serves as well.
	fs, err := sys.Fsopen("tmpfs")
	if err != nil {
		return nil, err
	}
	defer sys.Close(fs)
	if err := sys.FsCreate(fs); err != nil {
		return nil, err
	}
	s := &stubFile{-1, -1}
	if s.mount, err = sys.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
		return nil, err
	}
	if s.run, err = sys.Openat(s.mount, stubName, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0o755); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// write puts the image into the file, and makes it unchangeable.
func (s *stubFile) write(image []byte) error {
	n := s.run
	if s.mount >= 0 {
		// Opened only now: the first process would have inherited it, and a
		// file that somebody can write to is not executed.
		var err error
		if n, err = sys.Openat(s.mount, stubName, unix.O_WRONLY, 0); err != nil {
			return err
		}
	}
	for rest := image; len(rest) > 0; {
		m, err := sys.Write(n, rest)
		if err != nil {
			return err
		}
		rest = rest[m:]
	}
	if s.mount >= 0 {
		sys.Close(n)
		return sys.MountSetattr(s.mount, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	return sys.AddSeals(n, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
}

func (s *stubFile) close() {
	if s == nil {
		return
	}
	for _, n := range []int{s.run, s.mount} {
		if n >= 0 {
			sys.Close(n)
		}
	}
}

// image is the stub of this machine.
func (b *builder) image() []byte {
	o := stub.Options{Only: len(b.plan.Second) == 0, Program: b.user.program, Args: b.user.args, Env: b.user.env, Grace: grace}
	o.Status = b.status()
	if b.create0 != nil && b.create0.Say {
		o.Words = notExecutable(b.user.program)
	}
	for _, op := range b.plan.Program {
		if op.Call == plan.Seccomp && op.B == 1 {
			o.Filter, o.FilterFlags = b.filters[op.A], b.plan.Filters[op.A].Flags
		}
	}
	for _, op := range slices.Concat(b.plan.Program, b.plan.Second) {
		if op.Call == plan.Label && op.B == 1 {
			o.Label, o.LabelFile = op.Data, op.Path
		}
	}
	for _, op := range b.plan.Second {
		o.Terminal = o.Terminal || op.Call == plan.CtlTTY
	}
	return stub.Image(o)
}

// stubFailure is what the stub said before it ended.
func (b *builder) stubFailure(report []byte) error {
	step, errno := stub.Report(report)
	call := map[stub.Step]plan.Call{stub.Fork: plan.Fork, stub.Setsid: plan.Setsid, stub.CtlTTY: plan.CtlTTY, stub.Exec: plan.Exec, stub.Filter: plan.Seccomp, stub.Label: plan.Label}[step]
	for i, op := range slices.Concat(b.plan.Program, b.plan.Second) {
		// The first process began a session of its own, too.
		if op.Call == call && (i >= len(b.plan.Program) || call == plan.Exec || call == plan.Seccomp || call == plan.Label) {
			return &StepError{len(b.plan.Steps) + i + 1, op.Origin, fmt.Errorf("%s: %w", op.Text, errno)}
		}
	}
	return fmt.Errorf("the stub failed: %w", errno)
}
