"""How another model comes onto this box: fetched, verified, tried and taken back. Nothing here judges a part."""
