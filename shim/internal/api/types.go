package api

import "time"

// Any is a message, or something else, with the name of its type:
// google.protobuf.Any.
type Any struct {
	TypeURL string `pb:"1"`
	Value   []byte `pb:"2"`
}

// GetValue is a's value, nil without an a.
func (a *Any) GetValue() []byte {
	if a == nil {
		return nil
	}
	return a.Value
}

// Empty is google.protobuf.Empty.
type Empty struct{}

// Timestamp is google.protobuf.Timestamp: since the epoch.
type Timestamp struct {
	Seconds int64 `pb:"1"`
	Nanos   int32 `pb:"2"`
}

// Time makes a Timestamp of t.
func Time(t time.Time) *Timestamp {
	return &Timestamp{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())}
}

// Mount is one of a rootfs: types/mount.proto.
type Mount struct {
	Type    string   `pb:"1"`
	Source  string   `pb:"2"`
	Target  string   `pb:"3"`
	Options []string `pb:"4"`
}

// Status of a process: types/task/task.proto.
type Status int32

// What State says.
const (
	Created Status = 1
	Running Status = 2
	Stopped Status = 3
	Paused  Status = 4
)

// ProcessInfo is one answer of Pids: types/task/task.proto.
type ProcessInfo struct {
	Pid  uint32 `pb:"1"`
	Info *Any   `pb:"2"`
}

// RuntimeInfo is the answer of -info: types/introspection.proto.
type RuntimeInfo struct {
	Name        string            `pb:"1"`
	Version     *RuntimeVersion   `pb:"2"`
	Options     *Any              `pb:"3"`
	Features    *Any              `pb:"4"`
	Annotations map[string]string `pb:"5"`
}

type RuntimeVersion struct {
	Version  string `pb:"1"`
	Revision string `pb:"2"`
}

// MiniOptions are mini's own: proto/options.
type MiniOptions struct {
	MissingControllers string `pb:"1"`
	ShimGroup          string `pb:"2"`
}

// RuntimeOptions are what containerd hands to any runtime:
// types/runtimeoptions/v1.
type RuntimeOptions struct {
	TypeURL    string `pb:"1"`
	ConfigPath string `pb:"2"`
	ConfigBody []byte `pb:"3"`
}

// RuncOptions are runc's: types/runc/options.
type RuncOptions struct {
	NoPivotRoot    bool   `pb:"1"`
	NoNewKeyring   bool   `pb:"2"`
	ShimCgroup     string `pb:"3"`
	IoUID          uint32 `pb:"4"`
	IoGID          uint32 `pb:"5"`
	BinaryName     string `pb:"6"`
	Root           string `pb:"7"`
	SystemdCgroup  bool   `pb:"9"`
	CriuImagePath  string `pb:"10"`
	CriuWorkPath   string `pb:"11"`
	TaskAPIAddress string `pb:"12"`
	TaskAPIVersion uint32 `pb:"13"`
}

// ProcessDetails of runc's shim, in ProcessInfo: types/runc/options.
type ProcessDetails struct {
	ExecID string `pb:"1"`
}
