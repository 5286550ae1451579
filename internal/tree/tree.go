// Package tree locks, copies and removes whole directory trees.
//
// What it guarantees: everything is done by descriptor and no link is ever
// followed, so that nothing outside of a tree is read, changed or removed, even
// while somebody renames things in it. A copy has the owners, modes, times,
// holes, hard links and extended attributes (access control lists and file
// capabilities among them) of what was copied; it is made in a directory that
// only root may enter, shares its blocks with the original where the file
// system can do that, and is removed again if it can't be finished. A copy
// never contains itself, or what is mounted in the tree. Locks are those of
// systemd-nspawn, and exclude it. The walk that copies is there for others, who
// do something else to each file of a tree.
//
// It refuses to know what a tree is copied or locked for. It can't give a
// consistent picture of a tree that changes meanwhile, unless the file system
// has snapshots.
//
// Room: host.
package tree
