package container

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a process is in its life: runtime-spec runtime.md#state,
// and containerd's paused.
type State uint8

const (
	Created State = iota
	Running
	Paused
	Stopped
	numStates
)

func (s State) String() string {
	return [numStates]string{"created", "running", "paused", "stopped"}[s]
}

// verb is what may be asked of a process.
type verb uint8

const (
	verbStart verb = iota
	verbExec
	verbPause
	verbResume
	verbKill
	verbUpdate
	verbDelete
	numVerbs
)

func (v verb) String() string {
	return [numVerbs]string{"start", "exec in", "pause", "resume", "kill", "update", "delete"}[v]
}

// Answers of the table.
var (
	yes  error
	no   = errdefs.ErrFailedPrecondition
	gone = errdefs.ErrNotFound
)

// table says what is allowed, and the kind of error where it is not: those
// that containerd's own runtime gives. Killing what has ended is NotFound,
// which containerd's clients take for success.
var table = [numVerbs][numStates]error{
	//            Created Running Paused Stopped
	verbStart:  {yes, no, no, no},
	verbExec:   {yes, yes, no, no},
	verbPause:  {no, yes, no, no},
	verbResume: {no, no, yes, no},
	verbKill:   {yes, yes, yes, gone},
	verbUpdate: {yes, yes, yes, no},
	verbDelete: {yes, no, no, yes},
}

// allow returns nil if v may be done in state s.
func allow(v verb, s State, id string) error {
	kind := table[v][s]
	if kind == nil {
		return nil
	}
	if errors.Is(kind, gone) {
		return fmt.Errorf("process %s: process already finished: %w", id, kind)
	}
	return fmt.Errorf("cannot %s a %s process: %s: %w", v, s, id, kind)
}
