"""What runs the decoder."""
