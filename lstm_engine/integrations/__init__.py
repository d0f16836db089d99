"""The model on engines that people already run, each in a module of its own that needs that engine's package."""
