"""The library on a CUDA device: ``pytest -m gpu`` where there is one, else all of it is skipped."""
