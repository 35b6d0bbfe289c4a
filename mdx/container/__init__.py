"""The confinement of a wrapped app. This version reaches level 1, pointed."""
