package integration

import (
	"testing"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

func TestMain(m *testing.M) { daemon.Main(m) }
