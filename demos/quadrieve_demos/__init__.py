"""What one can touch: the four roles end to end, a chat with long memory, an agent, a library that answers."""
