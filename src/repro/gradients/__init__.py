"""Gradients of single samples, the directions an optimiser makes of them, and how far each moves a validation loss."""
