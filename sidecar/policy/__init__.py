"""Pure decision machines. They take the time and the randomness as arguments."""
