.DEFAULT_GOAL := help
.PHONY: help build image test bench demo lint generate control-plane cluster cluster-down clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

build: ## the release binary, target/release/oauthconsumer-operator
	cargo build --locked --release

image: ## the operator's image, target/image/oauthconsumer-operator.tar; no docker needed
	dev/image.sh

test: ## every test, with real servers and, for root, real pods; ARGS="--test it sweep -- --nocapture" goes to cargo test
	dev/test.sh $(ARGS)

bench: ## speed, revocation, uniform refusals; prints tables; ARGS="--bench signin" runs one of them
	dev/bench.sh $(ARGS)

demo: ## the whole story on a throw-away control plane; KEEP=1 keeps it running, VERBOSE=1 shows every command
	@KEEP="$(KEEP)" VERBOSE="$(VERBOSE)" dev/demo.sh

lint: ## formatting, clippy, licences and advisories, the chart, the words of the documentation
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	dev/deny.sh
	dev/chart.sh
	dev/prose.sh

# Through a second file, so that a failed run leaves the first one whole.
generate: ## the files made from the code: crds/, the chart's copy, and three pages of docs/reference/
	mkdir -p crds target
	cargo run --locked --quiet --bin oauthconsumer-operator -- crd > target/oauthconsumers.yaml
	mv target/oauthconsumers.yaml crds/oauthconsumers.yaml
	cp crds/oauthconsumers.yaml charts/oauthconsumer-operator/files/
	GENERATE=1 cargo test --locked --quiet --test it -- reference::

control-plane: ## a shell with a control plane of its own, kubectl pointing at it
	dev/with-control-plane.sh bash

cluster: ## a Kubernetes with one node and real pods, until cluster-down; needs root
	dev/cluster.sh up

cluster-down: ## ends it
	dev/cluster.sh down

clean: ## removes what was compiled
	cargo clean
