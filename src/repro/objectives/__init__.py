"""Pure tensor functions, one per equation of the papers."""
