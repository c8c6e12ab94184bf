"""Flows on the manifold of rank-1 matrices: Figure 1."""
