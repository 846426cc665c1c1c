"""What one read says of a mixture."""
