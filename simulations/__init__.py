"""Engines that simulate a federation: Grids that drive the unmodified ClientApp."""
