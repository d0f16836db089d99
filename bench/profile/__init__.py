"""What a cell's call is made of, counted instruction by instruction (see __main__.py)."""
