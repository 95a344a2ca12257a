# make demo   a real three-node cluster, networked by kube-router, judged
# make test   unit, race, kernel and guest tests
# Each installs the Debian packages it lacks and ends with a verdict.

SHELL       := /bin/bash
LAB         := .lab/bin/lab
STAGE       := scripts/stage
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)
# grpc's request tracing brings html/template, with which the linker can leave
# out no exported method: 7 MB of program that would be in memory.
TAGS        := grpcnotrace

NODES  ?= 3
ROUTER ?= kube-router
NODE   ?= 1
CMD    ?= hostname

# What is released.
ARCH ?= amd64,arm64,arm

# How many random clusters the policies are judged in, and what they are drawn
# from; SEED=0 is a seed at random.
CASES ?= 10000
SEED  ?= 1

# What bench-services measures.
SIZES   ?= 600,1000,5000
PROXIES ?= ours,ipvs,iptables

export CGO_ENABLED := 0
export VERSION

# The packages that have tests of a kind, and a pattern of the names of these
# tests: the others of the packages are unit tests and run as such.
packages = $(sort $(patsubst %/,./%,$(dir $(shell git ls-files '*_$(1)_test.go'))))
tests = ^($(shell git ls-files '*_$(1)_test.go' | xargs sed -n 's/^func \(Test[A-Za-z0-9_]*\).*/\1/p' | sort -u | paste -sd '|'))$$

.PHONY: help build lab-tool manifests docs test unit exact kernel guest lint demo e2e e2e-firewall e2e-overlay e2e-dual e2e-manifests conformance conformance-netpol conformance-dual conformance-ipv6 bench-services bench-policy bench-routes image release reproducible lab-up lab-down lab-exec clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s'|'

build: ## bin/kube-router, statically linked
	@go build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS)' -o bin/kube-router ./cmd/kube-router

manifests: ## deploy/*.yaml and the kustomize bases, from the Helm chart
	@go run ./deploy/generate

docs: ## docs/flags.md, from the flags
	@go test ./internal/config -run '^TestFlagsAreDocumented$$' -update

lab-tool:
	@go build -C lab -o ../$(LAB) ./cmd/lab

demo: lab-tool ## three nodes, the hands-on exercise, seven criteria (cold 15 min: it compiles Kubernetes once)
	@$(LAB) demo --nodes $(NODES)

test: ## all tests that need no cluster
	@$(STAGE) begin test
	@$(STAGE) run 'packages that the tests need' scripts/packages iproute2 iputils-ping iptables nftables ipset ipvsadm conntrack kmod user-mode-linux gcc libc6-dev frr bird2
	@$(MAKE) --no-print-directory unit exact kernel guest
	@$(STAGE) end test

unit: # tests of the product and of the lab, with the race detector
	@$(STAGE) run 'unit tests with the race detector' env CGO_ENABLED=1 go test -race -p 4 ./...
	@$(STAGE) run 'unit tests of the lab' go test -C lab ./...
	@$(STAGE) run 'manifests by Helm and kustomize, rules by Prometheus' go test -C lab/check ./...

exact: ## policies against the API's documentation, in random clusters; CASES=10000 SEED=1 (0: at random)
	@$(STAGE) run 'policies in $(CASES) random clusters' go test -v -count=1 -timeout 60m -run '^TestRandomClusters$$' ./internal/policy -policy.cases=$(CASES) -policy.seed=$(SEED)

kernel: # drivers on this host's kernel, in network namespaces of their own
	@$(STAGE) run 'kernel tests in network namespaces' go test -tags kernel -run '$(call tests,kernel)' $(call packages,kernel)

guest: lab-tool # drivers on a kernel that has IPVS, IPIP and FoU
	@$(STAGE) run "modules of the guest's kernel" $(LAB) modules
	@$(STAGE) run 'kernel tests in a guest (IPVS)' go test -tags guest -p 2 -run '$(call tests,guest)' -exec '$(CURDIR)/$(LAB) guest-exec' $(call packages,guest)

