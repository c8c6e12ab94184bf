"""Train and fine-tune networks by all methods alike: data, training loops, methods, comparisons."""
