package plan

import (
	"slices"
	"strings"

	"launch/settings"
)

// execLabel is where a process says which label the next file that it executes
// gives it.
const execLabel = "/proc/thread-self/attr/exec"

// checkSELinux refuses labels where nobody would heed them.
func (c *compiler) checkSELinux() error {
	labels := c.Settings.SELinux
	option, label := "selinux-context", labels.Process
	if label == "" {
		option, label = "selinux-apifs-context", labels.Files
	}
	if label == "" || c.Facts.Host.SELinux {
		return nil
	}
	e := &settings.Error{What: "cannot set the SELinux label: SELinux is not enabled on the host", Value: label,
		Hint: "leave it out: nothing would confine the machine's processes by it"}
	if c.From != nil {
		e.Origin = c.From(option)
	}
	return e
}

// context labels what the machine has of its own: file systems in memory, and
// terminals. What shows the kernel, or somebody else's files, keeps its labels.
func (c *compiler) context() {
	label := c.Settings.SELinux.Files
	if label == "" {
		return
	}
	for i := range c.Steps {
		s := &c.Steps[i]
		told := slices.ContainsFunc(s.Options, func(o Option) bool { return strings.HasSuffix(o.Key, "context") })
		if told || s.Do != Layer && (s.Do != Mount || s.Type != "tmpfs" && s.Type != "devpts") {
			continue
		}
		s.Options = append(slices.Clip(s.Options), Option{"context", label})
	}
}
