# Two commands on a fresh machine: `make demo` and `make test`. Both first make .venv in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
U2AD := $(BIN)/u2ad
READY := $(VENV)/.ready

# The bundled phantom, or your own: make demo INPUT=neck.nii.gz [CORD=neck_seg.nii.gz] [DISCS=neck_discs.nii.gz]
SAMPLE := Resources/Sample
INPUT ?= $(SAMPLE)/sample_T2w.nii.gz
CORD ?=
DISCS ?=
OUT ?= demo-result

.PHONY: demo test bench lint sample screenshots model region clean help

help:
	@echo "make demo    analyse the bundled sample (or INPUT=…; CORD=… and DISCS=… where you have them)"
	@echo "make test    lint and run the tests"
	@echo "make bench   measure speed, as ratios within one run"
	@echo "make sample  simulate the bundled sample again (the same bytes)"
	@echo "make screenshots  draw the pictures of the panel again"
	@echo "make model   train the bundled model again (needs the real images; about an hour on two cores)"
	@echo "make region  train the model that finds cord and levels again (the same)"

# torch first and alone: a range would take a CUDA build of several gigabytes here.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e '.[test]'
	@touch $@

demo: $(READY)
	$(U2AD) analyse $(INPUT) $(if $(CORD),--cord $(CORD)) $(if $(DISCS),--discs $(DISCS)) --no-labels-beside --out $(OUT) --overwrite

test: $(READY) lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check U2ADLib U2AD Testing
	$(BIN)/ruff format --check U2ADLib U2AD Testing

bench: $(READY)
	$(BIN)/python Testing/bench.py

sample: $(READY)
	$(U2AD) simulate --seed 7 --name sample --lesion C4-5:0.25:4x12x8 --lesion C6-7:0.15:4x8x8 --bulge C5-6:1.2 \
	  --out $(SAMPLE) --overwrite

screenshots: $(READY)
	$(BIN)/python Testing/screenshots.py

# Trained on two people and phantoms; the epoch is chosen on a third person. The paths are relative to this folder.
DATA ?= ../shared/data
MODEL ?= runs/u2ad-t2w
model: $(READY)
	$(U2AD) pretrain $(DATA)/errsm --people sub-errsm11 sub-errsm21 \
	  --validation $(DATA)/sct_testing_data/t2.nii.gz --phantoms 300 --epochs 100 --out $(MODEL)

# Finds cord and levels. One person is held out; the state is kept, so a stopped training goes on.
REGION ?= runs/region-first
region: $(READY)
	$(U2AD) train-region $(DATA)/errsm --held-out sub-errsm24 --phantoms 500 --steps 3000 --out $(REGION)
	$(BIN)/python -m U2ADLib.evaluation.regions $(DATA)/errsm --people sub-errsm24 --phantoms 40 --model $(REGION) --into-card

clean:
	rm -rf $(VENV) demo-result build *.egg-info
