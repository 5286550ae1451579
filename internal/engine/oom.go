package engine

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
)

// oom sets the first process's OOM score adjustment from outside: only the
// host's CAP_SYS_RESOURCE may lower it. It must be set before the payload runs,
// whose first children would not have it else.
//
// Until then the first process shares the launcher's memory, and the kernel
// keeps the score the same for all who share it. So the launcher has the score
// too, until its own is put back.
type oom struct {
	op        int // of the plan's program
	file, own int
	score     int
	before    string
}

// openOOM opens the files, as long as the host's /proc is to be seen. Without
// a score to set it gives nil.
func (b *builder) openOOM() (*oom, error) {
	for i, op := range b.plan.Program {
		if op.Call != plan.OOMScore {
			continue
		}
		o := &oom{op: i, score: int(op.A), own: -1}
		var err error
		if o.file, err = sys.Openat(unix.AT_FDCWD, procPath(b.proc.PID, "oom_score_adj"), unix.O_WRONLY, 0); err != nil {
			return nil, b.programError(i, fmt.Errorf("%s: %w", op.Text, err))
		}
		if o.own, err = sys.Openat(unix.AT_FDCWD, "/proc/self/oom_score_adj", unix.O_RDWR, 0); err == nil {
			var text []byte
			text, err = sys.ReadAll(o.own, 64)
			o.before = string(text)
		}
		if err != nil {
			o.close()
			return nil, b.programError(i, fmt.Errorf("%s: read the launcher's own: %w", op.Text, err))
		}
		return o, nil
	}
	return nil, nil
}

// set gives the score to the first process, and to the launcher.
func (o *oom) set(b *builder) error {
	if o == nil {
		return nil
	}
	if err := sys.WriteString(o.file, strconv.Itoa(o.score)); err != nil {
		return b.programError(o.op, fmt.Errorf("%s: %w", b.plan.Program[o.op].Text, err))
	}
	return nil
}

// restore gives the launcher its own score again, once the payload runs in
// memory of its own.
func (o *oom) restore(b *builder) {
	if o == nil {
		return
	}
	if err := sys.WriteString(o.own, o.before); err != nil {
		b.opt.Warn(fmt.Sprintf("the launcher keeps the machine's oom_score_adj: %v", err))
	}
}

func (o *oom) close() {
	if o == nil {
		return
	}
	sys.Close(o.file)
	if o.own >= 0 {
		sys.Close(o.own)
	}
}
