"""Figures: one file each. Every function writes PNG, PDF and the CSV of the numbers behind them."""
