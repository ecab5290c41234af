package cgroup

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// loggedOOM looks in the kernel's log for the OOM kill of a process, by its pid on
// the host and its cgroup. It is where the kernel says so, too, when the cgroup is
// no more: Documentation/ABI/testing/dev-kmsg.
func loggedOOM(pid int, cgroup string) OOMKills {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return OOMKills{}
	}
	defer unix.Close(fd)
	var found OOMKills
	buf := make([]byte, 8<<10) // more than any record
	for range 1 << 18 {        // more than there are
		n, err := unix.Read(fd, buf)
		switch err {
		case nil:
			// The last one counts: pids come again.
			if kills, ok := oomOf(string(buf[:n]), pid, cgroup); ok {
				found = kills
			}
		case unix.EPIPE, unix.EINTR: // some were overwritten meanwhile
		default: // EAGAIN: that was all
			return found
		}
	}
	return found
}

// oomOf reads one record: "6,1234,98765,-;oom-kill:constraint=CONSTRAINT_MEMCG,
// nodemask=(null),oom_memcg=/a,task_memcg=/a/b,task=dd,pid=7,uid=0", since Linux
// 5.0. A record of a process, who may say anything, has a facility: its first
// number is above 7.
func oomOf(record string, pid int, cgroup string) (OOMKills, bool) {
	head, text, _ := strings.Cut(record, ";")
	prio, _, _ := strings.Cut(head, ",")
	if n, err := strconv.Atoi(prio); err != nil || n > 7 {
		return OOMKills{}, false
	}
	text, _, _ = strings.Cut(text, "\n")
	// A cgroup of the container's own making may have any name.
	if !strings.HasPrefix(text, "oom-kill:") || strings.Count(text, ",task_memcg=") != 1 ||
		!strings.Contains(text, ",task_memcg="+cgroup+",task=") || !strings.Contains(text, ",pid="+strconv.Itoa(pid)+",uid=") {
		return OOMKills{}, false
	}
	if strings.Contains(text, ",oom_memcg="+cgroup+",task_memcg=") {
		return OOMKills{Own: 1}, true
	}
	return OOMKills{Others: 1}, true
}