lint: ## gofmt, go vet, staticcheck, and the rules of the house
	@$(STAGE) begin lint
	@$(STAGE) run gofmt scripts/gofmt
	@$(STAGE) run 'go vet' sh -c 'go vet ./... && go vet -tags kernel ./... && go vet -tags guest ./... && go vet -C lab ./... && go vet -C lab -tags e2e ./... && go vet -C lab -tags firewall ./e2e && go vet -C lab -tags overlay ./e2e && go vet -C lab -tags dual ./e2e && go vet -C lab -tags manifests ./e2e && go vet -C lab/addons ./coredns ./pause && go vet -C lab/check ./...'
	@$(STAGE) run staticcheck sh -c 'go run $(STATICCHECK) -tags kernel,guest ./... && cd lab && go run $(STATICCHECK) -tags e2e ./... && go run $(STATICCHECK) -tags firewall ./e2e && go run $(STATICCHECK) -tags overlay ./e2e && go run $(STATICCHECK) -tags dual ./e2e && go run $(STATICCHECK) -tags manifests ./e2e && cd check && go run $(STATICCHECK) ./...'
	@$(STAGE) run 'go.mod is tidy' go mod tidy -diff
	@$(STAGE) run 'manifests are what the chart says' go run ./deploy/generate -check
	@$(STAGE) run 'chart, bases and manifests are the same objects' go test -C lab/check -run '^TestAllRenderTheSame$$' ./...
	@$(STAGE) end lint

e2e: lab-tool ## cluster tests; uses the lab that is up, or a lab of its own
	@scripts/e2e $(LAB)

e2e-firewall: lab-tool ## the policy controller alone, beside another CNI plugin and kube-proxy
	@scripts/e2e-firewall $(LAB)

e2e-overlay: lab-tool ## overlays between two subnets with a router between
	@scripts/e2e-overlay $(LAB)

e2e-dual: lab-tool ## both families on one cluster, and IPv6 alone on another
	@scripts/e2e-dual $(LAB)

e2e-manifests: lab-tool ## every manifest that is shipped, each on a cluster of its own; about 11 min
	@scripts/e2e-manifests $(LAB)

conformance-netpol: lab-tool ## Kubernetes' own tests of NetworkPolicies, 50 specs
	@$(LAB) conformance --name netpol --focus '\[sig-network\] Netpol' --skip 'Slow|Serial' --expect 50

conformance-dual: lab-tool ## Kubernetes' own tests of two families, 23 specs, on a cluster that has both
	@$(LAB) conformance --name dual --families dual --focus 'IPv6DualStack' --expect 23

conformance-ipv6: lab-tool ## the 25 specs of conformance on a cluster that has IPv6 alone
	@$(LAB) conformance --name ipv6 --families ipv6

conformance: lab-tool ## Kubernetes' own tests of Services; FOCUS=, SKIP= select others
	@$(LAB) conformance $${FOCUS:+--focus "$$FOCUS"} $${SKIP:+--skip "$$SKIP"}

bench-services: lab-tool ## our Services beside kube-proxy's, judged; SIZES=600,1000 PROXIES=ours,ipvs
	@$(LAB) bench services --sizes $(SIZES) --proxies $(PROXIES)

bench-policy: build ## the policy controller on this host's kernel, in network namespaces, judged; about 2 min
	@scripts/packages iproute2 iptables ipset
	@go build -o .lab/bin/bench-policy ./bench/policy
	@.lab/bin/bench-policy

bench-routes: build ## BGP beside BIRD: routes into the kernel, a mesh and reflectors, judged; about 3 min
	@scripts/packages iproute2 iptables ipset bird2
	@go build -o .lab/bin/bench-routes ./bench/routes
	@.lab/bin/bench-routes

image: lab-tool ## the images, as archives in .lab/images
	@$(LAB) image

release: lab-tool ## programs and images for amd64, arm64 and arm, SBOMs and checksums, in dist; ARCH=amd64 for one
	@$(STAGE) begin release
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(LAB) release --arch $(ARCH) --version $(VERSION)
	@$(STAGE) end release

reproducible: ## the program is built twice, from two folders, and compared; about 4 min
	@$(STAGE) run 'building twice' go test -C lab -tags release -count 1 -timeout 30m -v -run '^TestReproducible$$' ./internal/release

lab-up: lab-tool ## a cluster; NODES=3 ROUTER=kube-router|none
	@$(LAB) up --nodes $(NODES) --router $(ROUTER)

lab-down: lab-tool ## ends the cluster and removes all of it
	@$(LAB) down

lab-exec: lab-tool ## NODE=2 CMD='ipvsadm -Ln'
	@$(LAB) exec --node $(NODE) '$(CMD)'

clean: lab-down ## removes what was built, too
	@rm -rf bin .lab
