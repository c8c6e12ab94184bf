"""Matrix regression: Figure 5, the losses of all methods, premature rank loss."""
