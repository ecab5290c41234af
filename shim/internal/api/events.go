package api

// The events of a task: containerd's events/task.proto, package
// containerd.events.

type TaskCreate struct {
	ContainerID string   `pb:"1"`
	Bundle      string   `pb:"2"`
	Rootfs      []*Mount `pb:"3"`
	IO          *TaskIO  `pb:"4"`
	Checkpoint  string   `pb:"5"`
	Pid         uint32   `pb:"6"`
}

type TaskIO struct {
	Stdin    string `pb:"1"`
	Stdout   string `pb:"2"`
	Stderr   string `pb:"3"`
	Terminal bool   `pb:"4"`
}

type TaskStart struct {
	ContainerID string `pb:"1"`
	Pid         uint32 `pb:"2"`
}

type TaskDelete struct {
	ContainerID string     `pb:"1"`
	Pid         uint32     `pb:"2"`
	ExitStatus  uint32     `pb:"3"`
	ExitedAt    *Timestamp `pb:"4"`
	ID          string     `pb:"5"`
}

type TaskExit struct {
	ContainerID string     `pb:"1"`
	ID          string     `pb:"2"`
	Pid         uint32     `pb:"3"`
	ExitStatus  uint32     `pb:"4"`
	ExitedAt    *Timestamp `pb:"5"`
}

type TaskOOM struct {
	ContainerID string `pb:"1"`
}

type TaskExecAdded struct {
	ContainerID string `pb:"1"`
	ExecID      string `pb:"2"`
}

type TaskExecStarted struct {
	ContainerID string `pb:"1"`
	ExecID      string `pb:"2"`
	Pid         uint32 `pb:"3"`
}

type TaskPaused struct {
	ContainerID string `pb:"1"`
}

type TaskResumed struct {
	ContainerID string `pb:"1"`
}

// Envelope is an event on its way: types/event.proto.
type Envelope struct {
	Timestamp *Timestamp `pb:"1"`
	Namespace string     `pb:"2"`
	Topic     string     `pb:"3"`
	Event     *Any       `pb:"4"`
}

// ForwardRequest is what containerd's service
// containerd.services.events.ttrpc.v1.Events takes.
type ForwardRequest struct {
	Envelope *Envelope `pb:"1"`
}
