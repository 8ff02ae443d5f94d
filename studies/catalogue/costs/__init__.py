"""What models cost, and what they do as they come: nothing is trained for it."""
