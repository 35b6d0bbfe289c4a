"""Figures, side by side with their peers in one run: `python -m benchmarks [NAME …]`."""
