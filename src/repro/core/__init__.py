"""Settings, paths, artifacts, inventory, records, statistics: the ground floor, without torch."""
