"""Adapters on pretrained networks: Figures 2 to 4, Tables 2 to 4."""
