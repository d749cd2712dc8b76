"""How well texts are found in the four roles, and what the language model makes of them."""
