"""Cost of training steps: ``python -m benchmarks`` for paired ratios, ``pytest benchmarks`` for pytest-benchmark."""
