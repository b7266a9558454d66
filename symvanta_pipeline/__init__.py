"""Tells Vanta, every hour and for every connected customer, who all of that customer's Sym users are."""
