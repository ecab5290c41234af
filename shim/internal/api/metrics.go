package api

// Metrics are containerd's of a cgroup: cgroup2/stats/metrics.proto of
// github.com/containerd/cgroups. Numbers, times in microseconds, bytes.
type Metrics struct {
	Pids         *PidsStat      `pb:"1"`
	CPU          *CPUStat       `pb:"2"`
	Memory       *MemoryStat    `pb:"4"`
	Rdma         *RdmaStat      `pb:"5"`
	Io           *IOStat        `pb:"6"`
	Hugetlb      []*HugeTlbStat `pb:"7"`
	MemoryEvents *MemoryEvents  `pb:"8"`
	Network      []*NetworkStat `pb:"9"`
}

// PSIData is a part of Metrics.
type PSIData struct {
	Avg10  float64 `pb:"1"`
	Avg60  float64 `pb:"2"`
	Avg300 float64 `pb:"3"`
	Total  uint64  `pb:"4"`
}

// PSIStats is a part of Metrics.
type PSIStats struct {
	Some *PSIData `pb:"1"`
	Full *PSIData `pb:"2"`
}

// PidsStat is a part of Metrics.
type PidsStat struct {
	Current uint64 `pb:"1"`
	Limit   uint64 `pb:"2"`
}

// CPUStat is a part of Metrics.
type CPUStat struct {
	UsageUsec     uint64    `pb:"1"`
	UserUsec      uint64    `pb:"2"`
	SystemUsec    uint64    `pb:"3"`
	NrPeriods     uint64    `pb:"4"`
	NrThrottled   uint64    `pb:"5"`
	ThrottledUsec uint64    `pb:"6"`
	PSI           *PSIStats `pb:"7"`
	NrBursts      uint64    `pb:"8"`
	BurstUsec     uint64    `pb:"9"`
}

// MemoryStat is a part of Metrics.
type MemoryStat struct {
	Anon                  uint64    `pb:"1"`
	File                  uint64    `pb:"2"`
	KernelStack           uint64    `pb:"3"`
	Slab                  uint64    `pb:"4"`
	Sock                  uint64    `pb:"5"`
	Shmem                 uint64    `pb:"6"`
	FileMapped            uint64    `pb:"7"`
	FileDirty             uint64    `pb:"8"`
	FileWriteback         uint64    `pb:"9"`
	AnonThp               uint64    `pb:"10"`
	InactiveAnon          uint64    `pb:"11"`
	ActiveAnon            uint64    `pb:"12"`
	InactiveFile          uint64    `pb:"13"`
	ActiveFile            uint64    `pb:"14"`
	Unevictable           uint64    `pb:"15"`
	SlabReclaimable       uint64    `pb:"16"`
	SlabUnreclaimable     uint64    `pb:"17"`
	Pgfault               uint64    `pb:"18"`
	Pgmajfault            uint64    `pb:"19"`
	WorkingsetRefault     uint64    `pb:"20"`
	WorkingsetActivate    uint64    `pb:"21"`
	WorkingsetNodereclaim uint64    `pb:"22"`
	Pgrefill              uint64    `pb:"23"`
	Pgscan                uint64    `pb:"24"`
	Pgsteal               uint64    `pb:"25"`
	Pgactivate            uint64    `pb:"26"`
	Pgdeactivate          uint64    `pb:"27"`
	Pglazyfree            uint64    `pb:"28"`
	Pglazyfreed           uint64    `pb:"29"`
	ThpFaultAlloc         uint64    `pb:"30"`
	ThpCollapseAlloc      uint64    `pb:"31"`
	Usage                 uint64    `pb:"32"`
	UsageLimit            uint64    `pb:"33"`
	SwapUsage             uint64    `pb:"34"`
	SwapLimit             uint64    `pb:"35"`
	MaxUsage              uint64    `pb:"36"`
	SwapMaxUsage          uint64    `pb:"37"`
	PSI                   *PSIStats `pb:"38"`
}

// MemoryEvents is a part of Metrics.
type MemoryEvents struct {
	Low          uint64 `pb:"1"`
	High         uint64 `pb:"2"`
	Max          uint64 `pb:"3"`
	Oom          uint64 `pb:"4"`
	OomKill      uint64 `pb:"5"`
	OomGroupKill uint64 `pb:"6"`
}

// RdmaStat is a part of Metrics.
type RdmaStat struct {
	Current []*RdmaEntry `pb:"1"`
	Limit   []*RdmaEntry `pb:"2"`
}

// RdmaEntry is a part of Metrics.
type RdmaEntry struct {
	Device     string `pb:"1"`
	HcaHandles uint32 `pb:"2"`
	HcaObjects uint32 `pb:"3"`
}

// IOStat is a part of Metrics.
type IOStat struct {
	Usage []*IOEntry `pb:"1"`
	PSI   *PSIStats  `pb:"2"`
}

// IOEntry is a part of Metrics.
type IOEntry struct {
	Major  uint64 `pb:"1"`
	Minor  uint64 `pb:"2"`
	Rbytes uint64 `pb:"3"`
	Wbytes uint64 `pb:"4"`
	Rios   uint64 `pb:"5"`
	Wios   uint64 `pb:"6"`
}

// HugeTlbStat is a part of Metrics.
type HugeTlbStat struct {
	Current  uint64 `pb:"1"`
	Max      uint64 `pb:"2"`
	Pagesize string `pb:"3"`
	Failcnt  uint64 `pb:"4"`
}

// NetworkStat is a part of Metrics.
type NetworkStat struct {
	Name      string `pb:"1"`
	RxBytes   uint64 `pb:"2"`
	RxPackets uint64 `pb:"3"`
	RxErrors  uint64 `pb:"4"`
	RxDropped uint64 `pb:"5"`
	TxBytes   uint64 `pb:"6"`
	TxPackets uint64 `pb:"7"`
	TxErrors  uint64 `pb:"8"`
	TxDropped uint64 `pb:"9"`
}
