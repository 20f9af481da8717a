"""Loading, heads, cached features and scoring."""
