"""One script per figure or table of the GeoLoRA paper (arXiv:2410.18720), and the paper's reference numbers."""
