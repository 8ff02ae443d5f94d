"""What one part of a method, of its training or of its model is worth."""
