package integration

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/typeurl/v2"
)

// The order of events is a contract, runtime/v2/README.md of containerd: whoever follows them must be
// able to say at any moment what runs.
func TestEventOrder(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		d := shared(t, version)
		ctx := d.Context()
		stream, errs := d.Client().Subscribe(ctx, `namespace==`+d.Namespace+`,topic~="^/tasks/"`)

		task := start(t, d, "box", sleeper())
		p := execute(t, d, task, "long", cio.NullIO, "sleep", "1000")
		must(t, p.Start(ctx))
		must(t, task.Pause(ctx))
		must(t, task.Resume(ctx))
		must(t, task.Kill(ctx, syscall.SIGKILL))
		if got := end(t, d, task); got != 137 {
			t.Errorf("status %d", got)
		}

		want := []string{
			"/tasks/create box", "/tasks/start box", "/tasks/exec-added long", "/tasks/exec-started long",
			"/tasks/paused box", "/tasks/resumed box", "/tasks/exit long 137", "/tasks/exit box 137", "/tasks/delete box",
		}
		var got []string
		for len(got) < len(want) {
			select {
			case e := <-stream:
				got = append(got, describe(t, e))
			case err := <-errs:
				t.Fatal(err)
			case <-time.After(time.Minute):
				t.Fatalf("no further event after\n\t%s", strings.Join(got, "\n\t"))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("events:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	})
}

func describe(t *testing.T, e *events.Envelope) string {
	t.Helper()
	v, err := typeurl.UnmarshalAny(e.Event)
	must(t, err)
	switch v := v.(type) {
	case *apievents.TaskExecAdded:
		return e.Topic + " " + v.ExecID
	case *apievents.TaskExecStarted:
		return e.Topic + " " + v.ExecID
	case *apievents.TaskExit:
		if v.ExitStatus == 137 {
			return e.Topic + " " + v.ID + " 137"
		}
		return e.Topic + " " + v.ID
	case interface{ GetContainerID() string }:
		return e.Topic + " " + v.GetContainerID()
	}
	return e.Topic
}
