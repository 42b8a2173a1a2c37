"""Cards: what is known of a public data set, and how its files are found."""
