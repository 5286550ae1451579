// Package itest boots whole machines and looks at them from inside. With
// LAUNCH_PEER=nspawn the same tests run under systemd-nspawn, which is how they
// are tried themselves; LAUNCH names a binary to test instead of the one that
// is built from this tree.
//
// Room: test.
package itest
