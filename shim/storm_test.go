package shim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestVerbsAtOnce asks all there is of a few containers at once, in every state and between two. Whatever the
// answers: each is of a kind that containerd knows, events come in their order and once, and at the end nothing
// is left, and nothing hangs.
func TestVerbsAtOnce(t *testing.T) {
	r := newRig(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := &storm{rig: r}
	const ids, callers, calls = 3, 6, 400
	var all sync.WaitGroup
	for i := range callers {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for range calls {
				s.call(rng, fmt.Sprint("c", rng.IntN(ids)))
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := range ids {
		id := fmt.Sprint("c", i)
		_, _ = r.client.Kill(ctx, &task.KillRequest{ID: id, Signal: 9, All: true})
		if _, err := r.client.Wait(ctx, &task.WaitRequest{ID: id}); err != nil && status.Code(err) != codes.NotFound {
			t.Fatal(id, err)
		}
		if _, err := r.client.Delete(ctx, &task.DeleteRequest{ID: id}); err != nil && status.Code(err) != codes.NotFound {
			t.Error(id, err)
		}
	}
	r.assertClean()
	s.checkEvents()
}

type storm struct {
	*rig
	execs, bundles atomic.Int64
}

func (s *storm) call(rng *rand.Rand, id string) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	exec := ""
	if n := s.execs.Load(); n > 0 && rng.IntN(2) == 0 {
		exec = fmt.Sprint("e", n-rng.Int64N(min(n, 4)))
	}
	var err error
	what := rng.IntN(18)
	switch what {
	case 0, 1:
		spec := s.spec("sh", "-c", [...]string{"sleep 1000", "exit 3", "sleep 1000 & sleep 1000"}[rng.IntN(3)])
		spec.Linux.CgroupsPath = "/" + testCgroup + "/" + id
		if rng.IntN(3) == 0 {
			spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
		}
		req := s.request(fmt.Sprint(id, "-", s.bundles.Add(1)), spec)
		req.ID = id
		_, err = s.client.Create(ctx, req)
	case 2, 3, 4:
		_, err = s.client.Start(ctx, &task.StartRequest{ID: id, ExecID: exec})
	case 5, 6:
		n := s.execs.Add(1)
		cmd := [...]string{"sleep 1000", "exit 3", "echo x"}[rng.IntN(3)]
		_, err = s.client.Exec(ctx, &task.ExecProcessRequest{ID: id, ExecID: fmt.Sprint("e", n), Spec: execSpec(s.t, "sh", "-c", cmd),
			Stdout: "file://" + filepath.Join(s.dir, "out"), Terminal: false})
	case 7, 8:
		_, err = s.client.Kill(ctx, &task.KillRequest{ID: id, ExecID: exec, Signal: uint32([...]unix.Signal{9, 15, 0}[rng.IntN(3)]), All: rng.IntN(2) == 0})
	case 9, 10, 11:
		_, err = s.client.Delete(ctx, &task.DeleteRequest{ID: id, ExecID: exec})
	case 12:
		// An exec that is frozen on its way waits for the Resume.
		if _, err = s.client.Pause(ctx, &task.PauseRequest{ID: id}); err == nil {
			_, err = s.client.Resume(ctx, &task.ResumeRequest{ID: id})
		}
	case 13:
		_, err = s.client.Resume(ctx, &task.ResumeRequest{ID: id})
	case 14:
		_, err = s.client.Update(ctx, &task.UpdateTaskRequest{ID: id, Resources: &anypb.Any{Value: []byte(`{}`)}})
	case 15:
		_, err = s.client.Pids(ctx, &task.PidsRequest{ID: id})
		if err == nil {
			_, err = s.client.Stats(ctx, &task.StatsRequest{ID: id})
		}
	case 16:
		_, err = s.client.State(ctx, &task.StateRequest{ID: id, ExecID: exec})
	case 17:
		_, err = s.client.CloseIO(ctx, &task.CloseIORequest{ID: id, ExecID: exec, Stdin: true})
		if err == nil {
			_, err = s.client.ResizePty(ctx, &task.ResizePtyRequest{ID: id, ExecID: exec, Width: 80, Height: 24})
		}
	}
	switch status.Code(err) {
	case codes.OK, codes.NotFound, codes.FailedPrecondition, codes.AlreadyExists:
	default:
		if code := status.Code(err); code == codes.Unknown && exec != "" && what >= 2 && what <= 4 {
			return // killed on its way: it says which step did not come to its end
		}
		s.t.Errorf("call %d of %s %s: %v", what, id, exec, err)
	}
}

// checkEvents compares the events of each process with what may follow what.
func (s *storm) checkEvents() {
	s.t.Helper()
	s.eventually("end of the events", func() bool {
		topics := s.events.topics()
		return count(topics, "create") == count(topics, "delete")
	})
	next := map[string]string{
		"": "create exec-added", "create": "start exit", "start": "exit", "exit": "delete", "delete": "create",
		"exec-added": "exec-started exit", "exec-started": "exit",
	}
	last := map[string]string{}
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	for _, e := range s.events.got {
		topic := strings.TrimPrefix(e.Topic, "/tasks/")
		v, err := typeurl.UnmarshalAny(e.Event)
		if err != nil {
			s.t.Fatal(err)
		}
		id := ""
		switch v := v.(type) {
		case *eventtypes.TaskExit:
			id = v.ID
		case *eventtypes.TaskExecAdded:
			id = v.ExecID
		case *eventtypes.TaskExecStarted:
			id = v.ExecID
		case *eventtypes.TaskPaused, *eventtypes.TaskResumed:
			continue
		case interface{ GetContainerID() string }:
			id = v.GetContainerID()
		}
		if !slices.Contains(strings.Fields(next[last[id]]), topic) {
			s.t.Errorf("%s of %s after %q", topic, id, last[id])
		}
		last[id] = topic
	}
	for id, topic := range last {
		if topic != "delete" && topic != "exec-added" && topic != "exit" {
			s.t.Errorf("%s ends with %s", id, topic)
		}
	}
}

func count(all []string, what string) (n int) {
	for _, s := range all {
		if s == what {
			n++
		}
	}
	return n
}
