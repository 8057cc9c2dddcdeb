"""What is trained on top of a base model."""
