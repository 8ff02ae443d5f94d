#!/usr/bin/env bash
# The records that docs/speed.md is made from, anew: 25 minutes of an idle machine, from a clean commit. Each is kept as
# soon as it is there, and one that is there already is not measured again.
#   tests/benchmarks/keep.sh [PYTHON]    then: make docs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${1:-.venv/bin/python} kept=docs/records/speed

keep() { # NAME OPTIONS of bench
    local name=$1
    shift
    "$python" -m cli bench --out "$kept/$name" --rounds 8 "$@"
}

keep vit_small_224 --backbone vit_small_patch16_224 --budgets 0.75,0.5 --batch-sizes 1,16 --dtype float32,bfloat16
keep vit_small_224 --backbone vit_small_patch16_224 --budgets 0.5 --batch-sizes 1,16 --mode compiled
keep vit_base_224 --backbone vit_base_patch16_224 --budgets 0.75,0.5 --batch-sizes 1
keep eva_small_448 --backbone eva02_small_patch14_336 --img-sizes 448 --budgets 0.75,0.5 --batch-sizes 1
keep vit_small_512_dense --backbone vit_small_patch16_224 --task segmentation --img-sizes 512 --budgets 0.75,0.5 \
    --batch-sizes 1
"$python" tests/benchmarks/yardsticks.py --out $kept/yardsticks.json
"$python" tests/benchmarks/steps.py --out $kept/steps.json
"$python" tests/benchmarks/training_step.py --out $kept/training.json
"$python" tests/benchmarks/ranking.py --out $kept/ranking-random.json
