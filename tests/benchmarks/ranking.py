"""How many kept patches of a bfloat16 model are not those of its float32 model, with scores that are not rounded and
with scores in bfloat16 as they were, and what that costs.

    python tests/benchmarks/ranking.py [--models DIR] [--out FILE.json]

DIR: runs of a study, of which the deployed models are taken, on test items of scenes; without it ViT-S/16 with random
weights on random images. In the first place that a model prunes (or merges), and over all of its places.
"""
