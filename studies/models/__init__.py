"""Models: backbones, checkpoints, reducers at a budget, and their form of deployment. May import `cropr`, `baselines`
and `studies.data`'s types; knows no run."""
