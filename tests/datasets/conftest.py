"""Found by pytest, so that tests below this folder can import its modules."""
