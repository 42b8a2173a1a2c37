"""Cards: the facts of public data sets, and how their files are found."""
