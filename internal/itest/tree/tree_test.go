package tree

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTinyIsCopied(t *testing.T) {
	from := Tiny(t)
	a, b := Copy(t, from), Copy(t, from)
	if a == b || a == from {
		t.Fatalf("copies %s and %s of %s", a, b, from)
	}
	if err := os.Remove(filepath.Join(a, "usr/bin/probe")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{from, b} {
		if _, err := os.Stat(filepath.Join(dir, "usr/bin/probe")); err != nil {
			t.Error("a change in one copy is seen elsewhere:", err)
		}
	}
}

func TestDebianIsBootable(t *testing.T) {
	dir := Debian(t)
	for _, f := range []string{"sbin/init", "usr/lib/systemd/system/multi-user.target", "usr/bin/systemctl", "bin/ip", "bin/ps"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
}

// TestHost: the tree of a host has what a host is made of.
func TestHost(t *testing.T) {
	dir := Host(t, Suite)
	for _, name := range []string{"usr/bin/machinectl", "lib/systemd/systemd-machined", "usr/bin/dbus-daemon", "usr/bin/systemd-nspawn"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}
