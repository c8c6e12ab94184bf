"""What the theory of low-rank integrators promises, checked with explicit constants."""
