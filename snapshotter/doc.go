// Package snapshotter is containerd's snapshots.Snapshotter on overlayfs, made to run as a service of
// its own behind containerd's proxy plugin.
//
// # On disk
//
//	root/
//	  metadata.db           the records: containerd's own storage.MetaStore, in bolt
//	  empty/                the lower layer of an overlay that has none
//	  snapshots/
//	    new-*/              a snapshot that is being made
//	    ID/fs               its files: an overlay's upper directory, later a lower one
//	    ID/work             overlay's work directory; active snapshots only
//	    ID/layer            written by Commit when all of fs is on disk; holds the diff-id, if that
//	                        says all there is to know of fs
//	    ID -> OTHER         a snapshot whose files are those of another one: the same layer, elsewhere
//	                        in another image
//	  trash/ID.N            what is removed and not deleted yet
//
// ID is the number that the record has. A view of a parent needs no files and has no directory. A
// directory lives as long as its record, or as long as a link to it.
//
// # Requests
//
// A request does a fixed number of system calls, whatever the number of snapshots, layers or files.
// Prepare makes its directory under a temporary name; then, in one transaction, comes the record and
// the rename to the number. Remove takes the record away and renames the directory into the trash,
// in one transaction, and returns: containerd's garbage collector holds a node-wide lock across it
// (containerd#13798). One goroutine empties the trash. Only Commit walks the tree, to count it and
// to bring it to the disk, and it does so before its transaction begins. Usage of an active snapshot
// is counted in the background (see usage.go).
//
// # Crashes
//
// The record decides. A transaction that did not reach the disk did not happen, and what its renames
// left is turned back or thrown away by the next start, before the first request (recover.go):
//
//	found                                       so
//	snapshots/new-*                             into the trash
//	snapshots/ID without a record, or a link    into the trash: Prepare or Remove was cut short
//	trash/ID.N of a record without directory    back: Remove was cut short before its end
//	an active record without directory          made anew, empty: of a power cut, see below
//	a committed record without mark (layer)     away with it: a power cut in Commit, see below
//	a mark of an active record                  away with it: the same
//	a committed record without directory        told, and left for fsck: this cannot happen
//
// bolt makes a transaction durable by fdatasync of its file, which does not make the rename durable
// that belongs to it. After a power cut an active snapshot may thus have a record and no directory.
// Whatever was written into that directory and fsynced would have taken the directory with it to the
// disk, so nothing is lost that was promised.
//
// Commit promises more: its files are on disk before it answers. Syncing the whole file system for
// that (image_pull_with_sync_fs) makes every pull wait for all that the node writes; calling fsync for
// each file waits for the disk once a file. Commit instead starts the writeback of all files, waits
// for it, and then syncs one new file, the mark, whose journal commit takes all earlier changes along
// (durable.go). It does that while bolt brings the record to the disk, and answers when both are
// there. A record without its mark is thus of a Commit that nobody was answered. On a file system without
// a journal, an ext4 can be made so, nothing less than syncing all of it keeps that promise: it is what Commit
// does there, before the mark.
package snapshotter
