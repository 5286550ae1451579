package mounts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/remake"
	"launch/internal/itest/tree"
)

const (
	restoreGo = "mount/snapshot/restore.go"
	addGo     = "mount/snapshot/add.go"
	fileGo    = "mount/tree/file.go"
	policyGo  = "mount/tree/policy.go"
)

// mutants are restores without one of their defences, made by one edit, each
// with the tests of this package, or of package tree, one of which must notice.
var mutants = []struct{ what, notices, file, old, new string }{
	// What comes from outside is what today's policy says.
	{"links at a source are followed", "TestHostileTargets", restoreGo, "sys.Openat2(at, name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_BENEATH)", "sys.Openat2(at, name, unix.O_PATH, 0, unix.RESOLVE_NO_MAGICLINKS)"},
	{"an automount is taken for what is there", "TestCases", restoreGo, "fs.Type == unix.AUTOFS_SUPER_MAGIC {", "fs.Type == 0 {"},
	{"an id without a meaning is passed over", "TestCases", policyGo, "return &Missing{g.Outside, \"\", groups[g.ID]}", "continue"},
	{"a source without a meaning is passed over", "tree TestPolicy", policyGo, "return &Missing{s.ID, s.Type, targets[s.ID]}", "continue"},
	{"a meaning that nothing asks for is passed over", "tree TestPolicy", policyGo, "if !known[id] {", "if false {"},
	{"a source may be written to", "TestHostileFile", restoreGo, "	if x.ReadOnly {\n		attr.Attr_set", "	if false {\n		attr.Attr_set"},
	{"users may make a source writable", "TestLocked", restoreGo, "	if len(r.o.Users) > 0 {\n		// In a copy", "	if false {\n		// In a copy"},
	{"mounts reach the host", "TestCases", policyGo, "case members[g.ID] && !x.Shared:", "case false:"},
	{"owners are mapped for users that are not there", "tree TestPolicy", policyGo, "if m.Users && !users {", "if false {"},
	// A file is untrusted.
	{"any file system is made", "TestHostileFile", fileGo, "	if !IsNew(s.Type) {", "	if false {"},
	{"a new file system has any option", "tree TestRefused", fileGo, "if !slices.Contains(optionsOf(s.Type), key) {", "if false {"},
	{"ids may be anything", "tree TestRefused", fileGo, "if err := checkID(s.ID); err != nil {", "if false {\n		err := error(nil)"},
	{"paths may lead anywhere", "tree TestRefused", fileGo, "case !path.IsAbs(p), path.Clean(p) != p:", "case false:"},
	{"a group may be its own master", "tree TestCircles", fileGo, "if at = next; steps > len(f.Groups) {", "if at = next; steps > len(f.Groups) {\n				break\n			} else if false {"},
	{"there may be a second root", "tree TestRefused", fileGo, "case i > 0 && m.Parent == 0:", "case false:"},
	{"a number may be there twice", "tree TestRefused", fileGo, "case ids[m.ID]:", "case false:"},
	{"a parent may come later", "tree TestRefused", fileGo, "case i > 0 && here[m.Parent] == nil:", "case false:"},
	{"a place may be taken twice", "tree TestRefused", fileGo, "case taken[place{m.Parent, m.Point}]:", "case false:"},
	{"a group may hold two file systems", "tree TestRefused", fileGo, "} else if first != m.Source && ", "} else if false && "},
	{"a file may be a directory", "TestCases", restoreGo, "if m.Kind != \"\" && m.Kind != kind {", "if false {"},
	{"something is left after an error", "TestHostileFile", restoreGo, "		if err := stage(); err != nil {\n			return nil, err\n		}\n	}\n	return r.spaces, nil", "		if err := stage(); err != nil {\n			return r.spaces, err\n		}\n	}\n	return r.spaces, nil"},
	// Nobody sees a tree that is half made.
	{"the tree is made where the caller is", "TestHostileWindow", restoreGo, "sys.Unshare(r.l, unix.CLONE_NEWNS|unix.CLONE_FS)", "sys.Unshare(r.l, unix.CLONE_FS)"},
	{"what is let go of is still the caller's", "TestHostileWindow", restoreGo, "	if err := sys.MountSetattr(root, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {\n		return fmt.Errorf(\"cut off", "	if err := error(nil); err != nil {\n		return fmt.Errorf(\"cut off"},
	{"a tree is given out before it is whole", "TestHostileWindow", restoreGo, "	return r.spaces, nil", "	return r.spaces, sys.Umount(\"/a\", unix.MNT_DETACH)"},
	{"what was made as a layer can be written through", "TestLayers", restoreGo, "		if s.External && s.Made != \"\" {\n			if err := r.layer(s)", "		if false {\n			if err := r.layer(s)"},
	{"layers are the payload's", "TestMachineLayers", addGo, "return m.Parent != 0 && m.Point == \"/\" && sources[m.Source].Made != \"\" }", "return false }"},
	{"what a layer covers is what is seen", "TestMachineLayers", addGo, "c != nil && tree.MadeFor(c.Type, c.Device) != \"\"; c", "false; c"},
	{"descriptors are left", "TestHostileWindow", restoreGo, "		for _, n := range r.all {\n			sys.Close(n)\n		}\n		if err != nil {", "		if err != nil {"},
	{"flags come later, and not at all", "TestCases", restoreGo, "attr := unix.MountAttr{Attr_set: m.Attr(), Propagation: unix.MS_PRIVATE}", "attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}"},
	{"read-only file systems can be written to", "TestCases", restoreGo, "		if !s.ReadOnly {\n			continue\n		}\n		fs, err", "		if true {\n			continue\n		}\n		fs, err"},
	// A machine's settings outrank a file.
	{"a machine gets what is the host's", "TestMachineRefused", addGo, "case from == nil && s.External:", "case false:"},
	{"a machine gets any file system", "TestMachineRefused", addGo, "case from == nil && s.Type != \"tmpfs\" && s.Type != \"ramfs\":", "case false:"},
	{"a machine's mounts hear of the host's", "TestMachineRefused", addGo, "if groups[g].Outside != \"\" {\n				return", "if false {\n				return"},
	{"parts of what the kernel makes up are anywhere", "TestMachineRefused", addGo, "} else if pseudo {", "} else if pseudo && false {"},
	{"what is covered is shown elsewhere", "TestMachineRefused", addGo, "on.Dev == r.Dev && tree.Within(", "false && tree.Within("},
	{"places are made in what is the host's", "TestMachineRefused", addGo, "External: a.before.outside[r.Dev]}", "External: false}"},
	{"groups are not brought back", "TestMachine", addGo, "a.forbid, a.join}", "a.forbid}"},
	{"what is locked can be copied without its lock", "TestMachineLocked", addGo, "	if err := a.enter(a.tree); err != nil {\n		return err\n	}\n	return a.each", "	if err := a.enter(a.ours); err != nil {\n		return err\n	}\n	return a.each"},
	{"parts of what is read-only can be written to", "TestHostileMachine", addGo, "	return c, sys.MountSetattr(c, 0, &attr)", "	attr.Attr_clr |= unix.MOUNT_ATTR_RDONLY &^ attr.Attr_set\n	return c, sys.MountSetattr(c, 0, &attr)"},
	{"another file system is taken for the same", "TestMachineRefused", addGo, "!s.External && s.Made == \"\" && s.Type != r.Type &&", "false &&"},
}

