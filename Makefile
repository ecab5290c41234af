# make            build the binaries into bin/
# make demo       a tour with containerd, on a bare Debian machine; needs root
# make test       lint, unit tests, integration tests; needs root for most of them
# make install    the binaries into PREFIX/bin; DESTDIR is honoured
# make vm-test    tests in a guest of its own, whose cgroups have every controller; MINI_VM_KERNEL=bookworm: on Linux 6.1
# make vm-shell   a shell in that guest
# make kubelet-test  a pod under a kubelet, which takes some minutes to build the first time; VM=yes: in the guest, with
#                 limits, by the kubelet's cgroupfs driver and then by its systemd driver
# make uninstall, lint, bench, fuzz, proto, clean

PREFIX  ?= /usr/local
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      ?= go

MODULE   := github.com/containerd-mini/mini
BINARIES := $(notdir $(patsubst %/main.go,%,$(wildcard cmd/*/main.go)))
SHIM     := containerd-shim-mini-v2
LDFLAGS  := -s -w -X $(MODULE)/shim/internal/bootstrap.Version=$(VERSION)
FUZZTIME ?= 1m

.PHONY: all build demo test install uninstall lint bench clean proto fuzz kubelet-test vm-test vm-shell

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(BINARIES))

demo:
	hack/demo

test:
	hack/test

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 0755 $(addprefix bin/,$(BINARIES)) '$(DESTDIR)$(PREFIX)/bin/'

uninstall:
	rm -f $(addprefix '$(DESTDIR)$(PREFIX)'/bin/,$(BINARIES))

lint:
	hack/lint

vm-test:
	hack/vm/test

kubelet-test:
ifeq ($(VM),)
	MINI_TEST_KUBELET=yes $(GO) test -count=1 -v -run TestKubelet ./integration
else
	MINI_VM_TEST_ENV=MINI_TEST_KUBELET=yes hack/vm/test -p integration '^TestKubelet'
	MINI_VM_TEST_ENV=MINI_TEST_KUBELET=yes hack/vm/test -s '^TestKubelet'
endif

vm-shell:
	hack/vm/run

bench:
	hack/bench/run $(BENCHFLAGS)

# Every fuzz target in turn, FUZZTIME each.
fuzz:
	hack/fuzz $(FUZZTIME)

proto:
	hack/proto

clean:
	rm -rf bin .cache
