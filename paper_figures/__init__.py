"""Figures and tables of the GeoLoRA paper (arXiv:2410.18720) done again, and the reference numbers of full runs."""

from .catalogue import FIGURES, TABLES
from .item import Item

__all__ = ["FIGURES", "TABLES", "Item"]
