"""One training loop for every task and method, and what it needs. May import `cropr`, `studies.config` and
`studies.data`; knows no reducer by name."""
