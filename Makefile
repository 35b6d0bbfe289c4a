# `make demo` and `make test` are all that a newcomer needs; each sets up first.
.PHONY: help set-up demo test check format soak bench schema clean
python := .venv/bin/python
# Most tests wait for processes and leases rather than for the processor.
tests := $(python) -m pytest --quiet --numprocesses=4 --dist=loadfile

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

set-up: ## .venv and the programs that the tests drive
	@scripts/set-up

demo: set-up ## the main job, told as a story
	@$(python) scripts/demo.py

test: set-up ## all tests
	$(tests)

check: set-up ## format, lint, types, import contracts, then all tests
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy
	.venv/bin/lint-imports
	$(tests)

format: set-up ## let ruff format and mend what it can
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

soak: set-up ## the long forms of tests: many kills, much fuzzing
	MDX_SOAK=1 $(tests)

bench: ## all benchmarks, beside their peers; NAMES="run.start crypto" for some
	@scripts/set-up --bench
	$(python) -m benchmarks $(NAMES)

schema: set-up ## write docs/mdx.schema.json anew
	$(python) -m mdx.policy > docs/mdx.schema.json

clean: ## remove what set-up and the tests made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
