"""Dead letters for people: list them, replay them."""