// TestHostileMutants: the tests here are ones that can fail. Every day, the
// edits must fit; the builds are for: make hostile.
func TestHostileMutants(t *testing.T) {
	const inside = "MOUNTS_MUTANT"
	if os.Getenv(inside) != "" {
		t.Skip("in a mutant")
	}
	whole := os.Getenv("LAUNCH_TEST") == "hostile"
	if whole {
		tree.NeedRoot(t)
	}
	for _, m := range mutants {
		t.Run(m.what, func(t *testing.T) {
			dir := t.TempDir()
			over, err := remake.Overlay(dir, remake.Edit{m.file, m.old, m.new})
			if err != nil {
				t.Fatal(err)
			}
			if !whole {
				return
			}
			pkg, test := ".", m.notices
			if rest, ok := strings.CutPrefix(test, "tree "); ok {
				pkg, test = "launch/mount/tree", rest
			}
			env := append(os.Environ(), "CGO_ENABLED=0", inside+"="+m.what, "LAUNCH_TEST=")
			if strings.HasPrefix(test, "TestMachine") {
				bin := filepath.Join(dir, "launch")
				build := exec.Command("go", "build", "-overlay", over, "-o", bin, "launch/cmd/launch")
				build.Env = env
				if out, err := build.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				env = append(env, "LAUNCH="+bin)
			}
			c := exec.Command("go", "test", "-count=1", "-vet=off", "-timeout=60s", "-overlay="+over, "-run=^"+test+"$", pkg)
			c.Env = env
			out, err := c.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("test timed out")) {
				t.Errorf("%s sees no difference, or the mutant can't be built: %v\n%.3000s", m.notices, err, out)
			}
		})
	}
}
