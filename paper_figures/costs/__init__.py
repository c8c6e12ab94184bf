"""Work and memory of a step, counted: Table 1."""
