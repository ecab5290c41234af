// Package stdio carries the standard streams of one container process between the process and
// whoever containerd named for them: a FIFO, a file, or a log binary. It knows nothing of
// containers.
//
// # Theory of operation
//
// The process never gets a FIFO, a file of the host or a descriptor of the shim: with a descriptor
// of a file below the host's /run comes its mount (open_by_handle_at(2)) and its path
// (/proc/self/fd), and O_NONBLOCK is shared. It gets blocking pipes (or a terminal of its own), and
// a pump, one goroutine for each stream, copies between those and the other side:
//
//	client --FIFO--> [stdin pump] --pipe--> 0  process  1 --pipe--> [stdout pump] --FIFO--> client
//
// A pump waits on Go's netpoller: an idle stream costs one small goroutine and no thread. Its own
// descriptors are non-blocking; O_NONBLOCK belongs to the open file description (open(2)), and the
// two ends of a pipe are two of them, so the process does not see it.
//
// Between pipes it copies with splice(2), but only in bulk. A spliced buffer takes a whole slot of
// the receiving pipe and later data is not merged into it (fs/splice.c, splice_pipe_to_pipe clears
// PIPE_BUF_FLAG_CAN_MERGE), so a FIFO fed line by line by splice would be full after 16 lines and
// not after 64 KiB. Therefore a pump reads and writes; when a read fills its buffer it goes over
// to splice, and back when a splice moves less than 16 KiB. The first time it does so it enlarges
// both pipes to 256 KiB, for what was 64 between two wakeups, and when the FIFO is full it lets the
// reader read for a moment before it waits to be woken. The buffer is taken from a pool when
// there is something to read and goes back before the pump waits for more.
//
// Where stdout and stderr name the same FIFO or file, the process gets one pipe for both: what it
// wrote in some order arrives in that order.
//
// # Reader slow, reader gone
//
// A FIFO's reader may be slow, may stop, may die and come back (containerd restarts), may be gone
// for good (ctr run -d). containerd-shim-runc-v2 keeps a read end of its own open all the time, so
// that nothing breaks, but then cannot tell the last two from the first two: once 64 KiB are
// unread the container blocks for ever (containerd#9342, #12462).
//
// Here the shim holds the write end alone, so the kernel itself tells the truth. With no reader
// left a write gives EPIPE and a waiting pump is woken by EPOLLERR (pipe(7), poll(2)). What is in
// the FIFO stays there as long as the write end is open, with or without readers. So:
//
//   - A reader that is slow or stopped: ordinary backpressure. The pump waits, the pipe fills, the
//     process waits in write(2). All data arrives when the reader goes on. For ever if it must be.
//   - No reader: the pump opens a read end for the length of one write(2), so that the write is
//     possible, and goes on filling the FIFO: its 64 KiB, or 256, are kept for the next reader, then
//     as much again in the process's pipe. With both full it looks every 50 ms for a reader; the process
//     waits meanwhile, and a containerd that restarts in this time loses nothing.
//   - No reader and a full FIFO for longer than 10 s, or a FIFO whose name has been unlinked (none
//     can come any more): further output is dropped, the oldest stays in the FIFO. Before each
//     piece is dropped the pump looks again, so a reader that comes back gets what was kept and
//     then all that is written from then on.
//
// A file that cannot be written (full disk, chattr +i: containerd#12462) loses the piece at hand;
// the error is remembered (Err), and the next piece is tried again. The process is never blocked,
// and never sees the error.
//
// # Opening
//
// containerd's client makes the FIFOs before Create and opens them in goroutines of its own, so
// either side may be first. For output the shim waits for the reader, as containerd-shim-runc-v2
// does: a process that ends at once would otherwise write into, and then free, a FIFO that its
// reader has not reached yet. A reader blocked in open(2) counts. The wait is a retry of
// open(O_WRONLY|O_NONBLOCK) while it says ENXIO (fifo(7)), bounded by the context.
//
// Input is not opened before the process is about to run. A client that has little to say is through
// with it as soon as it can write, and calls CloseIO, once: before the answer to Create containerd
// knows no such task, and the end of the input would be lost (echo | nerdctl run -i).
//
// For input the shim opens a read end, and a write end that it holds until CloseStdin: without it
// a client that has not opened its end yet, or one that goes away to come back, would be an end of
// file. After CloseStdin the end of file comes when the client has closed its end and all it wrote
// has been delivered. On a terminal there is no end of file, so the terminal's end-of-file
// character is typed (termios(3), VEOF), as script(1) does.
//
// # Log binaries
//
// A log binary reads the process's pipes itself, as with containerd-shim-runc-v2: the shim takes
// no part and wakes for no line. But it keeps the read ends open, so that a logger's death is no
// SIGPIPE for the container, and watches the logger through a pidfd: when it dies the shim reads
// on in its place and drops what it reads. The logger is the one child program of the shim that is
// not part of a container, and is reaped in any case. A logger that lives and does not read is a
// stopped reader.
//
// # The end
//
// When the process has exited its caller calls Drain: what is in the pipe at that moment is copied
// and no more, so a grandchild that keeps the pipe open, or even goes on writing, holds nothing
// up (containerd#7802). Then the FIFO's write end is closed and the client sees its end of file:
// before the exit is told, and without a Close, because containerd's client waits for the end of
// file before it calls Delete (client/task.go).
//
// What the reader has not read by then needs care twice. The same client stops reading when it is
// told of the exit (cio.Cancel), so Drain waits, no longer than 200 ms, until the reader has read
// the FIFO empty. And a reader may die just now: the last words of a container that ends while
// containerd restarts must outlive it. So a read end is kept, which keeps the data without keeping
// back the end of file, until the FIFO is empty or Close. A new reader would wait in open(2) for a
// writer; now and then the shim is one for a moment.
//
// Of a terminal the shim goes on reading the input, and drops it, until Close: to a client whose
// write fails the terminal is gone, and containerd's CRI plugin then drops the output that it has
// not read yet (internal/cri/io/exec_io.go, Attach). Other input ends with the process, so that who
// still writes much is told.
//
// A grandchild may go on writing into the pipe, which nobody reads any more, until Close: then it
// gets SIGPIPE, as with containerd-shim-runc-v2. Drain at the exit, Close at the delete.
package stdio
