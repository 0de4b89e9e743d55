"""Side-by-side measurements; ``python -m benchmarks.run`` is the entry."""
