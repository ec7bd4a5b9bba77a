# Two commands are all that a machine with a Rust toolchain needs; each first installs what is missing and says so.

CARGO ?= cargo
MAKEFLAGS += --no-print-directory
# Seconds for each subject, and which subjects; all if none is named.
SECONDS ?= 60
SUBJECTS ?=
# Rows of the table of `make bench`, by a part of their names; all if none is named. One only if it has spaces.
ROWS ?=
# Not empty: `make instructions` writes its baseline anew instead of comparing with it.
RENEW ?=
# Passed to `trunkline demo`, for example: make demo ARGS=--once. Only what it says goes to standard output.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help bench demo test fuzz instructions siege soak

help: ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## Start the gateway on the built-in simulator, place two calls, keep serving
	@tests/tools/setup.sh build
	@$(CARGO) build --package trunkline
	@$(CARGO) run --quiet -- demo $(ARGS)

test: ## Format, lints, documentation, all tests and the real SDKs, with a count at the end
	@tests/tools/setup.sh test
	@CARGO="$(CARGO)" python3 tests/tools/run_suites.py

fuzz: ## Fuzz every parser that meets the network, SECONDS=60 each; not part of the tests, which replay what it found
	@tests/tools/setup.sh build
	@tests/tools/fuzz.sh $(SECONDS) $(SUBJECTS)

siege: ## Attack a gateway on this machine for two minutes and say how late its calls' frames left
	@tests/tools/setup.sh build
	@$(CARGO) test --release --test siege -- --ignored --nocapture

soak: ## Let ten times 200 calls go on while their deployments fail in every way, in simulated time
	@tests/tools/setup.sh build
	@$(CARGO) test --release --test gateway calls_survive -- --include-ignored --nocapture --test-threads 1

bench: ## Measure what calls cost on this machine, beside a bare relay: CPU, memory, latency, set-ups, overload; not part of the tests
	@tests/tools/setup.sh build
	@$(CARGO) build --release --package trunkline
	@status=0; \
	$(if $(ROWS),,python3 tests/tools/count_instructions.py || status=1;) \
	$(CARGO) bench --package trunkline-loadtest --bench limit -- $(ROWS) || status=1; \
	exit $$status

instructions: ## Count the instructions of the frame path, and fail if they grew by more than 5 %; RENEW=1 accepts them
	@tests/tools/setup.sh build
	@python3 tests/tools/count_instructions.py $(if $(RENEW),--renew)
