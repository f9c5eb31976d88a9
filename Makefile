# Two commands do all the set-up: `make demo` and `make test`.
#
# RocksDB takes some ten minutes to compile, so everything here builds the same selection of packages with
# the same profile: another selection would mean other features, and RocksDB once more.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
APT := $(if $(filter 0,$(shell id -u)),apt-get,sudo apt-get)

.PHONY: help demo test lint build tools airline agentdojo figures peers fuzz fuzz-tool fuzz-corpus clean-demo

help:
	@echo "make demo     the main job, end to end, in ./sift-demo"
	@echo "make test     every test and lint"
	@echo "make airline  100 recorded conversations through kernel, log and verifier (RECORDINGS=file)"
	@echo "make agentdojo  AgentDojo's attacks on hijacked agents, with and without the kernel (AGENTDOJO='--suite banking')"
	@echo "make figures  the table of benchmarks"
	@echo "make peers    money over the cap and cost of a call, beside LiteLLM and agent-governance-toolkit"
	@echo "make fuzz     every parser, each for SECONDS=60 (the verifier: FUZZ_DIR=verifier-cli/fuzz)"
	@echo "make fuzz-corpus  keeps the smallest set of what fuzzing found (FUZZ_DIR likewise)"

demo: build
	$(TARGET)/debug/sift-demo

test: build lint
	$(CARGO) test --workspace --no-fail-fast

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

build: tools
	$(CARGO) build --workspace

RECORDINGS ?= ../shared/data/tau-airline-gpt-4o.json
airline: build
	$(TARGET)/debug/sift-demo airline $(RECORDINGS)

# See benches/agentdojo/README.md. Its packages are installed once, outside of the source; the run itself needs no network.
AGENTDOJO ?=
AGENTDOJO_VENV := $(HOME)/.cache/sift/agentdojo-0.1.35
agentdojo: build
	@test -e $(AGENTDOJO_VENV)/installed || { python3 -m venv $(AGENTDOJO_VENV) && \
	  $(AGENTDOJO_VENV)/bin/pip install --quiet -r benches/agentdojo/requirements.txt && touch $(AGENTDOJO_VENV)/installed; }
	cd benches/agentdojo && $(AGENTDOJO_VENV)/bin/python -B -m sift_agentdojo --bin $(abspath $(TARGET)/debug) $(AGENTDOJO)

figures: build
	$(TARGET)/debug/sift-figures

# See benches/peers/README.md. Fetches Python packages the first time.
peers: build
	$(TARGET)/debug/sift-figures --only overshoot --only peers

# See spec/fuzz/README.md and verifier-cli/fuzz/README.md. The stable compiler will do: what finds inputs is the coverage,
# not a sanitizer.
FUZZ_DIR ?= spec/fuzz
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard $(FUZZ_DIR)/fuzz_targets/*.rs)))
SECONDS ?= 60
FUZZ := cargo fuzz run --fuzz-dir $(FUZZ_DIR) --sanitizer none
FUZZ_LIMITS := -max_len=4096 -timeout=5 -rss_limit_mb=512 -dict=$(CURDIR)/spec/fuzz/dictionary.txt
FUZZ_FOUND := $(CURDIR)/$(FUZZ_DIR)/found
FUZZ_CORPUS := $(CURDIR)/$(FUZZ_DIR)/corpus

fuzz-tool: tools
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --version 0.13.1 --locked

fuzz: fuzz-tool
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p $(FUZZ_FOUND)/$$target $(FUZZ_CORPUS)/$$target; \
	  $(FUZZ) $$target $(FUZZ_FOUND)/$$target $(FUZZ_CORPUS)/$$target $(CURDIR)/spec/vectors -- \
	    $(FUZZ_LIMITS) -max_total_time=$(SECONDS) -print_final_stats=1 || exit 1; \
	done

# Keeps, of corpus and findings, the smallest set that reaches every branch that the whole reaches and no vector does.
fuzz-corpus: fuzz-tool
	@for target in $(FUZZ_TARGETS); do \
	  merged=$(FUZZ_FOUND)/.merged; rm -rf $$merged; \
	  mkdir -p $$merged $(FUZZ_FOUND)/$$target $(FUZZ_CORPUS)/$$target; \
	  cp -r spec/vectors $$merged/vectors; \
	  $(FUZZ) $$target $$merged $(FUZZ_CORPUS)/$$target $(FUZZ_FOUND)/$$target -- \
	    $(FUZZ_LIMITS) -set_cover_merge=1 -use_counters=0 || exit 1; \
	  rm -rf $$merged/vectors && rm -rf $(FUZZ_CORPUS)/$$target && mv $$merged $(FUZZ_CORPUS)/$$target || exit 1; \
	done

clean-demo:
	rm -rf sift-demo

# RocksDB's bindings are generated with libclang, and RocksDB is C++. Tests make system calls fail with strace.
tools:
	@if [ "$$(uname)" = Linux ] && ! command -v strace >/dev/null && command -v apt-get >/dev/null; then \
	  $(APT) update && $(APT) install -y strace; fi
	@command -v c++ >/dev/null || { $(APT) update && $(APT) install -y g++; }
	@if [ -z "$$LIBCLANG_PATH" ] && [ "$$(uname)" = Linux ] \
	    && ! find /usr/lib /usr/lib64 /usr/local/lib \( -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' \) \
	         2>/dev/null | grep -q .; then \
	  if command -v apt-get >/dev/null; then $(APT) update && $(APT) install -y libclang-dev; \
	  else echo "Install libclang (Fedora: clang-devel, Arch: clang), then run this again."; exit 1; fi; fi
