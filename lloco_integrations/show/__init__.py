"""How each text stands in a prompt: as text, as vectors, or not at all."""
