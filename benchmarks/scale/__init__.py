"""What a chunk costs when there are many lanes and a long history, and what follows for capacity."""
